//! eventfd(2): a counter to wait for.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{File, FileOps, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::wait::{PollEvents, WaitQueue};

/// Largest value of the counter.
const MAX: u64 = u64::MAX - 1;

/// What a read takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of the counter.
    Counter,
    /// 1 (`EFD_SEMAPHORE`).
    Semaphore,
}

/// An event counter.
pub struct EventFd {
    count: Mutex<u64>,
    mode: Mode,
    queue: WaitQueue,
}

impl EventFd {
    pub fn new(initial: u64, mode: Mode) -> Arc<EventFd> {
        Arc::new(EventFd { count: Mutex::new(initial), mode, queue: WaitQueue::new() })
    }

    /// Its lines in /proc/PID/fdinfo.
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write;
        let semaphore = u8::from(matches!(self.mode, Mode::Semaphore));
        let _ = write!(text, "eventfd-count: {:16x}\neventfd-semaphore: {semaphore}\n", *self.count.lock());
    }

    /// Adds to the counter without waiting; it stays at its largest value (`eventfd_signal`).
    pub fn signal(&self, value: u64) {
        let mut count = self.count.lock();
        *count = count.saturating_add(value);
        drop(count);
        self.queue.wake(PollEvents::IN);
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        let value = match (*count, self.mode) {
            (0, _) => return Err(Errno::EAGAIN),
            (_, Mode::Semaphore) => 1,
            (value, Mode::Counter) => value,
        };
        *count -= value;
        drop(count);
        self.queue.wake(PollEvents::OUT);
        into.put(&value.to_ne_bytes())?;
        Ok(8)
    }

    fn write_now(&self, from: &mut dyn Source) -> Result<usize, Errno> {
        // Since Linux 6.9 exactly one value. (One of many would be a transfer to go on with.)
        if from.remaining() != 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if from.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value > MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        // One below the greatest is where writers stop; [`EventFd::signal`] may go there.
        if value >= u64::MAX - *count {
            return Err(Errno::EAGAIN);
        }
        *count += value;
        drop(count);
        if value > 0 {
            self.queue.wake(PollEvents::IN);
        }
        Ok(8)
    }
}

impl FileOps for EventFd {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::Ready(self.write_now(from).map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let count = *self.count.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN, count > 0);
        events.set(PollEvents::OUT, count < MAX);
        events.set(PollEvents::ERR, count == u64::MAX);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, read, write};
    use super::*;
    use crate::fs::OpenFlags;

    #[test]
    fn counts_and_gives_back() {
        let event = file(EventFd::new(3, Mode::Counter), OpenFlags::RDWR);
        assert_eq!(write(&event, &4u64.to_ne_bytes()), Ok(8));
        assert_eq!(read(&event, 8), Ok(7u64.to_ne_bytes().to_vec()));
        assert_eq!(read(&event, 8), Err(Errno::EAGAIN));
        assert_eq!(read(&event, 7), Err(Errno::EINVAL));
        assert_eq!(write(&event, &u64::MAX.to_ne_bytes()), Err(Errno::EINVAL));
        assert_eq!(write(&event, &MAX.to_ne_bytes()), Ok(8));
        assert_eq!(event.ops.poll(&event), PollEvents::IN);
        assert_eq!(write(&event, &1u64.to_ne_bytes()), Err(Errno::EAGAIN));
        let full = EventFd::new(MAX, Mode::Counter);
        full.signal(2);
        let full = file(full, OpenFlags::RDWR);
        assert_eq!(full.ops.poll(&full), PollEvents::IN | PollEvents::ERR);
        assert_eq!(write(&full, &0u64.to_ne_bytes()), Err(Errno::EAGAIN));
        assert_eq!(read(&full, 8), Ok(u64::MAX.to_ne_bytes().to_vec()));
        let semaphore = file(EventFd::new(2, Mode::Semaphore), OpenFlags::RDWR);
        assert_eq!(read(&semaphore, 8), Ok(1u64.to_ne_bytes().to_vec()));
        assert_eq!(read(&semaphore, 8), Ok(1u64.to_ne_bytes().to_vec()));
        assert_eq!(read(&semaphore, 8), Err(Errno::EAGAIN));
    }
}
