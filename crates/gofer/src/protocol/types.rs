//! The values that requests and responses carry.

use std::num::NonZeroU64;

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    Malformed, Name, Packed,
    wire::{Reader, Wire, wire_enum, wire_struct},
};

/// A file or directory known to the server, by a number it gave. Numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(NonZeroU64);

impl Handle {
    pub fn from_raw(raw: u64) -> Option<Handle> {
        NonZeroU64::new(raw).map(Handle)
    }

    pub fn raw(self) -> u64 {
        self.0.get()
    }
}

impl Wire for Handle {
    fn put(&self, out: &mut Vec<u8>) {
        self.raw().put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Handle, Malformed> {
        Handle::from_raw(u64::get(from)?).ok_or(Malformed::BadValue("handle"))
    }
}

wire_enum! {
    /// Whether an attach may be written.
    Access { ReadOnly = 0, ReadWrite = 1, }
}

wire_enum! {
    /// How far the sentry may trust its caches of an attach.
    Cache {
        /// Nobody else writes there: dentries and attributes may be kept.
        Exclusive = 0,
        /// Others write too: dentries and attributes are checked again at each use.
        Shared = 1,
    }
}

wire_enum! {
    /// The access mode of a donated descriptor.
    OpenHow { Read = 0, Write = 1, ReadWrite = 2, }
}

wire_enum! {
    /// `O_TRUNC`; done after the file's identity has been checked, never by the open itself.
    Truncate { Keep = 0, ToZero = 1, }
}

wire_enum! {
    FileKind { Regular = 0, Directory = 1, Symlink = 2, Fifo = 3, Socket = 4, CharDevice = 5, BlockDevice = 6, }
}

wire_enum! {
    /// What `mknod` may make. Devices have no value here but for 0/0, which leads to no driver: overlayfs' mark of a name that is removed.
    MakeNode { Regular = 0, Fifo = 3, Socket = 4, Whiteout = 5, }
}

wire_enum! {
    /// `unlink` or `rmdir`.
    EntryKind { NotDirectory = 0, Directory = 1, }
}

wire_enum! {
    /// `renameat2`'s flags, of which at most one may be given.
    RenameKind {
        Replace = 0,
        NoReplace = 1,
        Exchange = 2,
        /// A device 0/0 takes the old name.
        Whiteout = 3,
    }
}

wire_enum! {
    Durability {
        /// `fsync`
        All = 0,
        /// `fdatasync`
        Data = 1,
    }
}

wire_enum! {
    /// Of which entries attributes are wanted.
    ReadDirDetail { Names = 0, Attributes = 1, Directories = 2, }
}

wire_enum! {
    /// `setxattr`'s flags.
    XattrMode { Set = 0, Create = 1, Replace = 2, }
}

wire_struct! {
    /// A point in time; `nanoseconds` below 10⁹.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    Timestamp { seconds: i64, nanoseconds: u32, }
}

/// What `statx` tells, as the host has it. Ids are those of the gofer's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub kind: FileKind,
    /// Permission bits with set-id and sticky bits (07777).
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Option<Timestamp>,
}

/// An [`Attr`] as it travels: always of the same length.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawAttr {
    ino: U64,
    size: U64,
    blocks: U64,
    /// Accessed, modified, changed, born.
    seconds: [I64; 4],
    nanoseconds: [U32; 4],
    dev: [U32; 2],
    rdev: [U32; 2],
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    blksize: U32,
    kind: u8,
    has_btime: u8,
}

impl From<&Attr> for RawAttr {
    fn from(attr: &Attr) -> RawAttr {
        let times = [attr.atime, attr.mtime, attr.ctime, attr.btime.unwrap_or_default()];
        RawAttr {
            ino: attr.ino.into(),
            size: attr.size.into(),
            blocks: attr.blocks.into(),
            seconds: times.map(|time| time.seconds.into()),
            nanoseconds: times.map(|time| time.nanoseconds.into()),
            dev: [attr.dev_major.into(), attr.dev_minor.into()],
            rdev: [attr.rdev_major.into(), attr.rdev_minor.into()],
            mode: attr.mode.into(),
            nlink: attr.nlink.into(),
            uid: attr.uid.into(),
            gid: attr.gid.into(),
            blksize: attr.blksize.into(),
            kind: attr.kind as u8,
            has_btime: attr.btime.is_some().into(),
        }
    }
}

impl RawAttr {
    /// # Errors
    /// `BadValue` for what no attributes are written as.
    pub(super) fn read(&self) -> Result<Attr, Malformed> {
        let time = |at: usize| Timestamp { seconds: self.seconds[at].get(), nanoseconds: self.nanoseconds[at].get() };
        let btime = match (self.has_btime, time(3)) {
            (1, time) => Some(time),
            (0, time) if time == Timestamp::default() => None,
            _ => return Err(Malformed::BadValue("birth time")),
        };
        Ok(Attr {
            ino: self.ino.get(),
            dev_major: self.dev[0].get(),
            dev_minor: self.dev[1].get(),
            kind: FileKind::from_raw(self.kind)?,
            mode: self.mode.get(),
            nlink: self.nlink.get(),
            uid: self.uid.get(),
            gid: self.gid.get(),
            rdev_major: self.rdev[0].get(),
            rdev_minor: self.rdev[1].get(),
            size: self.size.get(),
            blocks: self.blocks.get(),
            blksize: self.blksize.get(),
            atime: time(0),
            mtime: time(1),
            ctime: time(2),
            btime,
        })
    }
}

impl Wire for Attr {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(RawAttr::from(self).as_bytes());
    }
    fn get(from: &mut Reader<'_>) -> Result<Attr, Malformed> {
        let bytes = from.take(size_of::<RawAttr>())?;
        RawAttr::ref_from_bytes(bytes).map_err(|_| Malformed::Short)?.read()
    }
}

wire_struct! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Entry { handle: Handle, attr: Attr, }
}

wire_struct! {
    /// Who owns a new file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Owner { uid: u32, gid: u32, }
}

wire_struct! {
    /// A directory of a scan.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Scanned {
        /// 0: one of the names asked for; else it is in the directory before it that has a depth less.
        depth: u8,
        name: Name,
        attr: Attr,
        entries: Packed,
        /// These are all entries.
        end: bool,
    }
}

wire_struct! {
    /// What changes; `None` leaves as is. Owner first, then mode (a change of owner clears set-id bits), size, times.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    SetAttr {
        uid: Option<u32>,
        gid: Option<u32>,
        /// 07777
        mode: Option<u32>,
        size: Option<u64>,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    }
}

/// `utimensat`'s two ways to give a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

impl Wire for SetTime {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            SetTime::Now => 0u8.put(out),
            SetTime::At(time) => {
                1u8.put(out);
                time.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<SetTime, Malformed> {
        match u8::get(from)? {
            0 => Ok(SetTime::Now),
            1 => match Timestamp::get(from)? {
                time if time.nanoseconds < 1_000_000_000 => Ok(SetTime::At(time)),
                _ => Err(Malformed::BadValue("nanoseconds")),
            },
            _ => Err(Malformed::BadValue("time")),
        }
    }
}

/// Why a walk ended where it did. The steps before it are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// All names were walked.
    Complete,
    /// The last step is a symbolic link and names are left.
    Symlink,
    /// The last step is neither directory nor symbolic link, and names are left.
    NotDirectory,
    /// The next name failed: `ENOENT`, or another error.
    Failed(hostcall::Errno),
}

impl Wire for WalkEnd {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            WalkEnd::Complete => 0u8.put(out),
            WalkEnd::Symlink => 1u8.put(out),
            WalkEnd::NotDirectory => 2u8.put(out),
            WalkEnd::Failed(errno) => {
                3u8.put(out);
                errno.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<WalkEnd, Malformed> {
        match u8::get(from)? {
            0 => Ok(WalkEnd::Complete),
            1 => Ok(WalkEnd::Symlink),
            2 => Ok(WalkEnd::NotDirectory),
            3 => Ok(WalkEnd::Failed(Wire::get(from)?)),
            _ => Err(Malformed::BadValue("walk end")),
        }
    }
}

wire_struct! {
    /// What `statfs` tells.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    FsStat {
        kind: u64,
        block_size: u64,
        blocks: u64,
        blocks_free: u64,
        blocks_available: u64,
        files: u64,
        files_free: u64,
        name_max: u64,
        fragment_size: u64,
    }
}

impl Scanned {
    /// How many bytes of a message the directory takes.
    pub fn encoded_len(&self) -> usize {
        1 + 4 + self.name.as_bytes().len() + size_of::<RawAttr>() + self.entries.encoded_len() + 1
    }
}
