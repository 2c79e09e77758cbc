//! The core on folders of the host, with somebody working against it.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use libc::{IN_ATTRIB, IN_CREATE, IN_DELETE_SELF, IN_EXCL_UNLINK, IN_IGNORED, IN_MODIFY, IN_OPEN};
use rustix::fs::{FileType, Mode};

use super::{Budget, Export, Node, Notifier, Source};
use crate::{Errno, protocol::*, testdir::TestDir};

fn export(dir: &Path, access: Access) -> Arc<Node> {
    Export::open(Source::at_path(dir).unwrap(), access, &Budget::new(100)).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn me() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn look(dir: &Node, text: &str) -> Arc<Node> {
    dir.lookup(&name(text)).unwrap().0
}

fn read(node: &Node) -> Result<String, Errno> {
    let mut text = String::new();
    fs::File::from(node.open(OpenHow::Read, Truncate::Keep)?).read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn links_are_nodes_and_never_followed() {
    let dir = TestDir::new("links");
    symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
    symlink("../../../etc", dir.path().join("up")).unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    for (text, target) in [("absolute", "/etc/passwd"), ("up", "../../../etc")] {
        let link = look(&root, text);
        assert_eq!(link.kind(), FileKind::Symlink);
        assert_eq!(link.read_link().unwrap(), target.as_bytes());
        assert_eq!(link.open(OpenHow::Read, Truncate::Keep).unwrap_err(), Errno::ELOOP);
        assert_eq!(link.lookup(&name("passwd")).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(link.open_dir().unwrap_err(), Errno::ENOTDIR);
        let set = SetAttr { size: Some(0), ..SetAttr::default() };
        assert_eq!(link.set_attr(&set).unwrap_err(), Errno::EINVAL);
        // O_EXCL does not write through the link either.
        assert_eq!(root.create(&name(text), 0o600, me(), OpenHow::Write).unwrap_err(), Errno::EEXIST);
    }
}

#[test]
fn only_regular_files_are_opened() {
    let dir = TestDir::new("special");
    let root = export(dir.path(), Access::ReadWrite);
    root.mknod(&name("fifo"), MakeNode::Fifo, 0o600, me()).unwrap();
    root.mknod(&name("socket"), MakeNode::Socket, 0o600, me()).unwrap();
    root.mkdir(&name("dir"), 0o700, me()).unwrap();
    let device = rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("zero"), FileType::CharacterDevice, Mode::RWXU, 0x105);
    assert!(fs::symlink_metadata(dir.path().join("fifo")).unwrap().file_type().is_fifo());
    for how in [OpenHow::Read, OpenHow::Write, OpenHow::ReadWrite] {
        assert_eq!(look(&root, "fifo").open(how, Truncate::Keep).unwrap_err(), Errno::ENXIO);
        assert_eq!(look(&root, "socket").open(how, Truncate::Keep).unwrap_err(), Errno::ENXIO);
        assert_eq!(look(&root, "dir").open(how, Truncate::Keep).unwrap_err(), Errno::EISDIR);
        if device.is_ok() {
            assert_eq!(look(&root, "zero").open(how, Truncate::Keep).unwrap_err(), Errno::ENXIO);
        }
    }
}

#[test]
fn a_read_only_export_changes_nothing() {
    let dir = TestDir::new("readonly");
    fs::write(dir.path().join("f"), "text").unwrap();
    let root = export(dir.path(), Access::ReadOnly);
    let (f, new) = (look(&root, "f"), name("new"));
    let user = XattrName::new(b"user.x").unwrap();
    let refused = [
        f.open(OpenHow::Write, Truncate::Keep).err(),
        f.open(OpenHow::ReadWrite, Truncate::Keep).err(),
        f.open(OpenHow::Read, Truncate::ToZero).err(),
        root.create(&new, 0o600, me(), OpenHow::Read).err(),
        root.mkdir(&new, 0o700, me()).err(),
        root.mknod(&new, MakeNode::Regular, 0o600, me()).err(),
        root.symlink(&new, c"f", me()).err(),
        root.link(&f, &new).err(),
        root.unlink(&name("f"), EntryKind::NotDirectory).err(),
        root.rename(&name("f"), &root, &new, RenameKind::Replace).err(),
        f.set_attr(&SetAttr { mode: Some(0), ..SetAttr::default() }).err(),
        f.set_xattr(&user, b"1", XattrMode::Set).err(),
        f.remove_xattr(&user).err(),
    ];
    assert_eq!(refused, [Some(Errno::EROFS); 13]);
    assert_eq!(read(&f).unwrap(), "text");
}

#[test]
fn files_are_made_with_their_owner_and_mode() {
    let dir = TestDir::new("make");
    let root = export(dir.path(), Access::ReadWrite);
    let owner = if me().uid == 0 { Owner { uid: 1234, gid: 567 } } else { me() };
    let (_, attr, fd) = root.create(&name("f"), 0o4711, owner, OpenHow::Write).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (owner.uid, owner.gid, 0o4711));
    fs::File::from(fd).write_all(b"x").unwrap();
    let (_, attr) = root.mkdir(&name("d"), 0o1750, owner).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (owner.uid, owner.gid, 0o1750));
    let (link, attr) = root.symlink(&name("l"), c"../x", owner).unwrap();
    assert_eq!((attr.uid, attr.gid, link.read_link().unwrap()), (owner.uid, owner.gid, b"../x".to_vec()));
    let (second, attr) = root.link(&look(&root, "f"), &name("f2")).unwrap();
    assert_eq!(attr.nlink, 2);
    // Each name has its own node: one goes, the other still opens.
    root.unlink(&name("f"), EntryKind::NotDirectory).unwrap();
    assert_eq!(read(&second).unwrap(), "x");
    assert_eq!(root.link(&look(&root, "d"), &name("d2")).unwrap_err(), Errno::EPERM);
    assert_eq!(root.mkdir(&name("d"), 0, owner).unwrap_err(), Errno::EEXIST);
    assert_eq!(root.unlink(&name("d"), EntryKind::NotDirectory).unwrap_err(), Errno::EISDIR);
    root.unlink(&name("d"), EntryKind::Directory).unwrap();
    assert_eq!(root.create(&name("bad"), 0o600, Owner { uid: u32::MAX, gid: 0 }, OpenHow::Read).unwrap_err(), Errno::EINVAL);
    assert!(!dir.path().join("bad").exists(), "a file that cannot be handed out stays");
}

#[test]
fn attributes_change_as_asked() {
    let dir = TestDir::new("attr");
    fs::write(dir.path().join("f"), "0123456789").unwrap();
    symlink("f", dir.path().join("l")).unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    let f = look(&root, "f");
    let at = Timestamp { seconds: 1_000_000_000, nanoseconds: 5 };
    let set = SetAttr { mode: Some(0o640), size: Some(3), mtime: Some(SetTime::At(at)), ..SetAttr::default() };
    let attr = f.set_attr(&set).unwrap();
    assert_eq!((attr.mode, attr.size, attr.mtime), (0o640, 3, at));
    assert_eq!(read(&f).unwrap(), "012");
    let attr = look(&root, "l").set_attr(&SetAttr { mtime: Some(SetTime::At(at)), ..SetAttr::default() }).unwrap();
    assert_eq!((attr.kind, attr.mtime), (FileKind::Symlink, at));
    assert_eq!(look(&root, "l").set_attr(&SetAttr { mode: Some(0), ..SetAttr::default() }).unwrap_err(), Errno::EOPNOTSUPP);
    let big = SetAttr { size: Some(u64::MAX), ..SetAttr::default() };
    assert_eq!(f.set_attr(&big).unwrap_err(), Errno::EINVAL);
    assert!(f.statfs().unwrap().block_size > 0);
    f.fsync(Durability::All).unwrap();
    root.fsync(Durability::Data).unwrap();
    let meta = fs::metadata(dir.path().join("f")).unwrap();
    let attr = f.attr().unwrap();
    assert_eq!((attr.ino, attr.nlink, attr.blocks), (meta.ino(), meta.nlink() as u32, meta.blocks()));
    assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
}

#[test]
fn xattrs_of_the_user_only() {
    let dir = TestDir::new("xattr");
    fs::write(dir.path().join("f"), "").unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    let f = look(&root, "f");
    let xattr = |text: &str| XattrName::new(text.as_bytes()).unwrap();
    match f.set_xattr(&xattr("user.a"), b"value", XattrMode::Create) {
        Err(Errno::EOPNOTSUPP) => return, // The host's file system has none.
        other => other.unwrap(),
    }
    assert_eq!(f.get_xattr(&xattr("user.a"), 5).unwrap(), b"value");
    assert_eq!(f.get_xattr(&xattr("user.a"), 4).unwrap_err(), Errno::ERANGE);
    assert_eq!(f.set_xattr(&xattr("user.a"), b"", XattrMode::Create).unwrap_err(), Errno::EEXIST);
    assert_eq!(f.set_xattr(&xattr("user.b"), b"", XattrMode::Replace).unwrap_err(), Errno::ENODATA);
    f.set_xattr(&xattr("user.empty"), b"", XattrMode::Set).unwrap();
    assert_eq!(f.get_xattr(&xattr("user.empty"), 0).unwrap(), b"");
    for hidden in ["trusted.overlay.opaque", "security.selinux", "security.capability", "system.data"] {
        assert_eq!(f.set_xattr(&xattr(hidden), b"x", XattrMode::Set).unwrap_err(), Errno::EPERM);
        assert_eq!(f.get_xattr(&xattr(hidden), 100).unwrap_err(), Errno::ENODATA);
    }
    // As root this can be set from outside, and must not be seen.
    let _ = rustix::fs::setxattr(dir.path().join("f"), c"trusted.x", b"1", rustix::fs::XattrFlags::empty());
    let list = f.list_xattr().unwrap();
    let names: BTreeSet<_> = list.split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
    assert_eq!(names, BTreeSet::from([&b"user.a"[..], b"user.empty"]));
    f.remove_xattr(&xattr("user.a")).unwrap();
    assert_eq!(f.get_xattr(&xattr("user.a"), 5).unwrap_err(), Errno::ENODATA);
}

#[test]
fn directories_are_read_in_pieces() {
    let dir = TestDir::new("readdir");
    let names: BTreeSet<String> = (0..700).map(|i| format!("file-{i}")).collect();
    names.iter().for_each(|n| fs::write(dir.path().join(n), "").unwrap());
    let root = export(dir.path(), Access::ReadOnly);
    for detail in [ReadDirDetail::Names, ReadDirDetail::Attributes] {
        let stream = root.open_dir().unwrap();
        let (mut found, mut from) = (BTreeSet::new(), 0);
        loop {
            let mut room = 50;
            let (entries, end) = stream
                .read_by(16 << 10, Some(from), detail, |_| {
                    room -= 1;
                    room >= 0
                })
                .unwrap();
            assert_eq!(end, room >= 0);
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in entries {
                assert_eq!(entry.attr.is_some(), detail == ReadDirDetail::Attributes);
                assert!(found.insert(String::from_utf8(entry.name.as_bytes().to_vec()).unwrap()), "twice");
            }
        }
        assert_eq!(found, names);
        assert!(stream.read_by(16 << 10, Some(from), detail, |_| true).unwrap().1);
        assert_eq!(stream.read_by(16 << 10, Some(u64::MAX), detail, |_| true).unwrap_err(), Errno::EINVAL);
    }
}

#[test]
fn nothing_is_made_without_room_for_its_node() {
    let dir = TestDir::new("noroom");
    fs::write(dir.path().join("file"), "").unwrap();
    let root = Export::open(Source::at_path(dir.path()).unwrap(), Access::ReadWrite, &Budget::new(2)).unwrap();
    let file = look(&root, "file");
    let new = name("new");
    assert_eq!(root.mkdir(&new, 0o755, me()).unwrap_err(), Errno::ENFILE);
    assert_eq!(root.mknod(&new, MakeNode::Fifo, 0o644, me()).unwrap_err(), Errno::ENFILE);
    assert_eq!(root.symlink(&new, c"x", me()).unwrap_err(), Errno::ENFILE);
    assert_eq!(root.link(&file, &new).unwrap_err(), Errno::ENFILE);
    assert_eq!(root.create(&new, 0o644, me(), OpenHow::Write).unwrap_err(), Errno::ENFILE);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(file);
    root.mkdir(&new, 0o755, me()).unwrap();
}

#[test]
fn directories_are_read_by_any_size_at_a_time() {
    let dir = TestDir::new("readby");
    for n in 0..120 {
        fs::write(dir.path().join(format!("{n}-{}", "x".repeat(n * 2))), "").unwrap();
    }
    let stream = export(dir.path(), Access::ReadOnly).open_dir().unwrap();
    for raw_bytes in [0, 512, 1000, usize::MAX] {
        let (mut names, mut from) = (BTreeSet::new(), 0);
        loop {
            let mut count = 0;
            let (entries, end) = stream
                .read_by(raw_bytes, Some(from), ReadDirDetail::Names, |_| {
                    count += 1;
                    count <= 7
                })
                .unwrap();
            from = entries.last().map_or(0, |entry| entry.next);
            names.extend(entries.into_iter().map(|entry| entry.name));
            if end {
                break;
            }
        }
        assert_eq!(names.len(), 120, "{raw_bytes}");
    }
    let attr = stream.attr().unwrap();
    assert_eq!((attr.kind, attr.ino), (FileKind::Directory, fs::metadata(dir.path()).unwrap().ino()));
}

#[test]
fn renames_stay_in_their_export_and_take_the_node_along() {
    let dir = TestDir::new("rename");
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    fs::write(dir.path().join("b"), "b").unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    let other = export(&dir.path().join("d"), Access::ReadWrite);
    let (a, d) = (look(&root, "a"), look(&root, "d"));
    assert_eq!(root.rename(&name("a"), &other, &name("a"), RenameKind::Replace).unwrap_err(), Errno::EXDEV);
    assert_eq!(other.link(&a, &name("a")).unwrap_err(), Errno::EXDEV);
    assert_eq!(root.rename(&name("a"), &root, &name("b"), RenameKind::NoReplace).unwrap_err(), Errno::EEXIST);
    root.rename(&name("a"), &d, &name("c"), RenameKind::NoReplace).unwrap();
    // Not told of the new place, the node is stale, never another file.
    fs::write(dir.path().join("a"), "impostor").unwrap();
    assert_eq!(read(&a).unwrap_err(), Errno::ESTALE);
    a.moved_to(&d, &name("c"));
    assert_eq!(read(&a).unwrap(), "a");
    root.rename(&name("b"), &d, &name("c"), RenameKind::Exchange).unwrap();
    assert_eq!(read(&look(&root, "b")).unwrap(), "a");
    assert_eq!(read(&look(&d, "c")).unwrap(), "b");
}

/// Somebody swaps a file for a symbolic link, another file and a FIFO as fast as possible. Whatever is opened is the file that was
/// looked up, or nothing is.
#[test]
fn swapping_names_never_opens_what_was_not_looked_up() {
    let (dir, outside) = (TestDir::new("race"), TestDir::new("outside"));
    let path = |n: &str| dir.path().join(n);
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::write(path("f"), "good").unwrap();
    fs::write(path("other"), "other").unwrap();
    symlink(outside.path().join("secret"), path("link")).unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    root.mknod(&name("fifo"), MakeNode::Fifo, 0o600, me()).unwrap();
    let good = root.lookup(&name("f")).unwrap().1.ino;
    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        let (stop, base) = (Arc::clone(&stop), dir.path().to_path_buf());
        std::thread::spawn(move || {
            let swap = |with: &str| {
                let (f, with) = (base.join("f"), base.join(with));
                rustix::fs::renameat_with(rustix::fs::CWD, &f, rustix::fs::CWD, &with, rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            };
            while !stop.load(Ordering::Relaxed) {
                for with in ["link", "other", "fifo"] {
                    swap(with);
                    swap(with);
                }
            }
        })
    };
    let (mut opened, mut stale) = (0, 0);
    for i in 0..20_000 {
        let how = if i % 2 == 0 { OpenHow::Read } else { OpenHow::ReadWrite };
        let (node, attr) = root.lookup(&name("f")).unwrap();
        match node.open(how, Truncate::Keep) {
            Ok(fd) => {
                let meta = fs::File::from(fd).metadata().unwrap();
                assert!(meta.is_file());
                assert_eq!(meta.ino(), attr.ino, "another file than was looked up");
                assert!(meta.len() != 6, "the file outside");
                opened += usize::from(meta.ino() == good);
            }
            Err(Errno::ESTALE) => stale += 1,
            Err(Errno::ELOOP) => assert_eq!(node.kind(), FileKind::Symlink),
            Err(Errno::ENXIO) => assert_eq!(node.kind(), FileKind::Fifo),
            Err(e) => panic!("{e}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(opened > 0 && stale > 0, "no race took place: {opened} opened, {stale} stale");
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
}

/// A directory on the way is swapped for a link to the outside; names below it are looked up and changed meanwhile.
#[test]
fn swapping_directories_never_leads_outside() {
    let (dir, outside) = (TestDir::new("dirrace"), TestDir::new("dirrace-outside"));
    fs::create_dir(dir.path().join("d")).unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    let root = export(dir.path(), Access::ReadWrite);
    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        let (stop, d, link) = (Arc::clone(&stop), dir.path().join("d"), dir.path().join("link"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &d, rustix::fs::CWD, &link, rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            }
        })
    };
    let (mut made, mut links) = (0, 0);
    for _ in 0..5_000 {
        let d = look(&root, "d");
        match d.create(&name("new"), 0o600, me(), OpenHow::Write) {
            Ok(_) => {
                made += 1;
                d.unlink(&name("new"), EntryKind::NotDirectory).unwrap();
            }
            Err(e) => {
                assert_eq!((e, d.kind()), (Errno::ENOTDIR, FileKind::Symlink));
                links += 1;
            }
        }
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "a file was made outside");
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(made > 0 && links > 0, "no race took place: {made} made, {links} links");
}

#[test]
fn a_single_file_can_be_exported() {
    let dir = TestDir::new("single");
    fs::write(dir.path().join("resolv.conf"), "nameserver").unwrap();
    let root = export(&dir.path().join("resolv.conf"), Access::ReadOnly);
    assert_eq!(read(&root).unwrap(), "nameserver");
    assert_eq!(root.lookup(&name("x")).unwrap_err(), Errno::ENOTDIR);
}

#[test]
fn descriptors_are_budgeted_and_come_back() {
    let dir = TestDir::new("budget");
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "text").unwrap();
    let budget = Budget::new(4);
    let root = Export::open(Source::at_path(dir.path()).unwrap(), Access::ReadOnly, &budget).unwrap();
    let d = look(&root, "d");
    let held: Vec<_> = (0..2).map(|_| look(&d, "f")).collect();
    assert_eq!(d.lookup(&name("f")).unwrap_err(), Errno::ENFILE);
    // The parent's descriptor lives as long as a child that may be opened through it.
    drop(d);
    assert_eq!((budget.used(), read(&held[0]).as_deref()), (4, Ok("text")));
    drop(held);
    assert_eq!(budget.used(), 1);
}

/// The events that are there: number, mask, name.
fn events(notifier: &Notifier) -> Vec<(u32, u32, String)> {
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = rustix::fs::inotify::Reader::new(&**notifier.fd(), &mut space);
    let mut events = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        events.push((event.wd() as u32, event.events().bits(), name));
    }
    events
}

#[test]
fn watches_are_of_nodes_and_end_with_them() {
    let dir = TestDir::new("watch");
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    symlink("/etc/passwd", dir.path().join("l")).unwrap();
    let root = export(dir.path(), Access::ReadOnly);
    let (d, f, l) = (look(&root, "d"), look(&root, "f"), look(&root, "l"));
    let mut notifier = Notifier::new(&root).unwrap();
    assert_eq!(notifier.watch(&root, IN_OPEN).unwrap_err(), Errno::EINVAL, "opens are not told");
    let top = notifier.watch(&root, IN_CREATE).unwrap();
    let below = notifier.watch(&d, IN_CREATE | IN_DELETE_SELF).unwrap();
    let file = notifier.watch(&f, IN_ATTRIB | IN_DELETE_SELF).unwrap();
    let link = notifier.watch(&l, IN_DELETE_SELF).unwrap();
    assert_eq!(BTreeSet::from([top, below, file, link]).len(), 4);
    fs::write(dir.path().join("d/new"), "").unwrap();
    fs::write(dir.path().join("new"), "").unwrap();
    assert_eq!(events(&notifier), [(below, IN_CREATE, "new".into()), (top, IN_CREATE, "new".into())]);

    // Another file has the name: it is not watched, and the one that had it is still.
    fs::rename(dir.path().join("new"), dir.path().join("f")).unwrap();
    assert_eq!(notifier.watch(&f, IN_ATTRIB).unwrap_err(), Errno::ESTALE);
    assert_eq!(events(&notifier), [(file, IN_ATTRIB, String::new())]);

    // The working directory pins nothing, and neither does a watch.
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    fs::remove_file(dir.path().join("l")).unwrap();
    drop((d, f, l));
    let ends = events(&notifier);
    for ended in [below, file, link] {
        let own: Vec<u32> = ends.iter().filter(|event| event.0 == ended).map(|event| event.1).collect();
        assert_eq!(own, [IN_DELETE_SELF, IN_IGNORED], "{ends:?}");
    }
    notifier.unwatch(below).unwrap();
    notifier.unwatch(top).unwrap();
    assert_eq!(notifier.unwatch(top).unwrap_err(), Errno::EINVAL);
    fs::write(dir.path().join("unseen"), "").unwrap();
    assert_eq!(events(&notifier), [(top, IN_IGNORED, String::new())]);
}

#[test]
fn removed_files_are_left_out_if_all_want_that() {
    let dir = TestDir::new("unlinked");
    let root = export(dir.path(), Access::ReadOnly);
    let mut notifier = Notifier::new(&root).unwrap();
    let mut write_removed = |more: u32| {
        let mut file = fs::File::create(dir.path().join("f")).unwrap();
        fs::remove_file(dir.path().join("f")).unwrap();
        let watch = notifier.watch(&root, IN_MODIFY | more).unwrap();
        file.write_all(b"x").unwrap();
        (watch, events(&notifier))
    };
    let (watch, told) = write_removed(IN_EXCL_UNLINK);
    assert_eq!(told, []);
    assert_eq!(write_removed(IN_EXCL_UNLINK), (watch, Vec::new()));
    let modified = vec![(watch, IN_MODIFY, "f".to_string())];
    assert_eq!(write_removed(0), (watch, modified.clone()));
    assert_eq!(write_removed(IN_EXCL_UNLINK), (watch, modified));
}
