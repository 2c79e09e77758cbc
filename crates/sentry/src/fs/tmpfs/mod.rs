//! tmpfs: files in memory.
//!
//! [`TmpFs`] gives [`Node`]s, each with its attributes and a body: pages of the container's memory file ([`data::Data`]), names
//! ([`dir`]), or a link's text. Limits (`size=`, `nr_inodes=`) are counted in [`Shared`].
//!
//! The overlay takes its upper layer's nodes from here too.
//!
//! Locking: a directory's names before a node's attributes; two directories only under the VFS's rename lock, in the order of their addresses;
//! a victim's names after its directory's. A file's data lock is a leaf, and never held while guest memory is copied.

mod data;
mod dir;
mod file;
mod node;
mod xattr;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::types::Config;
use super::{FileKind, FileSystem, Inode, NewInode, StatFs, Timestamp};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_up};
use crate::mm::MemoryFile;
use crate::ns::{Ids, UserNs};
use crate::step::Step;
use crate::time::Clock;
pub use node::Node;
pub(super) use xattr::Xattrs;

/// `TMPFS_MAGIC`.
const MAGIC: u64 = 0x0102_1994;
/// `RAMFS_MAGIC`.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// What `mount -o` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Most bytes of data; 0: no limit but the container's memory.
    pub size: u64,
    /// Most inodes; 0: no limit.
    pub inodes: u64,
    /// Of the root directory.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    /// `size=0` and `nr_inodes=0` were asked for: no limit instead of the default one.
    pub unlimited: bool,
    pub unlimited_inodes: bool,
    /// The limits that a mount without options gets: they are not shown.
    pub default_size: u64,
    pub default_inodes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            size: 0,
            inodes: 0,
            permissions: 0o1777,
            uid: 0,
            gid: 0,
            unlimited: false,
            unlimited_inodes: false,
            default_size: 0,
            default_inodes: 0,
        }
    }
}

impl Options {
    /// Takes one option in. Sizes in percent are of `memory` bytes, ids those of the mounter's user namespace.
    ///
    /// # Errors
    /// `EINVAL` for a value that is none, or an option tmpfs does not have.
    pub fn set(&mut self, key: &str, value: Option<&str>, memory: u64, user_ns: &UserNs) -> Result<(), Errno> {
        let text = || value.ok_or(Errno::EINVAL);
        let number = |radix| u32::from_str_radix(text()?, radix).map_err(|_| Errno::EINVAL);
        match key {
            "size" => {
                self.size = page_up(size(text()?, memory)?).ok_or(Errno::EINVAL)?;
                self.unlimited = self.size == 0;
            }
            "nr_blocks" => {
                self.size = size(text()?, memory)?.checked_mul(PAGE_SIZE).ok_or(Errno::EINVAL)?;
                self.unlimited = self.size == 0;
            }
            "nr_inodes" => {
                self.inodes = size(text()?, memory)?;
                self.unlimited_inodes = self.inodes == 0;
            }
            "mode" => self.permissions = number(8)? & 0o7777,
            "uid" => self.uid = user_ns.kernel_id(Ids::Users, number(10)?).ok_or(Errno::EINVAL)?,
            "gid" => self.gid = user_ns.kernel_id(Ids::Groups, number(10)?).ok_or(Errno::EINVAL)?,
            // Where the pages lie is decided elsewhere.
            "huge" => match text()? {
                "never" | "always" | "within_size" | "advise" => {}
                _ => return Err(Errno::EINVAL),
            },
            "mpol" => drop(text()?),
            "inode32" | "inode64" | "noswap" if value.is_none() => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// A number with `k`, `m`, `g` or `%`.
fn size(text: &str, memory: u64) -> Result<u64, Errno> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "%" => return Ok((memory / 100).saturating_mul(number)),
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

/// A tmpfs.
pub struct TmpFs {
    name: &'static str,
    shared: Arc<Shared>,
    root: OnceLock<Arc<Node>>,
    options: Options,
}

/// What the nodes of one tmpfs share.
pub(super) struct Shared {
    pub memory: Arc<MemoryFile>,
    pub clock: Clock,
    pub dev: u64,
    max_bytes: AtomicU64,
    max_inodes: AtomicU64,
    bytes: AtomicU64,
    inodes: AtomicU64,
    next_ino: AtomicU64,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        let ns = self.clock.realtime_ns();
        Timestamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }

    /// Counts bytes of data in.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn charge(&self, bytes: u64) -> Result<(), Errno> {
        count(&self.bytes, bytes, self.max_bytes.load(Ordering::Relaxed))
    }

    pub fn uncharge(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn new_ino(&self) -> Result<u64, Errno> {
        count(&self.inodes, 1, self.max_inodes.load(Ordering::Relaxed))?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    fn drop_inode(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU64, more: u64, max: u64) -> Result<(), Errno> {
    let limit = if max == 0 { u64::MAX } else { max };
    let add = |now: u64| now.checked_add(more).filter(|&sum| sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(drop).map_err(|_| Errno::ENOSPC)
}

impl TmpFs {
    /// An empty tmpfs whose pages come from `memory`; `dev` is its device number.
    pub fn new(memory: Arc<MemoryFile>, clock: Clock, dev: u64, options: Options) -> Arc<TmpFs> {
        TmpFs::named("tmpfs", memory, clock, dev, options)
    }

    /// One that is shown as another type (`ramfs`).
    pub fn named(name: &'static str, memory: Arc<MemoryFile>, clock: Clock, dev: u64, options: Options) -> Arc<TmpFs> {
        let shared = Arc::new(Shared {
            memory,
            clock,
            dev,
            max_bytes: AtomicU64::new(options.size),
            max_inodes: AtomicU64::new(options.inodes),
            bytes: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
        });
        let fs = TmpFs { name, shared, root: OnceLock::new(), options };
        fs.root_node();
        Arc::new(fs)
    }

    fn root_node(&self) -> &Arc<Node> {
        self.root.get_or_init(|| {
            let new = NewInode {
                kind: FileKind::Directory,
                permissions: self.options.permissions,
                uid: self.options.uid,
                gid: self.options.gid,
                rdev: 0,
                target: Vec::new(),
            };
            let ino = self.shared.next_ino.fetch_add(1, Ordering::Relaxed);
            self.shared.inodes.fetch_add(1, Ordering::Relaxed);
            Node::make(self.shared.clone(), ino, &new, None)
        })
    }

    /// A node without a name (memfd, the overlay's upper layer).
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn unnamed(&self, new: &NewInode) -> Result<Arc<Node>, Errno> {
        Ok(Node::make(self.shared.clone(), self.shared.new_ino()?, new, None))
    }

    /// The device number in its inodes' attributes.
    pub fn dev(&self) -> u64 {
        self.shared.dev
    }
}

impl TmpFs {
    /// From now on it takes so many bytes of data. What is in it stays.
    pub fn set_size(&self, bytes: u64) {
        self.shared.max_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl FileSystem for TmpFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root_node().clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        let blocks = self.shared.max_bytes.load(Ordering::Relaxed) / PAGE_SIZE;
        let used = self.shared.bytes.load(Ordering::Relaxed) / PAGE_SIZE;
        let (files, inodes) = (self.shared.max_inodes.load(Ordering::Relaxed), self.shared.inodes.load(Ordering::Relaxed));
        let free = blocks.saturating_sub(used);
        Step::ok(StatFs {
            magic: if self.name == "ramfs" { RAMFS_MAGIC } else { MAGIC },
            block_size: PAGE_SIZE,
            blocks,
            blocks_free: free,
            blocks_available: free,
            files,
            files_free: files.saturating_sub(inodes),
            name_max: 255,
            fsid: self.shared.dev,
        })
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }

    fn options(&self) -> String {
        let mut text = String::new();
        let mut add = |key: &str, value: String| {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(key);
            text.push_str(&value);
        };
        let (size, inodes) = (self.shared.max_bytes.load(Ordering::Relaxed), self.shared.max_inodes.load(Ordering::Relaxed));
        if size != self.options.default_size {
            add("size=", format!("{}k", size >> 10));
        }
        if inodes != self.options.default_inodes {
            add("nr_inodes=", inodes.to_string());
        }
        if self.options.permissions != 0o1777 {
            add("mode=", format!("{:o}", self.options.permissions));
        }
        if self.options.uid != 0 {
            add("uid=", self.options.uid.to_string());
        }
        if self.options.gid != 0 {
            add("gid=", self.options.gid.to_string());
        }
        text
    }

    /// Sets new limits, which must not be below what is used. The root's attributes stay.
    fn reconfigure(&self, config: &Config) -> Result<(), Errno> {
        let Config::Tmpfs(options) = config else { return Ok(()) };
        let shared = &self.shared;
        let fits = |limit: u64, used: &AtomicU64| limit == 0 || used.load(Ordering::Relaxed) <= limit;
        if !fits(options.size, &shared.bytes) || !fits(options.inodes, &shared.inodes) {
            return Err(Errno::EINVAL);
        }
        if options.size != 0 {
            // A file system without a limit gets none later, as on Linux.
            if shared.max_bytes.load(Ordering::Relaxed) == 0 {
                return Err(Errno::EINVAL);
            }
            shared.max_bytes.store(options.size, Ordering::Relaxed);
        }
        if options.inodes != 0 {
            shared.max_inodes.store(options.inodes, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
