//! The program loader: from an executable file to a new address space and the first registers.
//!
//! [`load`] reads the file (and the interpreter of a script, and the dynamic linker), maps its segments into a new [`Mm`], lays out the
//! initial stack as Linux does, and says where to begin. The caller (`execve`) swaps the address space in.

mod elf;
mod image;
mod script;
mod stack;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::Registers;

use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down};
use crate::fs::File;
use crate::mm::{MapRequest, Mm, Placement, Randomisation, SegmentFlags, Sink};
use crate::step::BoxFuture;
use crate::syscalls::persona;
use crate::task::{Creds, Cx};
use elf::{HEADER_LEN, Header, Program};
use image::{Loaded, Where};
use script::LOOK;

/// Most rewrites by `#!` lines.
const SCRIPTS_MAX: usize = 5;

/// The stack's first size beyond what is on it.
const STACK_START: u64 = 128 << 10;

/// Opens a file for execution by its path (permission to execute is checked there).
pub type OpenExec<'a> = dyn Fn(Vec<u8>) -> BoxFuture<'a, Result<Arc<File>, Errno>> + Send + Sync + 'a;

/// What `execve` asks for.
pub struct Request<'a> {
    /// The executable, opened.
    pub file: Arc<File>,
    /// Its path as given by the caller (`AT_EXECFN`; the script's name for an interpreter). `/dev/fd/N` for `execveat` with an
    /// empty path.
    pub path: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// To open interpreters.
    pub open: &'a OpenExec<'a>,
    /// `RLIMIT_STACK`, in bytes.
    pub stack_limit: u64,
    /// The new credentials, from the file that is run in the end (setuid bits; scripts' are ignored), and whether `AT_SECURE` is set.
    pub credentials: &'a (dyn Fn(&File) -> (Arc<Creds>, bool) + Send + Sync),
}

/// A program ready to run.
pub struct NewImage {
    pub mm: Arc<Mm>,
    pub registers: Registers,
    /// The task's new name: the last component of the path, at most 15 bytes.
    pub name: Vec<u8>,
    /// The file that is run (`/proc/PID/exe`).
    pub file: Arc<File>,
    pub creds: Arc<Creds>,
}

/// Makes a new image.
///
/// # Errors
/// `ENOEXEC`, `E2BIG`, `ELOOP`, `ENOMEM`, `EACCES`, `ELIBBAD`, and those of opening and reading.
pub async fn load(cx: &Cx, request: Request<'_>) -> Result<NewImage, Errno> {
    let Request { file, path, argv, envp, open, stack_limit, credentials } = request;
    let mut run = Run { file, path: path.clone(), argv };
    stack::check_size(&run.argv, &envp, &path, stack_limit)?;
    let mut rewrites = 0;
    let start = loop {
        let start = read_at(&run.file, 0, LOOK).await?;
        if !start.starts_with(b"#!") {
            break start;
        }
        rewrites += 1;
        if rewrites > SCRIPTS_MAX {
            return Err(Errno::ELOOP);
        }
        run = run.interpret(&start, open).await?;
        stack::check_size(&run.argv, &envp, &path, stack_limit)?;
    };
    let header = Header::parse(&start).ok_or(Errno::ENOEXEC)?;
    let program = read_program(&run.file, header).await?;
    let interpreter = read_interpreter(&run.file, &program, open).await?;

    let (creds, secure) = credentials(&run.file);
    // Not for those who would be told where a privileged program lies (PER_CLEAR_ON_SETID).
    let fixed = cx.task.group.personality.load(Ordering::Relaxed) & persona::ADDR_NO_RANDOMIZE != 0 && !secure;
    let randomisation = if fixed { Randomisation::Off } else { Randomisation::On };
    let kernel = cx.kernel();
    let mm = Mm::with_randomisation(kernel.platform.clone(), cx.mm.memory().clone(), randomisation)?;
    mm.set_places(|places| places.set_stack_limit(stack_limit));
    let main = image::map(&mm, &run.file, &program, Where::Program)?;
    let linker = match &interpreter {
        Some((file, program)) => Some(image::map(&mm, file, program, Where::Mappings)?),
        None => None,
    };
    image::set_break(&mm, &main, randomisation)?;
    let aux = auxiliary_vector(cx, &main, linker.as_ref(), &creds, secure);
    let sp = make_stack(&mm, &run, &envp, &path, &aux, program.stack_executable, stack_limit)?;
    run.file.begin_running();
    let entry = linker.as_ref().map_or(main.entry, |linker| linker.entry);
    Ok(NewImage { mm, registers: Registers::at_entry(entry, sp), name: task_name(&path), file: run.file, creds })
}

/// Whether a whole file in memory is a program, as far as its headers go. (A door for the fuzz target `elf`.)
pub fn is_program(file: &[u8]) -> bool {
    let Some(header) = Header::parse(file) else { return false };
    let table = usize::try_from(header.phoff).ok().and_then(|at| file.get(at..)).unwrap_or_default();
    let table = table.get(..header.program_headers_len()).unwrap_or_default();
    Program::parse(header, table).is_ok_and(|program| program.span().is_ok())
}

/// What is to be run, as scripts rewrite it.
struct Run {
    file: Arc<File>,
    path: Vec<u8>,
    argv: Vec<Vec<u8>>,
}

impl Run {
    /// Takes the interpreter of a script whose first bytes are `start` in its place.
    async fn interpret(self, start: &[u8], open: &OpenExec<'_>) -> Result<Run, Errno> {
        let script = script::parse(start).ok_or(Errno::ENOEXEC)?;
        let file = open(script.interpreter.clone()).await?;
        let mut argv = vec![script.interpreter.clone()];
        argv.extend(script.argument);
        argv.push(self.path);
        argv.extend(self.argv.into_iter().skip(1));
        Ok(Run { file, path: script.interpreter, argv })
    }
}

fn task_name(path: &[u8]) -> Vec<u8> {
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    last.get(..last.len().min(15)).unwrap_or_default().to_vec()
}

/// A sink of limited size in our own memory.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl Sink for Bounded {
    fn remaining(&self) -> usize {
        self.max - self.bytes.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.remaining());
        self.bytes.extend_from_slice(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// Reads up to `len` bytes.
async fn read_at(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = Bounded { bytes: Vec::with_capacity(len), max: len };
    while sink.remaining() > 0 {
        let at = offset.checked_add(sink.bytes.len() as u64).ok_or(Errno::ENOEXEC)?;
        match file.ops.read(file, at, &mut sink).await? {
            0 => break,
            _ => continue,
        }
    }
    Ok(sink.bytes)
}

async fn read_program(file: &File, header: Header) -> Result<Program, Errno> {
    let len = header.program_headers_len();
    let table = read_at(file, header.phoff, len).await?;
    if table.len() < len {
        return Err(Errno::ENOEXEC);
    }
    Program::parse(header, &table)
}

/// Opens and reads the dynamic linker that the program names.
async fn read_interpreter(file: &File, program: &Program, open: &OpenExec<'_>) -> Result<Option<(Arc<File>, Program)>, Errno> {
    let Some(range) = &program.interpreter else { return Ok(None) };
    let name = read_at(file, range.start, (range.end - range.start) as usize).await?;
    let name = match name.split_last() {
        Some((0, name)) if name.len() as u64 + 1 == range.end - range.start => name.split(|&byte| byte == 0).next(),
        _ => None,
    };
    let file = open(name.ok_or(Errno::ENOEXEC)?.to_vec()).await?;
    let start = read_at(&file, 0, HEADER_LEN).await?;
    let header = Header::parse(&start).ok_or(Errno::ELIBBAD)?;
    let program = read_program(&file, header).await.map_err(|errno| match errno {
        Errno::ENOEXEC => Errno::ELIBBAD,
        other => other,
    })?;
    Ok(Some((file, program)))
}

fn auxiliary_vector(cx: &Cx, main: &Loaded, linker: Option<&Loaded>, creds: &Creds, secure: bool) -> Vec<(u64, u64)> {
    use crate::abi::auxvec::*;
    /// FSGSBASE: the guest is not told, so that it changes its bases by `arch_prctl`, which the sentry sees.
    const HWCAP2_FSGSBASE: u64 = 2;
    let (hwcap, hwcap2) = hostcall::auxv::hardware_capabilities();
    let mut aux: Vec<(u64, u64)> = Vec::new();
    if let Some(vdso) = &cx.kernel().platform.layout().vdso {
        aux.push((AT_SYSINFO_EHDR.into(), vdso.start));
    }
    let known = [
        (AT_HWCAP, hwcap),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, 100),
        (AT_PHDR, main.phdr),
        (AT_PHENT, 56),
        (AT_PHNUM, main.phnum),
        (AT_BASE, linker.map_or(0, |linker| linker.base)),
        (AT_FLAGS, 0),
        (AT_ENTRY, main.entry),
        (AT_UID, creds.uid.into()),
        (AT_EUID, creds.euid.into()),
        (AT_GID, creds.gid.into()),
        (AT_EGID, creds.egid.into()),
        (AT_SECURE, secure.into()),
        (AT_HWCAP2, hwcap2 & !HWCAP2_FSGSBASE),
        (AT_MINSIGSTKSZ, hostcall::auxv::min_signal_stack()),
    ];
    aux.extend(known.map(|(kind, value)| (kind.into(), value)));
    aux
}

/// Maps and fills the stack. Returns the stack pointer.
fn make_stack(
    mm: &Mm,
    run: &Run,
    envp: &[Vec<u8>],
    path: &[u8],
    aux: &[(u64, u64)],
    executable: bool,
    stack_limit: u64,
) -> Result<u64, Errno> {
    let mut random = [0; 16];
    hostcall::random::fill(&mut random)?;
    let top = mm.places().stack_top;
    let stack = stack::build(top, &stack::Contents { argv: &run.argv, envp, path, random, aux });
    let start = page_down(stack.sp).saturating_sub(STACK_START.min(page_down(stack_limit)));
    let mut prot = platform::Prot::READ | platform::Prot::WRITE;
    prot.set(platform::Prot::EXEC, executable);
    let mut request = MapRequest::anonymous(Placement::FixedNoReplace(start), top - start, prot);
    request.flags |= SegmentFlags::GROWS_DOWN | SegmentFlags::STACK;
    mm.map(&request)?;
    mm.write(stack.sp, &stack.bytes)?;
    mm.set_places(|places| {
        places.stack_start = stack.sp;
        places.args = stack.args;
        places.env = stack.env;
        places.auxv = stack.auxv;
    });
    Ok(stack.sp)
}
