//! Leases (`fcntl(2)`, `F_SETLEASE`; fs/locks.c): a holder is told before somebody else opens or truncates the file, and has time to give the lease up.
//!
//! Locking: the table's lock is a leaf; holders are signalled and waiters woken after it is released.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::async_io::{self, POLL_MSG};
use super::locks::InodeKey;
use crate::Errno;
use crate::fs::{File, FileId, SignalOwner, Watcher};
use crate::kernel::Container;
use crate::syscalls::{Fail, Restart};
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::{PollEvents, WaitError, WaitQueue};

/// Seconds that a holder has (`fs.lease-break-time`).
pub const BREAK_TIME_SEC: u64 = 45;

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// Nobody else writes.
    Read,
    /// Nobody else has it open.
    Write,
}

/// What somebody else is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    Reads,
    Writes,
}

struct Lease {
    file: FileId,
    owner: Weak<File>,
    fd: i32,
    container: Arc<Container>,
    kind: LeaseKind,
    /// It is being broken: what may be left of it, and until when it must be given up.
    breaking: Option<(Option<LeaseKind>, MonoTime)>,
}

impl Lease {
    /// What an open leaves of the lease, if it is in the way.
    fn left_by(&self, breaker: Breaker) -> Option<Option<LeaseKind>> {
        match (self.kind, breaker) {
            (LeaseKind::Read, Breaker::Reads) => None,
            (LeaseKind::Write, Breaker::Reads) => Some(Some(LeaseKind::Read)),
            (_, Breaker::Writes) => Some(None),
        }
    }
}

impl Cx {
    /// Waits until no lease is in the way of `breaker`.
    ///
    /// # Errors
    /// `EAGAIN` for one that does not wait; an interrupted wait.
    pub async fn break_leases(&self, inode: InodeKey, breaker: Breaker, nonblocking: bool) -> Result<(), Fail> {
        let table = &self.kernel().ipc.leases;
        let break_ns = self.kernel().ipc.tunables.lease_break.get().saturating_mul(1_000_000_000);
        loop {
            let Some(until) = table.break_for(inode, breaker, None, self.now(), break_ns) else { return Ok(()) };
            if nonblocking {
                return Err(Errno::EAGAIN.into());
            }
            let queues = [(&table.queue, PollEvents::IN)];
            let gone = || table.break_for(inode, breaker, None, self.now(), break_ns).is_none().then_some(());
            match self.wait(&queues, until, gone).await {
                Ok(()) => return Ok(()),
                Err(WaitError::TimedOut) => {}
                Err(WaitError::Interrupted) => return Err(Fail::Restart(Restart::Sys)),
            }
        }
    }
}

/// All leases of the sandbox.
#[derive(Default)]
pub struct LeaseTable {
    count: AtomicUsize,
    leases: Mutex<HashMap<InodeKey, Vec<Lease>>>,
    queue: WaitQueue,
}

impl LeaseTable {
    /// Whether there are any: opens need not look otherwise.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Takes, changes or (None) gives up a description's lease. The caller has looked who has the file open.
    ///
    /// # Errors
    /// `EAGAIN` when others' leases are in the way.
    pub fn set(
        self: &Arc<LeaseTable>,
        cx: &Cx,
        file: &Arc<File>,
        fd: i32,
        inode: InodeKey,
        kind: Option<LeaseKind>,
    ) -> Result<(), Errno> {
        let id = file.id();
        let mut leases = self.leases.lock();
        let list = leases.entry(inode).or_default();
        let result = match kind {
            None => {
                list.retain(|lease| lease.file != id);
                Ok(())
            }
            Some(kind)
                if list
                    .iter()
                    .any(|lease| lease.file != id && (kind == LeaseKind::Write || lease.kind == LeaseKind::Write)) =>
            {
                Err(Errno::EAGAIN)
            }
            Some(kind) => {
                match list.iter_mut().find(|lease| lease.file == id) {
                    // While it is broken it can only shrink to what may be left.
                    Some(lease) if lease.breaking.is_some_and(|(left, _)| left != Some(kind)) => return Err(Errno::EAGAIN),
                    Some(lease) => (lease.kind, lease.breaking) = (kind, None),
                    None => list.push(Lease {
                        file: id,
                        owner: Arc::downgrade(file),
                        fd,
                        container: cx.task.container.clone(),
                        kind,
                        breaking: None,
                    }),
                }
                let table: Arc<dyn Watcher> = self.clone();
                file.watch(Arc::downgrade(&table));
                Ok(())
            }
        };
        self.counted(leases);
        self.queue.wake(PollEvents::IN);
        result
    }

    fn counted(&self, mut leases: parking_lot::MutexGuard<'_, HashMap<InodeKey, Vec<Lease>>>) {
        leases.retain(|_, list| !list.is_empty());
        self.count.store(leases.values().map(Vec::len).sum(), Ordering::Relaxed);
    }

    /// Whether a description has a lease, be it broken.
    pub fn holds(&self, file: &File, inode: InodeKey) -> bool {
        self.leases.lock().get(&inode).is_some_and(|list| list.iter().any(|lease| lease.file == file.id()))
    }

    /// `F_GETLEASE`: what is held, or what will be left.
    pub fn get(&self, file: &File, inode: InodeKey) -> Option<LeaseKind> {
        let leases = self.leases.lock();
        let lease = leases.get(&inode)?.iter().find(|lease| lease.file == file.id())?;
        match lease.breaking {
            Some((left, _)) => left,
            None => Some(lease.kind),
        }
    }

    /// Sees to it that no lease is in the way: tells the holders, and gives until when they have time. None: none is. `own`: the opener's own description,
    /// if it has one.
    pub fn break_for(
        &self,
        inode: InodeKey,
        breaker: Breaker,
        own: Option<FileId>,
        now: MonoTime,
        break_ns: u64,
    ) -> Option<MonoTime> {
        let mut told: Vec<(Arc<Container>, SignalOwner, i32)> = Vec::new();
        let mut latest = None;
        let mut leases = self.leases.lock();
        let list = leases.get_mut(&inode)?;
        list.retain_mut(|lease| {
            if Some(lease.file) == own {
                return true;
            }
            let Some(left) = lease.left_by(breaker) else { return true };
            match lease.breaking {
                None => {
                    let until = now.after(break_ns);
                    lease.breaking = Some((left, until));
                    if let Some(owner) = lease.owner.upgrade() {
                        told.push((lease.container.clone(), owner.owner(), lease.fd));
                    }
                    latest = latest.max(Some(until));
                    true
                }
                // Time is up.
                Some((before, until)) if until <= now => {
                    let left = if left.is_none() { None } else { before };
                    if let Some(kind) = left {
                        (lease.kind, lease.breaking) = (kind, None);
                    }
                    left.is_some()
                }
                Some((before, until)) => {
                    lease.breaking = Some((if left.is_none() { None } else { before }, until));
                    latest = latest.max(Some(until));
                    true
                }
            }
        });
        self.counted(leases);
        for (container, owner, fd) in told {
            async_io::signal_owner(&container, owner, fd, POLL_MSG);
        }
        latest
    }
}

impl Watcher for LeaseTable {
    fn file_closed(&self, file: FileId) {
        let mut leases = self.leases.lock();
        for list in leases.values_mut() {
            list.retain(|lease| lease.file != file);
        }
        self.counted(leases);
        self.queue.wake(PollEvents::IN);
    }
}
