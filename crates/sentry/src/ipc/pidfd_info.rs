//! `PIDFD_GET_INFO`: what a pidfd's process is called and may do (Linux 6.13), and how it ended (6.15).

use zerocopy::{Immutable, IntoBytes};

use super::pidfd::PidFd;
use crate::Errno;
use crate::task::Cx;

/// `struct pidfd_info`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: i32,
    tgid: i32,
    ppid: i32,
    /// Real, effective, saved and file-system user and group ids, in pairs.
    ids: [u32; 8],
    exit_code: i32,
    coredump_mask: u32,
    spare: u32,
}

/// The first version's size.
const SIZE_0: usize = 64;

/// `PIDFD_INFO_*`.
const PID: u64 = 1;
const CREDS: u64 = 2;
const CGROUP: u64 = 4;
const EXIT: u64 = 8;

pub(super) fn get(pidfd: &PidFd, cx: &Cx, size: usize, addr: u64) -> Result<u64, Errno> {
    if size < SIZE_0 {
        return Err(Errno::ENOTTY);
    }
    if addr == 0 {
        return Err(Errno::EINVAL);
    }
    let wanted: u64 = cx.mm.read_val(addr)?;
    let group = pidfd.named.group();
    if !group.pid_ns.is_within(&cx.task.group.pid_ns) {
        return Err(Errno::EREMOTE);
    }
    let mut info = Info::default();
    if wanted & EXIT != 0
        && group.reaped()
        && let Some(status) = group.ended()
    {
        (info.exit_code, info.mask) = (status.wait_status() as i32, EXIT);
        (info.cgroup, info.mask) = (group.cgroup().id, info.mask | CGROUP);
    }
    match pidfd.named.number() {
        None if info.mask & EXIT == 0 => return Err(Errno::ESRCH),
        None => {}
        Some(number) => {
            let task = group.container.pids.task_or_zombie(number).ok_or(Errno::ESRCH)?;
            let (creds, ns) = (task.creds(), cx.creds().user_ns.clone());
            let users = [creds.uid, creds.euid, creds.suid, creds.fsuid].map(|uid| ns.show_uid(uid));
            let groups = [creds.gid, creds.egid, creds.sgid, creds.fsgid].map(|gid| ns.show_gid(gid));
            for (to, from) in info.ids.chunks_exact_mut(2).zip(users.into_iter().zip(groups)) {
                to.copy_from_slice(&[from.0, from.1]);
            }
            (info.pid, info.tgid) = (cx.local(number), cx.local(group.tgid));
            info.ppid = cx.local(group.ppid());
            info.cgroup = group.cgroup().id;
            info.mask |= PID | CREDS | CGROUP;
        }
    }
    let bytes = info.as_bytes();
    cx.mm.write(addr, bytes.get(..size.min(bytes.len())).unwrap_or(bytes)).map(|()| 0)
}
