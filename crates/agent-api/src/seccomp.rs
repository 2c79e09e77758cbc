//! OCI's `linux.seccomp`, compiled to classic BPF: the same program for the sentry, which interprets it, and for a guest's kernel.
//!
//! Rules of one call: those without conditions count when none with conditions holds, as in libseccomp. Names that the kernel's table of
//! system calls does not have are skipped, as runc does; and as there, a number above all that the profile names gives `ENOSYS` unless the
//! default allows it, so that programs fall back from calls the profile's author could not know.

use std::collections::BTreeMap;

use crate::messages::{SeccompArg, SeccompOperator, SeccompProfile};

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const MAX: usize = 4096;

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("seccomp: {0} has no argument {1}")]
    NoArgument(String, u32),
    #[error("seccomp: the comparison {1} of {0} is unknown")]
    NoOperator(String, i32),
    #[error("seccomp: user notification is not there")]
    Notify,
    #[error("seccomp: the profile becomes a program of more than {MAX} instructions")]
    TooLong,
}

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
const ENOSYS: u32 = 38;

/// `SECCOMP_RET_*`, as far as the compiler looks at them.
mod ret {
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const ACTION: u32 = 0xffff_0000;
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JA: u16 = 0x05;
const RET: u16 = 0x06;

fn load(k: u32) -> Instruction {
    Instruction { code: LOAD, k, ..Instruction::default() }
}

fn give(k: u32) -> Instruction {
    Instruction { code: RET, k, ..Instruction::default() }
}

/// A call's rules: (conditions, action) in order, and what holds without conditions.
#[derive(Default)]
struct Call<'a> {
    conditional: Vec<(&'a [SeccompArg], u32)>,
    always: Option<u32>,
}

/// Compiles a profile. `number` knows the kernel's system calls by name.
///
/// # Errors
/// [`ProfileError`].
pub fn compile(profile: &SeccompProfile, number: impl Fn(&str) -> Option<u64>) -> Result<Vec<Instruction>, ProfileError> {
    let mut calls: BTreeMap<u64, Call<'_>> = BTreeMap::new();
    if profile.default_action & ret::ACTION == ret::USER_NOTIF {
        return Err(ProfileError::Notify);
    }
    for rule in &profile.rules {
        if rule.action & ret::ACTION == ret::USER_NOTIF {
            return Err(ProfileError::Notify);
        }
        for name in &rule.names {
            check(name, &rule.args)?;
            let Some(number) = number(name) else { continue };
            let call = calls.entry(number).or_default();
            match rule.args.is_empty() {
                true => call.always = call.always.or(Some(rule.action)),
                // Several conditions on one argument are alternatives, as runc reads them.
                false if repeats(&rule.args) => call.conditional.extend(rule.args.chunks(1).map(|arg| (arg, rule.action))),
                false => call.conditional.push((&rule.args, rule.action)),
            }
        }
    }
    let code = assemble(profile.default_action, &calls);
    if code.len() > MAX { Err(ProfileError::TooLong) } else { Ok(code) }
}

fn check(name: &str, args: &[SeccompArg]) -> Result<(), ProfileError> {
    for arg in args {
        if arg.index > 5 {
            return Err(ProfileError::NoArgument(name.to_owned(), arg.index));
        }
        if SeccompOperator::try_from(arg.operator).is_err() {
            return Err(ProfileError::NoOperator(name.to_owned(), arg.operator));
        }
    }
    Ok(())
}

fn repeats(args: &[SeccompArg]) -> bool {
    args.iter().enumerate().any(|(at, arg)| args.iter().take(at).any(|other| other.index == arg.index))
}

fn assemble(default: u32, calls: &BTreeMap<u64, Call<'_>>) -> Vec<Instruction> {
    let mut code = vec![load(4), Instruction { code: JEQ, jt: 1, jf: 0, k: ARCH }, give(default), load(0)];
    let allows = matches!(default & ret::ACTION, ret::ALLOW | ret::LOG);
    if let (false, Some((&last, _))) = (allows, calls.last_key_value()) {
        code.push(Instruction { code: JGT, jt: 0, jf: 1, k: last as u32 });
        code.push(give(ret::ERRNO | ENOSYS));
    }
    for (&number, call) in calls {
        let body = body(call, default);
        if let &[one] = body.as_slice() {
            code.push(Instruction { code: JEQ, jt: 0, jf: 1, k: number as u32 });
            code.push(one);
            continue;
        }
        code.push(Instruction { code: JEQ, jt: 1, jf: 0, k: number as u32 });
        code.push(Instruction { code: JA, jt: 0, jf: 0, k: body.len() as u32 });
        code.extend(body);
    }
    code.push(give(default));
    code
}

/// What decides about one call; ends with a return.
fn body(call: &Call<'_>, default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (args, action) in &call.conditional {
        let tests: Vec<Instruction> = args.iter().flat_map(test).collect();
        // Each test ends with a jump over the rest of this rule: filled in now that the distance is known.
        let end = tests.len() + 1;
        code.extend(tests.iter().enumerate().map(|(at, one)| match one.code {
            JA => Instruction { k: (end - at - 1) as u32, ..*one },
            _ => *one,
        }));
        code.push(give(*action));
    }
    code.push(give(call.always.unwrap_or(default)));
    code
}

/// Goes on after the last instruction when the condition holds, else to the `JA`, which leaves the rule.
fn test(arg: &SeccompArg) -> Vec<Instruction> {
    use SeccompOperator as Is;
    let (low, high) = (16 + arg.index * 8, 20 + arg.index * 8);
    let operator = SeccompOperator::try_from(arg.operator).unwrap_or(Is::Equal);
    let (mask, value) = if operator == Is::MaskedEqual { (arg.value, arg.value_two) } else { (u64::MAX, arg.value) };
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let ((mask_low, mask_high), (value_low, value_high)) = (halves(mask), halves(value));
    let and = |k: u32| Instruction { code: AND, k, ..Instruction::default() };
    let leave = Instruction { code: JA, ..Instruction::default() };
    let jump = |code: u16, k: u32, jt: u8, jf: u8| Instruction { code, jt, jf, k };
    // Distances: 0 is the next instruction. The shape of all: high word, low word, leave.
    match operator {
        Is::Equal | Is::MaskedEqual => vec![
            load(high),
            and(mask_high),
            jump(JEQ, value_high, 0, 3),
            load(low),
            and(mask_low),
            jump(JEQ, value_low, 1, 0),
            leave,
        ],
        Is::NotEqual => vec![load(high), jump(JEQ, value_high, 0, 3), load(low), jump(JEQ, value_low, 0, 1), leave],
        Is::Greater => ordered(low, high, jump(JGT, value_high, 4, 0), value_high, jump(JGT, value_low, 1, 0), leave),
        Is::GreaterEqual => ordered(low, high, jump(JGT, value_high, 4, 0), value_high, jump(JGE, value_low, 1, 0), leave),
        // Less is not greater or equal.
        Is::Less => negated(low, high, value_high, jump(JGE, value_low, 0, 1), leave),
        Is::LessEqual => negated(low, high, value_high, jump(JGT, value_low, 0, 1), leave),
    }
}

/// The high word greater: holds; equal: the low word decides.
fn ordered(
    low: u32,
    high: u32,
    greater: Instruction,
    value_high: u32,
    last: Instruction,
    leave: Instruction,
) -> Vec<Instruction> {
    vec![load(high), greater, Instruction { code: JEQ, jt: 0, jf: 2, k: value_high }, load(low), last, leave]
}

/// The high word greater: does not hold; smaller: holds; equal: the low word decides.
fn negated(low: u32, high: u32, value_high: u32, last: Instruction, leave: Instruction) -> Vec<Instruction> {
    vec![
        load(high),
        Instruction { code: JGT, jt: 3, jf: 0, k: value_high },
        Instruction { code: JEQ, jt: 0, jf: 3, k: value_high },
        load(low),
        last,
        leave,
    ]
}
