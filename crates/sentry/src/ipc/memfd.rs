//! memfd_create(2): a file in memory without a name, and its seals.
//!
//! The file is a tmpfs node; [`MemFd`] and [`MemFdInode`] stand before it and enforce the seals.
//!
//! Locking: a file's seals are locked over what they admit (a write, a change of size, a mapping being made), so that what began before a seal is over
//! when the seal is set. Inside are the locks of address spaces and the data's own. tmpfs never waits.

use std::any::Any;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use platform::Prot;

use crate::Errno;
use crate::abi::uapi;
use crate::fs::tmpfs::{self, TmpFs};
use crate::fs::{
    File, FileKind, FileOps, Inode, Metadata, NewInode, OpenFlags, Origin, SetAttr, Whence, WriteAt, Written, next_device,
};
use crate::mm::{Mappable, MemoryFile, SegmentFlags, Sink, Source, VmaInfo};
use crate::step::Step;
use crate::task::Cx;

/// All seals there are.
pub const SEALS: u32 = uapi::F_SEAL_SEAL | uapi::F_SEAL_SHRINK | uapi::F_SEAL_GROW | WRITE_SEALS | uapi::F_SEAL_EXEC;
const WRITE_SEALS: u32 = uapi::F_SEAL_WRITE | uapi::F_SEAL_FUTURE_WRITE;

/// What may not be done any more (`F_SEAL_*`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Seals {
    set: u32,
}

/// The node of a memfd with its seals.
pub struct MemFdInode {
    node: Arc<dyn Inode>,
    seals: Mutex<Seals>,
}

/// An open memfd.
pub struct MemFd {
    inode: Arc<MemFdInode>,
    data: Arc<dyn FileOps>,
}

/// A new file in memory of `name`. Unless `sealing`, it has `F_SEAL_SEAL` from the start.
///
/// # Errors
/// Those of tmpfs.
pub async fn create(cx: &Cx, name: &str, sealing: bool, permissions: u32) -> Result<Arc<File>, Errno> {
    let container = &cx.task.container;
    let options = tmpfs::Options { size: 0, inodes: 0, ..tmpfs::Options::default() };
    let fs = TmpFs::new(container.memory.clone(), cx.kernel().clock.clone(), next_device(), options);
    let creds = cx.creds();
    let new =
        NewInode { kind: FileKind::Regular, permissions, uid: creds.fsuid, gid: creds.fsgid, rdev: 0, target: Vec::new() };
    let node: Arc<dyn Inode> = fs.unnamed(&new)?;
    let data = node.clone().open(cx, OpenFlags::RDWR).await?;
    let set = if sealing { 0 } else { uapi::F_SEAL_SEAL };
    let inode = Arc::new(MemFdInode { node, seals: Mutex::new(Seals { set }) });
    let ops = Arc::new(MemFd { inode: inode.clone(), data });
    Ok(File::new(
        ops,
        Origin::Anonymous { inode, name: format!("/memfd:{name} (deleted)") },
        OpenFlags::RDWR | OpenFlags::LARGEFILE,
    ))
}

impl MemFd {
    pub fn seals(&self) -> u32 {
        self.inode.seals().set
    }

    /// `F_ADD_SEALS`; `memory` is where mappings of it are to be found.
    ///
    /// # Errors
    /// `EPERM` when sealed against more seals; `EBUSY` for `F_SEAL_WRITE` while there are mappings through which it could be written.
    pub fn add_seals(&self, mut more: u32, memory: &MemoryFile) -> Result<(), Errno> {
        if more & !SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        let mut seals = self.inode.seals();
        if seals.set & uapi::F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if more & uapi::F_SEAL_EXEC != 0
            && let Step::Ready(Ok(metadata)) = self.inode.node.metadata()
            && metadata.permissions & 0o111 != 0
        {
            // What can be run must not change either.
            more |= uapi::F_SEAL_SHRINK | uapi::F_SEAL_GROW | WRITE_SEALS;
        }
        if more & uapi::F_SEAL_WRITE != 0 && seals.set & uapi::F_SEAL_WRITE == 0 && self.is_mapped_writable(memory) {
            return Err(Errno::EBUSY);
        }
        seals.set |= more;
        Ok(())
    }

    /// The node with the seals.
    pub fn inode(&self) -> &Arc<MemFdInode> {
        &self.inode
    }

    fn is_mapped_writable(&self, memory: &MemoryFile) -> bool {
        let ours = |vma: &VmaInfo| {
            let file = vma.file.as_ref().and_then(|(file, _)| file.file.downcast_ref::<File>()?.downcast::<MemFd>());
            let can_write = vma.flags.contains(SegmentFlags::SHARED | SegmentFlags::MAY_WRITE);
            can_write && file.is_some_and(|memfd| Arc::ptr_eq(&memfd.inode, &self.inode))
        };
        memory.has_vma(ours)
    }
}

impl MemFdInode {
    /// The seals. While they are held, none is added.
    pub fn seals(&self) -> MutexGuard<'_, Seals> {
        self.seals.lock()
    }
}

impl Seals {
    /// Whether the file may be mapped so. A shared mapping of a sealed file can never be made writable.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn admit_mapping(self, prot: Prot, flags: SegmentFlags) -> Result<SegmentFlags, Errno> {
        if !flags.contains(SegmentFlags::SHARED) || self.set & WRITE_SEALS == 0 {
            return Ok(flags);
        }
        if prot.contains(Prot::WRITE) { Err(Errno::EPERM) } else { Ok(flags - SegmentFlags::MAY_WRITE) }
    }

    fn admit_write(self, node: &dyn Inode, at: WriteAt, len: usize) -> Result<(), Errno> {
        if self.set & WRITE_SEALS != 0 {
            return Err(Errno::EPERM);
        }
        if self.set & uapi::F_SEAL_GROW == 0 {
            return Ok(());
        }
        let size = size_of(node)?;
        let end = match at {
            WriteAt::Offset(offset) => offset.saturating_add(len as u64),
            WriteAt::Append => size.saturating_add(len as u64),
        };
        if end > size { Err(Errno::EPERM) } else { Ok(()) }
    }
}

/// tmpfs knows it at once.
fn size_of(node: &dyn Inode) -> Result<u64, Errno> {
    match node.metadata() {
        Step::Ready(metadata) => metadata.map(|metadata| metadata.size),
        Step::Wait(_) => Err(Errno::EIO),
    }
}

impl FileOps for MemFd {
    fn read<'a>(&'a self, file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        self.data.read(file, offset, into)
    }

    fn write<'a>(&'a self, file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let seals = self.inode.seals();
        match seals.admit_write(&*self.inode.node, at, from.remaining()) {
            Ok(()) => self.data.write(file, at, from),
            Err(errno) => Step::err(errno),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek_data<'a>(&'a self, offset: u64, whence: Whence) -> Step<'a, Result<u64, Errno>> {
        self.data.seek_data(offset, whence)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.data.mappable()
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        self.data.sync()
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Step<'_, Result<(), Errno>> {
        let seals = self.inode.seals();
        let set = seals.set;
        let grows = size_of(&*self.inode.node).map(|size| offset.saturating_add(len) > size);
        match grows {
            Err(errno) => Step::err(errno),
            Ok(_) if mode & uapi::FALLOC_FL_PUNCH_HOLE != 0 && set & WRITE_SEALS != 0 => Step::err(Errno::EPERM),
            Ok(true) if set & uapi::F_SEAL_GROW != 0 => Step::err(Errno::EPERM),
            Ok(_) => self.data.allocate(mode, offset, len),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for MemFdInode {
    /// It has no name.
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.node.metadata() {
            Step::Ready(Ok(metadata)) => Step::ok(Metadata { nlink: 0, ..metadata }),
            other => other,
        }
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let seals = self.seals();
        let set = seals.set;
        if let Some(new) = change.size {
            let refused = size_of(&*self.node)
                .map(|old| (new < old && set & uapi::F_SEAL_SHRINK != 0) || (new > old && set & uapi::F_SEAL_GROW != 0));
            match refused {
                Ok(false) => {}
                Ok(true) => return Step::err(Errno::EPERM),
                Err(errno) => return Step::err(errno),
            }
        }
        if set & uapi::F_SEAL_EXEC != 0
            && let (Some(new), Step::Ready(Ok(metadata))) = (change.permissions, self.node.metadata())
            && (new ^ metadata.permissions) & 0o111 != 0
        {
            return Step::err(Errno::EPERM);
        }
        self.node.set_attr(change)
    }

    /// By /proc/PID/fd.
    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        match self.node.clone().open(cx, flags) {
            Step::Ready(Ok(data)) => Step::ok(Arc::new(MemFd { inode: self, data })),
            Step::Ready(Err(errno)) => Step::err(errno),
            Step::Wait(open) => Step::wait(async move {
                let data = open.await?;
                Ok(Arc::new(MemFd { inode: self, data }) as Arc<dyn FileOps>)
            }),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::{run, tmpfs};

    /// Bytes that note whether seals could be added while they are taken.
    struct Watching<'a> {
        inode: &'a MemFdInode,
        left: usize,
        held: bool,
    }

    impl Source for Watching<'_> {
        fn remaining(&self) -> usize {
            self.left
        }

        fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
            self.held = self.inode.seals.is_locked();
            into.fill(b'x');
            self.left -= into.len();
            Ok(into.len())
        }
    }

    #[test]
    fn no_seal_comes_between_a_writes_check_and_its_bytes() {
        let new = NewInode { kind: FileKind::Regular, permissions: 0o600, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
        let node: Arc<dyn Inode> = tmpfs().unnamed(&new).expect("a node");
        let data = run(node.clone().open_data(OpenFlags::RDWR).into_future()).expect("open");
        let inode = Arc::new(MemFdInode { node, seals: Mutex::default() });
        let ops = Arc::new(MemFd { inode: inode.clone(), data });
        let file = File::new(ops, Origin::Anonymous { inode: inode.clone(), name: "m".into() }, OpenFlags::RDWR);
        let mut bytes = Watching { inode: &inode, left: 3, held: false };
        assert_eq!(run(file.ops.write(&file, WriteAt::Offset(0), &mut bytes).into_future()).map(|done| done.bytes), Ok(3));
        assert!(bytes.held);
        inode.seals().set |= uapi::F_SEAL_WRITE;
        let mut bytes = Watching { inode: &inode, left: 3, held: false };
        assert_eq!(run(file.ops.write(&file, WriteAt::Offset(0), &mut bytes).into_future()).err(), Some(Errno::EPERM));
    }
}
