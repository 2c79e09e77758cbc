//! What is in an inbox.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Address;
use super::gc::Gc;
use crate::fs::File;

/// `struct ucred`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Credentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// What a receiver gets that asked too late: nobody (`overflowuid`).
impl Default for Credentials {
    fn default() -> Credentials {
        Credentials { pid: 0, uid: 65534, gid: 65534 }
    }
}

/// Open files on their way from one process to another. They count as in flight while this lives.
pub struct Rights {
    files: Vec<Arc<File>>,
    gc: Arc<Gc>,
}

impl Rights {
    pub fn new(files: Vec<Arc<File>>, gc: &Arc<Gc>) -> Rights {
        gc.sent(&files);
        Rights { files, gc: gc.clone() }
    }

    pub fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// The files, arrived.
    pub fn arrive(mut self) -> Vec<Arc<File>> {
        let files = std::mem::take(&mut self.files);
        self.gc.arrived(&files);
        files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = std::mem::take(&mut self.files);
        self.gc.arrived(&files);
        self.gc.let_go(files);
    }
}

/// A piece of a stream, or a packet.
pub struct Message {
    pub bytes: Box<[u8]>,
    /// Bytes of a stream's piece that have been read.
    pub read: usize,
    pub rights: Option<Rights>,
    pub credentials: Credentials,
    /// The sender's name.
    pub from: Option<Arc<Address>>,
    pub urgency: Urgency,
}

/// Whether a piece of a stream is one byte of urgent data (`MSG_OOB`), which is not part of the stream unless asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Urgency {
    #[default]
    None,
    Urgent,
    /// It was received as urgent data; the mark remains.
    Mark,
}

impl Message {
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }
}
