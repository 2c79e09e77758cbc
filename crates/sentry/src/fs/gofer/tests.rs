//! Over a real gofer server, in a thread of the test, on a folder of its own.

use std::fs as host_fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use gofer::protocol::{Access as HostAccess, Cache as HostCache};
use gofer::server::{AttachConfig, Config, Server};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::dir::GoferDir;
use super::*;
use crate::executor::{Reactor, block_on};
use crate::fs::anon::{Anon, AnonInode};
use crate::fs::overlay::Overlay;
use crate::fs::testing::{Tree as TestTree, tmpfs};
use crate::fs::walk::{Found, try_find_in};
use crate::fs::{
    File, FileKind, FileOps, NewInode, OpenFlags, Origin, RenameFlags, ResolveFlags, SetAttr, UnlinkKind, Whence, WriteAt,
    XattrCall,
};
use crate::mm::{Access as MapAccess, Sink, Source};

pub(super) struct Setup {
    pub path: PathBuf,
    pub fs: Arc<GoferFs>,
    now: Arc<AtomicU64>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = host_fs::remove_dir_all(&self.path);
    }
}

fn folder(what: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("nacre-goferfs-{what}-{}-{n}", std::process::id()));
    host_fs::create_dir_all(&path).expect("folder");
    path
}

fn serve(path: &Path, access: HostAccess, max_handles: usize) -> Connection {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
    let source = gofer::passthrough::Source::at_path(path).expect("source");
    let attaches = vec![AttachConfig { source, access, cache: HostCache::Exclusive }];
    let server = Server::new(Config { attaches, max_handles, spin: std::time::Duration::ZERO }).expect("server");
    std::thread::spawn(move || server.serve(theirs));
    connected(ours)
}

fn connected(ours: std::os::fd::OwnedFd) -> Connection {
    let reactor = Reactor::new().expect("epoll");
    let running = reactor.clone();
    std::thread::spawn(move || running.run());
    connect(&reactor, ours, 1).expect("connect")
}

fn services(fds: Arc<FdCache>) -> (Services, Arc<AtomicU64>) {
    let pool = IoPool::new();
    let working = pool.clone();
    std::thread::spawn(move || working.work());
    let now = Arc::new(AtomicU64::new(0));
    (Services { pool, fds, clock: Clock::Virtual(now.clone()) }, now)
}

pub(super) fn setup(what: &str, access: Access, cache: Cache, fill: impl FnOnce(&Path)) -> Setup {
    hostcall::copy::install();
    let path = folder(what);
    fill(&path);
    let (services, now) = services(FdCache::new());
    let client = serve(&path, access, 5000);
    let fs = block_on(GoferFs::new(&client, 0, access, cache, 77, services)).expect("attach");
    Setup { path, fs, now }
}

impl Setup {
    fn walk(&self, path: &str) -> Result<Arc<dyn Inode>, Errno> {
        let mut at: Arc<dyn Inode> = self.fs.root();
        for name in path.split('/') {
            at = block_on(async { at.lookup(name.as_bytes()).await })?;
        }
        Ok(at)
    }

    fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        open(self.walk(path)?, flags)
    }

    fn make(&self, dir: &str, name: &str, kind: FileKind) -> Result<Arc<dyn Inode>, Errno> {
        let dir = if dir.is_empty() { self.fs.root() } else { self.walk(dir)? };
        let new = NewInode { kind, permissions: 0o640, uid: 0, gid: 0, rdev: 0, target: b"to/there".to_vec() };
        block_on(async { dir.create(name.as_bytes(), &new).await })
    }
}

fn open(inode: Arc<dyn Inode>, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let ops = block_on(async { inode.open_data(flags).await })?;
    Ok(file(ops, flags))
}

fn file(ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
    let inode = AnonInode::new(&Anon::Object("test"), 1, (0, 0), 0);
    File::new(ops, Origin::Anonymous { inode, name: "test".into() }, flags)
}

struct Bounded(Vec<u8>, usize);

impl Sink for Bounded {
    fn remaining(&self) -> usize {
        self.1 - self.0.len()
    }
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.remaining());
        self.0.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
}

/// As guest memory: a window's bytes, given a piece at a time.
struct Memory<'a> {
    window: &'a hostcall::Window,
    at: u64,
    end: u64,
}

impl Memory<'_> {
    fn direct(
        &mut self,
        max: usize,
        io: &mut dyn FnMut(&[hostcall::WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = max.min(30_000).min(Sink::remaining(self));
        let n = io(&[self.window.slice(self.at, len).expect("slice")])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Sink for Memory<'_> {
    fn remaining(&self) -> usize {
        (self.end - self.at) as usize
    }
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.window.write(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn put_direct(
        &mut self,
        max: usize,
        fill: &mut dyn FnMut(&[hostcall::WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        Some(self.direct(max, fill))
    }
}

impl Source for Memory<'_> {
    fn remaining(&self) -> usize {
        (self.end - self.at) as usize
    }
    fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let n = into.len().min(Source::remaining(self));
        self.window.read(self.at, &mut into[..n])?;
        self.at += n as u64;
        Ok(n)
    }
    fn take_direct(
        &mut self,
        max: usize,
        drain: &mut dyn FnMut(&[hostcall::WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        Some(self.direct(max, drain))
    }
}

fn read(file: &File, offset: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut into = Bounded(Vec::new(), max);
    let n = block_on(async { file.ops.read(file, offset, &mut into).await })?;
    assert_eq!(n, into.0.len());
    Ok(into.0)
}

fn write(file: &File, at: WriteAt, mut bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    let mut at = at;
    while !bytes.is_empty() {
        let written = block_on(async { file.ops.write(file, at, &mut bytes).await })?;
        done += written.bytes;
        if at != WriteAt::Append {
            at = WriteAt::Offset(written.end);
        }
    }
    Ok(done)
}

fn list(inode: &Arc<dyn Inode>) -> Vec<(String, FileKind, u64)> {
    let own = inode.as_any().downcast_ref::<GoferInode>().expect("ours").me().expect("alive");
    let dir = file(GoferDir::new(own), OpenFlags::DIRECTORY);
    list_open(&dir, 0, usize::MAX)
}

fn list_open(dir: &File, from: u64, most: usize) -> Vec<(String, FileKind, u64)> {
    let mut names = Vec::new();
    let mut emit = |entry: crate::fs::DirEntry<'_>| {
        names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.kind, entry.next));
        names.len() < most
    };
    block_on(async { dir.ops.read_dir(dir, from, &mut emit).await }).expect("read_dir");
    names
}

fn names(path: &str) -> Vec<&[u8]> {
    path.split('/').map(str::as_bytes).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i) as u8).collect()
}

#[test]
fn several_names_are_looked_up_in_one_step() {
    let setup = setup("walk", Access::ReadOnly, Cache::Exclusive, |path| {
        host_fs::create_dir_all(path.join("a/b")).expect("mkdir");
        host_fs::write(path.join("a/b/f"), "text").expect("write");
        symlink("b/f", path.join("a/l")).expect("symlink");
        host_fs::hard_link(path.join("a/b/f"), path.join("a/h")).expect("link");
    });
    let root = setup.fs.root();
    let walk = |path: &str| block_on(async { root.lookup_path(&names(path)).expect("batched").await });
    let found = walk("a/b/f").expect("walk");
    assert!(found.inodes.len() == 3 && found.error.is_none());
    let kinds: Vec<_> = found.inodes.iter().map(|inode| inode.kind()).collect();
    assert_eq!(kinds, [FileKind::Directory, FileKind::Directory, FileKind::Regular]);
    let metadata = block_on(async { found.inodes[2].metadata().await }).expect("metadata");
    let host = host_fs::metadata(setup.path.join("a/b/f")).expect("stat");
    assert_eq!((metadata.size, metadata.ino, metadata.nlink), (4, host.ino(), 2));
    assert_eq!((metadata.dev, setup.fs.dev()), (77, 77));
    assert_eq!((metadata.modified.sec, i64::from(metadata.modified.nsec)), (host.mtime(), host.mtime_nsec()));

    let found = walk("a/l/x").expect("walk");
    assert_eq!(found.inodes.len(), 2);
    assert_eq!(found.inodes[1].link_text().as_deref(), Some(&b"b/f"[..]));
    let found = walk("a/none/x").expect("walk");
    assert_eq!((found.inodes.len(), found.error), (1, Some(Errno::ENOENT)));
    let found = walk("a/b/f/x").expect("walk");
    assert_eq!(found.inodes.len(), 3);

    // Hard links are one inode.
    let (one, other) = (setup.walk("a/b/f").expect("f"), setup.walk("a/h").expect("h"));
    assert!(std::ptr::addr_eq(Arc::as_ptr(&one), Arc::as_ptr(&other)));
    assert_eq!(setup.walk("a/..").err(), Some(Errno::EINVAL));
    assert_eq!(setup.walk(&format!("a/{}", "x".repeat(256))).err(), Some(Errno::ENAMETOOLONG));
}

#[test]
fn data_is_read_straight_into_memory_and_by_the_pool() {
    let data = pattern(200_000);
    let setup = setup("read", Access::ReadOnly, Cache::Exclusive, |path| {
        host_fs::write(path.join("f"), &data).expect("write");
    });
    let file = setup.open("f", OpenFlags::empty()).expect("open");
    assert_eq!(read(&file, 0, 1 << 20), Ok(data.clone()));
    assert_eq!(read(&file, 199_990, 100), Ok(data[199_990..].to_vec()));
    assert_eq!(read(&file, 200_000, 100), Ok(Vec::new()));
    assert_eq!(read(&file, 1 << 63, 1), Err(Errno::EINVAL));
    assert_eq!(write(&file, WriteAt::Offset(0), b"x"), Err(Errno::EBADF));
    assert_eq!(setup.open("f", OpenFlags::RDWR).err(), Some(Errno::EROFS));

    let memory = hostcall::memory::anonymous_file("memory").expect("memfd");
    io_len(&memory, 1 << 20);
    let window = hostcall::Window::map(Arc::new(memory), 0, 1 << 20, hostcall::window::WindowMode::ReadWrite).expect("map");
    let mut into = Memory { window: &window, at: 100, end: 100 + 150_000 };
    let n = block_on(async { file.ops.read(&file, 1000, &mut into).await });
    assert_eq!(n, Ok(150_000));
    let mut back = vec![0; 150_000];
    window.read(100, &mut back).expect("read");
    assert!(back == data[1000..151_000]);

    // The slow way.
    let inode = setup.walk("f").expect("f");
    let own = inode.as_any().downcast_ref::<GoferInode>().expect("ours").me().expect("alive");
    let donated = own.open_for(gofer::protocol::OpenHow::Read).expect("open");
    donated.pace.no_nowait(super::fd_cache::Io::Read);
    donated.pace.took(super::fd_cache::Io::Read, u64::MAX);
    let mut into = Memory { window: &window, at: 0, end: 1 << 20 };
    let step = file.ops.read(&file, 0, &mut into);
    assert!(matches!(step, Step::Wait(_)));
    assert_eq!(block_on(async { step.await }), Ok(200_000));
    let mut back = vec![0; 200_000];
    window.read(0, &mut back).expect("read");
    assert!(back == data);
    assert_eq!(block_on(async { file.ops.seek_data(0, Whence::Hole).await }), Ok(200_000));
    assert_eq!(block_on(async { file.ops.seek_data(200_001, Whence::Data).await }), Err(Errno::ENXIO));
}

fn io_len(file: &std::os::fd::OwnedFd, len: u64) {
    hostcall::io::set_len(file, len).expect("ftruncate");
}

#[test]
fn pages_are_the_host_files_own() {
    let setup = setup("mmap", Access::ReadWrite, Cache::Exclusive, |path| {
        host_fs::write(path.join("f"), pattern(10_000)).expect("write");
    });
    let file = setup.open("f", OpenFlags::empty()).expect("open");
    let pages = file.ops.mappable().expect("mappable");
    assert_eq!(pages.size(), 10_000);
    assert_eq!(pages.identity(), file.ops.mappable().expect("mappable").identity());
    let pieces = pages.pieces(4096, 1 << 20, MapAccess::Read).expect("pieces");
    assert_eq!(pieces.len(), 1);
    // Up to the end of the last page.
    assert_eq!((pieces[0].offset, pieces[0].len), (4096, 8192));
    let at = pieces[0].offset - pieces[0].window.offset();
    let mut bytes = [0; 100];
    pieces[0].window.read(at, &mut bytes).expect("read");
    assert_eq!(bytes, pattern(10_000)[4096..4196]);
    assert!(pages.pieces(12288, 4096, MapAccess::Read).expect("pieces").is_empty());
    assert_eq!(pages.pieces(0, 4096, MapAccess::Write).err(), Some(Errno::EACCES));

    let version = pages.version();
    assert_eq!((version.is_some(), pages.version()), (true, version));

    // Written by one way, seen by the other; the file grows out of its window.
    let writer = setup.open("f", OpenFlags::RDWR).expect("open");
    assert_eq!(write(&writer, WriteAt::Offset(0), b"x"), Ok(1));
    assert_ne!(pages.version(), version);
    let shared = writer.ops.mappable().expect("mappable");
    assert_eq!(shared.identity(), pages.identity());
    let piece = shared.pieces(0, 4096, MapAccess::Write).expect("pieces").remove(0);
    piece.window.write(10, b"by memory").expect("write");
    assert_eq!(read(&file, 10, 9), Ok(b"by memory".to_vec()));
    assert_eq!(write(&writer, WriteAt::Offset(150_000), b"far"), Ok(3));
    let piece = shared.pieces(147_456, 4096, MapAccess::Write).expect("pieces").remove(0);
    let mut bytes = [0; 3];
    piece.window.read(150_000 - piece.window.offset(), &mut bytes).expect("read");
    assert_eq!(&bytes, b"far");
    assert_eq!((pages.version(), shared.version()), (None, None));
    // Mapped shared: the host is asked for size and times each time.
    let metadata = block_on(async { setup.walk("f").expect("f").metadata().await }).expect("metadata");
    assert_eq!(metadata.size, 150_003);
}

#[test]
fn large_directories_are_read_in_batches() {
    let setup = setup("readdir", Access::ReadWrite, Cache::Exclusive, |path| {
        for i in 0..5000 {
            host_fs::write(path.join(format!("a-rather-long-name-of-a-file-{i:05}")), "").expect("write");
        }
        host_fs::create_dir(path.join("sub")).expect("mkdir");
    });
    let root: Arc<dyn Inode> = setup.fs.root();
    let all = list(&root);
    let mut sorted: Vec<_> = all.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!(sorted[..2], [".", ".."]);
    sorted.sort();
    sorted.dedup();
    assert_eq!((all.len(), sorted.len()), (5003, 5003));
    let positions: Vec<_> = all.iter().map(|(.., next)| *next).collect();
    assert_eq!(positions, (1..=5003).collect::<Vec<_>>());
    assert!(all.iter().any(|(name, kind, _)| name == "sub" && *kind == FileKind::Directory));

    // A part at a time, also backwards, on one open directory.
    let own = root.as_any().downcast_ref::<GoferInode>().expect("ours").me().expect("alive");
    let dir = file(GoferDir::new(own), OpenFlags::DIRECTORY);
    let mut from = 0;
    let mut count = 0;
    loop {
        let part = list_open(&dir, from, 7);
        let Some(last) = part.last() else { break };
        assert!(part.iter().eq(&all[count..count + part.len()]));
        (from, count) = (last.2, count + part.len());
    }
    assert_eq!(count, 5003);
    assert!(list_open(&dir, 100, 50).iter().eq(&all[100..150]));
    assert!(list_open(&dir, 4000, 50).iter().eq(&all[4000..4050]));
    assert!(list_open(&dir, 1 << 40, 50).is_empty());

    // Removed as they are read: each is seen.
    let mut seen = 0;
    let mut from = 0;
    loop {
        let part = list_open(&dir, from, 100);
        let Some(last) = part.last() else { break };
        from = last.2;
        for (name, kind, _) in &part {
            if *kind == FileKind::Regular {
                block_on(async { root.unlink(name.as_bytes(), UnlinkKind::NotDirectory).await }).expect("unlink");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 5000);
    assert_eq!(list(&root).len(), 3);
    // A small directory is kept, and a change is not missed.
    let sub = setup.walk("sub").expect("sub");
    assert_eq!(list(&sub).len(), 2);
    setup.make("sub", "new", FileKind::Regular).expect("create");
    assert_eq!(list(&sub).len(), 3);
    assert_eq!(list(&sub).len(), 3);
}

#[test]
fn names_looked_up_ahead_are_not_seen_after_a_change() {
    let setup = setup("ahead", Access::ReadWrite, Cache::Exclusive, |path| {
        for i in 0..40 {
            host_fs::write(path.join(format!("f{i:02}")), "").expect("write");
        }
    });
    let root: Arc<dyn Inode> = setup.fs.root();
    let own = root.as_any().downcast_ref::<GoferInode>().expect("ours").me().expect("alive");
    let dir = file(GoferDir::new(own), OpenFlags::DIRECTORY);
    let listed: Vec<_> = list_open(&dir, 0, 100).into_iter().skip(2).map(|(name, ..)| name).collect();
    assert_eq!(listed.len(), 40);
    // In order, so that the third brings the fourth to the sixth.
    for name in &listed[..3] {
        setup.walk(name).expect("lookup");
    }
    block_on(async { root.unlink(listed[4].as_bytes(), UnlinkKind::NotDirectory).await }).expect("unlink");
    assert!(setup.walk(&listed[3]).is_ok());
    assert_eq!(setup.walk(&listed[4]).err(), Some(Errno::ENOENT));
    for name in &listed[5..] {
        setup.walk(name).expect("lookup");
    }
    drop(dir);
    assert!(setup.walk(&listed[0]).is_ok());
}

#[test]
fn attributes_are_told_without_an_inode_while_nobody_knows_better() {
    let setup = setup("peek", Access::ReadWrite, Cache::Exclusive, |path| {
        host_fs::create_dir_all(path.join("d/sub")).expect("mkdir");
        host_fs::write(path.join("d/file"), "1234").expect("write");
        host_fs::write(path.join("d/other"), "").expect("write");
        symlink("file", path.join("d/link")).expect("symlink");
    });
    // (What is changed over the tree is no change of the tree.)
    for fs in [Overlay::new(setup.fs.clone(), tmpfs(), next_device()) as Arc<dyn FileSystem>, setup.fs.clone()] {
        let tree = TestTree::new(fs.clone());
        let find = |path: &str, flags| match try_find_in(&tree.view, None, tree.view.cwd.clone(), path.as_bytes(), flags)? {
            Some(Found::Attributes(metadata, _)) => Ok((true, metadata)),
            Some(Found::Place(place)) => Ok((false, block_on(async { place.inode().metadata().await })?)),
            None => Ok((false, block_on(async { tree.resolve(path, flags)?.inode().metadata().await })?)),
        };
        let size = |path| find(path, ResolveFlags::empty()).map(|(peeked, metadata)| (peeked, metadata.size));
        setup.fs.tree.want_attrs();
        let dir = tree.at("d").expect("d");
        list(&setup.walk("d").expect("d"));
        assert_eq!(size("d/file"), Ok((true, 4)));
        let (_, metadata) = find("d/file", ResolveFlags::empty()).expect("file");
        assert_eq!((Ok(metadata.dev), metadata.kind), (tree.stat(".").map(|root| root.dev), FileKind::Regular));
        assert_eq!(size("d/sub").map(|(peeked, _)| peeked), Ok(false));
        assert_eq!(size("d/none"), Err(Errno::ENOENT));
        assert_eq!(size("d/file/"), Err(Errno::ENOTDIR));
        let link = |flags| find("d/link", flags).map(|(peeked, metadata)| (peeked, metadata.kind));
        assert_eq!(link(ResolveFlags::NOFOLLOW), Ok((true, FileKind::Symlink)));
        // What has an inode knows better: it may have been changed here.
        let place = tree.at("d/file").expect("file");
        let change = SetAttr { permissions: Some(0o600), ..SetAttr::default() };
        block_on(async { place.inode().set_attr(change).await }).expect("chmod");
        drop(place);
        dir.dentry.prune();
        let (peeked, metadata) = find("d/file", ResolveFlags::empty()).expect("file");
        assert_eq!((peeked, metadata.permissions), (false, 0o600));
        tree.unlink("d/other").expect("unlink");
        assert_eq!(size("d/other"), Err(Errno::ENOENT));
    }
}

#[test]
fn files_are_made_written_renamed_and_removed() {
    let setup = setup("write", Access::ReadWrite, Cache::Exclusive, |path| {
        host_fs::create_dir(path.join("d")).expect("mkdir");
    });
    let inode = setup.make("", "f", FileKind::Regular).expect("create");
    assert_eq!(setup.make("", "f", FileKind::Regular).err(), Some(Errno::EEXIST));
    assert_eq!(host_fs::metadata(setup.path.join("f")).expect("stat").permissions().mode() & 0o7777, 0o640);
    let file = open(inode.clone(), OpenFlags::RDWR).expect("open");
    let data = pattern(300_000);
    assert_eq!(write(&file, WriteAt::Offset(10), &data), Ok(300_000));
    assert_eq!(write(&file, WriteAt::Append, b"the end"), Ok(7));
    assert_eq!(read(&file, 10, 300_007).map(|back| back[..300_000] == data && back[300_000..] == *b"the end"), Ok(true));
    let metadata = |inode: &Arc<dyn Inode>| block_on(async { inode.metadata().await }).expect("metadata");
    let host = |name: &str| host_fs::metadata(setup.path.join(name)).expect("stat");
    assert_eq!(metadata(&inode).size, 300_017);
    assert_eq!(metadata(&inode).modified.nsec as i64, host("f").mtime_nsec());
    assert_eq!(metadata(&inode).blocks, host("f").blocks());
    assert_eq!(block_on(async { file.ops.sync().await }), Ok(()));
    assert_eq!(block_on(async { file.ops.allocate(0, 0, 400_000).await }), Ok(()));
    assert_eq!(metadata(&inode).size, 400_000);

    // Attributes.
    let set = |inode: &Arc<dyn Inode>, change| block_on(async { inode.set_attr(change).await });
    set(&inode, SetAttr { permissions: Some(0o600), size: Some(5), ..SetAttr::default() }).expect("set_attr");
    assert_eq!((host("f").len(), host("f").mode() & 0o7777), (5, 0o600));
    assert_eq!((metadata(&inode).size, metadata(&inode).permissions), (5, 0o600));
    let xattr = |call| block_on(async { inode.xattr(call).await });
    if xattr(XattrCall::Set(b"user.key", b"value", 0)) != Err(Errno::EOPNOTSUPP) {
        assert_eq!(xattr(XattrCall::Get(b"user.key")), Ok(b"value".to_vec()));
        assert_eq!(xattr(XattrCall::Set(b"user.key", b"value", 1)), Err(Errno::EEXIST));
        assert_eq!(xattr(XattrCall::List), Ok(b"user.key\0".to_vec()));
        assert_eq!(xattr(XattrCall::Remove(b"user.key")), Ok(Vec::new()));
    }

    // Names.
    let root: Arc<dyn Inode> = setup.fs.root();
    let dir = setup.walk("d").expect("d");
    let rename = |from: &Arc<dyn Inode>, name: &str, to: &Arc<dyn Inode>, to_name: &str, flags| {
        block_on(async { from.rename(name.as_bytes(), to, to_name.as_bytes(), flags).await })
    };
    block_on(async { dir.link(b"hard", &inode).await }).expect("link");
    assert_eq!((metadata(&inode).nlink, host("d/hard").nlink()), (2, 2));
    rename(&root, "f", &dir, "g", RenameFlags::empty()).expect("rename");
    assert!(setup.path.join("d/g").exists() && !setup.path.join("f").exists());
    let link = setup.make("", "l", FileKind::Symlink).expect("symlink");
    assert_eq!(link.link_text().as_deref(), Some(&b"to/there"[..]));
    assert_eq!(rename(&root, "l", &dir, "g", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    rename(&root, "l", &dir, "g", RenameFlags::EXCHANGE).expect("exchange");
    assert!(setup.path.join("d/g").is_symlink() && setup.path.join("l").is_file());
    assert_eq!(rename(&root, "l", &dir, "g", RenameFlags::WHITEOUT), Err(Errno::EINVAL));
    setup.make("", "fifo", FileKind::Fifo).expect("mkfifo");
    setup.make("", "socket", FileKind::Socket).expect("mknod");
    assert_eq!(setup.make("", "dev", FileKind::BlockDevice).err(), Some(Errno::EPERM));
    setup.make("", "e", FileKind::Directory).expect("mkdir");
    assert_eq!(u64::from(metadata(&root).nlink), host_fs::metadata(&setup.path).expect("stat").nlink());

    // It is opened again by a name it still has; and where it has none, what is open goes on.
    let unlink = |dir: &Arc<dyn Inode>, name: &str, kind| block_on(async { dir.unlink(name.as_bytes(), kind).await });
    drop(file);
    setup.forget_files();
    unlink(&root, "l", UnlinkKind::NotDirectory).expect("unlink");
    assert_eq!(metadata(&inode).nlink, 1);
    let file = open(inode.clone(), OpenFlags::RDWR).expect("open");
    unlink(&dir, "hard", UnlinkKind::NotDirectory).expect("unlink");
    assert_eq!(metadata(&inode).nlink, 0);
    assert_eq!(write(&file, WriteAt::Offset(0), b"alive"), Ok(5));
    set(&inode, SetAttr { size: Some(3), ..SetAttr::default() }).expect("ftruncate");
    assert_eq!(metadata(&inode).size, 3);
    assert_eq!(read(&file, 0, 10), Ok(b"ali".to_vec()));
    assert_eq!(unlink(&root, "d", UnlinkKind::Directory), Err(Errno::ENOTEMPTY));
    unlink(&dir, "g", UnlinkKind::NotDirectory).expect("unlink");
    unlink(&root, "d", UnlinkKind::Directory).expect("rmdir");
    assert_eq!(setup.walk("d").err(), Some(Errno::ENOENT));
}

impl Setup {
    /// Closes all descriptors that nobody uses.
    fn forget_files(&self) {
        for inode in self.fs.tree.inodes.lock().values().filter_map(Weak::upgrade).collect::<Vec<_>>() {
            inode.close_idle(gofer::protocol::OpenHow::Read);
            inode.close_idle(gofer::protocol::OpenHow::ReadWrite);
        }
    }
}

#[test]
fn a_read_only_tree_is_not_changed() {
    let setup = setup("readonly", Access::ReadOnly, Cache::Shared, |path| {
        host_fs::write(path.join("f"), "text").expect("write");
    });
    let root: Arc<dyn Inode> = setup.fs.root();
    let inode = setup.walk("f").expect("f");
    assert_eq!(setup.make("", "x", FileKind::Regular).err(), Some(Errno::EROFS));
    assert_eq!(block_on(async { root.unlink(b"f", UnlinkKind::NotDirectory).await }), Err(Errno::EROFS));
    assert_eq!(block_on(async { root.link(b"g", &inode).await }), Err(Errno::EROFS));
    assert_eq!(block_on(async { root.rename(b"f", &root, b"g", RenameFlags::empty()).await }), Err(Errno::EROFS));
    assert_eq!(block_on(async { inode.set_attr(SetAttr { size: Some(0), ..SetAttr::default() }).await }), Err(Errno::EROFS));
    assert_eq!(block_on(async { inode.xattr(XattrCall::Set(b"user.a", b"", 0)).await }), Err(Errno::EROFS));
    assert_eq!(host_fs::read(setup.path.join("f")).expect("read"), b"text");
}

#[test]
fn what_others_change_is_seen_after_a_second() {
    let setup = setup("shared", Access::ReadOnly, Cache::Shared, |path| {
        host_fs::write(path.join("f"), "old").expect("write");
    });
    let inode = setup.walk("f").expect("f");
    let size = || block_on(async { inode.metadata().await }).expect("metadata").size;
    assert_eq!(size(), 3);
    host_fs::write(setup.path.join("f"), "longer").expect("write");
    assert_eq!(size(), 3);
    assert!(inode.ownership().is_some());
    setup.now.fetch_add(1_000_000_001, Ordering::SeqCst);
    assert!(inode.ownership().is_none());
    assert_eq!(size(), 6);
    // Data is never old.
    let file = open(inode.clone(), OpenFlags::empty()).expect("open");
    assert_eq!(read(&file, 0, 100), Ok(b"longer".to_vec()));
    host_fs::write(setup.path.join("f"), "longest now").expect("write");
    assert_eq!(read(&file, 0, 100), Ok(b"longest now".to_vec()));
    let pages = file.ops.mappable().expect("mappable");
    assert_eq!(pages.size(), 11);
    let version = pages.version();
    host_fs::write(setup.path.join("f"), "longest now, and other").expect("write");
    assert!(version.is_some() && pages.version().is_some() && pages.version() != version);
    drop(pages);

    // The name means another file now; the old one stays what it was.
    drop(file);
    setup.forget_files();
    host_fs::write(setup.path.join("new"), "another").expect("write");
    host_fs::rename(setup.path.join("new"), setup.path.join("f")).expect("rename");
    assert_eq!(open(inode.clone(), OpenFlags::empty()).err(), Some(Errno::ESTALE));
    let other = setup.walk("f").expect("f");
    assert!(!std::ptr::addr_eq(Arc::as_ptr(&other), Arc::as_ptr(&inode)));
    assert_eq!(read(&open(other, OpenFlags::empty()).expect("open"), 0, 100), Ok(b"another".to_vec()));
}

#[test]
fn inodes_handles_and_descriptors_come_back() {
    let path = folder("budget");
    for i in 0..300 {
        host_fs::write(path.join(format!("f{i}")), "text").expect("write");
    }
    let (services, _) = services(FdCache::with_limits(40, 10));
    // Fewer handles than files.
    let client = serve(&path, Access::ReadOnly, 100);
    let fs = block_on(GoferFs::new(&client, 0, Access::ReadOnly, Cache::Exclusive, 77, services.clone())).expect("attach");
    let root: Arc<dyn Inode> = fs.root();
    let look = |i: usize| block_on(async { root.lookup(format!("f{i}").as_bytes()).await });
    for i in 0..300 {
        let file = open(look(i).expect("lookup"), OpenFlags::empty()).expect("open");
        assert_eq!(read(&file, 0, 10), Ok(b"text".to_vec()));
    }
    assert_eq!((fs.tree.inodes.lock().len(), services.fds.open()), (1, 0));
    // Kept inodes keep their descriptors, up to a number of idle ones.
    let kept: Vec<_> = (0..50).map(|i| look(i).expect("lookup")).collect();
    kept.iter().for_each(|inode| drop(open(inode.clone(), OpenFlags::empty()).expect("open")));
    assert_eq!(services.fds.open(), 10);
    // In use: up to the limit.
    let files: Vec<_> = kept.iter().map(|inode| open(inode.clone(), OpenFlags::empty())).collect();
    assert_eq!(files.iter().filter(|file| file.is_ok()).count(), 40);
    assert_eq!(files.last().and_then(|file| file.as_ref().err()), Some(&Errno::ENFILE));
    // One descriptor serves all who open the file.
    assert!(open(kept[0].clone(), OpenFlags::empty()).is_ok());
    drop(files);
    assert!(open(kept[49].clone(), OpenFlags::empty()).is_ok());
    assert!(services.fds.open() <= 40);
    let _ = host_fs::remove_dir_all(&path);
}

#[test]
fn a_dead_gofer_is_eio_and_open_files_go_on() {
    let path = folder("death");
    host_fs::write(path.join("f"), "text").expect("write");
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
    let killer = hostcall::io::duplicate(&theirs).expect("dup");
    let source = gofer::passthrough::Source::at_path(&path).expect("source");
    let attaches = vec![AttachConfig { source, access: Access::ReadOnly, cache: HostCache::Exclusive }];
    let server = Server::new(Config { attaches, max_handles: 50, spin: std::time::Duration::ZERO }).expect("server");
    std::thread::spawn(move || server.serve(theirs));
    let (services, _) = services(FdCache::new());
    let client = connected(ours);
    let fs = block_on(GoferFs::new(&client, 0, Access::ReadOnly, Cache::Exclusive, 77, services)).expect("attach");
    let root: Arc<dyn Inode> = fs.root();
    let inode = block_on(async { root.lookup(b"f").await }).expect("lookup");
    let file = open(inode, OpenFlags::empty()).expect("open");
    rustix::net::shutdown(&killer, rustix::net::Shutdown::Both).expect("shutdown");
    assert_eq!(block_on(async { root.lookup(b"g").await }).err(), Some(Errno::EIO));
    assert_eq!(block_on(async { fs.stat_fs().await }).err(), Some(Errno::EIO));
    assert_eq!(read(&file, 0, 10), Ok(b"text".to_vec()));
    let _ = host_fs::remove_dir_all(&path);
}

#[test]
fn who_looks_up_by_name_has_directories_listed_ahead() {
    let fill = |path: &Path| {
        for n in 0..64 {
            host_fs::create_dir_all(path.join(format!("top/d{n}"))).expect("directory");
            (0..12).for_each(|f| host_fs::write(path.join(format!("top/d{n}/f{f}")), "").expect("file"));
        }
    };
    for cache in [Cache::Exclusive, Cache::Shared] {
        let setup = setup("named", Access::ReadOnly, cache, fill);
        let mut names: Vec<_> = (0..48).map(|n| format!("d{n}")).collect();
        names.sort();
        let look = |dir: &Arc<dyn Inode>, name: &str| block_on(async { dir.lookup(name.as_bytes()).await }).expect(name);
        // As dentries would hold them.
        let top = setup.walk("top").expect("top");
        let dirs: Vec<_> = names.iter().map(|name| look(&top, name)).collect();
        for dir in &dirs {
            (0..12).for_each(|f| drop(look(dir, &format!("f{f}"))));
        }
        assert_eq!(setup.fs.tree.misses.load(Ordering::Relaxed), 0, "it pays");
        let ahead = setup.fs.tree.ready.lock().known();
        assert!((1..=16).contains(&ahead), "{ahead}");
        // Where nobody else makes names what is not listed is not asked for.
        host_fs::write(setup.path.join("top/d1/new"), "").expect("file");
        assert_eq!(setup.walk("top/d1/new").is_ok(), cache == Cache::Shared);
        assert_eq!(setup.walk("top/d1/none").err(), Some(Errno::ENOENT));
    }
}
