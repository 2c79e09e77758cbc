//! Tests of address spaces against a stub that only remembers its mappings.

mod model;
mod sharing;
mod stub;
mod text;

use std::sync::Arc;

use platform::{Fault, Prot};

use super::{FaultOutcome, MapRequest, MemoryFile, Mm, Placement};
use stub::{FakePlatform, Stub};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = 4096;

fn memfd() -> std::os::fd::OwnedFd {
    hostcall::memory::anonymous_file("test").expect("memfd")
}

fn memory() -> Arc<MemoryFile> {
    hostcall::copy::install();
    MemoryFile::new(memfd()).expect("memory file")
}

fn new_mm(memory: &Arc<MemoryFile>) -> (Arc<Mm>, Arc<Stub>) {
    let platform = FakePlatform::new();
    let mm = Mm::new(platform.clone(), memory.clone()).expect("mm");
    let stub = platform.last_stub();
    (mm, stub)
}

fn write_fault(addr: u64) -> Fault {
    Fault { signal: 11, code: 2, addr, error: 6, trap: 14 }
}

fn read_fault(addr: u64) -> Fault {
    Fault { error: 4, ..write_fault(addr) }
}

fn anonymous(mm: &Mm, len: u64) -> u64 {
    mm.map(&MapRequest::anonymous(Placement::Hint(0), len, RW)).expect("mmap")
}
