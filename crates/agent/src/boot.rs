//! From the kernel's initial root to a guest that can run containers.

use std::fs;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_move};
use rustix::process::{Resource, Rlimit, chroot, setrlimit};

use crate::modules::{self, Modules};

/// Where the host's trees are, by their attach index.
pub const TREES: &str = "/run/nacre/fs";
/// Where a container's root is put together; in its own mount name space, so always free.
pub const WORKSHOP: &str = "/run/nacre/new";
/// A file that is bound over containers' /etc/resolv.conf, if it is there.
pub const RESOLV_CONF: &str = "/run/nacre/resolv.conf";
/// A tmpfs that is every container's /dev/shm which the host would bind there, if it is there.
pub const SHM: &str = "/run/nacre/shm";
/// Where containers' cgroups are.
pub const CGROUPS: &str = "/sys/fs/cgroup";
/// The root that the agent lives in: an initial root cannot be left by `pivot_root`, so this one is mounted over it.
const ROOT: &str = "/root";

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What is mounted, in order: type, place below the root, flags, options.
const MOUNTS: &[(&str, &str, MountFlags, &str)] = &[
    ("devtmpfs", "dev", MountFlags::NOSUID, "mode=755"),
    ("proc", "proc", SAFE, ""),
    ("sysfs", "sys", SAFE, ""),
    ("cgroup2", "sys/fs/cgroup", SAFE, "nsdelegate,memory_recursiveprot"),
    ("devpts", "dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), "ptmxmode=666,mode=620,gid=5"),
    ("tmpfs", "dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
];

/// Sets the guest up as far as it needs nothing of the host. Returns the modules that are left to load.
///
/// # Errors
/// What failed, in words for the console.
pub fn run() -> Result<Modules, String> {
    let mut modules = Modules::open(modules::DIRECTORY)?;
    modules.load_always()?;
    make_dir(ROOT)?;
    mount_at("tmpfs", ROOT, MountFlags::empty(), "mode=755")?;
    for (kind, place, flags, options) in MOUNTS {
        let place = format!("{ROOT}/{place}");
        // sysfs has its places already and lets nobody make more.
        if !place.contains("/sys/") {
            make_dir(&place)?;
        }
        mount_at(kind, &place, *flags, options)?;
    }
    modules::offer(ROOT)?;
    move_root().map_err(|errno| format!("cannot change to the agent's root: {errno}"))?;
    for directory in [TREES, WORKSHOP, "/tmp"] {
        make_dir(directory)?;
    }
    crate::cgroup::enable_controllers();
    set_bounds()?;
    modules.load_for_devices()?;
    Ok(modules)
}

/// The kernel goes by the memory that the guest starts with, which is as little as its containers may get, and may grow. What they could ask of a host of
/// ordinary size, they can ask here too: as in a sentry, their cgroups hold them back.
fn set_bounds() -> Result<(), String> {
    for (name, value) in
        [("vm/overcommit_memory", "1"), ("kernel/threads-max", "65536"), ("fs/file-max", "9223372036854775807")]
    {
        fs::write(format!("/proc/sys/{name}"), value).map_err(|error| format!("cannot set {name}: {error}"))?;
    }
    let limits = [
        (Resource::Nofile, Some(1024), Some(1 << 20)),
        (Resource::Nproc, None, None),
        (Resource::Sigpending, Some(1 << 15), Some(1 << 15)),
    ];
    for (resource, current, maximum) in limits {
        setrlimit(resource, Rlimit { current, maximum }).map_err(|errno| format!("cannot set {resource:?}: {errno}"))?;
    }
    Ok(())
}

fn move_root() -> Result<(), Errno> {
    rustix::process::chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    rustix::process::chdir("/")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

fn make_dir(path: &str) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("cannot make {path}: {error}"))
}

fn mount_at(kind: &str, place: &str, flags: MountFlags, options: &str) -> Result<(), String> {
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    let options = (!options.is_empty()).then_some(options.as_c_str());
    mount(kind, place, kind, flags, options).map_err(|errno| format!("cannot mount {kind} at {place}: {errno}"))
}
