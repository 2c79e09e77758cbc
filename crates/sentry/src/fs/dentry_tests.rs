//! The cache against a naive model: a set of names per directory, changed at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cached, Dentry, DentryCache};
use crate::fs::testing::{Tree, tmpfs};
use crate::fs::{FileSystem, Inode, RenameFlags};
use crate::step::Step;
use crate::time::Clock;

/// A small random sequence (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn random_changes_agree_with_a_model() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let tree = Tree::new(tmpfs());
        // Names of files by their path, with their content.
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        for dir in ["d0", "d1", "d2"] {
            tree.mkdir(dir).expect("mkdir");
        }
        for step in 0..400 {
            let mut path = || format!("d{}/f{}", random.below(3), random.below(5));
            let (one, two) = (path(), path());
            match random.below(4) {
                0 if !model.contains_key(&one) => {
                    let content = step.to_string();
                    tree.write(&one, &content).expect("write");
                    model.insert(one.clone(), content);
                }
                1 => assert_eq!(tree.unlink(&one).is_ok(), model.remove(&one).is_some(), "unlink {one}"),
                2 => {
                    let renamed = tree.rename(&one, &two, RenameFlags::empty()).is_ok();
                    assert_eq!(renamed, model.contains_key(&one), "rename {one} {two}");
                    if let Some(content) = model.remove(&one) {
                        model.insert(two.clone(), content);
                    }
                }
                _ => {
                    let swapped = tree.rename(&one, &two, RenameFlags::EXCHANGE).is_ok();
                    assert_eq!(swapped, model.contains_key(&one) && model.contains_key(&two), "exchange {one} {two}");
                    if swapped && one != two {
                        let (a, b) = (model.remove(&one).expect("one"), model.remove(&two).expect("two"));
                        model.insert(one.clone(), b);
                        model.insert(two.clone(), a);
                    }
                }
            }
            for path in [&one, &two] {
                assert_eq!(tree.read(path).ok().as_ref(), model.get(path), "{path} after step {step}, seed {seed}");
            }
        }
    }
}

fn root_of(ttl_ns: u64, clock: Clock, limit: usize) -> Arc<Dentry> {
    Dentry::root(tmpfs().root(), DentryCache::with_limit(ttl_ns, clock, limit))
}

fn inode() -> Arc<dyn Inode> {
    tmpfs().root()
}

fn known(dir: &Dentry, name: &str) -> bool {
    !matches!(dir.cached(name.as_bytes()), Cached::Unknown)
}

#[test]
fn the_number_of_names_is_bounded_and_used_ones_stay() {
    let root = root_of(u64::MAX, Clock::Host, 100);
    let held = root.learn(b"held", Some(inode()), root.changes()).expect("held");
    for n in 0..1000 {
        let found = if n % 2 == 0 { Some(inode()) } else { None };
        root.learn(format!("n{n}").as_bytes(), found, root.changes());
        assert!(known(&root, "held"));
        assert!(root.children.read().len() <= 102);
    }
    assert!(Arc::ptr_eq(&held, &root.learn(b"held", Some(held.inode().clone()), root.changes()).expect("held")));
}

#[test]
fn names_expire_and_are_learnt_again() {
    let now = Arc::new(AtomicU64::new(0));
    let root = root_of(1000, Clock::Virtual(now.clone()), 100);
    let first = inode();
    let child = root.learn(b"n", Some(first.clone()), root.changes()).expect("n");
    root.learn(b"none", None, root.changes());
    assert!(known(&root, "n") && known(&root, "none"));
    now.store(1000, Ordering::SeqCst);
    assert!(!known(&root, "n") && !known(&root, "none"));
    let again = root.learn(b"n", Some(first), root.changes()).expect("n");
    assert!(Arc::ptr_eq(&child, &again), "the same inode keeps its dentry");
    assert!(known(&root, "n"));
    let other = root.learn(b"n", Some(inode()), root.changes()).expect("n");
    assert!(!Arc::ptr_eq(&child, &other) && !child.is_attached());
}

#[test]
fn an_answer_that_a_change_has_overtaken_is_not_kept() {
    let root = root_of(u64::MAX, Clock::Host, 100);
    let seen = root.changes();
    let made = root.added(b"n", inode());
    // The lookup began before, and found nothing.
    assert!(root.learn(b"other", None, seen).is_none());
    assert!(!known(&root, "other"));
    assert!(root.learn(b"n", None, seen).is_some_and(|kept| Arc::ptr_eq(&kept, &made)));
}

#[test]
fn a_deep_tree_is_dropped_without_recursion() {
    let fs = tmpfs();
    let mut tree = Tree::new(fs.clone());
    let top = tree.view.clone();
    for _ in 0..50_000 {
        tree.view.cwd = tree.mkdir("d").expect("mkdir");
    }
    let Step::Ready(Ok(metadata)) = tree.view.cwd.inode().metadata() else { panic!("no attributes") };
    assert_eq!(metadata.nlink, 2);
    drop((tree, top, fs));
}
