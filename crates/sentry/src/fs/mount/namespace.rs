//! [`MountNamespace`]: a tree of mounts that processes see (mount_namespaces(7)).

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::propagation::Part;
use super::tree::{self, Depth, Tree};
use super::{Mount, MountFlags};
use crate::Errno;
use crate::fs::{Dentry, FileKind, FileOps, FileSystem, Inode, Metadata, OpenFlags, Path, StatFs, Timestamp};
use crate::ns::UserNs;
use crate::step::Step;
use crate::task::Cx;
use crate::time::Clock;
use crate::wait::{PollEvents, WaitQueue};

/// Most mounts in a namespace (/proc/sys/fs/mount-max).
pub const MOUNT_MAX: usize = 100_000;

/// A tree of mounts.
pub struct MountNamespace {
    id: u64,
    /// Set once, when it has been made.
    owner: OnceLock<UserNs>,
    kind: Kind,
    root: Mutex<Option<Arc<Mount>>>,
    pub(super) topology: Arc<Topology>,
    count: AtomicUsize,
    /// Counts changes (poll on /proc/PID/mounts).
    event: AtomicU64,
    changed: WaitQueue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Processes live in it.
    Named,
    /// It holds one tree until that is mounted (`open_tree`, `fsmount`).
    Anonymous,
}

/// The lock of all namespaces whose mounts may propagate to each other (those that come from one container's), and what is mounted on
/// which dentry in any of them.
#[derive(Default)]
pub(super) struct Topology {
    pub points: Mutex<Points>,
}

/// Mounts by the address of the dentry that they are on, which they hold.
#[derive(Default)]
pub(super) struct Points(HashMap<usize, Vec<Weak<Mount>>>);

impl Points {
    pub fn on(&self, dentry: &Arc<Dentry>) -> Vec<Arc<Mount>> {
        let key = Arc::as_ptr(dentry).addr();
        self.0.get(&key).map(|mounts| mounts.iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
    }

    pub fn add(&mut self, dentry: &Arc<Dentry>, mount: &Arc<Mount>) {
        let mounts = self.0.entry(Arc::as_ptr(dentry).addr()).or_default();
        mounts.retain(|other| other.strong_count() > 0);
        mounts.push(Arc::downgrade(mount));
    }

    pub fn remove(&mut self, dentry: &Arc<Dentry>, mount: &Arc<Mount>) {
        let key = Arc::as_ptr(dentry).addr();
        if let Some(mounts) = self.0.get_mut(&key) {
            mounts.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(mount)));
            if mounts.is_empty() {
                self.0.remove(&key);
            }
        }
    }
}

fn next_id() -> u64 {
    // Beyond the numbers that namespaces of other kinds have.
    static NEXT: AtomicU64 = AtomicU64::new(4_026_600_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MountNamespace {
    /// A namespace with this tree as its root, below a hidden root file system (so that `pivot_root` can put another in its place, as on Linux).
    pub fn new(top: &Arc<Mount>) -> Arc<MountNamespace> {
        let hidden = Mount::new(Arc::new(RootFs::new()), "rootfs", MountFlags::empty(), &Clock::Host);
        tree::link(top, &hidden.root_path());
        let namespace = MountNamespace::of(Kind::Named, hidden, Arc::default());
        let mut points = namespace.topology.points.lock();
        for mount in top.subtree() {
            if let Some(point) = mount.mount_point() {
                points.add(&point.dentry, &mount);
            }
        }
        drop(points);
        namespace
    }

    /// One that holds a tree which is mounted nowhere; it is taken apart when nobody has it any more.
    pub(super) fn anonymous(&self, top: Arc<Mount>) -> Arc<MountNamespace> {
        MountNamespace::of(Kind::Anonymous, top, self.topology.clone())
    }

    fn of(kind: Kind, root: Arc<Mount>, topology: Arc<Topology>) -> Arc<MountNamespace> {
        let namespace = Arc::new(MountNamespace {
            id: next_id(),
            owner: OnceLock::new(),
            kind,
            root: Mutex::new(Some(root.clone())),
            topology,
            count: AtomicUsize::new(0),
            event: AtomicU64::new(1),
            changed: WaitQueue::new(),
        });
        namespace.enlist(&root);
        namespace
    }

    /// The inode number of /proc/PID/ns/mnt.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The user namespace that it belongs to.
    pub fn owner(&self) -> UserNs {
        self.owner.get().cloned().unwrap_or_default()
    }

    pub fn set_owner(&self, owner: UserNs) {
        // The first one stays.
        let _ = self.owner.set(owner);
    }

    pub fn is_anonymous(&self) -> bool {
        self.kind == Kind::Anonymous
    }

    pub(super) fn root(&self) -> Option<Arc<Mount>> {
        self.root.lock().clone()
    }

    /// An anonymous one's tree is mounted somewhere now.
    pub(super) fn give_up(&self) {
        *self.root.lock() = None;
        self.count.store(0, Ordering::Relaxed);
    }

    /// The root of its tree as a place.
    pub fn top(&self) -> Option<Path> {
        Some(self.root()?.root_path())
    }

    /// The directory that a process comes to which enters it.
    pub fn entry(&self) -> Option<Path> {
        Some(self.root()?.root_path().descend())
    }

    /// How many mounts it has.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether `more` mounts fit.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(super) fn admit(&self, more: usize) -> Result<(), Errno> {
        if self.count().saturating_add(more) > MOUNT_MAX { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// The tree below `top` is in this namespace now.
    pub(super) fn enlist(self: &Arc<MountNamespace>, top: &Arc<Mount>) {
        for mount in top.subtree() {
            self.enlist_one(&mount);
        }
    }

    pub(super) fn enlist_one(self: &Arc<MountNamespace>, mount: &Arc<Mount>) {
        *mount.namespace.write() = Arc::downgrade(self);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn delist(&self, mount: &Arc<Mount>) {
        *mount.namespace.write() = Weak::new();
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts changes; [`MountNamespace::queue`] is woken after each.
    pub fn event(&self) -> u64 {
        self.event.load(Ordering::Acquire)
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.changed
    }

    pub(super) fn touch(&self) {
        self.event.fetch_add(1, Ordering::AcqRel);
        self.changed.wake(PollEvents::PRI | PollEvents::ERR);
    }

    /// Its mounts in the order in which they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut mounts = self.root().map(|root| root.subtree()).unwrap_or_default();
        mounts.sort_by_key(|mount| mount.id());
        mounts
    }

    /// Begins a change.
    pub fn edit(self: &Arc<MountNamespace>) -> Tree<'_> {
        Tree::new(self)
    }

    /// A copy of the whole tree for a new namespace (`CLONE_NEWNS`) of a user namespace, and where each of `places` is in it. One of another user namespace
    /// only receives from shared mounts, and has to keep what hides and restricts.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn duplicate(
        self: &Arc<MountNamespace>,
        places: &mut [&mut Path],
        owner: UserNs,
    ) -> Result<Arc<MountNamespace>, Errno> {
        let root = self.root().ok_or(Errno::EINVAL)?;
        let mut tree = self.edit();
        let less_privileged = owner != self.owner();
        let part = if less_privileged { Part::Slave } else { Part::Peer };
        let pairs = tree.copy_as(&root.root_path(), Depth::Everything, part)?;
        let top = pairs.first().map(|(_, copy)| copy.clone()).ok_or(Errno::EINVAL)?;
        if less_privileged {
            top.lock_tree();
        }
        let namespace = MountNamespace::of(Kind::Named, top, self.topology.clone());
        namespace.set_owner(owner);
        drop(tree);
        for place in places {
            if let Some((_, copy)) = pairs.iter().find(|(old, _)| Arc::ptr_eq(old, &place.mount)) {
                place.mount = copy.clone();
            }
        }
        Ok(namespace)
    }
}

impl Drop for MountNamespace {
    /// Nobody sees the tree any more: its mounts go one by one, those that are in use when they are not any more.
    fn drop(&mut self) {
        let Some(root) = self.root.get_mut().take() else { return };
        let mounts = root.subtree();
        let mut points = self.topology.points.lock();
        for mount in mounts.iter().rev() {
            if let Some(point) = mount.mount_point() {
                points.remove(&point.dentry, mount);
            }
            drop(tree::unlink(mount));
            *mount.namespace.write() = Weak::new();
            mount.set_propagation(super::PropagationType::Private);
        }
        drop(points);
        drop(mounts);
    }
}

/// The empty directory at the bottom of every namespace.
struct RootFs {
    root: Arc<dyn Inode>,
}

impl RootFs {
    fn new() -> RootFs {
        RootFs { root: Arc::new(EmptyDir { dev: super::next_device() }) }
    }
}

impl FileSystem for RootFs {
    fn name(&self) -> &'static str {
        "rootfs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: 0x0102_1994, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }
}

struct EmptyDir {
    dev: u64,
}

impl Inode for EmptyDir {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let at = Timestamp::default();
        Step::ok(Metadata {
            dev: self.dev,
            ino: 1,
            kind: FileKind::Directory,
            permissions: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            accessed: at,
            modified: at,
            changed: at,
            born: at,
        })
    }

    fn lookup<'a>(&'a self, _name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::ENOENT)
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::err(Errno::EACCES)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
