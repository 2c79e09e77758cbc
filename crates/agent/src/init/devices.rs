//! Nodes of devices in a container's tree. Of all that is mounted there only `/dev` and what a container mounts by itself have nodes that open something:
//! those of images, volumes and the host's trees carry numbers of the host, or of a disk that is another container's. A node that the container is given
//! elsewhere is made in the workshop, and bound.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_api::dev;
use agent_api::{CreateContainerRequest, Device, DeviceKind, Status};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, StatVfsMountFlags, Uid, chownat, fstat, fstatvfs, makedev, mknodat, stat,
    statat, symlinkat,
};
use rustix::io::Errno;

use super::mounts::{attach, clone_of, disk_device};
use super::place::Tree;
use super::{about, cannot, invalid};
use crate::boot::WORKSHOP;
use crate::sys::Below;

/// In the workshop: where nodes are made that stand elsewhere.
pub const NODES: &str = "nodes";

/// Fills `/dev` with OCI's default devices, links and directories.
///
/// # Errors
/// The kernel's.
pub fn populate(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    for (name, major, minor) in dev::NODES {
        mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    }
    for (name, target) in dev::LINKS {
        symlinkat(target, dev, name)?;
    }
    for directory in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(dev, directory, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Makes the nodes that a request wants, and has the default ones open where `/dev` is an image's or the host's.
///
/// # Errors
/// `InvalidArgument` with the path, and what is wrong.
pub fn make(tree: &Tree, request: &CreateContainerRequest) -> Result<(), Status> {
    for (place, device) in request.devices.iter().enumerate() {
        let number = number(device, &request.disks).map_err(|status| about("device", &device.path, &status))?;
        node(tree, place, device, number).map_err(|errno| cannot("device", &device.path, errno))?;
    }
    let is_dev_without =
        |mount: &agent_api::Mount| mount.destination == b"/dev" && mount.flags.is_some_and(|flags| flags.nodev);
    if request.mounts.iter().any(is_dev_without) {
        return Ok(());
    }
    for (name, ..) in dev::NODES {
        let path = format!("/dev/{name}");
        open_usual(tree, path.as_bytes()).map_err(|errno| cannot("device", path.as_bytes(), errno))?;
    }
    Ok(())
}

/// If this is the host's node of a default device, the guest's, to be mounted in its place.
///
/// # Errors
/// The kernel's.
pub fn usual(node: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let stat = fstat(node)?;
    let is_same = |&(_, major, minor): &(&str, u32, u32)| makedev(major, minor) == stat.st_rdev;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Ok(None);
    }
    let Some((name, ..)) = dev::NODES.into_iter().find(is_same) else { return Ok(None) };
    let made = format!("{WORKSHOP}/{NODES}/{name}");
    match mknodat(CWD, &made, FileType::CharacterDevice, Mode::from_raw_mode(0o666), stat.st_rdev) {
        Ok(()) | Err(Errno::EXIST) => clone_of(opened(&made)?.as_fd(), Below::No).map(Some),
        Err(errno) => Err(errno),
    }
}

fn open_usual(tree: &Tree, path: &[u8]) -> Result<(), Errno> {
    let Ok(there) = tree.find(path) else { return Ok(()) };
    if opens_devices(there.as_fd())? {
        return Ok(());
    }
    match usual(there.as_fd())? {
        Some(node) => attach(node.as_fd(), there.as_fd()),
        None => Ok(()),
    }
}

/// A device's number in the guest: a disk has another one than on the host.
///
/// # Errors
/// `InvalidArgument`: its disk is not there.
pub fn number(device: &Device, disks: &[u32]) -> Result<Dev, Status> {
    let Some(given) = device.disk else { return Ok(makedev(device.major, device.minor)) };
    let disk = disk_device(disks, given.disk)?;
    stat(&disk).map(|stat| stat.st_rdev).map_err(|errno| invalid(&disk, errno))
}

/// Makes a node, the request's in this `place`. What is there already is left alone, but not in the place of a disk's.
fn node(tree: &Tree, place: usize, device: &Device, number: Dev) -> Result<(), Errno> {
    let kind = match DeviceKind::try_from(device.kind) {
        Ok(DeviceKind::Character) => FileType::CharacterDevice,
        Ok(DeviceKind::Block) => FileType::BlockDevice,
        Ok(DeviceKind::Fifo) => FileType::Fifo,
        Err(_) => return Err(Errno::INVAL),
    };
    let (parent, name) = tree.parent(&device.path)?;
    let there = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) if device.disk.is_some() => return Err(Errno::EXIST),
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno),
    };
    let made = |dir: BorrowedFd<'_>, name: &[u8]| {
        mknodat(dir, name, kind, Mode::from_raw_mode(device.mode & 0o7777), number)?;
        chownat(dir, name, Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)), AtFlags::SYMLINK_NOFOLLOW)
    };
    match there {
        None if kind == FileType::Fifo || opens_devices(parent.as_fd())? => made(parent.as_fd(), name),
        // An image's own node of it.
        Some(FileType::CharacterDevice | FileType::BlockDevice) if opens_devices(parent.as_fd())? => Ok(()),
        None | Some(FileType::CharacterDevice | FileType::BlockDevice) => {
            let workshop = format!("{WORKSHOP}/{NODES}/{place}");
            made(CWD, workshop.as_bytes())?;
            let place = tree.ensure_file(&device.path)?;
            attach(clone_of(opened(&workshop)?.as_fd(), Below::No)?.as_fd(), place.as_fd())
        }
        Some(_) => Ok(()),
    }
}

/// Whether nodes that are there open what they name.
fn opens_devices(place: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(!fstatvfs(place)?.f_flag.contains(StatVfsMountFlags::NODEV))
}

fn opened(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
