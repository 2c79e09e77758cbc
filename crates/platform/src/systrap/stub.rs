//! A stub: one process that is an application's address space, and the orders its memory thread performs.
//!
//! Orders go into a ring on a page that is read-only in the stub; answers come back on a page the guest can write, each with
//! a [`Key`] tag. Answers are collected in order, at most [`RING`] are outstanding. "It sleeps" is a hint that may lie, so every
//! wait has a timeout, wakes the stub anyway and looks whether it is alive.
//!
//! A memory thread that sleeps is not woken for each order, which would be two context switches, but for all that one system call brings:
//! when somebody waits for answers, or when a thread of the stub is about to run ([`Stub::flush`]).
//!
//! Locking: one mutex around the ring, held while waiting for answers (bounded by [`ANSWER_LIMIT_NS`]).

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::{Arc, OnceLock};

use hostcall::Errno;
use hostcall::tally::{self, Counted};
use hostcall::time::monotonic_ns;
use parking_lot::Mutex;

use super::control::Control;
use super::layout::*;
use super::sys::{self, Fate, Wait, Woken};
use super::tag::Key;
use crate::{Death, PlatformError};

/// How long a memory thread may take for one order without using the CPU, and in any case. (Unmapping a hundred gigabytes takes
/// seconds, at work; a guest that overwrites answers as they come makes us wait for nothing.)
const IDLE_LIMIT_NS: u64 = 2_000_000_000;
const ANSWER_LIMIT_NS: u64 = 60_000_000_000;
/// After this long without an answer we look whether it is alive.
const LOOK_NS: u64 = 20_000_000;

const FORGED: Death = Death::Forged("an answer of the memory thread");

/// A host call for the memory thread.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// What it is, for messages.
    pub what: &'static str,
    pub number: i64,
    pub args: [u64; 6],
    /// What its failure means.
    pub failure: Failure,
}

/// As what an order is counted.
fn counted(number: i64) -> Counted {
    match number {
        libc::SYS_mmap => Counted::OrderMap,
        libc::SYS_munmap => Counted::OrderUnmap,
        libc::SYS_mprotect => Counted::OrderProtect,
        libc::SYS_madvise => Counted::OrderAdvise,
        libc::SYS_clone => Counted::OrderClone,
        _ => Counted::OrderOther,
    }
}

/// What it means when an order fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The next `settle` reports it.
    Reported,
    /// Nothing: it was advice, or the caller looks at the result itself.
    Ignored,
}

/// See the module.
pub struct Stub {
    pub pid: i32,
    /// Offset of its area in the control file.
    pub area: u64,
    control: Arc<Control>,
    ring: Mutex<Ring>,
    /// Orders were posted since the memory thread was last woken.
    unannounced: AtomicBool,
    death: OnceLock<Death>,
}

struct Ring {
    key: Key,
    posted: u64,
    /// The last order when the memory thread was last woken, or seen awake.
    announced: u64,
    done: u64,
    /// The result of order `done`.
    result: u64,
    outstanding: [Option<Order>; RING as usize],
    failed: Option<PlatformError>,
    spin: u32,
    /// The CPU the memory thread is pinned to.
    cpu: Option<u32>,
    /// The memory thread has its key: it is no longer on the order page.
    key_wiped: bool,
}

impl Stub {
    /// Clears the area's pages and lays the key out for the process that will be started on it.
    pub fn prepare(control: Arc<Control>, area: u64, spin: u32) -> Result<Stub, Errno> {
        let key = Key::random()?;
        control.write(area + AREA_ORDERS, &[0; PAGE as usize]);
        control.write(area + AREA_ANSWERS, &[0; PAGE as usize]);
        lay_out_answers(&control, area, 0);
        control.write(area + AREA_ORDERS + ORDER_KEYS, key.rounds());
        let ring = Ring {
            key,
            posted: 0,
            announced: 0,
            done: 0,
            result: 0,
            outstanding: [None; RING as usize],
            failed: None,
            spin,
            cpu: None,
            key_wiped: false,
        };
        Ok(Stub { pid: 0, area, control, ring: Mutex::new(ring), unannounced: AtomicBool::new(false), death: OnceLock::new() })
    }

    /// Why it is gone, if it is.
    pub fn death(&self) -> Option<Death> {
        self.death.get().copied()
    }

    /// Puts an order into the ring.
    pub fn post(&self, order: Order) -> Result<(), PlatformError> {
        self.post_locked(&mut self.ring.lock(), order)
    }

    /// Makes the answer page what it would be had no guest written to it. No thread of the guest may live, and nothing be
    /// outstanding: what the last guest left there would be held against the next.
    pub fn tidy(&self) {
        let ring = self.ring.lock();
        lay_out_answers(&self.control, self.area, ring.done);
        // It sleeps or will: a needless wake-up does no harm, a missing one costs the first order a look.
        self.control.word32(self.area + AREA_ANSWERS + ANSWER_STUB_WAITS).store(1, SeqCst);
    }

    fn post_locked(&self, ring: &mut Ring, order: Order) -> Result<(), PlatformError> {
        if let Some(death) = self.death() {
            return Err(PlatformError::Dead(death));
        }
        if ring.posted - ring.done >= RING - 1 {
            let until = ring.posted - RING / 2;
            while ring.done < until {
                self.collect(ring, until)?;
            }
        }
        tally::count(counted(order.number));
        ring.posted += 1;
        let at = self.area + AREA_ORDERS + (ring.posted % RING) * LINE;
        self.control.word64(at + 8).store(order.number as u64, Relaxed);
        for (i, arg) in order.args.iter().enumerate() {
            self.control.word64(at + 16 + i as u64 * 8).store(*arg, Relaxed);
        }
        if let Some(slot) = ring.outstanding.get_mut((ring.posted % RING) as usize) {
            *slot = Some(order);
        }
        self.control.word64(at).swap(ring.posted, SeqCst);
        self.unannounced.store(true, SeqCst);
        Ok(())
    }

    /// Has the memory thread begin with what was posted. Cheap if nothing was.
    pub fn flush(&self) {
        if self.unannounced.load(SeqCst) {
            self.announce(&mut self.ring.lock());
        }
    }

    fn announce(&self, ring: &mut Ring) {
        if self.unannounced.swap(false, SeqCst)
            && self.control.word32(self.area + AREA_ANSWERS + ANSWER_STUB_WAITS).load(SeqCst) != 0
        {
            self.pin_here(ring);
            // It sleeps at the order that it expects next: the first it was not woken for, or one after it if it was still awake then.
            let slot = |sequence: u64| self.control.word32(self.area + AREA_ORDERS + (sequence % RING) * LINE);
            let _ = (ring.announced + 1..=ring.posted).find(|sequence| sys::futex_wake(slot(*sequence)) == Woken::Some);
        }
        ring.announced = ring.posted;
    }

    /// Has the memory thread run on this CPU: the poster will sleep for its answers, and a wake-up across CPUs is ten times as dear.
    fn pin_here(&self, ring: &mut Ring) {
        let cpu = sys::cpu();
        if ring.cpu != Some(cpu) {
            ring.cpu = Some(cpu);
            sys::pin(self.pid, cpu);
        }
    }

    /// Waits until all orders posted so far are performed.
    pub fn settle(&self) -> Result<(), PlatformError> {
        let mut ring = self.ring.lock();
        self.drain(&mut ring)?;
        if let Some(death) = self.death() {
            return Err(PlatformError::Dead(death));
        }
        ring.failed.take().map_or(Ok(()), Err)
    }

    /// Performs one order after all others, and answers with its result.
    pub fn call(&self, order: Order) -> Result<Result<u64, Errno>, PlatformError> {
        let mut ring = self.ring.lock();
        self.post_locked(&mut ring, order)?;
        self.drain(&mut ring)?;
        Ok(errno(ring.result).map_or(Ok(ring.result), Err))
    }

    fn drain(&self, ring: &mut Ring) -> Result<(), PlatformError> {
        while ring.done < ring.posted {
            self.collect(ring, ring.posted)?;
        }
        Ok(())
    }

    /// Waits for the next answer; if it must sleep, then until order `last` is answered.
    fn collect(&self, ring: &mut Ring, mut last: u64) -> Result<(), PlatformError> {
        if let Some(death) = self.death() {
            return Err(PlatformError::Dead(death));
        }
        self.announce(ring);
        let sequence = ring.done + 1;
        let at = self.area + AREA_ANSWERS + (sequence % RING) * LINE;
        let answered = self.control.word64(at);
        let mut spins = 0;
        loop {
            let seen = answered.load(Acquire);
            if seen == sequence {
                break;
            }
            if seen != before(sequence) {
                return Err(self.kill(FORGED));
            }
            if spins < ring.spin {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.sleep_for(sequence, last)?;
                last = sequence;
            }
        }
        let result = self.control.word64(at + 8).load(Relaxed);
        let mut tag = [0; 16];
        self.control.read(at + 16, &mut tag);
        if tag != ring.key.tag(sequence, result) {
            return Err(self.kill(FORGED));
        }
        ring.done = sequence;
        ring.result = result;
        if !ring.key_wiped {
            ring.key_wiped = true;
            self.control.write(self.area + AREA_ORDERS + ORDER_KEYS, &[0; 11 * 16]);
        }
        let order = ring.outstanding.get_mut((sequence % RING) as usize).and_then(Option::take);
        if let (Some(errno), Some(Order { what, args: [addr, len, ..], failure: Failure::Reported, .. })) =
            (errno(result), order)
        {
            ring.failed.get_or_insert(PlatformError::Order { what, addr, len, errno });
        }
        Ok(())
    }

    /// Sleeps until order `last` is answered: once for all those before it, too. Or for the next answer, if that of the last is there out of turn
    /// (a guest wrote it). May return early, so ask for the last one once only: a guest must not keep us awake.
    fn sleep_for(&self, next: u64, last: u64) -> Result<(), PlatformError> {
        let slot = |sequence: u64| self.control.word64(self.area + AREA_ANSWERS + (sequence % RING) * LINE);
        let sequence = if slot(last).load(SeqCst) == before(last) { last } else { next };
        let at = self.area + AREA_ANSWERS + (sequence % RING) * LINE;
        let answered = slot(sequence);
        let waits = self.control.word32(self.area + AREA_ORDERS + ORDER_SENTRY_WAITS);
        let start = monotonic_ns();
        let cpu_start = sys::cpu_time_ns(self.pid);
        // Its number, as the memory thread compares it; one in four thousand million has to look for itself.
        waits.store(sequence as u32, SeqCst);
        let mut result = Ok(());
        let first = answered.load(SeqCst);
        loop {
            let seen = answered.load(SeqCst);
            if seen != first || seen == sequence {
                break;
            }
            let look = monotonic_ns() + LOOK_NS;
            sys::futex_wait(self.control.word32(at), seen as u32, Some(look));
            if answered.load(SeqCst) != sequence && monotonic_ns() >= look {
                for order in next..=sequence {
                    sys::futex_wake(self.control.word32(self.area + AREA_ORDERS + (order % RING) * LINE));
                }
                self.look();
                if let Some(death) = self.death() {
                    result = Err(PlatformError::Dead(death));
                    break;
                }
                let waited = monotonic_ns() - start;
                let idle = sys::cpu_time_ns(self.pid).saturating_sub(cpu_start) < waited / 16;
                if waited > if idle { IDLE_LIMIT_NS } else { ANSWER_LIMIT_NS } {
                    result = Err(self.kill(Death::Unresponsive));
                    break;
                }
            }
        }
        waits.store(0, SeqCst);
        result
    }

    /// Notices when the host has ended the memory thread.
    pub fn look(&self) {
        if self.death().is_none()
            && let Fate::Dead(death) = sys::reap(self.pid, Wait::No)
        {
            let _ = self.death.set(death);
        }
    }

    /// Ends the memory thread; the address space cannot change any more.
    pub fn kill(&self, why: Death) -> PlatformError {
        if self.death.set(why).is_ok() {
            sys::kill(self.pid, libc::SIGKILL);
            sys::reap(self.pid, Wait::Block);
        }
        PlatformError::Dead(self.death().unwrap_or(why))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if self.pid > 0 {
            self.kill(Death::Signal(libc::SIGKILL));
        }
    }
}

/// What the slot of an answer holds until that answer: the number of its last one, if it has had one.
fn before(sequence: u64) -> u64 {
    sequence.checked_sub(RING).filter(|last| *last > 0).unwrap_or(u64::MAX)
}

/// Numbers the answer slots as they are after `done` answers.
fn lay_out_answers(control: &Control, area: u64, done: u64) {
    for sequence in done + 1..=done + RING {
        control.word64(area + AREA_ANSWERS + (sequence % RING) * LINE).store(before(sequence), Relaxed);
    }
}

/// A host call's failure.
fn errno(result: u64) -> Option<Errno> {
    (-4095..0).contains(&(result as i64)).then(|| Errno::from_raw(-(result as i64) as i32))
}
