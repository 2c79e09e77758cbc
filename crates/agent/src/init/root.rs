//! The root of a container: put together in a workshop, and then entered, with nothing of the agent's left behind.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use agent_api::{Code, CreateContainerRequest, MOST_ROOT_IMAGES, Root, Status, root};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::devices;
use super::mounts::{self, attach, clone_of, new_fs};
use super::place::Tree;
use super::{about, cannot, internal, invalid};
use crate::boot::{RESOLV_CONF, TREES, WORKSHOP};
use crate::sys::{Below, set_mount_flags};

/// Where the host's tree or file `index` is.
pub fn tree_path(index: u32) -> String {
    format!("{TREES}/{index}")
}

/// Builds the tree of mounts in this process's own mount name space and makes it the root. Nodes in an overlay open devices if rules say which
/// (`device_rules`).
///
/// # Errors
/// Names the mount or path that cannot be had.
pub fn enter(request: &CreateContainerRequest, device_rules: bool) -> Result<(), Status> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| internal("make the mounts private", errno))?;
    let wanted = request.root.as_ref().ok_or_else(|| Status::new(Code::InvalidArgument, "root is missing"))?;
    let tree = Tree::new(build(wanted, request, device_rules)?);
    for mount in &request.mounts {
        mounts::mount(&tree, mount, request).map_err(|status| about("mount", &mount.destination, &status))?;
    }
    devices::make(&tree, request)?;
    name_servers(&tree, request)?;
    // As runc: an image may name a working directory that it does not have. One that cannot be made is missed when the process goes there.
    if let Some(process) = request.process.as_ref().filter(|process| !process.cwd.is_empty()) {
        let _ = tree.ensure_dir(&process.cwd);
    }
    for sysctl in &request.sysctls {
        let path = format!("/proc/sys/{}", sysctl.key.replace('.', "/"));
        let written = if sysctl.key.contains("..") { Err(Errno::INVAL) } else { write(&path, &sysctl.value) };
        written.map_err(|errno| invalid(&format!("sysctl {}", sysctl.key), errno))?;
    }
    for path in &request.read_only_paths {
        mounts::make_read_only(&tree, path).map_err(|errno| cannot("read-only path", path, errno))?;
    }
    for path in &request.masked_paths {
        mounts::mask(&tree, path).map_err(|errno| cannot("masked path", path, errno))?;
    }
    if wanted.read_only {
        set_mount_flags(tree.root(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), 0, Below::No)
            .map_err(|errno| internal("make the root read-only", errno))?;
    }
    change(&tree).map_err(|errno| internal("change the root", errno))
}

fn write(path: &str, value: &str) -> Result<(), Errno> {
    fs::write(path, value).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// The new root takes the old one's place, which is then dropped (pivot_root(2), "pivot_root(".", ".")").
fn change(tree: &Tree) -> Result<(), Errno> {
    rustix::process::fchdir(tree.root())?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// The mounted root, before anything is mounted on it.
fn build(wanted: &Root, request: &CreateContainerRequest, device_rules: bool) -> Result<OwnedFd, Status> {
    let part = |name: &str| format!("{WORKSHOP}/{name}");
    let about = |errno: Errno| internal("put the root together", errno);
    let size = match request.limits.and_then(|limits| limits.memory) {
        Some(bytes) => bytes,
        None => rustix::system::sysinfo().totalram as u64,
    };
    let workshop = new_fs("tmpfs", &[("mode", "755".into()), ("size", size.to_string())], MountAttrFlags::empty());
    attach_at(workshop.map_err(about)?, WORKSHOP).map_err(about)?;
    let new_dir = |path: &str| fs::create_dir(path).map_err(|error| about(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
    for name in ["root", "lower", "work", devices::NODES] {
        new_dir(&part(name))?;
    }
    let lowers = match wanted.images.len() {
        0 => vec![tree_path(wanted.attach)],
        1..=MOST_ROOT_IMAGES => images(wanted, request, &part("lower"), new_dir)?,
        many => {
            let what = format!("a root of {many} images: it can be made of {MOST_ROOT_IMAGES}");
            return Err(Status::new(Code::InvalidArgument, what));
        }
    };
    put(wanted, lowers, &part)?;
    let root =
        rustix::fs::open(part("root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(about)?;
    if !device_rules {
        set_mount_flags(root.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV.bits().into(), 0, Below::No).map_err(about)?;
    }
    Ok(root)
}

/// Mounts a root's images in `dir`. Where they are, from the top down.
fn images(
    wanted: &Root,
    request: &CreateContainerRequest,
    dir: &str,
    new_dir: impl Fn(&str) -> Result<(), Status>,
) -> Result<Vec<String>, Status> {
    let mut places = Vec::new();
    for (place, image) in wanted.images.iter().enumerate() {
        let about = |status: Status| Status::new(status.code, format!("layer {place} of the root: {}", status.message));
        let mount = mounts::erofs(&request.images, *image, MountAttrFlags::empty()).map_err(about)?;
        let path = format!("{dir}/{place}");
        new_dir(&path)?;
        attach_at(mount, &path).map_err(|errno| internal("put the root together", errno))?;
        places.push(path);
    }
    places.reverse();
    Ok(places)
}

/// Puts the root over its lower layers, from the top down, in its place.
fn put(wanted: &Root, mut lowers: Vec<String>, part: &impl Fn(&str) -> String) -> Result<(), Status> {
    if matches!(wanted.overlay, Some(root::Overlay::Dir(_))) && lowers.len() > 1 {
        // What the images' own marks mean is for an overlay that reads those.
        overlay(&part("lower"), &lowers, None).map_err(|errno| no_stack(wanted, errno))?;
        lowers = vec![part("lower")];
    }
    over(wanted, &lowers, part).map_err(|errno| missing_tree(wanted, errno))
}

fn over(wanted: &Root, lowers: &[String], part: &impl Fn(&str) -> String) -> Result<(), Errno> {
    let (root, top) = (part("root"), lowers.first().ok_or(Errno::INVAL)?);
    match &wanted.overlay {
        None | Some(root::Overlay::None(_)) if lowers.len() > 1 => overlay(&root, lowers, None),
        None | Some(root::Overlay::None(_)) => {
            let from = rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            attach_at(clone_of(from.as_fd(), Below::Too)?, &root)
        }
        Some(root::Overlay::Memory(_)) => {
            let (dir, work) = (part("upper"), part("work"));
            copy_attributes(top, &dir).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            overlay(&root, lowers, Some(Upper { dir, work, marks: Marks::Trusted }))
        }
        Some(root::Overlay::Dir(attach)) => {
            let kept = tree_path(*attach);
            let upper = Upper { dir: format!("{kept}/upper"), work: format!("{kept}/work"), marks: Marks::User };
            overlay(&root, lowers, Some(upper))
        }
    }
}

fn missing_tree(wanted: &Root, errno: Errno) -> Status {
    let errno_text = hostcall::Errno::from(errno);
    match &wanted.overlay {
        Some(root::Overlay::Dir(attach)) => Status::new(
            Code::FailedPrecondition,
            format!(
                "cannot keep the root's changes in a directory of the host (tree {attach}): the file system there has to have extended \
                 attributes (user.*) and whiteouts (mknod(2) of a device 0/0): {errno_text}"
            ),
        ),
        _ if wanted.images.is_empty() => {
            Status::new(Code::Internal, format!("cannot mount the host's tree {} as the root: {errno_text}", wanted.attach))
        }
        _ => no_stack(wanted, errno),
    }
}

fn no_stack(wanted: &Root, errno: Errno) -> Status {
    let (count, errno) = (wanted.images.len(), hostcall::Errno::from(errno));
    Status::new(Code::Internal, format!("cannot make a root of {count} images: {errno}"))
}

/// Which extended attributes say what an overlay's upper directories mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`: the only ones that the host keeps for a guest.
    User,
}

/// Where an overlay's changes go.
struct Upper {
    dir: String,
    work: String,
    marks: Marks,
}

/// Mounts an overlay of `lowers`, from the top down. By mount(2): a value of fsconfig(2) ends at 255 bytes, and many layers have longer names.
fn overlay(place: &str, lowers: &[String], upper: Option<Upper>) -> Result<(), Errno> {
    // One device number and stable inode numbers, as a file system has them, wherever the layers' numbers leave room for it.
    // Layers that say that data or names are elsewhere are not believed.
    let mut options = format!("xino=on,redirect_dir=nofollow,metacopy=off,lowerdir={}", lowers.join(":"));
    let mut flags = MountFlags::empty();
    match upper {
        None => flags = MountFlags::RDONLY,
        Some(Upper { dir, work, marks }) => {
            options += &format!(",upperdir={dir},workdir={work}");
            if marks == Marks::User {
                options += ",userxattr";
            }
        }
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", place, "overlay", flags, Some(options.as_c_str()))
}

/// The root of an overlay has the attributes of its upper directory.
fn copy_attributes(from: &str, to: &str) -> std::io::Result<()> {
    let like = fs::metadata(from)?;
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    chown(to, Some(like.uid()), Some(like.gid()))
}

fn attach_at(mount: OwnedFd, path: &str) -> Result<(), Errno> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(mount.as_fd(), place.as_fd())
}

/// The pod's name servers, unless the container brings its own file.
fn name_servers(tree: &Tree, request: &CreateContainerRequest) -> Result<(), Status> {
    const PLACE: &[u8] = b"/etc/resolv.conf";
    let file = match rustix::fs::open(RESOLV_CONF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(_) => return Ok(()),
    };
    if request.mounts.iter().any(|mount| mount.destination == PLACE) {
        return Ok(());
    }
    let bound = tree.ensure_file(PLACE).and_then(|place| attach(clone_of(file.as_fd(), Below::No)?.as_fd(), place.as_fd()));
    match bound {
        // An image that cannot be written to and has no such file does without.
        Ok(()) | Err(Errno::ROFS) => Ok(()),
        Err(errno) => Err(cannot("mount", PLACE, errno)),
    }
}
