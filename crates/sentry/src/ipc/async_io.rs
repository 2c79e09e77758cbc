//! Signals when a file becomes ready: `O_ASYNC`, `F_SETOWN`, `F_SETSIG`; and `SIGURG` for urgent data, which a socket's owner gets without being asked
//! (fcntl(2); fs/fcntl.c).

use std::sync::{Arc, Weak};

use crate::fs::{File, SignalOwner};
use crate::kernel::Container;
use crate::net::socket::SocketFile;
use crate::signal::{SigInfo, Signal};
use crate::task::{Creds, Cx, Task};
use crate::wait::{Notify, PollEvents, Share};

/// `si_code`s of `SIGIO` (`POLL_*`), and the events they stand for.
const POLL_IN: (i32, u32) = (1, 0x41);
const POLL_OUT: (i32, u32) = (2, 0x304);
const POLL_ERR: (i32, u32) = (4, 0x8);
const POLL_HUP: (i32, u32) = (6, 0x18);
/// A lease is to be given up.
pub const POLL_MSG: (i32, u32) = (3, 0x441);

struct Watcher {
    file: Weak<File>,
    fd: i32,
    container: Arc<Container>,
}

impl Notify for Watcher {
    fn notify(&self, events: PollEvents) {
        let Some(file) = self.file.upgrade() else { return };
        let kind = if events.contains(PollEvents::HUP) {
            POLL_HUP
        } else if events.contains(PollEvents::ERR) {
            POLL_ERR
        } else if events.intersects(PollEvents::IN | PollEvents::PRI | PollEvents::RDHUP) {
            POLL_IN
        } else {
            POLL_OUT
        };
        signal_owner(&self.container, file.owner(), self.fd, kind);
    }
}

/// Whether a file can tell of its readiness by signals.
pub fn possible(file: &File) -> bool {
    file.ops.wait_queue().is_some()
}

/// Begins to send signals for a file, by the descriptor `fd`.
pub fn start(cx: &Cx, file: &Arc<File>, fd: i32) {
    let Some(queue) = file.ops.wait_queue() else { return };
    let watcher = Watcher { file: Arc::downgrade(file), fd, container: cx.task.container.clone() };
    let mask = PollEvents::IN | PollEvents::PRI | PollEvents::OUT | PollEvents::RDHUP;
    let old = file.set_async(Some(queue.register(mask, Share::All, Arc::new(watcher))));
    drop(old);
}

/// Watches a socket for urgent data.
struct UrgentWatcher(Watcher);

impl Notify for UrgentWatcher {
    fn notify(&self, events: PollEvents) {
        // Ends and errors wake everybody.
        if events.contains(PollEvents::PRI)
            && !events.intersects(PollEvents::HUP | PollEvents::ERR)
            && let Some(file) = self.0.file.upgrade()
        {
            signal(&self.0.container, file.owner(), |_| (SigInfo::kernel(Signal::URG), None));
        }
    }
}

/// The owner of a socket has been set: begins, or with nobody stops, to send `SIGURG`.
pub fn owner_changed(cx: &Cx, file: &Arc<File>) {
    let socket = SocketFile::of(file).is_some();
    let queue = file.ops.wait_queue().filter(|_| socket && file.owner().id != 0);
    let registration = queue.map(|queue| {
        let watcher = Watcher { file: Arc::downgrade(file), fd: -1, container: cx.task.container.clone() };
        queue.register(PollEvents::PRI, Share::All, Arc::new(UrgentWatcher(watcher)))
    });
    let old = file.set_urgent(registration);
    drop(old);
}

/// Sends no more.
pub fn stop(file: &File) {
    let old = file.set_async(None);
    drop(old);
}

/// Signals a file's owner, if whoever set it may signal that.
pub fn signal_owner(container: &Container, owner: SignalOwner, fd: i32, (code, band): (i32, u32)) {
    let plain = SigInfo::kernel(Signal::IO);
    signal(container, owner, |owner| match Signal::new(owner.signal) {
        None => (plain, None),
        // A queue that is full loses the information, not the event.
        Some(signal) => (SigInfo::poll(signal, code, i64::from(band), fd), Some(plain)),
    });
}

/// Sends a file's owner a signal, and if there is no room for it another.
fn signal(container: &Container, owner: SignalOwner, what: impl Fn(SignalOwner) -> (SigInfo, Option<SigInfo>)) {
    let send = |task: Option<&Task>, info: SigInfo| match (owner.kind, task) {
        (SignalOwner::TID, Some(task)) => task.send_signal(info),
        (_, Some(task)) => task.group.send_signal(info),
        (_, None) => Ok(()),
    };
    let tell = |task: &Task| {
        if !permitted(owner, &task.creds()) {
            return;
        }
        let (first, else_) = what(owner);
        if send(Some(task), first).is_err()
            && let Some(other) = else_
        {
            let _ = send(Some(task), other);
        }
    };
    match owner.kind {
        _ if owner.id == 0 => {}
        SignalOwner::TID => container.pids.task(owner.id).iter().for_each(|task| tell(task)),
        SignalOwner::PROCESS => first_thread(container, owner.id).iter().for_each(|task| tell(task)),
        _ => container.pids.broadcast(|| {
            for group in container.pids.process_group(owner.id) {
                group.threads().first().iter().for_each(|task| tell(task));
            }
        }),
    }
}

fn first_thread(container: &Container, pid: i32) -> Option<Arc<Task>> {
    container.pids.process(pid)?.threads().first().cloned()
}

/// `sigio_perm`.
fn permitted(owner: SignalOwner, to: &Creds) -> bool {
    owner.euid == 0 || [to.uid, to.suid].iter().any(|&uid| uid == owner.euid || uid == owner.uid)
}
