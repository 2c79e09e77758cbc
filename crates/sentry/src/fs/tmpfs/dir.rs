//! Directories of a tmpfs: names in the order they were made, and what `rename` and its kin do to them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::Node;
use crate::Errno;
use crate::fs::{DirEntry, File, FileKind, FileOps, NewInode, RenameFlags, UnlinkKind};
use crate::step::Step;

/// First position after `.` and `..`.
const FIRST: u64 = 2;

/// Most links of an inode.
const LINK_MAX: u32 = 1 << 31;

/// The names in a directory. Each has a position that stays while the name does, so listing goes on rightly after changes.
pub(in crate::fs) struct Names {
    by_name: BTreeMap<Box<[u8]>, (u64, Arc<Node>)>,
    by_position: BTreeMap<u64, Box<[u8]>>,
    next: u64,
    /// Weak: a directory is held by its own.
    parent: Option<Weak<Node>>,
    /// Removed: nothing can be made in it.
    dead: bool,
}

impl Names {
    pub fn new(parent: Option<&Arc<Node>>) -> Names {
        Names {
            by_name: BTreeMap::new(),
            by_position: BTreeMap::new(),
            next: FIRST,
            parent: parent.map(Arc::downgrade),
            dead: false,
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        self.by_name.get(name).map(|(_, node)| node)
    }

    fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        self.remove(name);
        let position = self.next;
        self.next += 1;
        self.by_name.insert(name.into(), (position, node));
        self.by_position.insert(position, name.into());
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let (position, node) = self.by_name.remove(name)?;
        self.by_position.remove(&position);
        Some(node)
    }

    /// Takes all nodes out.
    pub fn take(&mut self) -> Vec<Arc<Node>> {
        self.by_position.clear();
        std::mem::take(&mut self.by_name).into_values().map(|(_, node)| node).collect()
    }
}

impl Node {
    pub(super) fn find(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        self.names()?.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }

    pub(super) fn make_child(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>, Errno> {
        let mut names = self.names()?.lock();
        if names.dead {
            return Err(Errno::ENOENT);
        }
        if names.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let node = Node::make(self.fs.clone(), self.fs.new_ino()?, new, self.this().as_ref());
        names.insert(name, node.clone());
        drop(names);
        if new.kind == FileKind::Directory {
            self.add_links(1);
        }
        self.touch();
        Ok(node)
    }

    pub(super) fn add_link(&self, name: &[u8], node: Arc<Node>) -> Result<(), Errno> {
        let mut names = self.names()?.lock();
        if names.dead {
            return Err(Errno::ENOENT);
        }
        if names.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        {
            let now = self.fs.now();
            let mut attributes = node.attributes.lock();
            if attributes.nlink == 0 && !attributes.nameless {
                return Err(Errno::ENOENT);
            }
            if attributes.nlink >= LINK_MAX {
                return Err(Errno::EMLINK);
            }
            attributes.nameless = false;
            attributes.nlink += 1;
            attributes.changed = now;
        }
        names.insert(name, node);
        drop(names);
        self.touch();
        Ok(())
    }

    pub(super) fn remove_child(&self, name: &[u8], kind: UnlinkKind) -> Result<(), Errno> {
        let mut names = self.names()?.lock();
        let victim = names.get(name).cloned().ok_or(Errno::ENOENT)?;
        victim.check_removable(kind)?;
        names.remove(name);
        drop(names);
        self.unlinked(&victim);
        self.touch();
        Ok(())
    }

    /// Whether this may be removed as `kind` says. An empty directory is dead from here on.
    fn check_removable(&self, kind: UnlinkKind) -> Result<(), Errno> {
        match (kind, self.names()) {
            (UnlinkKind::Directory, Ok(names)) => {
                let mut names = names.lock();
                if names.len() != 0 {
                    return Err(Errno::ENOTEMPTY);
                }
                names.dead = true;
                Ok(())
            }
            (UnlinkKind::Directory, Err(errno)) => Err(errno),
            (UnlinkKind::NotDirectory, Ok(_)) => Err(Errno::EISDIR),
            (UnlinkKind::NotDirectory, Err(_)) => Ok(()),
        }
    }

    /// Counts the links after `victim`'s name here has gone.
    fn unlinked(&self, victim: &Arc<Node>) {
        if victim.kind_of() == FileKind::Directory {
            victim.add_links(-2);
            self.add_links(-1);
        } else {
            victim.add_links(-1);
        }
    }

    pub(super) fn rename_child(&self, name: &[u8], to: &Arc<Node>, to_name: &[u8], flags: RenameFlags) -> Result<(), Errno> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let same = std::ptr::eq(self, Arc::as_ptr(to));
        let (mine, theirs) = (self.names()?, to.names()?);
        // Both locked, in the order of their addresses.
        let (mut from_names, mut to_names) = if same {
            (mine.lock(), None)
        } else if std::ptr::from_ref(self) < Arc::as_ptr(to) {
            let first = mine.lock();
            (first, Some(theirs.lock()))
        } else {
            let first = theirs.lock();
            (mine.lock(), Some(first))
        };
        let node = from_names.get(name).cloned().ok_or(Errno::ENOENT)?;
        let old = to_names.as_ref().unwrap_or(&from_names).get(to_name).cloned();
        if to_names.as_ref().is_some_and(|names| names.dead) {
            return Err(Errno::ENOENT);
        }
        if flags.contains(RenameFlags::NOREPLACE) && old.is_some() {
            return Err(Errno::EEXIST);
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        match &old {
            None if exchange => return Err(Errno::ENOENT),
            Some(old) if !exchange => {
                let directory = node.kind_of() == FileKind::Directory;
                old.check_removable(if directory { UnlinkKind::Directory } else { UnlinkKind::NotDirectory })?;
            }
            _ => {}
        }
        from_names.remove(name);
        to_names.as_mut().unwrap_or(&mut from_names).insert(to_name, node.clone());
        if let Some(old) = old.as_ref().filter(|_| exchange) {
            from_names.insert(name, old.clone());
        }
        drop(from_names);
        drop(to_names);
        if let Some(old) = old.as_ref().filter(|_| !exchange) {
            to.unlinked(old);
        }
        if !same {
            moved(&node, self, to);
            if let (Some(old), Some(this)) = (old.as_ref().filter(|_| exchange), self.this()) {
                moved(old, to, &this);
            }
        }
        let now = self.fs.now();
        node.attributes.lock().changed = now;
        self.touch();
        to.touch();
        Ok(())
    }

    /// The entries from `from` on.
    fn list(&self, from: u64, emit: &mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send)) -> Result<(), Errno> {
        let names = self.names()?;
        let parent = {
            let names = names.lock();
            names.parent.as_ref().and_then(Weak::upgrade).map_or(self.ino(), |parent| parent.ino())
        };
        for (position, name, ino) in [(0, b".".as_slice(), self.ino()), (1, b"..".as_slice(), parent)] {
            let entry = DirEntry { ino, kind: FileKind::Directory, name, next: position + 1 };
            if from <= position && !emit(entry) {
                return Ok(());
            }
        }
        // `emit` only fills a buffer of ours: no other lock is taken under this one.
        let names = names.lock();
        for (&position, name) in names.by_position.range(from.max(FIRST)..) {
            let Some((_, node)) = names.by_name.get(name) else { continue };
            if !emit(DirEntry { ino: node.ino(), kind: node.kind_of(), name, next: position + 1 }) {
                break;
            }
        }
        Ok(())
    }
}

/// `node` has another parent now.
fn moved(node: &Arc<Node>, from: &Node, to: &Arc<Node>) {
    if let Ok(names) = node.names() {
        names.lock().parent = Some(Arc::downgrade(to));
        from.add_links(-1);
        to.add_links(1);
    }
}

/// An open directory.
pub(super) struct OpenDir(pub(super) Arc<Node>);

impl FileOps for OpenDir {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, _into: &'a mut dyn crate::mm::Sink) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        Step::Ready(self.0.list(from, emit))
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
