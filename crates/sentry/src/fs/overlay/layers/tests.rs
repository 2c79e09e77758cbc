//! Layers on tmpfs, with whiteouts of both kinds.

use std::sync::Arc;

use super::{Format, Layer, LayerFs, Upper};
use crate::Errno;
use crate::fs::testing::{Slow, Tree, run, tmpfs};
use crate::fs::{FileKind, FileSystem, NewInode, RenameFlags, XattrCall, next_device};

const NONE: RenameFlags = RenameFlags::empty();

struct World {
    tree: Tree,
    lower: Tree,
    /// `upper` and `work`.
    kept: Arc<dyn FileSystem>,
}

fn world(format: Format, slow: bool) -> World {
    let below = tmpfs();
    let lower = Tree::new(below.clone());
    for dir in ["dir", "dir/sub", "other"] {
        lower.mkdir(dir).expect("mkdir");
    }
    for file in ["file", "dir/one", "dir/two", "dir/sub/deep"] {
        lower.write(file, file).expect("write");
    }
    lower.symlink("dir/one", "link").expect("symlink");
    let kept = tmpfs();
    let tree = Tree::new(kept.clone());
    tree.mkdir("upper").expect("upper");
    tree.mkdir("work").expect("work");
    let below: Arc<dyn FileSystem> = if slow { Slow::new(below, u64::MAX) } else { below };
    let kept: Arc<dyn FileSystem> = kept;
    World { tree: mount(&below, &kept, format), lower, kept }
}

fn mount(below: &Arc<dyn FileSystem>, kept: &Arc<dyn FileSystem>, format: Format) -> Tree {
    let fs = run(async {
        let root = kept.root();
        let (upper, work) = (root.lookup(b"upper").await?, root.lookup(b"work").await?);
        let upper = Upper { layer: Layer::whole(kept, upper), work };
        LayerFs::new(Some(upper), vec![Layer::whole(below, below.root())], format, next_device(), String::new()).await
    });
    Tree::new(fs.unwrap_or_else(|errno| panic!("{errno}")))
}

fn worlds() -> Vec<World> {
    vec![world(Format::User, false), world(Format::Trusted, false), world(Format::User, true)]
}

/// The same directories once more: what is seen must be on them.
fn again(world: &World, format: Format) -> Tree {
    let lower: Arc<dyn FileSystem> = world.lower.view.root.mount.fs.clone();
    mount(&lower, &world.kept, format)
}

#[test]
fn changes_are_kept_and_the_lower_tree_is_not_touched() {
    for world in worlds() {
        let World { tree, lower, .. } = &world;
        tree.write("dir/one", "ONE").expect("write");
        tree.write("dir/sub/new", "new").expect("write");
        tree.unlink("dir/two").expect("unlink");
        assert_eq!(tree.unlink("dir/two"), Err(Errno::ENOENT));
        assert_eq!(tree.read("dir/one").as_deref(), Ok("ONE/one"));
        assert_eq!(lower.read("dir/one").as_deref(), Ok("dir/one"));
        assert_eq!(tree.list("dir").as_deref(), Ok(["one", "sub"].map(String::from).as_slice()));
        assert_eq!(tree.list("dir/sub").as_deref(), Ok(["deep", "new"].map(String::from).as_slice()));
        assert_eq!(lower.list("dir").as_deref(), Ok(["one", "sub", "two"].map(String::from).as_slice()));
        // A name that was removed can be made again, as a directory too.
        tree.mkdir("dir/two").expect("mkdir");
        assert_eq!(tree.list("dir/two").as_deref(), Ok([].as_slice()));
        tree.rmdir("dir/two").expect("rmdir");
        tree.write("dir/two", "again").expect("write");
        assert_eq!(tree.read("dir/two").as_deref(), Ok("again"));
    }
}

#[test]
fn a_new_mount_of_the_same_directories_shows_the_same() {
    for format in [Format::User, Format::Trusted] {
        let world = world(format, false);
        world.tree.write("dir/one", "ONE").expect("write");
        world.tree.unlink("file").expect("unlink");
        world.tree.unlink("dir/sub/deep").expect("unlink");
        world.tree.rmdir("dir/sub").expect("rmdir");
        world.tree.mkdir("dir/sub").expect("mkdir");
        world.tree.write("dir/sub/mine", "x").expect("write");
        let next = again(&world, format);
        assert_eq!(next.read("dir/one").as_deref(), Ok("ONE/one"));
        assert_eq!(next.at("file").err(), Some(Errno::ENOENT));
        assert_eq!(next.list("dir/sub").as_deref(), Ok(["mine".to_string()].as_slice()), "it is opaque");
        assert_eq!(next.list("/").as_deref(), Ok(["dir", "link", "other"].map(String::from).as_slice()));
    }
}

#[test]
fn renames() {
    for world in worlds() {
        let tree = &world.tree;
        assert_eq!(tree.rename("dir", "moved", NONE), Err(Errno::EXDEV), "a lower directory");
        tree.rename("file", "dir/file", NONE).expect("rename");
        assert_eq!(tree.at("file").err(), Some(Errno::ENOENT));
        assert_eq!(tree.read("dir/file").as_deref(), Ok("file"));
        tree.mkdir("fresh").expect("mkdir");
        tree.write("fresh/x", "x").expect("write");
        tree.rmdir("other").expect("rmdir");
        tree.rename("fresh", "other", NONE).expect("over a whiteout");
        assert_eq!(tree.list("other").as_deref(), Ok(["x".to_string()].as_slice()));
        tree.rename("dir/one", "dir/two", NONE).expect("over a lower file");
        assert_eq!(tree.read("dir/two").as_deref(), Ok("dir/one"));
        tree.rename("dir/two", "dir/file", RenameFlags::EXCHANGE).expect("exchange");
        assert_eq!(tree.read("dir/two").as_deref(), Ok("file"));
        assert_eq!(tree.read("dir/file").as_deref(), Ok("dir/one"));
        assert_eq!(tree.rename("dir/two", "dir/file", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
        let next = tree.list("dir").expect("list");
        assert_eq!(next, ["file", "sub", "two"]);
    }
}

#[test]
fn links_and_full_directories() {
    for world in worlds() {
        let tree = &world.tree;
        tree.link("file", "hard").expect("link");
        tree.write("hard", "F").expect("write");
        assert_eq!(tree.read("file").as_deref(), Ok("File"), "both names are of the copy");
        assert_eq!(tree.rmdir("dir"), Err(Errno::ENOTEMPTY));
        assert_eq!(tree.unlink("dir"), Err(Errno::EISDIR));
        assert_eq!(tree.rmdir("file"), Err(Errno::ENOTDIR));
        assert_eq!(tree.read("link").as_deref(), Ok("dir/one"));
    }
}

#[test]
fn attributes_of_the_format_are_neither_shown_nor_set() {
    let world = world(Format::User, false);
    world.tree.unlink("dir/one").expect("unlink");
    let dir = world.tree.at("dir").expect("dir");
    run(async {
        let names = dir.inode().xattr(XattrCall::List).await.expect("list");
        assert_eq!(names, b"");
        assert_eq!(dir.inode().xattr(XattrCall::Set(b"user.overlay.opaque", b"y", 0)).await, Err(Errno::EPERM));
        assert_eq!(dir.inode().xattr(XattrCall::Get(b"user.overlay.opaque")).await, Err(Errno::ENODATA));
        dir.inode().xattr(XattrCall::Set(b"user.mine", b"y", 0)).await.expect("set");
        assert_eq!(dir.inode().xattr(XattrCall::List).await.expect("list"), b"user.mine\0");
    });
}

#[test]
fn odd_things_in_the_upper_directory_do_no_harm() {
    let world = world(Format::User, false);
    let kept = Tree::new(world.kept.clone());
    kept.mkdir("upper/dir").expect("mkdir");
    kept.write("upper/dir/one", "").expect("write");
    run(async {
        let set = async |path: &str, name: &[u8], value: &[u8]| {
            kept.at(path).expect(path).inode().xattr(XattrCall::Set(name, value, 0)).await.expect("set");
        };
        // Nonsense for a value; a whiteout with content; a device that is no whiteout; a file over a directory.
        set("upper/dir", b"user.overlay.opaque", b"perhaps").await;
        set("upper/dir/one", b"user.overlay.whiteout", b"").await;
        let new = NewInode { kind: FileKind::CharDevice, permissions: 0, uid: 0, gid: 0, rdev: 5, target: Vec::new() };
        kept.at("upper/dir").expect("dir").inode().create(b"two", &new).await.expect("mknod");
    });
    kept.write("upper/other", "file").expect("write");
    let tree = again(&world, Format::User);
    assert_eq!(tree.list("dir").as_deref(), Ok(["sub", "two"].map(String::from).as_slice()));
    assert_eq!(tree.read("other").as_deref(), Ok("file"));
    assert_eq!(tree.at("other/x").err(), Some(Errno::ENOTDIR));
    tree.unlink("other").expect("unlink");
    assert_eq!(tree.at("other").err(), Some(Errno::ENOENT));
}

/// As images lie over one another: `trusted.overlay.opaque`, and devices 0/0 for what is gone.
fn stack() -> (Tree, Arc<LayerFs>) {
    let layers: Vec<Arc<dyn FileSystem>> = (0..3).map(|_| tmpfs() as Arc<dyn FileSystem>).collect();
    let [low, middle, top] = [0, 1, 2].map(|n| Tree::new(layers[n].clone()));
    for dir in ["dir", "opaque", "opaque/sub", "gone"] {
        low.mkdir(dir).expect("mkdir");
    }
    for file in ["file", "dir/low", "opaque/low", "gone/low", "dir/gone", "back"] {
        low.write(file, "low").expect("write");
    }
    low.link("file", "hard").expect("link");
    for dir in ["dir", "opaque"] {
        middle.mkdir(dir).expect("mkdir");
    }
    middle.write("opaque/middle", "middle").expect("write");
    top.mkdir("dir").expect("mkdir");
    for file in ["dir/top", "back"] {
        top.write(file, "top").expect("write");
    }
    run(async {
        let opaque = XattrCall::Set(b"trusted.overlay.opaque", b"y", 0);
        middle.at("opaque").expect("dir").inode().xattr(opaque).await.expect("set");
        let new = NewInode { kind: FileKind::CharDevice, permissions: 0, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
        let root = |tree: &Tree| tree.view.root.inode().clone();
        root(&middle).create(b"gone", &new).await.expect("a whiteout");
        root(&middle).create(b"back", &new).await.expect("a whiteout");
        top.at("dir").expect("dir").inode().create(b"gone", &new).await.expect("a whiteout");
    });
    let lowers = layers.iter().rev().map(|fs| Layer::whole(fs, fs.root())).collect();
    let fs = run(LayerFs::stack(lowers, next_device())).unwrap_or_else(|errno| panic!("{errno}"));
    (Tree::new(fs.clone()), fs)
}

#[test]
fn layers_of_images_hide_what_is_below() {
    let (tree, fs) = stack();
    assert_eq!(tree.list("/").as_deref(), Ok(["back", "dir", "file", "hard", "opaque"].map(String::from).as_slice()));
    assert_eq!(tree.list("dir").as_deref(), Ok(["low", "top"].map(String::from).as_slice()));
    assert_eq!(tree.list("opaque").as_deref(), Ok(["middle"].map(String::from).as_slice()));
    assert_eq!(tree.at("gone").err(), Some(Errno::ENOENT));
    assert_eq!(tree.at("opaque/sub").err(), Some(Errno::ENOENT));
    assert_eq!(tree.read("back").as_deref(), Ok("top"));
    assert_eq!(tree.mkdir("new").err(), Some(Errno::EROFS));
    assert!(fs.read_only() && fs.stack_depth() == 0);
    let names = ["file", "dir", "dir/low", "dir/top", "opaque", "opaque/middle", "back"];
    let mut numbers = names.map(|name| tree.stat(name).expect(name)).map(|found| (found.dev, found.ino)).to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), names.len(), "files of different layers are different files");
    assert_eq!(tree.stat("file").expect("file").ino, tree.stat("hard").expect("hard").ino);
}

#[test]
fn changes_over_layers_of_images_stay() {
    let (_, lower) = stack();
    let tree = Tree::new(crate::fs::overlay::Overlay::new(lower, tmpfs(), next_device()));
    tree.write("file", "NEW").expect("write");
    tree.write("dir/low", "NEW").expect("write");
    tree.unlink("back").expect("unlink");
    // The names are looked up again: what was changed is found by the layers' inodes, which must be the same.
    let again = Tree::new(tree.view.root.mount.fs.clone());
    for name in ["file", "hard", "dir/low"] {
        assert_eq!(again.read(name).as_deref(), Ok("NEW"), "{name}");
    }
    assert_eq!(again.at("back").err(), Some(Errno::ENOENT));
}

/// Layers that say that a file's data, or a directory's names, are elsewhere.
#[test]
fn what_is_elsewhere_is_not_followed() {
    let layers: Vec<Arc<dyn FileSystem>> = (0..2).map(|_| tmpfs() as Arc<dyn FileSystem>).collect();
    for fs in &layers {
        let tree = Tree::new(fs.clone());
        tree.mkdir("dir").expect("mkdir");
        tree.write("dir/whole", "whole").expect("write");
        tree.write("data", "data").expect("write");
    }
    let top = Tree::new(layers[1].clone());
    let mark = |path: &str, name: &[u8], value: &[u8]| {
        let inode = top.at(path).expect(path).inode().clone();
        run(async { inode.xattr(XattrCall::Set(name, value, 0)).await }).expect("set");
    };
    let stack = || {
        let lowers = layers.iter().rev().map(|fs| Layer::whole(fs, fs.root())).collect();
        Tree::new(run(LayerFs::stack(lowers, next_device())).unwrap_or_else(|errno| panic!("{errno}")))
    };
    mark("data", b"user.overlay.metacopy", b"");
    mark("dir", b"user.overlay.redirect", b"/other");
    assert_eq!(stack().read("data").as_deref(), Ok("data"), "those mean nothing here");
    assert_eq!(stack().read("dir/whole").as_deref(), Ok("whole"));
    mark("data", b"trusted.overlay.metacopy", b"");
    mark("dir", b"trusted.overlay.redirect", b"/other");
    assert_eq!(stack().at("data").err(), Some(Errno::EIO));
    assert_eq!(stack().at("dir/whole").err(), Some(Errno::EIO));
}

#[test]
fn a_stack_needs_layers() {
    assert_eq!(run(LayerFs::stack(Vec::new(), next_device())).err(), Some(Errno::EINVAL));
}
