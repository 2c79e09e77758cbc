//! Being told of changes that others make: the host's inotify(7).
//!
//! A [`Notifier`] is one inotify instance. Who reads it gets the events; here watches are put on and taken off, since the host wants a path for
//! that. `/proc` is not there, so a directory is made the working directory and watched as `.`, anything else by its name in it.
//!
//! Opens and reads are not told: they are no changes, and most would be this process's own.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Identity, Node, PathFd, attr};
use crate::{Errno, protocol::FileKind};

/// The process's working directory, which is used by nothing else.
static WORKING_DIRECTORY: Mutex<()> = Mutex::new(());

/// What can be watched for.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// An inotify instance.
#[derive(Debug)]
pub struct Notifier {
    fd: Arc<OwnedFd>,
    /// What each is for.
    watches: BTreeMap<i32, WatchFlags>,
    /// Where the working directory is in between: it pins what it is, whose end would not be told otherwise.
    home: Arc<PathFd>,
}

impl Notifier {
    /// Most watches of one instance: the host's limit is for all of a user.
    pub const MAX_WATCHES: usize = 8192;

    /// `home`: a node that stays.
    ///
    /// # Errors
    /// The host's (`EMFILE` at its limit of instances).
    pub fn new(home: &Node) -> Result<Notifier, Errno> {
        let home = match home.place.lock().as_ref() {
            Some(place) => Arc::clone(&place.dir),
            None => Arc::clone(home.directory()?),
        };
        let fd = Arc::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?);
        Ok(Notifier { fd, watches: BTreeMap::new(), home })
    }

    /// What the events are read from.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Watches a node, whatever its kind, for `events` (`IN_*` bits) besides those it is watched for already; with `IN_EXCL_UNLINK` only if all want
    /// that. Gives the number that its events have.
    ///
    /// # Errors
    /// The host's; `ENOSPC` at the limit; `ESTALE` if the node's name means another file by now.
    pub fn watch(&mut self, node: &Node, events: u32) -> Result<u32, Errno> {
        let events = WatchFlags::from_bits_retain(events) & (CHANGES | WatchFlags::EXCL_UNLINK);
        if !events.intersects(CHANGES) {
            return Err(Errno::EINVAL);
        }
        let (watch, wanted) = if node.kind == FileKind::Directory {
            self.add(&node.fd, c".", events)?
        } else {
            let place = node.place.lock().clone().ok_or(Errno::ESTALE)?;
            let is_there = || match attr::of_entry(place.dir.as_fd(), &place.name) {
                Ok(found) => node.is(Identity::of(&found)),
                Err(Errno::ENOENT) => Ok(false),
                Err(errno) => Err(errno),
            };
            if !is_there()? {
                return Err(Errno::ESTALE);
            }
            let (watch, wanted) = self.add(&place.dir, place.name.as_c_str(), events).map_err(|errno| match errno {
                Errno::ENOENT => Errno::ESTALE,
                errno => errno,
            })?;
            // What had the name for an instant is in the same directory; it is not watched on.
            if !is_there()? {
                if !self.watches.contains_key(&watch) {
                    self.remove(watch);
                }
                return Err(Errno::ESTALE);
            }
            (watch, wanted)
        };
        if self.watches.len() >= Notifier::MAX_WATCHES && !self.watches.contains_key(&watch) {
            self.remove(watch);
            return Err(Errno::ENOSPC);
        }
        self.watches.insert(watch, wanted);
        u32::try_from(watch).map_err(|_| Errno::EIO)
    }

    /// A watch, and all that it is for now.
    fn add(&self, dir: &PathFd, name: &CStr, events: WatchFlags) -> Result<(i32, WatchFlags), Errno> {
        let _alone = WORKING_DIRECTORY.lock();
        rustix::process::fchdir(dir)?;
        let added = self.add_here(name, events);
        // It could be opened, so it can be entered. If not, a directory is pinned, and its end not told.
        let _ = rustix::process::fchdir(&*self.home);
        added
    }

    fn add_here(&self, name: &CStr, events: WatchFlags) -> Result<(i32, WatchFlags), Errno> {
        const LESS: WatchFlags = WatchFlags::EXCL_UNLINK;
        let add = |flags| Ok::<i32, Errno>(inotify::add_watch(&*self.fd, name, flags | WatchFlags::DONT_FOLLOW)?);
        let watch = add((events - LESS) | WatchFlags::MASK_ADD)?;
        match self.watches.get(&watch) {
            None if events.contains(LESS) => {
                add(events | WatchFlags::MASK_ADD)?;
                Ok((watch, events))
            }
            None => Ok((watch, events)),
            Some(known) if known.contains(LESS) && !events.contains(LESS) => {
                // What is added to a watch takes nothing away: it is replaced.
                let all = (*known - LESS) | events;
                add(all)?;
                Ok((watch, all))
            }
            Some(known) => Ok((watch, *known | (events - LESS))),
        }
    }

    /// Takes a watch off.
    ///
    /// # Errors
    /// `EINVAL` for a number that is none.
    pub fn unwatch(&mut self, watch: u32) -> Result<(), Errno> {
        let watch = i32::try_from(watch).ok().filter(|watch| self.watches.remove(watch).is_some()).ok_or(Errno::EINVAL)?;
        self.remove(watch);
        Ok(())
    }

    fn remove(&self, watch: i32) {
        // It has ended by itself if the file is gone.
        let _ = inotify::remove_watch(&*self.fd, watch);
    }
}
