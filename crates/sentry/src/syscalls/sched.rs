//! Scheduling: yield, affinity, policies, nice values.
//!
//! The host schedules application threads; what a guest asks for is checked, kept and reported.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::abi::uapi;
use crate::executor::yield_now;
use crate::task::{Capability, Cx, Resource, Task, Tid};

const OTHER: u32 = 0;
const FIFO: u32 = 1;
const RR: u32 = 2;
const BATCH: u32 = 3;
const IDLE: u32 = 5;
/// `SCHED_RESET_ON_FORK`.
const RESET_ON_FORK: u32 = 0x4000_0000;

/// `struct sched_attr`, its first version.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

pub fn sys_sched_yield(_cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::wait(async {
        yield_now().await;
        Ok(0)
    })
}

/// The task of a number; 0 is the caller.
fn target(cx: &Cx, tid: Tid) -> Result<Arc<Task>, Errno> {
    match tid {
        0 => Ok(cx.task.clone()),
        tid if tid < 0 => Err(Errno::EINVAL),
        tid => cx.find_task(tid).ok_or(Errno::ESRCH),
    }
}

/// As [`target`], for a change: the caller must own it or have `CAP_SYS_NICE`.
fn owned_target(cx: &Cx, tid: Tid) -> Result<Arc<Task>, Errno> {
    let task = target(cx, tid)?;
    let (ours, theirs) = (cx.creds(), task.creds());
    if ours.euid != theirs.uid && ours.euid != theirs.euid && !ours.has(Capability::SysNice) {
        return Err(Errno::EPERM);
    }
    Ok(task)
}

/// One bit for each CPU of the sandbox (at most 64).
fn all_cpus(cx: &Cx) -> u64 {
    u64::MAX >> (64 - cx.kernel().machine.cpus.clamp(1, 64))
}

pub fn sys_sched_getaffinity(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getaffinity(cx, args))
}

/// Writes 8 bytes and says so, as a kernel built for 64 CPUs does.
fn getaffinity(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let size = args.u32(1);
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let tid = args.i32(0);
    // Unlike its sisters, this call knows no invalid number, only missing tasks.
    let task = if tid < 0 { Err(Errno::ESRCH) } else { target(cx, tid) };
    let mask = task?.scheduling.lock().affinity & all_cpus(cx);
    cx.mm.write_val(args.u64(2), &mask)?;
    Ok(8)
}

pub fn sys_sched_setaffinity(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setaffinity(cx, args))
}

fn setaffinity(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let mut mask = [0; 8];
    let size = (args.u32(1) as usize).min(mask.len());
    cx.mm.read(args.u64(2), mask.get_mut(..size).unwrap_or_default())?;
    let task = owned_target(cx, args.i32(0))?;
    let mask = u64::from_le_bytes(mask) & all_cpus(cx);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    task.scheduling.lock().affinity = mask;
    Ok(0)
}

/// Highest and lowest static priority of a policy.
fn priorities(policy: i32) -> Result<(u64, u64), Errno> {
    match u32::try_from(policy) {
        Ok(FIFO | RR) => Ok((99, 1)),
        Ok(OTHER | BATCH | IDLE | uapi::SCHED_DEADLINE) => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

pub fn sys_sched_get_priority_max(_cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(priorities(args.i32(0)).map(|(most, _)| most))
}

pub fn sys_sched_get_priority_min(_cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(priorities(args.i32(0)).map(|(_, least)| least))
}

pub fn sys_sched_getscheduler(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(target(cx, args.i32(0)).map(|task| {
        let scheduling = *task.scheduling.lock();
        u64::from(scheduling.policy | if scheduling.reset_on_fork { RESET_ON_FORK } else { 0 })
    }))
}

/// Real-time policies would need the host's leave: `EPERM`, as for a user without `CAP_SYS_NICE`.
fn set_policy(task: &Task, policy: u32, priority: u32) -> Result<u64, Errno> {
    let reset_on_fork = policy & RESET_ON_FORK != 0;
    let policy = policy & !RESET_ON_FORK;
    match policy {
        OTHER | BATCH | IDLE if priority == 0 => {
            let mut scheduling = task.scheduling.lock();
            scheduling.policy = policy;
            scheduling.reset_on_fork = reset_on_fork;
            Ok(0)
        }
        FIFO | RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        uapi::SCHED_DEADLINE => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub fn sys_sched_setscheduler(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setscheduler(cx, args.i32(0), Some(args.u32(1)), args.opt_ptr(2)))
}

pub fn sys_sched_setparam(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setscheduler(cx, args.i32(0), None, args.opt_ptr(1)))
}

fn setscheduler(cx: &Cx, tid: Tid, policy: Option<u32>, param: Option<u64>) -> Result<u64, Errno> {
    if tid < 0 || policy.is_some_and(|policy| (policy as i32) < 0) {
        return Err(Errno::EINVAL);
    }
    let priority: u32 = cx.mm.read_val(param.ok_or(Errno::EINVAL)?)?;
    let task = owned_target(cx, tid)?;
    let policy = policy.unwrap_or_else(|| task.scheduling.lock().policy);
    set_policy(&task, policy, priority)
}

pub fn sys_sched_getparam(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getparam(cx, args))
}

fn getparam(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let param = args.opt_ptr(1).ok_or(Errno::EINVAL)?;
    let task = target(cx, args.i32(0))?;
    cx.mm.write_val(param, &(task.scheduling.lock().priority as u32))?;
    Ok(0)
}

/// What CFS gives: the length of a slice, here 4 ms; 0 for FIFO.
pub fn sys_sched_rr_get_interval(cx: &mut Cx, args: Args) -> Flow<'_> {
    let interval: [i64; 2] = [0, 4_000_000];
    Flow::done(target(cx, args.i32(0)).and_then(|_| cx.mm.write_val(args.u64(1), &interval)).map(|()| 0))
}

pub fn sys_sched_setattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setattr(cx, args))
}

fn setattr(cx: &Cx, args: Args) -> Result<u64, Errno> {
    if args.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let attr: SchedAttr = cx.mm.read_val(args.opt_ptr(1).ok_or(Errno::EINVAL)?)?;
    let task = owned_target(cx, args.i32(0))?;
    if attr.size != 0 && (attr.size as usize) < size_of::<SchedAttr>() {
        return Err(Errno::EINVAL);
    }
    set_policy(&task, attr.policy | if attr.flags & 1 != 0 { RESET_ON_FORK } else { 0 }, attr.priority)?;
    if attr.policy == OTHER || attr.policy == BATCH {
        set_nice(cx, &task, attr.nice)?;
    }
    Ok(0)
}

pub fn sys_sched_getattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getattr(cx, args))
}

fn getattr(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let addr = args.opt_ptr(1).ok_or(Errno::EINVAL)?;
    if (args.u32(2) as usize) < size_of::<SchedAttr>() || args.u32(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let scheduling = *target(cx, args.i32(0))?.scheduling.lock();
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: scheduling.policy,
        flags: u64::from(scheduling.reset_on_fork),
        nice: scheduling.nice,
        ..SchedAttr::default()
    };
    cx.mm.write_val(addr, &attr)?;
    Ok(0)
}

/// Lowering below the current value needs `CAP_SYS_NICE` or room in `RLIMIT_NICE`.
fn set_nice(cx: &Cx, task: &Task, nice: i32) -> Result<(), Errno> {
    let nice = nice.clamp(-20, 19);
    let mut scheduling = task.scheduling.lock();
    if nice < scheduling.nice && !cx.creds().has(Capability::SysNice) {
        let room = cx.task.rlimit(Resource::Nice).soft;
        if u64::try_from(20 - nice).map_or(true, |wanted| wanted > room) {
            return Err(Errno::EACCES);
        }
    }
    scheduling.nice = nice;
    Ok(())
}

/// The tasks that `which` and `who` of get/setpriority name.
fn who(cx: &Cx, which: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    const PROCESS: i32 = 0;
    const GROUP: i32 = 1;
    const USER: i32 = 2;
    let pids = &cx.task.container.pids;
    let tasks = match which {
        PROCESS if who < 0 => Vec::new(),
        PROCESS => target(cx, who).into_iter().collect(),
        GROUP => {
            let pgid = if who == 0 { cx.task.group.pgid() } else { who };
            pids.process_group(pgid).iter().flat_map(|group| group.threads()).collect()
        }
        USER => {
            let uid = if who == 0 { cx.creds().uid } else { who as u32 };
            pids.tasks().into_iter().filter(|task| task.creds().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

/// Returns 20 - nice, so that it is never negative.
pub fn sys_getpriority(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(who(cx, args.i32(0), args.i32(1)).map(|tasks| {
        let least = tasks.iter().map(|task| task.scheduling.lock().nice).min().unwrap_or(0);
        u64::try_from(20 - least).unwrap_or(20)
    }))
}

pub fn sys_setpriority(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setpriority(cx, args))
}

fn setpriority(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let mut result = Err(Errno::ESRCH);
    for task in who(cx, args.i32(0), args.i32(1))? {
        let changed = owned_target(cx, task.tid()).and_then(|task| set_nice(cx, &task, args.i32(2)));
        result = match (result, changed) {
            (Err(Errno::ESRCH), changed) => changed,
            (_, Err(errno)) => Err(errno),
            (kept, Ok(())) => kept,
        };
    }
    result.map(|()| 0)
}

pub fn sys_ioprio_get(cx: &mut Cx, args: Args) -> Flow<'_> {
    let which = args.i32(0);
    let tasks = if (1..=3).contains(&which) { who(cx, which - 1, args.i32(1)) } else { Err(Errno::EINVAL) };
    Flow::done(tasks.map(|tasks| tasks.iter().map(|task| task.scheduling.lock().io_priority).max().unwrap_or(0).into()))
}

pub fn sys_ioprio_set(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(ioprio_set(cx, args))
}

fn ioprio_set(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (which, value) = (args.i32(0), args.u32(2));
    let (class, level) = (value >> 13, value & 0x1fff);
    match class {
        1 if !cx.creds().has(Capability::SysAdmin) => return Err(Errno::EPERM),
        0 if level != 0 => return Err(Errno::EINVAL),
        0..=3 if (1..=3).contains(&which) => {}
        _ => return Err(Errno::EINVAL),
    }
    for task in who(cx, which - 1, args.i32(1))? {
        task.scheduling.lock().io_priority = value;
    }
    Ok(0)
}

/// The CPU is one the caller may run on; which one it really was on is the host's affair.
pub fn sys_getcpu(cx: &mut Cx, args: Args) -> Flow<'_> {
    let cpu = (cx.task.scheduling.lock().affinity & all_cpus(cx)).trailing_zeros().min(63);
    let write = |ptr: Option<u64>, value: u32| ptr.map_or(Ok(()), |ptr| cx.mm.write_val(ptr, &value));
    Flow::done(write(args.opt_ptr(0), cpu).and_then(|()| write(args.opt_ptr(1), 0)).map(|()| 0))
}
