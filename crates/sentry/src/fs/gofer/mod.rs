//! The file system of host files, through a gofer.
//!
//! [`connect`] makes the connection of a container; [`GoferFs::attach`] a file system of each tree that its gofer exports. Names are
//! resolved, made and removed by the gofer; the data of regular files is read, written and mapped here, by descriptors it has donated.
//!
//! - `inode`: [`GoferInode`], its attributes. One inode for each host file, so hard links are one. `handles`: its names, and the gofer's handles for them.
//! - `names`: lookups (several names in one round trip), making and removing. `dir`: reading directories.
//! - `listing`: what a listing tells. `scan`: directories listed ahead of a walk, `ahead`: names known before they are asked for, `opened`: files opened ahead.
//! - `host_changes`, `expected`: changes of watched files, whoever makes them.
//! - `file`, `mappable`: open regular files. `fd_cache`: the descriptors. `attr`: attributes and how long they are true.
//!
//! What is true how long is the tree's [`Cache`]: in an exclusive one only this VFS changes anything; answers are kept for ever and brought up to date
//! by what is done here. In a shared one they are true for a second. Data is never kept: the host's page cache is the only one.
//!
//! The gofer is trusted with content, not with our life: whatever it answers, at worst its files are nonsense or `EIO`.
//!
//! Locking: `Tree`'s, `names`, `attr`, `files`, `children`, `listing`, `ahead` are leaves, none taken with another held, none held over an await.

mod ahead;
mod attr;
mod connect;
mod dir;
mod expected;
mod fd_cache;
mod file;
mod handles;
mod host_changes;
#[cfg(test)]
mod host_tests;
mod inode;
mod listing;
mod mappable;
mod names;
mod opened;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use gofer::client::Client;
use gofer::protocol::{Access, Attr, Entry, FileKind as HostKind, Handle, Name};
use parking_lot::Mutex;

pub use connect::{Connection, connect};
pub use fd_cache::FdCache;
use handles::Held;
use host_changes::HostChanges;
pub use inode::GoferInode;
use listing::Told;

use super::{FileSystem, Inode, Metadata, StatFs, Timestamp, next_device};
use crate::Errno;
use crate::executor::IoPool;
use crate::step::Step;
use crate::time::Clock;

/// How long what the gofer said is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Nobody else changes the tree.
    Exclusive,
    /// Others may change it; a second.
    Shared,
    /// Names are asked for each time.
    None,
}

impl Cache {
    fn name_ttl_ns(self) -> u64 {
        match self {
            Cache::Exclusive => u64::MAX,
            Cache::Shared => 1_000_000_000,
            Cache::None => 0,
        }
    }

    /// Attributes that came with a name last at least for the call that looked it up.
    fn attr_ttl_ns(self) -> u64 {
        self.name_ttl_ns().max(1_000_000)
    }
}

/// What all trees of a sandbox share.
#[derive(Clone)]
pub struct Services {
    pub pool: Arc<IoPool>,
    pub fds: Arc<FdCache>,
    pub clock: Clock,
}

/// A tree of host files.
pub struct GoferFs {
    tree: Arc<Tree>,
    root: Arc<GoferInode>,
    dev: u64,
}

/// What a tree's inodes share.
struct Tree {
    client: Arc<Client>,
    host: Arc<HostChanges>,
    services: Services,
    access: Access,
    cache: Cache,
    /// Whether the host's file system is one that does not ask others (see [`is_local`]).
    local: bool,
    /// Counts the changes made here.
    changes: AtomicU64,
    /// What is true up to this time was told before [`Tree::distrust`].
    untrue_until: AtomicU64,
    inodes: Mutex<HashMap<Key, Weak<GoferInode>>>,
    /// The devices that guests are shown for the host's: a tree may contain mounts.
    devices: Mutex<HashMap<(u32, u32), u64>>,
    listed: Mutex<ahead::LastListed>,
    /// Directories listed, and files opened, before they are asked for.
    ready: Mutex<scan::Ready>,
    opened: Mutex<opened::Opened>,
    /// Counts down while attributes of files come with listings.
    attrs_wanted: AtomicU32,
    /// How many names are missed in a directory before it is listed.
    misses: AtomicU32,
    handles: handles::Ring,
    /// Whether directories do not tell the kinds of their entries.
    untyped_dirs: AtomicBool,
}

/// A host file's identity.
type Key = (u32, u32, u64, u8);

/// Most devices shown in one tree.
const MAX_DEVICES: usize = 1024;

impl GoferFs {
    /// The tree at place `index` of the gofer's configuration. It is read-only if the gofer, or `access`, says so. `dev`: its device number for
    /// guests. A tree may be a single file.
    ///
    /// # Errors
    /// `ENOENT` for an index that is none; `EIO`.
    pub async fn new(
        connection: &Connection,
        index: u32,
        access: Access,
        cache: Cache,
        dev: u64,
        services: Services,
    ) -> Result<Arc<GoferFs>, Errno> {
        let Connection { client, host } = connection.clone();
        let attached = client.attach(index).await?;
        let handle = Held::new(&client, attached.root.handle);
        let kind = client.stat_fs(handle.handle()).await.map_or(0, |stat| stat.kind);
        let read_only = access == Access::ReadOnly || attached.access == Access::ReadOnly;
        let tree = Arc::new(Tree {
            client,
            host,
            services,
            access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
            cache,
            local: is_local(kind),
            changes: AtomicU64::new(0),
            untrue_until: AtomicU64::new(0),
            inodes: Mutex::default(),
            devices: Mutex::new(HashMap::from([(host_device(&attached.root.attr), dev)])),
            listed: Mutex::default(),
            ready: Mutex::default(),
            opened: Mutex::default(),
            attrs_wanted: AtomicU32::new(0),
            misses: AtomicU32::new(ahead::MISSES),
            handles: Mutex::default(),
            untyped_dirs: AtomicBool::new(false),
        });
        let told = tree.told_now();
        let root = tree.intern(None, Some(handle), &attached.root.attr, told);
        Ok(Arc::new(GoferFs { tree, root, dev }))
    }

    /// The root's device number.
    pub fn dev(&self) -> u64 {
        self.dev
    }
}

impl FileSystem for GoferFs {
    fn name(&self) -> &'static str {
        "gofer"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::wait(async {
            let root = self.root.held().await?;
            let stat = self.tree.client.stat_fs(root.handle()).await?;
            Ok(StatFs {
                magic: stat.kind,
                block_size: stat.block_size,
                blocks: stat.blocks,
                blocks_free: stat.blocks_free,
                blocks_available: stat.blocks_available,
                files: stat.files,
                files_free: stat.files_free,
                name_max: stat.name_max,
                fsid: self.dev,
            })
        })
    }

    fn name_ttl_ns(&self) -> u64 {
        self.tree.cache.name_ttl_ns()
    }
}

impl Tree {
    fn writable(&self) -> Result<(), Errno> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Errno::EROFS),
        }
    }

    fn now_ns(&self) -> u64 {
        self.services.clock.monotonic().0
    }

    /// Until when what is asked now is true.
    fn valid_until(&self) -> u64 {
        match self.cache.attr_ttl_ns() {
            u64::MAX => u64::MAX,
            ttl => self.now_ns().saturating_add(ttl),
        }
    }

    /// Whether a time has not come yet. (To read the clock costs more than most of what asks this, and mostly that time never comes.)
    fn is_before(&self, until: u64) -> bool {
        until == u64::MAX || (until > self.untrue_until.load(Ordering::Acquire) && self.now_ns() < until)
    }

    /// Others have changed something: nothing that was told of a shared tree is true any more.
    fn distrust(&self) {
        self.untrue_until.fetch_max(self.valid_until(), Ordering::AcqRel);
    }

    /// The count of changes: read before the gofer is asked for something.
    fn seen(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn device(&self, attr: &Attr) -> u64 {
        let mut devices = self.devices.lock();
        let full = devices.len() >= MAX_DEVICES;
        let key = host_device(attr);
        match devices.get(&key) {
            Some(dev) => *dev,
            None if full => devices.values().next().copied().unwrap_or_default(),
            None => *devices.entry(key).or_insert_with(next_device),
        }
    }

    fn metadata(&self, attr: &Attr) -> Metadata {
        attr::metadata(attr, self.device(attr))
    }

    /// The inode of something the gofer told of; by which name, if it is not the root, and with the handle it gave.
    fn intern(
        self: &Arc<Tree>,
        name: Option<(&Arc<GoferInode>, Name)>,
        held: Option<Arc<Held>>,
        attr: &Attr,
        told: Told,
    ) -> Arc<GoferInode> {
        let key = key_of(attr);
        let metadata = self.metadata(attr);
        let known = self.inodes.lock().get(&key).and_then(Weak::upgrade);
        let (inode, known) = match known.filter(|inode| inode.may_be(metadata.born)) {
            Some(inode) => (inode, true),
            None => self.add_inode(GoferInode::new(self, key, metadata, told), metadata.born),
        };
        inode.add_name(name, held);
        if known {
            inode.learn(metadata, told);
        }
        inode
    }

    /// Makes an inode known; or gives the one that another was faster with.
    fn add_inode(&self, new: Arc<GoferInode>, born: Timestamp) -> (Arc<GoferInode>, bool) {
        let mut inodes = self.inodes.lock();
        if let Some(other) = inodes.get(&new.key()).and_then(Weak::upgrade) {
            // Not to be dropped, nor asked, under the lock.
            drop(inodes);
            if other.may_be(born) {
                return (other, true);
            }
            inodes = self.inodes.lock();
        }
        inodes.insert(new.key(), Arc::downgrade(&new));
        (new, false)
    }

    /// [`Tree::intern`] of an answer with a handle.
    fn entry(self: &Arc<Tree>, parent: &Arc<GoferInode>, name: Name, entry: &Entry, told: Told) -> Arc<GoferInode> {
        self.intern(Some((parent, name)), Some(self.hold(entry.handle)), &entry.attr, told)
    }

    fn hold(&self, handle: Handle) -> Arc<Held> {
        Held::new(&self.client, handle)
    }
}

fn host_device(attr: &Attr) -> (u32, u32) {
    (attr.dev_major, attr.dev_minor)
}

fn key_of(attr: &Attr) -> Key {
    let kind = match attr.kind {
        HostKind::Regular => 0,
        HostKind::Directory => 1,
        HostKind::Symlink => 2,
        HostKind::Fifo => 3,
        HostKind::Socket => 4,
        HostKind::CharDevice => 5,
        HostKind::BlockDevice => 6,
    };
    (attr.dev_major, attr.dev_minor, attr.ino, kind)
}

/// Whether a file system, by its magic number, works on this machine's memory and disks alone: then a call that sleeps does so for a
/// disk at most, and not for a network or another program.
fn is_local(magic: u64) -> bool {
    const LOCAL: [u64; 11] = [
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0xef53,      // ext2 to ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x794c_7630, // overlayfs
        0xe0f5_e1e2, // erofs
        0x7371_7368, // squashfs
        0xf2f5_2010, // f2fs
        0x2fc1_2fc1, // zfs
        0xca45_1a4e, // bcachefs
    ];
    LOCAL.contains(&magic)
}
