//! Single scenes: fork, copies at the edges, the memory file.

use super::*;
use crate::Errno;
use crate::mm::{FutexKey, SegmentFlags};

#[test]
fn copies_cross_mappings_and_stop_at_holes() {
    let (mm, _) = new_mm(&memory());
    let base = 0x20_0000;
    for (at, prot) in [(0, RW), (1, Prot::READ), (2, RW), (4, RW)] {
        mm.map(&MapRequest::anonymous(Placement::Fixed(base + at * PAGE), PAGE, prot)).expect("mmap");
    }
    let data: Vec<u8> = (0..PAGE).map(|n| n as u8).collect();
    assert_eq!(mm.write_some(base + PAGE - 10, &data), Ok(10));
    assert_eq!(mm.write(base + PAGE - 10, &data), Err(Errno::EFAULT));
    assert_eq!(mm.write(base + PAGE, &[1]), Err(Errno::EFAULT));
    let mut back = vec![0; 3 * PAGE as usize];
    assert_eq!(mm.read(base, &mut back), Ok(()));
    assert_eq!(back[PAGE as usize - 10..PAGE as usize], data[..10]);
    assert_eq!(mm.read_some(base + 3 * PAGE - 4, &mut [0; 8]), Ok(4));
    assert_eq!(mm.read_some(base + 3 * PAGE, &mut [0; 8]), Err(Errno::EFAULT));
    assert_eq!(mm.read(u64::MAX - 3, &mut [0; 8]), Err(Errno::EFAULT));
    assert_eq!(mm.read(0, &mut []), Ok(()));
}

#[test]
fn strings_and_iovecs() {
    let (mm, _) = new_mm(&memory());
    let base = anonymous(&mm, 2 * PAGE);
    mm.write(base + PAGE - 3, b"hello\0").expect("write");
    assert_eq!(mm.read_cstr(base + PAGE - 3, 100), Ok(b"hello".to_vec()));
    assert_eq!(mm.read_cstr(base + PAGE - 3, 5), Err(Errno::ENAMETOOLONG));
    mm.zero(base, 2 * PAGE).expect("zero");
    mm.write(base + 2 * PAGE - 3, b"abc").expect("write");
    assert_eq!(mm.read_cstr(base + 2 * PAGE - 3, 100), Err(Errno::EFAULT));
    mm.write_val(base, &[1u64, 5, 2, 0, 3, u64::MAX]).expect("iovecs");
    assert_eq!(mm.read_ranges(base, 2).map(|ranges| ranges.to_vec()), Ok(vec![(1, 5)]));
    assert_eq!(mm.read_ranges(base, 3), Err(Errno::EINVAL));
    assert_eq!(mm.read_ranges(base, 1025), Err(Errno::EINVAL));
}

#[test]
fn the_platforms_range_is_untouchable() {
    let (mm, _) = new_mm(&memory());
    let at = stub::RESERVED.start;
    let over = |placement| mm.map(&MapRequest::anonymous(placement, 2 * PAGE, RW));
    assert_eq!(over(Placement::Fixed(at)), Err(Errno::ENOMEM));
    assert_eq!(over(Placement::Fixed(at - PAGE)), Err(Errno::ENOMEM));
    assert!(over(Placement::Hint(at)).is_ok_and(|found| !stub::RESERVED.contains(&found)));
    assert_eq!(mm.unmap(at, PAGE), Err(Errno::EINVAL));
    assert_eq!(mm.protect(at, PAGE, RW), Err(Errno::ENOMEM));
    assert_eq!(mm.unmap(at - PAGE, u64::MAX / 2), Err(Errno::EINVAL));
}

#[test]
fn a_stack_grows_to_its_limit_and_not_further() {
    let (mm, stub) = new_mm(&memory());
    let top = mm.places().stack_top;
    let mut request = MapRequest::anonymous(Placement::Fixed(top - 4 * PAGE), 4 * PAGE, RW);
    request.flags |= SegmentFlags::GROWS_DOWN | SegmentFlags::STACK;
    mm.map(&request).expect("stack");
    mm.set_places(|places| places.stack_limit = 1 << 20);
    let low = top - (1 << 20);
    assert_eq!(mm.fault(&write_fault(low + 8), 0), FaultOutcome::Resume);
    assert!(stub.write(low + 8, 1));
    assert!(matches!(mm.fault(&write_fault(low - 8), 0), FaultOutcome::Signal { signo: 11, code: 1, .. }));
    assert_eq!(mm.write(low - 8, &[1]), Err(Errno::EFAULT));
}

#[test]
fn reservations_take_no_memory_until_they_are_opened() {
    let memory = memory();
    let (mm, stub) = new_mm(&memory);
    let at = mm.map(&MapRequest::anonymous(Placement::Hint(0), 1 << 40, Prot::empty())).expect("1 TiB");
    assert_eq!(stub.page_count(), 0);
    mm.protect(at + (1 << 30), 8 * PAGE, RW).expect("mprotect");
    mm.write(at + (1 << 30), &[1]).expect("write");
    assert_eq!(stub.page_count(), 8);
    assert_eq!(mm.write(at, &[1]), Err(Errno::EFAULT));
    let mut lazy = MapRequest::anonymous(Placement::Hint(0), 1 << 40, RW);
    lazy.flags |= SegmentFlags::NORESERVE;
    let at = mm.map(&lazy).expect("1 TiB");
    assert_eq!(mm.fault(&write_fault(at + 12345), 0), FaultOutcome::Resume);
    assert!(stub.write(at + 12345, 1));
    drop(mm);
    memory.trim();
    assert_eq!(memory.used_bytes(), 0);
}

#[test]
fn the_last_owner_gets_its_pages_back_by_one_protect() {
    let (mm, stub) = new_mm(&memory());
    let at = anonymous(&mm, 64 * PAGE);
    mm.write(at, &vec![7; 64 * PAGE as usize]).expect("write");
    let child = mm.fork(0).expect("fork");
    assert!(!stub.write(at, 1));
    drop(child);
    stub.counts.lock().clear();
    assert_eq!(mm.fault(&write_fault(at + 10 * PAGE), 0), FaultOutcome::Resume);
    assert!((0..64).all(|page| stub.write(at + page * PAGE, 1)));
    let counts = stub.counts.lock();
    assert_eq!((counts.get("protect"), counts.get("map")), (Some(&1), None));
}

#[test]
fn shared_memory_stays_shared_over_a_fork() {
    let memory = memory();
    let (mm, _) = new_mm(&memory);
    let mut request = MapRequest::anonymous(Placement::Hint(0), PAGE, RW);
    request.flags |= SegmentFlags::SHARED;
    let at = mm.map(&request).expect("mmap");
    let child = mm.fork(0).expect("fork");
    child.write_val(at, &77u32).expect("write");
    assert_eq!(mm.load_u32(at), Ok(77));
    assert_eq!(mm.compare_exchange_u32(at, 77, 78), Ok(77));
    assert_eq!(child.load_u32(at), Ok(78));
    assert_eq!(mm.futex_key(at, true), child.futex_key(at, true));
    assert!(matches!(mm.futex_key(at, true), Ok(FutexKey::Shared { .. })));
    assert_ne!(mm.futex_key(at, false), child.futex_key(at, false));
    assert_eq!(mm.load_u32(at + 1), Err(Errno::EINVAL));
}

#[test]
fn freed_pages_read_as_zeros_again() {
    let memory = memory();
    let (mm, stub) = new_mm(&memory);
    for round in 0..20 {
        let len = (1 + round % 5) * 16 * PAGE;
        let at = anonymous(&mm, len);
        let mut back = vec![1; len as usize];
        mm.read(at, &mut back).expect("read");
        assert!(back.iter().all(|&byte| byte == 0), "round {round}");
        mm.write(at, &vec![0xaa; len as usize]).expect("write");
        mm.unmap(at, len).expect("munmap");
        assert_eq!(stub.page_count(), 0);
    }
    let tmpfs = memory.alloc(4 * PAGE).expect("alloc");
    let mut back = vec![1; 4 * PAGE as usize];
    memory.window().read(tmpfs.start(), &mut back).expect("read");
    assert!(back.iter().all(|&byte| byte == 0));
}

#[test]
fn a_late_mapping_is_waited_for() {
    let (mm, stub) = new_mm(&memory());
    let at = anonymous(&mm, PAGE);
    stub.counts.lock().clear();
    assert_eq!(mm.fault(&read_fault(at), 0), FaultOutcome::Resume);
    assert_eq!(stub.counts.lock().get("settle"), Some(&1));
    mm.protect(at, PAGE, Prot::READ).expect("mprotect");
    assert!(matches!(mm.fault(&write_fault(at), 0), FaultOutcome::Signal { signo: 11, code: 2, .. }));
}

#[test]
fn the_break_moves_both_ways() {
    let (mm, stub) = new_mm(&memory());
    mm.set_places(|places| {
        places.brk_start = 0x60_0000;
        places.brk = 0x60_0000;
    });
    let far = u64::MAX;
    assert_eq!(mm.brk(0, far, far), 0x60_0000);
    assert_eq!(mm.brk(0x60_2010, far, far), 0x60_2010);
    mm.write(0x60_0000, &[1; 0x3000]).expect("write");
    assert_eq!(mm.brk(0x60_4010, far, far), 0x60_4010);
    mm.write(0x60_0000, &[1; 0x5000]).expect("write");
    assert_eq!(mm.vmas(crate::mm::Detail::Places).len(), 1);
    assert_eq!(mm.brk(0x60_1000, far, far), 0x60_1000);
    assert_eq!((mm.write(0x60_1000, &[1]), stub.page_count()), (Err(Errno::EFAULT), 1));
    assert_eq!(mm.brk(0x60_9000, 0x2000, far), 0x60_1000);
}

#[test]
fn remap_moves_grows_and_shrinks() {
    use crate::mm::{Remap, RemapTo};
    let (mm, stub) = new_mm(&memory());
    let at = anonymous(&mm, 4 * PAGE);
    mm.write(at, &[1; 4 * PAGE as usize]).expect("write");
    let remap = |addr, old_len, new_len, to| {
        let request = Remap { addr, old_len, new_len, to, keep_old: false, limit: u64::MAX };
        mm.remap(&request, None).map(|at| at.expect("no file"))
    };
    // Above is the mmap base: there is room.
    assert_eq!(remap(at, 4 * PAGE, 2 * PAGE, RemapTo::Stay), Ok(at));
    assert_eq!((mm.write(at + 2 * PAGE, &[1]), stub.page_count()), (Err(Errno::EFAULT), 2));
    assert_eq!(remap(at, 2 * PAGE, 3 * PAGE, RemapTo::Stay), Ok(at));
    let block = mm.map(&MapRequest::anonymous(Placement::Fixed(at + 3 * PAGE), PAGE, RW)).expect("mmap");
    assert_eq!(remap(at, 3 * PAGE, 8 * PAGE, RemapTo::Stay), Err(Errno::ENOMEM));
    let moved = remap(at, 3 * PAGE, 8 * PAGE, RemapTo::Anywhere).expect("mremap");
    assert!(moved != at && mm.write(at, &[1]).is_err());
    let mut back = vec![9; 8 * PAGE as usize];
    mm.read(moved, &mut back).expect("read");
    let (old, new) = back.split_at(2 * PAGE as usize);
    assert!(old.iter().all(|&byte| byte == 1) && new.iter().all(|&byte| byte == 0));
    assert_eq!(stub.read(moved), Some(1));
    assert_eq!(remap(moved, 8 * PAGE, 8 * PAGE, RemapTo::Fixed(block)), Ok(block));
    assert_eq!(stub.read(block), Some(1));
    assert!(remap(block, 9 * PAGE, PAGE, RemapTo::Stay).is_ok());
    assert_eq!(remap(block, 2 * PAGE, 3 * PAGE, RemapTo::Anywhere), Err(Errno::EFAULT));
    assert_eq!(remap(block, PAGE, 0, RemapTo::Stay), Err(Errno::EINVAL));
}

#[test]
fn locked_bytes_are_counted_over_unmap_and_fork() {
    let (mm, _) = new_mm(&memory());
    let at = anonymous(&mm, 4 * PAGE);
    assert_eq!(mm.lock(at + 10, PAGE, true, u64::MAX), Ok(()));
    assert_eq!(mm.locked_bytes(), 2 * PAGE);
    assert_eq!(mm.lock(at, 4 * PAGE, true, 3 * PAGE), Err(Errno::ENOMEM));
    assert_eq!(mm.fork(0).expect("fork").locked_bytes(), 0);
    mm.unmap(at, PAGE).expect("munmap");
    assert_eq!(mm.locked_bytes(), PAGE);
    mm.lock_all(false, false, 0).expect("munlockall");
    assert_eq!(mm.locked_bytes(), 0);
}

#[test]
fn a_mapping_that_fails_counts_as_locked_no_more_than_what_mremap_leaves() {
    use crate::mm::{Remap, RemapTo};
    let memory = memory();
    let (mm, _) = new_mm(&memory);
    mm.lock_all(false, true, u64::MAX).expect("mlockall");
    let at = anonymous(&mm, 2 * PAGE);
    let request = Remap { addr: at, old_len: PAGE, new_len: PAGE, to: RemapTo::Anywhere, keep_old: true, limit: u64::MAX };
    assert!(mm.remap(&request, None).is_ok_and(|moved| moved.is_some()));
    assert_eq!(mm.locked_bytes(), 2 * PAGE);
    mm.unmap(at, PAGE).expect("munmap");
    assert_eq!(mm.locked_bytes(), 2 * PAGE, "what was left behind is not locked");
    let _all = memory.alloc(MemoryFile::SPAN - (256 << 20)).expect("offsets");
    let failed = mm.map(&MapRequest::anonymous(Placement::Hint(0), 1 << 30, RW));
    assert_eq!((failed, mm.locked_bytes()), (Err(Errno::ENOMEM), 2 * PAGE));
}

#[test]
fn mappings_that_are_never_touched_cost_no_orders_though_pages_are_warm() {
    let (mm, stub) = new_mm(&memory());
    let len = 16 * PAGE;
    let used = anonymous(&mm, len);
    mm.write(used, &vec![1; len as usize]).expect("write");
    mm.unmap(used, len).expect("munmap"); // leaves warm pages
    let unused = anonymous(&mm, len);
    mm.unmap(unused, len).expect("munmap"); // was given them for nothing
    stub.counts.lock().clear();
    for _ in 0..3 {
        let addr = anonymous(&mm, len);
        mm.unmap(addr, len).expect("munmap");
    }
    assert_eq!(stub.counts.lock().get("map"), None);
    assert_eq!(stub.counts.lock().get("unmap"), None);
}
