//! The names by which an inode was found, and the gofer's handles for them.
//!
//! A handle is got when something needs one, by walking from the nearest directory above that has one; what can be asked by name
//! ([`Base`]) needs none. So a walk over a large tree takes no handles, and one that has a name can be given up again: at most
//! [`MOST`] are kept in each tree. An inode without a name keeps its own.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gofer::client::Client;
use gofer::protocol::{Handle, MAX_WALK, Name, WalkEnd, Walked};
use parking_lot::Mutex;

use super::inode::Body;
use super::{GoferInode, Tree, key_of};
use crate::Errno;

/// Names of one inode that are kept.
const MAX_NAMES: usize = 8;

/// Handles kept in a tree. The gofer has about 19,000 to give to all trees of a container.
const MOST: usize = 4096;

/// A directory that was found by name so often gets a handle.
const OFTEN: u32 = 4;

/// How deep below the nearest handle a directory can be.
const MAX_DEPTH: usize = 1 << 16;

/// A handle; the gofer may forget it when the last reference goes.
pub(super) struct Held {
    client: Arc<Client>,
    handle: Handle,
}

impl Held {
    pub fn new(client: &Arc<Client>, handle: Handle) -> Arc<Held> {
        Arc::new(Held { client: client.clone(), handle })
    }

    pub fn handle(&self) -> Handle {
        self.handle
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.client.forget(self.handle);
    }
}

/// A directory and a name in it.
type Place = (Weak<GoferInode>, Name);

/// A name by which the inode was found.
#[derive(Clone)]
pub(super) struct Named {
    /// No place: the root, or a name that was removed (the handle still serves for what needs no name).
    pub place: Option<Place>,
    /// Where it was before it was removed: the host still names it when it is closed.
    former: Option<Place>,
    /// The handle that was given for this name, if one was needed.
    held: Option<Arc<Held>>,
}

impl Named {
    fn is(&self, parent: &GoferInode, name: &Name) -> bool {
        self.place.as_ref().is_some_and(|(dir, own)| std::ptr::eq(dir.as_ptr(), parent) && own == name)
    }

    fn living(&self) -> Option<(Arc<GoferInode>, Name)> {
        self.place.as_ref().and_then(living)
    }
}

fn living((dir, name): &Place) -> Option<(Arc<GoferInode>, Name)> {
    Some((dir.upgrade()?, name.clone()))
}

/// Where a directory is, as the gofer is told: names below a handle.
pub(super) struct Base {
    pub held: Arc<Held>,
    pub path: Vec<Name>,
}

/// Inodes with handles, in the order of the clock's hand.
pub(super) type Ring = Mutex<VecDeque<Weak<GoferInode>>>;

impl GoferInode {
    /// A handle, if there is one.
    pub(super) fn held_now(&self) -> Option<Arc<Held>> {
        self.names.lock().iter().rev().find_map(|named| named.held.clone())
    }

    /// The name found last, in a directory that is still known.
    pub(super) fn place(&self) -> Option<(Arc<GoferInode>, Name)> {
        self.names.lock().iter().rev().find_map(Named::living)
    }

    /// All names that are known, and the last one if it is removed.
    pub(super) fn places(&self) -> Vec<(Arc<GoferInode>, Name)> {
        let names = self.names.lock();
        names.iter().filter_map(|named| named.place.as_ref().or(named.former.as_ref()).and_then(living)).collect()
    }

    /// Whether nothing leads to it any more.
    pub(super) fn is_lost(&self) -> bool {
        self.names.lock().iter().all(|named| named.held.is_none() && named.place.is_none())
    }

    /// A handle, for what needs no name.
    ///
    /// # Errors
    /// `ESTALE` if its name means something else by now; the gofer's.
    pub(super) async fn held(&self) -> Result<Arc<Held>, Errno> {
        if let Some(held) = self.held_now() {
            return Ok(held);
        }
        let (parent, name) = self.place().ok_or(Errno::ESTALE)?;
        self.ask_handle(&parent, name).await
    }

    /// The handle of a name, if there is one.
    pub(super) fn held_for(&self, parent: &GoferInode, name: &Name) -> Option<Arc<Held>> {
        self.names.lock().iter().find(|named| named.is(parent, name)).and_then(|named| named.held.clone())
    }

    async fn ask_handle(&self, parent: &Arc<GoferInode>, name: Name) -> Result<Arc<Held>, Errno> {
        let base = parent.base().await?;
        let me = self.me()?;
        let (mut way, above) = (vec![(me, name)], base.path.len());
        // Those on the way have handles then, too.
        let mut at = parent.clone();
        for _ in 0..above {
            let Some((dir, name)) = at.place() else { break };
            way.push((at, name));
            at = dir;
        }
        way.reverse();
        if way.len() != above + 1 {
            return Err(Errno::ESTALE);
        }
        self.tree.ask_handles(&base.held, &way).await
    }

    /// How the gofer finds this directory.
    ///
    /// # Errors
    /// As [`GoferInode::held`].
    pub(super) async fn base(self: &Arc<GoferInode>) -> Result<Base, Errno> {
        loop {
            let (held, way) = self.way()?;
            // With room for a name in the directory.
            let often = self.asked.fetch_add(1, Ordering::Relaxed) % OFTEN == OFTEN - 1;
            if way.is_empty() || (way.len() < MAX_WALK && !often) {
                return Ok(Base { held, path: way.into_iter().map(|(_, name)| name).collect() });
            }
            self.tree.ask_handles(&held, way.get(..MAX_WALK).unwrap_or(&way)).await?;
        }
    }

    /// The nearest handle above, and the inodes from there to here by their names.
    #[allow(clippy::type_complexity)]
    fn way(self: &Arc<GoferInode>) -> Result<(Arc<Held>, Vec<(Arc<GoferInode>, Name)>), Errno> {
        let mut way = Vec::new();
        let mut at = self.clone();
        while way.len() < MAX_DEPTH {
            if let Some(held) = at.held_now() {
                way.reverse();
                return Ok((held, way));
            }
            let (parent, name) = at.place().ok_or(Errno::ESTALE)?;
            way.push((at, name));
            at = parent;
        }
        Err(Errno::ESTALE)
    }

    /// Notes a name, and the handle that was given for it.
    pub(super) fn add_name(&self, place: Option<(&Arc<GoferInode>, Name)>, held: Option<Arc<Held>>) {
        let fresh = held.is_some();
        let mut extra = None;
        {
            let mut names = self.names.lock();
            let known = place.as_ref().and_then(|(dir, name)| names.iter().position(|named| named.is(dir, name)));
            match known {
                // Of two handles either would do. The newest name is asked first.
                Some(at) => {
                    let mut named = names.remove(at);
                    if named.held.is_none() {
                        named.held = held;
                    } else {
                        extra = held.map(|held| Named { place: None, former: None, held: Some(held) });
                    }
                    names.push(named);
                }
                None => {
                    let place = place.as_ref().map(|(dir, name)| (Arc::downgrade(dir), name.clone()));
                    if names.len() >= MAX_NAMES {
                        extra = Some(names.remove(0));
                    }
                    names.push(Named { place, former: None, held });
                }
            }
        }
        drop(extra);
        if let Some((dir, name)) = place {
            if fresh {
                self.tree.note_handle(self.me.clone());
            }
            if let Body::Directory(children) = &dir.body
                && self.tree.writable().is_ok()
            {
                children.by_name.lock().insert(name, self.me.clone());
            }
        }
    }

    /// The name was removed, or was found to mean something else.
    pub(super) fn lose_name(&self, parent: &GoferInode, name: &Name) {
        let mut lost = None;
        let mut names = self.names.lock();
        if let Some(at) = names.iter().position(|named| named.is(parent, name)) {
            match names.len() {
                1 => names.iter_mut().for_each(|named| named.former = named.place.take()),
                _ => lost = Some(names.remove(at)),
            }
        }
        drop(names);
        drop(lost);
    }

    /// The name was changed.
    pub(super) fn move_name(&self, (from, name): (&GoferInode, &Name), (to, to_name): (&Arc<GoferInode>, &Name)) {
        let mut names = self.names.lock();
        if let Some(named) = names.iter_mut().find(|named| named.is(from, name)) {
            named.place = Some((Arc::downgrade(to), to_name.clone()));
        }
    }

    /// Asks for something that the gofer does by name, with each name until one still means this inode.
    pub(super) async fn by_name<T, F: Future<Output = Result<T, Errno>>>(
        &self,
        mut ask: impl FnMut(Handle) -> F,
    ) -> Result<T, Errno> {
        let names: Vec<Named> = self.names.lock().iter().rev().cloned().collect();
        for named in names {
            let held = match (&named.held, named.living()) {
                (Some(held), _) => held.clone(),
                (None, Some((dir, name))) => match self.ask_handle(&dir, name).await {
                    Err(Errno::ESTALE) => continue,
                    held => held?,
                },
                (None, None) => continue,
            };
            match ask(held.handle()).await {
                Err(Errno::ESTALE) => {}
                Err(Errno::ENFILE) => {
                    self.tree.give_up_handles();
                    return ask(held.handle()).await;
                }
                answer => return answer,
            }
        }
        Err(Errno::ESTALE)
    }

    /// Gives handles up that can be had again by name. False: some are in use.
    pub(super) fn drop_handles(&self) -> bool {
        let mut dropped = Vec::new();
        let mut all = true;
        for named in self.names.lock().iter_mut().filter(|named| named.held.is_some()) {
            let idle = named.held.as_ref().is_some_and(|held| Arc::strong_count(held) == 1);
            if idle && named.living().is_some() {
                dropped.extend(named.held.take());
            } else {
                all = false;
            }
        }
        drop(dropped);
        all
    }
}

impl Tree {
    /// Walks a way and notes the handles of all on it. Gives the last one's.
    async fn ask_handles(&self, from: &Arc<Held>, way: &[(Arc<GoferInode>, Name)]) -> Result<Arc<Held>, Errno> {
        let names: Vec<Name> = way.iter().map(|(_, name)| name.clone()).collect();
        let walked = self.ask_walk(from, &names).await?;
        let held: Vec<_> = walked.steps.iter().map(|step| self.hold(step.handle)).collect();
        match walked.end {
            WalkEnd::Complete => {}
            WalkEnd::Failed(errno) if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) => return Err(errno),
            _ => return Err(Errno::ESTALE),
        }
        for ((step, held), (inode, name)) in walked.steps.iter().zip(&held).zip(way) {
            if key_of(&step.attr) != inode.key() {
                return Err(Errno::ESTALE);
            }
            let place = inode.place_named(name);
            inode.add_name(place.as_ref().map(|dir| (dir, name.clone())), Some(held.clone()));
        }
        if let (Some((last, _)), Some(text)) = (way.last(), &walked.link) {
            last.learn_link(text)?;
        }
        held.into_iter().last().ok_or(Errno::ESTALE)
    }

    /// A walk by handle; once more if the gofer had no room.
    pub(super) async fn ask_walk(&self, from: &Arc<Held>, names: &[Name]) -> Result<Walked, Errno> {
        let walked = self.client.walk(from.handle(), names.to_vec(), None).await?;
        if walked.end != WalkEnd::Failed(Errno::ENFILE) {
            return Ok(walked);
        }
        walked.steps.iter().for_each(|step| self.client.forget(step.handle));
        self.give_up_handles();
        self.client.walk(from.handle(), names.to_vec(), None).await
    }

    fn note_handle(&self, inode: Weak<GoferInode>) {
        self.handles.lock().push_back(inode);
        self.evict_handles(MOST, 2);
    }

    /// The gofer has no more: all that nobody uses go.
    pub(super) fn give_up_handles(&self) {
        self.evict_handles(0, usize::MAX);
        self.client.flush_forgets();
    }

    /// Gives up handles until so many are left, looking at `looks` inodes at most.
    fn evict_handles(&self, goal: usize, looks: usize) {
        let mut ring = self.handles.lock();
        for _ in 0..looks.min(ring.len()) {
            if ring.len() <= goal {
                return;
            }
            let Some(inode) = ring.pop_front() else { return };
            drop(ring);
            let kept = inode.upgrade().is_some_and(|inode| !inode.drop_handles());
            ring = self.handles.lock();
            if kept {
                ring.push_back(inode);
            }
        }
    }
}

impl GoferInode {
    /// The directory in which it has this name.
    fn place_named(&self, name: &Name) -> Option<Arc<GoferInode>> {
        let names = self.names.lock();
        names.iter().rev().filter_map(Named::living).find(|(_, own)| own == name).map(|(dir, _)| dir)
    }
}
