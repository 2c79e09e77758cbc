//! Propagation: peer groups, masters and slaves (mount_namespaces(7), Documentation/filesystems/sharedsubtree).
//!
//! The members of a [`PeerGroup`] repeat what is mounted on any of them. A mount whose *master* is a group receives from it and gives nothing back.
//! A mount can be a member of one group and the slave of another; all members of a group have the same master.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Mount;

/// Mounts that repeat each other's.
pub(super) struct PeerGroup {
    id: u32,
    members: Mutex<Vec<Weak<Mount>>>,
    slaves: Mutex<Vec<Weak<Mount>>>,
}

/// A mount's part in it.
#[derive(Default)]
pub(super) struct Propagation {
    /// Shared with these.
    pub group: Option<Arc<PeerGroup>>,
    pub master: Option<Arc<PeerGroup>>,
    pub unbindable: bool,
}

/// `MS_SHARED` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationType {
    Shared,
    Private,
    Slave,
    Unbindable,
}

fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn live(list: &Mutex<Vec<Weak<Mount>>>) -> Vec<Arc<Mount>> {
    list.lock().iter().filter_map(Weak::upgrade).collect()
}

fn remove(list: &Mutex<Vec<Weak<Mount>>>, mount: *const Mount) {
    list.lock().retain(|other| !std::ptr::eq(other.as_ptr(), mount) && other.strong_count() > 0);
}

impl PeerGroup {
    fn new() -> Arc<PeerGroup> {
        Arc::new(PeerGroup { id: next_id(), members: Mutex::default(), slaves: Mutex::default() })
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn members(&self) -> Vec<Arc<Mount>> {
        live(&self.members)
    }

    pub fn slaves(&self) -> Vec<Arc<Mount>> {
        live(&self.slaves)
    }

    /// The last member has left: those that received from it receive from `master` now.
    fn hand_slaves_to(&self, master: Option<&Arc<PeerGroup>>) {
        let slaves = std::mem::take(&mut *self.slaves.lock());
        for slave in slaves.iter().filter_map(Weak::upgrade) {
            slave.propagation.lock().master = master.cloned();
        }
        if let Some(master) = master {
            master.slaves.lock().extend(slaves);
        }
    }

    fn is_empty(&self) -> bool {
        self.members.lock().iter().all(|member| member.strong_count() == 0)
    }
}

impl Propagation {
    /// The mount is gone.
    pub fn forget(&mut self) {
        if let Some(group) = self.group.take()
            && group.is_empty()
        {
            group.hand_slaves_to(self.master.as_ref());
        }
    }
}

impl Mount {
    pub(super) fn group(&self) -> Option<Arc<PeerGroup>> {
        self.propagation.lock().group.clone()
    }

    pub(super) fn master(&self) -> Option<Arc<PeerGroup>> {
        self.propagation.lock().master.clone()
    }

    pub fn is_shared(&self) -> bool {
        self.propagation.lock().group.is_some()
    }

    pub fn is_unbindable(&self) -> bool {
        self.propagation.lock().unbindable
    }

    /// Changes how it takes part.
    pub(super) fn set_propagation(self: &Arc<Mount>, to: PropagationType) {
        if to == PropagationType::Shared {
            let mut own = self.propagation.lock();
            own.unbindable = false;
            let group = own.group.get_or_insert_with(PeerGroup::new).clone();
            drop(own);
            let mut members = group.members.lock();
            if members.is_empty() {
                members.push(Arc::downgrade(self));
            }
            return;
        }
        self.leave_group();
        if to == PropagationType::Slave {
            return;
        }
        self.set_master(None);
        self.propagation.lock().unbindable = to == PropagationType::Unbindable;
    }

    /// Becomes the slave of those it shared with; alone, it only keeps its master.
    fn leave_group(self: &Arc<Mount>) {
        let Some(group) = self.propagation.lock().group.take() else { return };
        remove(&group.members, Arc::as_ptr(self));
        if group.is_empty() {
            group.hand_slaves_to(self.master().as_ref());
        } else {
            self.set_master(Some(&group));
        }
    }

    fn set_master(self: &Arc<Mount>, master: Option<&Arc<PeerGroup>>) {
        let old = std::mem::replace(&mut self.propagation.lock().master, master.cloned());
        if let Some(old) = old {
            remove(&old.slaves, Arc::as_ptr(self));
        }
        if let Some(master) = master {
            master.slaves.lock().push(Arc::downgrade(self));
        }
    }

    /// Takes the same part as `other` (bind mounts, copies for a new namespace).
    pub(super) fn join(self: &Arc<Mount>, other: &Arc<Mount>) {
        let (group, master) = {
            let theirs = other.propagation.lock();
            (theirs.group.clone(), theirs.master.clone())
        };
        if let Some(group) = &group {
            group.members.lock().push(Arc::downgrade(self));
        }
        self.propagation.lock().group = group;
        self.set_master(master.as_ref());
    }

    /// Receives from the group of `other`; if that is in none, takes the same part.
    pub(super) fn follow(self: &Arc<Mount>, other: &Arc<Mount>) {
        match other.group() {
            Some(group) => self.set_master(Some(&group)),
            None => self.join(other),
        }
    }

    /// The mounts on which something mounted on `self` is repeated, without `self`: of those that are `eligible`.
    pub(super) fn receivers(self: &Arc<Mount>, eligible: impl Fn(&Arc<Mount>) -> bool) -> Vec<Receiver> {
        let mut found: Vec<Receiver> = Vec::new();
        let Some(group) = self.group() else { return found };
        let mut seen: Vec<*const PeerGroup> = vec![Arc::as_ptr(&group)];
        let mut todo: Vec<(Arc<PeerGroup>, Source)> = vec![(group, Source::Peer)];
        while let Some((group, from)) = todo.pop() {
            let mut of = match from {
                Source::Peer => None,
                Source::Master(of) => of,
            };
            let mut first = matches!(from, Source::Master(_));
            for member in group.members() {
                if Arc::ptr_eq(&member, self) || !eligible(&member) {
                    continue;
                }
                // The first of a group that receives gets a slave's copy; the others get peers of that one.
                found.push(Receiver { mount: member, of, part: if first { Part::SharedSlave } else { Part::Peer } });
                if first {
                    (of, first) = (Some(found.len() - 1), false);
                }
            }
            for slave in group.slaves() {
                match slave.group() {
                    Some(own) if seen.contains(&Arc::as_ptr(&own)) => {}
                    Some(own) => {
                        seen.push(Arc::as_ptr(&own));
                        todo.push((own, Source::Master(of)));
                    }
                    None if eligible(&slave) => found.push(Receiver { mount: slave, of, part: Part::Slave }),
                    None => {}
                }
            }
        }
        found
    }
}

/// What a group receives from.
enum Source {
    /// It is the group of the mount that changes.
    Peer,
    /// The copy that was made for this receiver of its master group; None: the original.
    Master(Option<usize>),
}

/// One that receives.
pub(super) struct Receiver {
    pub mount: Arc<Mount>,
    /// The receiver, earlier in the list, whose copy this one's is copied from; None: the original.
    pub of: Option<usize>,
    pub part: Part,
}

/// What a copy is to the one that it is copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Peer,
    Slave,
    /// A slave that shares with others.
    SharedSlave,
}
