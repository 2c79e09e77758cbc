//! What happens when the container's memory is used up (mm/oom_kill.c): the process that frees most is killed, and whoever needed memory waits until it is back
//! and tries again.
//!
//! Who is chosen: the largest by the pages it has of the container's memory, plus `oom_score_adj` thousandths of the limit; never one whose adjustment is
//! -1000. Processes that share its address space go with it. While a victim is on its way nobody else is chosen, for [`PATIENCE_NS`]; then it is passed
//! over. Where nobody is left to be chosen, or there is room and yet a touch fails, the caller ends itself: nothing waits for ever.
//!
//! What is tried again: a touch; the rest of a read or write whose place is known; and calls that have no effect before they are done with the caller's
//! memory ([`repeats`]). Of any other call the effect may be there and its result nowhere: its process is killed.
//!
//! Locking: the list of victims is a leaf; nothing is held over a wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Cx, ExitStatus, Task, TaskFlags, ThreadGroup};
use crate::abi::uapi as nr;
use crate::executor::yield_now;
use crate::kernel::Container;
use crate::mm::Mm;
use crate::signal::Signal;
use crate::time::MonoTime;
use crate::wait::{Interrupt, PollEvents, Share, Sleep, wait_for};

/// How long a victim may take to give its memory back, in nanoseconds.
const PATIENCE_NS: u64 = 2_000_000_000;

/// With so many bytes below the limit there is room for any touch.
const ROOM: u64 = 1 << 20;

/// So often in a row, without a system call between, memory may be short although there was room.
const TRIES: u32 = 1000;

/// `OOM_SCORE_ADJ_MIN`: never chosen.
const NEVER: i32 = -1000;

/// Address spaces of a container that are being given up for lack of memory.
#[derive(Default)]
pub struct Victims {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    victims: Vec<Victim>,
    /// How many there have been: who has chosen one sees whether another was faster.
    chosen: u64,
}

struct Victim {
    mm: Weak<Mm>,
    released: Arc<AtomicBool>,
    /// None: its time begins when somebody looks next.
    until: Option<MonoTime>,
}

/// What is to be waited for.
struct Pending {
    released: Arc<AtomicBool>,
    until: MonoTime,
}

/// What a task knows of shortages.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// How often in a row there was room.
    tries: u32,
    /// Warm pages were given back, but that was not enough.
    trimmed: bool,
    /// The address space's shortages before the call that is being made.
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
    /// A call (or another thing that copies) begins: whatever was short before has been seen to.
    pub(super) fn forget_shortages(&mut self) {
        self.shortage.seen = self.mm.shortages();
    }

    /// A call has come from user mode, so what was tried again has worked.
    pub(super) fn has_run_on(&mut self) {
        self.shortage.tries = 0;
        self.shortage.trimmed = false;
    }

    /// Whether memory was short for one of the sentry's own copies since [`forget_shortages`](Cx::forget_shortages).
    pub(super) fn was_short(&self) -> bool {
        self.mm.shortages() != self.shortage.seen
    }

    /// A touch has failed for lack of memory: on the way to user mode some is found.
    pub(super) fn wants_memory(&self) {
        self.task.set_flags(TaskFlags::MEMORY);
    }

    /// Finds memory for a copy that stopped for lack of it, which can then go on there. False: the process ends.
    pub(crate) async fn found_memory(&mut self) -> bool {
        Box::pin(self.find_memory()).await;
        !self.task.killed()
    }

    /// Finds memory for what has failed, which can then be tried again; or ends the process.
    pub(super) async fn find_memory(&mut self) {
        self.task.clear(TaskFlags::MEMORY);
        if self.task.killed() {
            return;
        }
        let container = self.task.container.clone();
        let now = self.now();
        let patience = if container.life.paused() { Patience::Stands } else { Patience::Passes };
        // Looked at before the room: a victim that goes meanwhile leaves room, or is waited for.
        let (pending, chosen_before) = container.oom.look(now, patience);
        let trimmed = container.memory.trim() > 0;
        if container.has_room() {
            self.shortage.tries += 1;
            if self.shortage.tries >= TRIES {
                tracing::warn!(pid = self.task.tgid(), "memory is short although there is room: the process is killed");
                return self.task.group.kill_out_of_memory();
            }
            return yield_now().await;
        }
        if trimmed && !std::mem::replace(&mut self.shortage.trimmed, true) {
            // A few pages may be all that is wanted.
            return;
        }
        let pending = match pending {
            Some(pending) => pending,
            None => {
                let chosen = choose(&container, &self.task).await;
                if self.task.killed() {
                    return;
                }
                match container.give_up(chosen.as_ref(), chosen_before, now) {
                    GivenUp::Chosen(pending) => pending,
                    GivenUp::Nobody => return self.task.group.kill_out_of_memory(),
                    // Somebody else has chosen meanwhile: that may do.
                    GivenUp::Late => return yield_now().await,
                }
            }
        };
        self.shortage.trimmed = false;
        let queues = [(container.memory.spaces_gone(), PollEvents::IN)];
        let how = self.task.waiting(Sleep::Killable, Share::All, pending.until);
        // However it ends: it is tried again, or the task ends.
        let _ = wait_for(how, &queues, || pending.released.load(Ordering::Acquire).then_some(())).await;
    }
}

/// Whether a call that gave `EFAULT` has done nothing: it reads its arguments before it does anything, or tells what is and changes nothing.
pub(super) fn repeats(number: u64) -> bool {
    const READ_FIRST: [u32; 32] = [
        nr::__NR_write,
        nr::__NR_pwrite64,
        nr::__NR_writev,
        nr::__NR_pwritev,
        nr::__NR_pwritev2,
        nr::__NR_sendto,
        nr::__NR_connect,
        nr::__NR_bind,
        nr::__NR_open,
        nr::__NR_openat,
        nr::__NR_openat2,
        nr::__NR_creat,
        nr::__NR_execve,
        nr::__NR_execveat,
        nr::__NR_access,
        nr::__NR_faccessat,
        nr::__NR_faccessat2,
        nr::__NR_chdir,
        nr::__NR_chmod,
        nr::__NR_fchmodat,
        nr::__NR_chown,
        nr::__NR_fchownat,
        nr::__NR_mkdir,
        nr::__NR_mkdirat,
        nr::__NR_rmdir,
        nr::__NR_unlink,
        nr::__NR_unlinkat,
        nr::__NR_rename,
        nr::__NR_renameat,
        nr::__NR_renameat2,
        nr::__NR_symlinkat,
        nr::__NR_linkat,
    ];
    const TELL: [u32; 23] = [
        nr::__NR_stat,
        nr::__NR_fstat,
        nr::__NR_lstat,
        nr::__NR_newfstatat,
        nr::__NR_statx,
        nr::__NR_statfs,
        nr::__NR_fstatfs,
        nr::__NR_readlink,
        nr::__NR_readlinkat,
        nr::__NR_getdents,
        nr::__NR_getdents64,
        nr::__NR_getcwd,
        nr::__NR_uname,
        nr::__NR_sysinfo,
        nr::__NR_getrusage,
        nr::__NR_times,
        nr::__NR_clock_gettime,
        nr::__NR_clock_getres,
        nr::__NR_gettimeofday,
        nr::__NR_getrandom,
        nr::__NR_sched_getaffinity,
        nr::__NR_getsockname,
        nr::__NR_getpeername,
    ];
    READ_FIRST.iter().chain(&TELL).any(|&known| u64::from(known) == number)
}

/// Whether the victims' time passes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Passes,
    /// The container is paused.
    Stands,
}

enum GivenUp {
    Chosen(Pending),
    Nobody,
    /// Another was chosen since.
    Late,
}

impl Victims {
    /// One that may still give its memory back, and how many have been chosen so far. Those that have given it back are forgotten. A container's victims
    /// have the time in which it was not paused.
    fn look(&self, now: MonoTime, patience: Patience) -> (Option<Pending>, u64) {
        let mut list = self.list.lock();
        list.victims.retain(|victim| !victim.released.load(Ordering::Acquire));
        let pending = list.victims.iter_mut().find_map(|victim| {
            if patience == Patience::Stands {
                victim.until = None;
            }
            let until = *victim.until.get_or_insert_with(|| now.after(PATIENCE_NS));
            (now < until).then(|| Pending { released: victim.released.clone(), until })
        });
        (pending, list.chosen)
    }

    /// The container goes on after a pause: its victims have all their time again.
    pub fn begin_again(&self) {
        self.list.lock().victims.iter_mut().for_each(|victim| victim.until = None);
    }

    /// Takes note of a victim, unless there is another since there were `chosen_before`.
    fn add(&self, mm: Weak<Mm>, released: Arc<AtomicBool>, chosen_before: u64, until: MonoTime) -> bool {
        let mut list = self.list.lock();
        if list.chosen != chosen_before {
            return false;
        }
        list.chosen += 1;
        list.victims.push(Victim { mm, released, until: Some(until) });
        true
    }

    fn chosen(&self) -> u64 {
        self.list.lock().chosen
    }

    fn has(&self, mm: &Arc<Mm>) -> bool {
        self.list.lock().victims.iter().any(|victim| victim.mm.as_ptr() == Arc::as_ptr(mm))
    }
}

impl Container {
    /// Whether its memory is not used up (any more).
    fn has_room(&self) -> bool {
        self.limits.memory().is_some_and(|limit| self.memory.used_bytes().saturating_add(ROOM) <= limit)
    }

    fn give_up(&self, chosen: Option<&Candidate>, chosen_before: u64, now: MonoTime) -> GivenUp {
        let Some(chosen) = chosen else {
            return if self.oom.chosen() == chosen_before { GivenUp::Nobody } else { GivenUp::Late };
        };
        let (released, until) = (chosen.mm.released().clone(), now.after(PATIENCE_NS));
        if !self.oom.add(Arc::downgrade(&chosen.mm), released.clone(), chosen_before, until) {
            return GivenUp::Late;
        }
        for group in &chosen.groups {
            let mut inner = group.inner.lock();
            if inner.exiting.is_some() {
                // One that is ending anyway is only waited for; a core that it writes is cut short, and what it shows its tracer.
                inner.begin_exit(ExitStatus::killed(Signal::KILL));
                inner.end_trace_stops();
            } else {
                drop(inner);
                tracing::info!(pid = group.tgid, points = chosen.points, "out of memory: a process is killed");
                group.kill_out_of_memory();
            }
        }
        GivenUp::Chosen(Pending { released, until })
    }
}

/// Who frees most; the caller among equals.
async fn choose(container: &Container, caller: &Task) -> Option<Candidate> {
    let total = i64::try_from(container.memory_bytes(&caller.kernel.machine)).unwrap_or(i64::MAX);
    let mut candidates: Vec<Candidate> = Vec::new();
    for task in container.tasks() {
        let Some(mm) = task.shared.read().as_ref().map(|shared| shared.mm.clone()) else { continue };
        let group = task.group.clone();
        let adjustment = group.oom_score_adj.load(Ordering::Relaxed);
        // To ask about a process takes time.
        yield_now().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptrace::Options;
    use crate::testing::{Machine, Role, User, map_memory};

    fn add(victims: &Victims, chosen_before: u64) -> Option<Arc<AtomicBool>> {
        let released = Arc::new(AtomicBool::new(false));
        victims.add(Weak::new(), released.clone(), chosen_before, MonoTime(PATIENCE_NS)).then_some(released)
    }

    #[test]
    fn two_that_choose_at_once_choose_one() {
        let victims = Victims::default();
        let ((none, first), (_, second)) =
            (victims.look(MonoTime(0), Patience::Passes), victims.look(MonoTime(0), Patience::Passes));
        assert!(none.is_none());
        let released = add(&victims, first).expect("nobody was faster");
        assert!(add(&victims, second).is_none(), "somebody was");
        assert!(victims.look(MonoTime(0), Patience::Passes).0.is_some());
        // Nor one that has looked before the first victim had gone.
        released.store(true, Ordering::Release);
        assert!(add(&victims, second).is_none());
        let (none, now) = victims.look(MonoTime(0), Patience::Passes);
        assert!(none.is_none() && add(&victims, now).is_some());
    }

    #[test]
    fn a_pause_costs_a_victim_no_time() {
        let victims = Victims::default();
        let _released = add(&victims, 0);
        let late = MonoTime(PATIENCE_NS);
        assert!(victims.look(late, Patience::Passes).0.is_none(), "it has had its time");
        assert_eq!(victims.look(late, Patience::Stands).0.map(|pending| pending.until), Some(late.after(PATIENCE_NS)));
        let later = late.after(PATIENCE_NS);
        victims.begin_again();
        assert!(victims.look(later, Patience::Passes).0.is_some());
    }

    /// Of a process of two threads, the first of which ends by `call` and is not let go on from the stop at its exit: whether its memory comes back.
    fn comes_back_from_the_stop_at_exit(call: u32) -> bool {
        // CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM
        const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
        const PTRACE_SEIZE: u64 = 0x4206;
        const PTRACE_O_TRACEEXIT: u64 = 1 << 6;
        let machine = Machine::new();
        machine.start(move |u| async move {
            let traced = move |u: User| async move {
                let idle = |u: User| async move {
                    u.syscall(nr::__NR_pause.into(), []).await;
                };
                u.spawn(nr::__NR_clone.into(), [THREAD, map_memory(&u, 4096).await + 4096, 0, 0, 0], Role::Thread, idle).await;
                u.compute(1_000_000).await;
                u.syscall(call.into(), [0]).await;
            };
            let pid = u.spawn(nr::__NR_fork.into(), [], Role::Program, traced).await;
            assert_eq!(u.syscall(nr::__NR_ptrace.into(), [PTRACE_SEIZE, pid as u64, 0, PTRACE_O_TRACEEXIT]).await, 0);
            u.syscall(nr::__NR_pause.into(), []).await;
        });
        machine.run();
        let container = &machine.container;
        let task = container.tasks().into_iter().find(|task| task.in_trace_stop()).expect("a task in its exit stop");
        let mm = task.shared.read().as_ref().map(|shared| shared.mm.clone()).expect("memory");
        let released = mm.released().clone();
        let chosen = Candidate { mm, groups: vec![task.group.clone()], points: 1, protected: false };
        assert!(matches!(container.give_up(Some(&chosen), 0, MonoTime(machine.now_ns())), GivenUp::Chosen(_)));
        drop((chosen, task));
        machine.run_until(|| released.load(Ordering::Acquire))
    }

    #[test]
    fn a_tracer_does_not_hold_a_victims_memory() {
        assert!(comes_back_from_the_stop_at_exit(nr::__NR_exit_group));
        assert!(comes_back_from_the_stop_at_exit(nr::__NR_exit));
    }

    #[test]
    fn a_tracer_that_comes_after_the_choice_does_not_hold_it_either() {
        let machine = Machine::new();
        machine.start(|u| async move {
            let idle = |u: User| async move {
                u.syscall(nr::__NR_pause.into(), []).await;
            };
            u.spawn(nr::__NR_fork.into(), [], Role::Program, idle).await;
            u.syscall(nr::__NR_pause.into(), []).await;
        });
        machine.run();
        let container = &machine.container;
        let (tracers, victims): (Vec<_>, Vec<_>) = container.tasks().into_iter().partition(|task| task.tgid() == 1);
        let (tracer, victim) = (tracers.first().expect("init"), victims.first().expect("its child"));
        let mm = victim.shared.read().as_ref().map(|shared| shared.mm.clone()).expect("memory");
        let released = mm.released().clone();
        let chosen = Candidate { mm, groups: vec![victim.group.clone()], points: 1, protected: false };
        // It is ending anyway, so its tracer is shown that; but it is not there yet.
        victim.exit_group(ExitStatus::killed(Signal::TERM));
        assert!(matches!(container.give_up(Some(&chosen), 0, MonoTime(machine.now_ns())), GivenUp::Chosen(_)));
        tracer.seize(victim, Options::TRACEEXIT).expect("seized");
        drop((chosen, victims));
        assert!(machine.run_until(|| released.load(Ordering::Acquire)));
    }

    #[test]
    fn what_has_had_an_effect_is_not_made_again() {
        for number in [nr::__NR_wait4, nr::__NR_msgrcv, nr::__NR_epoll_wait, nr::__NR_accept, nr::__NR_recvmsg, nr::__NR_read] {
            assert!(!repeats(number.into()), "{number}");
        }
        assert!(repeats(nr::__NR_newfstatat.into()));
    }
}
