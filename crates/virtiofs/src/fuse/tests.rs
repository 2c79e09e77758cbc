//! Requests made by hand.

mod replay;

use std::{
    cell::Cell,
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use gofer::{passthrough::Source, protocol::Access};
use vm_memory::VolatileSlice;

use super::*;
use crate::{abi::*, trees::TreeConfig};

struct TestDir(PathBuf);

impl TestDir {
    fn new() -> TestDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nacre-fuse-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A guest's kernel, as far as it speaks.
struct Guest {
    fs: Fs,
    trees: Arc<Trees>,
    dir: TestDir,
    /// Who asks.
    pid: Cell<u32>,
}

const LIMITS: Limits = Limits { inodes: 1000, handles: 50, nodes: 20 };

impl Guest {
    /// The folder as tree 0.
    fn new(access: Access, cache: Cache, limits: Limits) -> Guest {
        let dir = TestDir::new();
        let trees = Arc::new(Trees::new(limits.nodes));
        let fs = Fs::new(Arc::clone(&trees), limits);
        let guest = Guest { fs, trees, dir, pid: Cell::default() };
        guest.show(access, cache);
        guest
    }

    fn show(&self, access: Access, cache: Cache) -> u32 {
        self.trees
            .add(TreeConfig { source: Source::at_path(&self.dir.0).unwrap(), access, cache, told: cache == Cache::Shared })
            .unwrap()
    }

    /// Sends a request in pieces and takes the answer in pieces.
    fn call(&self, opcode: u32, nodeid: u64, body: &[&[u8]], room: usize) -> Result<Vec<u8>, Errno> {
        let body = body.concat();
        let len = (HEAD + body.len()) as u32;
        let head = InHeader { len, opcode, unique: 77, nodeid, pid: self.pid.get(), ..InHeader::default() };
        let mut bytes = [head.as_bytes(), &body].concat();
        let (one, two) = bytes.split_at_mut(HEAD + body.len() / 2);
        let mut input = Pieces::default();
        input.push(VolatileSlice::from(one));
        input.push(VolatileSlice::from(two));
        let (mut head, mut data) = (vec![0; OUT_HEAD], vec![0; room]);
        let mut output = Pieces::default();
        output.push(VolatileSlice::from(&mut head[..]));
        output.push(VolatileSlice::from(&mut data[..]));
        let used = self.fs.serve(&input, &output);
        let head = OutHeader::read_from_bytes(&head).unwrap();
        assert_eq!((head.len as usize, head.unique), (used, 77));
        data.truncate(used - OUT_HEAD);
        match head.error {
            0 => Ok(data),
            error => {
                assert!(data.is_empty());
                Err(Errno::from_raw(-error))
            }
        }
    }

    fn ask<T: FromBytes + Immutable + KnownLayout>(&self, opcode: u32, nodeid: u64, body: &[&[u8]]) -> Result<T, Errno> {
        self.call(opcode, nodeid, body, 4096).map(|bytes| T::read_from_prefix(&bytes).unwrap().0)
    }

    fn lookup(&self, dir: u64, name: &str) -> Result<EntryOut, Errno> {
        self.ask(op::LOOKUP, dir, &[name.as_bytes(), b"\0"])
    }

    /// The tree's root, or what is below it.
    fn at(&self, path: &str) -> u64 {
        path.split('/').fold(ROOT_ID, |dir, name| self.lookup(dir, name).unwrap().nodeid)
    }

    fn open(&self, id: u64, flags: i32) -> Result<u64, Errno> {
        let arg = OpenIn { flags: flags as u32, open_flags: 0 };
        self.ask::<OpenOut>(op::OPEN, id, &[arg.as_bytes()]).map(|out| out.fh)
    }

    fn read(&self, id: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let arg = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.call(op::READ, id, &[arg.as_bytes()], size as usize)
    }

    fn write(&self, id: u64, fh: u64, offset: u64, data: &[u8], write_flags: u32) -> Result<u32, Errno> {
        let arg = WriteIn { fh, offset, size: data.len() as u32, write_flags, ..WriteIn::default() };
        self.ask::<WriteOut>(op::WRITE, id, &[arg.as_bytes(), data]).map(|out| out.size)
    }

    fn release(&self, id: u64, fh: u64) {
        self.call(op::RELEASE, id, &[ReleaseIn { fh, ..ReleaseIn::default() }.as_bytes()], 0).unwrap();
    }

    fn create(&self, dir: u64, name: &str, flags: i32, mode: u32) -> Result<(EntryOut, u64), Errno> {
        let arg = CreateIn { flags: flags as u32, mode: libc::S_IFREG | mode, ..CreateIn::default() };
        let bytes = self.call(op::CREATE, dir, &[arg.as_bytes(), name.as_bytes(), b"\0"], 4096)?;
        let (entry, rest) = EntryOut::read_from_prefix(&bytes).unwrap();
        Ok((entry, OpenOut::read_from_bytes(rest).unwrap().fh))
    }

    fn unlink(&self, dir: u64, name: &str) -> Result<(), Errno> {
        self.call(op::UNLINK, dir, &[name.as_bytes(), b"\0"], 0).map(drop)
    }

    fn rename(&self, dir: u64, name: &str, newdir: u64, new: &str, flags: u32) -> Result<(), Errno> {
        let arg = Rename2In { newdir, flags, padding: 0 };
        self.call(op::RENAME2, dir, &[arg.as_bytes(), name.as_bytes(), b"\0", new.as_bytes(), b"\0"], 0).map(drop)
    }

    fn attr(&self, id: u64) -> Result<abi::Attr, Errno> {
        self.ask::<AttrOut>(op::GETATTR, id, &[GetattrIn::default().as_bytes()]).map(|out| out.attr)
    }

    /// All names of a directory, read a little at a time.
    fn names(&self, id: u64, plus: bool) -> Vec<(String, u64)> {
        let fh = self.ask::<OpenOut>(op::OPENDIR, id, &[OpenIn::default().as_bytes()]).unwrap().fh;
        let (mut names, mut offset) = (Vec::new(), 0);
        let opcode = if plus { op::READDIRPLUS } else { op::READDIR };
        loop {
            let arg = ReadIn { fh, offset, size: 600, ..ReadIn::default() };
            let bytes = self.call(opcode, id, &[arg.as_bytes()], 600).unwrap();
            let mut rest = &bytes[..];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let mut nodeid = 0;
                if plus {
                    let (entry, after) = EntryOut::read_from_prefix(rest).unwrap();
                    (nodeid, rest) = (entry.nodeid, after);
                }
                let (entry, after) = Dirent::read_from_prefix(rest).unwrap();
                let (name, after) = after.split_at(entry.namelen as usize);
                names.push((String::from_utf8(name.to_vec()).unwrap(), nodeid));
                offset = entry.off;
                rest = &after[(entry.namelen as usize).next_multiple_of(8) - entry.namelen as usize..];
            }
        }
        self.call(op::RELEASEDIR, id, &[ReleaseIn { fh, ..ReleaseIn::default() }.as_bytes()], 0).unwrap();
        names
    }

    fn forget(&self, id: u64, nlookup: u64) {
        let head = InHeader { len: 48, opcode: op::FORGET, nodeid: id, ..InHeader::default() };
        let mut bytes = [head.as_bytes(), ForgetIn { nlookup }.as_bytes()].concat();
        let mut input = Pieces::default();
        input.push(VolatileSlice::from(&mut bytes[..]));
        assert_eq!(self.fs.serve(&input, &Pieces::default()), 0, "no answer");
    }
}

fn writable() -> Guest {
    Guest::new(Access::ReadWrite, Cache::Exclusive, LIMITS)
}

#[test]
fn init_agrees_on_what_both_can() {
    let guest = writable();
    let offer = InitIn { major: 7, minor: 36, max_readahead: 1 << 17, flags: u32::MAX };
    let out: InitOut = guest.ask(op::INIT, 0, &[offer.as_bytes()]).unwrap();
    assert_eq!((out.major, out.max_write, out.max_pages, out.max_readahead), (7, 1 << 20, 256, 1 << 17));
    assert_eq!(out.flags & (1 << 16), 0, "no writeback cache");
    let newer: InitOut = guest.ask(op::INIT, 0, &[InitIn { major: 8, ..offer }.as_bytes()]).unwrap();
    assert_eq!((newer.major, newer.minor), (7, MINOR));
    assert_eq!(guest.call(op::INIT, 0, &[InitIn { minor: 8, ..offer }.as_bytes()], 64), Err(Errno::EPROTO));
    assert_eq!(guest.call(op::INIT, 0, &[b"short"], 64), Err(Errno::EINVAL));
    let (id, fh) = guest.create(guest.at("0"), "file", libc::O_RDWR, 0o644).map(|(entry, fh)| (entry.nodeid, fh)).unwrap();
    guest.call(op::INIT, 0, &[offer.as_bytes()], 64).unwrap();
    assert_eq!((guest.attr(id), guest.read(id, fh, 0, 1)), (Err(Errno::ESTALE), Err(Errno::EBADF)), "a guest that was reset");
}

#[test]
fn files_are_found_and_read() {
    let guest = Guest::new(Access::ReadOnly, Cache::Exclusive, LIMITS);
    fs::create_dir(guest.dir.0.join("sub")).unwrap();
    fs::write(guest.dir.0.join("sub/file"), "0123456789").unwrap();
    let id = guest.at("0/sub/file");
    assert_eq!(guest.at("0/sub/file"), id, "one number for one file");
    let attr = guest.attr(id).unwrap();
    assert_eq!((attr.size, attr.ino), (10, fs::metadata(guest.dir.0.join("sub/file")).unwrap().ino()));
    let fh = guest.open(id, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(id, fh, 3, 4).unwrap(), b"3456");
    assert_eq!(guest.read(id, fh, 8, 4096).unwrap(), b"89");
    assert_eq!(guest.read(id, fh, 10, 4096).unwrap(), b"");
    assert_eq!(guest.read(id, fh, u64::MAX, 4096), Err(Errno::EINVAL));
    guest.release(id, fh);
    assert_eq!(guest.read(id, fh, 0, 1), Err(Errno::EBADF));
    assert_eq!(guest.open(id, libc::O_RDWR), Err(Errno::EROFS));
    assert_eq!(guest.open(id, libc::O_RDONLY | libc::O_TRUNC), Err(Errno::EROFS));
    assert_eq!(guest.open(guest.at("0/sub"), libc::O_RDONLY), Err(Errno::EISDIR));
    assert_eq!(guest.create(guest.at("0"), "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::EROFS);
    for bad in [".", "..", "a/b", ""] {
        assert_eq!(guest.lookup(guest.at("0"), bad).unwrap_err(), Errno::EINVAL, "{bad}");
    }
    assert_eq!(guest.lookup(guest.at("0"), &"x".repeat(256)).unwrap_err(), Errno::ENAMETOOLONG);
    assert_eq!(guest.lookup(id, "below").unwrap_err(), Errno::ENOTDIR);
}

#[test]
fn what_is_not_there_may_be_remembered_where_nobody_else_writes() {
    for (cache, expected) in [(Cache::Exclusive, Ok((0, true))), (Cache::Shared, Err(Errno::ENOENT))] {
        let guest = Guest::new(Access::ReadOnly, cache, LIMITS);
        let found = guest.lookup(guest.at("0"), "none").map(|entry| (entry.nodeid, entry.entry_valid > 3600));
        assert_eq!(found, expected);
        fs::write(guest.dir.0.join("file"), "").unwrap();
        let entry = guest.lookup(guest.at("0"), "file").unwrap();
        assert_eq!((entry.entry_valid > 1, entry.attr_valid > 1), (cache == Cache::Exclusive, cache == Cache::Exclusive));
    }
}

#[test]
fn directories_are_listed_whole() {
    let guest = writable();
    let expected: HashSet<String> = (0..150).map(|n| format!("name-{n}-{}", "x".repeat(n % 20))).collect();
    for name in &expected {
        fs::write(guest.dir.0.join(name), "").unwrap();
    }
    for plus in [false, true] {
        let names = guest.names(guest.at("0"), plus);
        assert_eq!(names.len(), expected.len() + 2, "each once");
        assert_eq!((names[0].0.as_str(), names[1].0.as_str()), (".", ".."));
        for (name, id) in &names[2..] {
            assert!(expected.contains(name));
            assert!(!plus || guest.attr(*id).unwrap().mode & libc::S_IFMT == libc::S_IFREG);
        }
    }
    let fh = guest.ask::<OpenOut>(op::OPENDIR, guest.at("0"), &[OpenIn::default().as_bytes()]).unwrap().fh;
    let small = ReadIn { fh, size: 16, ..ReadIn::default() };
    assert_eq!(guest.call(op::READDIR, guest.at("0"), &[small.as_bytes()], 4096), Err(Errno::EINVAL));
}

#[test]
fn files_are_made_written_and_moved() {
    let guest = writable();
    let root = guest.at("0");
    let (entry, fh) = guest.create(root, "a", libc::O_RDWR | libc::O_EXCL, 0o4755).unwrap();
    let id = entry.nodeid;
    assert_eq!(guest.write(id, fh, 2, b"hello", 0), Ok(5));
    assert_eq!(guest.attr(id).unwrap().mode & 0o7777, 0o4755);
    assert_eq!(guest.write(id, fh, 7, b"!", WRITE_KILL_SUIDGID), Ok(1));
    assert_eq!(guest.attr(id).unwrap().mode & 0o7777, 0o755, "a write by an ordinary user");
    assert_eq!(fs::read(guest.dir.0.join("a")).unwrap(), b"\0\0hello!");
    assert_eq!(guest.create(root, "a", libc::O_RDWR | libc::O_EXCL, 0o600).unwrap_err(), Errno::EEXIST);
    let (again, second) = guest.create(root, "a", libc::O_WRONLY | libc::O_TRUNC, 0o600).unwrap();
    assert_eq!((again.nodeid, again.attr.mode & 0o777), (id, 0o755));
    assert_eq!(guest.read(id, second, 0, 10), Err(Errno::EBADF), "opened for writing");
    assert_eq!(guest.attr(id).unwrap().size, 0);
    guest.ask::<EntryOut>(op::MKDIR, root, &[MkdirIn { mode: 0o755, umask: 0 }.as_bytes(), b"dir\0"]).unwrap();
    let dir = guest.at("0/dir");
    guest.rename(root, "a", dir, "b", 0).unwrap();
    assert_eq!((guest.at("0/dir/b"), guest.lookup(root, "a").unwrap().nodeid), (id, 0));
    guest.rename(root, "dir", root, "moved", 0).unwrap();
    assert!(guest.open(id, libc::O_RDONLY).is_ok(), "its directory has another name");
    assert_eq!(guest.at("0/moved/b"), id);
    fs::write(guest.dir.0.join("other"), "other").unwrap();
    let other = guest.at("0/other");
    guest.rename(root, "other", dir, "b", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((guest.at("0/other"), guest.at("0/moved/b")), (id, other));
    guest.rename(dir, "b", root, "other", libc::RENAME_NOREPLACE).unwrap_err();
    guest.rename(dir, "b", root, "other", 0).unwrap();
    assert_eq!(guest.attr(id).unwrap().nlink, 0, "replaced, and still known");
    assert_eq!(guest.at("0/other"), other);
    let both = libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE;
    assert_eq!(guest.rename(root, "other", dir, "x", both), Err(Errno::EINVAL));
    guest.rename(root, "other", root, "elsewhere", libc::RENAME_WHITEOUT).unwrap();
    let whiteout = guest.lookup(root, "other").unwrap();
    assert_eq!((whiteout.attr.mode & libc::S_IFMT, whiteout.attr.rdev, guest.at("0/elsewhere")), (libc::S_IFCHR, 0, other));
    guest.rename(root, "elsewhere", root, "other", 0).unwrap();
    let device = MknodIn { mode: libc::S_IFCHR, ..MknodIn::default() };
    let made: EntryOut = guest.ask(op::MKNOD, root, &[device.as_bytes(), b"removed\0"]).unwrap();
    assert_eq!((made.attr.mode, made.attr.rdev), (libc::S_IFCHR, 0));
    let device = MknodIn { mode: libc::S_IFCHR | 0o666, rdev: 0x103, ..MknodIn::default() };
    assert_eq!(guest.call(op::MKNOD, root, &[device.as_bytes(), b"null\0"], 128), Err(Errno::EPERM));
    let link = LinkIn { oldnodeid: other };
    let linked: EntryOut = guest.ask(op::LINK, root, &[link.as_bytes(), b"second\0"]).unwrap();
    assert_eq!((linked.nodeid, linked.attr.nlink), (other, 2));
    guest.unlink(root, "second").unwrap();
    guest.lookup(root, "other").unwrap();
    assert!(guest.open(other, libc::O_RDONLY).is_ok(), "by its other name");
}

#[test]
fn who_appends_to_a_shared_file_overwrites_nothing() {
    for (cache, expected) in [(Cache::Shared, "one two cache"), (Cache::Exclusive, "two cache")] {
        let guest = Guest::new(Access::ReadWrite, cache, LIMITS);
        fs::write(guest.dir.0.join("log"), "").unwrap();
        let id = guest.at("0/log");
        let fh = guest.open(id, libc::O_WRONLY | libc::O_APPEND).unwrap();
        fs::write(guest.dir.0.join("log"), "one ").unwrap();
        // The guest believes that the file is empty; and has a page of it.
        let send = |offset, data: &[u8], write_flags| {
            let size = data.len() as u32;
            let arg = WriteIn { fh, offset, size, flags: libc::O_APPEND as u32, write_flags, ..WriteIn::default() };
            guest.ask::<WriteOut>(op::WRITE, id, &[arg.as_bytes(), data]).unwrap()
        };
        send(0, b"two ", 0);
        let end = if cache == Cache::Shared { 8 } else { 4 };
        send(end, b"cache", WRITE_CACHE);
        assert_eq!(fs::read_to_string(guest.dir.0.join("log")).unwrap(), expected);
    }
}

#[test]
fn new_files_belong_to_their_directorys_group_if_it_says_so() {
    let guest = writable();
    fs::create_dir(guest.dir.0.join("dir")).unwrap();
    fs::set_permissions(guest.dir.0.join("dir"), fs::Permissions::from_mode(0o2775)).unwrap();
    std::os::unix::fs::chown(guest.dir.0.join("dir"), Some(1), Some(2)).unwrap();
    fs::set_permissions(guest.dir.0.join("dir"), fs::Permissions::from_mode(0o2775)).unwrap();
    let dir = guest.at("0/dir");
    let (file, _) = guest.create(dir, "file", libc::O_RDWR, 0o644).unwrap();
    let sub: EntryOut = guest.ask(op::MKDIR, dir, &[MkdirIn { mode: 0o755, umask: 0 }.as_bytes(), b"sub\0"]).unwrap();
    assert_eq!((file.attr.gid, sub.attr.gid, sub.attr.mode & 0o7777), (2, 2, 0o2755));
}

#[test]
fn what_is_unlinked_stays_while_the_guest_knows_it() {
    let guest = writable();
    let root = guest.at("0");
    fs::write(guest.dir.0.join("file"), "data").unwrap();
    let id = guest.at("0/file");
    guest.unlink(root, "file").unwrap();
    fs::write(guest.dir.0.join("file"), "new").unwrap();
    assert_eq!(guest.attr(id).unwrap().size, 4);
    let new = guest.at("0/file");
    assert_ne!(new, id);
    guest.forget(id, 1);
    assert_eq!(guest.attr(id), Err(Errno::ESTALE));
    assert_eq!(guest.attr(new).unwrap().size, 3);
    assert_eq!(guest.unlink(root, "none"), Err(Errno::ENOENT));
}

#[test]
fn more_inodes_than_descriptors() {
    let guest = writable();
    let mut ids = Vec::new();
    for n in 0..200 {
        fs::create_dir_all(guest.dir.0.join(format!("{n}/below"))).unwrap();
        fs::write(guest.dir.0.join(format!("{n}/below/file")), n.to_string()).unwrap();
        ids.push((guest.at(&format!("0/{n}/below")), guest.at(&format!("0/{n}/below/file"))));
    }
    for round in 0..2 {
        for (n, (dir, file)) in ids.iter().enumerate() {
            let fh = guest.open(*file, libc::O_RDWR).unwrap();
            assert_eq!(guest.read(*file, fh, 0, 10).unwrap(), n.to_string().as_bytes());
            guest.release(*file, fh);
            assert_eq!(guest.lookup(*dir, "file").unwrap().nodeid, *file, "{round}");
        }
    }
    // A host that changes what the guest has no descriptor of: stale, not another file.
    let fh = guest.open(ids[4].1, libc::O_RDONLY).unwrap();
    fs::remove_file(guest.dir.0.join("4/below/file")).unwrap();
    assert_eq!(guest.attr(ids[4].1).map(|attr| attr.nlink), Ok(0), "it is open");
    guest.release(ids[4].1, fh);
    assert_eq!(guest.attr(ids[4].1), Err(Errno::ESTALE));
    fs::remove_file(guest.dir.0.join("3/below/file")).unwrap();
    fs::write(guest.dir.0.join("3/below/file"), "new").unwrap();
    assert_eq!(guest.open(ids[3].1, libc::O_RDONLY), Err(Errno::ESTALE));
    assert_ne!(guest.at("0/3/below/file"), ids[3].1);
}

/// As git makes its objects: a file under another name, linked to its own; with few descriptors.
#[test]
fn files_with_several_names_are_found_by_those_left() {
    let guest = writable();
    let root = guest.at("0");
    let mut ids = Vec::new();
    for n in 0..100 {
        fs::create_dir_all(guest.dir.0.join(format!("{n}/deep"))).unwrap();
        let dir = guest.at(&format!("0/{n}/deep"));
        let (made, fh) = guest.create(dir, "tmp", libc::O_RDWR | libc::O_EXCL, 0o444).unwrap();
        guest.write(made.nodeid, fh, 0, n.to_string().as_bytes(), 0).unwrap();
        guest.release(made.nodeid, fh);
        let link = LinkIn { oldnodeid: made.nodeid };
        // A look at all directories lets go of the nodes of these.
        (0..n).step_by(3).for_each(|m| drop(guest.names(guest.at(&format!("0/{m}/deep")), false)));
        let (at, name) = if n % 2 == 0 { (dir, &b"final\0"[..]) } else { (root, &b"other\0"[..]) };
        guest.ask::<EntryOut>(op::LINK, at, &[link.as_bytes(), name]).unwrap();
        if n % 3 == 0 {
            guest.at(&format!("0/{n}/deep/tmp"));
        }
        guest.unlink(dir, "tmp").unwrap();
        if n % 2 == 1 {
            guest.rename(root, "other", dir, "final", 0).unwrap();
        }
        ids.push((dir, made.nodeid));
    }
    for (n, (dir, id)) in ids.into_iter().enumerate() {
        // As Linux does when told that an inode is stale.
        let fh = guest.open(id, libc::O_RDONLY).or_else(|_| {
            assert_eq!(guest.lookup(dir, "final").unwrap().nodeid, id);
            guest.open(id, libc::O_RDONLY)
        });
        assert_eq!(guest.read(id, fh.unwrap(), 0, 10).unwrap(), n.to_string().as_bytes());
        guest.release(id, fh.unwrap());
    }
}

#[test]
fn nothing_is_kept_of_what_is_forgotten() {
    let guest = writable();
    let root = guest.at("0");
    for _ in 0..1500 {
        let made: EntryOut = guest.ask(op::MKDIR, root, &[MkdirIn { mode: 0o755, umask: 0 }.as_bytes(), b"dir\0"]).unwrap();
        guest.call(op::RMDIR, root, &[b"dir\0"], 0).unwrap();
        guest.forget(made.nodeid, 1);
    }
    let (inodes, resident) = guest.fs.inodes.lock().sizes();
    assert!(inodes == 1 && resident <= 1024, "{inodes}, {resident}");
}

#[test]
fn limits_are_kept() {
    let guest = Guest::new(Access::ReadWrite, Cache::Exclusive, Limits { inodes: 30, handles: 5, nodes: 10 });
    for n in 0..40 {
        fs::write(guest.dir.0.join(n.to_string()), "").unwrap();
    }
    let root = guest.at("0");
    let found: Vec<_> = (0..40).map(|n| guest.lookup(root, &n.to_string()).map(|entry| entry.nodeid)).collect();
    assert_eq!(found.iter().filter(|id| id.is_ok()).count(), 29);
    assert_eq!(found[35], Err(Errno::ENFILE));
    assert_eq!(guest.names(root, true).len(), 42, "names are told in any case");
    let first = *found[0].as_ref().unwrap();
    let open: Vec<_> = (0..6).map(|_| guest.open(first, libc::O_RDONLY)).collect();
    assert_eq!((open[4].is_ok(), open[5]), (true, Err(Errno::ENFILE)));
    assert_eq!(guest.create(root, "not-made", libc::O_RDWR, 0o644).unwrap_err(), Errno::ENFILE);
    assert!(!guest.dir.0.join("not-made").exists());
    // The listing told of each once more.
    guest.forget(first, 2);
    assert_eq!(guest.attr(first), Err(Errno::ESTALE));
    guest.lookup(root, "39").unwrap();
}

#[test]
fn forgetting_frees_directories_after_what_is_in_them() {
    let guest = writable();
    fs::create_dir_all(guest.dir.0.join("a/b")).unwrap();
    let (root, a) = (guest.at("0"), guest.at("0/a"));
    let b = guest.lookup(a, "b").unwrap().nodeid;
    guest.forget(a, 1);
    assert!(guest.attr(b).is_ok() && guest.attr(a).is_ok(), "b is found through a");
    guest.forget(b, 1);
    assert_eq!((guest.attr(a), guest.attr(b)), (Err(Errno::ESTALE), Err(Errno::ESTALE)));
    guest.forget(b, u64::MAX);
    guest.forget(12345, 1);
    assert!(guest.attr(root).is_ok());
}

#[test]
fn trees_come_and_go() {
    let guest = writable();
    fs::write(guest.dir.0.join("file"), "data").unwrap();
    assert_eq!(guest.show(Access::ReadOnly, Cache::Shared), 1);
    let config = || TreeConfig {
        source: Source::at_path(&guest.dir.0.join("file")).unwrap(),
        access: Access::ReadWrite,
        cache: Cache::Exclusive,
        told: false,
    };
    guest.trees.add_at(7, config()).unwrap();
    assert!(guest.trees.add_at(7, config()).is_err() && guest.trees.add_at(1 << 20, config()).is_err());
    let names: Vec<_> = guest.names(ROOT_ID, true).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".", "..", "0", "1", "7"]);
    let file = guest.at("7");
    let fh = guest.open(file, libc::O_RDWR).unwrap();
    assert_eq!(guest.write(file, fh, 0, b"D", 0), Ok(1));
    assert_eq!(
        (guest.read(file, fh, 0, 9).unwrap().as_slice(), guest.at("0/file") == guest.at("1/file")),
        (&b"Data"[..], false)
    );
    for name in ["2", "07", "+7", "x", "4294967296"] {
        assert_eq!(guest.lookup(ROOT_ID, name).unwrap_err(), Errno::ENOENT, "{name}");
    }
    let late = guest.trees.get(7).unwrap();
    assert!(guest.fs.remove_tree(7) && !guest.fs.remove_tree(7));
    // A request that was under way when the tree went.
    assert_eq!(guest.fs.entry(&late, None, &late.root.attr().unwrap(), None).unwrap_err(), Errno::ESTALE);
    assert_eq!(guest.fs.handles.lock().insert(9, Some(&late), crate::handles::Open::Root), Err(Errno::ESTALE));
    assert_eq!(Arc::strong_count(&late), 1, "nothing holds it");
    assert_eq!((guest.attr(file), guest.read(file, fh, 0, 1)), (Err(Errno::ESTALE), Err(Errno::EBADF)));
    assert_eq!(guest.lookup(ROOT_ID, "7").unwrap_err(), Errno::ENOENT);
    guest.trees.add_at(7, config()).unwrap();
    assert_ne!(guest.at("7"), file);
    assert_eq!(guest.create(ROOT_ID, "8", libc::O_RDWR, 0o644).unwrap_err(), Errno::EROFS);
    assert_eq!(guest.unlink(ROOT_ID, "7"), Err(Errno::EROFS));
    assert_eq!(guest.rename(guest.at("0"), "file", guest.at("1"), "file", 0), Err(Errno::EROFS));
}

#[test]
fn two_devices_have_different_numbers() {
    let guest = writable();
    let one = guest.fs.ino((8, 1), 42);
    assert_eq!((one, guest.fs.ino((8, 1), 42)), (42, 42));
    assert_ne!(guest.fs.ino((8, 2), 42), one);
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Requests of any operation on numbers that mostly mean something, with bodies that mostly do not. Nothing panics, answers fit, and nothing beside
/// the tree changes.
#[test]
fn any_bytes_are_answered_or_dropped() {
    let guest = Guest::new(Access::ReadWrite, Cache::Exclusive, Limits { inodes: 200, handles: 20, nodes: 10 });
    let outside = TestDir::new();
    fs::write(outside.0.join("canary"), "unharmed").unwrap();
    std::os::unix::fs::symlink(&outside.0, guest.dir.0.join("out")).unwrap();
    fs::create_dir_all(guest.dir.0.join("a/b")).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ids = vec![ROOT_ID, guest.at("0"), guest.at("0/a"), guest.at("0/out"), guest.at("0/a/b")];
    let mut fhs = vec![0u64];
    let names = ["a", "b", "out", "..", "0", "x/y", "canary", ""];
    let mut answered = 0;
    for _ in 0..30_000 {
        let opcode = random.below(53) as u32;
        // Syncing the disk is slow and no parser.
        if matches!(opcode, op::FSYNC | op::FSYNCDIR | op::FALLOCATE) {
            continue;
        }
        let nodeid = ids[random.below(ids.len() as u64) as usize];
        let mut body = Vec::new();
        for _ in 0..random.below(6) {
            match random.below(5) {
                0 => body.extend_from_slice(&ids[random.below(ids.len() as u64) as usize].to_ne_bytes()),
                1 => body.extend_from_slice(&fhs[random.below(fhs.len() as u64) as usize].to_ne_bytes()),
                2 => body.extend_from_slice(&random.below(5000).to_ne_bytes()),
                3 => body.extend_from_slice(&random.next().to_ne_bytes()),
                _ => {
                    body.extend_from_slice(names[random.below(names.len() as u64) as usize].as_bytes());
                    body.push(0);
                }
            }
        }
        let len = if random.below(10) == 0 { random.next() as u32 } else { (HEAD + body.len()) as u32 };
        let head = InHeader { len, opcode, unique: 1, nodeid, ..InHeader::default() };
        let mut bytes = [head.as_bytes(), &body].concat();
        bytes.truncate(if random.below(20) == 0 { random.below(80) as usize } else { usize::MAX });
        let mut input = Pieces::default();
        for piece in bytes.chunks_mut(1 + random.below(64) as usize) {
            input.push(VolatileSlice::from(piece));
        }
        let mut out = vec![0; random.below(300) as usize + if random.below(2) == 0 { 0 } else { 4096 }];
        let mut output = Pieces::default();
        output.push(VolatileSlice::from(&mut out[..]));
        let used = guest.fs.serve(&input, &output);
        assert!(used <= out.len());
        let Some(answer) = out.get(OUT_HEAD..used).filter(|_| used >= OUT_HEAD) else { continue };
        answered += 1;
        if let (op::LOOKUP | op::MKDIR | op::CREATE | op::SYMLINK, Ok((entry, rest))) =
            (opcode, EntryOut::read_from_prefix(answer))
            && ids.len() < 300
        {
            ids.push(entry.nodeid);
            fhs.extend(OpenOut::read_from_prefix(rest).map(|(open, _)| open.fh));
        }
        if let (op::OPEN | op::OPENDIR, Ok((open, _))) = (opcode, OpenOut::read_from_prefix(answer)) {
            fhs.push(open.fh);
        }
    }
    assert!(answered > 10_000, "{answered}");
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.0.join("canary")).unwrap(), "unharmed");
}
