//! The packet stack: from Ethernet frames to TCP segments, for a sentry on a pod's network.
//!
//! It knows nothing of a kernel, of sockets or of a host: frames come in by [`ip::Network::receive`] and leave by [`ip::Link`], time is a number
//! of nanoseconds that the caller passes. So two stacks can be wired back to back and run in virtual time (the tests of `ip` and `tcp` do).
//!
//! - [`config`]: what a network namespace looked like: interfaces, addresses, routes, neighbours.
//! - [`ip`]: Ethernet, ARP and neighbour discovery, IPv4 and IPv6, fragments, ICMP, routes. All sockets share it; each part has a lock of its own,
//!   none is held while another is taken or a frame is sent.
//! - [`tcp`]: one connection's protocol ([`tcp::Connection`]), without addresses, locks or timers: it tells its deadline, the caller comes back.
//!
//! Wire formats are read by smoltcp's `wire`, whose types are checked on parsing. Its TCP state machine is not used: `tcp::Socket`'s `process`
//! and `dispatch` are private to its own `Interface`, which looks at every socket for every packet, and it has no retransmission by SACK, no
//! segments larger than the MTU (GSO) and no backlog.
//!
//! Everything that comes from the wire is hostile: nothing here panics on it, and every queue has a bound.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic))]

pub mod config;
pub mod ip;
pub mod tcp;

/// Nanoseconds on a clock that never goes back.
pub type Ns = u64;

pub const SECOND: Ns = 1_000_000_000;
pub const MILLISECOND: Ns = 1_000_000;
