//! Names in an overlay's directories: what was made and removed, over what the lower directory has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::dir::Lister;
use super::node::Node;
use crate::Errno;
use crate::fs::{FileKind, Inode, LookedUp, NewInode, RenameFlags, UnlinkKind};
use crate::step::{BoxFuture, Step};

/// A name that differs from the lower directory.
pub(super) enum Entry {
    Node {
        node: Arc<Node>,
        /// The lower directory has this name too, and it must not show when this one goes.
        shadows: bool,
    },
    /// The lower directory has this name; it was removed.
    Whiteout,
}

/// The names made or removed in a directory.
#[derive(Default)]
pub(super) struct Names {
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Removed: nothing can be made in it.
    dead: bool,
}

impl Names {
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry))
    }

    /// Takes all nodes out.
    pub fn take(&mut self) -> Vec<Arc<Node>> {
        let entries = std::mem::take(&mut self.entries).into_values();
        entries
            .filter_map(|entry| match entry {
                Entry::Node { node, .. } => Some(node),
                Entry::Whiteout => None,
            })
            .collect()
    }

    /// Whether a lower name stands behind this one; `there`: whether the name exists now.
    fn shadows(&self, name: &[u8], there: bool) -> bool {
        match self.entries.get(name) {
            Some(Entry::Whiteout) => true,
            Some(Entry::Node { shadows, .. }) => *shadows,
            None => there,
        }
    }

    fn put(&mut self, name: &[u8], node: Arc<Node>, there: bool) {
        let shadows = self.shadows(name, there);
        self.entries.insert(name.into(), Entry::Node { node, shadows });
    }

    /// Removes a name that is there.
    fn remove(&mut self, name: &[u8]) {
        if self.shadows(name, true) {
            self.entries.insert(name.into(), Entry::Whiteout);
        } else {
            self.entries.remove(name);
        }
    }
}

impl Node {
    pub(super) fn find<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        if self.kind_of() != FileKind::Directory {
            return Step::err(Errno::ENOTDIR);
        }
        match self.names.lock().get(name) {
            Some(Entry::Node { node, .. }) => return Step::ok(node.clone()),
            Some(Entry::Whiteout) => return Step::err(Errno::ENOENT),
            None => {}
        }
        let Some(lower) = &self.lower else { return Step::err(Errno::ENOENT) };
        let wrap = |lower| self.fs.node(lower) as Arc<dyn Inode>;
        match lower.lookup(name) {
            Step::Ready(found) => Step::Ready(found.map(wrap)),
            Step::Wait(found) => Step::wait(async move { found.await.map(wrap) }),
        }
    }

    /// A batch, as far as the way leads through unchanged directories.
    pub(super) fn find_path<'a>(&'a self, names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
        if self.names.lock().get(names.first()?).is_some() {
            return None;
        }
        let found = self.lower.as_ref()?.lookup_path(names)?;
        Some(Box::pin(async move {
            let found = found.await?;
            let mut inodes: Vec<Arc<dyn Inode>> = Vec::new();
            let mut parent: Option<Arc<Node>> = None;
            for (lower, name) in found.inodes.into_iter().zip(names) {
                if parent.is_some_and(|parent| parent.names.lock().get(name).is_some()) {
                    return Ok(LookedUp { inodes, error: None });
                }
                let node = Shared::node(&self.fs, lower);
                inodes.push(node.clone());
                parent = Some(node);
            }
            Ok(LookedUp { inodes, error: found.error })
        }))
    }

    /// Runs a change of names once this directory has attributes of its own.
    pub(super) fn change_names<'a, T: Send + 'a>(
        &'a self,
        change: impl FnOnce() -> Result<T, Errno> + Send + 'a,
    ) -> Step<'a, Result<T, Errno>> {
        if self.upper_node().is_some() {
            return Step::Ready(change());
        }
        Step::wait(async move {
            self.copy_attributes().await?;
            change()
        })
    }

    pub(super) fn make_child(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>, Errno> {
        let node = Node::fresh(&self.fs, new)?;
        let mut names = self.names.lock();
        match names.get(name) {
            _ if names.dead => return Err(Errno::ENOENT),
            Some(Entry::Node { .. }) => return Err(Errno::EEXIST),
            _ => {}
        }
        // The VFS looked: the name is free.
        names.put(name, node.clone(), false);
        drop(names);
        self.touched();
        Ok(node)
    }

    pub(super) fn add_link(&self, name: &[u8], node: Arc<Node>) -> Result<(), Errno> {
        if let Step::Ready(metadata) = node.metadata()
            && metadata?.nlink == 0
            && !node.nameless.swap(false, Ordering::Relaxed)
        {
            return Err(Errno::ENOENT);
        }
        let mut names = self.names.lock();
        if names.dead {
            return Err(Errno::ENOENT);
        }
        names.put(name, node.clone(), false);
        drop(names);
        node.links.fetch_add(1, Ordering::Relaxed);
        node.status_changed();
        self.touched();
        Ok(())
    }

    /// The node of a name that exists.
    async fn child(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let inode = self.find(name).await?;
        self.of_same(&inode)
    }

    pub(super) fn remove_child<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        // Files made here go at once.
        let quick = match self.names.lock().get(name) {
            Some(Entry::Node { node, .. }) if node.kind_of() != FileKind::Directory => Some(node.clone()),
            _ => None,
        };
        if let (Some(victim), true) = (quick, self.upper_node().is_some()) {
            return Step::Ready(match kind {
                UnlinkKind::NotDirectory => {
                    self.names.lock().remove(name);
                    self.unlinked(&victim);
                    Ok(())
                }
                UnlinkKind::Directory => Err(Errno::ENOTDIR),
            });
        }
        Step::wait(async move {
            let victim = self.child(name).await?;
            victim.check_removable(kind).await?;
            self.copy_attributes().await?;
            // So that it keeps its status once its lower name is hidden.
            self.names.lock().remove(name);
            self.unlinked(&victim);
            Ok(())
        })
    }

    /// `victim`'s name here is gone.
    fn unlinked(&self, victim: &Arc<Node>) {
        self.touched();
        if victim.kind_of() == FileKind::Directory {
            victim.names.lock().dead = true;
            victim.let_go();
            return;
        }
        victim.links.fetch_sub(1, Ordering::Relaxed);
        victim.status_changed();
        match (victim.metadata(), &victim.lower) {
            (Step::Ready(Ok(metadata)), _) if metadata.nlink == 0 => victim.let_go(),
            // It has other names, which must know of this one's end.
            (_, Some(lower)) => self.fs.hold(lower, victim.clone()),
            _ => {}
        }
    }

    /// No name leads here any more: only those who use it keep it.
    fn let_go(self: &Arc<Node>) {
        if let Some(lower) = &self.lower {
            self.fs.release(lower, self);
        }
    }

    /// Whether this may be removed as `kind` says.
    async fn check_removable(&self, kind: UnlinkKind) -> Result<(), Errno> {
        match (kind, self.kind_of()) {
            (UnlinkKind::Directory, FileKind::Directory) => {
                if self.list().await?.is_empty() {
                    Ok(())
                } else {
                    Err(Errno::ENOTEMPTY)
                }
            }
            (UnlinkKind::Directory, _) => Err(Errno::ENOTDIR),
            (UnlinkKind::NotDirectory, FileKind::Directory) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }

    pub(super) async fn rename_child(
        &self,
        name: &[u8],
        to: &Arc<Node>,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let node = self.child(name).await?;
        let old = match to.child(to_name).await {
            Ok(old) => Some(old),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        match &old {
            None if exchange => return Err(Errno::ENOENT),
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
            Some(old) if !exchange => {
                let directory = node.kind_of() == FileKind::Directory;
                let kind = if directory { UnlinkKind::Directory } else { UnlinkKind::NotDirectory };
                old.check_removable(kind).await?;
            }
            _ => {}
        }
        self.copy_attributes().await?;
        to.copy_attributes().await?;
        if to.names.lock().dead {
            return Err(Errno::ENOENT);
        }
        // The VFS holds both directories: nobody sees the steps between.
        match old.as_ref().filter(|_| exchange) {
            Some(old) => self.names.lock().put(name, old.clone(), true),
            None => self.names.lock().remove(name),
        }
        to.names.lock().put(to_name, node.clone(), old.is_some());
        if let Some(old) = old.as_ref().filter(|_| !exchange) {
            to.unlinked(old);
        }
        node.status_changed();
        self.touched();
        to.touched();
        Ok(())
    }

    /// Names here changed: so did the directory's times.
    fn touched(&self) {
        if let Some(upper) = self.upper_node() {
            upper.touch_names();
        }
    }

    /// Its status changed, if it has one of its own; otherwise the lower one's time stays.
    fn status_changed(&self) {
        if let Some(upper) = self.upper_node() {
            upper.touch_status();
        }
    }
}
