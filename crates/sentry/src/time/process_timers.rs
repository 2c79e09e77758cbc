//! [`ProcessTimers`]: a process's interval timers, POSIX timers and limit of CPU time.
//!
//! A timer that has expired sends its signal once and is armed again when that signal is delivered, as in Linux: a process that does not take its signals
//! is not flooded, and the expirations it missed are counted as overruns. Timers of CPU time have no host timer behind
//! them: the process's use is looked at when it could be reached at the earliest.
//!
//! Locking: the state's lock is a leaf but for the heap of timers. Signals are sent without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Clock, MonoTime, Timer, Timers};
use crate::Errno;
use crate::kernel::Kernel;
use crate::signal::{SigInfo, Signal};
use crate::task::{Limit, Resource, Task, ThreadGroup, Tid, Usage};

/// How often CPU time is looked at, at most.
const CPU_CHECK_NS: u64 = 1_000_000;
/// Most POSIX timers of a process (Linux has `RLIMIT_SIGPENDING`).
const MAX_TIMERS: usize = 4096;
const SECOND: u64 = 1_000_000_000;

/// What timers need of the kernel.
#[derive(Clone)]
struct Ground {
    timers: Arc<Timers>,
    clock: Clock,
    group: Weak<ThreadGroup>,
}

/// A process's timers.
#[derive(Default)]
pub struct ProcessTimers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ground: Option<Ground>,
    real: Alarm,
    /// User CPU time, and all CPU time: expiry and interval in nanoseconds of CPU time.
    virtual_time: CpuAlarm,
    prof: CpuAlarm,
    cpu_check: Option<Timer>,
    /// CPU seconds at which `SIGXCPU` comes next.
    next_xcpu: u64,
    posix: BTreeMap<i32, PosixTimer>,
    next_id: i32,
    /// Tells an expiry apart from one of an earlier setting.
    settings: u64,
}

/// A timer on the monotonic clock.
#[derive(Default)]
struct Alarm {
    expires: Option<MonoTime>,
    interval_ns: u64,
    setting: u64,
    timer: Option<Timer>,
}

#[derive(Default, Clone, Copy)]
struct CpuAlarm {
    expires_ns: Option<u64>,
    interval_ns: u64,
}

/// Time to the next expiry and between expiries, in nanoseconds; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setting {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// `ITIMER_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    Real,
    Virtual,
    Prof,
}

/// Who is told of a POSIX timer's expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    None,
    Process { signal: Signal, value: Option<u64> },
    Thread { signal: Signal, value: Option<u64>, tid: Tid },
}

/// A POSIX timer as /proc shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerInfo {
    pub id: i32,
    pub clock: i32,
    /// The signal and its value, if one is sent.
    pub signal: Option<(Signal, u64)>,
    /// The thread it is sent to; None: the process.
    pub tid: Option<Tid>,
}

/// A clock of CPU time that a timer runs on.
#[derive(Debug, Clone)]
pub enum CpuClock {
    Process(Weak<ThreadGroup>),
    Thread(Weak<Task>),
}

impl CpuClock {
    /// None when what it measures is gone.
    fn now_ns(&self) -> Option<u64> {
        match self {
            CpuClock::Process(group) => group.upgrade().map(|group| group.own_usage().cpu_ns()),
            CpuClock::Thread(task) => task.upgrade().filter(|task| !task.is_gone()).map(|task| task.cpu_time_ns()),
        }
    }
}

/// A timer's expiry in CPU time.
struct CpuExpiry {
    clock: CpuClock,
    at_ns: Option<u64>,
    /// Its signal has been sent and not delivered yet.
    queued: bool,
}

struct PosixTimer {
    notify: Notify,
    /// For timers of CPU time, which `alarm` is not used for but for the interval.
    cpu: Option<CpuExpiry>,
    /// The clock it was made for; absolute times are on it.
    pub clock: i32,
    alarm: Alarm,
    overrun: i32,
}

impl Notify {
    /// Sends the signal of a timer.
    fn tell(self, group: &ThreadGroup, id: i32) {
        let info = |signal, value: Option<u64>| SigInfo::timer(signal, id, 0, value.unwrap_or(id as u64));
        // There is nobody to be told of a signal that cannot be queued.
        let _ = match self {
            Notify::None => Ok(()),
            Notify::Process { signal, value } => group.send_signal(info(signal, value)),
            Notify::Thread { signal, value, tid } => match group.threads().iter().find(|task| task.tid() == tid) {
                Some(task) => task.send_signal(info(signal, value)),
                None => Ok(()),
            },
        };
    }
}

/// When a timer of CPU time expires first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuFirst {
    After(u64),
    At(u64),
}

impl Alarm {
    fn setting_at(&self, now: MonoTime) -> Setting {
        let value_ns = match self.expires {
            // A timer that is due and not yet seen to be has a nanosecond left.
            Some(expires) => expires.since(now).max(1),
            None => 0,
        };
        Setting { value_ns, interval_ns: self.interval_ns }
    }

    /// Moves the expiry past `now`. Returns how many were passed over.
    fn forward(&mut self, last: MonoTime, now: MonoTime) -> (MonoTime, u64) {
        let missed = now.since(last) / self.interval_ns.max(1);
        (last.after(self.interval_ns.saturating_mul(missed + 1)), missed)
    }
}

impl ProcessTimers {
    pub fn new() -> ProcessTimers {
        ProcessTimers::default()
    }

    fn with_ground<R>(&self, group: &Arc<ThreadGroup>, kernel: &Kernel, then: impl FnOnce(&mut State, &Ground) -> R) -> R {
        let mut state = self.state.lock();
        let ground = state.ground.get_or_insert_with(|| Ground {
            timers: kernel.scheduler.timers().clone(),
            clock: kernel.clock.clone(),
            group: Arc::downgrade(group),
        });
        let ground = ground.clone();
        then(&mut state, &ground)
    }

    /// Sets an interval timer. Returns what it was.
    pub fn set_interval(&self, group: &Arc<ThreadGroup>, kernel: &Kernel, which: Interval, new: Setting) -> Setting {
        let used = group.own_usage();
        self.with_ground(group, kernel, |state, ground| match which {
            Interval::Real => {
                let now = ground.clock.monotonic();
                let old = state.real.setting_at(now);
                state.real.interval_ns = new.interval_ns;
                state.arm_real((new.value_ns != 0).then(|| now.after(new.value_ns)), ground);
                old
            }
            Interval::Virtual | Interval::Prof => {
                let (alarm, cpu_ns) = match which {
                    Interval::Virtual => (&mut state.virtual_time, used.user_ns),
                    _ => (&mut state.prof, used.cpu_ns()),
                };
                let old = alarm.setting_at(cpu_ns);
                alarm.interval_ns = new.interval_ns;
                alarm.expires_ns = (new.value_ns != 0).then(|| cpu_ns.saturating_add(new.value_ns));
                state.arm_cpu_check(&used, group, ground);
                old
            }
        })
    }

    /// What an interval timer is set to.
    pub fn interval(&self, group: &Arc<ThreadGroup>, kernel: &Kernel, which: Interval) -> Setting {
        let used = group.own_usage();
        let state = self.state.lock();
        match which {
            Interval::Real => state.real.setting_at(kernel.clock.monotonic()),
            Interval::Virtual => state.virtual_time.setting_at(used.user_ns),
            Interval::Prof => state.prof.setting_at(used.cpu_ns()),
        }
    }

    /// The limit of CPU time has been set: watches it.
    pub fn watch_cpu_limit(&self, group: &Arc<ThreadGroup>, kernel: &Kernel) {
        let used = group.own_usage();
        self.with_ground(group, kernel, |state, ground| {
            state.next_xcpu = group.rlimit(Resource::Cpu).soft;
            state.arm_cpu_check(&used, group, ground);
        });
    }

    fn real_expired(&self, group: &ThreadGroup, setting: u64) {
        {
            let mut state = self.state.lock();
            if state.real.setting != setting || state.real.expires.take().is_none() {
                return;
            }
            state.real.timer = None;
        }
        let _ = group.send_signal(SigInfo::kernel(Signal::ALRM));
    }

    /// Looks at the CPU time used.
    fn check_cpu(&self, group: &Arc<ThreadGroup>) {
        let used = group.own_usage();
        let cpu_ns = used.cpu_ns();
        let limit = group.rlimit(Resource::Cpu);
        let mut due: Vec<Signal> = Vec::new();
        let posix;
        {
            let mut state = self.state.lock();
            due.extend(state.virtual_time.expire(used.user_ns).then_some(Signal::VTALRM));
            due.extend(state.prof.expire(cpu_ns).then_some(Signal::PROF));
            if cpu_ns / SECOND >= limit.hard {
                due.push(Signal::KILL);
            } else if cpu_ns / SECOND >= state.next_xcpu.max(limit.soft) {
                state.next_xcpu = cpu_ns / SECOND + 1;
                due.push(Signal::XCPU);
            }
            posix = ProcessTimers::due_cpu_timers(&mut state);
            if let Some(ground) = state.ground.clone() {
                state.arm_cpu_check(&used, group, &ground);
            }
        }
        for (id, notify) in posix {
            notify.tell(group, id);
        }
        for signal in due {
            let _ = group.send_signal(SigInfo::kernel(signal));
        }
    }

    /// A signal is being delivered: if a timer sent it, fills in the overrun and arms the timer again. False: the timer is gone, and
    /// so is the signal.
    pub(crate) fn delivered(&self, info: &mut SigInfo) -> bool {
        const SI_TIMER: i32 = -2;
        if info.signal == Signal::ALRM {
            let mut state = self.state.lock();
            if let Some(ground) = state.ground.clone()
                && state.real.expires.is_none()
                && state.real.interval_ns != 0
            {
                let next = ground.clock.monotonic().after(state.real.interval_ns);
                state.arm_real(Some(next), &ground);
            }
        }
        if info.code != SI_TIMER {
            return true;
        }
        let mut state = self.state.lock();
        let (id, _) = info.timer_fields();
        let Some(ground) = state.ground.clone() else { return true };
        let setting = state.new_setting();
        let Some(timer) = state.posix.get_mut(&id) else { return false };
        if let Some(cpu) = &mut timer.cpu {
            cpu.queued = false;
            let overrun = std::mem::take(&mut timer.overrun);
            info.set_overrun(overrun);
            return true;
        }
        if let (Some(last), None, true) = (timer.alarm.expires, &timer.alarm.timer, timer.alarm.interval_ns != 0) {
            let (next, missed) = timer.alarm.forward(last, ground.clock.monotonic());
            timer.overrun = i32::try_from(missed).unwrap_or(i32::MAX);
            timer.arm(id, Some(next), setting, &ground);
        } else {
            timer.overrun = 0;
            if timer.alarm.timer.is_none() && timer.alarm.interval_ns == 0 {
                timer.alarm.expires = None;
            }
        }
        info.set_overrun(timer.overrun);
        true
    }

    /// Makes a POSIX timer. `info` of its signals carries `value`, or its own number.
    ///
    /// # Errors
    /// `EAGAIN` when there are too many.
    pub fn create(&self, clock: i32, cpu: Option<CpuClock>, notify: Notify) -> Result<i32, Errno> {
        let mut state = self.state.lock();
        if state.posix.len() >= MAX_TIMERS {
            return Err(Errno::EAGAIN);
        }
        while state.posix.contains_key(&state.next_id) {
            state.next_id = state.next_id.checked_add(1).unwrap_or(0);
        }
        let id = state.next_id;
        state.next_id = id.checked_add(1).unwrap_or(0);
        state.posix.insert(
            id,
            PosixTimer {
                notify,
                cpu: cpu.map(|clock| CpuExpiry { clock, at_ns: None, queued: false }),
                clock,
                alarm: Alarm::default(),
                overrun: 0,
            },
        );
        Ok(id)
    }

    /// The clock of a POSIX timer.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn clock(&self, id: i32) -> Result<i32, Errno> {
        self.state.lock().posix.get(&id).map(|timer| timer.clock).ok_or(Errno::EINVAL)
    }

    /// Sets a POSIX timer to expire first at `at`. Returns what it was.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn set(
        &self,
        group: &Arc<ThreadGroup>,
        kernel: &Kernel,
        id: i32,
        at: Option<MonoTime>,
        interval_ns: u64,
    ) -> Result<Setting, Errno> {
        self.with_ground(group, kernel, |state, ground| {
            let setting = state.new_setting();
            let timer = state.posix.get_mut(&id).ok_or(Errno::EINVAL)?;
            let old = timer.setting_at(ground.clock.monotonic());
            timer.alarm.interval_ns = interval_ns;
            timer.overrun = 0;
            timer.arm(id, at, setting, ground);
            Ok(old)
        })
    }

    /// Sets a POSIX timer of CPU time to expire first after `after_ns`, or at `at_ns` of its clock. Returns what it was.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `ESRCH`: what it measures is gone.
    pub fn set_cpu(
        &self,
        group: &Arc<ThreadGroup>,
        kernel: &Kernel,
        id: i32,
        first: Option<CpuFirst>,
        interval_ns: u64,
    ) -> Result<Setting, Errno> {
        let used = group.own_usage();
        self.with_ground(group, kernel, |state, ground| {
            let timer = state.posix.get_mut(&id).ok_or(Errno::EINVAL)?;
            let old = timer.setting_at(ground.clock.monotonic());
            timer.alarm.interval_ns = interval_ns;
            timer.overrun = 0;
            let cpu = timer.cpu.as_mut().ok_or(Errno::EINVAL)?;
            let now = cpu.clock.now_ns().ok_or(Errno::ESRCH)?;
            cpu.at_ns = first.map(|first| match first {
                CpuFirst::After(ns) => now.saturating_add(ns),
                CpuFirst::At(ns) => ns,
            });
            state.arm_cpu_check(&used, group, ground);
            Ok(old)
        })
    }

    /// Timers of CPU time that are due: who is to be told.
    fn due_cpu_timers(state: &mut State) -> Vec<(i32, Notify)> {
        let mut due = Vec::new();
        for (&id, timer) in &mut state.posix {
            let Some(cpu) = &mut timer.cpu else { continue };
            let (Some(at), Some(now)) = (cpu.at_ns, cpu.clock.now_ns()) else { continue };
            if now < at {
                continue;
            }
            let interval = timer.alarm.interval_ns;
            let missed = now.saturating_sub(at).checked_div(interval).unwrap_or(0);
            cpu.at_ns = (interval != 0).then(|| at.saturating_add(interval.saturating_mul(missed + 1)));
            timer.overrun = timer.overrun.saturating_add(i32::try_from(missed).unwrap_or(i32::MAX));
            if std::mem::replace(&mut cpu.queued, true) {
                timer.overrun = timer.overrun.saturating_add(1);
            } else {
                due.push((id, timer.notify));
            }
        }
        due
    }

    /// What a POSIX timer is set to.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn get(&self, kernel: &Kernel, id: i32) -> Result<Setting, Errno> {
        let state = self.state.lock();
        state.posix.get(&id).map(|timer| timer.setting_at(kernel.clock.monotonic())).ok_or(Errno::EINVAL)
    }

    /// Expirations missed before the last signal.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn overrun(&self, id: i32) -> Result<i32, Errno> {
        self.state.lock().posix.get(&id).map(|timer| timer.overrun).ok_or(Errno::EINVAL)
    }

    /// Deletes a POSIX timer.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn delete(&self, id: i32) -> Result<(), Errno> {
        self.state.lock().posix.remove(&id).map(drop).ok_or(Errno::EINVAL)
    }

    fn posix_expired(&self, group: &ThreadGroup, id: i32, setting: u64) {
        let notify = {
            let mut state = self.state.lock();
            let Some(timer) = state.posix.get_mut(&id).filter(|timer| timer.alarm.setting == setting) else { return };
            timer.alarm.timer = None;
            if timer.alarm.interval_ns == 0 && timer.notify == Notify::None {
                timer.alarm.expires = None;
            }
            timer.notify
        };
        notify.tell(group, id);
    }

    /// Disarms everything: the process has ended.
    pub(crate) fn clear(&self) {
        let old = std::mem::take(&mut *self.state.lock());
        drop(old);
    }

    /// Deletes POSIX timers: exec.
    /// All POSIX timers, for /proc/PID/timers.
    pub fn list(&self) -> Vec<TimerInfo> {
        let state = self.state.lock();
        let info = |(&id, timer): (&i32, &PosixTimer)| {
            let (signal, tid) = match timer.notify {
                Notify::None => (None, None),
                Notify::Process { signal, value } => (Some((signal, value.unwrap_or(id as u64))), None),
                Notify::Thread { signal, value, tid } => (Some((signal, value.unwrap_or(id as u64))), Some(tid)),
            };
            TimerInfo { id, clock: timer.clock, signal, tid }
        };
        state.posix.iter().map(info).collect()
    }

    pub(crate) fn forget_posix(&self) {
        let old = std::mem::take(&mut self.state.lock().posix);
        drop(old);
    }
}

impl State {
    fn new_setting(&mut self) -> u64 {
        self.settings += 1;
        self.settings
    }

    fn arm_real(&mut self, at: Option<MonoTime>, ground: &Ground) {
        let setting = self.new_setting();
        self.real.setting = setting;
        self.real.expires = at;
        self.real.timer = at.map(|at| ground.arm(at, move |group| group.timers.real_expired(group, setting)));
    }

    /// Sees to it that CPU time is looked at when something may be due.
    fn arm_cpu_check(&mut self, used: &Usage, group: &ThreadGroup, ground: &Ground) {
        let cpu_ns = used.cpu_ns();
        let Limit { soft, hard } = group.rlimit(Resource::Cpu);
        let seconds = |s: u64| (s != Limit::INFINITY).then(|| s.saturating_mul(SECOND));
        // User time as if it were all of it: there is no more of it than of both.
        let in_user = self.virtual_time.expires_ns.map(|at| at.saturating_sub(used.user_ns).saturating_add(cpu_ns));
        let limits = [seconds(self.next_xcpu.max(soft)), seconds(hard), in_user, self.prof.expires_ns];
        let next = limits.into_iter().flatten().min();
        // What is left on other threads' and processes' clocks, as if it were on this one.
        let left = |timer: &PosixTimer| {
            let cpu = timer.cpu.as_ref()?;
            Some(cpu.at_ns?.saturating_sub(cpu.clock.now_ns()?).saturating_add(cpu_ns))
        };
        let next = next.into_iter().chain(self.posix.values().filter_map(left)).min();
        let threads = group.threads().len().max(1) as u64;
        self.cpu_check = next.map(|next| {
            let wait = (next.saturating_sub(cpu_ns) / threads).max(CPU_CHECK_NS);
            ground.arm(ground.clock.monotonic().after(wait), |group| group.timers.check_cpu(group))
        });
    }
}

impl CpuAlarm {
    fn setting_at(&self, cpu_ns: u64) -> Setting {
        let value_ns = self.expires_ns.map_or(0, |expires| expires.saturating_sub(cpu_ns).max(1));
        Setting { value_ns, interval_ns: self.interval_ns }
    }

    /// Whether it has expired; then it is set again.
    fn expire(&mut self, cpu_ns: u64) -> bool {
        if self.expires_ns.is_none_or(|expires| cpu_ns < expires) {
            return false;
        }
        self.expires_ns = (self.interval_ns != 0).then(|| cpu_ns.saturating_add(self.interval_ns));
        true
    }
}

impl PosixTimer {
    fn setting_at(&self, now: MonoTime) -> Setting {
        if let Some(cpu) = &self.cpu {
            let left = cpu.at_ns.map_or(0, |at| at.saturating_sub(cpu.clock.now_ns().unwrap_or(at)).max(1));
            return Setting { value_ns: left, interval_ns: self.alarm.interval_ns };
        }
        let Some(expires) = self.alarm.expires else {
            return Setting { value_ns: 0, interval_ns: self.alarm.interval_ns };
        };
        if expires > now {
            return self.alarm.setting_at(now);
        }
        match (self.alarm.interval_ns, self.notify) {
            (0, Notify::None) => Setting::default(),
            (0, _) => Setting { value_ns: 0, interval_ns: 0 },
            (interval_ns, _) => {
                let into = now.since(expires) % interval_ns;
                Setting { value_ns: interval_ns - into, interval_ns }
            }
        }
    }

    fn arm(&mut self, id: i32, at: Option<MonoTime>, setting: u64, ground: &Ground) {
        self.alarm.setting = setting;
        self.alarm.expires = at;
        self.alarm.timer = at.map(|at| ground.arm(at, move |group| group.timers.posix_expired(group, id, setting)));
    }
}

impl Ground {
    fn arm(&self, at: MonoTime, then: impl Fn(&Arc<ThreadGroup>) + Send + Sync + 'static) -> Timer {
        let group = self.group.clone();
        let fire = move || {
            if let Some(group) = group.upgrade() {
                then(&group);
            }
        };
        self.timers.arm(at, Arc::new(fire))
    }
}
