//! Objects by which tasks talk: pipes, epoll, eventfd, unix sockets, futexes, terminals.
//!
//! Each object is non-blocking and pollable: its operations give `EAGAIN` instead of waiting, and wake its
//! [`WaitQueue`](crate::wait::WaitQueue) after a change, outside its own lock. Waiting is done in `syscalls`. See docs/ipc.md.

pub mod aio;
pub mod async_io;
pub mod epoll;
pub mod eventfd;
pub mod futex;
pub mod host_file;
pub mod inotify;
pub mod leases;
pub mod limits;
pub mod locks;
pub mod memfd;
pub mod mqueue;
mod objects;
pub mod pidfd;
mod pidfd_info;
mod pidfd_ioctl;
pub mod pipe;
pub(crate) mod ring;
#[cfg(test)]
mod script_tests;
pub mod signalfd;
pub mod sysv;
pub mod timerfd;
pub mod tty;
pub mod tunables;
pub mod unix;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::fs::File;
use crate::net::socket::{SOCK_STREAM, SocketFile};
use locks::LockTable;
pub use objects::IpcObjects;
use pipe::Pipe;

/// What the containers of a sandbox share.
#[derive(Default)]
pub struct Ipc {
    next_ino: AtomicU64,
    /// Named fifos that are open, by device and inode number.
    fifos: Mutex<HashMap<(u64, u64), Weak<Pipe>>>,
    /// File locks.
    pub locks: Arc<LockTable>,
    pub leases: Arc<leases::LeaseTable>,
    pub epoll_topology: epoll::Topology,
    pub inotify: Arc<inotify::Limits>,
    pub aio: Arc<aio::Requests>,
    pub tunables: Arc<tunables::Tunables>,
}

impl Ipc {
    /// A number for an anonymous inode.
    pub fn next_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The pipe of a named fifo; it lives while the fifo is open.
    fn fifo(&self, inode: (u64, u64)) -> Arc<Pipe> {
        let mut fifos = self.fifos.lock();
        if let Some(pipe) = fifos.get(&inode).and_then(Weak::upgrade) {
            return pipe;
        }
        fifos.retain(|_, pipe| pipe.strong_count() > 0);
        let pipe = Pipe::new();
        fifos.insert(inode, Arc::downgrade(&pipe));
        pipe
    }
}

/// Whether a write of no bytes means something to the file (datagrams).
pub fn takes_empty_writes(file: &File) -> bool {
    SocketFile::of(file).is_some_and(|socket| socket.kind().kind != SOCK_STREAM)
}

#[cfg(test)]
mod tests {
    //! What the tests of this room share: files around objects, without a kernel.

    use std::sync::Arc;

    use crate::Errno;
    use crate::fs::anon::{Anon, AnonInode};
    use crate::fs::{File, FileOps, OpenFlags, Origin, WriteAt};
    use crate::step::Step;

    pub fn file(ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
        let inode = AnonInode::new(&Anon::Object("test"), 1, (0, 0), 0);
        File::new(ops, Origin::Anonymous { inode, name: "test".into() }, flags)
    }

    pub fn now<T>(step: Step<'_, T>) -> T {
        match step {
            Step::Ready(value) => value,
            Step::Wait(_) => panic!("waits for the host"),
        }
    }

    pub fn write(file: &File, mut bytes: &[u8]) -> Result<usize, Errno> {
        now(file.ops.write(file, WriteAt::Offset(0), &mut bytes)).map(|written| written.bytes)
    }

    /// A sink of at most `max` bytes.
    pub struct Bounded {
        pub bytes: Vec<u8>,
        pub max: usize,
    }

    impl crate::mm::Sink for Bounded {
        fn remaining(&self) -> usize {
            self.max - self.bytes.len()
        }

        fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
            let n = bytes.len().min(self.remaining());
            self.bytes.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
    }

    pub fn read(file: &File, max: usize) -> Result<Vec<u8>, Errno> {
        let mut into = Bounded { bytes: Vec::new(), max };
        now(file.ops.read(file, 0, &mut into))?;
        Ok(into.bytes)
    }
}
