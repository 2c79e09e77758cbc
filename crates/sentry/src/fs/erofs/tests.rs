//! Images made by mkfs.erofs 1.5 (`testdata`), whole and damaged.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::EroFs;
use crate::Errno;
use crate::fs::testing::{Tree, memory, run};
use crate::fs::{FileKind, FileSystem, OpenFlags, XattrCall};
use crate::mm::Access;

const PLAIN: &[u8] = include_bytes!("testdata/plain.erofs");
const EXTENDED: &[u8] = include_bytes!("testdata/ext.erofs");
const CHUNKS: &[u8] = include_bytes!("testdata/chunk.erofs");
const COMPRESSED: &[u8] = include_bytes!("testdata/lz4.erofs");

fn mount(bytes: &[u8]) -> Result<Arc<EroFs>, Errno> {
    let file = hostcall::memory::anonymous_file("image").expect("a file");
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).expect("in range");
        at += hostcall::io::write_at(file.as_fd(), rest, at as i64, hostcall::io::Sleep::Allowed).expect("write");
    }
    EroFs::new(file, memory(), 77)
}

fn pattern(len: usize, of: impl Fn(usize) -> usize) -> Vec<u8> {
    (0..len).map(|i| of(i) as u8).collect()
}

/// All of a file, by reading.
fn read(tree: &Tree, path: &str) -> Vec<u8> {
    let place = tree.at(path).expect(path);
    let node = place.inode().as_any().downcast_ref::<super::inode::Node>().expect("a node");
    node.raw.read(&node.fs.image, 0, 1 << 20).expect("read")
}

/// All of a file, through its mapping.
fn mapped(tree: &Tree, path: &str) -> Vec<u8> {
    let file = tree.open(&tree.at(path).expect(path), OpenFlags::empty()).expect("open");
    let mappable = file.ops.mappable().expect("mappable");
    let size = mappable.size();
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let pieces = mappable.pieces(all.len() as u64, 1 << 20, Access::Read).expect("pieces");
        assert!(!pieces.is_empty(), "{path} has a gap at {}", all.len());
        for piece in pieces {
            let mut bytes = vec![0; piece.len as usize];
            piece.window.read(piece.offset, &mut bytes).expect("read");
            all.extend(bytes);
        }
    }
    all.truncate(size as usize);
    all
}

#[test]
fn files_of_every_layout() {
    let blocks = pattern(8192, |i| (i * 7 + i / 4096) % 251);
    let tail = pattern(5000, |i| (i * 3 + 1) % 253);
    for image in [PLAIN, EXTENDED] {
        let tree = Tree::new(mount(image).expect("mount"));
        for (path, content) in [("small", b"small".to_vec()), ("blocks", blocks.clone()), ("tail", tail.clone())] {
            assert!(read(&tree, path) == content && mapped(&tree, path) == content, "{path}");
        }
        assert_eq!(tree.read("dir/sub/deep").as_deref(), Ok("deep"));
        assert_eq!(tree.read("link").as_deref(), Ok("deep"));
    }
    let tree = Tree::new(mount(CHUNKS).expect("mount"));
    let mut sparse = b"begin".to_vec();
    sparse.resize(16384, 0);
    sparse.extend(b"end");
    let two = pattern(9000, |i| i * 5 % 249);
    for (path, content) in [("sparse", sparse), ("two", two)] {
        assert!(read(&tree, path) == content && mapped(&tree, path) == content, "{path}");
    }
}

#[test]
fn directories_and_attributes() {
    for image in [PLAIN, EXTENDED] {
        let tree = Tree::new(mount(image).expect("mount"));
        let mut names = tree.list("/").expect("list");
        names.retain(|name| name != "lost+found");
        assert_eq!(names, ["blocks", "dir", "fifo", "hard", "link", "null", "small", "tail"]);
        assert_eq!(tree.list("dir").expect("list").len(), 131);
        assert!(tree.at("dir/file-with-a-longer-name-129").is_ok());
        assert_eq!(tree.at("dir/file-with-a-longer-name-130").err(), Some(Errno::ENOENT));
        let stat = tree.stat("tail").expect("stat");
        assert_eq!((stat.permissions, stat.size, stat.modified.sec), (0o4755, 5000, 1_700_000_000));
        assert_eq!(tree.stat("small").map(|stat| stat.nlink), Ok(2));
        assert_eq!(tree.stat("small").map(|stat| stat.ino), tree.stat("hard").map(|stat| stat.ino));
        let null = tree.stat("null").expect("stat");
        assert_eq!((null.kind, null.rdev), (FileKind::CharDevice, 0x103));
        assert_eq!(tree.stat("fifo").map(|stat| stat.kind), Ok(FileKind::Fifo));
        assert_eq!(tree.mkdir("new").err(), Some(Errno::EROFS));
        assert_eq!(tree.unlink("small"), Err(Errno::EROFS));
    }
}

#[test]
fn extended_attributes() {
    for image in [PLAIN, EXTENDED] {
        let tree = Tree::new(mount(image).expect("mount"));
        let get = |path: &str, name: &str| {
            let place = tree.at(path).expect(path);
            run(async { place.inode().xattr(XattrCall::Get(name.as_bytes())).await })
        };
        assert_eq!(get("small", "user.one"), Ok(b"1".to_vec()));
        assert_eq!(get("blocks", "user.common"), Ok(b"shared-value".to_vec()));
        assert_eq!(get("tail", "user.common"), Ok(b"shared-value".to_vec()));
        assert_eq!(get("tail", "user.none"), Err(Errno::ENODATA));
        let place = tree.at("small").expect("small");
        assert_eq!(run(async { place.inode().xattr(XattrCall::List).await }), Ok(b"user.one\0".to_vec()));
    }
}

#[test]
fn what_is_no_image_is_refused() {
    assert_eq!(mount(&[]).err(), Some(Errno::EINVAL));
    assert_eq!(mount(&[0; 8192]).err(), Some(Errno::EINVAL));
    assert_eq!(mount(PLAIN.get(..1100).expect("part")).err(), Some(Errno::EINVAL));
    // Compressed: either the whole image is refused, or the files are.
    if let Ok(fs) = mount(COMPRESSED) {
        let tree = Tree::new(fs);
        for path in ["blocks", "tail"] {
            if let Ok(place) = tree.at(path) {
                let opened = tree.open(&place, OpenFlags::empty());
                assert!(opened.is_ok() || matches!(opened.err(), Some(Errno::EOPNOTSUPP)));
            }
        }
    }
}

/// xorshift: the same damage each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Looks at everything that can be reached, as far as it goes.
fn look_at_all(fs: Arc<EroFs>) {
    let mut todo = vec![(fs.root(), 0)];
    let mut seen = 0;
    while let Some((inode, depth)) = todo.pop() {
        seen += 1;
        if seen > 400 {
            return;
        }
        let _ = run(async { inode.metadata().await });
        if let Ok(names) = run(async { inode.xattr(XattrCall::List).await }) {
            for name in names.split(|&byte| byte == 0).take(10) {
                let _ = run(async { inode.xattr(XattrCall::Get(name)).await });
            }
        }
        let _ = inode.link_text();
        let Ok(ops) = run(async { inode.clone().open_data(OpenFlags::empty()).await }) else { continue };
        if inode.kind() == FileKind::Directory {
            let file = crate::fs::File::new(
                ops,
                crate::fs::Origin::Anonymous { inode: inode.clone(), name: "dir".into() },
                OpenFlags::empty(),
            );
            let mut names = Vec::new();
            let mut emit = |entry: crate::fs::DirEntry<'_>| {
                names.push(entry.name.to_vec());
                names.len() < 200
            };
            let _ = run(async { file.ops.read_dir(&file, 0, &mut emit).await });
            for name in names.iter().filter(|name| !matches!(name.as_slice(), b"." | b"..")) {
                if let Ok(child) = run(async { inode.lookup(name).await })
                    && depth < 8
                {
                    todo.push((child, depth + 1));
                }
            }
        } else if let Ok(mappable) = ops.mappable() {
            for offset in [0, 4096, mappable.size().saturating_sub(1) & !4095, 1 << 40] {
                let _ = mappable.pieces(offset, 65536, Access::Read);
            }
            let node = inode.as_any().downcast_ref::<super::inode::Node>().expect("a node");
            for offset in [0, 5000, mappable.size().saturating_sub(3)] {
                let _ = node.raw.read(&node.fs.image, offset, 65536);
            }
        }
    }
}

#[test]
fn damaged_images_do_no_harm() {
    let mut random = Random(0x5eed_0e20_f500_0001);
    for round in 0..600 {
        let original = match round % 3 {
            0 => PLAIN,
            1 => EXTENDED,
            _ => CHUNKS,
        };
        let mut image = original.to_vec();
        for _ in 0..1 + random.next() % 12 {
            // Mostly where the superblock, the inodes and the directories are.
            let limit = if random.next().is_multiple_of(4) { image.len() } else { image.len().min(12288) };
            let at = random.next() as usize % limit;
            let value = match random.next() % 4 {
                0 => 0,
                1 => 0xff,
                _ => random.next() as u8,
            };
            // The magic number stays, or there would be nothing to see.
            if !(1024..1028).contains(&at) {
                *image.get_mut(at).expect("in range") = value;
            }
        }
        if random.next().is_multiple_of(8) {
            image.truncate(2048 + random.next() as usize % (original.len() - 2048));
        }
        if let Ok(fs) = mount(&image) {
            look_at_all(fs);
        }
    }
}
