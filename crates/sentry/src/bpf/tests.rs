//! Programs on packets. (Those on system calls are tested in `seccomp`.)

use super::{Data, Dialect, Instruction, Program, Size, fact};
use crate::Errno;

struct Bytes<'a>(&'a [u8]);

impl Data for Bytes<'_> {
    fn load(&self, size: Size, offset: u32) -> Option<u32> {
        if offset == fact::PROTOCOL {
            return Some(0x800);
        }
        size.of(self.0, usize::try_from(offset).ok()?)
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }
}

fn i(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn run(code: &[Instruction], bytes: &[u8]) -> Option<u32> {
    Program::new(Dialect::Socket, code).expect("a program").run(&Bytes(bytes))
}

#[test]
fn packets_are_read_in_network_order_and_not_beyond_their_end() {
    let bytes = [0x45, 0, 1, 2, 3, 4, 5, 6];
    let give = i(0x16, 0);
    assert_eq!(run(&[i(0x20, 2), give], &bytes), Some(0x0102_0304));
    assert_eq!(run(&[i(0x28, 6), give], &bytes), Some(0x0506));
    assert_eq!(run(&[i(0x30, 7), give], &bytes), Some(6));
    assert_eq!(run(&[i(0x80, 0), give], &bytes), Some(8));
    for code in [0x20, 0x28, 0x30] {
        assert_eq!(run(&[i(code, 8), give], &bytes), None);
    }
    assert_eq!(run(&[i(0x20, 5), give], &bytes), None);
    // Behind the header, whose length is in its first byte: 20 bytes, which are not there.
    assert_eq!(run(&[i(0xb1, 0), i(0x50, 0), give], &bytes), None);
    assert_eq!(run(&[i(0xb1, 0), i(0x87, 0), give], &bytes), Some(20));
    // By X; and not to the facts.
    assert_eq!(run(&[i(0x01, 3), i(0x50, 2), give], &bytes), Some(4));
    assert_eq!(run(&[i(0x01, fact::PROTOCOL), i(0x50, 0), give], &bytes), None);
    assert_eq!(run(&[i(0x28, fact::PROTOCOL), give], &bytes), Some(0x800));
    assert_eq!(run(&[i(0x00, 17), i(0x94, 5), give], &bytes), Some(2));
    for divides in [0x3c, 0x9c] {
        assert_eq!(run(&[i(0x00, 17), i(0x01, 0), i(divides, 0), i(6, 9)], &bytes), Some(0));
    }
    assert_eq!(run(&[i(0x00, 17), i(0x01, 5), i(0x3c, 0), give], &bytes), Some(3));
}

#[test]
fn what_has_no_name_is_refused() {
    for code in [i(0x28, fact::PROTOCOL + 12), i(0x20, u32::MAX), i(0x38, 0), i(0x58, 0), i(0x94, 0), i(0xa1, 0)] {
        assert_eq!(Program::new(Dialect::Socket, &[code, i(6, 0)]), Err(Errno::EINVAL), "{code:?}");
    }
}
