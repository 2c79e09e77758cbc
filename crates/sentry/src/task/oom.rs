//! What happens when the container's memory is used up (mm/oom_kill.c): the process that frees most is killed, and whoever needed memory waits until it is back
//! and tries again.
//!
//! Who is chosen: the largest by the pages it has of the container's memory, plus `oom_score_adj` thousandths of the limit; never one whose adjustment is
//! -1000. Processes that share its address space go with it. While a victim is on its way nobody else is chosen, for [`PATIENCE_NS`]; then it is passed
//! over. Where nobody is left to be chosen, or there is room and yet a touch fails, the caller ends itself: nothing waits for ever.
//!
//! Locking: the list of victims is a leaf; nothing is held over a wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Cx, Task, TaskFlags, ThreadGroup};
use crate::kernel::Container;
use crate::mm::Mm;
use crate::time::MonoTime;
use crate::wait::{Interrupt, PollEvents, Share, Sleep, wait_for};

/// How long a victim may take to give its memory back, in nanoseconds.
const PATIENCE_NS: u64 = 2_000_000_000;

/// With so many bytes below the limit there is room for any touch.
const ROOM: u64 = 1 << 20;

/// So often in a row a place is tried again although there was room, without anybody's having been killed.
const TRIES: u32 = 64;

/// `OOM_SCORE_ADJ_MIN`: never chosen.
const NEVER: i32 = -1000;

/// Address spaces of a container that are being given up for lack of memory.
#[derive(Default)]
pub struct Victims {
    list: Mutex<Vec<Victim>>,
}

#[derive(Clone)]
struct Victim {
    mm: Weak<Mm>,
    released: Arc<AtomicBool>,
    until: MonoTime,
}

/// Where memory was short, and how often in a row it was tried again.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    place: u64,
    tries: u32,
    /// Of the address space's shortages so many have been seen to.
    seen: u32,
}

/// An address space that might be given up.
struct Candidate {
    mm: Arc<Mm>,
    groups: Vec<Arc<ThreadGroup>>,
    points: i64,
    protected: bool,
}

impl Cx {
    /// Whether memory was short for one of the sentry's own copies since this was asked last.
    pub(super) fn was_short(&mut self) -> bool {
        let shortages = self.mm.shortages();
        std::mem::replace(&mut self.shortage.seen, shortages) != shortages
    }

    /// A touch of `place` (or a system call there) has failed for lack of memory: on the way to user mode some is found.
    pub(super) fn short_at(&mut self, place: u64) {
        let repeated = std::mem::replace(&mut self.shortage.place, place) == place;
        self.shortage.tries = if repeated { self.shortage.tries + 1 } else { 0 };
        self.task.set_flags(TaskFlags::MEMORY);
    }

    /// For those that can go on where a copy of theirs stopped: finds memory, if that was short. False: it was something else.
    pub(crate) async fn found_memory(&mut self) -> bool {
        if !self.was_short() {
            return false;
        }
        self.short_at(self.context.registers().rip);
        Box::pin(self.find_memory()).await;
        !self.task.killed()
    }

    /// Finds memory for what has failed, which can then be tried again; or ends the process.
    pub(super) async fn find_memory(&mut self) {
        self.task.clear(TaskFlags::MEMORY);
        let container = self.task.container.clone();
        let trimmed = container.memory.trim() > 0;
        if trimmed || container.has_room() {
            if self.shortage.tries >= TRIES {
                tracing::warn!(pid = self.task.tgid(), "memory is short although there is room: the process is killed");
                self.task.group.kill_out_of_memory();
            }
            return;
        }
        self.shortage.tries = 0;
        let now = self.now();
        let victim = match container.oom.pending(now) {
            Some(victim) => victim,
            None => match choose(&container, &self.task) {
                Some(chosen) => container.give_up(&chosen, now),
                None => return self.task.group.kill_out_of_memory(),
            },
        };
        let queues = [(container.memory.spaces_gone(), PollEvents::IN)];
        let how = self.task.waiting(Sleep::Killable, Share::All, victim.until);
        // However it ends: the place is tried again, or the task ends.
        let _ = wait_for(how, &queues, || victim.released.load(Ordering::Acquire).then_some(())).await;
    }
}

impl Victims {
    /// One that may still give its memory back. Those that have are forgotten.
    fn pending(&self, now: MonoTime) -> Option<Victim> {
        let mut list = self.list.lock();
        list.retain(|victim| !victim.released.load(Ordering::Acquire));
        list.iter().find(|victim| now < victim.until).cloned()
    }

    fn has(&self, mm: &Arc<Mm>) -> bool {
        self.list.lock().iter().any(|victim| victim.mm.as_ptr() == Arc::as_ptr(mm))
    }
}

impl Container {
    /// Whether its memory is not used up (any more).
    fn has_room(&self) -> bool {
        self.limits.memory().is_some_and(|limit| self.memory.used_bytes().saturating_add(ROOM) <= limit)
    }

    fn give_up(&self, chosen: &Candidate, now: MonoTime) -> Victim {
        let victim =
            Victim { mm: Arc::downgrade(&chosen.mm), released: chosen.mm.released().clone(), until: now.after(PATIENCE_NS) };
        self.oom.list.lock().push(victim.clone());
        for group in &chosen.groups {
            // One that is ending anyway is only waited for.
            if group.inner.lock().exiting.is_none() {
                tracing::info!(pid = group.tgid, points = chosen.points, "out of memory: a process is killed");
                group.kill_out_of_memory();
            }
        }
        victim
    }
}

/// Who frees most; the caller among equals.
fn choose(container: &Container, caller: &Task) -> Option<Candidate> {
    let total = i64::try_from(container.memory_bytes(&caller.kernel.machine)).unwrap_or(i64::MAX);
    let mut candidates: Vec<Candidate> = Vec::new();
    for task in container.tasks() {
        let Some(mm) = task.shared.read().as_ref().map(|shared| shared.mm.clone()) else { continue };
        let group = task.group.clone();
        let adjustment = group.oom_score_adj.load(Ordering::Relaxed);
        let points = || {
            let bytes = i64::try_from(mm.memory_bytes()).unwrap_or(i64::MAX);
            bytes.saturating_add(total / 1000 * i64::from(adjustment))
        };
        match candidates.iter_mut().find(|known| Arc::ptr_eq(&known.mm, &mm)) {
            Some(known) => {
                known.protected |= adjustment == NEVER;
                if !known.groups.iter().any(|other| Arc::ptr_eq(other, &group)) {
                    known.points = known.points.max(points());
                    known.groups.push(group);
                }
            }
            None => {
                let points = if adjustment == NEVER { 0 } else { points() };
                candidates.push(Candidate { mm, groups: vec![group], points, protected: adjustment == NEVER });
            }
        }
    }
    candidates.retain(|candidate| !candidate.protected && !container.oom.has(&candidate.mm));
    let is_callers = |candidate: &Candidate| candidate.groups.iter().any(|group| Arc::ptr_eq(group, &caller.group));
    candidates.into_iter().max_by_key(|candidate| (candidate.points, is_callers(candidate)))
}
