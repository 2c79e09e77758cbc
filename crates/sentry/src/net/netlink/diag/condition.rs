//! [`Condition`]: which sockets are wanted, in the byte code of `INET_DIAG_REQ_BYTECODE` (net/ipv4/inet_diag.c).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::config::contains;

use super::Told;
use crate::net::address::{Endpoint, Family, array};

/// Most operations; Linux's limit is that of a message.
const MOST: usize = 4096;

/// A checked program: every jump goes forward, to an operation or to the end.
pub(super) struct Condition(Vec<Step>);

struct Step {
    test: Test,
    /// Where the next step is, in operations of four bytes, if it holds and if not.
    yes: usize,
    no: usize,
}

/// Which end.
#[derive(Debug, Clone, Copy)]
enum End {
    Near,
    Far,
}

enum Test {
    Always,
    Never,
    AtLeast(End, u16),
    AtMost(End, u16),
    Equal(End, u16),
    /// The port was not chosen by the program.
    Automatic,
    /// A port (-1: any), and the start of an address, if any is asked for.
    Host {
        end: End,
        port: i32,
        within: Option<(IpAddr, u8)>,
    },
    Device(i32),
    /// The words behind an operation are no operations.
    Data,
}

impl Condition {
    /// Checks a program. None: Linux would refuse it, or it asks for marks or control groups.
    pub fn new(code: &[u8]) -> Option<Condition> {
        if code.is_empty() || !code.len().is_multiple_of(4) || code.len() / 4 > MOST {
            return None;
        }
        let count = code.len() / 4;
        let mut steps = Vec::with_capacity(count);
        while steps.len() < count {
            let at = steps.len();
            let rest = code.get(at * 4..)?;
            let [kind, yes, ..]: [u8; 4] = array(rest, 0)?;
            let (yes, no) = (usize::from(yes), usize::from(u16::from_le_bytes(array(rest, 2)?)));
            let port = || array(rest, 6).map(u16::from_le_bytes);
            let (test, words) = match kind {
                0 => (Test::Always, 1),
                1 => (Test::Never, 1),
                2 => (Test::AtLeast(End::Near, port()?), 2),
                3 => (Test::AtMost(End::Near, port()?), 2),
                4 => (Test::AtLeast(End::Far, port()?), 2),
                5 => (Test::AtMost(End::Far, port()?), 2),
                6 => (Test::Automatic, 1),
                7 => host(End::Near, rest)?,
                8 => host(End::Far, rest)?,
                9 => (Test::Device(array(rest, 4).map(i32::from_le_bytes)?), 2),
                11 => (Test::Equal(End::Near, port()?), 2),
                12 => (Test::Equal(End::Far, port()?), 2),
                _ => return None,
            };
            // A jump that is never taken may be anything.
            let lands = |by: usize| by >= 4 && by.is_multiple_of(4);
            let (may_hold, may_not) = (!matches!(test, Test::Never), !matches!(test, Test::Always));
            if (may_hold && !lands(yes)) || (may_not && !lands(no)) {
                return None;
            }
            steps.push(Step { test, yes: at + yes / 4, no: at + no / 4 });
            for _ in 1..words {
                steps.push(Step { test: Test::Data, yes: 0, no: 0 });
            }
        }
        // A jump out of the program means that the socket is not wanted; one into an operation's words is refused.
        let hits = |to: usize| steps.get(to).is_some_and(|step| matches!(step.test, Test::Data));
        let bad = steps.iter().any(|step| !matches!(step.test, Test::Data) && (hits(step.yes) || hits(step.no)));
        (!bad && steps.len() == count).then_some(Condition(steps))
    }

    pub fn holds(&self, told: &Told) -> bool {
        let mut at = 0;
        // Each step goes forward, so this ends.
        while let Some(step) = self.0.get(at) {
            at = if step.test.holds(told) { step.yes } else { step.no };
        }
        at == self.0.len()
    }
}

/// `struct inet_diag_hostcond` behind its operation, and how many words both are.
fn host(end: End, rest: &[u8]) -> Option<(Test, usize)> {
    let [family, prefix] = array(rest, 4)?;
    let port = array(rest, 8).map(i32::from_le_bytes)?;
    let (within, words) = match family {
        0 if prefix == 0 => (None, 3),
        2 if prefix <= 32 => (Some((Ipv4Addr::from(array::<4>(rest, 12)?).into(), prefix)), 4),
        10 if prefix <= 128 => (Some((Ipv6Addr::from(array::<16>(rest, 12)?).into(), prefix)), 7),
        _ => return None,
    };
    Some((Test::Host { end, port, within }, words))
}

impl Test {
    fn holds(&self, told: &Told) -> bool {
        let of = |end: &End| -> Endpoint {
            match end {
                End::Near => told.local,
                End::Far => told.remote,
            }
        };
        match self {
            Test::Always => true,
            Test::Never | Test::Data => false,
            Test::AtLeast(end, port) => of(end).port >= *port,
            Test::AtMost(end, port) => of(end).port <= *port,
            Test::Equal(end, port) => of(end).port == *port,
            Test::Automatic => !told.bound,
            Test::Device(index) => told.device == *index,
            Test::Host { end, port, within } => {
                let has = of(end);
                if *port != -1 && *port != i32::from(has.port) {
                    return false;
                }
                // An IPv6 socket's IPv4 address is in networks of IPv4, and of IPv6 only in the one of all.
                let of_all = |net: IpAddr, prefix| net.is_ipv6() && prefix == 0 && told.family == Family::Inet6;
                within.is_none_or(|(net, prefix)| contains(net, prefix, has.ip) || of_all(net, prefix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(near: u16, far: u16) -> Told {
        let ip: IpAddr = Ipv4Addr::new(10, 0, 0, 7).into();
        let (local, remote) = (Endpoint::new(ip, near), Endpoint::new(Ipv4Addr::LOCALHOST.into(), far));
        Told { bound: true, ..Told::new(Family::Inet, 1, local, remote) }
    }

    fn op(kind: u8, yes: u8, no: u16) -> [u8; 4] {
        let [low, high] = no.to_le_bytes();
        [kind, yes, low, high]
    }

    #[test]
    fn ports_addresses_and_jumps() {
        // sport >= 20 and dport = 80
        let both = [op(2, 8, 20), op(0, 0, 20), op(12, 8, 12), op(0, 0, 80)].concat();
        let condition = Condition::new(&both).expect("sound");
        assert!(condition.holds(&told(20, 80)) && !condition.holds(&told(19, 80)) && !condition.holds(&told(20, 81)));
        let host = [op(7, 16, 20), [2, 8, 0, 0], (-1i32).to_le_bytes(), [10, 9, 9, 9]].concat();
        let condition = Condition::new(&host).expect("sound");
        assert!(condition.holds(&told(1, 2)), "10.9.9.9/8");
        let mapped = Told { family: Family::Inet6, ..told(1, 2) };
        assert!(condition.holds(&mapped), "an IPv6 socket's, too");
        let all_v6 = [&op(7, 28, 32)[..], &[10, 0, 0, 0], &(-1i32).to_le_bytes(), &[0; 16]].concat();
        let condition = Condition::new(&all_v6).expect("sound");
        assert!(condition.holds(&mapped) && !condition.holds(&told(1, 2)), "::/0");
        let auto = Condition::new(&op(6, 4, 8)).expect("sound");
        assert!(!auto.holds(&told(1, 2)));
    }

    #[test]
    fn broken_programs_are_refused() {
        let bad: [&[u8]; 7] = [
            &[],
            &[0, 4, 0],
            &op(99, 4, 8),
            // A jump to itself, one into a word of data, one that is crooked.
            &op(6, 0, 8),
            &[op(2, 4, 8), op(0, 0, 1)].concat(),
            &op(6, 5, 8),
            // The address is cut off.
            &[op(7, 16, 20), [2, 8, 0, 0], [0xff; 4]].concat(),
        ];
        for code in bad {
            assert!(Condition::new(code).is_none(), "{code:?}");
        }
    }
}
