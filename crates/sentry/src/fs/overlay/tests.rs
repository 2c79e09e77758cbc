//! An overlay over a tmpfs that answers at once, and over one that makes every step wait.

use std::sync::Arc;

use super::Overlay;
use crate::Errno;
use crate::fs::testing::{Slow, Tree, read, run, tmpfs};
use crate::fs::{FileSystem, OpenFlags, RenameFlags, SetAttr, WriteAt, XattrCall, next_device};

const NONE: RenameFlags = RenameFlags::empty();

/// The overlay, and its lower tree to look at.
fn overlays() -> Vec<(Tree, Tree)> {
    let make = |slow: bool| {
        let fs = tmpfs();
        let lower = Tree::new(fs.clone());
        for dir in ["dir", "dir/sub", "other"] {
            lower.mkdir(dir).expect("mkdir");
        }
        for file in ["file", "dir/one", "dir/two", "dir/sub/deep"] {
            lower.write(file, file).expect("write");
        }
        lower.link("file", "hard").expect("link");
        lower.symlink("dir/one", "link").expect("symlink");
        let below: Arc<dyn FileSystem> = if slow { Slow::new(fs, u64::MAX) } else { fs };
        (Tree::new(Overlay::new(below, tmpfs(), next_device())), lower)
    };
    vec![make(false), make(true)]
}

#[test]
fn writing_copies_up_and_leaves_the_lower_file() {
    for (tree, lower) in overlays() {
        let before = tree.stat("file").expect("stat");
        let reader = tree.open(&tree.at("file").expect("file"), OpenFlags::empty()).expect("open");
        tree.write("file", "FI").expect("write");
        assert_eq!(tree.read("file").as_deref(), Ok("FIle"));
        assert_eq!(tree.read("hard").as_deref(), Ok("FIle"), "its other name too");
        assert_eq!(read(&reader).as_deref(), Ok("file"), "who was reading goes on reading the old");
        assert_eq!(lower.read("file").as_deref(), Ok("file"));
        let after = tree.stat("file").expect("stat");
        assert_eq!((after.ino, after.dev, after.nlink), (before.ino, before.dev, 2));
        assert!(after.modified > before.modified);
        let place = tree.at("dir/two").expect("two");
        run(place.inode().set_attr(SetAttr { size: Some(5), ..SetAttr::default() }).into_future()).expect("truncate");
        assert_eq!(tree.read("dir/two").as_deref(), Ok("dir/t"));
    }
}

#[test]
fn attributes_change_without_the_data() {
    for (tree, lower) in overlays() {
        let place = tree.at("dir/one").expect("one");
        let change = SetAttr { permissions: Some(0o600), uid: Some(7), ..SetAttr::default() };
        run(place.inode().set_attr(change).into_future()).expect("chmod");
        run(place.inode().xattr(XattrCall::Set(b"user.k", b"v", 0)).into_future()).expect("setxattr");
        let m = tree.stat("dir/one").expect("stat");
        assert_eq!((m.permissions, m.uid, m.size), (0o600, 7, 7));
        assert_eq!(tree.read("link").as_deref(), Ok("dir/one"));
        assert_eq!(lower.stat("dir/one").map(|m| (m.permissions, m.uid)), Ok((0o644, 0)));
        assert_eq!(run(place.inode().xattr(XattrCall::Get(b"user.k")).into_future()), Ok(b"v".to_vec()));
    }
}

#[test]
fn names_go_and_come_back_new() {
    for (tree, lower) in overlays() {
        tree.unlink("dir/one").expect("unlink");
        assert_eq!(tree.read("dir/one").err(), Some(Errno::ENOENT));
        assert_eq!(tree.list("dir"), Ok(vec!["sub".into(), "two".into()]));
        assert_eq!(tree.rmdir("dir"), Err(Errno::ENOTEMPTY));
        tree.write("dir/one", "new").expect("write");
        assert_eq!(tree.read("dir/one").as_deref(), Ok("new"));
        tree.unlink("dir/one").expect("unlink");
        assert_eq!(tree.read("dir/one").err(), Some(Errno::ENOENT), "the lower one does not show again");
        for file in ["dir/two", "dir/sub/deep"] {
            tree.unlink(file).expect("unlink");
        }
        tree.rmdir("dir/sub").expect("rmdir");
        tree.rmdir("dir").expect("rmdir");
        tree.mkdir("dir").expect("mkdir");
        assert_eq!(tree.list("dir"), Ok(vec![]), "a new directory hides what was below");
        assert_eq!(lower.list("dir"), Ok(vec!["one".into(), "sub".into(), "two".into()]));
        tree.unlink("file").expect("unlink");
        assert_eq!(tree.stat("hard").map(|m| m.nlink), Ok(1));
    }
}

#[test]
fn lower_directories_are_renamed_whole() {
    for (tree, _lower) in overlays() {
        tree.write("dir/sub/deep", "DEEP").expect("write");
        tree.write("dir/sub/new", "new").expect("write");
        tree.rename("dir", "other/moved", NONE).expect("rename");
        assert_eq!(tree.at("dir").err(), Some(Errno::ENOENT));
        assert_eq!(tree.list("other/moved"), Ok(vec!["one".into(), "sub".into(), "two".into()]));
        assert_eq!(tree.read("other/moved/one").as_deref(), Ok("dir/one"));
        assert_eq!(tree.read("other/moved/sub/deep").as_deref(), Ok("DEEPsub/deep"));
        assert_eq!(tree.read("other/moved/sub/new").as_deref(), Ok("new"));
        tree.mkdir("dir").expect("mkdir");
        assert_eq!(tree.list("dir"), Ok(vec![]));
        tree.rename("other/moved/one", "file", NONE).expect("over a lower file");
        assert_eq!((tree.read("file").as_deref(), tree.read("hard").as_deref()), (Ok("dir/one"), Ok("file")));
        tree.rename("file", "hard", RenameFlags::EXCHANGE).expect("exchange");
        assert_eq!((tree.read("file").as_deref(), tree.read("hard").as_deref()), (Ok("file"), Ok("dir/one")));
        assert_eq!(tree.rename("dir", "other", NONE), Err(Errno::ENOTEMPTY));
        assert_eq!(tree.list("."), Ok(["dir", "file", "hard", "link", "other"].map(String::from).to_vec()));
    }
}

#[test]
fn temporary_names_leave_nothing_behind() {
    for (tree, _lower) in overlays() {
        for n in 0..100 {
            let name = format!("dir/tmp{n}");
            tree.write(&name, "x").expect("write");
            tree.rename(&name, "dir/final", NONE).expect("rename");
        }
        tree.unlink("dir/final").expect("unlink");
        let place = tree.at("dir").expect("dir");
        let node = place.inode().as_any().downcast_ref::<super::Node>().expect("a node");
        assert_eq!(node.names.lock().iter().count(), 0);
    }
}

#[test]
fn changes_survive_the_cache() {
    for (tree, _lower) in overlays() {
        tree.write("dir/sub/deep", "kept").expect("write");
        tree.view.root.dentry.prune();
        assert_eq!(tree.read("dir/sub/deep").as_deref(), Ok("keptsub/deep"));
    }
}

#[test]
fn a_file_without_a_name_can_get_one() {
    for (tree, _lower) in overlays() {
        let dir = tree.at("dir").expect("dir");
        let new = crate::fs::NewInode {
            kind: crate::fs::FileKind::Regular,
            permissions: 0o600,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: vec![],
        };
        let inode = run(dir.inode().create_unnamed(&new).into_future()).expect("O_TMPFILE");
        let place = dir.unnamed(inode);
        let file = tree.open(&place, OpenFlags::RDWR).expect("open");
        run(file.ops.write(&file, WriteAt::Append, &mut b"t".as_slice()).into_future()).expect("write");
        let last = crate::fs::Last::Name { name: b"named".to_vec(), slash: false };
        run(crate::fs::namei::link(&tree.view, &place, &dir, &last)).expect("link");
        assert_eq!((tree.read("dir/named").as_deref(), tree.stat("dir/named").map(|m| m.nlink)), (Ok("t"), Ok(1)));
    }
}
