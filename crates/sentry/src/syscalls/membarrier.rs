//! membarrier(2): memory barriers on all threads that run application code just now.
//!
//! A thread that is not in user mode has passed a barrier on its way out and passes another on its way back. The others are brought out: they get
//! `TaskFlags::BARRIER`, and the caller waits until each has seen it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::task::{Cx, Task, TaskFlags};
use crate::wait::{PollEvents, Share, Sleep, WaitError, wait_for};

const GLOBAL: u32 = 1;
const GLOBAL_EXPEDITED: u32 = 2;
const REGISTER_GLOBAL_EXPEDITED: u32 = 4;
const PRIVATE_EXPEDITED: u32 = 8;
const REGISTER_PRIVATE_EXPEDITED: u32 = 16;
const PRIVATE_EXPEDITED_SYNC_CORE: u32 = 32;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 64;
const GET_REGISTRATIONS: u32 = 512;

/// All that `QUERY` (0) reports. Nothing about restartable sequences: there are none.
const SUPPORTED: u32 = GLOBAL
    | GLOBAL_EXPEDITED
    | REGISTER_GLOBAL_EXPEDITED
    | PRIVATE_EXPEDITED
    | REGISTER_PRIVATE_EXPEDITED
    | PRIVATE_EXPEDITED_SYNC_CORE
    | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
    | GET_REGISTRATIONS;

pub(super) fn membarrier(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.u32(1) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    let registered = cx.mm.membarrier.load(Ordering::SeqCst);
    let register = |kind: u32| {
        cx.mm.membarrier.fetch_or(kind, Ordering::SeqCst);
        Flow::done(Ok(0))
    };
    match args.u32(0) {
        0 => Flow::done(Ok(SUPPORTED.into())),
        GET_REGISTRATIONS => Flow::done(Ok(registered.into())),
        kind @ (REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) => {
            register(kind)
        }
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE if registered & (args.u32(0) << 1) == 0 => {
            Flow::done(Err(Errno::EPERM))
        }
        kind @ (GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE) => Flow::wait(barrier(cx, kind)),
        _ => Flow::done(Err(Errno::EINVAL)),
    }
}

/// How often threads are looked at that have not answered.
const RECHECK_NS: u64 = 1_000_000;

/// Whether a task is to pass a barrier of a kind.
fn concerned(cx: &Cx, task: &Task, kind: u32) -> bool {
    let shared = task.shared.read();
    let Some(mm) = shared.as_ref().map(|shared| &shared.mm) else { return false };
    match kind {
        GLOBAL => true,
        GLOBAL_EXPEDITED => mm.membarrier.load(Ordering::SeqCst) & REGISTER_GLOBAL_EXPEDITED != 0,
        _ => Arc::ptr_eq(mm, &cx.mm),
    }
}

async fn barrier(cx: &Cx, kind: u32) -> Outcome {
    let mut running = Vec::new();
    for task in cx.task.container.pids.tasks() {
        if !Arc::ptr_eq(&task, &cx.task) && task.in_user_now() && concerned(cx, &task, kind) {
            task.raise(TaskFlags::BARRIER);
            running.push(task);
        }
    }
    if running.is_empty() {
        return Ok(0);
    }
    let queues = [(&cx.kernel().barriers, PollEvents::IN)];
    let mut passed =
        || running.iter().all(|task| !task.in_user_now() || !task.flags().contains(TaskFlags::BARRIER)).then_some(());
    loop {
        // One that has gone to sleep since tells nobody: looked at again.
        let how = cx.task.waiting(Sleep::Killable, Share::All, cx.now().after(RECHECK_NS));
        if wait_for(how, &queues, &mut passed).await != Err(WaitError::TimedOut) {
            return Ok(0);
        }
    }
}
