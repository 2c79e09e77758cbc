//! Classic BPF programs: what the checker lets through ends, and asks for nothing beyond its data.
//!
//! The first byte says for what a program is and how much of the input is its data; the rest is instructions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sentry::bpf::{Data, Dialect, Instruction, Program, Size};

struct Bytes<'a>(&'a [u8]);

impl Data for Bytes<'_> {
    fn load(&self, size: Size, offset: u32) -> Option<u32> {
        size.of(self.0, offset as usize)
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let (data, code) = rest.split_at(usize::from(first >> 1).min(rest.len()));
    let dialect = if first & 1 == 1 { Dialect::Seccomp { bytes: 64 } } else { Dialect::Socket };
    let code: Vec<Instruction> = code
        .chunks_exact(8)
        .map(|c| Instruction {
            code: u16::from_le_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    if let Ok(program) = Program::new(dialect, &code) {
        assert!(program.cost() > 0);
        let _ = program.run(&Bytes(data));
    }
});
