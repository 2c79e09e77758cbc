//! Trees whose changes by the host are told: FUSE has no message for them that virtio-fs could carry, so they go another way, as the number of the tree alone.
//!
//! All directories of such a tree are watched by the host's inotify(7); there are few. One instance for all, made when it is wanted: hosts allow a user 128.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Duration,
};

use gofer::{
    Errno,
    passthrough::{Node, Notifier},
    protocol::{FileKind, Name, ReadDirDetail},
};
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::epoll,
    fs::inotify::{self, ReadFlags, WatchFlags},
    io::Errno as HostErrno,
};

use crate::{device::Shown, trees::Trees};

/// Directories of a tree.
const MOST: usize = 64;
/// How deep they are.
const DEPTH: usize = 16;
/// What comes within it is told once.
const PAUSE: Duration = Duration::from_millis(100);
const STACK: usize = 128 << 10;
/// Bytes of the host's directory entries at a time.
const RAW: usize = 4096;
const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE);

/// Watches trees, and tells of them.
#[derive(Debug)]
pub struct Changes {
    trees: Arc<Trees>,
    /// Where a tree's number is written, four bytes, little endian.
    to: OwnedFd,
    epoll: OwnedFd,
    watches: Mutex<Option<Watches>>,
    /// Never notified: for a pause.
    pause: Condvar,
}

#[derive(Debug)]
struct Watches {
    notifier: Notifier,
    /// The trees that a watch is for: they may show the same directory.
    of: BTreeMap<u32, BTreeSet<u32>>,
}

impl Changes {
    /// Begins, with a thread of its own, which must be made before [`Running::confine`](crate::Running::confine).
    ///
    /// # Errors
    /// No thread; the host's.
    pub fn start(shown: &Shown, to: OwnedFd) -> io::Result<Arc<Changes>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (watches, pause) = (Mutex::new(None), Condvar::new());
        let changes = Arc::new(Changes { trees: shown.trees().clone(), to, epoll, watches, pause });
        let own = changes.clone();
        thread::Builder::new().name("changes".to_owned()).stack_size(STACK).spawn(move || own.run())?;
        Ok(changes)
    }

    /// Tells of a tree from now on. Called again for one, it watches directories that are new.
    ///
    /// # Errors
    /// The host's; `ENOSPC`: it has too many directories.
    pub fn watch(&self, tree: u32) -> Result<(), Errno> {
        let root = self.trees.get(tree).ok_or(Errno::ESTALE)?.root.clone();
        let mut watches = self.watches.lock();
        let watches = match &mut *watches {
            Some(watches) => watches,
            none => {
                let home = self.trees.from(0).ok_or(Errno::ESTALE)?.root.clone();
                let notifier = Notifier::new(&home)?;
                epoll::add(&self.epoll, notifier.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
                none.insert(Watches { notifier, of: BTreeMap::new() })
            }
        };
        watches.add(tree, &root, &mut MOST.clone(), 0)
    }

    /// Tells of a tree no longer.
    pub fn forget(&self, tree: u32) {
        let mut watches = self.watches.lock();
        let Some(Watches { notifier, of }) = &mut *watches else { return };
        of.retain(|watch, trees| {
            let stays = !trees.remove(&tree) || !trees.is_empty();
            if !stays {
                let _ = notifier.unwatch(*watch);
            }
            stays
        });
    }

    fn run(&self) {
        let mut events = [const { MaybeUninit::uninit() }; 1];
        loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok(_) | Err(HostErrno::INTR) => {}
                Err(_) => return,
            }
            let changed = self.watches.lock().as_mut().map(Watches::read).unwrap_or_default();
            for tree in changed {
                // What cannot be watched is told of as long as the rest of it changes.
                let _ = self.watch(tree);
                if rustix::io::write(&self.to, &tree.to_le_bytes()) != Ok(4) {
                    return;
                }
            }
            self.pause.wait_for(&mut self.watches.lock(), PAUSE);
        }
    }
}

impl Watches {
    fn add(&mut self, tree: u32, node: &Arc<Node>, room: &mut usize, depth: usize) -> Result<(), Errno> {
        *room = room.checked_sub(1).filter(|_| depth < DEPTH).ok_or(Errno::ENOSPC)?;
        let watch = self.notifier.watch(node, EVENTS.bits())?;
        self.of.entry(watch).or_default().insert(tree);
        let mut names = Vec::new();
        node.open_dir()?.each(RAW, None, ReadDirDetail::Names, |found| {
            let may_be = found.kind.is_none_or(|kind| kind == FileKind::Directory);
            names.extend(may_be.then(|| Name::new(found.name).ok()).flatten());
            true
        })?;
        for name in names {
            match node.lookup(&name) {
                Ok((below, _)) if below.kind() == FileKind::Directory => self.add(tree, &below, room, depth + 1)?,
                // The host has just removed it.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The trees that what has happened since the last time is about.
    fn read(&mut self) -> BTreeSet<u32> {
        let mut changed = BTreeSet::new();
        let mut space = [const { MaybeUninit::uninit() }; 4096];
        let fd = self.notifier.fd().clone();
        let mut reader = inotify::Reader::new(&*fd, &mut space);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changed.extend(self.of.values().flatten());
            }
            let Ok(watch) = u32::try_from(event.wd()) else { continue };
            changed.extend(self.of.get(&watch).into_iter().flatten());
            if event.events().contains(ReadFlags::IGNORED) {
                self.of.remove(&watch);
                let _ = self.notifier.unwatch(watch);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::net::UnixStream};

    use gofer::{
        passthrough::Source,
        protocol::{Access, Cache},
    };

    use super::*;
    use crate::{Config, Server, TreeConfig};

    #[test]
    fn changes_are_told_by_tree() {
        let dir = std::env::temp_dir().join(format!("nacre-changes-{}", std::process::id()));
        fs::create_dir_all(dir.join("one/deep")).unwrap();
        fs::create_dir_all(dir.join("two")).unwrap();
        let server = Server::new(Config::for_nofile(1024));
        for name in ["one", "two", "one"] {
            let source = Source::at_path(&dir.join(name)).unwrap();
            server.shown().add(TreeConfig { source, access: Access::ReadOnly, cache: Cache::Shared }).unwrap();
        }
        let (mut told, to) = UnixStream::pair().unwrap();
        told.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let changes = Changes::start(server.shown(), to.into()).unwrap();
        let mut next = || {
            let mut number = [0; 4];
            told.read_exact(&mut number).unwrap();
            u32::from_le_bytes(number)
        };
        for tree in [0, 1] {
            changes.watch(tree).unwrap();
        }
        fs::write(dir.join("two/file"), "new").unwrap();
        assert_eq!(next(), 1);
        // Two trees that show one directory.
        changes.watch(2).unwrap();
        changes.forget(1);
        fs::write(dir.join("two/file"), "newer").unwrap();
        fs::create_dir(dir.join("one/deep/new")).unwrap();
        let mut both = [next(), next()];
        // It may still have been told of the first change.
        while both.contains(&1) {
            both = [next(), next()];
        }
        assert_eq!(both, [0, 2]);
        // A directory that was not there before.
        changes.forget(2);
        fs::write(dir.join("one/deep/new/file"), "").unwrap();
        assert_eq!(next(), 0);
        fs::remove_dir_all(dir).unwrap();
        assert_eq!(changes.watch(77), Err(Errno::ESTALE));
    }
}
