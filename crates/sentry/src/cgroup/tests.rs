//! The rules of the tree.

use super::{Cgroup, Controllers, Members};
use crate::Errno;
use crate::kernel::{Container, Limits, SharedNamespaces};
use crate::ns::Uts;
use crate::testing::Machine;

fn container() -> std::sync::Arc<Container> {
    let uts = Uts { hostname: "h".into(), domainname: "d".into() };
    let net = Machine::new().kernel.net.clone();
    Container::new("c".into(), crate::fs::testing::memory(), uts, net, Limits::new(None, None), SharedNamespaces::default())
}

#[test]
fn groups_are_made_and_removed_by_the_rules() {
    let container = container();
    let members = Members(&container);
    let root = Cgroup::root(None, None);
    let owner = (0, 0, 0o755);
    let a = root.make(b"a", owner).expect("a");
    assert_eq!(root.make(b"a", owner).err(), Some(Errno::EEXIST));
    assert_eq!(root.make(b"x\ny", owner).err(), Some(Errno::EINVAL));
    let b = a.make(b"b", owner).expect("b");
    assert_eq!(b.path_from(&root), b"/a/b");
    assert_eq!(root.path_from(&b), b"/../..");
    assert_eq!(root.remove(b"a", &members), Err(Errno::EBUSY));
    root.settings.lock().max_descendants = Some(2);
    assert_eq!(a.make(b"c", owner).err(), Some(Errno::EAGAIN));
    root.settings.lock().max_descendants = None;
    root.settings.lock().max_depth = Some(2);
    assert_eq!(b.make(b"c", owner).err(), Some(Errno::EAGAIN));
    a.remove(b"b", &members).expect("remove");
    assert_eq!(b.make(b"c", owner).err(), Some(Errno::ENODEV));
    root.remove(b"a", &members).expect("remove");
    assert_eq!(root.remove(b"a", &members), Err(Errno::ENOENT));
}

#[test]
fn controllers_are_passed_on_from_the_top() {
    let container = container();
    let members = Members(&container);
    let root = Cgroup::root(None, None);
    let a = root.make(b"a", (0, 0, 0o755)).expect("a");
    let none = Controllers::empty();
    assert_eq!(a.set_subtree_control(Controllers::PIDS, none, &members), Err(Errno::ENOENT));
    root.set_subtree_control(Controllers::PIDS | Controllers::CPU, none, &members).expect("enable");
    assert_eq!(a.controllers().names(), "cpu pids");
    a.set_subtree_control(Controllers::PIDS, none, &members).expect("enable");
    assert_eq!(root.set_subtree_control(none, Controllers::PIDS, &members), Err(Errno::EBUSY));
    root.set_subtree_control(none, Controllers::CPU, &members).expect("disable");
    assert_eq!(a.controllers(), Controllers::PIDS);
}

#[test]
fn a_tree_a_thousand_deep_is_dropped() {
    let root = Cgroup::root(None, None);
    let mut at = root.clone();
    for _ in 0..10_000 {
        at = Cgroup::new(root.hierarchy.clone(), Some(at), b"x".as_slice().into(), super::Settings::default());
    }
    drop(at);
}
