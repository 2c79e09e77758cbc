//! The executors' side: which threads are in user mode, which have come back, and how to wait for them.
//!
//! Each executor has a list of threads. A thread enters it at its first switch and stays while it is in use, so that a
//! system call costs no list operation; one that has been idle for some scans is dropped from it. An executor that sleeps says so
//! in a page stubs can only read, and waits on its *bell*, a word stubs can write and wake. All stubs share the bells, so a
//! hostile stub can wake executors needlessly, and with luck delay another stub's trap until the sleeper's next look; it cannot
//! silence anyone.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};

use hostcall::doze::Doze;
use hostcall::tally::{self, Counted};
use hostcall::time::monotonic_ns;
use parking_lot::{Mutex, MutexGuard};

use super::closeness::{self, Closeness};
use super::control::Control;
use super::layout::*;
use super::spin::{self, Plan, SpinPolicy};
use super::sys;
use super::thread::{IDLE, NOTIFIED, RUNNING, Thread, turn};
use crate::Idle;

/// An idle thread leaves the list after this many scans.
const IDLE_SCANS: u32 = 1000;
/// A thread whose call has not been answered after this many scans is told to sleep.
const PATIENT_SCANS: u32 = 4;
/// Looks at the turn words between looks at the clock.
const SPIN_BATCH: usize = 16;
/// Looks at a turn word before its task is put aside.
const INLINE_LOOKS: u32 = 32;
/// A sleeper with threads in user mode looks after them first after this long, then twice that, up to the second.
const FIRST_LOOK_NS: u64 = 50_000_000;
const LAST_LOOK_NS: u64 = 1_000_000_000;
/// While an interrupt waits for its effect.
const INTERRUPT_LOOK_NS: u64 = 4_000_000;
/// How often a busy executor looks after its threads, and how many scans it makes between looks at the clock.
const BUSY_LOOK_NS: u64 = 500_000_000;
const BUSY_SCANS: u64 = 64;

/// See the module.
pub struct Executor {
    index: usize,
    control: Arc<Control>,
    list: Mutex<Vec<Entry>>,
    unparked: AtomicBool,
    /// The list has one thread, which ran on another CPU when this executor last span: looking for its turn pays.
    alone: AtomicBool,
    /// An interrupt waits for its effect until about then.
    expecting_until_ns: AtomicU64,
    spin: SpinPolicy,
    doze: Doze,
    closeness: Closeness,
    spent: Spent,
    scans: AtomicU64,
    next_look_ns: AtomicU64,
}

/// What an executor has done beside polling. Only its own thread writes here, but for what was said of it.
#[repr(align(64))]
#[derive(Default)]
struct Spent {
    spin_ticks: AtomicU64,
    sleeps: AtomicU64,
    sleep_ns: AtomicU64,
    /// Since when it sleeps; 0: it does not.
    asleep_since_ns: AtomicU64,
    /// The most that was told of `sleep_ns`. Who asks between the end of a sleep and its addition is told the same again.
    told_sleep_ns: AtomicU64,
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

struct Entry {
    thread: Arc<Thread>,
    idle: u32,
    /// Its stub has been told to sleep.
    told: bool,
}

impl Executor {
    pub fn new(index: usize, control: Arc<Control>, spin: SpinPolicy, closeness: Closeness) -> Executor {
        Executor {
            index,
            control,
            list: Mutex::new(Vec::new()),
            unparked: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            expecting_until_ns: AtomicU64::new(0),
            spin,
            doze: Doze::default(),
            closeness,
            spent: Spent::default(),
            scans: AtomicU64::new(0),
            next_look_ns: AtomicU64::new(0),
        }
    }

    fn sleeping(&self) -> &std::sync::atomic::AtomicU32 {
        self.control.word32(FILE_SLEEPING + self.index as u64 * LINE)
    }
    fn bell(&self) -> &std::sync::atomic::AtomicU32 {
        self.control.word32(FILE_BELLS + self.index as u64 * LINE)
    }

    /// Puts a thread that goes to user mode on the list, unless it is on one. Returns the index of the executor it is with.
    pub fn adopt(&self, thread: &Arc<Thread>) -> usize {
        match thread.home.compare_exchange(0, self.index + 1, SeqCst, SeqCst) {
            Ok(_) => {
                thread.block.set32(BELL, self.index as u32);
                self.alone.store(false, Relaxed);
                self.closeness.place(thread);
                self.list.lock().push(Entry { thread: thread.clone(), idle: 0, told: false });
                self.index
            }
            Err(home) => home - 1,
        }
    }

    /// Wakes the tasks of threads that have come back.
    pub fn poll(&self) -> usize {
        self.look_if_due();
        self.scan(&mut self.list.lock())
    }

    /// A busy executor never sleeps long enough to notice a death or an interrupt that has no effect: it looks now and then.
    fn look_if_due(&self) {
        let scans = self.scans.load(Relaxed).wrapping_add(1);
        self.scans.store(scans, Relaxed);
        let expecting_until = self.expecting_until_ns.load(Relaxed);
        if expecting_until == 0 && !scans.is_multiple_of(BUSY_SCANS) {
            return;
        }
        let now = monotonic_ns();
        let expecting = now < expecting_until;
        if !expecting && expecting_until != 0 {
            let _ = self.expecting_until_ns.compare_exchange(expecting_until, 0, SeqCst, SeqCst);
        }
        let next = self.next_look_ns.load(Relaxed);
        let interval = if expecting { INTERRUPT_LOOK_NS } else { BUSY_LOOK_NS };
        if next != 0 && now >= next {
            self.next_look_ns.store(now + interval, Relaxed);
            self.look_after();
        } else if next == 0 || next > now + interval {
            self.next_look_ns.store(now + interval, Relaxed);
        }
    }

    fn scan(&self, list: &mut Vec<Entry>) -> usize {
        let mut woken = 0;
        let mut i = 0;
        while let Some(entry) = list.get_mut(i) {
            let thread = &entry.thread;
            if thread.state.load(Acquire) == RUNNING {
                entry.idle = 0;
                entry.told = false;
                if turn(thread) != TURN_STUB || thread.death().is_some() {
                    // Should its task have been polled meanwhile, the wake-up has it enrolled again.
                    thread.state.store(NOTIFIED, Release);
                    self.closeness.place(thread);
                    if let Some(waker) = &*thread.waker.lock() {
                        waker.wake_by_ref();
                    }
                    woken += 1;
                }
            } else {
                entry.idle += 1;
                if entry.idle > PATIENT_SCANS && !entry.told {
                    entry.told = true;
                    thread.tell_to_sleep();
                }
                if entry.idle > IDLE_SCANS && self.drop_idle(thread) {
                    list.swap_remove(i);
                    continue;
                }
            }
            i += 1;
        }
        woken
    }

    /// Gives a thread's place up; true if the entry must go. If it started to run meanwhile, either we keep it or it has found
    /// itself another list.
    fn drop_idle(&self, thread: &Thread) -> bool {
        thread.home.store(0, SeqCst);
        thread.state.load(SeqCst) == IDLE || thread.home.compare_exchange(0, self.index + 1, SeqCst, SeqCst).is_err()
    }

    /// Forgets a thread for good.
    pub fn forget(&self, thread: &Arc<Thread>) {
        self.list.lock().retain(|entry| !Arc::ptr_eq(&entry.thread, thread));
        let _ = thread.home.compare_exchange(self.index + 1, 0, SeqCst, SeqCst);
    }

    /// See [`Platform::park`](crate::Platform::park).
    pub fn park(&self, deadline_ns: Option<u64>) {
        if !self.spin(deadline_ns) && !self.doze(deadline_ns) {
            self.sleep(deadline_ns);
        }
        self.closeness.unpark();
    }

    /// True if there is something to do.
    fn doze(&self, deadline_ns: Option<u64>) -> bool {
        let look = || (self.unparked.swap(false, SeqCst) || self.scan(&mut self.list.lock()) > 0).then_some(());
        if !self.spin.is_enabled() {
            return false;
        }
        let from = hostcall::time::ticks();
        let found = self.doze.until(deadline_ns, look).is_some();
        // No sign of an interruption, however long: it lets others have the CPU.
        bump(&self.spent.spin_ticks, hostcall::time::ticks().saturating_sub(from));
        found
    }

    fn sleep(&self, deadline_ns: Option<u64>) {
        let since = monotonic_ns();
        self.spent.asleep_since_ns.store(since, Relaxed);
        let mut computing = self.closeness.is_closed();
        let mut look_ns = if computing { closeness::COMPUTES_NS } else { FIRST_LOOK_NS };
        loop {
            let rung = self.bell().load(SeqCst);
            self.sleeping().store(1, SeqCst);
            let (woken, running) = {
                let mut list = self.list.lock();
                let woken = self.scan(&mut list);
                (woken, list.iter().any(|entry| entry.thread.state.load(SeqCst) == RUNNING))
            };
            if woken > 0 || self.unparked.load(SeqCst) {
                break;
            }
            let now = monotonic_ns();
            if deadline_ns.is_some_and(|deadline| now >= deadline) {
                break;
            }
            let expecting = now < self.expecting_until_ns.load(SeqCst);
            let look = running.then(|| now + if expecting { INTERRUPT_LOOK_NS } else { look_ns });
            let until = [look, deadline_ns].into_iter().flatten().min();
            bump(&self.spent.sleeps, 1);
            sys::futex_wait(self.bell(), rung, until);
            if look.is_none_or(|look| monotonic_ns() < look) {
                continue;
            }
            if std::mem::take(&mut computing) {
                self.let_compute();
                look_ns = FIRST_LOOK_NS;
            } else {
                self.look_after();
                look_ns = (look_ns * 2).min(LAST_LOOK_NS);
            }
        }
        self.sleeping().store(0, SeqCst);
        self.unparked.store(false, SeqCst);
        self.spent.asleep_since_ns.store(0, Relaxed);
        let slept_ns = monotonic_ns().saturating_sub(since);
        // After the 0: see `idle`.
        self.spent.sleep_ns.store(self.spent.sleep_ns.load(Relaxed).wrapping_add(slept_ns), Release);
        self.doze.slept(slept_ns);
    }

    /// Looks for a moment whether a thread that was just given its turn comes back, if no other is in user mode: most calls are followed by the next, and
    /// the way through the scheduler and back costs more than a cheap call itself.
    pub fn look(&self, thread: &Thread) -> bool {
        if !self.alone.load(Relaxed) {
            return false;
        }
        let from = hostcall::time::ticks();
        let mut back = false;
        for _ in 0..INLINE_LOOKS {
            back = turn(thread) != TURN_STUB;
            if back {
                self.spin.paid();
                break;
            }
            std::hint::spin_loop();
        }
        self.spun(from);
        back
    }

    /// A spin has ended that began at these ticks.
    fn spun(&self, from: u64) {
        bump(&self.spent.spin_ticks, self.closeness.spun(from));
    }

    /// See [`Platform::idle`](crate::Platform::idle).
    pub fn idle(&self) -> Idle {
        // In this order, so that a sleep which ends meanwhile is left out, and not added twice.
        let before = self.spent.sleep_ns.load(Acquire);
        let now = match self.spent.asleep_since_ns.load(Relaxed) {
            0 => 0,
            since => monotonic_ns().saturating_sub(since),
        };
        let slept_ns = before.saturating_add(now);
        Idle {
            spin_ns: hostcall::time::ns_of_ticks(self.spent.spin_ticks.load(Relaxed)),
            sleeps: self.spent.sleeps.load(Relaxed),
            sleep_ns: self.spent.told_sleep_ns.fetch_max(slept_ns, Relaxed).max(slept_ns),
        }
    }

    /// A thread that slept was given its turn, by this executor.
    pub fn woke(&self, thread: &Thread) {
        if thread.told.swap(false, SeqCst) {
            self.spin.blocked();
        } else if !self.closeness.is_closed() && thread.block.get32(STUB_CPU) == self.spin.cpu() {
            self.spin.woke_together(thread.tid);
        }
    }

    /// Looks for a while, if that is likely to pay. True if there is something to do.
    fn spin(&self, deadline_ns: Option<u64>) -> bool {
        let cpu = self.spin.cpu();
        let published = self.control.word32(FILE_SLEEPING + self.index as u64 * LINE + 4);
        if published.load(Relaxed) != cpu {
            published.store(cpu, Relaxed);
        }
        self.look_if_due();
        let mut list = self.list.lock();
        if self.scan(&mut list) > 0 {
            return true;
        }
        let (mut apart, mut together) = (0, 0);
        for entry in list.iter_mut() {
            if entry.thread.state.load(Acquire) == RUNNING {
                let here = entry.thread.block.get32(STUB_CPU) == cpu;
                *if here { &mut together } else { &mut apart } += 1;
            } else if !entry.told {
                // Its task waits for something: let its CPU do other work.
                entry.told = true;
                entry.thread.tell_to_sleep();
            }
        }
        if self.closeness.park(apart + together) {
            list.iter().for_each(|entry| self.closeness.place(&entry.thread));
        }
        let plan = match self.closeness.is_closed() {
            true if apart + together > 0 => Plan::Yield,
            _ => self.spin.plan(apart, together),
        };
        self.alone.store(apart == 1 && list.len() == 1 && matches!(plan, Plan::Spin { .. }), Relaxed);
        let limit_ns = match plan {
            Plan::Sleep => return self.unparked.swap(false, SeqCst),
            Plan::Yield => return self.give_cpu_away(&mut list),
            Plan::Spin { ns } => ns,
        };
        let (mut end, from) = (None, hostcall::time::ticks());
        loop {
            for _ in 0..SPIN_BATCH {
                if self.scan(&mut list) > 0 {
                    self.spin.paid();
                    self.spun(from);
                    return true;
                }
                std::hint::spin_loop();
            }
            // Others may have something to do with the list.
            MutexGuard::bump(&mut list);
            if self.unparked.load(Relaxed) && self.unparked.swap(false, SeqCst) {
                self.spun(from);
                return true;
            }
            let now = monotonic_ns();
            let end = *end.get_or_insert_with(|| deadline_ns.map_or(now + limit_ns, |deadline| deadline.min(now + limit_ns)));
            if now >= end {
                self.spin.failed();
                self.spun(from);
                return false;
            }
        }
    }

    /// Lets the threads on our CPU run. True if there is something to do.
    fn give_cpu_away(&self, list: &mut MutexGuard<'_, Vec<Entry>>) -> bool {
        let end = monotonic_ns() + spin::YIELD_NS;
        for _ in 0..spin::YIELDS {
            if self.unparked.swap(false, SeqCst) {
                return true;
            }
            tally::count(Counted::Yield);
            MutexGuard::unlocked(list, std::thread::yield_now);
            if self.scan(list) > 0 {
                return true;
            }
            if monotonic_ns() >= end {
                break;
            }
        }
        self.unparked.swap(false, SeqCst)
    }

    /// Gives a thread a nice value, above the sandbox's own. False: the host refuses.
    pub fn set_nice(&self, thread: &Thread, nice: u8) -> bool {
        self.closeness.set_nice(thread, nice)
    }

    /// Lets a thread run wherever its guest allows.
    pub fn release(&self, thread: &Thread) {
        self.closeness.release(thread);
    }

    /// No thread has come back for a while: the host may place them.
    fn let_compute(&self) {
        let list = self.list.lock();
        let running = list.iter().filter(|entry| entry.thread.state.load(SeqCst) == RUNNING);
        running.for_each(|entry| self.closeness.release(&entry.thread));
    }

    /// Looks whether threads in user mode are alive, and kills those that ignore interrupts.
    fn look_after(&self) {
        let running: Vec<_> = {
            let list = self.list.lock();
            let running = list.iter().filter(|entry| entry.thread.state.load(SeqCst) == RUNNING);
            running.map(|entry| entry.thread.clone()).collect()
        };
        running.iter().for_each(|thread| thread.look());
    }

    pub fn unpark(&self) {
        self.unparked.store(true, SeqCst);
        if self.sleeping().load(SeqCst) != 0 {
            self.ring();
        }
    }

    /// An interrupt has been sent: sleep in short pieces until it has had its effect.
    pub fn expect_answer(&self) {
        self.expecting_until_ns.store(monotonic_ns() + 3_000_000_000, SeqCst);
        if self.sleeping().load(SeqCst) != 0 {
            self.ring();
        }
    }

    fn ring(&self) {
        self.bell().fetch_add(1, SeqCst);
        sys::futex_wake(self.bell());
    }
}
