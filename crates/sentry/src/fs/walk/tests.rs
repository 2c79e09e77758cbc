//! Walks on a tmpfs, once answering at once and once as slowly as a gofer.

use super::ResolveFlags;
use crate::Errno;
use crate::fs::testing::{Slow, Tree, tmpfs};
use crate::fs::{Mount, MountFlags, MountNamespace, SetAttr};
use crate::step::Step;
use crate::time::Clock;

/// The same tree seen directly, and through a file system that makes every step wait.
fn trees() -> Vec<Tree> {
    let fs = tmpfs();
    let tree = Tree::new(fs.clone());
    for dir in ["a", "a/b", "a/b/c", "deep"] {
        tree.mkdir(dir).expect(dir);
    }
    tree.write("a/file", "text").expect("a/file");
    for (target, name) in [
        ("a/b", "rel"),
        ("/a/b", "abs"),
        ("file", "a/to_file"),
        ("missing", "dangling"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
        ("..", "a/b/c/up"),
        ("a/", "slashed"),
    ] {
        tree.symlink(target, name).expect(name);
    }
    let mut previous = "a/file".to_string();
    for n in 0..41 {
        let name = format!("deep/l{n}");
        let target = if n == 0 { "/a/file".into() } else { previous.clone() };
        tree.symlink(&target, &name).expect("a link");
        previous = format!("l{n}");
    }
    let slow = |ttl| Tree::new(Slow::new(fs.clone(), ttl));
    vec![tree, slow(u64::MAX), slow(1_000_000_000), slow(0)]
}

fn name(tree: &Tree, path: &str, flags: ResolveFlags) -> Result<String, Errno> {
    let place = tree.resolve(path, flags)?;
    Ok(String::from_utf8_lossy(&place.name_from(&tree.view.root)).into_owned())
}

#[test]
fn names_lead_where_linux_says() {
    let none = ResolveFlags::empty();
    let nofollow = ResolveFlags::NOFOLLOW;
    let cases: &[(&str, ResolveFlags, Result<&str, Errno>)] = &[
        ("/", none, Ok("/")),
        ("", none, Err(Errno::ENOENT)),
        ("", ResolveFlags::EMPTY_PATH, Ok("/")),
        ("a/b/c", none, Ok("/a/b/c")),
        ("//a///b//", none, Ok("/a/b")),
        ("a/./b/../b/c/..", none, Ok("/a/b")),
        ("../../a", none, Ok("/a")),
        ("rel/c", none, Ok("/a/b/c")),
        ("abs/c/up", none, Ok("/a/b")),
        ("rel", nofollow, Ok("/rel")),
        ("rel/", nofollow, Ok("/a/b")),
        ("a/to_file", none, Ok("/a/file")),
        ("slashed", none, Ok("/a")),
        ("a/file/", none, Err(Errno::ENOTDIR)),
        ("a/file/x", none, Err(Errno::ENOTDIR)),
        ("a/file/..", none, Err(Errno::ENOTDIR)),
        ("a/to_file/", nofollow, Err(Errno::ENOTDIR)),
        ("a/file", ResolveFlags::DIRECTORY, Err(Errno::ENOTDIR)),
        ("missing", none, Err(Errno::ENOENT)),
        ("missing/x", none, Err(Errno::ENOENT)),
        ("dangling", none, Err(Errno::ENOENT)),
        ("dangling", nofollow, Ok("/dangling")),
        ("loop1", none, Err(Errno::ELOOP)),
        ("deep/l39", none, Ok("/a/file")),
        ("deep/l40", none, Err(Errno::ELOOP)),
        ("rel", ResolveFlags::NO_SYMLINKS, Err(Errno::ELOOP)),
        ("a/b/../..", ResolveFlags::BENEATH, Ok("/")),
        ("..", ResolveFlags::BENEATH, Err(Errno::EXDEV)),
        ("abs", ResolveFlags::BENEATH, Err(Errno::EXDEV)),
        ("abs/../../..", ResolveFlags::IN_ROOT, Ok("/")),
    ];
    for (which, tree) in trees().iter().enumerate() {
        // Twice: from the file system, then from the cache.
        for round in 0..2 {
            for (path, flags, expected) in cases {
                let found = name(tree, path, *flags);
                assert_eq!(found, expected.map(str::to_string), "{path} in tree {which}, round {round}");
            }
        }
    }
}

#[test]
fn names_and_paths_have_a_largest_length() {
    for tree in trees() {
        let name = |len| "n".repeat(len);
        assert_eq!(tree.at(&name(255)).err(), Some(Errno::ENOENT));
        assert_eq!(tree.at(&name(256)).err(), Some(Errno::ENAMETOOLONG));
        assert_eq!(tree.at(&"./".repeat(2047)).err(), None);
        assert_eq!(tree.at(&"./".repeat(2048)).err(), Some(Errno::ENAMETOOLONG));
    }
}

#[test]
fn every_directory_on_the_way_must_be_searchable() {
    for tree in trees().into_iter().take(1) {
        let closed = tree.at("a/b").expect("a/b");
        let Step::Ready(Ok(())) = closed.inode().set_attr(SetAttr { permissions: Some(0o744), ..SetAttr::default() }) else {
            panic!("chmod waits or fails")
        };
        let user = tree.seen_by(1000);
        assert!(user.at("a/b").is_ok());
        for path in ["a/b/c", "a/b/.", "a/b/..", "rel/c", "a/b/missing"] {
            assert_eq!(user.at(path).err(), Some(Errno::EACCES), "{path}");
        }
        assert!(tree.at("a/b/c").is_ok());
    }
}

#[test]
fn mounts_are_entered_and_left() {
    let tree = trees().remove(0);
    let other = Mount::new(tmpfs(), "other", MountFlags::empty(), &Clock::Host);
    let point = tree.at("a/b").expect("a/b");
    other.attach(&point).expect("attach");
    assert_eq!(tree.at("a/b/c").err(), Some(Errno::ENOENT), "hidden by the mount");
    tree.mkdir("a/b/inner").expect("mkdir");
    assert_eq!(name(&tree, "a/b/inner", ResolveFlags::empty()).as_deref(), Ok("/a/b/inner"));
    assert_eq!(name(&tree, "a/b/inner/../..", ResolveFlags::empty()).as_deref(), Ok("/a"));
    assert_eq!(tree.resolve("a/b", ResolveFlags::NO_XDEV).err(), Some(Errno::EXDEV));
    assert_eq!(tree.rmdir("a/b").err(), Some(Errno::EBUSY));
    assert_eq!(tree.link("a/file", "a/b/file").err(), Some(Errno::EXDEV));
    // One more on top, of the same place.
    let third = Mount::new(tmpfs(), "third", MountFlags::RDONLY, &Clock::Host);
    third.attach(&tree.at("a/b").expect("the mount")).expect("attach");
    assert_eq!(tree.mkdir("a/b/x").err(), Some(Errno::EROFS));
    assert_eq!(name(&tree, "a/b/..", ResolveFlags::empty()).as_deref(), Ok("/a"));
    let namespace = MountNamespace::new(&tree.view.root.mount);
    let table = namespace.table(&tree.view.root);
    let targets: Vec<&[u8]> = table.iter().map(|line| line.target.as_slice()).collect();
    assert_eq!(targets, [b"/".as_slice(), b"/a/b", b"/a/b"]);
    third.detach().expect("detach");
    other.detach().expect("detach");
    assert!(tree.at("a/b/c").is_ok());
    // A bind mount of a part, and `..` at its root.
    let bound = Mount::bind(&tree.at("a").expect("a"));
    bound.attach(&tree.at("deep").expect("deep")).expect("attach");
    assert_eq!(name(&tree, "deep/b", ResolveFlags::empty()).as_deref(), Ok("/deep/b"));
    assert_eq!(name(&tree, "deep/b/../..", ResolveFlags::empty()).as_deref(), Ok("/"));
}

#[test]
fn a_root_below_cannot_be_left() {
    let mut tree = trees().remove(0);
    tree.view.root = tree.at("a").expect("a");
    tree.view.cwd = tree.view.root.clone();
    assert_eq!(name(&tree, "../../b/../..", ResolveFlags::empty()).as_deref(), Ok("/"));
    assert_eq!(tree.at("/a").err(), Some(Errno::ENOENT));
    assert!(tree.at("/file").is_ok());
}

#[test]
fn a_removed_directory_keeps_its_parent_and_takes_nothing() {
    let mut tree = trees().remove(0);
    tree.view.cwd = tree.mkdir("a/gone").expect("mkdir");
    tree.rmdir("/a/gone").expect("rmdir");
    assert_eq!(tree.mkdir("x").err(), Some(Errno::ENOENT));
    assert_eq!(tree.at("x").err(), Some(Errno::ENOENT));
    assert_eq!(name(&tree, "..", ResolveFlags::empty()).as_deref(), Ok("/a"));
    assert_eq!(tree.view.cwd.name_from(&tree.view.root), b"/a/gone (deleted)");
}

#[test]
fn what_is_cached_needs_no_waiting() {
    for tree in trees().into_iter().take(2) {
        assert!(tree.at("a/b/c/up").is_ok());
        assert_eq!(tree.at("a/b/none").err(), Some(Errno::ENOENT));
        if tree.view.root.mount.fs.name() == "tmpfs" {
            let found = super::try_resolve_in(&tree.view, None, tree.view.cwd.clone(), b"a/b/c", ResolveFlags::empty());
            assert!(matches!(found, Ok(Some(_))));
        }
    }
}
