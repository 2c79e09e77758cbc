//! Files opened before they are asked for.
//!
//! Who opens the files of a directory in the order of its listing (`tar`, `grep -r`, `cp -r`) opens the next one, too: so the next ones are opened with it,
//! twice as many each time. Such a descriptor waits for its file's opener; a few of a tree at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use gofer::protocol::{FileKind, MAX_OPENS, Name, OpenHow, PackedEntry};

use super::fd_cache::Donated;
use super::fd_cache::Place;
use super::inode::Body;
use super::listing::Listing;
use super::{Cache, GoferInode, Key, Tree, key_of};
use crate::Errno;

/// Descriptors of a tree that wait for an opener.
const MOST: usize = 2 * MAX_OPENS;

/// What was opened ahead in a tree.
#[derive(Default)]
pub(super) struct Opened {
    waiting: VecDeque<(Key, Arc<Donated>)>,
    /// The file asked for last, and how many were opened with it.
    last: Option<(Key, Name)>,
    window: usize,
}

impl Opened {
    fn take(&mut self, key: &Key) -> Option<Arc<Donated>> {
        let at = self.waiting.iter().position(|(known, _)| known == key)?;
        self.waiting.remove(at).map(|(_, file)| file)
    }

    fn put(&mut self, key: Key, file: Arc<Donated>) -> Option<(Key, Arc<Donated>)> {
        self.waiting.push_back((key, file));
        if self.waiting.len() > MOST { self.waiting.pop_front() } else { None }
    }

    /// The names to open: the one asked for, and those after it in the directory, if it is the one that was expected.
    fn plan(&mut self, dir: Key, listing: Option<&Listing>, name: &Name) -> Vec<Name> {
        let mut names = vec![name.clone()];
        let Some(listing) = listing else { return names };
        let Some(at) = listing.find(name.as_bytes(), 0) else { return names };
        let is_file = |entry: &PackedEntry<'_>| entry.kind == Some(FileKind::Regular);
        let before = (0..at).rev().filter_map(|at| listing.entries.get(at)).find(is_file).map(|entry| entry.name);
        let expected = match (&self.last, before) {
            (Some((key, last)), Some(before)) => *key == dir && last.as_bytes() == before,
            // The first one of a directory, in a walk.
            (Some((key, _)), None) => *key != dir,
            (None, _) => false,
        };
        self.window = if expected { (self.window * 2).clamp(2, MAX_OPENS) } else { 1 };
        let next = listing.entries.from(at + 1).map(|(_, entry)| entry).filter(is_file).take(self.window - 1);
        names.extend(next.filter_map(|entry| Name::new(entry.name).ok()));
        self.last = names.last().map(|last| (dir, last.clone()));
        names
    }
}

impl GoferInode {
    /// A descriptor for reading that was opened ahead.
    pub(super) fn take_opened(&self) -> Option<Arc<Donated>> {
        let file = self.tree.opened.lock().take(&self.key())?;
        Some(self.me().map_or_else(|_| file.clone(), |me| me.keep(file.clone())))
    }

    /// How the directory was listed last.
    fn listing(&self) -> Option<Arc<Listing>> {
        match &self.body {
            Body::Directory(children) => children.ahead.lock().listing(),
            _ => None,
        }
    }

    /// Opens a file of this directory, and perhaps others.
    ///
    /// # Errors
    /// `ESTALE` if the name means another file; the gofer's.
    pub(super) async fn open_child(
        self: &Arc<GoferInode>,
        child: &Arc<GoferInode>,
        name: Name,
        how: OpenHow,
    ) -> Result<Arc<Donated>, Errno> {
        let tree = &self.tree;
        let names = match how {
            OpenHow::Read if tree.cache != Cache::None => {
                let listing = self.listing();
                tree.opened.lock().plan(self.key(), listing.as_deref(), &name)
            }
            _ => vec![name],
        };
        let mut places = vec![tree.reserve()?];
        let base = self.base().await?;
        // Others only as far as there is room for them.
        places.extend(names.iter().skip(1).map_while(|_| tree.services.fds.reserve().ok()));
        let names = names.into_iter().take(places.len()).collect();
        let told = tree.told_now();
        let opened = tree.client.open_all(base.held.handle(), base.path, names, how).await?;
        let mut opened = opened.into_iter().zip(places);
        let (asked, place) = opened.next().ok_or(Errno::EIO)?;
        let (attr, fd) = asked?;
        if key_of(&attr) != child.key() {
            return Err(Errno::ESTALE);
        }
        child.learn(tree.metadata(&attr), told);
        let file = child.keep(child.adopt(fd, how, place)?);
        for (outcome, place) in opened {
            let Ok((attr, fd)) = outcome else { continue };
            let Ok(file) = child.adopt(fd, how, place) else { continue };
            let old = tree.opened.lock().put(key_of(&attr), file);
            drop(old);
        }
        Ok(file)
    }
}

impl Tree {
    /// Room for a descriptor; what waits is closed for it.
    ///
    /// # Errors
    /// `ENFILE`.
    pub(super) fn reserve(&self) -> Result<Place, Errno> {
        self.services.fds.reserve().or_else(|_| {
            let old = std::mem::take(&mut self.opened.lock().waiting);
            drop(old);
            self.services.fds.reserve()
        })
    }
}

#[cfg(test)]
mod tests {
    use gofer::protocol::Packed;

    use super::super::listing::Told;
    use super::*;

    #[test]
    fn who_opens_in_order_gets_the_next_ones() {
        let mut packed = Packed::default();
        for n in 0..40 {
            let kind = if n % 3 == 0 { FileKind::Directory } else { FileKind::Regular };
            packed.push(n, 1, Some(kind), format!("n{n}").as_bytes(), None);
        }
        fn name(n: usize) -> Name {
            Name::new(format!("n{n}").as_bytes()).expect("name")
        }
        let listing = Listing::new(packed, Told { seen: 0, valid_until: u64::MAX });
        let (one, other) = ((0, 0, 1, 1), (0, 0, 2, 1));
        let mut opened = Opened::default();
        let mut plan = |dir, n| opened.plan(dir, Some(&listing), &name(n)).len();
        assert_eq!((plan(one, 1), plan(one, 2), plan(one, 5)), (1, 2, 4));
        assert_eq!(plan(one, 20), 1, "out of order");
        assert_eq!((plan(other, 1), plan(other, 4)), (2, 4), "a walk goes on in the next directory");
        assert_eq!(opened.plan(one, None, &name(1)), [name(1)]);
    }
}
