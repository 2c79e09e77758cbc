//! Control groups inside a container (cgroups(7), version 2): the tree, who is in it, and what is counted and limited.
//!
//! The root is the container's own group: its limits are those the runtime gave, shown and not to be changed from inside. Groups below are made by guests.
//! A process is in one group ([`ThreadGroup::cgroup`](crate::task::ThreadGroup)); numbers are computed from the processes when somebody asks.
//!
//! Enforced in groups below the root: `pids.max`, `cgroup.freeze`, `cgroup.kill`, and the rules of the tree. Kept and shown only: memory, CPU and I/O
//! limits (docs/cgroups.md). Files are in `fs/cgroup2`.
//!
//! Locking: `tree` of the hierarchy (the shape: children, controllers) before a process table's lock; a group's `settings` is a leaf.

mod membership;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Errno;
use crate::kernel::Limits;
use crate::task::CpuMax;
use crate::wait::{PollEvents, WaitQueue};
pub use membership::{Freezing, Members, admit_task, move_process, settle};

/// Most groups of a container.
const GROUPS_MAX: usize = 20_000;

bitflags::bitflags! {
    /// Controllers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Controllers: u8 {
        const CPU = 1;
        const IO = 2;
        const MEMORY = 4;
        const PIDS = 8;
    }
}

impl Controllers {
    /// In the order of Linux's lists.
    pub const NAMES: [(&'static str, Controllers); 4] =
        [("cpu", Controllers::CPU), ("io", Controllers::IO), ("memory", Controllers::MEMORY), ("pids", Controllers::PIDS)];

    pub fn names(self) -> String {
        let names: Vec<&str> =
            Controllers::NAMES.iter().filter(|(_, one)| self.contains(*one)).map(|(name, _)| *name).collect();
        names.join(" ")
    }

    pub fn named(name: &str) -> Option<Controllers> {
        Controllers::NAMES.iter().find(|(known, _)| *known == name).map(|(_, one)| *one)
    }
}

/// Who owns a group's directory and files, and their modes; by file name, the directory's is empty.
pub type Owners = BTreeMap<&'static str, (u32, u32, u32)>;

/// What is set in a group's files.
#[derive(Debug, Clone)]
pub struct Settings {
    pub max_depth: Option<u64>,
    pub max_descendants: Option<u64>,
    pub pids_max: Option<u64>,
    pub memory_min: u64,
    pub memory_low: u64,
    pub memory_high: Option<u64>,
    pub memory_max: Option<u64>,
    pub swap_max: Option<u64>,
    pub oom_group: bool,
    pub cpu_weight: u64,
    /// Microseconds of each period.
    pub cpu_quota_us: Option<u64>,
    pub cpu_period_us: u64,
    pub io_weight: u64,
    pub owners: Owners,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_depth: None,
            max_descendants: None,
            pids_max: None,
            memory_min: 0,
            memory_low: 0,
            memory_high: None,
            memory_max: None,
            swap_max: None,
            oom_group: false,
            cpu_weight: 100,
            cpu_quota_us: None,
            cpu_period_us: 100_000,
            io_weight: 100,
            owners: Owners::new(),
        }
    }
}

/// A group.
pub struct Cgroup {
    /// Its directory's inode number.
    pub id: u64,
    pub name: Box<[u8]>,
    parent: Option<Arc<Cgroup>>,
    hierarchy: Arc<Hierarchy>,
    children: Mutex<BTreeMap<Box<[u8]>, Arc<Cgroup>>>,
    /// Enabled for the children.
    subtree_control: Mutex<Controllers>,
    pub settings: Mutex<Settings>,
    removed: AtomicBool,
    /// `cgroup.freeze` of this group itself.
    freezes: AtomicBool,
    /// CPU time of its processes that have ended, in nanoseconds: user and system.
    past_cpu_ns: [AtomicU64; 2],
    /// The most that memory and tasks were when somebody looked.
    pub memory_peak: AtomicU64,
    pub pids_peak: AtomicU64,
    /// How often `pids.max` said no.
    pub pids_refused: AtomicU64,
    /// Counts changes of `cgroup.events`.
    event: AtomicU64,
    changed: WaitQueue,
    me: Weak<Cgroup>,
}

/// What the groups of one container share.
#[derive(Default)]
struct Hierarchy {
    /// Held over changes of the tree's shape.
    tree: Mutex<()>,
    groups: AtomicU64,
    next_id: AtomicU64,
}

/// The container's CPU limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuLimits {
    pub quota_us: Option<u64>,
    pub period_us: Option<u64>,
    /// `cpu.shares` of version 1.
    pub shares: Option<u64>,
}

impl Cgroup {
    /// A container's own group, with its limits.
    pub fn root(memory: Option<u64>, tasks: Option<usize>) -> Arc<Cgroup> {
        let hierarchy = Arc::new(Hierarchy { next_id: AtomicU64::new(1), ..Hierarchy::default() });
        let settings = Settings { memory_max: memory, pids_max: tasks.map(|most| most as u64), ..Settings::default() };
        Cgroup::new(hierarchy, None, Box::default(), settings)
    }

    fn new(hierarchy: Arc<Hierarchy>, parent: Option<Arc<Cgroup>>, name: Box<[u8]>, settings: Settings) -> Arc<Cgroup> {
        hierarchy.groups.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|me| Cgroup {
            id: hierarchy.next_id.fetch_add(1, Ordering::Relaxed),
            name,
            parent,
            hierarchy,
            children: Mutex::default(),
            subtree_control: Mutex::default(),
            settings: Mutex::new(settings),
            removed: AtomicBool::new(false),
            freezes: AtomicBool::new(false),
            past_cpu_ns: Default::default(),
            memory_peak: AtomicU64::new(0),
            pids_peak: AtomicU64::new(0),
            pids_refused: AtomicU64::new(0),
            event: AtomicU64::new(1),
            changed: WaitQueue::new(),
            me: me.clone(),
        })
    }

    /// Says what memory (bytes) and how many tasks the container may have; what is None stays.
    pub fn set_limits(&self, memory: Option<u64>, tasks: Option<u64>) {
        let most = |value: u64| Some(value).filter(|&value| value != Limits::NONE);
        let mut settings = self.settings.lock();
        settings.memory_max = memory.map_or(settings.memory_max, most);
        settings.pids_max = tasks.map_or(settings.pids_max, most);
    }

    /// Says what CPU limits the container has; what is None stays.
    pub fn set_cpu_limits(&self, limits: CpuLimits) {
        let mut settings = self.settings.lock();
        if let Some(quota) = limits.quota_us {
            settings.cpu_quota_us = Some(quota).filter(|&quota| quota != Limits::NONE);
        }
        settings.cpu_period_us = limits.period_us.unwrap_or(settings.cpu_period_us);
        if let Some(shares) = limits.shares {
            // As runc converts them: 2..=262144 to 1..=10000.
            settings.cpu_weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        }
    }

    /// What of the CPUs' time it may have, if that is limited.
    pub fn cpu_max(&self) -> Option<CpuMax> {
        let settings = self.settings.lock();
        let ns = |us: u64| us.saturating_mul(1000).max(1);
        Some(CpuMax { quota_ns: ns(settings.cpu_quota_us?), period_ns: ns(settings.cpu_period_us) })
    }

    /// Whether both are the same container's.
    pub fn is_of_the_tree_of(&self, other: &Cgroup) -> bool {
        Arc::ptr_eq(&self.hierarchy, &other.hierarchy)
    }

    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    pub fn parent(&self) -> Option<&Arc<Cgroup>> {
        self.parent.as_ref()
    }

    /// This group and those above it, the root last.
    pub fn up(self: &Arc<Cgroup>) -> impl Iterator<Item = Arc<Cgroup>> {
        std::iter::successors(Some(self.clone()), |group| group.parent.clone())
    }

    /// Whether `other` is this group or is below it.
    pub fn contains(self: &Arc<Cgroup>, other: &Arc<Cgroup>) -> bool {
        other.up().any(|group| Arc::ptr_eq(&group, self))
    }

    /// The path as seen from `root`; one that is not below it has `..`.
    pub fn path_from(self: &Arc<Cgroup>, root: &Arc<Cgroup>) -> Vec<u8> {
        let common = self.common_ancestor(root);
        let mut path = Vec::new();
        for _ in root.up().take_while(|group| !Arc::ptr_eq(group, &common)) {
            path.extend_from_slice(b"/..");
        }
        let below: Vec<Arc<Cgroup>> = self.up().take_while(|group| !Arc::ptr_eq(group, &common)).collect();
        for group in below.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&group.name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// The lowest group that contains both.
    pub fn common_ancestor(self: &Arc<Cgroup>, other: &Arc<Cgroup>) -> Arc<Cgroup> {
        self.up().find(|group| group.contains(other)).unwrap_or_else(|| self.clone())
    }

    pub fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.children.lock().get(name).cloned()
    }

    pub fn children(&self) -> Vec<Arc<Cgroup>> {
        self.children.lock().values().cloned().collect()
    }

    /// This group and all below it.
    pub fn subtree(self: &Arc<Cgroup>) -> Vec<Arc<Cgroup>> {
        let mut found = vec![self.clone()];
        let mut at = 0;
        while let Some(group) = found.get(at).cloned() {
            found.extend(group.children());
            at += 1;
        }
        found
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// The controllers that this group has.
    pub fn controllers(&self) -> Controllers {
        self.parent.as_ref().map_or(Controllers::all(), |parent| parent.subtree_control())
    }

    pub fn subtree_control(&self) -> Controllers {
        *self.subtree_control.lock()
    }

    /// Makes a group below this one.
    ///
    /// # Errors
    /// `EEXIST`; `EAGAIN` at a limit of depth or number; `ENODEV` if this one was removed; `EINVAL` for a name with a newline.
    pub fn make(self: &Arc<Cgroup>, name: &[u8], owner: (u32, u32, u32)) -> Result<Arc<Cgroup>, Errno> {
        let _tree = self.hierarchy.tree.lock();
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        if self.is_removed() {
            return Err(Errno::ENODEV);
        }
        if self.children.lock().contains_key(name) {
            return Err(Errno::EEXIST);
        }
        for (depth, group) in self.up().enumerate() {
            let (max_depth, max_descendants) = {
                let settings = group.settings.lock();
                (settings.max_depth, settings.max_descendants)
            };
            let full = max_descendants.is_some_and(|most| group.subtree().len() as u64 > most);
            if full || max_depth.is_some_and(|most| depth as u64 + 1 > most) {
                return Err(Errno::EAGAIN);
            }
        }
        if self.hierarchy.groups.load(Ordering::Relaxed) >= GROUPS_MAX as u64 {
            return Err(Errno::EAGAIN);
        }
        let mut settings = Settings::default();
        settings.owners.insert("", owner);
        let group = Cgroup::new(self.hierarchy.clone(), Some(self.clone()), name.into(), settings);
        // A group in a frozen one is frozen by it.
        self.children.lock().insert(name.into(), group.clone());
        Ok(group)
    }

    /// Removes a group below this one. `members` tells who is in it.
    ///
    /// # Errors
    /// `ENOENT`; `EBUSY` if it has groups or processes.
    pub fn remove(self: &Arc<Cgroup>, name: &[u8], members: &Members<'_>) -> Result<(), Errno> {
        let _tree = self.hierarchy.tree.lock();
        let group = self.child(name).ok_or(Errno::ENOENT)?;
        if !group.children.lock().is_empty() || members.is_populated(&group) {
            return Err(Errno::EBUSY);
        }
        group.removed.store(true, Ordering::Release);
        self.children.lock().remove(name);
        self.hierarchy.groups.fetch_sub(1, Ordering::Relaxed);
        // Who waits for its events learns that there are none to come.
        group.tell();
        Ok(())
    }

    /// Enables and disables controllers for the groups below.
    ///
    /// # Errors
    /// `ENOENT` for one that this group does not have; `EBUSY` if a group below passes one on that goes, or if this one has processes.
    pub fn set_subtree_control(
        self: &Arc<Cgroup>,
        enable: Controllers,
        disable: Controllers,
        members: &Members<'_>,
    ) -> Result<(), Errno> {
        let _tree = self.hierarchy.tree.lock();
        let now = self.subtree_control();
        let new = (now | enable) - disable;
        if !self.controllers().contains(enable) {
            return Err(Errno::ENOENT);
        }
        if self.children().iter().any(|child| child.subtree_control().intersects(now - new)) {
            return Err(Errno::EBUSY);
        }
        // No processes beside groups that are controlled.
        if !(new - now).is_empty() && now.is_empty() && members.has_own(self) {
            return Err(Errno::EBUSY);
        }
        *self.subtree_control.lock() = new;
        Ok(())
    }

    /// Whether this group or one above it is frozen.
    pub fn is_frozen(&self) -> bool {
        let mut at = Some(self);
        while let Some(group) = at {
            if group.freezes.load(Ordering::SeqCst) {
                return true;
            }
            at = group.parent.as_deref();
        }
        false
    }

    pub fn freezes(&self) -> bool {
        self.freezes.load(Ordering::SeqCst)
    }

    /// Counts changes of `cgroup.events`; [`Cgroup::queue`] is woken after each.
    pub fn event(&self) -> u64 {
        self.event.load(Ordering::Acquire)
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.changed
    }

    /// `cgroup.events` has changed.
    fn tell(&self) {
        self.event.fetch_add(1, Ordering::AcqRel);
        self.changed.wake(PollEvents::PRI | PollEvents::ERR);
    }

    /// A process has come or gone: this group and those above may be populated, or not, now.
    pub fn population_changed(&self) {
        let mut at = Some(self);
        while let Some(group) = at {
            group.tell();
            at = group.parent.as_deref();
        }
    }

    /// A process has ended that used so much CPU time (user and system).
    pub fn add_past_cpu(&self, user_ns: u64, system_ns: u64) {
        self.past_cpu_ns[0].fetch_add(user_ns, Ordering::Relaxed);
        self.past_cpu_ns[1].fetch_add(system_ns, Ordering::Relaxed);
    }

    fn past_cpu(&self) -> (u64, u64) {
        (self.past_cpu_ns[0].load(Ordering::Relaxed), self.past_cpu_ns[1].load(Ordering::Relaxed))
    }

    /// Itself, if somebody still has it.
    pub fn this(&self) -> Option<Arc<Cgroup>> {
        self.me.upgrade()
    }
}

impl Drop for Cgroup {
    /// Groups above go one after the other, not one inside the other: a guest decides how deep the tree is.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}
