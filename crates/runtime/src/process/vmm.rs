//! The VMM's process: a foreign program (QEMU) in a root of its own, without privileges.
//!
//! It sees, read-only, what programs of the distribution are made of (/usr and what leads there), a /proc of its own pid name space, /dev/kvm where
//! there is one ([`kvm`](super::kvm)), and nothing else; everything it works with it inherits as a descriptor. It is a child of the keeper, whose
//! name spaces it shares but for the mounts. A Landlock ruleset ([`landlock_vmm`]) is on before it is executed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::Signal;
use vmm::CommandLine;

use super::confine::landlock_vmm;
use super::gofer::{Attach, detached};
use super::isolate::{Code, Step, StepError, drop_privileges, enter_private_root, new_fs};
use super::kvm::{self, Kvm};
use super::place_descriptors;
use crate::sys::{self, Child};

/// Directories of the host that programs are made of.
const PROGRAMS: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];

/// Starts the program. What it and the way to it have to say goes to `stderr`.
///
/// # Errors
/// No process can be made. What fails later is said on `stderr`.
pub fn start(program: &Path, line: &CommandLine<'_>, kvm: Option<&Kvm>, stderr: BorrowedFd<'_>) -> io::Result<Child> {
    sys::clone_process(libc::CLONE_NEWNS, None, || {
        let Err(error) = become_it(program, line, kvm, stderr);
        let _ = rustix::io::write(stderr, format!("{}: {error}\n", program.display()).as_bytes());
    })
}

fn become_it(
    program: &Path,
    line: &CommandLine<'_>,
    kvm: Option<&Kvm>,
    stderr: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, StepError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("set the death signal")?;
    enter_private_root(|root| furnish(root, kvm))?;
    drop_privileges()?;
    confine(kvm).map_err(io::Error::other).step("confine it")?;
    // 0 and 1 stay.
    let inherited = line.inherited.iter().map(|inherited| (inherited.fd, inherited.number));
    place_descriptors(&[(stderr, 2)].into_iter().chain(inherited).collect::<Vec<_>>()).step("place descriptors")?;
    let mut command = Command::new(program);
    command.args(&line.args).env_clear();
    Err(command.exec()).step("execute it")
}

/// In the new root.
fn confine(kvm: Option<&Kvm>) -> Result<(), String> {
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| Path::new("/").join(name)).filter(|path| path.exists()).collect();
    landlock_vmm(&programs, kvm.map(|_| Path::new(kvm::DEVICE)))
}

/// The program's root.
fn furnish(root: BorrowedFd<'_>, kvm: Option<&Kvm>) -> Result<(), StepError> {
    for name in PROGRAMS {
        let path = Path::new("/").join(name);
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_symlink() {
            let target = std::fs::read_link(&path).step("read a link")?;
            rustix::fs::symlinkat(&target, root, name).step("make a link")?;
        } else if found.is_dir() {
            let programs =
                Attach { source: path, recursive: true, read_only: true, exclusive: false, hidden: Vec::new(), told: false };
            let tree = detached(&programs).map_err(io::Error::other).step("clone a directory of programs")?;
            mount_on(tree.as_fd(), root, name)?;
        }
    }
    // Processes only, no settings of the host.
    let proc = new_fs("proc", &[("subset", "pid")], Code::None).step("make a proc file system")?;
    mount_on(proc.as_fd(), root, "proc")?;
    match kvm {
        None => Ok(()),
        Some(Kvm::Mount(dev)) => mount_on(dev.as_fd(), root, "dev"),
        Some(Kvm::Own) => own_kvm(root),
    }
}

/// The host's node, for a user who may open it.
fn own_kvm(root: BorrowedFd<'_>) -> Result<(), StepError> {
    rustix::fs::mkdirat(root, "dev", Mode::from_raw_mode(0o755)).step("make a directory")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(root, "dev/kvm", flags, Mode::from_raw_mode(0o600)).step("make a place for /dev/kvm")?;
    let node = open_tree(CWD, kvm::DEVICE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let node = node.step("clone the mount of /dev/kvm")?;
    move_mount(node.as_fd(), "", root, "dev/kvm", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("place /dev/kvm")
}

/// Mounts on a new directory of the root.
fn mount_on(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, name: &str) -> Result<(), StepError> {
    rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)).step("make a directory")?;
    move_mount(mount, "", root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("place a mount")
}
