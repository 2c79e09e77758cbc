//! What a hostile guest may try.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::guests;
use super::harness::*;
use crate::systrap::frame::Frame;
use crate::systrap::{blob, layout};
use crate::*;

#[test]
fn no_reference_leaves_the_blob() {
    let code = blob::code();
    let range = layout::BLOB..layout::BLOB + code.len() as u64;
    let mut decoder = Decoder::with_ip(64, code, layout::BLOB, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut calls = 0;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let at = instruction.ip();
        assert!(!instruction.is_invalid(), "{at:#x}");
        if instruction.is_ip_rel_memory_operand() {
            assert!(range.contains(&instruction.ip_rel_memory_address()), "{at:#x}");
        }
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                assert!(range.contains(&instruction.near_branch_target()), "{at:#x}");
            }
            FlowControl::Call => calls += usize::from(instruction.mnemonic() != iced_x86::Mnemonic::Syscall),
            _ => {}
        }
    }
    assert_eq!(calls, 0, "the blob has no stack to call on");
}

/// Addresses of the `syscall` instructions in the blob.
fn syscalls() -> Vec<u64> {
    let mut decoder = Decoder::with_ip(64, blob::code(), layout::BLOB, DecoderOptions::NONE);
    decoder.iter().filter(|i| i.mnemonic() == iced_x86::Mnemonic::Syscall).map(|i| i.ip()).collect()
}

#[test]
fn calls_from_the_blob_trap() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.call();
    let numbers = [
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_clone,
        libc::SYS_prctl,
        libc::SYS_seccomp,
        libc::SYS_madvise,
        libc::SYS_exit_group,
        libc::SYS_read,
        libc::SYS_open,
        libc::SYS_ptrace,
        libc::SYS_futex,
        libc::SYS_getppid,
    ];
    for at in syscalls() {
        for number in numbers {
            // futex arguments that are not ours: on guest memory.
            *guest.context.registers_mut() =
                Registers { rax: number as u64, rdi: DATA, rsi: 0x1000, rdx: 7, ..Registers::at_entry(at, STACK_TOP) };
            match guest.run() {
                Trap::Syscall(Syscall { number: got, entry: Entry::Foreign, .. }) => assert_eq!(got, number as u64),
                other => panic!("{number} at {at:#x}: {other:?}"),
            }
        }
    }
}

#[test]
fn futexes_only_on_control_pages() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.call();
    let at = syscalls()[0];
    let bad = [
        (DATA, 0),
        (layout::BELLS, 0),
        (layout::BELLS, 2),
        (layout::ORDERS, 1),
        (layout::ANSWERS, 1),
        (layout::SLEEPING, 1),
        (layout::BLOCKS, 5),
        (layout::BLOCKS, 0x81),
        (layout::BLOCKS + layout::BLOCKS_LEN, 1),
        (layout::BLOCKS + (1 << 32), 1),
    ];
    for (word, operation) in bad {
        *guest.context.registers_mut() =
            Registers { rax: libc::SYS_futex as u64, rdi: word, rsi: operation, rdx: 1, ..Registers::at_entry(at, STACK_TOP) };
        match guest.run() {
            Trap::Syscall(Syscall { entry: Entry::Foreign, .. }) => {}
            other => panic!("futex {operation} on {word:#x}: {other:?}"),
        }
    }
}

#[test]
fn other_ways_in_are_foreign() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    for (program, number) in [(guests::int80(), 20), (guests::x32(), 0x4000_0027), (guests::vsyscall(), 201)] {
        let mut guest = Guest::new(&platform, &space, program);
        match guest.run() {
            Trap::Syscall(call) => assert_eq!((call.entry, call.number), (Entry::Foreign, number)),
            // A host without vsyscall emulation.
            Trap::Fault(fault) => assert_eq!((program, fault.signal), (guests::vsyscall(), libc::SIGSEGV)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn our_pages_are_read_only() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    for page in [layout::BLOB, layout::GLOBAL, layout::SLEEPING, layout::ORDERS] {
        let mut guest = Guest::new(&platform, &space, guests::store());
        guest.context.registers_mut().rsi = page;
        let trap = guest.run();
        assert!(matches!(trap, Trap::Fault(Fault { signal: libc::SIGSEGV, addr, .. }) if addr == page), "{trap:?}");
    }
}

#[test]
fn what_a_guest_writes_over_answers_does_not_harm_the_next() {
    let platform = platform();
    let file = memory();
    for slot in 0..layout::RING {
        let mut guest = Guest::new(&platform, &space(&platform, &file), guests::store());
        guest.context.registers_mut().rdi = 0xc3;
        guest.context.registers_mut().rsi = layout::ANSWERS + slot * layout::LINE;
        guest.call();
        drop(guest);
        // Every slot of the ring is used once more, in a stub that is the same if the last one could be emptied.
        let next = space(&platform, &file);
        for _ in 0..layout::RING {
            next.protect(DATA, 0x1000, Prot::READ | Prot::WRITE).unwrap();
        }
        next.settle().unwrap();
    }
}

#[test]
fn the_key_is_gone_before_the_guest_runs() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.call();
    assert!(guest.order_page_keys().iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_that_blocks_the_interrupt_is_killed() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::sigreturn());
    // A frame in guest memory that blocks all signals and goes on in the spinner.
    let frame = Frame::build(&Registers::at_entry(guests::spin(), STACK_TOP), 0, DATA..DATA + 0x4000, &[]);
    for (i, word) in frame.to_bytes().chunks_exact(8).enumerate() {
        poke(&file, DATA_OFFSET + 0x8000 + i as u64 * 8, u64::from_ne_bytes(word.try_into().unwrap()));
    }
    guest.context.registers_mut().rdi = DATA + 0x8000;
    guest.context.registers_mut().rsi = syscalls()[0];
    assert_eq!(guest.run_for(20_000_000), None);
    assert!(peek(&file, DATA_OFFSET) > 0, "it spins");
    guest.context.interrupter().interrupt();
    assert_eq!(guest.run(), Trap::Died(Death::Unresponsive));
}

#[test]
fn forged_answers_are_noticed() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::forge());
    guest.context.registers_mut().rdi = layout::ANSWERS;
    assert_eq!(guest.run_for(5_000_000), None);
    let error = loop {
        if let Err(error) = space.unmap(0x1000_0000, 0x1000).and_then(|()| space.settle()) {
            break error;
        }
    };
    assert!(matches!(error, PlatformError::Dead(Death::Forged(_))), "{error}");
    assert_eq!(guest.run(), Trap::Died(Death::Forged("an answer of the memory thread")));
}

/// One thread writes rubbish over another's context block while that one traps in every way. Whatever comes out is a valid trap, and
/// another address space does not notice.
#[test]
fn rubbish_in_the_blocks_is_survived() {
    let platform = platform();
    let file = memory();
    let bystander = space(&platform, &file);
    let mut calm = Guest::new(&platform, &bystander, guests::calls());
    for (program, range) in [(guests::calls(), 0x400), (guests::patched(), 0x400), (guests::patched(), layout::BLOCK_LEN)] {
        for _ in 0..20 {
            let space = space(&platform, &file);
            let mut victim = Guest::new(&platform, &space, program);
            victim.context.registers_mut().rbx = blob::trampoline();
            let mut scribbler = Guest::new(&platform, &space, guests::scribble());
            scribbler.context.registers_mut().rdi = victim.context.thread.block.address;
            scribbler.context.registers_mut().rsi = range;
            assert_eq!(scribbler.run_for(1_000_000), None);
            for round in 0..50 {
                match victim.run_for(5_000_000) {
                    Some(Trap::Died(_)) => break,
                    Some(Trap::Fault(_)) => {
                        *victim.context.registers_mut() =
                            Registers { rbx: blob::trampoline(), ..Registers::at_entry(program, STACK_TOP) };
                    }
                    Some(_) => {
                        let registers = *victim.context.registers();
                        let mut checked = registers;
                        checked.sanitise();
                        assert_eq!(registers, checked);
                        victim.context.set_return(round);
                    }
                    None => victim.context.interrupter().interrupt(),
                }
            }
            drop(victim);
            drop(scribbler);
            assert_eq!(calm.call().number, 39);
            calm.context.set_return(0);
        }
    }
}
