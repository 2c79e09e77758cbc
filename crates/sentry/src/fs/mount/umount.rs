//! Unmounting, and where that propagates to.

use std::sync::Arc;

use super::tree::{Tree, receives};
use super::{Mount, PropagationType};
use crate::Errno;
use crate::fs::{Dentry, Path};

/// How a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Umount {
    /// Only if nobody uses it. The number of references that the caller itself has.
    Idle(usize),
    /// It goes from the tree now, and when it is not used any more altogether (`MNT_DETACH`).
    Lazy,
}

impl Tree<'_> {
    /// Unmounts, here and wherever that propagates to.
    ///
    /// # Errors
    /// `EBUSY`; `EINVAL` if it is not in this namespace, or has to stay.
    pub fn umount(&mut self, mount: &Arc<Mount>, how: Umount) -> Result<(), Errno> {
        self.check(mount)?;
        if mount.is_locked() || mount.mount_point().is_none() {
            return Err(Errno::EINVAL);
        }
        if let Umount::Idle(held) = how
            && self.busy(mount, held)
        {
            return Err(Errno::EBUSY);
        }
        self.remove(mount);
        Ok(())
    }

    /// Something is mounted on it or on a copy that would go too, or somebody uses one.
    fn busy(&self, mount: &Arc<Mount>, held: usize) -> bool {
        // The parent's reference, and the caller's.
        if !mount.children().is_empty() || Arc::strong_count(mount) > 1 + held {
            return true;
        }
        let copies = copies(mount);
        // The parent's and ours.
        copies.iter().any(|copy| copy.children().is_empty() && !copy.is_locked() && Arc::strong_count(copy) > 2)
    }

    /// Takes a tree apart, with all copies of it that nothing else is mounted on.
    pub(super) fn remove(&mut self, top: &Arc<Mount>) {
        let mut doomed = top.subtree();
        // Children before parents, so that a parent's copies have lost theirs.
        for mount in doomed.clone().iter().rev() {
            for copy in copies(mount) {
                let is_doomed = |mount: &Arc<Mount>| doomed.iter().any(|other| Arc::ptr_eq(other, mount));
                if copy.is_locked() || is_doomed(&copy) {
                    continue;
                }
                let others: Vec<Arc<Mount>> = copy.children().into_iter().filter(|child| !is_doomed(child)).collect();
                let covers =
                    |child: &Arc<Mount>| child.mount_point().is_some_and(|point| Arc::ptr_eq(&point.dentry, copy.root()));
                if others.is_empty() || (others.len() == 1 && others.iter().all(covers)) {
                    doomed.push(copy);
                }
            }
        }
        self.rescue(&doomed);
        for mount in doomed.iter().rev() {
            self.touch(mount);
            if let Some(namespace) = mount.namespace() {
                namespace.delist(mount);
            }
            mount.set_propagation(PropagationType::Private);
            self.take(mount);
        }
        for mount in doomed {
            self.later(Some(mount));
        }
    }

    /// Mounts that cover doomed ones and stay go to the place of those.
    fn rescue(&mut self, doomed: &[Arc<Mount>]) {
        let is_doomed = |mount: &Arc<Mount>| doomed.iter().any(|other| Arc::ptr_eq(other, mount));
        for mount in doomed {
            for child in mount.children().into_iter().filter(|child| !is_doomed(child)) {
                let mut at = mount.mount_point();
                while let Some(place) = at.as_ref().filter(|place| is_doomed(&place.mount)) {
                    at = place.mount.mount_point();
                }
                if let Some(place) = at {
                    self.take(&child);
                    self.put(&child, &place);
                }
            }
        }
    }

    /// Whether anything in this namespace is mounted on a dentry: then it cannot be removed or renamed.
    pub fn is_point(&self, dentry: &Arc<Dentry>) -> bool {
        self.mounts_on(dentry).iter().any(|mount| self.has(mount))
    }

    /// A name was removed: what other namespaces have mounted there goes.
    pub fn forget_point(&mut self, dentry: &Arc<Dentry>) {
        for mount in self.mounts_on(dentry) {
            if mount.namespace().is_some() {
                self.remove(&mount);
            }
        }
    }
}

/// What is mounted at the same place on the mounts that the parent's changes propagate to.
fn copies(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let Some(at) = mount.mount_point() else { return Vec::new() };
    let Path { mount: parent, dentry } = &at;
    let receivers = parent.receivers(|other| receives(other, &at));
    receivers.iter().filter_map(|receiver| receiver.mount.child_at(dentry)).collect()
}
