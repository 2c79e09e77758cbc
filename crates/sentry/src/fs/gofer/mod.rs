//! Files of the host, by a gofer: a container's root, and bind mounts.
//!
//! A [`Node`] stands for a handle at the gofer, with its attributes as far as they are cached; [`HostFile`] is a descriptor that the gofer has
//! opened, on which reads, writes and mappings need the gofer no more. What is found again by another name or a second lookup is the same node, by the
//! host's device and inode numbers.
//!
//! Caching ([`Cache`]): a tree that only this sandbox writes to is asked once; in one that others write to, names and attributes are asked for again after a
//! second. Descriptors of files read last are kept open, so that opening a file again costs nothing.
//!
//! Locking: the table of nodes before a node's own locks; all are leaves otherwise, and none is held over a call to the gofer.

mod dir;
mod file;
mod node;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use gofer::client::Client;
use gofer::protocol::{Attr, Entry};
use parking_lot::Mutex;

use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::step::Step;
use crate::time::Clock;
use file::HostFile;
use node::Node;

/// How long what the host said is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// For ever: nobody else writes there.
    Exclusive,
    /// For a second.
    Shared,
    /// Not at all.
    None,
}

impl Cache {
    fn ttl_ns(self) -> u64 {
        match self {
            Cache::Exclusive => u64::MAX,
            Cache::Shared => 1_000_000_000,
            Cache::None => 0,
        }
    }
}

/// Descriptors kept for the next open.
const KEPT_FILES: usize = 256;

/// A tree of files served by a gofer.
pub struct GoferFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

/// What its nodes share.
struct Shared {
    client: Arc<Client>,
    cache: Cache,
    writable: bool,
    dev: u64,
    clock: Clock,
    /// Live nodes by the host's device and inode numbers.
    nodes: Mutex<HashMap<(u64, u64), Weak<Node>>>,
    /// Host devices in the order they were met, for inode numbers that stay different.
    devices: Mutex<Vec<u64>>,
    /// Files that stay open although nobody uses them now, oldest first.
    kept: Mutex<VecDeque<Arc<HostFile>>>,
}

impl GoferFs {
    /// Attaches to the tree with this number in the gofer's configuration. `dev`: its device number for the guest.
    ///
    /// # Errors
    /// The gofer's.
    pub async fn new(
        client: Arc<Client>,
        attach: u32,
        writable: bool,
        cache: Cache,
        dev: u64,
        clock: Clock,
    ) -> Result<Arc<GoferFs>, Errno> {
        let attached = client.attach(attach).await?;
        let shared = Arc::new(Shared {
            client,
            cache,
            writable,
            dev,
            clock,
            nodes: Mutex::default(),
            devices: Mutex::default(),
            kept: Mutex::default(),
        });
        let root = shared.node(&attached.root, None);
        Ok(Arc::new(GoferFs { shared, root }))
    }
}

impl Shared {
    /// The node of an entry; `link` is its text if it is a symbolic link and that is known.
    fn node(self: &Arc<Shared>, entry: &Entry, link: Option<&[u8]>) -> Arc<Node> {
        let key = (host_device(&entry.attr), entry.attr.ino);
        let mut nodes = self.nodes.lock();
        // Dropped after the lock: the last reference takes it.
        let known = nodes.get(&key).and_then(Weak::upgrade);
        if let Some(node) = known.as_ref().filter(|node| node.same_kind(&entry.attr)) {
            drop(nodes);
            node.seen_again(entry, link);
            return node.clone();
        }
        let node = Node::new(self.clone(), key, entry, link);
        nodes.insert(key, Arc::downgrade(&node));
        drop(nodes);
        node
    }

    /// A node is gone.
    fn remove(&self, key: (u64, u64)) {
        let mut nodes = self.nodes.lock();
        if nodes.get(&key).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&key);
        }
    }

    /// The inode number that the guest sees: the host's, told apart where the tree spans several devices.
    fn ino(&self, device: u64, ino: u64) -> u64 {
        let mut devices = self.devices.lock();
        let index = devices.iter().position(|&known| known == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        ino ^ (index as u64) << 48
    }

    /// When attributes asked for now are to be asked for again.
    fn expiry(&self) -> u64 {
        match self.cache.ttl_ns() {
            u64::MAX => u64::MAX,
            ttl => self.clock.monotonic().0.saturating_add(ttl),
        }
    }

    fn valid(&self, until: u64) -> bool {
        until == u64::MAX || (until != 0 && self.clock.monotonic().0 < until)
    }

    /// Keeps a file open for the next who opens it.
    fn keep(&self, file: &Arc<HostFile>) {
        let mut kept = self.kept.lock();
        kept.push_back(file.clone());
        let oldest = if kept.len() > KEPT_FILES { kept.pop_front() } else { None };
        drop(kept);
        drop(oldest);
    }
}

fn host_device(attr: &Attr) -> u64 {
    u64::from(attr.dev_major) << 32 | u64::from(attr.dev_minor)
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
            let stat = self.shared.client.stat_fs(self.root.handle()).await?;
            Ok(StatFs {
                magic: stat.kind,
                block_size: stat.block_size,
                blocks: stat.blocks,
                blocks_free: stat.blocks_free,
                blocks_available: stat.blocks_available,
                files: stat.files,
                files_free: stat.files_free,
                name_max: stat.name_max,
                fsid: self.shared.dev,
            })
        })
    }

    fn name_ttl_ns(&self) -> u64 {
        self.shared.cache.ttl_ns()
    }
}

#[cfg(test)]
mod tests;
