//! kcmp: whether two tasks share a part of the kernel's state.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Args, Flow};
use crate::Errno;
use crate::fs::File;
use crate::ipc::epoll::Epoll;
use crate::task::{Cx, Task};

/// What is compared, by `KCMP_*` number.
const FILE: i32 = 0;
const VM: i32 = 1;
const FILES: i32 = 2;
const FS: i32 = 3;
const SIGHAND: i32 = 4;
const IO: i32 = 5;
const SYSVSEM: i32 = 6;
const EPOLL_TFD: i32 = 7;

pub(super) fn kcmp(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(compare(cx, args))
}

fn compare(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let find = |pid| cx.find_task(pid).ok_or(Errno::ESRCH);
    let (one, other) = (find(args.i32(0))?, find(args.i32(1))?);
    super::process_vm::may_inspect(cx, &one)?;
    super::process_vm::may_inspect(cx, &other)?;
    if args.i32(2) == EPOLL_TFD {
        let [efd, tfd, nth] = cx.mm.read_val::<[u32; 3]>(args.u64(4))?;
        let file = file(&one, args.u64(3))?;
        let epoll = file_of_epoll(&other, efd, tfd, nth)?;
        return Ok(order(cx, Arc::as_ptr(&file).addr(), Arc::as_ptr(&epoll).addr()));
    }
    let place = |task: &Arc<Task>, fd: u64| part(task, args.i32(2), fd);
    Ok(order(cx, place(&one, args.u64(3))?, place(&other, args.u64(4))?))
}

fn file(task: &Task, fd: u64) -> Result<Arc<File>, Errno> {
    let shared = task.shared.read().clone().ok_or(Errno::ESRCH)?;
    shared.files.get(i32::try_from(fd).map_err(|_| Errno::EBADF)?)
}

/// What an epoll instance watches as `tfd` (`struct kcmp_epoll_slot`).
fn file_of_epoll(task: &Task, efd: u32, tfd: u32, nth: u32) -> Result<Arc<File>, Errno> {
    let instance = file(task, efd.into())?;
    let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    i32::try_from(tfd).ok().and_then(|tfd| epoll.watched(tfd, nth)).ok_or(Errno::ENOENT)
}

/// The address of a part of a task; only compared, never shown.
fn part(task: &Arc<Task>, kind: i32, fd: u64) -> Result<usize, Errno> {
    let shared = task.shared.read().clone().ok_or(Errno::ESRCH)?;
    Ok(match kind {
        FILE => Arc::as_ptr(&file(task, fd)?).addr(),
        VM => Arc::as_ptr(&shared.mm).addr(),
        FILES => Arc::as_ptr(&shared.files).addr(),
        FS => Arc::as_ptr(&shared.fs).addr(),
        SIGHAND => Arc::as_ptr(&task.group.sighand()).addr(),
        // No task has an I/O context: as on Linux, nothing equals nothing.
        IO => 0,
        SYSVSEM => task.sem_undo.lock().as_ref().map_or(0, |undo| Arc::as_ptr(undo).addr()),
        _ => return Err(Errno::EINVAL),
    })
}

/// 0: the same; 1 and 2: an order that says nothing about addresses.
fn order(cx: &Cx, one: usize, other: usize) -> u64 {
    let blurred = |address: usize| {
        let mut hasher = DefaultHasher::new();
        (&cx.kernel().boot_id, address).hash(&mut hasher);
        hasher.finish()
    };
    match blurred(one).cmp(&blurred(other)) {
        _ if one == other => 0,
        std::cmp::Ordering::Less => 1,
        _ => 2,
    }
}
