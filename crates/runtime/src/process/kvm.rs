//! How a VMM comes to /dev/kvm.
//!
//! It runs as a user who owns nothing, in a user name space where no group but that user's is known. So a privileged runtime, which can tell whether KVM is
//! there, makes a node of the same device that is this user's, in a file system with nothing else in it, and sends the mount.
//! An ordinary user's VMM runs as that user, and has the host's node.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, mknodat, stat};
use vmm::Accelerator;

use super::isolate::device_fs;
use super::{NOBODY, Privilege};
use crate::sys::{self, MountAttr};

/// The host's node.
pub const DEVICE: &str = "/dev/kvm";

/// What a VMM's process is given of it.
#[derive(Debug)]
pub enum Kvm {
    /// A directory with a node `kvm` that it may open; mounted nowhere.
    Mount(OwnedFd),
    /// The host's, which its user may open.
    Own,
}

impl Kvm {
    /// For a VMM of a runtime with these rights.
    ///
    /// # Errors
    /// Why there is none: then the machine is to be emulated.
    pub fn find(privilege: Privilege) -> Result<Kvm, String> {
        match (Accelerator::choose(), privilege) {
            (Accelerator::Emulation { because }, _) => Err(because),
            (Accelerator::Kvm, Privilege::User) => Ok(Kvm::Own),
            (Accelerator::Kvm, Privilege::Root) => {
                node().map(Kvm::Mount).map_err(|error| format!("cannot make a node of /dev/kvm for the VMM: {error}"))
            }
        }
    }
}

fn node() -> io::Result<OwnedFd> {
    let device = stat(DEVICE)?.st_rdev;
    let dev = device_fs(&[("size", "4k"), ("nr_inodes", "2"), ("mode", "0755")])?;
    mknodat(&dev, "kvm", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    chownat(&dev, "kvm", Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    sys::mount_setattr(dev.as_fd(), false, &MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() })?;
    Ok(dev)
}
