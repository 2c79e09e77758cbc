//! The trees of the host that the device shows: entries "0", "1", … of its root directory, added and removed while it runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use gofer::{
    Errno,
    passthrough::{Budget, Export, Node, Source},
    protocol::{Access, Cache},
};
use parking_lot::RwLock;

/// The most trees, and so the highest number less one.
pub const MAX_TREES: u32 = 4096;

/// For how long a guest may keep names and attributes of an exclusive tree: until it needs the memory.
const EXCLUSIVE: Duration = Duration::from_secs(24 * 3600);
/// And of a tree that others write too.
const SHARED: Duration = Duration::from_secs(1);

/// A tree to show.
#[derive(Debug)]
pub struct TreeConfig {
    pub source: Source,
    pub access: Access,
    pub cache: Cache,
    /// The guest is told of what others change in it.
    pub told: bool,
}

#[derive(Debug)]
pub(crate) struct Tree {
    pub index: u32,
    pub root: Arc<Node>,
    pub cache: Cache,
    pub told: bool,
    gone: AtomicBool,
}

impl Tree {
    /// Asked under the lock of what is about to refer to the tree: so nothing refers to it once all that did was let go.
    ///
    /// # Errors
    /// `ESTALE` if it is no longer shown.
    pub fn check_shown(&self) -> Result<(), Errno> {
        if self.gone.load(Ordering::SeqCst) { Err(Errno::ESTALE) } else { Ok(()) }
    }

    /// How long a guest may believe what it was told.
    pub fn validity(&self) -> Duration {
        match self.cache {
            Cache::Exclusive => EXCLUSIVE,
            Cache::Shared => SHARED,
        }
    }
}

/// Why a tree cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot open tree {index}: {errno}")]
    Open { index: u32, errno: Errno },
    #[error("tree {0} exists already")]
    Exists(u32),
    #[error("tree {0} is beyond the {MAX_TREES} that a device can show")]
    TooMany(u32),
}

/// All trees; cheap to share. Its lock is never held across a host call.
#[derive(Debug)]
pub struct Trees {
    list: RwLock<Vec<Option<Arc<Tree>>>>,
    /// Where the search for a free number begins.
    next: AtomicU32,
    budget: Arc<Budget>,
}

impl Trees {
    pub(crate) fn new(max_nodes: usize) -> Trees {
        Trees { list: RwLock::default(), next: AtomicU32::new(0), budget: Budget::new(max_nodes) }
    }

    /// Shows a tree under the first free number after the last one, which is returned: a guest may still know what was shown under a number that
    /// has become free.
    ///
    /// # Errors
    /// The tree cannot be opened; there are too many.
    pub fn add(&self, tree: TreeConfig) -> Result<u32, TreeError> {
        let next = self.next.load(Ordering::Relaxed);
        let index = {
            let list = self.list.read();
            let free = |index: &u32| list.get(*index as usize).is_none_or(Option::is_none);
            (next..MAX_TREES).chain(0..next).find(free).ok_or(TreeError::TooMany(MAX_TREES))?
        };
        self.add_at(index, tree)?;
        self.next.store((index + 1) % MAX_TREES, Ordering::Relaxed);
        Ok(index)
    }

    /// Shows a tree under a number.
    ///
    /// # Errors
    /// The tree cannot be opened; the number is taken or too high.
    pub fn add_at(&self, index: u32, tree: TreeConfig) -> Result<(), TreeError> {
        if index >= MAX_TREES {
            return Err(TreeError::TooMany(index));
        }
        let root = Export::open(tree.source, tree.access, &self.budget).map_err(|errno| TreeError::Open { index, errno })?;
        let tree = Arc::new(Tree { index, root, cache: tree.cache, told: tree.told, gone: AtomicBool::new(false) });
        let mut list = self.list.write();
        let at = index as usize;
        if list.len() <= at {
            list.resize(at + 1, None);
        }
        match list.get_mut(at) {
            Some(place @ None) => {
                *place = Some(tree);
                Ok(())
            }
            _ => Err(TreeError::Exists(index)),
        }
    }

    /// No longer shows a tree. What a guest still holds of it is `ESTALE` from now on; whether there was one.
    pub(crate) fn take(&self, index: u32) -> bool {
        let tree = self.list.write().get_mut(index as usize).and_then(Option::take);
        if let Some(tree) = &tree {
            tree.gone.store(true, Ordering::SeqCst);
        }
        tree.is_some()
    }

    pub(crate) fn get(&self, index: u32) -> Option<Arc<Tree>> {
        self.list.read().get(index as usize)?.clone()
    }

    /// The first tree at this number or above.
    pub(crate) fn from(&self, index: u32) -> Option<Arc<Tree>> {
        self.list.read().get(index as usize..)?.iter().flatten().next().cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.list.read().iter().flatten().count()
    }

    /// A tree by its name in the root directory: its number in decimal, without leading zeros.
    pub(crate) fn named(&self, name: &[u8]) -> Option<Arc<Tree>> {
        let text = std::str::from_utf8(name).ok()?;
        let index: u32 = text.parse().ok()?;
        (index.to_string() == text).then(|| self.get(index)).flatten()
    }
}
