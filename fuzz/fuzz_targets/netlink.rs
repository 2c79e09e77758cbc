//! What is sent to a netlink socket: routes, addresses and links asked for and changed, sockets asked for. No panic, and answers of a sane size.
//!
//! The first byte chooses the protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sentry::net::{NetNamespace, answer_netlink};
use sentry::time::{Clock, Timers};

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let net = NetNamespace::new(Clock::Host, Timers::new(), 64 << 20);
    let protocol = if first & 1 == 0 { 0 } else { 4 };
    assert!(answer_netlink(&net, protocol, rest) < 64 << 20);
});
