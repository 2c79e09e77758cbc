//! Stream sockets between a guest and this process: virtio-vsock without the host kernel.
//!
//! The guest connects to context 2, port P: a [`Host`] gives the other end, any unix stream socket. The host connects with [`Vsock::connect`]. Bytes go
//! from socket to guest memory and back with one copy, by `read` and `write`; a slow reader holds up its own connection only (credit), and both
//! directions can be closed by themselves.
//!
//! Rooms: `packet` (headers), `connection` (one stream), `mux` (all of a guest's), `queues` (to and from virtqueues), `device` (a thread that serves
//! them to a VMM by vhost-user). All but the last know neither vhost-user nor threads: a VMM of our own will use them as they are. The guest is
//! hostile: its memory is only touched as volatile memory, and every table and buffer has a bound.

mod backlog;
mod connection;
mod device;
mod mux;
mod packet;
#[cfg(test)]
mod queue_tests;
mod queues;
#[cfg(test)]
mod tests;

pub use connection::BUFFER;
pub use device::{Device, Vsock};
pub use mux::{Counts, Host, MAX_CONNECTIONS, Mux};
pub use packet::{HEADER, HOST_CID, Header, Op, Ports, Shut};
pub use queues::{Moved, receive, transmit};
