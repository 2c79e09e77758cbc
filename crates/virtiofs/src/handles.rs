//! Files and directories that a guest has open.

use std::{os::fd::OwnedFd, sync::Arc};

use gofer::{Errno, passthrough::DirStream};
use slab::Slab;

use crate::trees::Tree;

#[derive(Debug, Clone)]
pub enum Open {
    File(Arc<OwnedFd>),
    Directory(Arc<DirStream>),
    /// The directory of trees.
    Root,
}

#[derive(Debug)]
struct Handle {
    generation: u32,
    inode: u64,
    tree: Option<Arc<Tree>>,
    open: Open,
}

#[derive(Debug)]
pub struct Handles {
    slab: Slab<Handle>,
    generation: u32,
    limit: usize,
}

/// An open file with its tree.
#[derive(Debug)]
pub struct OpenFile {
    pub fd: Arc<OwnedFd>,
    pub tree: Arc<Tree>,
}

impl Handles {
    pub fn new(limit: usize) -> Handles {
        Handles { slab: Slab::new(), generation: 0, limit }
    }

    /// # Errors
    /// `ENFILE` beyond the limit; `ESTALE` if the tree is no longer shown.
    pub fn insert(&mut self, inode: u64, tree: Option<&Arc<Tree>>, open: Open) -> Result<u64, Errno> {
        self.check_room()?;
        tree.map_or(Ok(()), |tree| tree.check_shown())?;
        self.generation = self.generation.wrapping_add(1);
        let slot = self.slab.insert(Handle { generation: self.generation, inode, tree: tree.cloned(), open });
        Ok(u64::from(self.generation) << 32 | slot as u64)
    }

    /// # Errors
    /// `ENFILE` at the limit.
    pub fn check_room(&self) -> Result<(), Errno> {
        if self.slab.len() < self.limit { Ok(()) } else { Err(Errno::ENFILE) }
    }

    fn get(&self, fh: u64) -> Result<&Handle, Errno> {
        let slot = (fh & u64::from(u32::MAX)) as usize;
        self.slab.get(slot).filter(|handle| u64::from(handle.generation) == fh >> 32).ok_or(Errno::EBADF)
    }

    /// # Errors
    /// `EBADF` for a number that is none, and for directories.
    pub fn file(&self, fh: u64) -> Result<OpenFile, Errno> {
        let handle = self.get(fh)?;
        match (&handle.open, &handle.tree) {
            (Open::File(fd), Some(tree)) => Ok(OpenFile { fd: Arc::clone(fd), tree: Arc::clone(tree) }),
            _ => Err(Errno::EBADF),
        }
    }

    /// Some open file of an inode.
    pub fn any_of(&self, inode: u64) -> Option<Arc<OwnedFd>> {
        self.slab.iter().filter(|(_, handle)| handle.inode == inode).find_map(|(_, handle)| match &handle.open {
            Open::File(fd) => Some(Arc::clone(fd)),
            _ => None,
        })
    }

    /// # Errors
    /// `EBADF` for a number that is none.
    pub fn open(&self, fh: u64) -> Result<(Option<Arc<Tree>>, Open), Errno> {
        self.get(fh).map(|handle| (handle.tree.clone(), handle.open.clone()))
    }

    /// Takes a handle out. The caller drops it outside the lock: a close may take long.
    pub fn remove(&mut self, fh: u64) -> Option<Open> {
        self.get(fh).ok()?;
        self.slab.try_remove((fh & u64::from(u32::MAX)) as usize).map(|handle| handle.open)
    }

    /// Closes what is open in a tree.
    pub fn cut(&mut self, index: u32) {
        self.slab.retain(|_, handle| handle.tree.as_ref().is_none_or(|tree| tree.index != index));
    }

    pub fn clear(&mut self) {
        self.slab.clear();
    }
}
