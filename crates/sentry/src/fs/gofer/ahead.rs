//! [`Ahead`]: what is known of a directory's names before they are asked for.
//!
//! Who reads a directory often looks at one entry after the other: `ls -l`, `find`, `tar`, `du`. A round trip to the gofer for each
//! would be most of their time. Listings bring attributes with them: of directories always (`find` looks at them only), of everything once that has
//! been asked for ([`Tree::detail`]). When an entry is missed that follows, in the order of the listing, the one missed before, the attributes of the
//! next ones are asked for with it: twice as many each time. And a directory in which many names are missed without a listing (`git status`) is listed, sooner
//! where such listings have been of use, with those that follow it by name; in an exclusive tree other names are then known not to be there.
//!
//! An inode that is made of such attributes has no handle. Listings and attributes are kept of the directories listed last only ([`LastListed`]).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gofer::protocol::{Attr, FileKind as HostKind, MAX_WALK, Name, ReadDirDetail};
use parking_lot::MutexGuard;

use super::inode::Body;
use super::listing::{Listing, Told, is_directory};
use super::scan::Order;
use super::{Cache, GoferInode, Tree, key_of};
use crate::Errno;
use crate::fs::Metadata;

/// Directories of a tree that are remembered, and their entries.
const DIRECTORIES: usize = 1024;
const ENTRIES: usize = 64 << 10;

/// After so many names were missed in a directory that was not listed, it is: at first. One less where such listings are of use, one more where they are not.
pub(super) const MISSES: u32 = 4;
const MOST_MISSES: u32 = 8;

/// A listing that was made for one missed name was of use when it has told of so many others.
const USEFUL: u32 = 4;

/// If it is no larger than this, as file systems measure directories.
const SMALL: u64 = 32 << 10;

/// One directory's.
#[derive(Default)]
pub(super) struct Ahead {
    /// What was listed last of the directory.
    listing: Option<Arc<Listing>>,
    /// The entry asked for last, by its place in the listing.
    last: Option<usize>,
    /// The entry known last.
    hint: usize,
    /// How many names were asked for last.
    window: usize,
    /// Names missed without a listing.
    misses: u32,
    /// It was listed for those; and how many names that told of.
    unasked: bool,
    told: u32,
    found: HashMap<Name, (Attr, Told)>,
}

/// What listings say of a name.
enum Seen {
    There(Attr, Told),
    Absent,
}

/// Where something is known from.
#[derive(Default)]
struct Source {
    /// The name's place in the listing.
    at: Option<usize>,
    /// The listing has told, and no look-up.
    listing_told: bool,
}

/// What is known of a name that is looked for.
enum Known {
    Attr(Attr, Told),
    Absent,
    /// These are to be asked for, the missed one first.
    Ask(Vec<Name>),
    /// The directory is to be listed.
    List,
}

impl Ahead {
    /// The directory was read from its start, or went on to be.
    fn listed(&mut self, listing: Arc<Listing>, start: u64) -> Option<Arc<Listing>> {
        if start > 0
            && let Some(known) = &self.listing
            && known.len() as u64 == start
            && let Some(longer) = known.with(&listing)
        {
            return self.listing.replace(longer);
        }
        (self.last, self.hint, self.window, self.misses, self.told) = (None, 0, 1, 0, 0);
        self.listing.replace(listing)
    }

    pub(super) fn listing(&self) -> Option<Arc<Listing>> {
        self.listing.clone()
    }

    /// Forgets attributes.
    pub(super) fn clear(&mut self) -> impl Sized + use<> {
        std::mem::take(&mut self.found)
    }

    /// What is known of a name; noted as asked for.
    fn seen(&mut self, name: &[u8], tree: &Tree) -> Option<Seen> {
        let (seen, source) = self.known(name, tree);
        self.note(source, tree);
        seen
    }

    /// What is known of a name, and from where.
    fn known(&self, name: &[u8], tree: &Tree) -> (Option<Seen>, Source) {
        let mut source = Source::default();
        if let Some(listing) = &self.listing
            && tree.is_true(listing.told)
        {
            source.at = listing.find(name, self.hint);
            match source.at {
                Some(at) => {
                    if let Some(attr) = listing.entries.get(at).and_then(|entry| entry.attr()) {
                        source.listing_told = true;
                        return (Some(Seen::There(attr, listing.told)), source);
                    }
                }
                // Where nobody else makes names; and where all are listed, which other kinds of file systems may not do.
                None if listing.whole && tree.cache == Cache::Exclusive && tree.local => {
                    source.listing_told = true;
                    return (Some(Seen::Absent), source);
                }
                None => {}
            }
        }
        if self.found.is_empty() {
            return (None, source);
        }
        let found = Name::new(name).ok().and_then(|name| self.found.get(&name)).filter(|(_, told)| tree.is_true(*told));
        (found.map(|(attr, told)| Seen::There(*attr, *told)), source)
    }

    /// A name was asked for.
    fn note(&mut self, source: Source, tree: &Tree) {
        if let Some(at) = source.at {
            self.hint = at + 1;
        }
        if source.listing_told {
            self.was_of_use(tree);
        }
    }

    /// Whether a listing would be new: there was none, or its time is over.
    fn may_list(&self, tree: &Tree) -> bool {
        match &self.listing {
            Some(listing) => listing.told.seen == tree.seen() && !tree.is_true(listing.told),
            None => !self.unasked,
        }
    }

    /// The listing told of a name.
    fn was_of_use(&mut self, tree: &Tree) {
        if self.unasked && self.told <= USEFUL {
            self.told += 1;
            if self.told == USEFUL {
                tree.misses_fewer(2);
            }
        }
    }

    /// The names to ask for: the missed one first.
    fn plan(&mut self, missed: &Name) -> Vec<Name> {
        let mut names = vec![missed.clone()];
        let Some(listing) = self.listing.clone() else { return names };
        let next = self.last.map_or(0, |last| last + 1);
        let Some(at) = listing.find(missed.as_bytes(), next) else { return names };
        let mut skipped = (next..at).filter_map(|at| listing.entries.get(at)).map(|entry| is_directory(&entry));
        let is_dir = listing.entries.get(at).is_some_and(|entry| is_directory(&entry));
        let only_directories = next < at && is_dir && !skipped.clone().any(|is_dir| is_dir);
        // In order, but for those that were of no interest, or known.
        let in_order = at >= next && (only_directories || skipped.all(|is_dir| is_dir));
        self.window = if in_order { (self.window * 2).min(MAX_WALK) } else { 1 };
        self.last = Some(at);
        for (at, entry) in listing.entries.from(at + 1) {
            if names.len() >= self.window {
                break;
            }
            let is_dir = is_directory(&entry);
            if (is_dir || (!only_directories && !entry.has_attr()))
                && let Ok(name) = Name::new(entry.name)
            {
                names.push(name);
                self.last = Some(at);
            }
        }
        names
    }
}

impl Tree {
    /// Directories are listed after fewer misses.
    fn misses_fewer(&self, fewer: u32) {
        let misses = self.misses.load(Ordering::Relaxed);
        self.misses.store(misses.saturating_sub(fewer), Ordering::Relaxed);
    }

    /// A directory is listed though nobody reads it: it must prove useful. Whether to do so, after so many misses.
    fn list_unasked(&self, misses: u32) -> bool {
        let needed = self.misses.load(Ordering::Relaxed);
        let list = misses >= needed;
        if list {
            self.misses.store((needed + 1).min(MOST_MISSES), Ordering::Relaxed);
        }
        list
    }

    /// Notes that a directory was listed; those listed longest ago are forgotten.
    fn remember_listed(&self, dir: &Arc<GoferInode>, entries: usize) {
        let mut oldest = Vec::new();
        {
            let mut listed = self.listed.lock();
            listed.entries += entries;
            listed.order.push_back((Arc::downgrade(dir), entries));
            while listed.order.len() > 1 && (listed.order.len() > DIRECTORIES || listed.entries > ENTRIES) {
                let Some((dir, entries)) = listed.order.pop_front() else { break };
                listed.entries -= entries;
                oldest.push(dir);
            }
        }
        for dir in oldest.iter().filter_map(Weak::upgrade) {
            dir.forget_ahead();
        }
    }
}

/// The directories of a tree that were listed last, the latest at the end, with the numbers of their entries.
#[derive(Default)]
pub(super) struct LastListed {
    order: VecDeque<(Weak<GoferInode>, usize)>,
    entries: usize,
}

impl GoferInode {
    fn forget_ahead(&self) {
        if let Body::Directory(children) = &self.body {
            let old = (std::mem::take(&mut *children.ahead.lock()), children.listing.lock().take());
            drop(old);
        }
    }

    /// Takes note of how the directory was listed.
    pub(super) fn listed(&self, listing: Arc<Listing>, start: u64) {
        if let (Body::Directory(children), Ok(me)) = (&self.body, self.me()) {
            let entries = listing.len();
            // For the next one who reads it.
            let keep = listing.whole && self.tree.cache == Cache::Exclusive && self.tree.is_true(listing.told);
            let kept = keep.then(|| children.listing.lock().replace(listing.clone()));
            let old = children.ahead.lock().listed(listing, start);
            drop((kept, old));
            self.tree.remember_listed(&me, entries);
        }
    }

    /// What listings say of the directory's names.
    fn ahead(&self) -> Option<MutexGuard<'_, Ahead>> {
        let Body::Directory(children) = &self.body else { return None };
        if self.tree.cache == Cache::None {
            return None;
        }
        let mut ahead = children.ahead.lock();
        if ahead.listing.is_none() {
            drop(ahead);
            let ready = self.take_ready().is_some();
            ahead = children.ahead.lock();
            ahead.unasked |= ready;
        }
        Some(ahead)
    }

    /// What listings say of a name.
    fn seen(&self, name: &[u8]) -> Option<Seen> {
        let seen = self.ahead()?.seen(name, &self.tree)?;
        if matches!(seen, Seen::There(attr, _) if attr.kind != HostKind::Directory) {
            self.tree.attrs_used();
        }
        Some(seen)
    }

    /// The attributes of a name that is no directory, if they are known, and no inode knows better: one was changed here, or is mapped.
    pub(super) fn peek_child(&self, name: &[u8]) -> Option<Metadata> {
        let mut ahead = self.ahead()?;
        let (Some(Seen::There(attr, _)), source) = ahead.known(name, &self.tree) else { return None };
        if attr.kind == HostKind::Directory {
            // Who looks it up notes it.
            return None;
        }
        ahead.note(source, &self.tree);
        drop(ahead);
        if self.tree.inodes.lock().contains_key(&key_of(&attr)) {
            return None;
        }
        self.tree.attrs_used();
        Some(self.tree.metadata(&attr))
    }

    /// The inode of a name whose attributes are known, or that there is no such name.
    pub(super) fn known_child(&self, name: &[u8]) -> Option<Result<Arc<GoferInode>, Errno>> {
        let Seen::There(attr, told) = self.seen(name)? else { return Some(Err(Errno::ENOENT)) };
        Some(Ok(self.tree.intern(Some((&self.me().ok()?, Name::new(name).ok()?)), None, &attr, told)))
    }

    /// What is known of this one's attributes in a directory where it is.
    pub(super) fn known_attr(&self) -> Option<(Attr, Told)> {
        let (parent, name) = self.place()?;
        let Body::Directory(children) = &parent.body else { return None };
        let seen = children.ahead.lock().seen(name.as_bytes(), &self.tree)?;
        let Seen::There(attr, told) = seen else { return None };
        (key_of(&attr) == self.key()).then_some((attr, told))
    }

    /// Looks a name up together with those that are likely to be asked for next. None if it is not likely of any: an ordinary walk will do.
    pub(super) async fn look_ahead(&self, missed: &[u8]) -> Option<Result<Arc<GoferInode>, Errno>> {
        let Body::Directory(children) = &self.body else { return None };
        if self.tree.cache == Cache::None {
            return None;
        }
        let name = Name::new(missed).ok()?;
        let mut listed_file = false;
        let known = {
            let mut ahead = children.ahead.lock();
            if let Some(listing) = &ahead.listing {
                let at = listing.find(missed, ahead.hint);
                listed_file = at.and_then(|at| listing.entries.get(at)).is_some_and(|entry| !is_directory(&entry));
            }
            match ahead.seen(missed, &self.tree) {
                Some(Seen::There(attr, told)) => Known::Attr(attr, told),
                Some(Seen::Absent) => Known::Absent,
                None if ahead.may_list(&self.tree) && self.known_size() <= SMALL && self.tree.list_unasked(ahead.misses) => {
                    ahead.unasked = true;
                    Known::List
                }
                None => {
                    ahead.misses += 1;
                    Known::Ask(ahead.plan(&name))
                }
            }
        };
        match known {
            Known::Attr(attr, told) => Some(Ok(self.tree.intern(Some((&self.me().ok()?, name)), None, &attr, told))),
            Known::Ask(names) => {
                if listed_file {
                    self.tree.want_attrs();
                }
                if names.len() > 1 { Some(self.ask_ahead(names).await) } else { None }
            }
            Known::Absent => Some(Err(Errno::ENOENT)),
            Known::List => {
                let part = self.me().ok()?.ask_listing(ReadDirDetail::Attributes, Order::Named).await.ok()?;
                let listing = if part.end { Listing::whole } else { Listing::new };
                self.listed(listing(part.entries, part.told), 0);
                self.known_child(missed)
            }
        }
    }

    async fn ask_ahead(&self, names: Vec<Name>) -> Result<Arc<GoferInode>, Errno> {
        let me = self.me()?;
        let Body::Directory(children) = &self.body else { return Err(Errno::ENOTDIR) };
        let base = me.base().await?;
        let told = self.tree.told_now();
        let outcomes = self.tree.client.stat(base.held.handle(), base.path, names.clone()).await?;
        let mut found = names.into_iter().zip(outcomes);
        let (name, asked) = found.next().ok_or(Errno::EIO)?;
        let old: Vec<_> = {
            let mut ahead = children.ahead.lock();
            // What nobody asked for, or is not true any more.
            let old = ahead.clear();
            ahead.found.extend(found.filter_map(|(name, attr)| Some((name, (attr.ok()?, told)))));
            vec![old]
        };
        drop(old);
        Ok(self.tree.intern(Some((&me, name)), None, &asked?, told))
    }
}

#[cfg(test)]
mod tests {
    use gofer::protocol::Packed;

    use super::*;

    fn listing(entries: &[(&str, HostKind)]) -> Arc<Listing> {
        let mut packed = Packed::default();
        entries.iter().for_each(|(name, kind)| packed.push(1, 1, Some(*kind), name.as_bytes(), None));
        Listing::new(packed, Told { seen: 0, valid_until: u64::MAX })
    }

    fn plan(ahead: &mut Ahead, name: &str) -> String {
        let names = ahead.plan(&Name::new(name.as_bytes()).expect("name"));
        names.iter().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_in_order_bring_more_each_time() {
        let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
        let listing = listing(&names.iter().map(|name| (name.as_str(), HostKind::Regular)).collect::<Vec<_>>());
        let mut ahead = Ahead::default();
        ahead.listed(listing, 0);
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
        use HostKind::{Directory, Regular};
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
        ahead.listed(listing, 0);
        assert_eq!(plan(&mut ahead, "a"), "a b");
        assert_eq!(plan(&mut ahead, "c"), "c d");
        // Who is told of directories anyway asks for files only: those between do not matter.
        let listing = self::listing(&[("f", Regular), ("a", Directory), ("g", Regular), ("b", Directory), ("h", Regular)]);
        ahead.listed(listing, 0);
        assert_eq!(plan(&mut ahead, "f"), "f a");
        assert_eq!(plan(&mut ahead, "g"), "g b h");
    }

    #[test]
    fn a_directory_read_in_parts_is_known_whole() {
        let (first, second) = (listing(&[("b", HostKind::Regular)]), listing(&[("a", HostKind::Regular)]));
        let mut ahead = Ahead::default();
        ahead.listed(first, 0);
        ahead.listed(second.clone(), 1);
        assert_eq!(ahead.listing().map(|all| (all.len(), all.find(b"a", 0), all.find(b"b", 9))), Some((2, Some(1), Some(0))));
        ahead.listed(second, 7);
        assert_eq!(ahead.listing().map(|all| all.len()), Some(1), "something else is missing between");
    }
}
