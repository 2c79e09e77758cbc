//! Address spaces: mapping, refusal, recycling.

use super::guests;
use super::harness::*;
use crate::systrap::layout;
use crate::*;

#[test]
fn unmapped_and_protected_pages_fault() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::store());
    guest.context.registers_mut().rdi = 77;
    guest.context.registers_mut().rsi = DATA + 64;
    assert_eq!(guest.call().number, 42);
    assert_eq!(peek(&file, DATA_OFFSET + 64), 77);
    space.protect(DATA, 0x1000, Prot::READ).unwrap();
    space.settle().unwrap();
    assert!(matches!(guest.run(), Trap::Fault(Fault { signal: libc::SIGSEGV, code: 2, addr, .. }) if addr == DATA + 64));
    space.unmap(DATA, 0x1000).unwrap();
    space.settle().unwrap();
    assert!(matches!(guest.run(), Trap::Fault(Fault { signal: libc::SIGSEGV, code: 1, .. })));
    map(&*space, &file, DATA, 0x1000, Prot::READ | Prot::WRITE, DATA_OFFSET + 0x2000).unwrap();
    space.settle().unwrap();
    assert_eq!(guest.call().number, 42);
    assert_eq!(peek(&file, DATA_OFFSET + 0x2040), 77);
}

#[test]
fn orders_near_our_pages_are_refused() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let vdso = platform.layout().vdso.clone().unwrap();
    let bad = [
        (layout::BLOB, 0x1000),
        (layout::BLOB - 0x1000, 0x2000),
        (layout::BLOCKS + layout::BLOCKS_LEN - 0x1000, 0x2000),
        (vdso.start, 0x1000),
        (0, 0x1000),
        (0x1_0800, 0x1000),
        (0x2_0000, 0),
        (0x2_0000, 0x800),
        (!0xfff, 0x2000),
        (layout::USER.end - 0x1000, 0x2000),
        (0xffff_8000_0000_0000, 0x1000),
    ];
    for (addr, len) in bad {
        assert!(space.unmap(addr, len).is_err(), "{addr:#x}");
        assert!(space.protect(addr, len, Prot::all()).is_err(), "{addr:#x}");
        assert!(map(&*space, &file, addr, len, Prot::READ, 0).is_err(), "{addr:#x}");
    }
    space.settle().unwrap();
}

#[test]
fn failures_surface_once() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    space.protect(0x7000_0000, 0x1000, Prot::READ).unwrap();
    for i in 0..100 {
        map(&*space, &file, 0x1000_0000 + i * 0x1000, 0x1000, Prot::READ, 0).unwrap();
    }
    let error = space.settle().unwrap_err();
    assert!(matches!(error, PlatformError::Order { what: "mprotect", addr: 0x7000_0000, errno: hostcall::Errno::ENOMEM, .. }));
    space.settle().unwrap();
}

#[test]
fn recycling_leaves_nothing() {
    let platform = start(crate::systrap::Spin::Never);
    let file = memory();
    for round in 0..1000 {
        let space = space(&platform, &file);
        let mut guest = Guest::new(&platform, &space, guests::calls());
        assert_eq!(guest.call().number, 39, "round {round}");
    }
    // One stub served them all; nothing of the last guest is mapped in the next.
    let space = platform.new_space().unwrap();
    let mut guest = Guest::new(&platform, &space, guests::calls());
    assert!(matches!(guest.run(), Trap::Fault(Fault { signal: libc::SIGSEGV, code: 1, .. })));
}
