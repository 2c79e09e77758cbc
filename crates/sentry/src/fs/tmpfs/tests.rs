//! Data, limits and names of a tmpfs.

use super::{Options, TmpFs};
use crate::Errno;
use crate::fs::testing::{Tree, memory, run, tmpfs};
use crate::fs::{File, FileSystem, NewInode, OpenFlags, RenameFlags, SetAttr, Whence, WriteAt, XattrCall, next_device};
use crate::mm::{Access, Sink};
use crate::ns::UserNs;
use crate::step::Step;
use crate::time::Clock;

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

fn pread(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut sink = Bounded(Vec::new(), len);
    run(file.ops.read(file, offset, &mut sink).into_future()).expect("read");
    sink.0
}

fn pwrite(file: &File, at: WriteAt, bytes: &[u8]) -> Result<u64, Errno> {
    run(file.ops.write(file, at, &mut &*bytes).into_future()).map(|written| written.end)
}

fn file(tree: &Tree) -> std::sync::Arc<File> {
    tree.write("f", "").expect("create");
    tree.open(&tree.at("f").expect("f"), OpenFlags::RDWR).expect("open")
}

fn size(tree: &Tree) -> (u64, u64) {
    let m = tree.stat("f").expect("stat");
    (m.size, m.blocks)
}

#[test]
fn bytes_come_back_over_holes_and_extents() {
    let tree = Tree::new(tmpfs());
    let file = file(&tree);
    let mut model = vec![0u8; 300_000];
    let mut seed = 7u64;
    for n in 0..200 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (at, len) = ((seed >> 33) as usize % 250_000, (seed >> 20) as usize % 9000 + 1);
        match n % 5 {
            4 => {
                run(file.ops.allocate(3, at as u64, len as u64).into_future()).expect("punch");
                model[at..at + len].fill(0);
            }
            _ => {
                let bytes: Vec<u8> = (0..len).map(|i| (i + n) as u8).collect();
                pwrite(&file, WriteAt::Offset(at as u64), &bytes).expect("write");
                model[at..at + len].copy_from_slice(&bytes);
            }
        }
        let (size, _) = size(&tree);
        assert_eq!(pread(&file, 0, 400_000), &model[..size as usize], "step {n}");
    }
}

#[test]
fn cutting_and_growing_gives_zeros() {
    let tree = Tree::new(tmpfs());
    let file = file(&tree);
    pwrite(&file, WriteAt::Append, &[1; 10_000]).expect("write");
    let resize = |size| run(file.inode().set_attr(SetAttr { size: Some(size), ..SetAttr::default() }).into_future());
    resize(5000).expect("cut");
    assert_eq!(size(&tree), (5000, 16));
    resize(9000).expect("grow");
    let back = pread(&file, 0, 20_000);
    assert_eq!((back.len(), back.iter().filter(|&&byte| byte == 1).count()), (9000, 5000));
    assert_eq!(resize(u64::MAX), Err(Errno::EFBIG));
    assert_eq!(pwrite(&file, WriteAt::Offset(i64::MAX as u64), b"x"), Err(Errno::EFBIG));
    assert_eq!(pwrite(&file, WriteAt::Append, b"end"), Ok(9003));
}

#[test]
fn data_and_holes_are_found() {
    let tree = Tree::new(tmpfs());
    let file = file(&tree);
    pwrite(&file, WriteAt::Offset(8192), &[1; 4096]).expect("write");
    run(file.inode().set_attr(SetAttr { size: Some(100_000), ..SetAttr::default() }).into_future()).expect("grow");
    let seek = |at, whence| run(file.ops.seek_data(at, whence).into_future());
    assert_eq!(seek(0, Whence::Data), Ok(8192));
    assert_eq!(seek(9000, Whence::Data), Ok(9000));
    assert_eq!(seek(8192, Whence::Hole), Ok(12_288));
    assert_eq!(seek(0, Whence::Hole), Ok(0));
    assert_eq!(seek(12_288, Whence::Data), Err(Errno::ENXIO));
    assert_eq!(seek(100_000, Whence::Hole), Err(Errno::ENXIO));
}

#[test]
fn mapped_pages_are_the_file() {
    let tree = Tree::new(tmpfs());
    let file = file(&tree);
    pwrite(&file, WriteAt::Offset(0), &[1; 6000]).expect("write");
    let mapped = file.ops.mappable().expect("mappable");
    let pieces = mapped.pieces(0, 1 << 20, Access::Write).expect("pieces");
    assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), 8192);
    pieces[0].window.write(pieces[0].offset + 100, &[9]).expect("store");
    assert_eq!(pread(&file, 100, 1), [9]);
    pwrite(&file, WriteAt::Offset(200), &[8]).expect("write");
    let mut byte = [0];
    pieces[0].window.read(pieces[0].offset + 200, &mut byte).expect("load");
    assert_eq!(byte, [8]);
    assert!(mapped.pieces(8192, 4096, Access::Read).expect("pieces").is_empty(), "past the end");
}

#[test]
fn limits_are_kept_and_space_comes_back() {
    let options = Options { size: 64 << 10, inodes: 4, ..Options::default() };
    let fs = TmpFs::new(memory(), Clock::Host, next_device(), options);
    let tree = Tree::new(fs.clone());
    let file = file(&tree);
    assert_eq!(pwrite(&file, WriteAt::Offset(0), &[1; 64 << 10]), Ok(64 << 10));
    assert_eq!(pwrite(&file, WriteAt::Append, &[1]), Err(Errno::ENOSPC));
    let free = || match fs.stat_fs() {
        Step::Ready(Ok(stat)) => (stat.blocks_free, stat.files_free),
        _ => panic!("no answer"),
    };
    assert_eq!(free(), (0, 2));
    tree.mkdir("d").expect("mkdir");
    tree.symlink("f", "l").expect("symlink");
    assert_eq!(tree.mkdir("e").err(), Some(Errno::ENOSPC));
    drop(file);
    tree.unlink("f").expect("unlink");
    assert_eq!(free(), (16, 1), "the cache holds no removed file");
    let mut options = Options::default();
    assert_eq!(options.set("size", Some("50%"), 1 << 20, &UserNs::ROOT), Ok(()));
    assert_eq!(options.set("mode", Some("700"), 1 << 20, &UserNs::ROOT), Ok(()));
    assert_eq!((options.size, options.permissions), (524_288, 0o700));
    assert_eq!(options.set("size", Some("4x"), 0, &UserNs::ROOT), Err(Errno::EINVAL));
}

#[test]
fn directories_count_links_and_refuse() {
    let tree = Tree::new(tmpfs());
    for dir in ["a", "a/b", "c"] {
        tree.mkdir(dir).expect("mkdir");
    }
    tree.write("a/f", "f").expect("write");
    let nlink = |path: &str| tree.stat(path).expect("stat").nlink;
    assert_eq!((nlink("a"), nlink(".")), (3, 4));
    let none = RenameFlags::empty();
    assert_eq!(tree.rename("a", "a/b/x", none), Err(Errno::EINVAL));
    assert_eq!(tree.rename("a/f", "c", none), Err(Errno::EISDIR));
    assert_eq!(tree.rename("c", "a/f", none), Err(Errno::ENOTDIR));
    assert_eq!(tree.rename("c", "a", none), Err(Errno::ENOTEMPTY));
    assert_eq!(tree.rename("a/b", "a", none), Err(Errno::ENOTEMPTY));
    assert_eq!(tree.rename("a/f", "a/b/../f", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    tree.rename("a/b", "c", none).expect("onto an empty directory");
    assert_eq!((nlink("a"), nlink("c"), nlink(".")), (2, 2, 4));
    tree.link("a/f", "hard").expect("link");
    assert_eq!((nlink("hard"), tree.read("hard")), (2, Ok("f".into())));
    assert_eq!(tree.rename("hard", "a/f", none), Ok(()), "the same file: nothing happens");
    assert_eq!(nlink("hard"), 2);
    assert_eq!(tree.rmdir("a"), Err(Errno::ENOTEMPTY));
    assert_eq!(tree.unlink("a"), Err(Errno::EISDIR));
    assert_eq!(tree.rmdir("hard"), Err(Errno::ENOTDIR));
    tree.rename("a/f", "c", RenameFlags::EXCHANGE).expect("exchange");
    assert_eq!((tree.read("c"), tree.list("a")), (Ok("f".into()), Ok(vec!["f".into()])));
    assert_eq!((nlink("a"), nlink(".")), (3, 3));
}

#[test]
fn sticky_directories_and_extended_attributes() {
    let tree = Tree::new(tmpfs());
    let (alice, bob) = (tree.seen_by(1), tree.seen_by(2));
    alice.write("mine", "a").expect("write");
    assert_eq!(bob.unlink("mine"), Err(Errno::EPERM));
    assert_eq!(bob.rename("mine", "his", RenameFlags::empty()), Err(Errno::EPERM));
    alice.unlink("mine").expect("unlink");
    let fs = tmpfs();
    let new = NewInode { kind: crate::fs::FileKind::Regular, permissions: 0, uid: 0, gid: 0, rdev: 0, target: vec![] };
    let node: std::sync::Arc<dyn crate::fs::Inode> = fs.unnamed(&new).expect("a node");
    let call = |call| run(node.xattr(call).into_future());
    assert_eq!(call(XattrCall::Set(b"user.a", b"1", 2)), Err(Errno::ENODATA));
    assert_eq!(call(XattrCall::Set(b"user.a", b"1", 1)), Ok(vec![]));
    assert_eq!(call(XattrCall::Set(b"user.a", b"2", 1)), Err(Errno::EEXIST));
    assert_eq!(call(XattrCall::Get(b"user.a")), Ok(b"1".to_vec()));
    assert_eq!(call(XattrCall::List), Ok(b"user.a\0".to_vec()));
    assert_eq!(call(XattrCall::Remove(b"user.a")), Ok(vec![]));
    assert_eq!(call(XattrCall::Get(b"user.a")), Err(Errno::ENODATA));
}
