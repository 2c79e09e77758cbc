//! Propagation and the rules of moving, on trees of tmpfs without tasks.

use std::sync::Arc;

use super::{Depth, Mount, MountFlags, MountNamespace, Moving, PropagationType, Umount};
use crate::Errno;
use crate::fs::Path;
use crate::fs::testing::{Tree as Files, tmpfs};
use crate::ns::UserNs;
use crate::time::Clock;

/// A namespace with directories `a`, `b` and `c` in its root, each a mount.
struct World {
    files: Files,
    namespace: Arc<MountNamespace>,
}

fn world() -> World {
    let files = Files::new(tmpfs());
    let namespace = MountNamespace::new(&files.view.root.mount);
    for name in ["a", "b", "c"] {
        files.mkdir(name).expect(name);
        mount(&namespace, &files.at(name).expect(name));
    }
    World { files, namespace }
}

fn mount(namespace: &Arc<MountNamespace>, at: &Path) {
    let new = Mount::new(tmpfs(), "t", MountFlags::empty(), &Clock::Host);
    namespace.edit().add(&new, at).expect("mount");
}

impl World {
    fn at(&self, path: &str) -> Path {
        self.files.at(path).expect(path)
    }

    fn bind(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.namespace.edit().bind(&self.at(from), &self.at(to), Depth::Recursive)
    }

    fn make(&self, path: &str, to: PropagationType) {
        self.namespace.edit().set_propagation(&self.at(path).mount, to, Depth::One).expect("set propagation");
    }

    /// Where mounts are, without the root.
    fn targets(&self) -> Vec<String> {
        let root = &self.files.view.root;
        let mut all: Vec<String> =
            self.namespace.table(root).iter().map(|line| String::from_utf8_lossy(&line.target).into_owned()).collect();
        all.sort();
        all.remove(0);
        all
    }
}

#[test]
fn what_is_mounted_on_a_peer_shows_on_all_and_goes_from_all() {
    let world = world();
    world.make("a", PropagationType::Shared);
    world.bind("a", "b").expect("bind");
    world.files.mkdir("a/x").expect("mkdir");
    mount(&world.namespace, &world.at("a/x"));
    assert_eq!(world.targets(), ["/a", "/a/x", "/b", "/b", "/b/x", "/c"]);
    let inner = world.at("b/x").mount;
    world.namespace.edit().umount(&inner, Umount::Idle(1)).expect("umount");
    assert_eq!(world.targets(), ["/a", "/b", "/b", "/c"]);
}

#[test]
fn slaves_receive_and_do_not_send() {
    let world = world();
    world.make("a", PropagationType::Shared);
    world.bind("a", "b").expect("bind");
    world.make("b", PropagationType::Slave);
    world.files.mkdir("a/x").expect("mkdir");
    world.files.mkdir("a/y").expect("mkdir");
    mount(&world.namespace, &world.at("a/x"));
    mount(&world.namespace, &world.at("b/y"));
    assert_eq!(world.targets(), ["/a", "/a/x", "/b", "/b", "/b/x", "/b/y", "/c"]);
    // A slave that shares sends to its own peers.
    world.make("b", PropagationType::Shared);
    world.bind("b", "c").expect("bind");
    world.files.mkdir("a/z").expect("mkdir");
    mount(&world.namespace, &world.at("a/z"));
    for path in ["/b/z", "/c/z"] {
        assert!(world.targets().contains(&path.to_string()), "{path}");
    }
    let line = world.at("c").mount.info(&world.files.view.root).expect("line");
    assert!(line.propagation.contains("shared:") && line.propagation.contains("master:"), "{}", line.propagation);
}

#[test]
fn a_group_that_dies_hands_its_slaves_on() {
    let world = world();
    world.make("a", PropagationType::Shared);
    world.bind("a", "b").expect("bind");
    world.make("b", PropagationType::Slave);
    world.make("a", PropagationType::Private);
    let line = world.at("b").mount.info(&world.files.view.root).expect("line");
    assert_eq!(line.propagation, "");
}

#[test]
fn unbindable_mounts_are_not_bound_and_not_copied() {
    let world = world();
    world.make("a", PropagationType::Unbindable);
    assert_eq!(world.bind("a", "c"), Err(Errno::EINVAL));
    world.bind("/", "c").expect("bind");
    assert_eq!(world.targets(), ["/a", "/b", "/c", "/c", "/c/b", "/c/c"]);
}

#[test]
fn moves_keep_to_the_rules() {
    let world = world();
    world.files.mkdir("b/in").expect("mkdir");
    let go = |from: &str, to: &str| world.namespace.edit().move_mount(&world.at(from), &world.at(to), Moving::OnTop);
    assert_eq!(go("b/in", "c"), Err(Errno::EINVAL));
    assert_eq!(go("b", "b/in"), Err(Errno::ELOOP));
    assert_eq!(go("a", "b/in"), Ok(()));
    assert_eq!(world.targets(), ["/b", "/b/in", "/c"]);
    world.make("b", PropagationType::Shared);
    assert_eq!(go("b/in", "c"), Err(Errno::EINVAL), "out of a shared parent");
}

#[test]
fn a_copy_of_a_namespace_is_its_own_unless_shared() {
    let world = world();
    world.make("a", PropagationType::Shared);
    world.files.mkdir("a/x").expect("mkdir");
    world.files.mkdir("b/x").expect("mkdir");
    let mut root = world.files.view.root.clone();
    let copy = world.namespace.duplicate(&mut [&mut root], UserNs::ROOT).expect("duplicate");
    assert!(!Arc::ptr_eq(&root.mount, &world.files.view.root.mount));
    mount(&world.namespace, &world.at("a/x"));
    mount(&world.namespace, &world.at("b/x"));
    let there: Vec<String> = copy.table(&root).iter().map(|line| String::from_utf8_lossy(&line.target).into_owned()).collect();
    assert!(there.contains(&"/a/x".to_string()) && !there.contains(&"/b/x".to_string()), "{there:?}");
    // A name that is a mount point only elsewhere can be removed, and what is mounted there goes.
    let before = world.namespace.count();
    drop(root);
    drop(copy);
    assert_eq!(world.namespace.count(), before);
}

#[test]
fn thousands_of_mounts_on_each_other_are_dropped() {
    let world = world();
    let (fs, mut at) = (tmpfs(), world.at("a"));
    for _ in 0..20_000 {
        let new = Mount::new(fs.clone(), "t", MountFlags::empty(), &Clock::Host);
        world.namespace.edit().add(&new, &at).expect("mount");
        at = new.root_path();
    }
    drop(world);
}
