//! System calls and faults of one thread.

use super::guests;
use super::harness::*;
use crate::systrap::blob;
use crate::*;

#[test]
fn calls_trap_and_registers_are_kept() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    for round in 0..100 {
        let call = guest.call();
        assert_eq!(call, Syscall { number: 39, args: [1, 2, 3, 4, 5, 6], entry: Entry::Trapped });
        let registers = *guest.context.registers();
        let saved = [registers.rbx, registers.rbp, registers.r12, registers.r13, registers.r14, registers.r15];
        assert_eq!(saved, [7, 8, 9, 10, 11, 12]);
        assert_eq!((registers.rsp, registers.orig_rax, registers.cs), (STACK_TOP, 39, 0x33));
        assert_eq!((registers.rcx, registers.r11), (registers.rip, registers.eflags));
        if round == 50 {
            guest.context.registers_mut().rbx = 7;
        }
        guest.context.set_return(round);
    }
    let xstate = guest.xstate();
    let XState::Saved(bytes) = &xstate else { panic!("no extended state") };
    assert_eq!(bytes[160 + 7 * 16..][..8], 0x1234u64.to_ne_bytes());
}

#[test]
fn bases_and_flags_travel() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.context.registers_mut().fs_base = 0x1_2345_6000;
    guest.call();
    assert_eq!(guest.context.registers().fs_base, 0x1_2345_6000);
    assert_eq!(guest.context.registers().gs_base, 0);
    guest.context.registers_mut().gs_base = 0x6543_2000;
    guest.context.registers_mut().eflags |= 0x400 | 1;
    guest.call();
    assert_eq!(guest.context.registers().gs_base, 0x6543_2000);
    assert_eq!(guest.context.registers().eflags & 0x401, 0x401);
    guest.context.registers_mut().rip = 0x8000_0000_0000_0000;
    let trap = guest.run();
    assert!(
        matches!(trap, Trap::Fault(Fault { signal: libc::SIGSEGV, .. })),
        "{trap:?} at {:#x}",
        guest.context.registers().rip
    );
}

#[test]
fn faults_are_reported() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::fault());
    let mut fault = |skip: u64| {
        let trap = guest.run();
        let Trap::Fault(fault) = trap else { panic!("no fault: {trap:?}") };
        guest.context.registers_mut().rip += skip;
        fault
    };
    let read = fault(8);
    assert_eq!((read.signal, read.code, read.addr, read.trap, read.error & 3), (libc::SIGSEGV, 1, 8, 14, 0));
    let write = fault(6);
    assert_eq!((write.signal, write.code, write.addr, write.error & 3), (libc::SIGSEGV, 2, CODE, 3));
    assert_eq!(fault(2).signal, libc::SIGILL);
    // A breakpoint is reported after its instruction.
    assert_eq!(fault(0).signal, libc::SIGTRAP);
    assert_eq!(fault(2).signal, libc::SIGFPE);
    let privileged = fault(1);
    assert_eq!((privileged.signal, privileged.trap), (libc::SIGSEGV, 13));
}

fn patched(guest: &mut Guest) {
    guest.context.registers_mut().rbx = blob::trampoline();
}

#[test]
fn patched_calls_keep_everything() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::patched());
    patched(&mut guest);
    for round in 0..1000u64 {
        let call = guest.call();
        assert_eq!(call, Syscall { number: 39, args: [1, 2, 3, 4, 5, 6], entry: Entry::Patched });
        if round % 100 == 0 {
            let r = *guest.context.registers();
            assert_eq!([r.rbp, r.r12, r.r13, r.r14, r.r15, r.rsp], [8, 9, 10, 11, 12, STACK_TOP]);
            assert_eq!((r.rcx, r.rbx), (r.rip, blob::trampoline()));
            // The guest's `cmp` set the zero and parity flags; it checks them after the call.
            assert_eq!(r.eflags & 0x8d5, 0x44);
        }
        guest.context.set_return(round);
    }
}

#[test]
fn patched_calls_can_be_left_by_a_frame() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::patched());
    patched(&mut guest);
    guest.call();
    // Registers changed, extended state kept.
    guest.context.registers_mut().rip = guests::xmm();
    assert_eq!(guest.call().args[0], 0x1234);
    // The same after the state was asked for.
    guest.context.registers_mut().rip = guests::patched();
    patched(&mut guest);
    guest.call();
    let state = guest.xstate();
    guest.context.registers_mut().rip = guests::xmm();
    assert_eq!(guest.call().args[0], 0x1234);
    // Replaced by the initial state, then by the old one, through a patched call.
    guest.context.registers_mut().rip = guests::patched();
    patched(&mut guest);
    guest.call();
    guest.context.set_xstate(XState::Initial);
    guest.context.registers_mut().rip = guests::xmm();
    assert_eq!(guest.call().args[0], 0);
    guest.context.set_xstate(state);
    assert_eq!(guest.call().args[0], 0x1234);
}

#[test]
fn patched_calls_survive_interrupts() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let rounds = 200_000;
    poke(&file, DATA_OFFSET + 8, rounds);
    let mut guest = Guest::new(&platform, &space, guests::stress());
    patched(&mut guest);
    let interrupter = guest.context.interrupter();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                interrupter.interrupt();
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        let mut interrupts = 0;
        loop {
            match guest.run() {
                Trap::Syscall(Syscall { number: 60, entry: Entry::Trapped, .. }) => break,
                Trap::Syscall(call) => {
                    assert_eq!(call.args[0], call.number + 1);
                    if call.number % 7 == 0 {
                        guest.xstate();
                    }
                    if call.number % 5 == 0 {
                        guest.context.registers_mut().rax = call.number + 1;
                    } else {
                        guest.context.set_return(call.number + 1);
                    }
                }
                Trap::Interrupted => {
                    interrupts += 1;
                    let rip = guest.context.registers().rip;
                    assert_eq!(blob::zone(rip), blob::Zone::Outside, "{rip:#x}");
                }
                other => panic!("{other:?} {:x?}", guest.context.registers()),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(interrupts > 0);
    });
}
