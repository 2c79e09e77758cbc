//! The VM's size: room for what its containers may use together, as far as the machine goes. It grows before a limit does, and shrinks after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_api::{Code, Limits, Metric, OnlineRequest, Status};
use vmm::{Cpus, Features, Memory, Vmm};

use crate::guest::Guest;

/// How long the guest may take to take, or to give back.
const TIMEOUT: Duration = Duration::from_secs(8);
/// By what memory grows.
const STEP: u64 = vmm::qemu::MEMORY_STEP;

/// What a VM may have, and how much of its memory is not the containers'.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub cpus: Cpus,
    pub memory: Memory,
    /// Bytes of guest memory for its kernel and agent.
    pub overhead: u64,
}

/// CPUs, and bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    cpus: u32,
    memory: u64,
}

pub struct Sizes {
    vmm: Arc<dyn Vmm>,
    range: Range,
    state: Mutex<State>,
    /// A container has the limits it was to be given.
    changed: Condvar,
}

struct State {
    /// What was asked of the VMM last. The guest may have taken less, or keep more.
    asked: Size,
    containers: BTreeMap<String, Limits>,
    /// Those whose limits the guest is being told: their old ones may still be in force.
    changing: BTreeSet<String>,
}

impl Sizes {
    pub fn new(vmm: Arc<dyn Vmm>, range: Range) -> Sizes {
        let asked = Size { cpus: range.cpus.boot, memory: range.memory.boot };
        let state = State { asked, containers: BTreeMap::new(), changing: BTreeSet::new() };
        Sizes { vmm, range, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Has `call` give a container its limits (what is None stays), with room made before, and given back after where they are lower. Of one container
    /// they change one after the other; other containers are not waited for.
    ///
    /// # Errors
    /// Those of `call`; the machine does not grow.
    pub fn with_limits<T>(
        &self,
        guest: &Guest,
        id: &str,
        limits: Option<Limits>,
        call: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let busy = |state: &mut State| state.changing.contains(id);
        let mut state = self.changed.wait_while(self.lock(), busy).unwrap_or_else(PoisonError::into_inner);
        let before = state.containers.get(id).copied();
        state.containers.insert(id.into(), merged(before.unwrap_or_default(), limits.unwrap_or_default()));
        let done = match self.grow(&mut state, guest) {
            Err(status) => Err(status),
            Ok(()) => {
                state.changing.insert(id.into());
                drop(state);
                let done = call();
                state = self.lock();
                state.changing.remove(id);
                self.changed.notify_all();
                done
            }
        };
        if done.is_err() {
            match (before, state.containers.get_mut(id)) {
                (Some(before), Some(limits)) => *limits = before,
                // It has gone meanwhile.
                (Some(_), None) => {}
                (None, _) => drop(state.containers.remove(id)),
            };
            // Another may have grown into its room.
            if let Err(error) = self.grow(&mut state, guest) {
                tracing::warn!(%error, "the VM has less room than its containers' limits");
            }
        }
        self.shrink(&mut state);
        done
    }

    /// Whether it is known: made, or about to be.
    pub fn has(&self, id: &str) -> bool {
        self.lock().containers.contains_key(id)
    }

    /// A container has gone.
    pub fn forget(&self, id: &str) {
        let mut state = self.lock();
        state.containers.remove(id);
        self.shrink(&mut state);
    }

    /// What the VM was last told to be.
    pub fn metrics(&self) -> Vec<Metric> {
        // While it changes, which can take long, nobody waits for this.
        let Ok(state) = self.state.try_lock() else { return Vec::new() };
        let asked = state.asked;
        vec![
            Metric::gauge("nacre_vm_cpus", "CPUs the VM is given.").with(&[], asked.cpus.into()),
            Metric::gauge("nacre_vm_memory_bytes", "Memory the VM is given.").with(&[], asked.memory as f64),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, state: &mut State, guest: &Guest) -> Result<(), Status> {
        let wanted = wanted(&self.range, state.containers.values());
        let refused = |what: &str, why: String| {
            Status::new(Code::ResourceExhausted, format!("the VM cannot be given more {what}: {why}"))
        };
        if wanted.memory > state.asked.memory {
            state.asked.memory = wanted.memory;
            let got = self.vmm.resize_memory(wanted.memory, TIMEOUT).map_err(|error| refused("memory", error.to_string()))?;
            if got < wanted.memory {
                return Err(refused("memory", format!("its kernel has taken {} MiB of {}", got >> 20, wanted.memory >> 20)));
            }
        }
        if wanted.cpus > state.asked.cpus {
            let had = std::mem::replace(&mut state.asked.cpus, wanted.cpus);
            let cpus = self.vmm.resize_cpus(wanted.cpus, TIMEOUT).map_err(|error| refused("CPUs", error.to_string()));
            let grown = cpus.and_then(|cpus| guest.call(&OnlineRequest { cpus }));
            // What cannot be taken back is asked for again.
            if grown.is_err() && !self.vmm.features().contains(Features::CPU_UNPLUG) {
                state.asked.cpus = had;
            }
            grown?;
        }
        Ok(())
    }

    /// As far as the guest lets go: what it keeps it may not use, its containers' own limits see to that.
    fn shrink(&self, state: &mut State) {
        if !state.changing.is_empty() {
            // Whoever is the last to change does it.
            return;
        }
        let wanted = wanted(&self.range, state.containers.values());
        if wanted.memory < state.asked.memory {
            state.asked.memory = wanted.memory;
            if let Err(error) = self.vmm.resize_memory(wanted.memory, TIMEOUT) {
                tracing::warn!(%error, "the VM's memory stays as it is");
            }
        }
        if wanted.cpus < state.asked.cpus && self.vmm.features().contains(Features::CPU_UNPLUG) {
            state.asked.cpus = wanted.cpus;
            if let Err(error) = self.vmm.resize_cpus(wanted.cpus, TIMEOUT) {
                tracing::warn!(%error, "the VM's CPUs stay as they are");
            }
        }
    }
}

/// Room for all of them, within what the machine can have. Without a limit of memory a container is content with what there is; without one of
/// CPU time it may use all CPUs.
fn wanted<'a>(range: &Range, containers: impl Iterator<Item = &'a Limits>) -> Size {
    let (mut cpus, mut memory) = (0_u64, range.overhead);
    for limits in containers {
        memory = memory.saturating_add(limits.memory.unwrap_or(0));
        let own = match limits.cpu_quota_us {
            Some(quota) => quota.div_ceil(limits.period_us()),
            None => range.cpus.max.into(),
        };
        cpus = cpus.saturating_add(own);
    }
    let more = memory.saturating_sub(range.memory.boot).checked_next_multiple_of(STEP).unwrap_or(u64::MAX);
    Size {
        cpus: cpus.clamp(range.cpus.boot.into(), range.cpus.max.into()) as u32,
        memory: range.memory.boot.saturating_add(more).min(range.memory.max),
    }
}

/// What is None stays, and what is [`Limits::NONE`] is no limit any more.
fn merged(old: Limits, new: Limits) -> Limits {
    let pick = |old: Option<u64>, new: Option<u64>| new.or(old).filter(|limit| *limit != Limits::NONE && *limit != 0);
    Limits {
        memory: pick(old.memory, new.memory),
        pids: pick(old.pids, new.pids),
        cpu_quota_us: pick(old.cpu_quota_us, new.cpu_quota_us),
        cpu_period_us: pick(old.cpu_period_us, new.cpu_period_us),
        cpu_shares: pick(old.cpu_shares, new.cpu_shares),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const RANGE: Range =
        Range { cpus: Cpus { boot: 1, max: 4 }, memory: Memory { boot: GIB, max: 3 * GIB }, overhead: 128 << 20 };

    fn limits(memory: Option<u64>, quota: Option<u64>) -> Limits {
        Limits { memory, cpu_quota_us: quota, ..Limits::default() }
    }

    #[test]
    fn there_is_room_for_all_within_the_machine() {
        let size = |containers: &[Limits]| wanted(&RANGE, containers.iter());
        assert_eq!(size(&[]), Size { cpus: 1, memory: GIB });
        let (small, half) = (limits(Some(64 << 20), Some(50_000)), limits(Some(GIB), Some(150_000)));
        assert_eq!(size(&[small]), Size { cpus: 1, memory: GIB });
        assert_eq!(size(&[small, half]), Size { cpus: 3, memory: GIB + 2 * STEP });
        assert_eq!(size(&[half, limits(None, None)]), Size { cpus: 4, memory: GIB + STEP });
        assert_eq!(size(&[limits(Some(u64::MAX), Some(u64::MAX))]), Size { cpus: 4, memory: 3 * GIB });
    }

    #[test]
    fn what_is_not_said_stays_and_a_limit_can_be_taken_away() {
        let old = limits(Some(GIB), Some(50_000));
        assert_eq!(merged(old, limits(None, Some(Limits::NONE))), limits(Some(GIB), None));
        assert_eq!(merged(old, limits(Some(2 * GIB), None)), limits(Some(2 * GIB), Some(50_000)));
    }
}
