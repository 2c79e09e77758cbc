//! Attributes: from the gofer's words to the VFS's, and the inode's copy of them.

use gofer::protocol::{Attr, FileKind as HostKind, SetAttr as HostSetAttr, SetTime as HostSetTime, Timestamp as HostTimestamp};
use hostcall::io::FileStatus;

use super::Tree;
use crate::fs::dev::device_number;
use crate::fs::{FileKind, Metadata, Ownership, SetAttr, SetTime, Timestamp};

/// What the inode knows of itself.
pub(super) struct Cached {
    pub metadata: Metadata,
    /// When the host is to be asked again (monotonic nanoseconds).
    pub valid_until: u64,
    /// Sizes, times or link count have changed here, and the host's figures are to be had first. Who owns it is known.
    pub stale: bool,
    /// The tree's count of changes at the last change that was made here. An answer to an older question is not taken for the truth.
    pub changed_at: u64,
}

impl Cached {
    pub fn ownership(&self, tree: &Tree) -> Option<Ownership> {
        tree.is_before(self.valid_until).then(|| Ownership::from(&self.metadata))
    }

    /// Takes in what the host said when the tree's count was `seen`.
    pub fn learn(&mut self, metadata: Metadata, seen: u64, valid_until: u64) {
        if self.changed_at > seen {
            self.valid_until = 0;
        } else if self.stale || valid_until >= self.valid_until {
            // What was told later is known already otherwise.
            *self = Cached { metadata, valid_until, stale: false, changed_at: self.changed_at };
        }
    }

    /// Takes in `fstat` of one's own descriptor. (Owners are left: they may be numbered otherwise there.)
    pub fn learn_status(&mut self, status: &FileStatus) {
        let m = &mut self.metadata;
        m.permissions = status.mode & 0o7777;
        m.nlink = u32::try_from(status.nlink).unwrap_or(u32::MAX);
        m.size = status.size;
        m.blocks = status.blocks;
        m.accessed = time(status.accessed);
        m.modified = time(status.modified);
        m.changed = time(status.changed);
        self.stale = false;
    }
}

fn time((sec, nsec): (i64, u32)) -> Timestamp {
    Timestamp { sec, nsec: nsec.min(999_999_999) }
}

pub(super) fn kind(kind: HostKind) -> FileKind {
    match kind {
        HostKind::Regular => FileKind::Regular,
        HostKind::Directory => FileKind::Directory,
        HostKind::Symlink => FileKind::Symlink,
        HostKind::Fifo => FileKind::Fifo,
        HostKind::Socket => FileKind::Socket,
        HostKind::CharDevice => FileKind::CharDevice,
        HostKind::BlockDevice => FileKind::BlockDevice,
    }
}

/// The gofer's attributes as the VFS has them; figures that no file can have are cut to those that one can.
pub(super) fn metadata(attr: &Attr, dev: u64) -> Metadata {
    let size = attr.size.min(i64::MAX as u64);
    let stamp = |at: HostTimestamp| time((at.seconds, at.nanoseconds));
    Metadata {
        dev,
        ino: attr.ino,
        kind: kind(attr.kind),
        permissions: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: device_number(attr.rdev_major, attr.rdev_minor),
        size,
        blocks: attr.blocks.min(i64::MAX as u64),
        block_size: attr.blksize.clamp(512, 1 << 20),
        accessed: stamp(attr.atime),
        modified: stamp(attr.mtime),
        changed: stamp(attr.ctime),
        born: attr.btime.map_or(Timestamp::default(), stamp),
    }
}

pub(super) fn change(change: &SetAttr) -> HostSetAttr {
    let time = |set: SetTime| match set {
        SetTime::Now => HostSetTime::Now,
        SetTime::At(at) => HostSetTime::At(HostTimestamp { seconds: at.sec, nanoseconds: at.nsec }),
    };
    HostSetAttr {
        uid: change.uid,
        gid: change.gid,
        mode: change.permissions,
        size: change.size,
        atime: change.accessed.map(time),
        mtime: change.modified.map(time),
    }
}
