//! timerfd(2): expirations to wait for.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{File, FileOps};
use crate::mm::Sink;
use crate::step::Step;
use crate::time::{Clock, MonoTime, Timer, Timers};
use crate::wait::{PollEvents, WaitQueue};

/// Which clock it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Monotonic,
    Realtime,
}

/// A timer's setting, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setting {
    /// Time to the first expiration from now; 0: disarmed.
    pub value: u64,
    /// Time between later ones; 0: only one.
    pub interval: u64,
}

/// A timer to read from.
pub struct TimerFd {
    pub base: Base,
    clock: Clock,
    timers: Arc<Timers>,
    state: Mutex<State>,
    queue: WaitQueue,
    me: Weak<TimerFd>,
}

#[derive(Default)]
struct State {
    expirations: u64,
    next: Option<MonoTime>,
    interval: u64,
    timer: Option<Timer>,
}

impl TimerFd {
    pub fn new(base: Base, clock: Clock, timers: Arc<Timers>) -> Arc<TimerFd> {
        Arc::new_cyclic(|me| TimerFd { base, clock, timers, state: Mutex::default(), queue: WaitQueue::new(), me: me.clone() })
    }

    /// The clock's time now in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        match self.base {
            Base::Monotonic => self.clock.monotonic().0,
            Base::Realtime => self.clock.realtime_ns(),
        }
    }

    /// Arms or disarms it; `first` is the first expiration as a time from now (0 is at once), None disarms. Returns the old setting.
    pub fn set(&self, first: Option<u64>, interval: u64) -> Setting {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        state.catch_up(now);
        let old = state.setting(now);
        let disarmed = state.timer.take();
        state.expirations = 0;
        state.next = first.map(|first| now.after(first));
        state.interval = interval;
        self.arm(&mut state);
        drop(state);
        drop(disarmed);
        old
    }

    /// The setting as it is now.
    pub fn get(&self) -> Setting {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        state.catch_up(now);
        state.setting(now)
    }

    /// Its lines in /proc/PID/fdinfo.
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write;
        let setting = self.get();
        let ticks = self.state.lock().expirations;
        let clock = match self.base {
            Base::Realtime => 0,
            Base::Monotonic => 1,
        };
        let parts = |ns: u64| format!("({}, {})", ns / 1_000_000_000, ns % 1_000_000_000);
        let _ = write!(
            text,
            "clockid: {clock}\nticks: {ticks}\nsettime flags: 00\nit_value: {}\nit_interval: {}\n",
            parts(setting.value),
            parts(setting.interval)
        );
    }

    fn arm(&self, state: &mut State) {
        let Some(at) = state.next else { return };
        let me = self.me.clone();
        let fire = move || {
            if let Some(me) = me.upgrade() {
                me.fire();
            }
        };
        state.timer = Some(self.timers.arm(at, Arc::new(fire)));
    }

    fn fire(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        let fired = state.timer.take();
        state.catch_up(now);
        // With unread expirations nobody needs another wake: the next read arms it again.
        if state.expirations == 0 {
            self.arm(&mut state);
        }
        drop(state);
        drop(fired);
        self.queue.wake(PollEvents::IN);
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        state.catch_up(self.clock.monotonic());
        if state.expirations == 0 {
            return Err(Errno::EAGAIN);
        }
        let count = std::mem::take(&mut state.expirations);
        if state.timer.is_none() {
            self.arm(&mut state);
        }
        drop(state);
        into.put(&count.to_ne_bytes())?;
        Ok(8)
    }
}

impl State {
    /// Counts the expirations up to `now`.
    fn catch_up(&mut self, now: MonoTime) {
        let Some(next) = self.next.filter(|&next| next <= now) else { return };
        if self.interval == 0 {
            self.expirations += 1;
            self.next = None;
            return;
        }
        let periods = now.since(next) / self.interval + 1;
        self.expirations = self.expirations.saturating_add(periods);
        self.next = Some(next.after(periods.saturating_mul(self.interval)));
    }

    fn setting(&self, now: MonoTime) -> Setting {
        let value = self.next.map_or(0, |next| next.since(now).max(1));
        Setting { value, interval: self.interval }
    }
}

impl FileOps for TimerFd {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let mut state = self.state.lock();
        state.catch_up(self.clock.monotonic());
        if state.expirations > 0 { PollEvents::IN } else { PollEvents::empty() }
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::tests::{file, read};
    use super::*;
    use crate::fs::OpenFlags;

    #[test]
    fn expirations_are_counted_in_virtual_time() {
        let now = Arc::new(AtomicU64::new(1000));
        let timers = Timers::new();
        let timer = TimerFd::new(Base::Monotonic, Clock::Virtual(now.clone()), timers.clone());
        let open = file(timer.clone(), OpenFlags::empty());
        timer.set(Some(100), 50);
        assert_eq!(timer.get(), Setting { value: 100, interval: 50 });
        assert_eq!(read(&open, 8), Err(Errno::EAGAIN));
        now.store(1100 + 49, Ordering::SeqCst);
        assert_eq!(timers.fire_due(MonoTime(1149)), 1);
        assert_eq!(open.ops.poll(&open), PollEvents::IN);
        assert_eq!(read(&open, 8), Ok(1u64.to_ne_bytes().to_vec()));
        now.store(1310, Ordering::SeqCst);
        assert_eq!(read(&open, 8), Ok(4u64.to_ne_bytes().to_vec()));
        assert_eq!(timer.set(None, 0), Setting { value: 40, interval: 50 });
        now.store(9999, Ordering::SeqCst);
        assert_eq!(read(&open, 8), Err(Errno::EAGAIN));
    }
}
