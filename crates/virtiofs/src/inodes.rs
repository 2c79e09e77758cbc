//! The inodes that a guest knows, and the descriptors held for some of them.
//!
//! A guest keeps as many inodes as it has memory for, far more than this process may have descriptors. So what is kept for each is a name in a
//! parent and the file's identity; a descriptor (a [`Node`]) is opened when an operation needs one, and closed again when there are
//! too many. What a name leads to later must still have the identity, or the inode is stale. Of a file whose name is gone the
//! descriptor is kept, as nothing would lead to it again.
//!
//! Identity is device, inode number and, as numbers are used again once a file is gone, time of birth. While a descriptor pins an inode the first two
//! suffice.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use gofer::{
    Errno,
    passthrough::Node,
    protocol::{Attr, FileKind, Name, Timestamp},
};
use slab::Slab;

use crate::{abi::ROOT_ID, trees::Tree};

/// How far down an inode can be found again. Deeper ones are as deep as `PATH_MAX` would allow.
const MAX_DEPTH: usize = 2048;

/// The list of inodes with nodes is tidied when it has grown to twice its true length, and at least to this.
const TIDY: usize = 1024;

/// A file in a tree. (Trees may overlap on the host: a file in two of them is two inodes.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    tree: u32,
    dev: (u32, u32),
    ino: u64,
}

impl Key {
    pub fn new(tree: &Tree, attr: &Attr) -> Key {
        Key { tree: tree.index, dev: (attr.dev_major, attr.dev_minor), ino: attr.ino }
    }
}

/// What has become of an inode's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameIs {
    Good,
    /// Gone, but the file has others, of which nothing is known until the guest looks one up. The node may be dropped: the inode is stale then, which
    /// makes a guest's kernel look up again.
    Gone,
    /// Gone, and it was the last: the node stays.
    GoneForever,
}

#[derive(Debug)]
struct Inode {
    id: u64,
    tree: Arc<Tree>,
    key: Key,
    kind: FileKind,
    btime: Option<Timestamp>,
    /// Zero: the root of its tree, whose node the tree holds.
    parent: u64,
    name: Option<Name>,
    /// How often the guest was told of it, less what it has forgotten.
    lookups: u64,
    /// Inodes whose parent it is.
    children: u32,
    node: Option<Arc<Node>>,
    name_is: NameIs,
    /// Since the sweep last came by.
    used: bool,
}

/// A step on the way to an inode.
#[derive(Debug)]
pub struct Step {
    pub id: u64,
    pub name: Name,
}

/// Where an inode has a name: a directory, by number and node, and the name in it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub dir: u64,
    pub node: &'a Arc<Node>,
    pub name: &'a Name,
}

/// How to get to an inode's node: from one that is there, by names.
#[derive(Debug)]
pub struct Way {
    pub from: Arc<Node>,
    /// The last step comes first.
    pub steps: Vec<Step>,
}

/// What to do for an inode without asking the host.
#[derive(Debug)]
pub struct Known {
    pub tree: Arc<Tree>,
    pub kind: FileKind,
    pub node: Option<Arc<Node>>,
    /// Where it has its name; none for a tree's root.
    pub place: Option<(u64, Name)>,
}

#[derive(Debug)]
pub struct Inodes {
    slab: Slab<Inode>,
    by_key: HashMap<Key, u64>,
    /// Those with a node that may be dropped, each once; and some that were forgotten since.
    resident: VecDeque<u64>,
    /// When to look for forgotten ones.
    tidy_at: usize,
    generation: u32,
    limit: usize,
}

impl Inodes {
    pub fn new(limit: usize) -> Inodes {
        Inodes { slab: Slab::new(), by_key: HashMap::new(), resident: VecDeque::new(), tidy_at: TIDY, generation: 0, limit }
    }

    fn get(&self, id: u64) -> Result<&Inode, Errno> {
        slot(id).and_then(|slot| self.slab.get(slot)).filter(|inode| inode.id == id).ok_or(Errno::ESTALE)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Inode> {
        slot(id).and_then(|slot| self.slab.get_mut(slot)).filter(|inode| inode.id == id)
    }

    /// # Errors
    /// `ESTALE` for a number that is none.
    pub fn known(&mut self, id: u64) -> Result<Known, Errno> {
        self.get(id)?;
        let inode = self.get_mut(id).ok_or(Errno::ESTALE)?;
        inode.used = true;
        let place = inode.name.clone().map(|name| (inode.parent, name)).filter(|_| inode.name_is == NameIs::Good);
        Ok(Known { tree: Arc::clone(&inode.tree), kind: inode.kind, node: inode.node.clone(), place })
    }

    /// # Errors
    /// `ESTALE` for a number that is none, and if the way cannot be told any more.
    pub fn way(&mut self, id: u64) -> Result<Way, Errno> {
        let mut steps = Vec::new();
        let mut at = id;
        loop {
            let inode = self.get_mut(at).ok_or(Errno::ESTALE)?;
            inode.used = true;
            if let Some(node) = &inode.node {
                return Ok(Way { from: Arc::clone(node), steps });
            }
            let name = inode.name.clone().filter(|_| inode.name_is == NameIs::Good).ok_or(Errno::ESTALE)?;
            steps.push(Step { id: at, name });
            at = inode.parent;
            if steps.len() > MAX_DEPTH {
                return Err(Errno::ESTALE);
            }
        }
    }

    /// Whether what was found is the inode.
    pub fn is(&self, id: u64, attr: &Attr) -> bool {
        self.get(id).is_ok_and(|inode| {
            let same = inode.key == Key::new(&inode.tree, attr) && inode.kind == attr.kind;
            same && (inode.node.is_some() || inode.btime == attr.btime)
        })
    }

    /// Keeps a node that was found for an inode, unless it has one by now.
    pub fn keep(&mut self, id: u64, node: &Arc<Node>) {
        let Some(inode) = self.get_mut(id) else { return };
        if inode.node.is_none() {
            inode.node = Some(Arc::clone(node));
            self.resident.push_back(id);
        }
        if self.resident.len() >= self.tidy_at {
            let mut resident = std::mem::take(&mut self.resident);
            resident.retain(|&id| self.get(id).is_ok_and(|inode| inode.node.is_some()));
            self.tidy_at = (resident.len() * 2).max(TIDY);
            self.resident = resident;
        }
    }

    /// The guest is told of a file: its number, the same for as long as it remembers it. `parent` zero: the root of the tree.
    ///
    /// # Errors
    /// `ENFILE` if it remembers too many; `ESTALE` if the tree is no longer shown.
    pub fn tell(
        &mut self,
        tree: &Arc<Tree>,
        place: Option<Place<'_>>,
        attr: &Attr,
        node: Option<&Arc<Node>>,
    ) -> Result<u64, Errno> {
        tree.check_shown()?;
        let key = Key::new(tree, attr);
        let known = self.by_key.get(&key).copied().filter(|&id| self.is(id, attr));
        let id = match known {
            Some(id) => id,
            None => self.insert(tree, place, attr, key)?,
        };
        if known.is_some()
            && let Some(place) = place
        {
            self.moved(id, place);
        }
        if let Some(inode) = self.get_mut(id) {
            inode.lookups = inode.lookups.saturating_add(1);
            inode.used = true;
        }
        if let Some(node) = node {
            self.keep(id, node);
        }
        Ok(id)
    }

    fn insert(&mut self, tree: &Arc<Tree>, place: Option<Place<'_>>, attr: &Attr, key: Key) -> Result<u64, Errno> {
        if self.slab.len() >= self.limit {
            return Err(Errno::ENFILE);
        }
        self.generation = self.generation.wrapping_add(1);
        let vacant = self.slab.vacant_entry();
        let id = u64::from(self.generation) << 32 | (vacant.key() as u64 + ROOT_ID + 1);
        vacant.insert(Inode {
            id,
            tree: Arc::clone(tree),
            key,
            kind: attr.kind,
            btime: attr.btime,
            parent: place.map_or(0, |place| place.dir),
            name: place.map(|place| place.name.clone()),
            lookups: 0,
            children: 0,
            // A tree's root is held by the tree anyway.
            node: place.is_none().then(|| Arc::clone(&tree.root)),
            name_is: if place.is_none() { NameIs::GoneForever } else { NameIs::Good },
            used: true,
        });
        if let Some(place) = place
            && let Some(dir) = self.get_mut(place.dir)
        {
            dir.children += 1;
        }
        // An older inode of this key, whose number the host has used again, can no longer be found by it.
        self.by_key.insert(key, id);
        Ok(id)
    }

    /// An inode has this name, and is found by it from now on.
    pub fn moved(&mut self, id: u64, place: Place<'_>) {
        let Some(inode) = self.get_mut(id) else { return };
        if inode.name.is_none() {
            return;
        }
        if let Some(node) = &inode.node {
            node.moved_to(place.node, place.name);
        }
        inode.name_is = NameIs::Good;
        if inode.parent == place.dir && inode.name.as_ref() == Some(place.name) {
            return;
        }
        let old = std::mem::replace(&mut inode.parent, place.dir);
        inode.name = Some(place.name.clone());
        if let Some(dir) = self.get_mut(place.dir) {
            dir.children += 1;
        }
        self.release(old, 0, 1);
    }

    /// The inode that a directory's entry is, if the guest knows it.
    pub fn find(&self, tree: &Tree, attr: &Attr) -> Option<u64> {
        self.by_key.get(&Key::new(tree, attr)).copied().filter(|&id| self.is(id, attr))
    }

    /// The guest is told once more of what it knows by a name, whatever that is by now; unless that is `but`. Its number, kind and node.
    pub fn tell_again(&mut self, dir: u64, name: &Name, but: Option<u64>) -> Option<(u64, FileKind, Option<Arc<Node>>)> {
        let is_it = |inode: &&mut Inode| inode.parent == dir && inode.name.as_ref() == Some(name) && Some(inode.id) != but;
        let inode = self.slab.iter_mut().map(|(_, inode)| inode).find(is_it)?;
        inode.lookups = inode.lookups.saturating_add(1);
        Some((inode.id, inode.kind, inode.node.clone()))
    }

    /// An inode's way from the root of all, by the names that the guest knows.
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut inode = self.get(id).ok()?;
        while let Some(name) = &inode.name {
            if inode.name_is != NameIs::Good || names.len() > MAX_DEPTH {
                return None;
            }
            names.push(name.as_bytes());
            inode = self.get(inode.parent).ok()?;
        }
        let tree = inode.tree.index.to_string();
        names.push(tree.as_bytes());
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// A name is gone, of an inode that was looked up by it just before, with these attributes.
    pub fn unlinked(&mut self, id: u64, dir: u64, name: &Name, before: &Attr) {
        self.identified(id, before);
        let Some(inode) = self.get_mut(id) else { return };
        if inode.kind == FileKind::Directory || before.nlink <= 1 {
            inode.name_is = NameIs::GoneForever;
        } else if inode.parent == dir && inode.name.as_ref() == Some(name) {
            inode.name_is = NameIs::Gone;
        } else if inode.name_is == NameIs::Good {
            // It may have been opened by the name that is gone; by its own it can be again.
            inode.node = None;
        }
    }

    /// The guest forgets `count` of its lookups.
    pub fn forget(&mut self, id: u64, count: u64) {
        self.release(id, count, 0);
    }

    /// Gives up references to an inode, and what then nobody needs, upwards.
    fn release(&mut self, id: u64, lookups: u64, children: u32) {
        let (mut at, mut lookups, mut children) = (id, lookups, children);
        loop {
            let Some(inode) = self.get_mut(at) else { return };
            inode.lookups = inode.lookups.saturating_sub(lookups);
            inode.children = inode.children.saturating_sub(children);
            if inode.lookups > 0 || inode.children > 0 {
                return;
            }
            let (key, parent) = (inode.key, inode.parent);
            if let Some(slot) = slot(at) {
                self.slab.remove(slot);
            }
            if self.by_key.get(&key) == Some(&at) {
                self.by_key.remove(&key);
            }
            (at, lookups, children) = (parent, 0, 1);
        }
    }

    /// Drops up to `count` nodes that were not used lately, and returns them.
    pub fn evict(&mut self, count: usize) -> Vec<(u64, Arc<Node>)> {
        let mut evicted = Vec::new();
        for _ in 0..self.resident.len() * 2 {
            if evicted.len() == count {
                break;
            }
            let Some(id) = self.resident.pop_front() else { break };
            let Some(inode) = self.get_mut(id) else { continue };
            let stays = inode.name_is == NameIs::GoneForever;
            if stays || std::mem::take(&mut inode.used) || inode.node.as_ref().is_some_and(|n| Arc::strong_count(n) > 1) {
                self.resident.push_back(id);
            } else if let Some(node) = inode.node.take() {
                evicted.push((id, node));
            }
        }
        evicted
    }

    /// Notes what an evicted inode is known by, which a copy-up of an overlay may have changed while it was held.
    pub fn identified(&mut self, id: u64, attr: &Attr) {
        let Some(inode) = self.get_mut(id) else { return };
        inode.btime = attr.btime;
        let (old, new) = (inode.key, Key::new(&inode.tree, attr));
        inode.key = new;
        if old != new && self.by_key.get(&old) == Some(&id) {
            self.by_key.remove(&old);
            self.by_key.insert(new, id);
        }
    }

    /// Forgets all inodes of a tree. Their numbers are stale from then on.
    pub fn cut(&mut self, index: u32) {
        self.slab.retain(|_, inode| inode.key.tree != index);
        self.by_key.retain(|key, _| key.tree != index);
    }

    /// Forgets all; numbers are not used again.
    pub fn clear(&mut self) {
        *self = Inodes { generation: self.generation, ..Inodes::new(self.limit) };
    }
}

#[cfg(test)]
impl Inodes {
    /// How many there are, and how long the list of those with nodes is.
    pub fn sizes(&self) -> (usize, usize) {
        (self.slab.len(), self.resident.len())
    }
}

/// The lower half of a number tells the place, the upper half who was there.
fn slot(id: u64) -> Option<usize> {
    usize::try_from((id & u64::from(u32::MAX)).checked_sub(ROOT_ID + 1)?).ok()
}
