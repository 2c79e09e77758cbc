//! Unix domain sockets (unix(7)): stream, datagram and sequenced-packet.
//!
//! A [`UnixSocket`] is the open file around a [`Core`], which others (a peer, a listener's backlog, a name) may hold. Each core has an inbox of
//! [`Message`]s; sending puts one into the inbox of the peer. Two cores' locks are never held together. Closing the file
//! closes its core, which breaks the circle of peers.
//!
//! Files in messages are *in flight*; circles of them are collected by [`gc`].

mod api;
pub mod gc;
mod message;
mod names;
mod socket;
mod transfer;

pub use api::{credentials, seen_by};
pub use message::{Credentials, Message, Rights, Urgency};
pub use names::{Address, Names};
pub use socket::{Core, Kind, Shown, UnixSocket};
pub use transfer::{Outgoing, Received};

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What the sockets of a network namespace share.
#[derive(Default)]
pub struct Shared {
    pub names: Names,
    /// The whole sandbox's: files in flight may be of any namespace.
    pub gc: Arc<gc::Gc>,
    /// All sockets, for /proc/net/unix. A leaf lock.
    all: Mutex<BTreeMap<u64, Weak<Core>>>,
}

impl Shared {
    /// Of another network namespace of the same sandbox.
    pub fn apart(&self) -> Shared {
        Shared { gc: self.gc.clone(), ..Shared::default() }
    }

    /// All sockets, as sock_diag(7) tells of them.
    pub fn shown(&self) -> Vec<Shown> {
        let cores: Vec<_> = self.all.lock().values().filter_map(Weak::upgrade).collect();
        cores.iter().map(|core| core.shown()).collect()
    }

    /// /proc/net/unix.
    pub fn report(&self) -> String {
        let mut text = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_string();
        let cores: Vec<_> = self.all.lock().values().filter_map(Weak::upgrade).collect();
        for core in cores {
            text += &core.line();
        }
        text
    }
}

#[cfg(test)]
mod tests;
