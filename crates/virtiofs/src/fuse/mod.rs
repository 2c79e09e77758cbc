//! The FUSE server: takes a request's bytes, does it by the gofer's passthrough core, and gives the answer's.
//!
//! [`Fs::serve`] may be called from several threads. Nothing a guest sends is believed: numbers of inodes and handles carry a generation and are
//! looked up, names go through [`Name`], sizes are clipped to what there is room for. Of the locks (inodes, handles, devices) one is held at a time,
//! and none across a host call, except that descriptors may be closed under them when all or a tree's are. The watches' comes before them.

mod attr;
mod create;
mod data;
mod dir;
mod init;
mod names;
mod own;
mod replay;
mod root;
#[cfg(test)]
mod tests;
mod xattr;

use std::sync::Arc;

use gofer::{
    Errno,
    passthrough::Node,
    protocol::{Attr, Cache, FileKind, Name},
};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    abi::{self, EntryOut, ForgetOne, InHeader, OutHeader, ROOT_ID, op},
    handles::Handles,
    inodes::{Inodes, Place},
    memory::Pieces,
    trees::{Tree, Trees},
    watches::Watches,
};

pub use self::replay::token;

/// The most bytes after a request's header, file data aside: a 64 KiB attribute with its name.
const MAX_BODY: usize = 72 * 1024;
/// The most bytes written by one request, and read.
pub(crate) const MAX_WRITE: u32 = 1 << 20;
/// How many nodes to drop when there are too many.
const EVICT: usize = 64;

/// What a guest may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Inodes it may know at a time, about 300 bytes each; `ENFILE` beyond. A guest's kernel itself needs about 1 KiB for each.
    pub inodes: usize,
    /// Files it may have open, a descriptor each; `ENFILE` beyond.
    pub handles: usize,
    /// Descriptors kept for inodes; those not used lately give way.
    pub nodes: usize,
}

impl Limits {
    /// What fits in a limit of open files.
    pub fn for_nofile(nofile: u64) -> Limits {
        let spare = usize::try_from(nofile).unwrap_or(usize::MAX).saturating_sub(64);
        Limits { inodes: 1 << 20, handles: (spare / 2).min(1 << 20), nodes: (spare / 2).min(4096) }
    }
}

/// The file system that a device shows.
#[derive(Debug)]
pub struct Fs {
    trees: Arc<Trees>,
    inodes: Mutex<Inodes>,
    handles: Mutex<Handles>,
    /// Devices of the host seen so far: the place of each goes into the inode numbers a guest sees.
    devices: Mutex<Vec<(u32, u32)>>,
    /// Where others' changes are watched for.
    pub watches: Watches,
    /// The one of them that the guest is doing once more.
    replay: Mutex<Option<replay::Replay>>,
}

/// An answer without its header.
enum Answer {
    None,
    Bytes(Vec<u8>),
    /// So many bytes are in place behind the header's.
    InPlace(usize),
}

type Outcome = Result<Answer, Errno>;

/// A request: its header, the bytes after it, and where file data is.
struct Request<'a> {
    head: InHeader,
    body: &'a [u8],
    input: &'a Pieces<'a>,
    output: &'a Pieces<'a>,
}

const HEAD: usize = size_of::<InHeader>();
const OUT_HEAD: usize = size_of::<OutHeader>();

impl Fs {
    pub fn new(trees: Arc<Trees>, limits: Limits) -> Fs {
        Fs {
            trees,
            inodes: Mutex::new(Inodes::new(limits.inodes)),
            handles: Mutex::new(Handles::new(limits.handles)),
            devices: Mutex::default(),
            watches: Watches::default(),
            replay: Mutex::default(),
        }
    }

    /// Makes requests on open files wait, as a hung file system does.
    #[cfg(test)]
    pub fn hold_handles(&self) -> parking_lot::MutexGuard<'_, Handles> {
        self.handles.lock()
    }

    /// Does one request. Returns how many bytes of `output` were written.
    pub fn serve(&self, input: &Pieces<'_>, output: &Pieces<'_>) -> usize {
        let mut head = [0; HEAD];
        if input.copy_out(0, &mut head) < HEAD {
            return 0;
        }
        let Ok(head) = InHeader::read_from_bytes(&head) else { return 0 };
        let (answer, error) = match self.answer(head, input, output) {
            Ok(Answer::None) => return 0,
            Ok(answer) => (answer, 0),
            Err(errno) => (Answer::Bytes(Vec::new()), -errno.raw()),
        };
        let (answer, error) = match answer {
            Answer::Bytes(bytes) if OUT_HEAD + bytes.len() > output.len() => (Vec::new(), -Errno::EOVERFLOW.raw()),
            Answer::Bytes(bytes) => (bytes, error),
            Answer::InPlace(len) => return write_head(output, head.unique, len, 0),
            Answer::None => return 0,
        };
        output.copy_in(OUT_HEAD, &answer);
        write_head(output, head.unique, answer.len(), error)
    }

    fn answer(&self, head: InHeader, input: &Pieces<'_>, output: &Pieces<'_>) -> Outcome {
        let len = (head.len as usize).min(input.len()).saturating_sub(HEAD);
        // Data to be written stays where it is.
        let len = if head.opcode == op::WRITE { len.min(size_of::<abi::WriteIn>()) } else { len };
        if len > MAX_BODY {
            return Err(Errno::EINVAL);
        }
        let mut body = vec![0; len];
        input.copy_out(HEAD, &mut body);
        let request = Request { head, body: &body, input, output };
        match self.replayed(&request) {
            Some(outcome) => outcome,
            None => self.noting(&request, || self.dispatch(&request)),
        }
    }

    fn dispatch(&self, request: &Request<'_>) -> Outcome {
        match request.head.opcode {
            op::INIT => {
                // A guest that was reset says no farewell.
                self.clear();
                init::init(request)
            }
            op::DESTROY => {
                self.clear();
                done()
            }
            op::FORGET => self.forget_one(request),
            op::BATCH_FORGET => self.forget_batch(request),
            op::LOOKUP => self.lookup(request),
            op::GETATTR => self.getattr(request),
            op::SETATTR => self.setattr(request),
            op::READLINK => self.readlink(request),
            op::STATFS => self.statfs(request),
            op::MKNOD => self.mknod(request),
            op::MKDIR => self.mkdir(request),
            op::SYMLINK => self.symlink(request),
            op::LINK => self.link(request),
            op::CREATE => self.create(request),
            op::UNLINK | op::RMDIR => self.unlink(request),
            op::RENAME | op::RENAME2 => self.rename(request),
            op::OPEN => self.open(request),
            op::READ => self.read(request),
            op::WRITE => self.write(request),
            op::FSYNC => self.fsync(request),
            op::FALLOCATE => self.fallocate(request),
            op::LSEEK => self.lseek(request),
            op::COPY_FILE_RANGE => self.copy_file_range(request),
            op::OPENDIR => self.opendir(request),
            op::READDIR | op::READDIRPLUS => self.readdir(request),
            op::FSYNCDIR => self.fsyncdir(request),
            op::RELEASE | op::RELEASEDIR => self.release(request),
            op::GETXATTR => self.getxattr(request),
            op::SETXATTR => self.setxattr(request),
            op::LISTXATTR => self.listxattr(request),
            op::REMOVEXATTR => self.removexattr(request),
            // It has no answer, and what it would interrupt cannot be.
            op::INTERRUPT => Ok(Answer::None),
            // Among these: ACCESS (the guest's kernel checks), FLUSH (nothing is kept back here), locks (the guest's kernel keeps them), IOCTL,
            // POLL, BMAP, SYNCFS, TMPFILE. A guest stops asking.
            _ => Err(Errno::ENOSYS),
        }
    }

    /// The guest knows nothing any more.
    fn clear(&self) {
        self.inodes.lock().clear();
        self.handles.lock().clear();
        self.watches.keep(|_| false);
        *self.replay.lock() = None;
    }

    fn forget_one(&self, request: &Request<'_>) -> Outcome {
        if let Ok(forget) = request.arg::<abi::ForgetIn>() {
            self.inodes.lock().forget(request.head.nodeid, forget.nlookup);
        }
        Ok(Answer::None)
    }

    fn forget_batch(&self, request: &Request<'_>) -> Outcome {
        let Ok((batch, rest)) = request.arg_and_rest::<abi::BatchForgetIn>() else { return Ok(Answer::None) };
        let mut inodes = self.inodes.lock();
        for one in rest.chunks_exact(size_of::<ForgetOne>()).take(batch.count as usize) {
            if let Ok(one) = ForgetOne::read_from_bytes(one) {
                inodes.forget(one.nodeid, one.nlookup);
            }
        }
        Ok(Answer::None)
    }

    /// No longer shows a tree, closes what is open in it, and lets its files go; whether there was one.
    pub fn remove_tree(&self, index: u32) -> bool {
        let removed = self.trees.take(index);
        self.inodes.lock().cut(index);
        self.handles.lock().cut(index);
        self.watches.keep(|id| self.knows(id));
        removed
    }

    /// An inode's node, found again if need be.
    ///
    /// # Errors
    /// `ESTALE` if it is not there any more; the host's.
    pub fn node(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let way = self.inodes.lock().way(id)?;
        let mut at = way.from;
        for step in way.steps.iter().rev() {
            let (node, attr) = self.with_room(|| at.lookup(&step.name)).map_err(gone)?;
            let mut inodes = self.inodes.lock();
            if !inodes.is(step.id, &attr) {
                return Err(Errno::ESTALE);
            }
            inodes.keep(step.id, &node);
            drop(inodes);
            at = node;
        }
        Ok(at)
    }

    /// A directory's node and tree, for an operation on its names.
    fn directory(&self, id: u64) -> Result<(Arc<Node>, Arc<Tree>), Errno> {
        if id == ROOT_ID {
            return Err(Errno::EROFS);
        }
        let known = self.inodes.lock().known(id)?;
        if known.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let node = match known.node {
            Some(node) => node,
            None => self.node(id)?,
        };
        Ok((node, known.tree))
    }

    /// Does what takes a descriptor, after closing some if there are none left.
    fn with_room<T>(&self, mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            match act() {
                Err(Errno::ENFILE) => {
                    let evicted = self.inodes.lock().evict(EVICT);
                    if evicted.is_empty() {
                        return Err(Errno::ENFILE);
                    }
                    for (id, node) in evicted {
                        if let Ok(attr) = node.attr() {
                            self.inodes.lock().identified(id, &attr);
                        }
                    }
                }
                other => return other,
            }
        }
    }

    /// The number under which a guest sees a host's inode. Those of the first device are its own; the others have the device's place in
    /// their upper bits, which few file systems use.
    fn ino(&self, dev: (u32, u32), ino: u64) -> u64 {
        let mut devices = self.devices.lock();
        let place = match devices.iter().position(|&known| known == dev) {
            Some(place) => place,
            None if devices.len() < usize::from(u16::MAX) => {
                devices.push(dev);
                devices.len() - 1
            }
            None => devices.len(),
        };
        ino ^ ((place as u64) << 48)
    }

    fn fuse_attr(&self, attr: &Attr) -> abi::Attr {
        abi::Attr {
            ino: self.ino((attr.dev_major, attr.dev_minor), attr.ino),
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.seconds as u64,
            mtime: attr.mtime.seconds as u64,
            ctime: attr.ctime.seconds as u64,
            atimensec: attr.atime.nanoseconds,
            mtimensec: attr.mtime.nanoseconds,
            ctimensec: attr.ctime.nanoseconds,
            mode: mode(attr),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: device(attr.rdev_major, attr.rdev_minor),
            blksize: attr.blksize,
            flags: 0,
        }
    }

    /// The guest knows a directory that others may change.
    fn learnt(&self, id: u64) {
        if !self.watches.want(id) {
            return;
        }
        // Without a watch the guest is not told of changes, as it is beyond the limit of watches.
        let Some(home) = self.trees.from(0) else { return };
        let _ = self.node(id).and_then(|node| self.watches.watch(id, &node, &home.root));
    }

    /// Whether it is an inode that the guest knows.
    pub fn knows(&self, id: u64) -> bool {
        self.inodes.lock().known(id).is_ok()
    }

    /// Whether two inodes are in one tree.
    pub fn is_in_one_tree(&self, one: u64, other: u64) -> bool {
        let mut inodes = self.inodes.lock();
        let mut tree = |id| inodes.known(id).map(|known| known.tree.index);
        tree(one).is_ok_and(|index| tree(other) == Ok(index))
    }

    /// An inode's way from the root of all.
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        self.inodes.lock().path(id)
    }

    /// What a guest is told of an inode, which counts as a lookup.
    fn entry(
        &self,
        tree: &Arc<Tree>,
        place: Option<Place<'_>>,
        attr: &Attr,
        node: Option<&Arc<Node>>,
    ) -> Result<EntryOut, Errno> {
        let nodeid = self.inodes.lock().tell(tree, place, attr, node)?;
        if attr.kind == FileKind::Directory && tree.told {
            self.learnt(nodeid);
        }
        let valid = tree.validity().as_secs();
        // The names in the root come and go with containers.
        let entry_valid = if place.is_some() { valid } else { 1 };
        Ok(EntryOut { nodeid, entry_valid, attr_valid: valid, attr: self.fuse_attr(attr), ..EntryOut::default() })
    }
}

impl<'a> Request<'a> {
    /// The fixed part of the body.
    fn arg<T: FromBytes + Immutable + KnownLayout>(&self) -> Result<T, Errno> {
        self.arg_and_rest().map(|(arg, _)| arg)
    }

    fn arg_and_rest<T: FromBytes + Immutable + KnownLayout>(&self) -> Result<(T, &'a [u8]), Errno> {
        T::read_from_prefix(self.body).map_err(|_| Errno::EINVAL)
    }

    /// How many bytes of data an answer may have.
    fn room(&self) -> usize {
        self.output.len().saturating_sub(OUT_HEAD)
    }
}

/// Splits off a string that ends with NUL.
fn c_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let end = bytes.iter().position(|&b| b == 0).ok_or(Errno::EINVAL)?;
    let (string, rest) = bytes.split_at(end);
    Ok((string, rest.get(1..).unwrap_or_default()))
}

/// Splits off a name.
fn name(bytes: &[u8]) -> Result<(Name, &[u8]), Errno> {
    let (name, rest) = c_string(bytes)?;
    Ok((Name::new(name)?, rest))
}

fn write_head(output: &Pieces<'_>, unique: u64, len: usize, error: i32) -> usize {
    let len = OUT_HEAD + len;
    let head = OutHeader { len: len as u32, error, unique };
    match output.copy_in(0, head.as_bytes()) {
        OUT_HEAD => len,
        _ => 0,
    }
}

fn done() -> Outcome {
    Ok(Answer::Bytes(Vec::new()))
}

fn reply(value: &(impl IntoBytes + Immutable)) -> Outcome {
    Ok(Answer::Bytes(value.as_bytes().to_vec()))
}

/// On the way to an inode that was there: its name is gone.
fn gone(errno: Errno) -> Errno {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Errno::ESTALE,
        errno => errno,
    }
}

/// `S_IFMT`.
pub fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

fn mode(attr: &Attr) -> u32 {
    kind_bits(attr.kind) | attr.mode
}

/// Linux's 32-bit device number, as the guest's kernel decodes it (`new_decode_dev`).
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn is_exclusive(tree: &Tree) -> bool {
    tree.cache == Cache::Exclusive
}
