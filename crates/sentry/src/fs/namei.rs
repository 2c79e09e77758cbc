//! Making, removing, linking and renaming names: the checks of `mkdir(2)`, `unlink(2)`, `rename(2)` and their kin, around the inodes'
//! own operations.
//!
//! A directory's async mutex is held from the look at a name until the dentry cache knows of the change. A rename between directories holds the
//! file system's rename mutex, then both directories', in the order of their addresses.

use std::sync::Arc;

use super::dentry::Exchange;
use super::fsnotify::{FsEvent, next_cookie};
use super::permission::{Mask, inherit, may_remove, permission};
use super::walk::{self, NAME_MAX};
use super::{Dentry, FileKind, Inode, Last, NewInode, Ownership, Path, RenameFlags, UnlinkKind, View};
use crate::Errno;
use crate::task::Capability;

/// What came of "create unless it exists".
pub(super) enum Entry {
    Made(Path),
    /// It was there; what is mounted on it is entered.
    Found(Path),
}

/// The attributes of an inode that permission checks need.
///
/// # Errors
/// The host's.
pub async fn ownership(inode: &Arc<dyn Inode>) -> Result<Ownership, Errno> {
    match inode.ownership() {
        Some(owner) => Ok(owner),
        None => Ok(Ownership::from(&inode.metadata().await?)),
    }
}

/// A name in a locked directory.
async fn look(dir: &Path, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
    walk::lookup(&dir.dentry, name).await
}

/// Makes a regular file (or another kind) unless the name exists. The umask is applied here.
pub(super) async fn create_or_find(view: &View, dir: &Path, name: &[u8], new: NewInode) -> Result<Entry, Errno> {
    // Without the lock first: mostly it is there.
    if let Some(found) = look(dir, name).await? {
        return Ok(Entry::Found(Path { mount: dir.mount.clone(), dentry: found }.descend()));
    }
    let _locked = dir.dentry.lock().await;
    if let Some(found) = look(dir, name).await? {
        return Ok(Entry::Found(Path { mount: dir.mount.clone(), dentry: found }.descend()));
    }
    Ok(Entry::Made(create_locked(view, dir, name, new).await?))
}

/// The name is free and the directory locked.
async fn create_locked(view: &View, dir: &Path, name: &[u8], mut new: NewInode) -> Result<Path, Errno> {
    dir.mount.writable()?;
    if !dir.dentry.is_attached() {
        return Err(Errno::ENOENT);
    }
    let owner = ownership(dir.inode()).await?;
    permission(owner, &view.creds, Mask::WRITE | Mask::EXEC)?;
    (new.gid, new.permissions) = inherit(owner, &view.creds, view.umask, new.kind, new.permissions);
    let inode = dir.inode().create(name, &new).await?;
    let dentry = dir.dentry.added(name, inode);
    dir.dentry.notify_name(FsEvent::CREATE, name, &dentry, 0);
    Ok(Path { mount: dir.mount.clone(), dentry })
}

/// Makes a name of a new inode in `dir`.
///
/// # Errors
/// `EEXIST`, and the rest of `mkdir(2)`, `mknod(2)`, `symlink(2)`.
pub async fn create(view: &View, dir: &Path, last: &Last, new: NewInode) -> Result<Path, Errno> {
    let (name, slash) = last.name(Errno::EEXIST)?;
    let _locked = dir.dentry.lock().await;
    if look(dir, name).await?.is_some() {
        return Err(Errno::EEXIST);
    }
    if slash && new.kind != FileKind::Directory {
        return Err(Errno::ENOENT);
    }
    create_locked(view, dir, name, new).await
}

/// Another name for an inode (`link(2)`).
///
/// # Errors
/// `link(2)`'s.
pub async fn link(view: &View, from: &Path, dir: &Path, last: &Last) -> Result<(), Errno> {
    let (name, slash) = last.name(Errno::EEXIST)?;
    let _locked = dir.dentry.lock().await;
    if look(dir, name).await?.is_some() {
        return Err(Errno::EEXIST);
    }
    if slash {
        return Err(Errno::ENOENT);
    }
    if !Arc::ptr_eq(&from.mount, &dir.mount) {
        return Err(Errno::EXDEV);
    }
    dir.mount.writable()?;
    if !dir.dentry.is_attached() {
        return Err(Errno::ENOENT);
    }
    permission(ownership(dir.inode()).await?, &view.creds, Mask::WRITE | Mask::EXEC)?;
    if from.dentry.is_dir() {
        return Err(Errno::EPERM);
    }
    if !from.dentry.may_link() {
        return Err(Errno::ENOENT);
    }
    dir.inode().link(name, from.inode()).await?;
    let dentry = dir.dentry.added(name, from.inode().clone());
    from.dentry.notify_self(FsEvent::ATTRIB);
    dir.dentry.notify_name(FsEvent::CREATE, name, &dentry, 0);
    Ok(())
}

/// Removes a name.
///
/// # Errors
/// `unlink(2)`'s and `rmdir(2)`'s.
pub async fn unlink(view: &View, dir: &Path, last: &Last, kind: UnlinkKind) -> Result<(), Errno> {
    let (name, slash) = match (last, kind) {
        (Last::Name { name, slash }, _) => (name, *slash),
        (_, UnlinkKind::NotDirectory) => return Err(Errno::EISDIR),
        (Last::Dot, _) => return Err(Errno::EINVAL),
        (Last::DotDot, _) => return Err(Errno::ENOTEMPTY),
        (Last::Root, _) => return Err(Errno::EBUSY),
    };
    let _locked = dir.dentry.lock().await;
    let victim = look(dir, name).await?.ok_or(Errno::ENOENT)?;
    if slash && kind == UnlinkKind::NotDirectory {
        return Err(if victim.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    dir.mount.writable()?;
    may_delete(view, dir, &victim, kind == UnlinkKind::Directory).await?;
    if is_local_mount_point(dir, &victim) {
        return Err(Errno::EBUSY);
    }
    dir.inode().unlink(name, kind).await?;
    victim.inode().names_of_it_changed();
    lost_name(&victim).await;
    dir.dentry.removed(name, &victim);
    forget_mounts(dir, &victim);
    let event = if victim.is_dir() { FsEvent::DELETE | FsEvent::ISDIR } else { FsEvent::DELETE };
    // Those who watch the file hear of its end first.
    drop(victim);
    dir.dentry.notify_name_of(event, name, 0);
    Ok(())
}

/// Tells those who watch a file that it has a name less, perhaps its last.
async fn lost_name(victim: &Arc<Dentry>) {
    if !victim.is_watched() {
        return;
    }
    if victim.is_dir() {
        victim.inode_deleted();
        return;
    }
    victim.notify_self(FsEvent::ATTRIB);
    if !matches!(victim.inode().metadata().await, Ok(metadata) if metadata.nlink > 0) {
        victim.inode_deleted();
    }
}

/// Whether `victim` may be taken out of `dir`, as a directory or as something else.
async fn may_delete(view: &View, dir: &Path, victim: &Arc<Dentry>, directory: bool) -> Result<(), Errno> {
    let owner = ownership(dir.inode()).await?;
    permission(owner, &view.creds, Mask::WRITE | Mask::EXEC)?;
    may_remove(owner, ownership(victim.inode()).await?, &view.creds)?;
    match (directory, victim.is_dir()) {
        (true, false) => Err(Errno::ENOTDIR),
        (false, true) => Err(Errno::EISDIR),
        _ => Ok(()),
    }
}

/// Gives something another name.
///
/// # Errors
/// `rename(2)`'s.
pub async fn rename(
    view: &View,
    (from, from_last): (&Path, &Last),
    (to, to_last): (&Path, &Last),
    flags: RenameFlags,
) -> Result<(), Errno> {
    if !Arc::ptr_eq(&from.mount, &to.mount) {
        return Err(Errno::EXDEV);
    }
    let (name, slash) = from_last.name(Errno::EBUSY)?;
    let busy = if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY };
    let (to_name, to_slash) = to_last.name(busy)?;
    if to_name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let (a, b) = (&from.dentry, &to.dentry);
    let same_dir = Arc::ptr_eq(a, b);
    let tree = a.cache().clone();
    let _tree = if same_dir { None } else { Some(tree.rename.lock().await) };
    let (first, second) = if Arc::as_ptr(a) <= Arc::as_ptr(b) { (a, b) } else { (b, a) };
    let _first = first.lock().await;
    let _second = if same_dir { None } else { Some(second.lock().await) };

    let moved = look(from, name).await?.ok_or(Errno::ENOENT)?;
    let target = look(to, to_name).await?;
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange && target.is_none() {
        return Err(Errno::ENOENT);
    }
    if !moved.is_dir() && (slash || (to_slash && !exchange)) {
        return Err(Errno::ENOTDIR);
    }
    if let Some(target) = &target
        && exchange
        && to_slash
        && !target.is_dir()
    {
        return Err(Errno::ENOTDIR);
    }
    if moved.is_ancestor_of(b) {
        return Err(Errno::EINVAL);
    }
    if let Some(target) = &target
        && target.is_ancestor_of(a)
    {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    from.mount.writable()?;
    if let Some(target) = &target
        && std::ptr::addr_eq(Arc::as_ptr(target.inode()), Arc::as_ptr(moved.inode()))
    {
        return Ok(());
    }
    may_delete(view, from, &moved, moved.is_dir()).await?;
    match &target {
        None => {
            if !b.is_attached() {
                return Err(Errno::ENOENT);
            }
            permission(ownership(to.inode()).await?, &view.creds, Mask::WRITE | Mask::EXEC)?;
        }
        Some(target) if exchange => may_delete(view, to, target, target.is_dir()).await?,
        Some(target) => may_delete(view, to, target, moved.is_dir()).await?,
    }
    if !same_dir {
        // Its `..` changes.
        may_reparent(view, &moved).await?;
        if let Some(target) = target.as_ref().filter(|_| exchange) {
            may_reparent(view, target).await?;
        }
    }
    if is_local_mount_point(from, &moved) || target.as_ref().is_some_and(|target| is_local_mount_point(to, target)) {
        return Err(Errno::EBUSY);
    }
    from.inode().rename(name, to.inode(), to_name, flags).await?;
    let swap = if exchange { Exchange::Yes } else { Exchange::No };
    let replaced = target.as_ref().filter(|_| !exchange);
    a.moved(name, &moved, b, to_name, target.as_ref().map(|target| (target, swap)));
    moved_event((from, name), (to, to_name), &moved);
    if let Some(replaced) = replaced {
        lost_name(replaced).await;
    }
    moved.notify_self(FsEvent::MOVE_SELF);
    if let Some(target) = target.as_ref().filter(|_| exchange) {
        moved_event((to, to_name), (from, name), target);
        target.notify_self(FsEvent::MOVE_SELF);
    }
    if flags.contains(RenameFlags::WHITEOUT) {
        a.forget(name);
    }
    if let Some(target) = target.as_ref().filter(|_| !exchange) {
        forget_mounts(to, target);
    }
    Ok(())
}

/// Whether something is mounted there in the namespace of `dir`: the name must stay. What others have mounted does not count.
fn is_local_mount_point(dir: &Path, dentry: &Arc<Dentry>) -> bool {
    dentry.is_mounted()
        && match dir.mount.namespace() {
            Some(namespace) => namespace.edit().is_point(dentry),
            None => dir.mount.child_at(dentry).is_some(),
        }
}

/// The name is gone, and so is what other namespaces have mounted there.
fn forget_mounts(dir: &Path, dentry: &Arc<Dentry>) {
    if dentry.is_mounted()
        && let Some(namespace) = dir.mount.namespace()
    {
        namespace.edit().forget_point(dentry);
    }
}

fn moved_event((from, name): (&Path, &[u8]), (to, to_name): (&Path, &[u8]), moved: &Dentry) {
    let cookie = next_cookie();
    from.dentry.notify_name(FsEvent::MOVED_FROM, name, moved, cookie);
    to.dentry.notify_name(FsEvent::MOVED_TO, to_name, moved, cookie);
}

async fn may_reparent(view: &View, moved: &Arc<Dentry>) -> Result<(), Errno> {
    if !moved.is_dir() {
        return Ok(());
    }
    permission(ownership(moved.inode()).await?, &view.creds, Mask::WRITE)
}

/// Whether the caller may make a node of this kind (`mknod(2)`).
///
/// # Errors
/// `EPERM`; `EINVAL` for a directory or a link.
pub fn may_make_node(view: &View, kind: FileKind, rdev: u64) -> Result<(), Errno> {
    match kind {
        FileKind::Regular | FileKind::Fifo | FileKind::Socket => Ok(()),
        // A whiteout of overlayfs: 0/0.
        FileKind::CharDevice if rdev == 0 => Ok(()),
        FileKind::CharDevice | FileKind::BlockDevice if view.creds.has(Capability::Mknod) => Ok(()),
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Directory => Err(Errno::EPERM),
        FileKind::Symlink => Err(Errno::EINVAL),
    }
}

/// Makes the directories of `path` below `root` that do not exist, for mount points; returns the last. The kernel's own doing.
///
/// # Errors
/// Those of walking and `mkdir`.
pub async fn ensure_dir(root: &Path, path: &[u8]) -> Result<Path, Errno> {
    let view = View::kernel(root.clone());
    let mut at = root.clone();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let found = walk::resolve_in(&view, None, at.clone(), name, walk::ResolveFlags::empty()).await;
        at = match found {
            Err(Errno::ENOENT) => {
                let new =
                    NewInode { kind: FileKind::Directory, permissions: 0o755, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
                let last = Last::Name { name: name.to_vec(), slash: false };
                match create(&view, &at, &last, new).await {
                    Err(Errno::EEXIST) => walk::resolve_in(&view, None, at, name, walk::ResolveFlags::empty()).await?,
                    made => made?,
                }
            }
            found => found?,
        };
    }
    Ok(at)
}

/// Makes an empty file at `path` below `root` (and its directories) unless something is there, for mount points of files.
///
/// # Errors
/// As [`ensure_dir`].
pub async fn ensure_file(root: &Path, path: &[u8]) -> Result<Path, Errno> {
    let at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let (parents, name) = path.split_at_checked(at).ok_or(Errno::EINVAL)?;
    let dir = ensure_dir(root, parents).await?;
    let view = View::kernel(root.clone());
    let new = NewInode { kind: FileKind::Regular, permissions: 0o644, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
    match create_or_find(&view, &dir, name, new).await? {
        Entry::Made(place) | Entry::Found(place) => Ok(place),
    }
}
