//! kcmp: whether two tasks share a part of the kernel's state.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Args, Flow};
use crate::Errno;
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
    let place = |task: &Arc<Task>, fd: u64| part(task, args.i32(2), fd);
    Ok(order(cx, place(&one, args.u64(3))?, place(&other, args.u64(4))?))
}

/// The address of a part of a task; only compared, never shown.
fn part(task: &Arc<Task>, kind: i32, fd: u64) -> Result<usize, Errno> {
    let shared = task.shared.read().clone().ok_or(Errno::ESRCH)?;
    Ok(match kind {
        FILE => {
            let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
            Arc::as_ptr(&shared.files.get(fd)?).addr()
        }
        VM => Arc::as_ptr(&shared.mm).addr(),
        FILES => Arc::as_ptr(&shared.files).addr(),
        FS => Arc::as_ptr(&shared.fs).addr(),
        SIGHAND => Arc::as_ptr(&task.group.sighand()).addr(),
        // Neither is shared by anybody but threads of one process.
        IO | SYSVSEM => Arc::as_ptr(&task.group).addr(),
        EPOLL_TFD => return Err(Errno::EOPNOTSUPP),
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
