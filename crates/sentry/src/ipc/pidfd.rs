//! pidfds: a process (or, with `PIDFD_THREAD`, a thread) as a file (pidfd_open(2)).

use std::any::Any;
use std::sync::{Arc, Weak};

use crate::Errno;
use crate::fs::anon::{self, Anon};
use crate::fs::{File, FileOps, OpenFlags};
use crate::ns::PidNs;
use crate::step::Step;
use crate::task::{Cx, Task, ThreadGroup};
use crate::wait::{PollEvents, WaitQueue};

/// `PIDFD_THREAD`, an `O_*` bit.
pub const PIDFD_THREAD: u32 = 0o200;

/// Whom a pidfd names.
#[derive(Clone)]
pub enum Named {
    /// A process, from its start to its reaping.
    Process(Arc<ThreadGroup>),
    /// A thread. Weak: a thread that is gone leaves only its number.
    Thread { task: Weak<Task>, tid: i32, group: Arc<ThreadGroup> },
}

/// An open pidfd.
pub struct PidFd {
    pub named: Named,
}

impl Named {
    pub fn thread(task: &Arc<Task>) -> Named {
        Named::Thread { task: Arc::downgrade(task), tid: task.tid(), group: task.group.clone() }
    }

    pub fn group(&self) -> &Arc<ThreadGroup> {
        match self {
            Named::Process(group) | Named::Thread { group, .. } => group,
        }
    }

    /// The live thread (a process's first one).
    pub fn task(&self) -> Option<Arc<Task>> {
        match self {
            Named::Process(group) => group.leader(),
            Named::Thread { task, .. } => task.upgrade().filter(|task| !task.is_gone()),
        }
    }

    /// Its number in the container; None when it has been reaped.
    pub fn number(&self) -> Option<i32> {
        match self {
            Named::Process(group) => (!group.reaped()).then_some(group.tgid),
            Named::Thread { task, tid, .. } => task.upgrade().filter(|task| !task.is_gone()).map(|_| *tid),
        }
    }
}

impl PidFd {
    /// Opens one for the caller.
    pub fn file(cx: &Cx, named: Named, flags: OpenFlags) -> Arc<File> {
        let thread = matches!(named, Named::Thread { .. });
        let kept = OpenFlags::RDWR
            | (flags & OpenFlags::NONBLOCK)
            | if thread { OpenFlags::from_bits_retain(PIDFD_THREAD) } else { OpenFlags::empty() };
        anon::file(cx, &Anon::Object("pidfd"), Arc::new(PidFd { named }), kept)
    }

    fn ended(&self) -> bool {
        match &self.named {
            Named::Process(group) => group.ended().is_some(),
            Named::Thread { task, group, .. } => match task.upgrade() {
                // The first thread counts as ended with the others.
                Some(task) => task.is_gone() && (!task.is_leader() || group.ended().is_some()),
                None => true,
            },
        }
    }

    /// The lines of /proc/PID/fdinfo, for a reader in `reader`.
    pub fn fdinfo(&self, reader: &PidNs) -> String {
        let numbers: Option<Vec<i32>> = self.named.number().map(|number| {
            let group = self.named.group();
            let mut numbers = vec![reader.local(number)];
            let inner: Vec<i32> =
                group.pid_ns.chain().filter(|ns| ns.level() > reader.level()).map(|ns| ns.local(number)).collect();
            numbers.extend(inner.into_iter().rev());
            numbers
        });
        match numbers {
            None => "Pid:\t-1\nNSpid:\t-1\n".into(),
            Some(numbers) => {
                let all: Vec<String> = numbers.iter().map(|number| number.to_string()).collect();
                format!("Pid:\t{}\nNSpid:\t{}\n", numbers.first().copied().unwrap_or(0), all.join("\t"))
            }
        }
    }
}

impl FileOps for PidFd {
    /// Readable when it has ended; hung up when it has been waited for too.
    fn poll(&self, _file: &File) -> PollEvents {
        let mut events = PollEvents::empty();
        if self.ended() {
            events |= PollEvents::IN | PollEvents::RDNORM;
        }
        if self.named.number().is_none() {
            events |= PollEvents::HUP;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.named.group().exit_queue)
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(super::pidfd_ioctl::control(self, cx, command, argument))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
