//! Listings before they are asked for.
//!
//! Who lists a directory's subdirectories one after the other walks a tree: `find`, `du`, `tar`, `rm -r`, `git status`. So when a directory is
//! listed whose parent was listed shortly before, those that a walk would come to next are listed with it ([`Request::Scan`]), twice as many each time,
//! as long as at least half of them are taken. A listing fetched ahead is taken once, and only while it is true.
//!
//! [`Request::Scan`]: gofer::protocol::Request::Scan

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gofer::protocol::{MAX_WALK, Name, Packed, PackedEntry, ReadDirDetail, Scanned};

use super::dir::BATCH_BYTES;
use super::inode::Body;
use super::listing::{Listing, Part, Told, is_directory};
use super::{Cache, GoferInode, Key, Tree, key_of};
use crate::Errno;

/// Most directories asked for at a time, and kept.
const MAX_WINDOW: usize = 256;
/// Most of a directory's directories that are looked at for those to list ahead.
const MAX_LOOKS: usize = 256;
/// How many directories further up a scan goes on.
const MAX_UP: usize = 4;
/// Most entries kept, of all directories.
const MAX_ENTRIES: usize = 64 << 10;
/// After so many directories of which nobody asked for a file's attributes, they are not fetched any more.
const PATIENCE: u32 = 64;

/// In which order directories are come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they were listed: `find`, `tar`.
    Listed,
    /// By name: who knows the names from elsewhere, as `git` from its index, or sorts them, as `ls -R`.
    Named,
}

/// What was listed ahead in a tree.
#[derive(Default)]
pub(super) struct Ready {
    listings: HashMap<Key, Arc<Listing>>,
    order: VecDeque<Key>,
    entries: usize,
    window: usize,
    /// How many were taken and how many went unused, of late.
    taken: usize,
    wasted: usize,
}

impl Ready {
    /// How many directories to ask for.
    fn plan(&mut self, walks: bool, order: Order) -> usize {
        self.window = match walks {
            false => 1,
            // Who only knows some names may never come to the next directory.
            true if order == Order::Named && self.taken == 0 => 2,
            true if self.wasted > self.taken => (self.window / 2).max(1),
            true => (self.window.max(1) * 2).min(MAX_WINDOW),
        };
        (self.taken, self.wasted) = (self.taken / 2, self.wasted / 2);
        self.window
    }

    fn put(&mut self, key: Key, listing: Arc<Listing>) -> Vec<Arc<Listing>> {
        self.entries += listing.len();
        let mut old: Vec<_> = self.listings.insert(key, listing).into_iter().collect();
        if old.is_empty() {
            self.order.push_back(key);
        }
        while self.listings.len() > 1 && (self.entries - self.surplus(&old) > MAX_ENTRIES || self.order.len() > 2 * MAX_WINDOW)
        {
            let Some(key) = self.order.pop_front() else { break };
            self.wasted += 1;
            old.extend(self.listings.remove(&key));
        }
        self.entries -= self.surplus(&old);
        old
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.listings.len()
    }

    fn surplus(&self, old: &[Arc<Listing>]) -> usize {
        old.iter().map(|listing| listing.len()).sum()
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Listing>> {
        let listing = self.listings.remove(key)?;
        self.entries -= listing.len();
        self.taken += 1;
        // Mostly the oldest.
        if let Some(at) = self.order.iter().position(|known| known == key) {
            self.order.remove(at);
        }
        Some(listing)
    }
}

impl Tree {
    /// Of which entries to ask for attributes.
    pub(super) fn detail(&self) -> ReadDirDetail {
        let all = self.untyped_dirs.load(Ordering::Relaxed) || self.attrs_wanted.load(Ordering::Relaxed) > 0;
        if all { ReadDirDetail::Attributes } else { ReadDirDetail::Directories }
    }

    /// Somebody asks for attributes of what is no directory.
    pub(super) fn want_attrs(&self) {
        self.attrs_wanted.store(PATIENCE, Ordering::Relaxed);
    }

    /// Attributes of what is no directory, fetched with a listing, were of use.
    pub(super) fn attrs_used(&self) {
        if self.attrs_wanted.load(Ordering::Relaxed) > 0 {
            self.want_attrs();
        }
    }

    /// A directory was listed.
    fn listing_used(&self) {
        let wanted = self.attrs_wanted.load(Ordering::Relaxed);
        if wanted > 0 {
            self.attrs_wanted.store(wanted - 1, Ordering::Relaxed);
        }
    }
}

impl GoferInode {
    /// The whole directory, if it was listed ahead.
    pub(super) fn take_ready(&self) -> Option<Arc<Listing>> {
        let listing = self.tree.ready.lock().take(&self.key())?;
        if !self.tree.is_true(listing.told) {
            self.tree.ready.lock().wasted += 1;
            return None;
        }
        self.tree.listing_used();
        self.listed(listing.clone(), 0);
        Some(listing)
    }

    /// Whether its names are known, or will be when they are asked for.
    fn is_listed(&self, key: &Key) -> bool {
        let tree = &self.tree;
        let is_true = |listing: &Arc<Listing>| tree.is_true(listing.told);
        if tree.ready.lock().listings.get(key).is_some_and(is_true) {
            return true;
        }
        let inode = tree.inodes.lock().get(key).and_then(Weak::upgrade);
        match inode.as_ref().map(|inode| &inode.body) {
            Some(Body::Directory(children)) => children.ahead.lock().listing().as_ref().is_some_and(is_true),
            _ => false,
        }
    }

    /// Lists the directory from its start, and perhaps others ahead: those that come next in `order`.
    pub(super) async fn ask_listing(self: &Arc<GoferInode>, detail: ReadDirDetail, order: Order) -> Result<Part, Errno> {
        let place = self.place().filter(|_| self.tree.cache != Cache::None);
        let Some((parent, name)) = place else { return self.ask_entries(0, detail).await };
        self.tree.listing_used();
        let walks = parent.directories_from(&name, order).is_some();
        let window = self.tree.ready.lock().plan(walks, order);
        let (dir, roots) = roots(parent, name, window, order);
        let base = dir.base().await?;
        let told = self.tree.told_now();
        let directories = u16::try_from(window).unwrap_or(u16::MAX);
        let scanned = self.tree.client.scan(base.held.handle(), base.path, roots, directories, detail).await;
        let mut scanned = match scanned {
            Ok(scanned) => scanned.into_iter(),
            // The name is gone, but the directory may be open: by its handle, if it has one.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if self.held_now().is_some() => {
                return self.ask_entries(0, detail).await;
            }
            Err(errno) => return Err(errno),
        };
        let first = scanned.next().ok_or(Errno::EIO)?;
        if key_of(&first.attr) != self.key() {
            return self.ask_entries(0, detail).await;
        }
        if detail != ReadDirDetail::Attributes && !is_typed(&first.entries) {
            self.tree.untyped_dirs.store(true, Ordering::Relaxed);
            return self.ask_entries(0, ReadDirDetail::Attributes).await;
        }
        self.tree.keep_scanned(scanned, told);
        Ok(Part::new(first.entries, first.end, told))
    }

    /// Entries from the host's `position` on, by the handle.
    pub(super) async fn ask_entries(&self, position: u64, detail: ReadDirDetail) -> Result<Part, Errno> {
        let held = self.held().await?;
        let told = self.tree.told_now();
        let client = &self.tree.client;
        let mut answer = client.read_dir(held.handle(), position, BATCH_BYTES, detail).await?;
        if detail != ReadDirDetail::Attributes && !is_typed(&answer.entries) {
            self.tree.untyped_dirs.store(true, Ordering::Relaxed);
            answer = client.read_dir(held.handle(), position, BATCH_BYTES, ReadDirDetail::Attributes).await?;
        }
        Ok(Part::new(answer.entries, answer.end, told))
    }

    /// The subdirectories that come after one in the order of the listing; None if this was not listed lately.
    fn directories_from(&self, name: &Name, order: Order) -> Option<Vec<Name>> {
        let Body::Directory(children) = &self.body else { return None };
        let listing = children.ahead.lock().listing()?;
        let at = listing.find(name.as_bytes(), 0)?;
        let unknown = |entry: &PackedEntry<'_>| !entry.attr().is_some_and(|attr| self.is_listed(&key_of(&attr)));
        let next = |entries: &mut dyn Iterator<Item = PackedEntry<'_>>| {
            let directories = entries.filter(is_directory).take(MAX_LOOKS).filter(unknown).take(MAX_WALK - 1);
            directories.filter_map(|entry| Name::new(entry.name).ok()).collect()
        };
        Some(match order {
            Order::Listed => next(&mut listing.entries.from(at + 1).map(|(_, entry)| entry)),
            Order::Named => next(&mut listing.after_by_name(name.as_bytes())),
        })
    }
}

/// The directories that a walk comes to from one on, as names below an ancestor.
fn roots(parent: Arc<GoferInode>, name: Name, window: usize, order: Order) -> (Arc<GoferInode>, Vec<Vec<Name>>) {
    let most = window.min(MAX_WALK);
    let (mut dir, mut child) = (parent, name.clone());
    let mut roots = vec![vec![name]];
    for _ in 0..MAX_UP {
        let Some(following) = dir.directories_from(&child, order) else { break };
        roots.extend(following.into_iter().take(most - roots.len().min(most)).map(|name| vec![name]));
        // Others may be further up, on ways of their own.
        if roots.len() >= most || order == Order::Named {
            break;
        }
        let Some((above, name)) = dir.place() else { break };
        if above.directories_from(&name, order).is_none_or(|more| more.is_empty()) {
            break;
        }
        roots.iter_mut().for_each(|root| root.insert(0, name.clone()));
        (dir, child) = (above, name);
    }
    (dir, roots)
}

impl Tree {
    /// Keeps directories that nobody has asked for yet.
    fn keep_scanned(&self, scanned: impl Iterator<Item = Scanned>, told: Told) {
        // Changed while they were listed: they are not true any more.
        if !self.is_true(told) {
            return;
        }
        for directory in scanned.filter(|directory| directory.end && is_typed(&directory.entries)) {
            let key = key_of(&directory.attr);
            let old = self.ready.lock().put(key, Listing::whole(directory.entries, told));
            drop(old);
        }
    }
}

/// Whether the host's file system says of what kind entries are.
fn is_typed(entries: &Packed) -> bool {
    entries.iter().all(|entry| entry.kind.is_some())
}

#[cfg(test)]
mod tests {
    use gofer::protocol::FileKind;

    use super::*;

    fn listing(len: usize) -> Arc<Listing> {
        let mut packed = Packed::default();
        (0..len).for_each(|n| packed.push(n as u64, 1, Some(FileKind::Regular), format!("n{n}").as_bytes(), None));
        Listing::new(packed, Told { seen: 0, valid_until: u64::MAX })
    }

    #[test]
    fn windows_grow_while_they_pay() {
        let mut ready = Ready::default();
        assert_eq!((ready.plan(true, Order::Named), ready.plan(true, Order::Named)), (2, 2));
        let plan = |ready: &mut Ready, walks| ready.plan(walks, Order::Listed);
        assert_eq!((plan(&mut ready, false), plan(&mut ready, true), plan(&mut ready, true)), (1, 2, 4));
        for n in 0..5 {
            ready.put((0, 0, n, 1), listing(1));
        }
        assert!(ready.take(&(0, 0, 1, 1)).is_some() && ready.take(&(0, 0, 1, 1)).is_none());
        assert_eq!(plan(&mut ready, true), 8);
        ready.wasted = 10;
        assert_eq!(plan(&mut ready, true), 4);
        assert_eq!(plan(&mut ready, false), 1);
        ready.wasted = 0;
        for _ in 0..20 {
            plan(&mut ready, true);
        }
        assert_eq!(plan(&mut ready, true), MAX_WINDOW);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut ready = Ready::default();
        for n in 0..100 {
            ready.put((0, 0, n, 1), listing(1000));
        }
        assert!(ready.entries <= MAX_ENTRIES && ready.take(&(0, 0, 99, 1)).is_some());
        for n in 0..10_000 {
            ready.put((0, 0, n, 1), listing(0));
        }
        assert!(ready.listings.len() <= 2 * MAX_WINDOW && ready.listings.len() == ready.order.len());
        assert_eq!(ready.entries, ready.listings.values().map(|listing| listing.len()).sum::<usize>());
    }
}
