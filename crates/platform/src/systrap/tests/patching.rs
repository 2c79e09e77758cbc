//! Patched sites at work.

use std::sync::Arc;

use super::guests;
use super::harness::*;
use crate::systrap::space::Space;
use crate::*;

const SLOTS: u64 = 0x41_0000;
const SLOTS_OFFSET: u64 = 0x40_0000;

/// Plans a patch for the call the guest has just made and writes it into the memory file.
fn patch(guest: &Guest, file: &std::os::fd::OwnedFd, space: &Arc<Space>, number: u64) -> Patch {
    use std::os::fd::AsRawFd;
    map(&**space, file, SLOTS, 0x1_0000, Prot::READ | Prot::EXEC, SLOTS_OFFSET).unwrap();
    space.settle().unwrap();
    let return_ip = guest.context.registers().rip;
    let request = PatchRequest {
        return_ip,
        number,
        text: guests::code(),
        text_start: CODE,
        slots: SLOTS..SLOTS + 0x1_0000,
        taken: &[0; 64],
    };
    let patch = guest.platform.plan_patch(&request).expect("a site that can be patched");
    let write = |bytes: &[u8], offset: u64| {
        // SAFETY: the bytes outlive the call.
        let put = unsafe { libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset as i64) };
        assert_eq!(put, bytes.len() as isize);
    };
    write(&patch.slot, patch.slot_at - SLOTS + SLOTS_OFFSET);
    write(&patch.site, patch.site_at - CODE);
    patch
}

#[test]
fn form_a_and_answers_in_the_stub() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::form_a());
    let call = guest.call();
    assert_eq!((call.number, call.entry), (110, Entry::Trapped));
    let return_ip = guest.context.registers().rip;
    patch(&guest, &file, &space, 110);
    guest.context.set_return(5);
    let step = |guest: &mut Guest| {
        let call = guest.call();
        guest.context.set_return(call.number + 7);
        (call.number, call.entry, call.args[0])
    };
    assert_eq!(step(&mut guest), (43, Entry::Trapped, 5));
    let call = guest.call();
    assert_eq!((call.number, call.entry), (110, Entry::Patched));
    assert_eq!(guest.context.registers().rip, return_ip);
    guest.context.set_return(6);
    assert_eq!(step(&mut guest), (43, Entry::Trapped, 6));
    // Once allowed, the stub answers alone; once forbidden, not any more.
    let identity = Identity { pid: 10, tid: 11, ppid: 12, enabled: true, ..Identity::default() };
    guest.context.set_identity(&identity);
    for _ in 0..10 {
        assert_eq!(step(&mut guest), (43, Entry::Trapped, 12));
    }
    guest.context.set_identity(&Identity { enabled: false, ..identity });
    assert_eq!((step(&mut guest).0, step(&mut guest)), (110, (43, Entry::Trapped, 117)));
}

#[test]
fn yields_are_the_hosts() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::form_b());
    let number = libc::SYS_sched_yield as u64;
    (guest.context.registers_mut().rax, guest.context.registers_mut().r12) = (number, number);
    assert_eq!(guest.call().entry, Entry::Trapped);
    let [(_, moved)] = patch(&guest, &file, &space, number).moved[..] else { panic!("one boundary") };
    guest.context.registers_mut().rip = moved;
    guest.context.set_return(0);
    let call = guest.call();
    assert_eq!((call.number, call.entry), (number, Entry::Patched));
    guest.context.set_return(0);
    guest.context.set_identity(&Identity { enabled: true, ..Identity::default() });
    // From now on nothing is seen of it, wherever it is interrupted.
    assert!(guest.run_for(20_000_000).is_none());
    for round in 0..500 {
        guest.context.interrupter().interrupt();
        match guest.run() {
            Trap::Interrupted => {}
            Trap::Syscall(call) => {
                assert_eq!((call.number, call.entry), (number, Entry::Patched), "round {round}");
                guest.context.set_return(0);
            }
            other => panic!("round {round}: {other:?}"),
        }
        let registers = guest.context.registers();
        assert!(!crate::systrap::layout::REGION.contains(&registers.rip), "round {round}");
        assert_eq!((registers.r12, registers.rsp), (number, STACK_TOP), "round {round}");
        assert!(guest.run_for(100_000).is_none());
    }
}

#[test]
fn form_b_and_a_jump_into_it() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::form_b());
    guest.context.registers_mut().rax = 39;
    guest.context.registers_mut().r12 = 39;
    assert_eq!(guest.call().entry, Entry::Trapped);
    let middle = guest.context.registers().rip;
    let patch = patch(&guest, &file, &space, 39);
    let [(old, new)] = patch.moved[..] else { panic!("one boundary") };
    assert_eq!(old, middle);
    // The call that led to the patch returns to the moved comparison.
    guest.context.registers_mut().rip = new;
    guest.context.set_return(-2i64 as u64);
    let call = guest.call();
    assert_eq!((call.number, call.entry), (44, Entry::Trapped));
    guest.context.set_return(0);
    // From now on by the trampoline; success and failure are told apart.
    let call = guest.call();
    assert_eq!((call.number, call.entry), (39, Entry::Patched));
    guest.context.set_return(-11i64 as u64);
    assert_eq!(guest.call().number, 44);
    guest.context.set_return(0);
    guest.call();
    guest.context.set_return(123);
    assert_eq!((guest.call().number, guest.call().entry), (39, Entry::Patched));
    // A jump to the destroyed boundary is caught there.
    guest.context.registers_mut().rip = old;
    match guest.run() {
        Trap::Fault(fault) => assert_eq!((fault.signal, guest.context.registers().rip), (libc::SIGILL, old)),
        other => panic!("{other:?}"),
    }
    guest.context.registers_mut().rip = new;
    guest.context.registers_mut().rax = 1;
    assert_eq!(guest.call().entry, Entry::Patched);
}

#[test]
fn a_signal_in_a_patched_call_sees_the_site() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::form_a());
    guest.call();
    patch(&guest, &file, &space, 110);
    guest.call();
    guest.call();
    let saved = *guest.context.registers();
    let xstate = guest.xstate();
    // A handler runs with a stack and state of its own, then everything is put back.
    *guest.context.registers_mut() = Registers { rdi: 99, ..Registers::at_entry(guests::calls(), STACK_TOP - 0x1000) };
    guest.context.set_xstate(XState::Initial);
    assert_eq!(guest.call().number, 39);
    *guest.context.registers_mut() = saved;
    guest.context.set_xstate(xstate);
    guest.context.set_return(77);
    let call = guest.call();
    assert_eq!((call.number, call.args[0]), (43, 77));
}
