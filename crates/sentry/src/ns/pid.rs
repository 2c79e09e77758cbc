//! [`PidNamespace`]: process numbers of their own (pid_namespaces(7)).
//!
//! Inside the kernel every process, thread, group and session goes by its number in the container ([`PidTable`](crate::task::PidTable)). A nested
//! namespace is a translation: numbers that its processes see, to numbers of the container and back. The system-call layer translates what comes in and
//! goes out.
//!
//! Locking: `numbers` is a leaf below the `PidTable`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::UserNs;
use crate::Errno;
use crate::task::{PidTable, Tid};
use crate::wait::WaitQueue;

/// Namespaces inside each other at most (`MAX_PID_NS_LEVEL`).
pub const MAX_LEVEL: u32 = 32;

/// A pid namespace, or the container's own, in which the numbers are the kernel's.
#[derive(Clone, Default)]
pub struct PidNs(Option<Arc<PidNamespace>>);

/// A nested pid namespace.
pub struct PidNamespace {
    pub id: u64,
    pub owner: UserNs,
    parent: PidNs,
    level: u32,
    numbers: RwLock<Numbers>,
    /// Its first process is ending: nothing more is born here.
    dead: AtomicBool,
    /// Woken when a thread of it has gone.
    pub thread_gone: WaitQueue,
}

#[derive(Default)]
struct Numbers {
    last: Tid,
    outer: BTreeMap<Tid, Tid>,
    inner: BTreeMap<Tid, Tid>,
}

impl std::fmt::Debug for PidNs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid:[{}]", self.id())
    }
}

impl PartialEq for PidNs {
    fn eq(&self, other: &PidNs) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl PidNs {
    /// The container's.
    pub const ROOT: PidNs = PidNs(None);

    pub fn id(&self) -> u64 {
        self.0.as_ref().map_or(super::Kind::Pid.first_id(), |ns| ns.id)
    }

    pub fn owner(&self) -> UserNs {
        self.0.as_ref().map_or(UserNs::ROOT, |ns| ns.owner.clone())
    }

    /// None for the container's own.
    pub fn parent(&self) -> Option<PidNs> {
        self.0.as_ref().map(|ns| ns.parent.clone())
    }

    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    /// The nested one.
    pub fn nested(&self) -> Option<&Arc<PidNamespace>> {
        self.0.as_ref()
    }

    /// How many are around it.
    pub fn level(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.level)
    }

    /// A new one inside this one.
    ///
    /// # Errors
    /// `ENOSPC` when it would be nested too deep.
    pub fn nest(&self, id: u64, owner: UserNs) -> Result<PidNs, Errno> {
        let level = self.level() + 1;
        if level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ok(PidNs(Some(Arc::new(PidNamespace {
            id,
            owner,
            parent: self.clone(),
            level,
            numbers: RwLock::default(),
            dead: AtomicBool::new(false),
            thread_gone: WaitQueue::new(),
        }))))
    }

    /// This one and those around it, from the innermost to the outermost nested one.
    pub fn chain(&self) -> impl Iterator<Item = &Arc<PidNamespace>> {
        std::iter::successors(self.0.as_ref(), |ns| ns.parent.0.as_ref())
    }

    /// Whether it is `outer` or inside it.
    pub fn is_within(&self, outer: &PidNs) -> bool {
        match &outer.0 {
            None => true,
            Some(outer) => self.chain().any(|ns| Arc::ptr_eq(ns, outer)),
        }
    }

    /// A number of the container as it is seen here; 0 where it is not.
    pub fn local(&self, number: Tid) -> Tid {
        match &self.0 {
            None => number,
            Some(ns) => ns.local(number),
        }
    }

    /// The container's number for one that is used here.
    pub fn global(&self, local: Tid) -> Option<Tid> {
        match &self.0 {
            None => Some(local),
            Some(ns) => ns.numbers.read().outer.get(&local).copied(),
        }
    }

    /// Whether nothing can be born here any more.
    pub fn is_dead(&self) -> bool {
        self.chain().any(|ns| ns.dead.load(Ordering::SeqCst))
    }

    /// Whether it has had its first process.
    pub fn has_begun(&self) -> bool {
        self.0.as_ref().is_none_or(|ns| ns.numbers.read().last != 0)
    }
}

impl PidNamespace {
    pub fn level(&self) -> u32 {
        self.level
    }

    /// A number of the container as it is seen here; 0 where it is not.
    pub fn local(&self, number: Tid) -> Tid {
        self.numbers.read().inner.get(&number).copied().unwrap_or(0)
    }

    /// Gives `number` of the container a number here: `wanted`, or the next that is free.
    ///
    /// # Errors
    /// `EEXIST`, `EAGAIN`.
    pub fn add(&self, number: Tid, wanted: Option<Tid>) -> Result<Tid, Errno> {
        let mut numbers = self.numbers.write();
        if let Some(old) = numbers.inner.remove(&number) {
            numbers.outer.remove(&old);
        }
        let local = match wanted {
            Some(local) if numbers.outer.contains_key(&local) => return Err(Errno::EEXIST),
            Some(local) => local,
            None => {
                let mut next = numbers.last;
                let mut tries = 0;
                loop {
                    next += 1;
                    if next >= PidTable::MAX {
                        next = PidTable::RESERVED;
                    }
                    if !numbers.outer.contains_key(&next) {
                        break next;
                    }
                    tries += 1;
                    if tries >= PidTable::MAX {
                        return Err(Errno::EAGAIN);
                    }
                }
            }
        };
        if wanted.is_none() || numbers.last == 0 {
            numbers.last = local;
        }
        numbers.outer.insert(local, number);
        numbers.inner.insert(number, local);
        Ok(local)
    }

    /// Takes a number of the container out again.
    pub fn remove(&self, number: Tid) {
        let mut numbers = self.numbers.write();
        if let Some(local) = numbers.inner.remove(&number) {
            numbers.outer.remove(&local);
        }
    }

    /// All numbers of the container that are seen here.
    pub fn numbers(&self) -> Vec<Tid> {
        self.numbers.read().inner.keys().copied().collect()
    }

    /// Its first process is ending.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_translated_in_each_level() {
        let outer = PidNs::ROOT.nest(1, UserNs::ROOT).unwrap();
        let inner = outer.nest(2, UserNs::ROOT).unwrap();
        for ns in inner.chain() {
            assert_eq!(ns.add(40, None), Ok(1));
        }
        assert_eq!(outer.nested().unwrap().add(41, None), Ok(2));
        assert_eq!((inner.local(40), outer.local(41), inner.local(41)), (1, 2, 0));
        assert_eq!((inner.global(1), inner.global(2), outer.global(2)), (Some(40), None, Some(41)));
        assert!(inner.is_within(&outer) && !outer.is_within(&inner) && outer.is_within(&PidNs::ROOT));
        assert_eq!(outer.nested().unwrap().add(50, Some(2)), Err(Errno::EEXIST));
    }

    #[test]
    fn depth_is_bounded() {
        let mut ns = PidNs::ROOT;
        for id in 0..u64::from(MAX_LEVEL) {
            ns = ns.nest(id, UserNs::ROOT).unwrap();
        }
        assert!(ns.nest(99, UserNs::ROOT).is_err());
    }
}
