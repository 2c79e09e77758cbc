//! The filters of sentry and gofer: every number, every way in, every rule about an argument.

use std::collections::BTreeSet;

use hostcall::seccomp::{AllowList, Arg, Call};

use crate::probe::{self, Fate, NONSENSE, X32};

pub fn check(name: &str, list: &AllowList, failures: &mut Vec<String>) {
    let attempts = attempts(list);
    let found = run(list, &attempts, usize::MAX);
    failures.extend(found.iter().map(|what| format!("{name}: {what}")));
    notices_a_difference(name, list, &attempts, failures);
    println!("{name}: {} calls allowed, {} attempts made", list.calls.len(), attempts.len());
}

/// One way to ask the host for something, and whether it may go through.
struct Attempt {
    what: String,
    how: How,
    allowed: bool,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Call(i64, [u64; 6]),
    Int80(i64),
    Vsyscall(u64),
}

fn attempts(list: &AllowList) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut add = |what: String, how, allowed| all.push(Attempt { what, how, allowed });
    for number in probe::numbers() {
        add(format!("call {number}"), How::Call(number, NONSENSE), list.allows(number, &NONSENSE));
        if number & X32 == 0 {
            add(format!("x32 call {number}"), How::Call(number | X32, NONSENSE), false);
        }
    }
    // All numbers mean something else there.
    (0..480).for_each(|number| add(format!("int 0x80 call {number}"), How::Int80(number), false));
    if probe::has_vsyscalls() {
        probe::VSYSCALLS.into_iter().for_each(|entry| add(format!("vsyscall {entry:#x}"), How::Vsyscall(entry), false));
    }
    for call in list.calls.iter().filter(|call| !call.ways.is_empty()) {
        for args in arguments(call) {
            let what = format!("{}{}", call.name, shown(call, &args));
            add(what, How::Call(call.number, args), list.allows(call.number, &args));
        }
    }
    all
}

/// Makes the attempts under `filter`'s filter, and says which had another outcome, up to `enough` of them.
fn run(filter: &AllowList, attempts: &[Attempt], enough: usize) -> Vec<String> {
    let program = filter.compile().expect("a filter");
    let confine = || seccompiler::apply_filter(&program).is_ok();
    let mut found = Vec::new();
    for attempt in attempts {
        let fate = probe::in_child(confine, || match attempt.how {
            How::Call(number, args) => drop(probe::call(number, args)),
            How::Int80(number) => probe::int80(number),
            How::Vsyscall(entry) => probe::vsyscall(entry),
        });
        match (attempt.allowed, fate) {
            (false, Fate::Passed) => found.push(format!("{} is not on the list and goes through", attempt.what)),
            (true, Fate::Refused) => found.push(format!("{} is on the list and is refused", attempt.what)),
            _ => {}
        }
        if found.len() >= enough {
            break;
        }
    }
    found
}

/// The probe's own test: a call more in the filter than on the list, one less, a multiplexer without its rule.
fn notices_a_difference(name: &str, list: &AllowList, attempts: &[Attempt], failures: &mut Vec<String>) {
    let with = |call: Call| {
        let mut filter = list.clone();
        filter.calls.retain(|known| known.number != call.number);
        filter.calls.push(call);
        filter
    };
    let mut less = list.clone();
    less.calls.remove(0);
    let mutants = [
        ("a call more", with(Call::any(libc::SYS_getppid, "getppid", ""))),
        ("a call less", less),
        ("a multiplexer without its rule", with(Call::any(libc::SYS_fcntl, "fcntl", ""))),
    ];
    for (what, filter) in mutants {
        if run(&filter, attempts, 1).is_empty() {
            failures.push(format!("{name}: the probe does not notice {what}"));
        }
    }
}

/// Arguments around the rules of a call: each value it allows, and many it does not.
fn arguments(call: &Call) -> Vec<[u64; 6]> {
    let mut values: [BTreeSet<u32>; 6] = Default::default();
    for arg in call.ways.iter().flatten() {
        let (index, known) = match *arg {
            Arg::Is(index, value) => (index, vec![value]),
            Arg::Without(index, bits) => (index, vec![0, bits]),
            Arg::Masked(index, mask, value) => (index, vec![value, value | !mask]),
        };
        let Some(values) = values.get_mut(usize::from(index)) else { continue };
        for known in known {
            // One bit off, and beside it.
            values.extend((0..32).map(|bit| known ^ (1 << bit)));
            values.extend([known, known.wrapping_add(1), known.wrapping_sub(1)]);
        }
        // Small numbers are what commands of multiplexers mostly are; terminal ioctls are 0x54xx.
        values.extend((0..64).chain(1024..1044).chain(0x5400..0x5480));
    }
    let mut all = vec![[0; 6]];
    for (index, values) in values.iter().enumerate() {
        if values.is_empty() {
            // Nothing harmful, whatever the call is.
            all.iter_mut().for_each(|args| args[index] = u64::MAX);
            continue;
        }
        // All of the first rule's, and few of the others', or there would be too many.
        let few = all.len() > 1;
        let chosen: Vec<u32> = match few {
            true => values.iter().copied().filter(|value| value.count_ones() <= 1 || *value < 8).collect(),
            false => values.iter().copied().collect(),
        };
        all = all
            .iter()
            .step_by(if few { 7 } else { 1 })
            .flat_map(|args| chosen.iter().map(move |value| with(args, index, *value)))
            .collect();
    }
    // High halves count for nothing, as in the kernel's `int` arguments: set in every other attempt.
    all.iter_mut().step_by(2).for_each(|args| args.iter_mut().filter(|arg| **arg != u64::MAX).for_each(|arg| *arg |= 1 << 40));
    all
}

fn with(args: &[u64; 6], index: usize, value: u32) -> [u64; 6] {
    let mut args = *args;
    args[index] = value.into();
    args
}

fn shown(call: &Call, args: &[u64; 6]) -> String {
    let used: BTreeSet<u8> = call
        .ways
        .iter()
        .flatten()
        .map(|arg| match *arg {
            Arg::Is(index, _) | Arg::Without(index, _) | Arg::Masked(index, _, _) => index,
        })
        .collect();
    let shown: Vec<String> = used.iter().map(|index| format!("arg{index} = {:#x}", args[usize::from(*index)])).collect();
    format!("({})", shown.join(", "))
}
