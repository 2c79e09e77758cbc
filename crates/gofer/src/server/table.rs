//! Handles: the numbers by which a connection knows nodes. And the directories it is reading.

use std::sync::Arc;

use crate::{
    Errno,
    passthrough::{DirStream, Node},
    protocol::Handle,
};

#[derive(Debug, Default)]
struct Slot {
    /// Counts the slot's uses, so that an old handle does not find a new node.
    generation: u32,
    node: Option<Arc<Node>>,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: usize,
}

impl Table {
    pub(super) fn new(limit: usize) -> Table {
        Table { slots: Vec::new(), free: Vec::new(), limit: limit.min(u32::MAX as usize) }
    }

    /// `ENFILE` when full.
    pub(super) fn insert(&mut self, node: Arc<Node>) -> Result<Handle, Errno> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.limit => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
            None => return Err(Errno::ENFILE),
        };
        let slot = self.slots.get_mut(index as usize).ok_or(Errno::ENFILE)?;
        // From 1 on, so that no handle is 0.
        slot.generation = slot.generation.wrapping_add(1).max(1);
        slot.node = Some(node);
        Handle::from_raw(u64::from(slot.generation) << 32 | u64::from(index)).ok_or(Errno::ENFILE)
    }

    fn slot(&mut self, handle: Handle) -> Option<&mut Slot> {
        let (generation, index) = ((handle.raw() >> 32) as u32, handle.raw() as u32);
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)
    }

    /// `EBADF` for a number that is no handle (any more).
    pub(super) fn get(&mut self, handle: Handle) -> Result<Arc<Node>, Errno> {
        self.slot(handle).and_then(|slot| slot.node.clone()).ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&mut self, handle: Handle) {
        if self.slot(handle).and_then(|slot| slot.node.take()).is_some() {
            self.free.push(handle.raw() as u32);
        }
    }
}

/// Directories being read, kept open between batches; the one used longest ago gives way.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<(Handle, DirStream)>);

impl Streams {
    /// Also this process's need of descriptors beyond the budget.
    pub(super) const MAX: usize = 16;

    /// The stream of a directory; a fresh one where reading starts over.
    pub(super) fn get(&mut self, handle: Handle, node: &Node, from: u64) -> Result<&DirStream, Errno> {
        let known = self.0.iter().position(|(h, _)| *h == handle).map(|at| self.0.remove(at));
        let stream = match known {
            Some((_, stream)) if from != 0 => stream,
            _ => node.open_dir()?,
        };
        if self.0.len() >= Streams::MAX {
            self.0.remove(0);
        }
        self.0.push((handle, stream));
        self.0.last().map(|(_, stream)| stream).ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&mut self, handle: Handle) {
        self.0.retain(|(h, _)| *h != handle);
    }
}
