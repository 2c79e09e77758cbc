//! Steps a confined process takes from inside: an empty root, no capabilities.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount, unmount,
};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::sys::{self, MountAttr};

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct StepError {
    pub what: &'static str,
    pub source: io::Error,
}

pub trait Step<T> {
    /// # Errors
    /// The error, with the step's name.
    fn step(self, what: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &'static str) -> Result<T, StepError> {
        self.map_err(|source| StepError { what, source: source.into() })
    }
}

/// Whether code in a file system may be mapped to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Guest memory: stubs map guests' code from there.
    Mappable,
    None,
}

/// A new tmpfs, mounted nowhere.
///
/// # Errors
/// The host's.
pub fn tmpfs(options: &[(&str, &str)], code: Code) -> io::Result<OwnedFd> {
    new_fs("tmpfs", options, code)
}

/// A new file system without devices and set-user-id programs, mounted nowhere.
///
/// # Errors
/// The host's.
pub fn new_fs(kind: &str, options: &[(&str, &str)], code: Code) -> io::Result<OwnedFd> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, code == Code::None);
    mounted(kind, options, attributes)
}

/// A new file system for nothing but device nodes, mounted nowhere.
///
/// # Errors
/// The host's.
pub fn device_fs(options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    mounted("tmpfs", options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

fn mounted(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(fs.as_fd(), *key, *value)?;
    }
    fsconfig_create(fs.as_fd())?;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Leaves the host's tree for a new, small, read-only tmpfs that `furnish` fills.
///
/// # Errors
/// The step that failed.
pub fn enter_private_root(furnish: impl FnOnce(BorrowedFd<'_>) -> Result<(), StepError>) -> Result<(), StepError> {
    let root = tmpfs(&[("size", "64k"), ("nr_inodes", "4096"), ("mode", "0755")], Code::None).step("make an empty root")?;
    // Any directory will do as the place to turn from.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root.as_fd(), "", CWD, "/proc", flags).step("mount the empty root on /proc")?;
    furnish(root.as_fd())?;
    sys::mount_setattr(root.as_fd(), false, &MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() })
        .step("make the empty root read-only")?;
    rustix::process::fchdir(&root).step("enter the empty root")?;
    // pivot_root(2): with "." twice the old root ends up on top of the new one, from where it is taken off.
    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("unmount the host's root")?;
    rustix::process::chdir("/").step("chdir to /")
}

/// Gives up all capabilities but the one that [`enter_private_root`] needs.
///
/// # Errors
/// The step that failed.
pub fn keep_only_mounting() -> Result<(), StepError> {
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")?;
    let keep = CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")
}

/// Takes capabilities out of the bounding set, for ever.
///
/// # Errors
/// The host's.
pub fn shrink_bounding_set(by: CapabilitySet) -> rustix::io::Result<()> {
    for capability in by.iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than the host's kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// No capability in any set of this process and of none it may execute; not dumpable; no_new_privs.
///
/// # Errors
/// The step that failed.
pub fn drop_privileges() -> Result<(), StepError> {
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")?;
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(locked).step("set secure bits")?;
    shrink_bounding_set(CapabilitySet::all()).step("shrink the bounding set")?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("set no_new_privs")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable")
}
