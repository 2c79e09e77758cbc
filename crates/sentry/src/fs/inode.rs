//! [`Inode`] and [`FileSystem`]: what a file system implements.

use std::any::Any;
use std::sync::Arc;

use super::fsnotify::{FsEvent, Outside};
use super::{DentryCache, FileOps, Ownership};
use crate::Errno;
use crate::step::{BoxFuture, Step};
use crate::task::Cx;

/// The type of a file, `S_IFMT` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    Fifo = 0o010000,
    CharDevice = 0o020000,
    Directory = 0o040000,
    BlockDevice = 0o060000,
    Regular = 0o100000,
    Symlink = 0o120000,
    Socket = 0o140000,
}

impl FileKind {
    /// The kind in a mode's type bits.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & 0o170000 {
            0o010000 => FileKind::Fifo,
            0o020000 => FileKind::CharDevice,
            0o040000 => FileKind::Directory,
            0o060000 => FileKind::BlockDevice,
            0o100000 => FileKind::Regular,
            0o120000 => FileKind::Symlink,
            0o140000 => FileKind::Socket,
            _ => return None,
        })
    }

    /// The `DT_*` value in directory entries.
    pub fn dirent_type(self) -> u8 {
        (self as u32 >> 12) as u8
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

/// An inode's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    pub dev: u64,
    pub ino: u64,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0o7777.
    pub permissions: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of device nodes.
    pub rdev: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub block_size: u32,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    pub born: Timestamp,
}

impl Metadata {
    /// `st_mode`.
    pub fn mode(&self) -> u32 {
        self.kind as u32 | self.permissions
    }
}

/// A new entry to be made in a directory. The VFS has applied umask and set-group-id rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    pub kind: FileKind,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// The text of a symbolic link.
    pub target: Vec<u8>,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

impl SetTime {
    /// The time meant, `now` being the file system's.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            SetTime::Now => now,
            SetTime::At(at) => at,
        }
    }
}

/// Attributes to be changed. The VFS has checked permissions and decided on setuid clearing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<SetTime>,
    pub modified: Option<SetTime>,
}

impl SetAttr {
    /// Changes permissions, owner, access and modification times; the size and the change time are the file system's affair.
    pub fn apply(&self, metadata: &mut Metadata, now: Timestamp) {
        let time = |set: SetTime| set.resolve(now);
        metadata.permissions = self.permissions.unwrap_or(metadata.permissions);
        metadata.uid = self.uid.unwrap_or(metadata.uid);
        metadata.gid = self.gid.unwrap_or(metadata.gid);
        metadata.accessed = self.accessed.map_or(metadata.accessed, time);
        metadata.modified = self.modified.map_or(metadata.modified, time);
    }
}

/// What a name to be removed must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlinkKind {
    NotDirectory,
    Directory,
}

bitflags::bitflags! {
    /// `RENAME_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
        const WHITEOUT = 4;
    }
}

/// What a symbolic link leads to.
pub enum Link {
    Text(Vec<u8>),
    /// A place, not a text (`/proc/PID/cwd`); with the text that `readlink` shows.
    Magic {
        text: Vec<u8>,
        place: super::Path,
    },
}

/// A call on extended attributes.
#[derive(Debug, Clone, Copy)]
pub enum XattrCall<'a> {
    Get(&'a [u8]),
    /// Value and `XATTR_CREATE`/`XATTR_REPLACE`.
    Set(&'a [u8], &'a [u8], u32),
    List,
    Remove(&'a [u8]),
}

/// Its answer: a value, or names each ended by NUL; empty for set and remove.
pub type XattrReply = Vec<u8>;

/// `statfs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatFs {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u64,
    pub fsid: u64,
}

/// What a batched lookup found: the inodes of the first names, each in the one before. It ends early at something that is no
/// directory, and at a name that failed.
pub struct LookedUp {
    pub inodes: Vec<Arc<dyn Inode>>,
    /// Why the name after them failed.
    pub error: Option<Errno>,
}

/// What is bound to a socket's name in the file system.
pub type SocketSlot = parking_lot::Mutex<Option<Arc<dyn Any + Send + Sync>>>;

/// A mounted file system.
pub trait FileSystem: Send + Sync {
    /// The type's name, as in /proc/mounts.
    fn name(&self) -> &'static str;
    fn root(&self) -> Arc<dyn Inode>;
    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>>;
    /// How long a name found (or not found) stays true without asking again, in nanoseconds: `u64::MAX` for file systems that only
    /// this VFS changes, 0 where names come and go by themselves (proc).
    fn name_ttl_ns(&self) -> u64;
    /// Whether it cannot be written to, however it is mounted.
    fn read_only(&self) -> bool {
        false
    }
    /// How many overlays are on top of each other, this one included.
    fn stack_depth(&self) -> usize {
        0
    }
    /// Options for /proc/mounts beyond the mount's own.
    fn options(&self) -> String {
        String::new()
    }
    /// Takes other options (`MS_REMOUNT`).
    ///
    /// # Errors
    /// `EINVAL`.
    fn reconfigure(&self, _config: &super::types::Config) -> Result<(), Errno> {
        Ok(())
    }
}

/// A file, directory, link or other object of a file system.
///
/// Names are single components, never empty, `.` or `..`, at most 255 bytes. Permissions are the VFS's affair. The VFS holds the directory's
/// lock over calls that change it.
pub trait Inode: Send + Sync + Any {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>>;

    /// The type; it never changes.
    fn kind(&self) -> FileKind {
        match self.metadata() {
            Step::Ready(Ok(metadata)) => metadata.kind,
            _ => FileKind::Regular,
        }
    }

    /// What permission checks need, if it is known without asking the host.
    fn ownership(&self) -> Option<Ownership> {
        match self.metadata() {
            Step::Ready(Ok(metadata)) => Some(Ownership::from(&metadata)),
            _ => None,
        }
    }

    fn set_attr(&self, _change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    /// `ENOENT` if there is no such name.
    fn lookup<'a>(&'a self, _name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::ENOTDIR)
    }

    /// The attributes of an entry that is no directory, where they can be told without making an inode of it: to somebody who only asks for those.
    /// None: it must be looked up.
    fn peek(&self, _name: &[u8]) -> Option<Metadata> {
        None
    }

    /// Looks several names up at once, each in the one before, if this file system can do that in fewer steps.
    fn lookup_path<'a>(&'a self, _names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
        None
    }

    fn create<'a>(&'a self, _name: &'a [u8], _new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::EPERM)
    }

    /// A regular file without a name (`O_TMPFILE`).
    fn create_unnamed<'a>(&'a self, _new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::EOPNOTSUPP)
    }

    fn link<'a>(&'a self, _name: &'a [u8], _target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    fn unlink<'a>(&'a self, _name: &'a [u8], _kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    fn rename<'a>(
        &'a self,
        _name: &'a [u8],
        _to: &'a Arc<dyn Inode>,
        _to_name: &'a [u8],
        _flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    /// A name of this inode was made, moved or removed: the number of links may be another.
    fn names_of_it_changed(&self) {}

    /// The text of a symbolic link that is the same for everyone and known at once.
    fn link_text(&self) -> Option<Arc<[u8]>> {
        None
    }

    fn read_link<'a>(&'a self, _cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        Step::err(Errno::EINVAL)
    }

    /// Opens it (not for fifos, sockets and devices of the VFS's own). Truncation has been done.
    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: super::OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>>;

    /// The data of a regular file or the entries of a directory, opened by the kernel itself (copying up, merging, executing).
    fn open_data(self: Arc<Self>, _access: super::OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        Step::err(Errno::EINVAL)
    }

    /// Where others change files too, and can be seen doing so: sees to it that `events` of this inode are told to the watchers in `cache`, as long as the result
    /// is kept.
    fn watch_outside<'a>(
        &'a self,
        _cache: &'a Arc<DentryCache>,
        _events: FsEvent,
    ) -> Option<BoxFuture<'a, Result<Box<dyn Outside>, Errno>>> {
        None
    }

    /// Where a socket bound to this name is kept.
    fn socket_slot(&self) -> Option<&SocketSlot> {
        None
    }

    fn xattr<'a>(&'a self, _call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        Step::err(Errno::EOPNOTSUPP)
    }

    /// For a file system to know its own.
    fn as_any(&self) -> &dyn Any;
}
