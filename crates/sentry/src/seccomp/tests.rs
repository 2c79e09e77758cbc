//! Programs: what is refused, what they compute, random ones, profiles.

use agent_api::{SeccompArg, SeccompOperator, SeccompProfile, SeccompRule};

use super::profile::compile;
use super::{Data, Filter, ret};
use crate::Errno;
use crate::bpf::{Instruction, Program};

fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn call(number: i32, args: [u64; 6]) -> Data {
    Data { number, instruction_pointer: 0x1234_5678_9abc, args }
}

#[test]
fn what_linux_refuses_is_refused() {
    let end = i(6, 0, 0, ret::ALLOW);
    let bad: &[&[Instruction]] = &[
        &[],
        &[i(0x20, 0, 0, 0)],
        // Misaligned, past the end.
        &[i(0x20, 0, 0, 2), end],
        &[i(0x20, 0, 0, 64), end],
        // A byte, a half word, a packet, a modulo.
        &[i(0x30, 0, 0, 0), end],
        &[i(0x28, 0, 0, 0), end],
        &[i(0x40, 0, 0, 0), end],
        &[i(0x94, 0, 0, 3), end],
        // Division by zero, shifts too far.
        &[i(0x34, 0, 0, 0), end],
        &[i(0x64, 0, 0, 32), end],
        // Jumps past the end.
        &[i(0x05, 0, 0, 1), end],
        &[i(0x05, 0, 0, u32::MAX), end],
        &[i(0x15, 1, 0, 0), end],
        &[i(0x15, 0, 1, 0), end],
        // Scratch memory: no such word; not stored on one path.
        &[i(0x02, 0, 0, 16), end],
        &[i(0x60, 0, 0, 0), end],
        &[i(0x15, 1, 0, 0), i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), end],
        &[i(0xffff, 0, 0, 0), end],
    ];
    for program in bad {
        assert_eq!(Data::program(program), Err(Errno::EINVAL), "{program:?}");
    }
    assert!(Data::program(&vec![end; Program::MAX]).is_ok());
    assert!(Data::program(&vec![end; Program::MAX + 1]).is_err());
}

#[test]
fn arithmetic_and_memory() {
    // ((7 * 6 - 2) >> 3 | 8) ^ 1, by way of memory and X: 40 >> 3 = 5; 5 | 8 = 13; 13 ^ 1 = 12; -(12) + 13 = 1.
    let code = [
        i(0x00, 0, 0, 7),
        i(0x24, 0, 0, 6),
        i(0x14, 0, 0, 2),
        i(0x74, 0, 0, 3),
        i(0x44, 0, 0, 8),
        i(0xa4, 0, 0, 1),
        i(0x02, 0, 0, 5),
        i(0x61, 0, 0, 5),
        i(0x84, 0, 0, 0),
        i(0x04, 0, 0, 13),
        i(0x16, 0, 0, 0),
    ];
    assert_eq!(Data::program(&code).unwrap().run(&call(0, [0; 6])), Some(1));
    let divide = [i(0x00, 0, 0, 7), i(0x01, 0, 0, 0), i(0x3c, 0, 0, 0), i(6, 0, 0, ret::ALLOW)];
    assert_eq!(Data::program(&divide).unwrap().run(&call(0, [0; 6])), Some(0));
    for (offset, value) in [(0, 39), (4, super::ARCH), (8, 0x5678_9abc), (12, 0x1234), (16, 1), (20, 2), (60, 9)] {
        let read = Data::program(&[i(0x20, 0, 0, offset), i(0x16, 0, 0, 0)]).unwrap();
        assert_eq!(read.run(&call(39, [0x2_0000_0001, 0, 0, 0, 0, 0x9_0000_0000])), Some(value));
    }
}

#[test]
fn the_strictest_answer_of_a_chain_counts() {
    let always = |answer| Data::program(&[i(6, 0, 0, answer)]).unwrap();
    let first = Filter::new(always(ret::ERRNO | 5), false, None).unwrap();
    let second = Filter::new(always(ret::ERRNO | 7), false, Some(first.clone())).unwrap();
    let third = Filter::new(always(ret::ALLOW), false, Some(second.clone())).unwrap();
    assert_eq!((third.run(&call(1, [0; 6])).0, third.depth()), (ret::ERRNO | 7, 3));
    let fourth = Filter::new(always(ret::KILL_PROCESS), false, Some(third.clone())).unwrap();
    assert_eq!(fourth.run(&call(1, [0; 6])).0, ret::KILL_PROCESS);
    assert!(Filter::is_ancestor(Some(&first), Some(&fourth)) && !Filter::is_ancestor(Some(&fourth), Some(&first)));
    assert!(!first.always_allows(1));
}

#[test]
fn chains_end_somewhere() {
    let long = Data::program(&vec![i(6, 0, 0, ret::ALLOW); Program::MAX]).unwrap();
    let mut chain = None;
    let mut depth = 0;
    loop {
        match Filter::new(long.clone(), false, chain.clone()) {
            Ok(filter) => chain = Some(filter),
            Err(errno) => break assert_eq!(errno, Errno::ENOMEM),
        }
        depth += 1;
    }
    assert_eq!(depth, 3);
}

/// xorshift
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Random programs, most of them nearly right: what is accepted runs to its end, gives the same answer twice, and what the cache says of a number
/// is what the program says.
#[test]
fn random_programs() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let codes = [
        0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54,
        0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0xa4, 0xac, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07,
        0x87,
    ];
    let mut accepted = 0;
    for _ in 0..20_000 {
        let len = 1 + random.below(24) as usize;
        let mut code: Vec<Instruction> = (0..len)
            .map(|_| {
                let code =
                    if random.below(50) == 0 { random.next() as u16 } else { codes[random.below(codes.len() as u64) as usize] };
                let k = match random.below(4) {
                    0 => random.next() as u32,
                    1 => random.below(16) as u32 * 4,
                    _ => random.below(8) as u32,
                };
                i(code, random.below(6) as u8, random.below(6) as u8, k)
            })
            .collect();
        if random.below(8) != 0 {
            code.push(i(6, 0, 0, [ret::ALLOW, ret::ERRNO | 1, ret::KILL_THREAD][random.below(3) as usize]));
        }
        let Ok(program) = Data::program(&code) else { continue };
        accepted += 1;
        let filter = Filter::new(program.clone(), false, None).unwrap();
        for _ in 0..8 {
            let number = random.below(600);
            let data = call(number as i32, std::array::from_fn(|_| random.next()));
            let answer = program.run(&data);
            assert_eq!(answer, program.run(&data), "{code:?}");
            assert!(!filter.always_allows(number) || answer == Some(ret::ALLOW), "{number} {code:?}");
        }
    }
    assert!(accepted > 1000, "{accepted} programs were accepted: the generator is no good");
}

fn rule(names: &[&str], action: u32, args: &[(u32, SeccompOperator, u64, u64)]) -> SeccompRule {
    let arg = |&(index, operator, value, value_two)| SeccompArg { index, operator: operator as i32, value, value_two };
    SeccompRule { names: names.iter().map(|name| name.to_string()).collect(), action, args: args.iter().map(arg).collect() }
}

#[test]
fn profiles() {
    use SeccompOperator as Is;
    let deny = ret::ERRNO | 1;
    let profile = SeccompProfile {
        default_action: deny,
        log: false,
        rules: vec![
            rule(&["read", "no_such_call", "clock_gettime"], ret::ALLOW, &[]),
            rule(&["personality"], ret::ALLOW, &[(0, Is::Equal, 0, 0)]),
            rule(&["personality"], ret::ALLOW, &[(0, Is::Equal, 0xffff_ffff, 0)]),
            rule(&["clone"], ret::ALLOW, &[(0, Is::MaskedEqual, 0x7e02_0000, 0)]),
            rule(&["socket"], ret::ALLOW, &[(0, Is::NotEqual, 40, 0)]),
            rule(&["kill"], ret::TRAP, &[(0, Is::Greater, 1 << 33, 0), (1, Is::LessEqual, 9, 0)]),
            rule(&["kill"], ret::ALLOW, &[]),
            rule(&["dup2"], ret::ALLOW, &[(0, Is::Less, 10, 0), (0, Is::GreaterEqual, 100, 0)]),
        ],
    };
    let program = compile(&profile).unwrap();
    let ask = |name: &str, a: u64, b: u64| {
        let number = crate::syscalls::table::lines().find(|line| line.name == name).unwrap().number;
        program.run(&call(number as i32, [a, b, 0, 0, 0, 0]))
    };
    let cases = [
        ("read", 3, 0, ret::ALLOW),
        ("write", 1, 0, deny),
        ("personality", 0, 0, ret::ALLOW),
        ("personality", 0xffff_ffff, 0, ret::ALLOW),
        ("personality", 0x1_0000_0000, 0, deny),
        ("clone", 0x11, 0, ret::ALLOW),
        ("clone", 0x1000_0011, 0, deny),
        ("socket", 40, 0, deny),
        ("socket", 2, 0, ret::ALLOW),
        ("socket", 0x1_0000_0028, 0, ret::ALLOW),
        ("kill", (1 << 33) + 1, 9, ret::TRAP),
        ("kill", 1 << 34, 0, ret::TRAP),
        ("kill", 1 << 33, 9, ret::ALLOW),
        ("kill", u64::MAX, 10, ret::ALLOW),
        ("dup2", 9, 0, ret::ALLOW),
        ("dup2", 10, 0, deny),
        ("dup2", 99, 0, deny),
        ("dup2", 100, 0, ret::ALLOW),
        ("dup2", 1 << 40, 0, ret::ALLOW),
    ];
    for (name, a, b, answer) in cases {
        assert_eq!(ask(name, a, b), Some(answer), "{name}({a:#x}, {b})");
    }
    // Newer than the profile.
    assert_eq!(program.run(&call(400, [0; 6])), Some(ret::ERRNO | 38));
    let notify = SeccompProfile { default_action: ret::ALLOW, log: false, rules: vec![rule(&["read"], ret::USER_NOTIF, &[])] };
    assert!(compile(&notify).is_err());
}
