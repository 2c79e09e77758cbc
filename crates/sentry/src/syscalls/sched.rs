//! Scheduling: yield, affinity, policies, nice values.
//!
//! The host schedules application threads. What a guest asks for is checked, kept and reported; the choice of CPUs and positive nice values are passed on.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::abi::uapi;
use crate::executor::yield_now;
use crate::ns::Ids;
use crate::task::{Capability, Cx, Resource, SCHED_IDLE as IDLE, Task, Tid};

const OTHER: u32 = 0;
const FIFO: u32 = 1;
const RR: u32 = 2;
const BATCH: u32 = 3;
/// `SCHED_RESET_ON_FORK`.
const RESET_ON_FORK: u32 = 0x4000_0000;

/// `struct sched_attr`.
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
    util_min: u32,
    util_max: u32,
}

pub fn sys_sched_yield(_cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::wait(async {
        yield_now().await;
        Ok(0)
    })
}

/// The task of a number; 0 is the caller. A negative one is nobody's.
fn target(cx: &Cx, tid: Tid) -> Result<Arc<Task>, Errno> {
    match tid {
        0 => Ok(cx.task.clone()),
        tid if tid < 0 => Err(Errno::ESRCH),
        tid => cx.find_task(tid).ok_or(Errno::ESRCH),
    }
}

/// As [`target`], for calls that refuse negative numbers.
fn positive_target(cx: &Cx, tid: Tid) -> Result<Arc<Task>, Errno> {
    if tid < 0 { Err(Errno::EINVAL) } else { target(cx, tid) }
}

/// Whether the caller has the task's user (`check_same_owner`).
fn owns(cx: &Cx, task: &Task) -> bool {
    let (ours, theirs) = (cx.creds(), task.creds());
    ours.euid == theirs.uid || ours.euid == theirs.euid
}

/// A task to be changed: the caller must own it or have `CAP_SYS_NICE`.
fn may_change(cx: &Cx, task: &Task) -> Result<(), Errno> {
    if owns(cx, task) || cx.creds().has_in(&task.creds().user_ns, Capability::SysNice) { Ok(()) } else { Err(Errno::EPERM) }
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
    let task = target(cx, args.i32(0))?;
    may_change(cx, &task)?;
    let mask = u64::from_le_bytes(mask) & all_cpus(cx);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    task.scheduling.lock().affinity = mask;
    task.prefer();
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
    Flow::done(positive_target(cx, args.i32(0)).map(|task| {
        let scheduling = *task.scheduling.lock();
        u64::from(scheduling.policy | if scheduling.reset_on_fork { RESET_ON_FORK } else { 0 })
    }))
}

/// A policy to be set.
#[derive(Debug, Clone, Copy)]
struct Policy {
    policy: u32,
    priority: u32,
    reset_on_fork: bool,
    /// None: as it is.
    nice: Option<i32>,
}

/// `__sched_setscheduler`. Real-time policies are kept and reported.
fn set_policy(cx: &Cx, task: &Task, new: Policy) -> Result<u64, Errno> {
    let real_time = matches!(new.policy, FIFO | RR);
    if !matches!(new.policy, OTHER | BATCH | IDLE | FIFO | RR | uapi::SCHED_DEADLINE)
        || new.priority > 99
        || real_time != (new.priority != 0)
    {
        return Err(Errno::EINVAL);
    }
    let capable = cx.creds().has(Capability::SysNice);
    let old = *task.scheduling.lock();
    let lower_nice = new.nice.is_some_and(|nice| nice < old.nice && !within_nice_limit(task, nice));
    let most = task.rlimit(Resource::Rtprio).soft;
    let beyond = real_time
        && ((new.policy != old.policy && most == 0) || (new.priority > old.priority && u64::from(new.priority) > most));
    let leaves_idle = old.policy == IDLE && new.policy != IDLE && !within_nice_limit(task, old.nice);
    let privileged = lower_nice || beyond || leaves_idle || !owns(cx, task) || (old.reset_on_fork && !new.reset_on_fork);
    if !capable && (privileged || new.policy == uapi::SCHED_DEADLINE) {
        return Err(Errno::EPERM);
    }
    if new.policy == uapi::SCHED_DEADLINE {
        // No processor time can be promised.
        return Err(Errno::EBUSY);
    }
    let mut scheduling = task.scheduling.lock();
    (scheduling.policy, scheduling.priority, scheduling.reset_on_fork) = (new.policy, new.priority, new.reset_on_fork);
    scheduling.nice = new.nice.unwrap_or(scheduling.nice);
    drop(scheduling);
    task.prefer();
    Ok(0)
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
    let task = target(cx, tid)?;
    let old = *task.scheduling.lock();
    let reset_on_fork = policy.map_or(old.reset_on_fork, |policy| policy & RESET_ON_FORK != 0);
    let policy = policy.map_or(old.policy, |policy| policy & !RESET_ON_FORK);
    if policy == uapi::SCHED_DEADLINE {
        return Err(Errno::EINVAL);
    }
    set_policy(cx, &task, Policy { policy, priority, reset_on_fork, nice: None })
}

pub fn sys_sched_getparam(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getparam(cx, args))
}

fn getparam(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let param = args.opt_ptr(1).ok_or(Errno::EINVAL)?;
    let task = positive_target(cx, args.i32(0))?;
    cx.mm.write_val(param, &{ task.scheduling.lock().priority })?;
    Ok(0)
}

/// The length of a slice: 100 ms for round robin, none for first in, first out, and what the fair scheduler gives, here 4 ms.
pub fn sys_sched_rr_get_interval(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(positive_target(cx, args.i32(0)).and_then(|task| {
        let ns: i64 = match task.scheduling.lock().policy {
            RR => 100_000_000,
            FIFO => 0,
            _ => 4_000_000,
        };
        cx.mm.write_val(args.u64(1), &[0, ns]).map(|()| 0)
    }))
}

/// `SCHED_FLAG_*`: reset on fork, keep policy, keep parameters; those of deadlines are taken and mean nothing.
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 16;
const FLAGS_KNOWN: u64 = 0x1f;
const FLAGS_CLAMP: u64 = 0x60;
/// The structure's sizes: first version, and with the two utilisation clamps.
const ATTR_SIZE_0: u32 = 48;
const ATTR_SIZE_1: u32 = 56;

pub fn sys_sched_setattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setattr(cx, args))
}

fn read_attr(cx: &Cx, addr: u64) -> Result<SchedAttr, Errno> {
    let size = match cx.mm.read_val::<u32>(addr)? {
        0 => ATTR_SIZE_0,
        size => size,
    };
    let attr = if (ATTR_SIZE_0..=crate::abi::PAGE_SIZE as u32).contains(&size) {
        super::process::read_extensible::<SchedAttr>(cx, addr, size as usize)
    } else {
        Err(Errno::E2BIG)
    };
    if attr.as_ref().err() == Some(&Errno::E2BIG) {
        cx.mm.write_val(addr, &ATTR_SIZE_1)?;
    }
    attr
}

fn setattr(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let tid = args.i32(0);
    if args.u64(1) == 0 || tid < 0 || args.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = read_attr(cx, args.u64(1))?;
    if (attr.policy as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let task = target(cx, tid)?;
    let old = *task.scheduling.lock();
    let keeps = |flag: u64| attr.flags & flag != 0;
    let policy = if keeps(FLAG_KEEP_POLICY) { old.policy } else { attr.policy };
    let (priority, nice) =
        if keeps(FLAG_KEEP_PARAMS) { (old.priority, old.nice) } else { (attr.priority, attr.nice.clamp(-20, 19)) };
    if attr.flags & !(FLAGS_KNOWN | FLAGS_CLAMP) != 0 {
        return Err(Errno::EINVAL);
    }
    if attr.flags & FLAGS_CLAMP != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let fair = matches!(policy, OTHER | BATCH | IDLE);
    set_policy(cx, &task, Policy { policy, priority, reset_on_fork: keeps(FLAG_RESET_ON_FORK), nice: fair.then_some(nice) })
}

pub fn sys_sched_getattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getattr(cx, args))
}

fn getattr(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (tid, size) = (args.i32(0), args.u32(2));
    if args.u64(1) == 0 || tid < 0 || !(ATTR_SIZE_0..=crate::abi::PAGE_SIZE as u32).contains(&size) || args.u32(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let scheduling = *target(cx, tid)?.scheduling.lock();
    let real_time = matches!(scheduling.policy, FIFO | RR);
    let size = size.min(ATTR_SIZE_1);
    let attr = SchedAttr {
        size,
        policy: scheduling.policy,
        flags: u64::from(scheduling.reset_on_fork),
        nice: if real_time { 0 } else { scheduling.nice },
        priority: scheduling.priority,
        ..SchedAttr::default()
    };
    cx.mm.write(args.u64(1), attr.as_bytes().get(..size as usize).unwrap_or_default())?;
    Ok(0)
}

/// Whether `RLIMIT_NICE` lets the task have a nice value.
fn within_nice_limit(task: &Task, nice: i32) -> bool {
    let room = task.rlimit(Resource::Nice).soft;
    u64::try_from(20 - nice).is_ok_and(|wanted| wanted <= room)
}

/// Lowering below the current value needs `CAP_SYS_NICE` or room in `RLIMIT_NICE`.
fn set_nice(cx: &Cx, task: &Task, nice: i32) -> Result<(), Errno> {
    let nice = nice.clamp(-20, 19);
    let mut scheduling = task.scheduling.lock();
    if nice < scheduling.nice && !within_nice_limit(task, nice) && !cx.creds().has(Capability::SysNice) {
        return Err(Errno::EACCES);
    }
    scheduling.nice = nice;
    drop(scheduling);
    task.prefer();
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
            let pgid = if who == 0 { Some(cx.task.group.pgid()) } else { cx.task.group.pid_ns.global(who) };
            let pgid = pgid.ok_or(Errno::ESRCH)?;
            pids.process_group(pgid).iter().flat_map(|group| group.threads()).collect()
        }
        USER => {
            let creds = cx.creds();
            let uid = if who == 0 { Some(creds.uid) } else { creds.user_ns.kernel_id(Ids::Users, who as u32) };
            let uid = uid.ok_or(Errno::ESRCH)?;
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
        let changed = may_change(cx, &task).and_then(|()| set_nice(cx, &task, args.i32(2)));
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
        1 if !cx.creds().has(Capability::SysAdmin) && !cx.creds().has(Capability::SysNice) => return Err(Errno::EPERM),
        0 if level != 0 => return Err(Errno::EINVAL),
        0..=3 if (1..=3).contains(&which) => {}
        _ => return Err(Errno::EINVAL),
    }
    for task in who(cx, which - 1, args.i32(1))? {
        let (ours, theirs) = (cx.creds(), task.creds());
        if theirs.uid != ours.euid && theirs.uid != ours.uid && !ours.has(Capability::SysNice) {
            return Err(Errno::EPERM);
        }
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
