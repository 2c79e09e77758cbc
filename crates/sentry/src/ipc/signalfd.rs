//! signalfd(2): pending signals to be read.
//!
//! Reading takes the reader's signals: its thread's and its process's. Whose they are is noted when a read begins (`admit`), so two that read the same
//! description at the same time may take each other's. Readiness is that of the last reader, at first the maker.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{Direction, File, FileOps};
use crate::mm::Sink;
use crate::signal::{SigInfo, SigSet};
use crate::step::Step;
use crate::syscalls::Fail;
use crate::task::{Cx, Task, ThreadGroup};
use crate::wait::{Notify, PollEvents, Registration, Share, WaitQueue};

/// `sizeof(struct signalfd_siginfo)`.
const SIZE: usize = 128;

/// Signals of a process that can be read.
pub struct SignalFd {
    reader: Mutex<Reader>,
    mask: Mutex<SigSet>,
    queue: WaitQueue,
}

/// Who reads.
struct Reader {
    group: Weak<ThreadGroup>,
    task: Weak<Task>,
    /// Processes that have read, each telling our queue of its signals.
    forwards: Vec<(Weak<ThreadGroup>, Registration)>,
}

/// Passes a process's signals on to a queue.
struct Forward(WaitQueue);

impl Notify for Forward {
    fn notify(&self, events: PollEvents) {
        self.0.wake(events);
    }
}

impl Reader {
    fn become_task(&mut self, task: &Arc<Task>, queue: &WaitQueue) {
        self.task = Arc::downgrade(task);
        if self.group.as_ptr() == Arc::as_ptr(&task.group) {
            return;
        }
        self.group = Arc::downgrade(&task.group);
        self.forwards.retain(|(group, _)| group.strong_count() > 0);
        if !self.forwards.iter().any(|(group, _)| group.as_ptr() == Arc::as_ptr(&task.group)) {
            let forward = task.group.signal_sent.register(PollEvents::IN, Share::All, Arc::new(Forward(queue.clone())));
            self.forwards.push((Arc::downgrade(&task.group), forward));
        }
    }
}

impl SignalFd {
    pub fn new(task: &Arc<Task>, mask: SigSet) -> Arc<SignalFd> {
        let queue = WaitQueue::new();
        let mut reader = Reader { group: Weak::new(), task: Weak::new(), forwards: Vec::new() };
        reader.become_task(task, &queue);
        Arc::new(SignalFd { reader: Mutex::new(reader), mask: Mutex::new(mask.blockable()), queue })
    }

    pub fn mask(&self) -> SigSet {
        *self.mask.lock()
    }

    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.blockable();
        self.queue.wake(PollEvents::IN);
    }

    /// The thread whose signals count: the last reader, or, when it has gone, its process's first.
    fn task(&self) -> Option<Arc<Task>> {
        let (group, task) = {
            let reader = self.reader.lock();
            (reader.group.upgrade()?, reader.task.upgrade())
        };
        let threads = group.threads();
        let reader = task.filter(|reader| threads.iter().any(|task| Arc::ptr_eq(task, reader)));
        reader.or_else(|| threads.first().cloned())
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        if into.remaining() < SIZE {
            return Err(Errno::EINVAL);
        }
        let task = self.task().ok_or(Errno::EAGAIN)?;
        let mask = *self.mask.lock();
        let mut done = 0;
        while into.remaining() >= SIZE
            && let Some(info) = task.take_signal(mask)
        {
            done += into.put(&encode(&info))?;
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }
}

/// As `struct signalfd_siginfo`.
fn encode(info: &SigInfo) -> [u8; SIZE] {
    let (timer, overrun) = info.timer_fields();
    let (band, fd) = info.poll_fields();
    let (user, system) = info.child_ticks();
    let is_poll = info.signal == crate::signal::Signal::IO && info.from_kernel();
    let is_timer = info.code == -2;
    let only = |when: bool, value: u32| if when { value } else { 0 };
    let words: [u32; 12] = [
        info.signal.number() as u32,
        info.errno as u32,
        info.code as u32,
        only(!is_poll && !is_timer, info.pid() as u32),
        only(!is_poll && !is_timer, info.uid()),
        only(is_poll, fd as u32),
        only(is_timer, timer as u32),
        only(is_poll, band as u32),
        only(is_timer, overrun as u32),
        0,
        info.status() as u32,
        info.value() as u32,
    ];
    let longs = [info.value(), user, system, info.addr()];
    let mut bytes = [0; SIZE];
    let fields = words.iter().flat_map(|word| word.to_le_bytes()).chain(longs.iter().flat_map(|long| long.to_le_bytes()));
    for (to, from) in bytes.iter_mut().zip(fields) {
        *to = from;
    }
    bytes
}

impl FileOps for SignalFd {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn admit(&self, _file: &File, cx: &Cx, _direction: Direction) -> Result<(), Fail> {
        self.reader.lock().become_task(&cx.task, &self.queue);
        Ok(())
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let mask = *self.mask.lock();
        let pending = self.task().map_or(SigSet::EMPTY, |task| task.pending_signals());
        if pending.0 & mask.0 != 0 { PollEvents::IN } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
