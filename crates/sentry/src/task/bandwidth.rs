//! [`Bandwidth`]: a container's `cpu.max`. When its tasks have used up their CPU time of a period, they wait for the next before they are in user mode.
//!
//! The host's cgroup keeps a sandbox as a whole to its limits. The containers of a pod share one, their stubs come from one zygote: so what each may have is
//! kept here. As Linux does, time that was not used is lost at the end of a period; what was used beyond it (nobody looks all the time) is taken off the next ones.
//!
//! The use is looked at when the quota could be reached at the earliest, and not at all while nobody runs: then the next task that goes to user mode
//! says so, by the flag that all have been given ([`TaskFlags::THROTTLE`]).
//!
//! Locking: the state's lock before the process table's, and that of the heap of timers.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Cx, TaskFlags};
use crate::cgroup::Members;
use crate::kernel::{Container, Kernel};
use crate::time::{Clock, MonoTime, Timer, Timers};
use crate::wait::{PollEvents, Share, Sleep, WaitQueue};

/// How often the use is looked at, at most.
const LOOK_NS: u64 = 2_000_000;

/// A container's CPU time, in periods.
#[derive(Default)]
pub struct Bandwidth {
    /// Woken when there is some again.
    again: WaitQueue,
    state: Mutex<State>,
}

/// What `cpu.stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    pub periods: u64,
    pub throttled: u64,
    pub throttled_ns: u64,
}

/// So much CPU time in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax {
    pub quota_ns: u64,
    pub period_ns: u64,
}

/// Who looks at the use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A task that is about to run, after nobody did.
    Stirs,
    Timer,
}

#[derive(Default)]
struct State {
    /// None: nobody runs, or there is no limit.
    timer: Option<Timer>,
    account: Account,
}

/// One limit's account. CPU time is counted from the container's beginning.
#[derive(Debug, Default)]
struct Account {
    period_began_ns: u64,
    /// Until this much is used tasks may run.
    allowed_ns: u64,
    /// What was used when it was looked at last.
    used_ns: u64,
    stopped_at_ns: Option<u64>,
    /// Nobody ran when it was looked at last: periods are not counted.
    rests: bool,
    stats: Throttling,
}

impl Account {
    fn is_stopped(&self) -> bool {
        self.stopped_at_ns.is_some()
    }

    /// Takes in what has been used by now. When to look again, if `cpus` may be used at once; None: there was nothing to see.
    fn look(&mut self, max: CpuMax, used_ns: u64, now_ns: u64, cpus: u64) -> Option<u64> {
        let passed = now_ns.saturating_sub(self.period_began_ns) / max.period_ns;
        if passed > 0 {
            self.period_began_ns += passed * max.period_ns;
            let given = self.allowed_ns.saturating_add(passed.saturating_mul(max.quota_ns));
            self.allowed_ns = given.min(used_ns.saturating_add(max.quota_ns));
            self.stats.periods += if self.rests { 0 } else { passed };
        }
        self.rests = used_ns == self.used_ns && self.stopped_at_ns.is_none() && used_ns < self.allowed_ns;
        self.used_ns = used_ns;
        let period_ends = self.period_began_ns + max.period_ns;
        if used_ns >= self.allowed_ns {
            if self.stopped_at_ns.is_none() {
                self.stopped_at_ns = Some(now_ns);
                self.stats.throttled += 1;
            }
            // Nothing before the periods that pay for what is too much.
            let more = (used_ns - self.allowed_ns) / max.quota_ns;
            return Some(period_ends.saturating_add(more.saturating_mul(max.period_ns)));
        }
        if let Some(at) = self.stopped_at_ns.take() {
            self.stats.throttled_ns += now_ns.saturating_sub(at);
            return Some(self.next(used_ns, now_ns, cpus).min(period_ends));
        }
        (!self.rests).then(|| self.next(used_ns, now_ns, cpus).min(period_ends))
    }

    fn next(&self, used_ns: u64, now_ns: u64, cpus: u64) -> u64 {
        now_ns.saturating_add(((self.allowed_ns - used_ns) / cpus.max(1)).max(LOOK_NS))
    }
}

impl Bandwidth {
    pub fn stats(&self) -> Throttling {
        self.state.lock().account.stats
    }

    /// Whether there is none left.
    fn is_stopped(&self) -> bool {
        self.state.lock().account.is_stopped()
    }

    fn wake_if(&self, goes_on: bool) {
        if goes_on {
            self.again.wake(PollEvents::IN);
        }
    }
}

impl Container {
    /// `cpu.max` is another now.
    pub fn cpu_max_changed(&self) {
        let bandwidth = &self.bandwidth;
        let was_stopped = {
            let mut state = bandwidth.state.lock();
            let (was_stopped, stats) = (state.account.is_stopped(), state.account.stats);
            *state = State { account: Account { stats, rests: true, ..Account::default() }, timer: None };
            was_stopped
        };
        bandwidth.wake_if(was_stopped);
        for task in self.tasks() {
            task.raise(TaskFlags::THROTTLE);
        }
    }

    fn look_at_use(self: &Arc<Container>, look: Look, timers: &Arc<Timers>, clock: &Clock, cpus: u64) {
        let bandwidth = &self.bandwidth;
        // All of a container's tasks come here when a period begins: somebody looks already.
        if look == Look::Stirs && bandwidth.state.lock().timer.is_some() {
            return;
        }
        let (user_ns, system_ns) = Members(self).cpu_ns(&self.cgroup);
        let now = clock.monotonic();
        let mut state = bandwidth.state.lock();
        let Some(max) = self.cgroup.cpu_max() else {
            state.timer = None;
            let was_stopped = state.account.stopped_at_ns.take().is_some();
            drop(state);
            return bandwidth.wake_if(was_stopped);
        };
        if look == Look::Stirs && state.timer.is_some() {
            return;
        }
        let was_stopped = state.account.is_stopped();
        let mut next = state.account.look(max, user_ns.saturating_add(system_ns), now.0, cpus);
        let stopped = state.account.is_stopped();
        if next.is_none() {
            // Whoever runs from now on says so; who runs already may not have been seen to.
            let tasks = self.tasks();
            tasks.iter().for_each(|task| task.set_flags(TaskFlags::THROTTLE));
            if look == Look::Stirs || tasks.iter().any(|task| task.in_user_now()) {
                next = Some(now.0.saturating_add(max.quota_ns.min(max.period_ns)));
            }
        }
        state.timer = next.map(|at| {
            let (weak, again, clock) = (Arc::downgrade(self), timers.clone(), clock.clone());
            let fire = move || {
                if let Some(container) = weak.upgrade() {
                    container.look_at_use(Look::Timer, &again, &clock, cpus);
                }
            };
            timers.arm(MonoTime(at), Arc::new(fire))
        });
        drop(state);
        if !stopped {
            return bandwidth.wake_if(was_stopped);
        }
        for task in self.tasks() {
            task.set_flags(TaskFlags::THROTTLE);
            if task.in_user_now() {
                task.kick();
            }
        }
    }
}

impl Kernel {
    fn look_at_use(&self, container: &Arc<Container>) {
        container.look_at_use(Look::Stirs, self.scheduler.timers(), &self.clock, self.scheduler.executors() as u64);
    }
}

impl Cx {
    /// Waits until the container may use CPU time. Killable.
    pub(super) async fn wait_for_cpu_time(&mut self) {
        let task = self.task.clone();
        task.clear(TaskFlags::THROTTLE);
        let bandwidth = &task.container.bandwidth;
        if task.container.cgroup.cpu_max().is_none() {
            return;
        }
        self.kernel().look_at_use(&task.container);
        let queues = [(&bandwidth.again, PollEvents::IN)];
        let wait = task.waiting(Sleep::Killable, Share::All, MonoTime::NEVER);
        // If it is killed, that is looked at next.
        let _ = crate::wait::wait_for(wait, &queues, || (!bandwidth.is_stopped()).then_some(())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const MAX: CpuMax = CpuMax { quota_ns: 20 * MS, period_ns: 100 * MS };

    /// A container with so many busy loops, on as many CPUs, for a second. What it has used, and what was counted.
    fn busy(loops: u64) -> (u64, Throttling) {
        let mut account = Account { rests: true, ..Account::default() };
        let (mut now, mut used) = (5000 * MS, 0);
        let end = now + 1000 * MS;
        account.look(MAX, used, now, 2);
        while now < end {
            let stopped = account.stopped_at_ns.is_some();
            now += MS;
            used += if stopped { 0 } else { loops * MS };
            // As if the timer were a millisecond late each time.
            let next = account.look(MAX, used, now, 2).unwrap_or(now);
            let late = next.saturating_sub(now) / MS;
            used += if account.stopped_at_ns.is_some() { 0 } else { late * loops * MS };
            now += late * MS;
        }
        (used, account.stats)
    }

    #[test]
    fn a_busy_container_gets_its_part() {
        for loops in [1, 2] {
            let (used, stats) = busy(loops);
            let parts = used / (2 * MS);
            assert!((95..=110).contains(&parts), "{loops} loops: {used} ns of 200 ms");
            assert!(stats.throttled >= 5 && stats.periods + 1 >= stats.throttled && stats.throttled_ns > 500 * MS, "{stats:?}");
        }
    }

    #[test]
    fn what_is_not_used_is_lost_and_what_is_too_much_is_paid() {
        let mut account = Account { rests: true, ..Account::default() };
        let start = 1000 * MS;
        assert!(account.look(MAX, 0, start, 1).is_none(), "nobody has run");
        // Ten quiet periods, then no more than one quota.
        assert!(account.look(MAX, 5 * MS, start + 1000 * MS, 1).is_some());
        assert_eq!(account.allowed_ns, 25 * MS);
        // Five quotas at once: the period's, and four to come.
        let next = account.look(MAX, 105 * MS, start + 1050 * MS, 1).expect("to be looked at again");
        assert_eq!((account.stopped_at_ns.is_some(), next), (true, start + 1500 * MS));
        account.look(MAX, 105 * MS, next, 1);
        assert!(account.stopped_at_ns.is_none());
        assert_eq!(account.stats.throttled, 1);
    }
}
