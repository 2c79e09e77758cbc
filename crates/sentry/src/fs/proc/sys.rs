//! /proc/sys: the sysctls that programs read.

use std::sync::Arc;

use super::Shared;
use crate::fs::Inode;
use crate::fs::pseudo::Tree;

/// A sysctl's path below /proc/sys and how its value is made.
type Sysctl = (&'static str, fn(&Shared) -> String);

const SYSCTLS: &[Sysctl] = &[
    ("fs/file-max", |_| "9223372036854775807".into()),
    ("fs/file-nr", |_| "0\t0\t9223372036854775807".into()),
    ("fs/inotify/max_queued_events", |_| "16384".into()),
    ("fs/inotify/max_user_instances", |_| "128".into()),
    ("fs/inotify/max_user_watches", |_| "65536".into()),
    ("fs/mqueue/msg_max", |_| "10".into()),
    ("fs/nr_open", |_| "1048576".into()),
    ("fs/pipe-max-size", |_| "1048576".into()),
    ("fs/protected_hardlinks", |_| "0".into()),
    ("fs/protected_symlinks", |_| "0".into()),
    ("kernel/cap_last_cap", |_| "40".into()),
    ("kernel/core_pattern", |_| "core".into()),
    ("kernel/core_uses_pid", |_| "0".into()),
    ("kernel/domainname", |shared| shared.container.namespaces.uts.get().domainname),
    ("kernel/hostname", |shared| shared.container.namespaces.uts.get().hostname),
    ("kernel/msgmax", |_| "8192".into()),
    ("kernel/msgmnb", |_| "16384".into()),
    ("kernel/msgmni", |_| "32000".into()),
    ("kernel/ngroups_max", |_| "65536".into()),
    ("kernel/osrelease", |_| crate::syscalls::uname::RELEASE.into()),
    ("kernel/ostype", |_| "Linux".into()),
    ("kernel/overflowgid", |_| "65534".into()),
    ("kernel/overflowuid", |_| "65534".into()),
    ("kernel/perf_event_paranoid", |_| "4".into()),
    ("kernel/pid_max", |_| crate::task::PidTable::MAX.to_string()),
    ("kernel/random/boot_id", |shared| shared.kernel.boot_id.clone()),
    ("kernel/random/entropy_avail", |_| "256".into()),
    ("kernel/random/poolsize", |_| "256".into()),
    ("kernel/random/uuid", |_| crate::kernel::random_uuid()),
    ("kernel/randomize_va_space", |_| "2".into()),
    ("kernel/sem", |_| "32000\t1024000000\t500\t32000".into()),
    ("kernel/seccomp/actions_avail", |_| "kill_process kill_thread trap errno trace log allow".into()),
    ("kernel/seccomp/actions_logged", |_| "kill_process kill_thread trap errno trace log".into()),
    ("kernel/shmall", |_| "18446744073692774399".into()),
    ("kernel/shmmax", |_| "18446744073692774399".into()),
    ("kernel/shmmni", |_| "4096".into()),
    ("kernel/tainted", |_| "0".into()),
    ("kernel/threads-max", |_| crate::task::PidTable::MAX.to_string()),
    ("kernel/version", |_| crate::syscalls::uname::VERSION.into()),
    ("net/core/somaxconn", |_| "4096".into()),
    ("vm/max_map_count", |_| "65530".into()),
    ("vm/mmap_min_addr", |_| "65536".into()),
    ("vm/overcommit_memory", |_| "0".into()),
    ("vm/overcommit_ratio", |_| "50".into()),
    ("vm/swappiness", |_| "60".into()),
];

/// The directory /proc/sys.
pub(super) fn directory(shared: &Arc<Shared>) -> Arc<dyn Inode> {
    let mut tree = Tree::new(shared.dev);
    for (path, make) in SYSCTLS {
        let shared = shared.clone();
        tree.add(*path, move || make(&shared));
    }
    tree.into_root()
}
