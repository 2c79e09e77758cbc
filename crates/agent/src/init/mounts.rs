//! What a container's request mounts on its root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agent_api::{Code, CreateContainerRequest, DevptsMount, DiskMount, Mount, MountFlags, Status, TmpfsMount, mount::Kind};
use rustix::fs::{CWD, FileType, Mode, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::devices;
use super::place::Tree;
use super::root::tree_path;
use crate::boot::SHM;
use crate::drives;
use crate::sys::{Below, set_mount_flags};

/// A file system that is made new, not mounted anywhere yet. An option without a value is a flag.
///
/// # Errors
/// The kernel's.
pub fn new_fs(kind: &str, options: &[(&str, String)], flags: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value.is_empty() {
            true => fsconfig_set_flag(&context, *key)?,
            false => fsconfig_set_string(&context, *key, value.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A copy of a mount, or of a part of it: what a bind mount mounts.
///
/// # Errors
/// The kernel's.
pub fn clone_of(place: BorrowedFd<'_>, below: Below) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, below == Below::Too);
    open_tree(place, "", flags)
}

/// Puts a mount on a place.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// Mounts what a request wants.
///
/// # Errors
/// `InvalidArgument` with the kernel's reason.
pub fn mount(tree: &Tree, request: &Mount, of: &CreateContainerRequest) -> Result<(), Status> {
    let kind = request.kind.as_ref().ok_or_else(|| wrong("it has no kind"))?;
    let flags = attributes(request.flags.as_ref());
    let errno = |errno: Errno| wrong(hostcall::Errno::from(errno).to_string());
    // The source is for /proc/mounts only.
    let new = |kind: &str, mut options: Vec<(&'static str, String)>| {
        let given = std::str::from_utf8(&request.source).ok().filter(|source| !source.is_empty());
        options.push(("source", given.unwrap_or(kind).to_string()));
        new_fs(kind, &options, flags)
    };
    let mount = match kind {
        // Shared memory that containers share must be the guest's own: mapping a file of the host shares nothing with another mapping of it.
        Kind::Gofer(_) if request.destination == b"/dev/shm" && Path::new(SHM).is_dir() => bound(SHM, flags).map_err(errno)?,
        Kind::Gofer(bind) => {
            let mount = bound(&tree_path(bind.attach), flags).map_err(errno)?;
            // /dev/null over a file that is not to be seen, say: the host's node means the guest's device.
            let usual = if flags.contains(MountAttrFlags::MOUNT_ATTR_NODEV) { Ok(None) } else { devices::usual(mount.as_fd()) };
            usual.map_err(errno)?.unwrap_or(mount)
        }
        Kind::Tmpfs(options) | Kind::Dev(options) => new("tmpfs", tmpfs(options)).map_err(errno)?,
        Kind::Proc(_) => new("proc", Vec::new()).map_err(errno)?,
        Kind::Sysfs(_) => new("sysfs", Vec::new()).map_err(errno)?,
        Kind::Devpts(options) => new("devpts", devpts(options)).map_err(errno)?,
        Kind::Mqueue(_) => new("mqueue", Vec::new()).map_err(errno)?,
        Kind::Cgroup(_) => new("cgroup2", Vec::new()).map_err(errno)?,
        Kind::Erofs(image) => erofs(&of.images, *image, flags)?,
        Kind::Disk(disk) => self::disk(&of.disks, disk, flags)?,
    };
    let is_dir = fstat(&mount).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let place = match is_dir {
        true => tree.ensure_dir(&request.destination),
        false => tree.ensure_file(&request.destination),
    };
    place.and_then(|place| attach(mount.as_fd(), place.as_fd())).map_err(errno)?;
    if let Kind::Dev(_) = kind {
        devices::populate(mount.as_fd()).map_err(errno)?;
    }
    Ok(())
}

/// A tree or file of the guest or the host, bound. A node of a device in it opens nothing: its number is the host's, or that of a disk of the guest's,
/// perhaps another container's.
fn bound(path: &str, flags: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let from = rustix::fs::open(path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
    let mount = clone_of(from.as_fd(), Below::Too)?;
    let flags = flags | MountAttrFlags::MOUNT_ATTR_NODEV;
    let atime = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let clear = if flags.intersects(atime) { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() };
    set_mount_flags(mount.as_fd(), flags.bits().into(), clear.bits().into(), Below::Too)?;
    Ok(mount)
}

/// The EROFS image that the request's `images[index]` names: mapped directly where its device is memory, and the kernel can.
///
/// # Errors
/// `InvalidArgument`, with what is wrong.
pub fn erofs(images: &[u32], index: u32, flags: MountAttrFlags) -> Result<OwnedFd, Status> {
    let number = images.get(index as usize).ok_or_else(|| wrong(format!("no image {index} came with the request")))?;
    let source = drives::device(*number).ok_or_else(|| wrong(format!("the guest has no device for image {index}")))?;
    let flags = flags | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let dax = new_fs("erofs", &[("source", source.clone()), ("ro", String::new()), ("dax", String::new())], flags);
    let mount = dax.or_else(|_| new_fs("erofs", &[("source", source.clone()), ("ro", String::new())], flags));
    mount.map_err(|errno| {
        let why = match errno {
            Errno::INVAL => "it is no EROFS image".to_string(),
            errno => hostcall::Errno::from(errno).to_string(),
        };
        wrong(format!("image: {why}"))
    })
}

/// The file system on a disk.
///
/// # Errors
/// `InvalidArgument`, with what is wrong.
fn disk(disks: &[u32], wanted: &DiskMount, flags: MountAttrFlags) -> Result<OwnedFd, Status> {
    let mut options = vec![("source", disk_device(disks, wanted.disk)?)];
    if flags.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        options.push(("ro", String::new()));
    }
    options.extend(wanted.options.iter().map(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        (name, value.to_string())
    }));
    let (kind, flags) = (&wanted.file_system, flags | MountAttrFlags::MOUNT_ATTR_NODEV);
    new_fs(kind, &options, flags).map_err(|errno| {
        wrong(match errno {
            Errno::NODEV => format!("the guest's kernel has no file system {kind}"),
            Errno::INVAL => format!("the disk has no file system {kind}, or it does not take an option"),
            errno => hostcall::Errno::from(errno).to_string(),
        })
    })
}

/// The guest's device for the request's disk in this place.
///
/// # Errors
/// `InvalidArgument`: there is none.
pub fn disk_device(disks: &[u32], place: u32) -> Result<String, Status> {
    let number = disks.get(place as usize).ok_or_else(|| wrong(format!("no disk {place} came with the request")))?;
    drives::device(*number).ok_or_else(|| wrong(format!("the guest has no device for disk {place}")))
}

/// Hides a path behind an empty directory or /dev/null. A path that is not there needs no hiding.
///
/// # Errors
/// The kernel's.
pub fn mask(tree: &Tree, path: &[u8]) -> Result<(), Errno> {
    let Some(place) = existing(tree, path)? else { return Ok(()) };
    let cover = if FileType::from_raw_mode(fstat(&place)?.st_mode) == FileType::Directory {
        new_fs("tmpfs", &[("mode", "755".into())], MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        open_tree(CWD, "/dev/null", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?
    };
    attach(cover.as_fd(), place.as_fd())
}

/// Mounts a path on itself, read-only.
///
/// # Errors
/// The kernel's.
pub fn make_read_only(tree: &Tree, path: &[u8]) -> Result<(), Errno> {
    let Some(place) = existing(tree, path)? else { return Ok(()) };
    let mount = clone_of(place.as_fd(), Below::Too)?;
    set_mount_flags(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), 0, Below::No)?;
    attach(mount.as_fd(), place.as_fd())
}

fn existing(tree: &Tree, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    match tree.find(path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn attributes(flags: Option<&MountFlags>) -> MountAttrFlags {
    let flags = flags.copied().unwrap_or_default();
    let mut attributes = MountAttrFlags::empty();
    for (set, attribute) in [
        (flags.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (flags.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (flags.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (flags.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (flags.nodiratime, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ] {
        attributes.set(attribute, set);
    }
    // One choice of three (relatime is 0), of which the kernel takes no two.
    if flags.noatime {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME;
    } else if flags.strictatime {
        attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    }
    attributes
}

fn tmpfs(options: &TmpfsMount) -> Vec<(&'static str, String)> {
    let mut list = vec![("mode", format!("{:o}", options.mode.unwrap_or(0o1777)))];
    list.extend(options.size.map(|bytes| ("size", bytes.to_string())));
    list.extend(options.inodes.map(|most| ("nr_inodes", most.to_string())));
    list.extend(options.uid.map(|uid| ("uid", uid.to_string())));
    list.extend(options.gid.map(|gid| ("gid", gid.to_string())));
    list
}

fn devpts(options: &DevptsMount) -> Vec<(&'static str, String)> {
    let mut list = Vec::new();
    list.extend(options.ptmx_mode.map(|mode| ("ptmxmode", format!("{mode:o}"))));
    list.extend(options.mode.map(|mode| ("mode", format!("{mode:o}"))));
    list.extend(options.gid.map(|gid| ("gid", gid.to_string())));
    list
}

fn wrong(why: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_access_times_one_is_chosen() {
        let flags = MountFlags { noatime: true, strictatime: true, relatime: true, read_only: true, ..MountFlags::default() };
        let attributes = attributes(Some(&flags));
        assert_eq!(attributes, MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn options_are_written_as_linux_reads_them() {
        let options = TmpfsMount { size: Some(65536), mode: Some(0o755), uid: Some(5), ..TmpfsMount::default() };
        let expected = [("mode", "755".to_string()), ("size", "65536".into()), ("uid", "5".into())];
        assert_eq!(tmpfs(&options), expected);
        let options = DevptsMount { ptmx_mode: Some(0o666), mode: None, gid: Some(5) };
        assert_eq!(devpts(&options), [("ptmxmode", "666".to_string()), ("gid", "5".into())]);
    }

    #[test]
    fn an_image_that_did_not_come_is_named() {
        let status = erofs(&[], 0, MountAttrFlags::empty()).expect_err("no image");
        assert!(status.message.contains("no image 0"), "{status}");
    }
}
