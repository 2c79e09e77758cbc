//! A container's tree of mounts: its root, what its request mounts on it, masked and read-only paths.
//!
//! Everything is resolved inside the container's own tree, by the kernel's own rights.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_api::{
    CacheMode, Code, CreateContainerRequest, Device, DeviceKind, GoferMount, MOST_ROOT_IMAGES, Mount as MountRequest,
    MountFlags as Flags, Root, Status, TmpfsMount, mount, root,
};
use gofer::protocol::Access;
use parking_lot::Mutex;

use crate::Errno;
use crate::fs::cgroup2::Cgroup2Fs;
use crate::fs::devpts::Devpts;
use crate::fs::erofs::EroFs;
use crate::fs::gofer::{Cache, Connection, GoferFs};
use crate::fs::overlay::Overlay;
use crate::fs::overlay::layers::{Format, Layer, LayerFs, Upper};
use crate::fs::proc::ProcFs;
use crate::fs::sys::SysFs;
use crate::fs::tmpfs::{self, TmpFs};
use crate::fs::{FileKind, FileSystem, Mount, MountFlags, NewInode, Path, ResolveFlags, View, dev, namei, next_device, walk};
use crate::kernel::{Container, Kernel};

/// What the mounts of one container are made from.
pub(super) struct Builder<'a> {
    pub kernel: &'a Arc<Kernel>,
    pub container: &'a Arc<Container>,
    pub gofer: Connection,
    /// The request's images, until they are mounted.
    pub images: Mutex<Vec<Option<OwnedFd>>>,
}

impl Builder<'_> {
    /// Builds the whole tree. Returns its root.
    pub(super) async fn build(&self, request: &CreateContainerRequest) -> Result<Path, Status> {
        let wanted = request.root.as_ref().ok_or_else(|| invalid("root is missing".into()))?;
        let root = self.root(wanted).await?;
        for mount in &request.mounts {
            let result = self.mount(&root, mount).await;
            result.map_err(|status| about("mount", &mount.destination, status))?;
        }
        for device in &request.devices {
            self.device(&root, device).await.map_err(|errno| about("device", &device.path, cannot(errno)))?;
        }
        // As runc: an image may name a working directory that it does not have. One that cannot be made is missed when the process goes there.
        if let Some(process) = request.process.as_ref().filter(|process| !process.cwd.is_empty()) {
            let _ = namei::ensure_dir(&root, &process.cwd).await;
        }
        for path in &request.read_only_paths {
            make_read_only(&root, path).await.map_err(|errno| about("read-only path", path, cannot(errno)))?;
        }
        for path in &request.masked_paths {
            self.mask(&root, path).await.map_err(|errno| about("masked path", path, cannot(errno)))?;
        }
        if wanted.read_only {
            root.mount.set_flags(root.mount.flags() | MountFlags::RDONLY);
        }
        Ok(root)
    }

    async fn root(&self, wanted: &Root) -> Result<Path, Status> {
        let bare = matches!(wanted.overlay, None | Some(root::Overlay::None(_)));
        let lower: Arc<dyn FileSystem> = match wanted.images.as_slice() {
            [] => self.gofer_fs(wanted.attach, bare && !wanted.read_only, wanted.cache()).await?,
            [image] if bare => self.erofs(*image)?,
            // One is a layer as well, whose whiteouts are none of the guest's business.
            images => self.stack(images).await?,
        };
        let (fs, source): (Arc<dyn FileSystem>, &str) = match &wanted.overlay {
            None | Some(root::Overlay::None(_)) => (lower, "root"),
            Some(root::Overlay::Memory(_)) => {
                // What there is to fill, for `df` and for installers that look first.
                let size = self.container.memory_bytes(&self.kernel.machine);
                let upper = self.tmpfs(&TmpfsMount { size: Some(size), ..TmpfsMount::default() })?;
                let _ = self.container.writable_layer.set(Arc::downgrade(&upper));
                (Overlay::new(lower, upper, next_device()), "overlay")
            }
            Some(root::Overlay::Dir(attach)) => (self.layers(lower, *attach).await?, "overlay"),
        };
        Ok(self.new_mount(fs, source, MountFlags::empty()).root_path())
    }

    /// The file system on an image of the request.
    fn erofs(&self, image: u32) -> Result<Arc<EroFs>, Status> {
        let file = self.images.lock().get_mut(image as usize).and_then(Option::take);
        let file = file.ok_or_else(|| invalid(format!("no image {image} came with the request, or it is mounted already")))?;
        EroFs::new(file, self.container.memory.clone(), next_device()).map_err(|errno| {
            let what = match errno {
                Errno::EINVAL => "it is no EROFS image".to_string(),
                Errno::EOPNOTSUPP => {
                    "it has features that are not supported (only uncompressed images with 4 KiB blocks are)".to_string()
                }
                errno => errno.to_string(),
            };
            invalid(format!("image: {what}"))
        })
    }

    /// Images one over the other, the lowest first.
    async fn stack(&self, images: &[u32]) -> Result<Arc<dyn FileSystem>, Status> {
        if images.len() > MOST_ROOT_IMAGES {
            return Err(invalid(format!("a root of {} images: it can be made of {MOST_ROOT_IMAGES}", images.len())));
        }
        let mut layers = Vec::new();
        for (place, image) in images.iter().enumerate().rev() {
            let about = |status: Status| Status::new(status.code, format!("layer {place} of the root: {}", status.message));
            let fs = self.erofs(*image).map_err(about)?;
            if fs.leaves_attributes_out() && images.len() > 1 {
                let what =
                    "image: it has long prefixes of attributes' names, in which marks for what is below would not be seen";
                return Err(about(invalid(what.into())));
            }
            let fs: Arc<dyn FileSystem> = fs;
            layers.push(Layer::whole(&fs, fs.root()));
        }
        Ok(LayerFs::stack(layers, next_device()).await.map_err(|errno| invalid(format!("the root's images: {errno}")))?)
    }

    /// The root with its changes in a directory: `upper` and `work` in another tree of the gofer.
    async fn layers(&self, lower: Arc<dyn FileSystem>, attach: u32) -> Result<Arc<dyn FileSystem>, Status> {
        let kept: Arc<dyn FileSystem> = self.gofer_fs(attach, true, CacheMode::Exclusive).await?;
        let about = |errno: Errno| Status::new(Code::Internal, format!("the directory for the root's changes: {errno}"));
        let root = kept.root();
        let (upper, work) = (root.lookup(b"upper").await.map_err(about)?, root.lookup(b"work").await.map_err(about)?);
        let upper = Upper { layer: Layer::whole(&kept, upper), work };
        let lowers = vec![Layer::whole(&lower, lower.root())];
        Ok(LayerFs::new(Some(upper), lowers, Format::User, next_device(), String::new()).await.map_err(about)?)
    }

    async fn gofer_fs(&self, attach: u32, writable: bool, cache: CacheMode) -> Result<Arc<GoferFs>, Status> {
        let cache = match cache {
            CacheMode::Exclusive => Cache::Exclusive,
            CacheMode::Shared => Cache::Shared,
        };
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        let fs = GoferFs::new(&self.gofer, attach, access, cache, next_device(), self.kernel.host_files.clone());
        fs.await.map_err(|errno| Status::new(Code::Internal, format!("the gofer does not give its tree {attach}: {errno}")))
    }

    fn tmpfs(&self, wanted: &TmpfsMount) -> Result<Arc<TmpFs>, Status> {
        let options = tmpfs::Options {
            size: wanted.size.unwrap_or(0),
            inodes: wanted.inodes.unwrap_or(0),
            permissions: wanted.mode.unwrap_or(0o1777),
            uid: wanted.uid.unwrap_or(0),
            gid: wanted.gid.unwrap_or(0),
            ..tmpfs::Options::default()
        };
        Ok(TmpFs::new(self.container.memory.clone(), self.kernel.clock.clone(), next_device(), options))
    }

    fn new_mount(&self, fs: Arc<dyn FileSystem>, source: impl Into<Vec<u8>>, flags: MountFlags) -> Arc<Mount> {
        Mount::new(fs, source, flags, &self.kernel.clock)
    }

    async fn mount(&self, root: &Path, request: &MountRequest) -> Result<(), Status> {
        let flags = mount_flags(request.flags.as_ref());
        let kind = request.kind.as_ref().ok_or_else(|| invalid("it has no kind".into()))?;
        let fs: Arc<dyn FileSystem> = match kind {
            mount::Kind::Gofer(GoferMount { attach, cache }) => {
                let cache = CacheMode::try_from(*cache).unwrap_or(CacheMode::Shared);
                self.gofer_fs(*attach, !flags.contains(MountFlags::RDONLY), cache).await?
            }
            mount::Kind::Tmpfs(options) | mount::Kind::Dev(options) => self.tmpfs(options)?,
            mount::Kind::Proc(_) => ProcFs::new(self.kernel.clone(), self.container.clone(), next_device()),
            mount::Kind::Sysfs(_) => SysFs::new(self.kernel, next_device()),
            mount::Kind::Devpts(_) => Devpts::new(&self.container.terminals),
            mount::Kind::Cgroup(_) => Cgroup2Fs::new(self.container.clone(), self.container.cgroup.clone()),
            mount::Kind::Erofs(image) => self.erofs(*image)?,
            mount::Kind::Disk(_) => return Err(Status::new(Code::Unimplemented, "the sentry mounts no disks")),
            mount::Kind::Mqueue(_) => self.container.namespaces.ipc.objects.mqueues(&self.kernel.clock),
        };
        let source = if request.source.is_empty() { fs.name().as_bytes().to_vec() } else { request.source.clone() };
        let mount = self.new_mount(fs, source, flags);
        let place = match mount.root().is_dir() {
            true => namei::ensure_dir(root, &request.destination).await,
            false => namei::ensure_file(root, &request.destination).await,
        };
        place.and_then(|place| mount.attach(&place)).map_err(cannot)?;
        if let mount::Kind::Dev(_) = kind {
            populate_dev(&mount.root_path()).await.map_err(cannot)?;
        }
        Ok(())
    }

    async fn device(&self, root: &Path, device: &Device) -> Result<(), Errno> {
        let kind = match DeviceKind::try_from(device.kind) {
            Ok(DeviceKind::Character) => FileKind::CharDevice,
            Ok(DeviceKind::Block) => FileKind::BlockDevice,
            Ok(DeviceKind::Fifo) => FileKind::Fifo,
            Err(_) => return Err(Errno::EINVAL),
        };
        let new = NewInode {
            kind,
            permissions: device.mode & 0o7777,
            uid: device.uid,
            gid: device.gid,
            rdev: dev::device_number(device.major, device.minor),
            target: Vec::new(),
        };
        make(root, &device.path, new).await
    }

    /// Hides a path behind an empty directory or /dev/null. A path that is not there needs no hiding.
    async fn mask(&self, root: &Path, path: &[u8]) -> Result<(), Errno> {
        let Some(place) = find(root, path).await? else { return Ok(()) };
        let mount = if place.dentry.is_dir() {
            let empty = self.tmpfs(&TmpfsMount { mode: Some(0o755), ..TmpfsMount::default() }).map_err(|_| Errno::ENOMEM)?;
            self.new_mount(empty, "tmpfs", MountFlags::RDONLY)
        } else {
            let null = find(root, b"/dev/null").await?.ok_or(Errno::ENOENT)?;
            Mount::bind(&null)
        };
        mount.attach(&place)
    }
}

/// OCI's default devices and links.
async fn populate_dev(dev_root: &Path) -> Result<(), Errno> {
    let node = |kind, permissions, rdev, target| NewInode { kind, permissions, uid: 0, gid: 0, rdev, target };
    for (name, major, minor) in agent_api::dev::NODES {
        let new = node(FileKind::CharDevice, 0o666, dev::device_number(major, minor), Vec::new());
        make(dev_root, name.as_bytes(), new).await?;
    }
    for (name, target) in agent_api::dev::LINKS {
        make(dev_root, name.as_bytes(), node(FileKind::Symlink, 0o777, 0, target.as_bytes().to_vec())).await?;
    }
    for directory in ["pts", "shm", "mqueue"] {
        make(dev_root, directory.as_bytes(), node(FileKind::Directory, 0o755, 0, Vec::new())).await?;
    }
    Ok(())
}

/// Makes an entry; one that is there already is left alone.
async fn make(root: &Path, path: &[u8], new: NewInode) -> Result<(), Errno> {
    let view = View::kernel(root.clone());
    if let Some(end) = path.iter().rposition(|&byte| byte == b'/').filter(|&end| end > 0) {
        namei::ensure_dir(root, path.get(..end).unwrap_or_default()).await?;
    }
    let (dir, last) = walk::parent_in(&view, None, root.clone(), path).await?;
    match namei::create(&view, &dir, &last, new).await {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

async fn find(root: &Path, path: &[u8]) -> Result<Option<Path>, Errno> {
    let view = View::kernel(root.clone());
    match walk::resolve_in(&view, None, root.clone(), path, ResolveFlags::empty()).await {
        Ok(place) => Ok(Some(place)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Mounts a path on itself, read-only.
async fn make_read_only(root: &Path, path: &[u8]) -> Result<(), Errno> {
    let Some(place) = find(root, path).await? else { return Ok(()) };
    let mount = Mount::bind(&place);
    mount.set_flags(mount.flags() | MountFlags::RDONLY);
    mount.attach(&place)
}

fn mount_flags(flags: Option<&Flags>) -> MountFlags {
    let flags = flags.copied().unwrap_or_default();
    let mut mount = MountFlags::empty();
    for (set, flag) in [
        (flags.read_only, MountFlags::RDONLY),
        (flags.nosuid, MountFlags::NOSUID),
        (flags.nodev, MountFlags::NODEV),
        (flags.noexec, MountFlags::NOEXEC),
        (flags.noatime, MountFlags::NOATIME),
        (flags.nodiratime, MountFlags::NODIRATIME),
        (flags.relatime, MountFlags::RELATIME),
        (flags.strictatime, MountFlags::STRICTATIME),
    ] {
        mount.set(flag, set);
    }
    mount
}

fn invalid(message: String) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn cannot(errno: Errno) -> Status {
    invalid(errno.to_string())
}

fn about(what: &str, path: &[u8], status: Status) -> Status {
    Status::new(status.code, format!("{what} {}: {}", String::from_utf8_lossy(path), status.message))
}
