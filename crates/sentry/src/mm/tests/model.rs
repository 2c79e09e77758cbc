//! Random operations against a naive map of pages.

use std::collections::BTreeMap;

use super::*;
use crate::mm::Locked;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Naive {
    prot: Prot,
    value: u8,
}

type Model = BTreeMap<u64, Naive>;

const BASE: u64 = 0x1000_0000;
const PAGES: u64 = 48;

fn check(mm: &Mm, stub: &Stub, model: &Model, what: &str) {
    for page in 0..PAGES {
        let addr = BASE + page * PAGE;
        let mut byte = [0];
        let read = mm.read(addr + 5, &mut byte);
        match model.get(&addr) {
            None => {
                assert!(read.is_err(), "{what}: {addr:#x} should not be mapped");
                assert!(stub.page(addr).is_none(), "{what}: {addr:#x} is still in the stub");
            }
            Some(naive) if naive.prot.is_empty() => assert!(read.is_err(), "{what}: {addr:#x} should not be readable"),
            Some(naive) => {
                assert_eq!(read.map(|()| byte[0]), Ok(naive.value), "{what}: {addr:#x}");
                let seen = stub.page(addr).unwrap_or_else(|| panic!("{what}: {addr:#x} is missing in the stub"));
                assert!(naive.prot.contains(seen.prot), "{what}: {addr:#x} has too many rights");
                assert_eq!(stub.read(addr + 5), Some(naive.value), "{what}: the stub reads something else at {addr:#x}");
            }
        }
    }
}

/// Writes as the application does: faults until the write is possible.
fn guest_write(mm: &Mm, stub: &Stub, addr: u64, value: u8) -> bool {
    for _ in 0..4 {
        if stub.write(addr, value) {
            return true;
        }
        if mm.fault(&write_fault(addr), 0) != FaultOutcome::Resume {
            return false;
        }
    }
    panic!("a write fault at {addr:#x} that never ends");
}

fn step(random: &mut Random, mm: &Mm, stub: &Stub, model: &mut Model) -> String {
    let start = random.below(PAGES - 1);
    let count = 1 + random.below((PAGES - start).min(12));
    let (addr, len) = (BASE + start * PAGE, count * PAGE);
    let pages = || (0..count).map(move |n| addr + n * PAGE);
    let prot = [RW, Prot::READ, Prot::empty(), RW][random.below(4) as usize];
    match random.below(6) {
        0 => {
            mm.map(&MapRequest::anonymous(Placement::Fixed(addr), len, prot)).expect("mmap");
            model.extend(pages().map(|page| (page, Naive { prot, value: 0 })));
            format!("mmap {addr:#x} {count} {prot:?}")
        }
        1 => {
            mm.unmap(addr, len).expect("munmap");
            for page in pages() {
                model.remove(&page);
            }
            format!("munmap {addr:#x} {count}")
        }
        2 => {
            let whole = pages().all(|page| model.contains_key(&page));
            assert_eq!(mm.protect(addr, len, prot).is_ok(), whole);
            for page in pages().take_while(|page| model.contains_key(page)).collect::<Vec<_>>() {
                model.get_mut(&page).expect("page").prot = prot;
            }
            format!("mprotect {addr:#x} {count} {prot:?}")
        }
        3 => {
            let whole = pages().all(|page| model.contains_key(&page));
            assert_eq!(mm.dont_need(addr, len, Locked::Refused).is_ok(), whole);
            for page in pages() {
                if let Some(naive) = model.get_mut(&page) {
                    naive.value = 0;
                }
            }
            format!("dontneed {addr:#x} {count}")
        }
        n => {
            let value = random.below(255) as u8 + 1;
            for page in pages() {
                let may = model.get(&page).is_some_and(|naive| naive.prot.contains(Prot::WRITE));
                let done = if n == 4 { mm.write(page + 5, &[value]).is_ok() } else { guest_write(mm, stub, page + 5, value) };
                assert_eq!(done, may, "write to {page:#x}");
                if may {
                    model.get_mut(&page).expect("page").value = value;
                }
            }
            format!("write {addr:#x} {count}")
        }
    }
}

#[test]
fn equals_a_naive_map_over_forks() {
    for seed in 1..=12 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let memory = memory();
        let platform = FakePlatform::new();
        let mm = Mm::new(platform.clone(), memory.clone()).expect("mm");
        let mut family = vec![(mm, platform.last_stub(), Model::new())];
        for _ in 0..300 {
            let who = random.below(family.len() as u64) as usize;
            if random.below(12) == 0 && family.len() < 5 {
                let (mm, _, model) = &family[who];
                let child = mm.fork(BASE + random.below(PAGES) * PAGE).expect("fork");
                let entry = (child, platform.last_stub(), model.clone());
                family.push(entry);
            } else if random.below(30) == 0 && family.len() > 1 {
                let (mm, stub, _) = family.remove(who);
                drop(mm);
                assert_eq!(stub.page_count(), 0, "an address space that is gone has pages in its stub");
            } else {
                let (mm, stub, model) = &mut family[who];
                let what = step(&mut random, mm, stub, model);
                for (mm, stub, model) in &family {
                    check(mm, stub, model, &format!("seed {seed}: {what}"));
                }
            }
        }
        drop(family);
        memory.trim();
        assert_eq!(memory.used_bytes(), 0, "seed {seed}: pages leaked");
    }
}
