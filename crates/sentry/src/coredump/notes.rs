//! The notes of a core file: who it was, what it was doing, and what was mapped.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::ThreadState;
use crate::fs::File;
use crate::mm::VmaInfo;
use crate::ptrace::user_area;
use crate::signal::SigInfo;
use crate::task::{Cx, Task};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const NT_X86_XSTATE: u32 = 0x202;

/// Most bytes of `NT_FILE` (`MAX_FILE_NOTE_SIZE`).
const FILE_NOTE_MAX: usize = 4 << 20;

/// Fields one after the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(mut self, value: u8) -> Bytes {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Bytes {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn i32(mut self, value: i32) -> Bytes {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Bytes {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Text in a field of `len` bytes, ended by a NUL.
    fn text(mut self, text: &[u8], len: usize) -> Bytes {
        let end = self.0.len() + len;
        self.0.extend(text.iter().copied().take(len - 1));
        self.0.resize(end, 0);
        self
    }
}

fn note(into: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    for word in [name.len() as u32, content.len() as u32, kind] {
        into.extend(word.to_le_bytes());
    }
    for part in [name, content] {
        into.extend(part);
        into.resize(into.len().next_multiple_of(4), 0);
    }
}

/// All notes. `threads`: the one that took the signal first.
pub(super) fn notes(cx: &Cx, info: &SigInfo, threads: &[ThreadState], vmas: &[VmaInfo]) -> Vec<u8> {
    const CORE: &[u8] = b"CORE\0";
    let mut all = Vec::new();
    let capabilities = cx.kernel().platform.capabilities();
    for (at, thread) in threads.iter().enumerate() {
        note(&mut all, CORE, NT_PRSTATUS, &status(thread, info));
        if at == 0 {
            note(&mut all, CORE, NT_PRPSINFO, &process(cx));
            note(&mut all, CORE, NT_SIGINFO, &info.encode());
            note(&mut all, CORE, NT_AUXV, &cx.mm.auxiliary_vector());
            if let Some(files) = files(cx, vmas) {
                note(&mut all, CORE, NT_FILE, &files);
            }
        }
        let state = user_area::xstate_bytes(&thread.extended, capabilities.xfeatures, capabilities.xstate_size);
        note(&mut all, CORE, NT_PRFPREG, state.get(..user_area::FPREGS_LEN).unwrap_or_default());
        note(&mut all, b"LINUX\0", NT_X86_XSTATE, &state);
    }
    all
}

/// `struct elf_prstatus`.
fn status(thread: &ThreadState, info: &SigInfo) -> Vec<u8> {
    let task: &Task = &thread.task;
    let group = &task.group;
    let (pending, blocked) = task.own_signals();
    let signal = info.signal.number();
    let mut bytes =
        Bytes::default().i32(signal).i32(info.code).i32(info.errno).u16(signal as u16).u16(0).u64(pending.0).u64(blocked.0);
    for number in [task.tid(), group.ppid(), group.pgid(), group.session().sid] {
        bytes = bytes.i32(number);
    }
    let (own, children) = (task.usage(), group.children_usage());
    for ns in [own.user_ns, own.system_ns, children.user_ns, children.system_ns] {
        bytes = bytes.u64(ns / 1_000_000_000).u64(ns % 1_000_000_000 / 1000);
    }
    bytes.0.extend(user_area::bytes(&thread.registers));
    bytes.i32(1).i32(0).0
}

/// `struct elf_prpsinfo`.
fn process(cx: &Cx) -> Vec<u8> {
    let (task, creds) = (&cx.task, cx.creds());
    let group = &task.group;
    let nice = task.scheduling.lock().nice;
    let mut args = cx.mm.strings(|places| places.args, 80).unwrap_or_default();
    while args.last() == Some(&0) {
        args.pop();
    }
    for byte in args.iter_mut().filter(|byte| **byte == 0) {
        *byte = b' ';
    }
    let mut bytes =
        Bytes::default().u8(0).u8(b'R').u8(0).u8(nice as u8).i32(0).u64(0).i32(creds.uid as i32).i32(creds.gid as i32);
    for number in [task.tgid(), group.ppid(), group.pgid(), group.session().sid] {
        bytes = bytes.i32(number);
    }
    bytes.text(&task.name.lock(), 16).text(&args, 80).0
}

/// `NT_FILE`: which files are mapped where.
fn files(cx: &Cx, vmas: &[VmaInfo]) -> Option<Vec<u8>> {
    let root = cx.fs.root();
    let mut places: Vec<(Range<u64>, u64)> = Vec::new();
    let mut names = Vec::new();
    for vma in vmas {
        if let Some((mapped, offset)) = &vma.file
            && let Some(file) = mapped.file.downcast_ref::<File>()
        {
            places.push((vma.range.clone(), *offset));
            names.extend(file.name_from(&root));
            names.push(0);
        }
        if names.len() > FILE_NOTE_MAX {
            return None;
        }
    }
    let mut bytes = Bytes::default().u64(places.len() as u64).u64(crate::abi::PAGE_SIZE);
    for (range, offset) in places {
        bytes = bytes.u64(range.start).u64(range.end).u64(offset / crate::abi::PAGE_SIZE);
    }
    bytes.0.extend(names);
    Some(bytes.0)
}

/// What /proc/PID/coredump_filter says.
pub(super) fn filter(cx: &Cx) -> u32 {
    cx.task.group.coredump_filter.load(Ordering::Relaxed)
}
