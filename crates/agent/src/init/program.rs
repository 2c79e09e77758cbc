//! The program: found before the container is said to be made, executed when it is started.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;

use agent_api::program::{Search, candidates, cannot_run};
use agent_api::{Code, Process, Status};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, stat};
use rustix::io::Errno;

use crate::sys;

/// A program that was found.
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Looks the program up as its user would.
///
/// # Errors
/// `NotFound`, `PermissionDenied` and `InvalidArgument`, in the sentry's words.
pub fn find(process: &Process) -> Result<Program, Status> {
    let program = process.args.first().ok_or_else(|| Status::new(Code::InvalidArgument, "process.args is missing"))?;
    let mut search = Search::new(program);
    for path in candidates(program, &process.env) {
        match runnable(&path) {
            Ok(()) => {
                let path = text(path)?;
                let list = |list: &[Vec<u8>]| list.iter().cloned().map(text).collect::<Result<Vec<_>, _>>();
                return Ok(Program { path, args: list(&process.args)?, env: list(&process.env)? });
            }
            Err(errno) => search.failed(errno.into())?,
        }
    }
    Err(search.end())
}

impl Program {
    /// Executes it; returns why it could not.
    pub fn execute(&self, process: &Process) -> Status {
        let errno = sys::execute(&self.path, &self.args, &self.env);
        cannot_run(process.args.first().map_or(&[], Vec::as_slice), errno.into())
    }
}

fn text(bytes: Vec<u8>) -> Result<CString, Status> {
    CString::new(bytes).map_err(|_| Status::new(Code::InvalidArgument, "an argument or variable has a zero byte in it"))
}

/// Whether a file may be executed and looks as if it could be: what execve(2) would say first.
fn runnable(path: &[u8]) -> Result<(), Errno> {
    if FileType::from_raw_mode(stat(path)?.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    // A program may be executable and not readable: then the start will tell.
    let Ok(file) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) else {
        return Ok(());
    };
    let mut start = Vec::new();
    let _ = File::from(file).take(256).read_to_end(&mut start);
    match interpreter(&start) {
        Some(interpreter) => stat(interpreter).map(drop),
        None if start.starts_with(b"\x7fELF") => Ok(()),
        None => Err(Errno::NOEXEC),
    }
}

/// The interpreter of a script.
fn interpreter(start: &[u8]) -> Option<&[u8]> {
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    line.split(|&byte| byte == b' ' || byte == b'\t').find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str]) -> Process {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        Process { args: args.iter().map(bytes).collect(), env: vec![b"PATH=/nonexistent:/bin".to_vec()], ..Process::default() }
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(find(&process(&["sh", "-c"])).expect("found").path.as_bytes(), b"/bin/sh");
        let error = find(&process(&["no-such-program"])).map(|_| ()).expect_err("missing");
        assert_eq!(error.message, "exec: \"no-such-program\": executable file not found in $PATH");
        assert_eq!(error.code, Code::NotFound);
        let error = find(&process(&["/etc"])).map(|_| ()).expect_err("a directory");
        assert_eq!((error.code, error.message.as_str()), (Code::PermissionDenied, "exec: \"/etc\": permission denied"));
        assert!(find(&process(&[])).is_err());
    }

    #[test]
    fn a_script_names_its_interpreter() {
        assert_eq!(interpreter(b"#!  /bin/sh -e\nexit"), Some(b"/bin/sh".as_slice()));
        assert_eq!((interpreter(b"\x7fELF"), interpreter(b"#!\n")), (None, None));
    }
}
