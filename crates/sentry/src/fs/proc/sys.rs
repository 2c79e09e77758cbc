//! /proc/sys: the sysctls that programs read.
//!
//! Read-only ones that Linux would let root write are those whose change would do nothing here: a write fails rather than pretend.

use std::sync::Arc;

use super::{Shared, machine};
use crate::Errno;
use crate::fs::Inode;
use crate::fs::pseudo::{Entry, Tree};
use crate::ipc::aio::MAX_REQUESTS;
use crate::ipc::sysv::NextId;
use crate::ipc::tunables::{Tunable, Tunables};
use crate::ipc::{IpcObjects, limits};
use crate::net::{TUNABLE_SYSCTLS, report};
use crate::ns::Uts;
use crate::task::{Capability, PidTable, Task};

/// A sysctl's path below /proc/sys and how its value is made.
type Sysctl = (&'static str, fn(&Shared) -> String);

const SYSCTLS: &[Sysctl] = &[
    ("abi/vsyscall32", |_| "0".into()),
    ("debug/exception-trace", |_| "0".into()),
    ("dev/tty/ldisc_autoload", |_| "0".into()),
    ("dev/tty/legacy_tiocsti", |_| "0".into()),
    ("fs/aio-max-nr", |_| MAX_REQUESTS.to_string()),
    ("fs/aio-nr", |shared| shared.kernel.ipc.aio.used().to_string()),
    ("fs/dentry-state", |_| "0\t0\t45\t0\t0\t0".into()),
    ("fs/dir-notify-enable", |_| "0".into()),
    ("fs/epoll/max_user_watches", |shared| (shared.kernel.machine.memory_bytes / 25 / 184).to_string()),
    ("fs/file-max", |_| "9223372036854775807".into()),
    ("fs/file-nr", |shared| format!("{}\t0\t9223372036854775807", machine::file_count(shared))),
    ("fs/inode-nr", |_| "0\t0".into()),
    ("fs/inode-state", |_| "0\t0\t0\t0\t0\t0\t0".into()),
    ("fs/leases-enable", |_| "1".into()),
    ("fs/mount-max", |_| "100000".into()),
    ("fs/nr_open", |_| crate::fs::FdTable::MAX.to_string()),
    ("fs/overflowgid", |_| "65534".into()),
    ("fs/overflowuid", |_| "65534".into()),
    ("fs/pipe-user-pages-hard", |_| "0".into()),
    ("fs/pipe-user-pages-soft", |_| "16384".into()),
    ("fs/protected_fifos", |_| "0".into()),
    ("fs/protected_hardlinks", |_| "0".into()),
    ("fs/protected_regular", |_| "0".into()),
    ("fs/protected_symlinks", |_| "0".into()),
    ("fs/suid_dumpable", |_| "0".into()),
    ("kernel/arch", |_| "x86_64".into()),
    ("kernel/auto_msgmni", |_| "0".into()),
    ("kernel/cad_pid", |_| "1".into()),
    ("kernel/cap_last_cap", |_| "40".into()),
    ("kernel/core_pattern", |_| "core".into()),
    ("kernel/core_pipe_limit", |_| "0".into()),
    ("kernel/core_uses_pid", |_| "0".into()),
    ("kernel/ctrl-alt-del", |_| "0".into()),
    ("kernel/dmesg_restrict", |_| "1".into()),
    ("kernel/io_uring_disabled", |_| "2".into()),
    ("kernel/keys/maxbytes", |_| "20000".into()),
    ("kernel/keys/maxkeys", |_| "200".into()),
    ("kernel/keys/root_maxbytes", |_| "25000000".into()),
    ("kernel/keys/root_maxkeys", |_| "1000000".into()),
    ("kernel/kptr_restrict", |_| "2".into()),
    ("kernel/ngroups_max", |_| "65536".into()),
    ("kernel/ns_last_pid", machine::last_pid),
    ("kernel/numa_balancing", |_| "0".into()),
    ("kernel/osrelease", |_| crate::syscalls::uname::RELEASE.into()),
    ("kernel/ostype", |_| "Linux".into()),
    ("kernel/overflowgid", |_| "65534".into()),
    ("kernel/overflowuid", |_| "65534".into()),
    ("kernel/panic", |_| "0".into()),
    ("kernel/panic_on_oops", |_| "0".into()),
    ("kernel/perf_event_max_sample_rate", |_| "100000".into()),
    ("kernel/perf_event_mlock_kb", |_| "516".into()),
    ("kernel/perf_event_paranoid", |_| "4".into()),
    ("kernel/pid_max", |_| PidTable::MAX.to_string()),
    ("kernel/print-fatal-signals", |_| "0".into()),
    ("kernel/printk", |_| "4\t4\t1\t7".into()),
    ("kernel/printk_ratelimit", |_| "5".into()),
    ("kernel/printk_ratelimit_burst", |_| "10".into()),
    ("kernel/pty/max", |_| "4096".into()),
    ("kernel/pty/reserve", |_| "1024".into()),
    ("kernel/random/boot_id", |shared| shared.kernel.boot_id.clone()),
    ("kernel/random/entropy_avail", |_| "256".into()),
    ("kernel/random/poolsize", |_| "256".into()),
    ("kernel/random/urandom_min_reseed_secs", |_| "60".into()),
    ("kernel/random/uuid", |_| crate::kernel::random_uuid()),
    ("kernel/random/write_wakeup_threshold", |_| "256".into()),
    ("kernel/randomize_va_space", |_| "2".into()),
    ("kernel/sched_autogroup_enabled", |_| "0".into()),
    ("kernel/sched_cfs_bandwidth_slice_us", |_| "5000".into()),
    ("kernel/sched_child_runs_first", |_| "0".into()),
    ("kernel/sched_rr_timeslice_ms", |_| "100".into()),
    ("kernel/sched_rt_period_us", |_| "1000000".into()),
    ("kernel/sched_rt_runtime_us", |_| "950000".into()),
    ("kernel/seccomp/actions_avail", |_| "kill_process kill_thread trap errno trace log allow".into()),
    ("kernel/seccomp/actions_logged", |_| "kill_process kill_thread trap errno trace log".into()),
    ("kernel/shm_rmid_forced", |_| "0".into()),
    ("kernel/sysctl_writes_strict", |_| "1".into()),
    ("kernel/sysrq", |_| "0".into()),
    ("kernel/tainted", |_| "0".into()),
    ("kernel/threads-max", |_| (PidTable::MAX * 2).to_string()),
    ("kernel/timer_migration", |_| "1".into()),
    ("kernel/unprivileged_bpf_disabled", |_| "2".into()),
    ("kernel/version", |_| crate::syscalls::uname::VERSION.into()),
    ("user/max_cgroup_namespaces", namespaces),
    ("user/max_ipc_namespaces", namespaces),
    ("user/max_mnt_namespaces", namespaces),
    ("user/max_net_namespaces", namespaces),
    ("user/max_pid_namespaces", namespaces),
    ("user/max_time_namespaces", namespaces),
    ("user/max_user_namespaces", namespaces),
    ("user/max_uts_namespaces", namespaces),
    ("vm/admin_reserve_kbytes", |_| "8192".into()),
    ("vm/dirty_background_bytes", |_| "0".into()),
    ("vm/dirty_background_ratio", |_| "10".into()),
    ("vm/dirty_bytes", |_| "0".into()),
    ("vm/dirty_expire_centisecs", |_| "3000".into()),
    ("vm/dirty_ratio", |_| "20".into()),
    ("vm/dirty_writeback_centisecs", |_| "500".into()),
    ("vm/hugetlb_shm_group", |_| "0".into()),
    ("vm/laptop_mode", |_| "0".into()),
    ("vm/legacy_va_layout", |_| "0".into()),
    ("vm/lowmem_reserve_ratio", |_| "256\t256\t32\t0\t0".into()),
    ("vm/max_map_count", |_| "65530".into()),
    ("vm/memfd_noexec", |_| "0".into()),
    ("vm/min_free_kbytes", |_| "67584".into()),
    ("vm/mmap_min_addr", |_| crate::mm::MIN_ADDR.to_string()),
    ("vm/nr_hugepages", |_| "0".into()),
    ("vm/nr_overcommit_hugepages", |_| "0".into()),
    ("vm/oom_dump_tasks", |_| "0".into()),
    ("vm/oom_kill_allocating_task", |_| "0".into()),
    ("vm/overcommit_kbytes", |_| "0".into()),
    ("vm/overcommit_memory", |_| "0".into()),
    ("vm/overcommit_ratio", |_| "50".into()),
    ("vm/page-cluster", |_| "3".into()),
    ("vm/panic_on_oom", |_| "0".into()),
    ("vm/stat_interval", |_| "1".into()),
    ("vm/swappiness", |_| "60".into()),
    ("vm/unprivileged_userfaultfd", |_| "0".into()),
    ("vm/user_reserve_kbytes", |_| "131072".into()),
    ("vm/vfs_cache_pressure", |_| "100".into()),
    ("vm/watermark_scale_factor", |_| "10".into()),
    ("vm/zone_reclaim_mode", |_| "0".into()),
];

const PIPE_SIZE: &str = "fs/pipe-max-size";

/// Limits that root may change.
const TUNABLES: &[(&str, fn(&Tunables) -> &Tunable)] = &[
    ("fs/inotify/max_queued_events", |all| &all.inotify_events),
    ("fs/inotify/max_user_instances", |all| &all.inotify_instances),
    ("fs/inotify/max_user_watches", |all| &all.inotify_watches),
    ("fs/lease-break-time", |all| &all.lease_break),
    (PIPE_SIZE, |all| &all.pipe_size),
    ("user/max_inotify_instances", |all| &all.inotify_instances),
    ("user/max_inotify_watches", |all| &all.inotify_watches),
];

/// Ids wished for (checkpoint/restore).
const NEXT_IDS: &[(&str, fn(&IpcObjects) -> &NextId)] = &[
    ("kernel/msg_next_id", |objects| &objects.msg.next_id),
    ("kernel/sem_next_id", |objects| &objects.sem.next_id),
    ("kernel/shm_next_id", |objects| &objects.shm.next_id),
];

fn namespaces(_shared: &Shared) -> String {
    PidTable::MAX.to_string()
}

/// Longest host or domain name.
const NAME_MAX: usize = 64;

/// The directory /proc/sys.
pub(super) fn directory(shared: &Arc<Shared>) -> Arc<dyn Inode> {
    let mut tree = Tree::new(shared.dev);
    for (path, make) in SYSCTLS {
        let shared = shared.clone();
        tree.add(*path, move || make(&shared));
    }
    tree.add_entry("kernel/hostname", name(|uts| &mut uts.hostname));
    tree.add_entry("kernel/domainname", name(|uts| &mut uts.domainname));
    for (path, field) in TUNABLES {
        tree.add_entry(*path, tunable(shared, path, *field));
    }
    for (path, field) in NEXT_IDS {
        tree.add_entry(*path, next_id(*field));
    }
    for (path, value) in report::SYSCTLS {
        tree.add(*path, || (*value).to_string());
    }
    for path in TUNABLE_SYSCTLS {
        tree.add_entry(path, network(path));
    }
    for (path, fields) in limits::SYSCTLS {
        tree.add_entry(*path, Entry::new(move |task| task.ipc_objects().limits.show(fields)));
    }
    tree.into_root()
}

/// What a sysctl that nobody can change is, if there is one of this path. (Those that are a container's own, as its names, are not among them.)
pub fn fixed_sysctl(path: &str) -> Option<&'static str> {
    report::SYSCTLS.iter().find(|(known, _)| *known == path).map(|(_, value)| *value)
}

/// A number that root may change. It is refused outside its range (`EINVAL`).
fn tunable(shared: &Arc<Shared>, path: &'static str, field: fn(&Tunables) -> &Tunable) -> Entry {
    let (show, change) = (shared.kernel.ipc.tunables.clone(), shared.kernel.ipc.tunables.clone());
    let pages = path == PIPE_SIZE;
    Entry::new(move |_| field(&show).get().to_string()).writable(move |_, bytes| {
        let number = parse(bytes).and_then(|number| u64::try_from(number).ok()).ok_or(Errno::EINVAL)?;
        // As Linux: a power of two of pages.
        let number = if pages && number <= 1 << 31 { number.max(4096).next_power_of_two() } else { number };
        if field(&change).set(number) { Ok(()) } else { Err(Errno::EINVAL) }
    })
}

/// A value of a network namespace's, which its root may change (`EINVAL` outside its range), but not where the network is the host's.
fn network(path: &'static str) -> Entry {
    Entry::new(move |task| task.namespaces().net.sysctl(path).unwrap_or_default()).writable(move |task, bytes| {
        let net = task.namespaces().net.clone();
        if net.is_hosts() {
            return Err(Errno::EPERM);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
        if net.set_sysctl(path, text.trim_matches('\0')) { Ok(()) } else { Err(Errno::EINVAL) }
    })
}

/// The id that the next object of a kind gets, or -1.
fn next_id(field: fn(&IpcObjects) -> &NextId) -> Entry {
    let show = move |task: &Arc<Task>| field(&task.ipc_objects()).get().to_string();
    Entry::new(show).writable(move |task, bytes| {
        let number = parse(bytes).and_then(|number| i32::try_from(number).ok()).filter(|number| *number >= 0);
        field(&task.ipc_objects()).set(number.ok_or(Errno::EINVAL)?);
        Ok(())
    })
}

/// A decimal number with blanks around it.
fn parse(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0').parse().ok()
}

/// A name of whoever opens the file, and writes it with `CAP_SYS_ADMIN`.
fn name(part: fn(&mut Uts) -> &mut String) -> Entry {
    let read = move |task: &Arc<Task>| part(&mut task.namespaces().uts.get()).clone();
    Entry::new(read).writable(move |task, bytes| {
        let uts = task.namespaces().uts.clone();
        if !task.creds().has_in(&uts.owner, Capability::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let end = bytes.iter().position(|&byte| matches!(byte, 0 | b'\n')).unwrap_or(bytes.len()).min(NAME_MAX);
        let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
        uts.change(|names| *part(names) = text);
        Ok(())
    })
}
