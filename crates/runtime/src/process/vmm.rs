//! The VMM's process: a foreign program (QEMU) in a root of its own, without privileges.
//!
//! It sees, read-only, what programs of the distribution are made of (/usr and what leads there), a /proc of its own pid name space, and nothing
//! else; everything it works with it inherits as a descriptor. It is a child of the keeper, whose name spaces it shares but for the mounts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount, open_tree,
};
use rustix::process::Signal;
use vmm::CommandLine;

use super::isolate::{Step, StepError, drop_privileges, enter_private_root};
use crate::sys::{self, Child, MountAttr};

/// Directories of the host that programs are made of.
const PROGRAMS: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];
/// Where inherited descriptors wait until they get their numbers.
const AWAY: i32 = 100;

/// Starts the program. What it and the way to it have to say goes to `stderr`.
///
/// # Errors
/// No process can be made. What fails later is said on `stderr`.
pub fn start(program: &Path, line: &CommandLine<'_>, stderr: BorrowedFd<'_>) -> io::Result<Child> {
    sys::clone_process(libc::CLONE_NEWNS, None, || {
        let Err(error) = become_it(program, line, stderr);
        let _ = rustix::io::write(stderr, format!("{}: {error}\n", program.display()).as_bytes());
    })
}

fn become_it(program: &Path, line: &CommandLine<'_>, stderr: BorrowedFd<'_>) -> Result<std::convert::Infallible, StepError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("set the death signal")?;
    enter_private_root(furnish)?;
    drop_privileges()?;
    place(line, stderr).step("place descriptors")?;
    let mut command = Command::new(program);
    command.args(&line.args).env_clear();
    Err(command.exec()).step("execute it")
}

/// The program's root.
fn furnish(root: BorrowedFd<'_>) -> Result<(), StepError> {
    for name in PROGRAMS {
        let path = Path::new("/").join(name);
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_symlink() {
            let target = std::fs::read_link(&path).step("read a link")?;
            rustix::fs::symlinkat(&target, root, name).step("make a link")?;
        } else if found.is_dir() {
            place_tree(&path, root, name).step("mount a directory of programs")?;
        }
    }
    rustix::fs::mkdirat(root, "proc", Mode::from_raw_mode(0o555)).step("make /proc")?;
    let proc = own_proc().step("make a proc file system")?;
    move_mount(proc.as_fd(), "", root, "proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount /proc")
}

fn place_tree(path: &Path, root: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    sys::mount_setattr(tree.as_fd(), true, &MountAttr { set, propagation: libc::MS_PRIVATE, ..MountAttr::default() })?;
    rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))?;
    Ok(move_mount(tree.as_fd(), "", root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Processes only, no settings of the host.
fn own_proc() -> io::Result<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "subset", "pid")?;
    fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Gives each descriptor its number; 0 and 1 stay, 2 becomes `stderr`; nothing else is left open.
fn place(line: &CommandLine<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
    // Out of the way first, so that no copy closes what is still to be copied.
    let away = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, AWAY);
    let copies: Vec<OwnedFd> = line.inherited.iter().map(|inherited| away(inherited.fd)).collect::<Result<_, _>>()?;
    let stderr = away(stderr)?;
    sys::dup_to(stderr.as_fd(), 2)?;
    sys::close_on_exec_from(3);
    for (inherited, copy) in line.inherited.iter().zip(&copies) {
        sys::dup_to(copy.as_fd(), inherited.number)?;
    }
    // Their numbers may be others' by now; exec closes them.
    std::mem::forget((copies, stderr));
    Ok(())
}
