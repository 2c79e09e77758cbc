//! [`Ahead`]: looking names up before they are asked for.
//!
//! Who reads a directory often looks at one entry after the other: `ls -l`, `find`, `tar`, `du`. A round trip to the gofer for each
//! would be most of their time. So when a name is missed that follows, in the order in which the directory was listed, the one
//! missed before, the next ones are asked for with it: twice as many each time. `find` looks at directories only, as the listing tells it
//! kinds: then only directories are asked for.
//!
//! What was found is kept here until somebody asks for it, until a change in the directory or the time names last ends it. That and the
//! listings are kept of the [`DIRECTORIES`] listed last only: memory and the gofer's handles are limited.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use gofer::protocol::{MAX_WALK, Name};

use super::dir::Listing;
use super::inode::Body;
use super::{Cache, GoferInode, Tree};
use crate::Errno;
use crate::fs::FileKind;

/// Directories of a tree that are remembered, with at most [`MAX_WALK`] names waiting each. As deep as most trees are.
const DIRECTORIES: usize = 16;

/// One directory's.
#[derive(Default)]
pub(super) struct Ahead {
    /// What was listed last of the directory.
    listing: Option<Arc<Listing>>,
    /// The entry asked for last, by its place in the listing.
    last: Option<usize>,
    /// How many names were asked for last.
    window: usize,
    found: HashMap<Name, Found>,
}

struct Found {
    inode: Arc<GoferInode>,
    valid_until: u64,
}

impl Ahead {
    /// The directory was read.
    fn listed(&mut self, listing: Arc<Listing>) -> Option<Arc<Listing>> {
        self.last = None;
        self.window = 1;
        self.listing.replace(listing)
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) -> impl Sized + use<> {
        std::mem::take(&mut self.found)
    }

    /// The names to ask for: the missed one first.
    fn plan(&mut self, missed: &Name) -> Vec<Name> {
        let mut names = vec![missed.clone()];
        let Some(listing) = self.listing.clone() else { return names };
        let next = self.last.map_or(0, |last| last + 1);
        let is_missed = |at: usize| listing.get(at).is_some_and(|entry| *entry.name == *missed.as_bytes());
        let skipped =
            listing.get(next..).unwrap_or_default().iter().take_while(|entry| entry.kind != FileKind::Directory).count();
        let (at, only_directories) = match () {
            () if is_missed(next) => (next, false),
            () if is_missed(next + skipped) => (next + skipped, true),
            () => {
                self.last = listing.iter().position(|entry| *entry.name == *missed.as_bytes());
                self.window = 1;
                return names;
            }
        };
        self.window = (self.window * 2).min(MAX_WALK);
        self.last = Some(at);
        for (at, entry) in listing.iter().enumerate().skip(at + 1) {
            if names.len() >= self.window {
                break;
            }
            let wanted = !only_directories || entry.kind == FileKind::Directory;
            if let Some(name) = wanted.then(|| Name::new(&entry.name).ok()).flatten() {
                names.push(name);
                self.last = Some(at);
            }
        }
        names
    }
}

impl Tree {
    /// Notes that a directory was listed; the one listed longest ago is forgotten.
    fn remember_listed(&self, dir: &Arc<GoferInode>) {
        let oldest = {
            let mut listed = self.listed.lock();
            listed.retain(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(dir)));
            listed.push_back(Arc::downgrade(dir));
            if listed.len() > DIRECTORIES { listed.pop_front() } else { None }
        };
        if let Some(oldest) = oldest.and_then(|dir| dir.upgrade()) {
            oldest.forget_ahead();
        }
    }
}

/// The directories of a tree that were listed last, the latest at the end.
pub(super) type LastListed = VecDeque<Weak<GoferInode>>;

impl GoferInode {
    fn forget_ahead(&self) {
        if let Body::Directory(children) = &self.body {
            let old = std::mem::take(&mut *children.ahead.lock());
            drop(old);
        }
    }

    /// Takes note of how the directory was listed.
    pub(super) fn listed(&self, listing: Arc<Listing>) {
        if let (Body::Directory(children), Ok(me)) = (&self.body, self.me()) {
            let old = children.ahead.lock().listed(listing);
            drop(old);
            self.tree.remember_listed(&me);
        }
    }

    /// A name that waits.
    pub(super) fn take_ahead(&self, name: &[u8]) -> Option<Arc<GoferInode>> {
        let Body::Directory(children) = &self.body else { return None };
        let mut ahead = children.ahead.lock();
        if ahead.found.is_empty() {
            return None;
        }
        let found = ahead.found.remove(&Name::new(name).ok()?)?;
        drop(ahead);
        (self.tree.now_ns() < found.valid_until).then_some(found.inode)
    }

    /// Looks a name up together with those that are likely to be asked for next. None if it is not likely of any: an ordinary walk will do.
    pub(super) async fn look_ahead(&self, missed: &[u8]) -> Option<Result<Arc<GoferInode>, Errno>> {
        let Body::Directory(children) = &self.body else { return None };
        if self.tree.cache == Cache::None {
            return None;
        }
        let names = children.ahead.lock().plan(&Name::new(missed).ok()?);
        if names.len() < 2 {
            return None;
        }
        Some(self.ask_ahead(names).await)
    }

    async fn ask_ahead(&self, names: Vec<Name>) -> Result<Arc<GoferInode>, Errno> {
        let me = self.me()?;
        let Body::Directory(children) = &self.body else { return Err(Errno::ENOTDIR) };
        let (seen, valid_until, held) = (self.tree.seen(), self.tree.valid_until(), self.held());
        let outcomes = self.tree.client.look_up(held.handle(), names.clone()).await?;
        // Held from the start, so that none is lost.
        let outcomes: Vec<_> =
            outcomes.into_iter().map(|outcome| outcome.map(|entry| (self.tree.hold(entry.handle), entry.attr))).collect();
        let mut found = names.into_iter().zip(outcomes).map(|(name, outcome)| {
            let inode = outcome.map(|(held, attr)| self.tree.intern(Some((&me, name.clone())), held, &attr, seen));
            (name, inode)
        });
        let (_, asked) = found.next().ok_or(Errno::EIO)?;
        let rest: Vec<_> = found.filter_map(|(name, inode)| Some((name, Found { inode: inode.ok()?, valid_until }))).collect();
        if !rest.is_empty() && self.changed_at() <= seen {
            let old: Vec<_> = {
                let mut ahead = children.ahead.lock();
                rest.into_iter().filter_map(|(name, found)| ahead.found.insert(name, found)).collect()
            };
            drop(old);
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::Listed;
    use super::*;

    fn listing(entries: &[(&str, FileKind)]) -> Arc<Listing> {
        Arc::new(entries.iter().map(|(name, kind)| Listed { ino: 1, kind: *kind, name: name.as_bytes().into() }).collect())
    }

    fn plan(ahead: &mut Ahead, name: &str) -> String {
        let names = ahead.plan(&Name::new(name.as_bytes()).expect("name"));
        names.iter().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_in_order_bring_more_each_time() {
        let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
        let listing = listing(&names.iter().map(|name| (name.as_str(), FileKind::Regular)).collect::<Vec<_>>());
        let mut ahead = Ahead::default();
        ahead.listed(listing);
        assert_eq!(plan(&mut ahead, "n0"), "n0 n1");
        assert_eq!(plan(&mut ahead, "n2"), "n2 n3 n4 n5");
        assert_eq!(plan(&mut ahead, "n150"), "n150", "out of order");
        assert_eq!(plan(&mut ahead, "n151"), "n151 n152");
        for next in ["n153", "n157", "n165", "n181"] {
            plan(&mut ahead, next);
        }
        assert_eq!(ahead.last, Some(199), "not beyond the end");
        assert_eq!(plan(&mut ahead, "none"), "none");
    }

    #[test]
    fn who_skips_files_gets_directories() {
        use FileKind::{Directory, Regular};
        let listing = listing(&[
            ("f", Regular),
            ("a", Directory),
            ("g", Regular),
            ("h", Regular),
            ("b", Directory),
            ("c", Directory),
            ("d", Directory),
        ]);
        let mut ahead = Ahead::default();
        ahead.listed(listing);
        assert_eq!(plan(&mut ahead, "a"), "a b");
        assert_eq!(plan(&mut ahead, "c"), "c d");
    }
}
