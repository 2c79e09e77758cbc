//! systrap: application threads are host threads in *stub* processes whose system calls trap to the sentry.
//!
//! Needs no virtualisation and no ptrace. One stub per guest address space, one host thread in it per guest thread. Key types:
//! [`Systrap`] (the platform), `Space` (an address space), `SystrapContext` (a thread's registers and the way to user mode and
//! back), `Stub` (orders to a stub's memory thread), `Executor` (who waits for traps). `docs/platform.md` has the design, and
//! who may write which shared page.
//!
//! Locking: `pool` and `areas` are leaves; a stub's ring may be held while its memory thread works.

mod blob;
mod closeness;
mod context;
mod control;
mod executor;
mod filter;
mod frame;
pub mod layout;
mod patch;
mod space;
mod spin;
mod stub;
mod sys;
mod tag;
#[cfg(test)]
mod tests;
mod thread;
mod xstate;
mod zygote;

use std::sync::{Arc, Weak};

use hostcall::Errno;
use parking_lot::Mutex;

pub use filter::{Instruction, MEMORY_CALLS, StubCall, THREAD_CALLS, memory_filter, thread_filter};

use crate::{AddressSpace, Capabilities, Death, ExecutorId, Idle, Layout, Patch, PatchRequest, Platform, PlatformError};
use control::Control;
use executor::Executor;
use layout::*;
use space::Space;
use stub::{Failure, Order, Stub};
use thread::Thread;

/// Stubs kept clean for the next address space.
const POOL: usize = 16;

/// What the platform asks of the host after [`Systrap::start`], for the sentry's filter: `fallocate` on the control file, `kill` of
/// its children, `futex` on shared words, `sched_setaffinity` of itself and of its children, `setpriority` of these. CPU-time clocks of other processes are
/// not in the vDSO, so `clock_gettime` is a real call here.
pub const HOST_CALLS: [i64; 8] = [
    libc::SYS_futex,
    libc::SYS_kill,
    libc::SYS_wait4,
    libc::SYS_clock_gettime,
    libc::SYS_sched_setaffinity,
    libc::SYS_setpriority,
    libc::SYS_fallocate,
    libc::SYS_getrandom,
];

/// Whether waiting may burn CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    /// Sleep at once: a CPU quota below two CPUs, or one CPU.
    Never,
    /// Spin while it pays.
    Adaptive,
}

/// What [`Systrap::start`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that will call `poll` and `park`, at most 64.
    pub executors: usize,
    /// Guest processes at a time.
    pub max_address_spaces: usize,
    /// CPUs the sandbox may use.
    pub cpus: usize,
    pub spin: Spin,
}

/// See the module.
pub struct Systrap {
    me: Weak<Systrap>,
    control: Arc<Control>,
    executors: Arc<[Executor]>,
    layout: Layout,
    xformat: xstate::Format,
    zygote: Stub,
    pool: Mutex<Vec<Used>>,
    areas: Mutex<Areas>,
    /// How often a stub looks at its turn word before it sleeps, and how long one look takes.
    stub_spin: u32,
    pause_ns: u64,
}

/// A stub that has been used: nothing of the application is mapped in it, but its threads may still be dying, and its
/// context blocks hold what the application left there.
struct Used {
    stub: Arc<Stub>,
    threads: Vec<Arc<Thread>>,
    blocks: u64,
}

/// Areas of the control file.
struct Areas {
    next: u64,
    count: u64,
    free: Vec<u64>,
}

impl Systrap {
    /// Forks the zygote. Call it early: from a thread that lives as long as the sandbox (stubs die with it), before the process
    /// has secrets, and before its seccomp filter; but with the user ids it will keep, since it must be allowed to signal
    /// stubs. The process's own waiting for children must not use `__WALL` or `__WCLONE`: stubs are reaped here.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where processor or kernel lack something, [`PlatformError::Start`] where a step fails.
    pub fn start(config: Config) -> Result<Arc<Systrap>, PlatformError> {
        let unsupported = |what: &str| PlatformError::Unsupported(what.to_owned());
        if config.executors == 0 || config.executors > MAX_EXECUTORS {
            return Err(unsupported("between 1 and 64 executors"));
        }
        if !tag::Key::supported() {
            return Err(unsupported("AES instructions"));
        }
        // SAFETY: no memory is involved.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 == 0 {
            return Err(unsupported("FSGSBASE instructions"));
        }
        let xformat = xstate::Format::of_host().ok_or_else(|| unsupported("XSAVE"))?;
        if xformat.framed() as u64 > XSTATE_LEN {
            return Err(unsupported("an extended state of at most 4,096 bytes"));
        }
        let start = |what| move |errno| PlatformError::Start { what, errno };
        let areas = config.max_address_spaces + 1;
        let control = Arc::new(Control::new(areas).map_err(start("making the control file"))?);
        let vdso = zygote::find_vdso()?;
        if vdso.as_ref().is_some_and(|v| v.vvar.start < REGION.end && v.vdso.end > REGION.start) {
            return Err(unsupported("the vDSO elsewhere"));
        }
        zygote::prepare(&control, vdso.as_ref(), xformat.features);
        let mut zygote = Stub::prepare(control.clone(), FILE_AREAS, 0).map_err(start("making a key"))?;
        let (pid, blob) = zygote::fork(&control, FILE_AREAS)?;
        zygote.pid = pid;
        let nothing = Order { what: "madvise", number: libc::SYS_madvise, args: [0; 6], failure: Failure::Ignored };
        zygote.call(nothing)?.map_err(start("asking the zygote"))?;
        drop(blob);

        let mut reserved = vec![REGION];
        reserved.extend(vdso.as_ref().map(|vdso| vdso.vvar.start..vdso.vdso.end));
        let layout = Layout {
            user: USER,
            reserved,
            vvar: vdso.as_ref().map(|vdso| vdso.vvar.clone()),
            vdso: vdso.map(|vdso| vdso.vdso),
        };
        let spins = config.spin == Spin::Adaptive && config.cpus > 1;
        let cpus = spin::Cpus::of_host();
        let crowd = closeness::Crowd::new(cpus, config.executors);
        let executor = |index| {
            let closeness = closeness::Closeness::new(index, crowd.clone(), spins);
            Executor::new(index, control.clone(), spin::SpinPolicy::new(spins, cpus), closeness)
        };
        let executors = (0..config.executors).map(executor).collect();
        let pause_ns = spin::pause_ns();
        Ok(Arc::new_cyclic(|me| Systrap {
            me: me.clone(),
            control,
            executors,
            layout,
            xformat,
            zygote,
            pool: Mutex::new(Vec::new()),
            areas: Mutex::new(Areas { next: 1, count: areas as u64, free: Vec::new() }),
            stub_spin: if spins { spin::stub_turns(pause_ns) } else { 0 },
            pause_ns,
        }))
    }

    fn control(&self) -> Arc<Control> {
        self.control.clone()
    }
    fn executors(&self) -> Arc<[Executor]> {
        self.executors.clone()
    }
    fn layout_ref(&self) -> &Layout {
        &self.layout
    }
    fn xformat(&self) -> xstate::Format {
        self.xformat
    }
    fn stub_spin(&self) -> u32 {
        self.stub_spin
    }
    /// Turns of a stub's spin loop as CPU time.
    fn spun_ns(&self, turns: u64) -> u64 {
        turns.saturating_mul(self.pause_ns)
    }

    fn new_space(&self) -> Result<Arc<Space>, PlatformError> {
        let pooled = || self.pool.lock().pop();
        let stub = match std::iter::from_fn(pooled).find_map(|used| self.wipe(used)) {
            Some(stub) => stub,
            None => self.new_stub()?,
        };
        let me = self.me.upgrade().expect("called through a living Arc");
        Ok(Space::new(me, stub))
    }

    fn new_stub(&self) -> Result<Arc<Stub>, PlatformError> {
        let area = {
            let mut areas = self.areas.lock();
            match areas.free.pop() {
                Some(area) => area,
                None if areas.next < areas.count => {
                    areas.next += 1;
                    areas.next - 1
                }
                None => return Err(PlatformError::AddressSpace(Errno::EAGAIN)),
            }
        };
        let made = self.clone_stub(FILE_AREAS + area * AREA_LEN);
        if made.is_err() {
            self.areas.lock().free.push(area);
        }
        made
    }

    fn clone_stub(&self, area: u64) -> Result<Arc<Stub>, PlatformError> {
        let mut stub = Stub::prepare(self.control(), area, 0).map_err(PlatformError::AddressSpace)?;
        let args = [CLONE_STUB, 0, 0, 0, area, 0];
        let clone = Order { what: "clone", number: libc::SYS_clone, args, failure: Failure::Ignored };
        stub.pid = self.zygote.call(clone)?.map_err(PlatformError::AddressSpace)? as i32;
        // The parent-death signal is not inherited.
        let args = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        stub.post(Order { what: "prctl", number: libc::SYS_prctl, args, failure: Failure::Reported })?;
        Ok(Arc::new(stub))
    }

    /// Takes back the stub of a dropped address space, whose threads have been sent SIGKILL; `blocks` of its context blocks were
    /// used. When it returns, nothing of the application is mapped any more; the rest is done when the stub is needed.
    fn recycle(&self, stub: Arc<Stub>, threads: Vec<Arc<Thread>>, blocks: u64) {
        if self.unmap_all(&stub).is_ok() {
            let mut pool = self.pool.lock();
            if pool.len() < POOL {
                pool.push(Used { stub, threads, blocks });
                return;
            }
        }
        self.discard(&stub, &threads);
    }

    /// Makes a used stub as good as new: its threads are gone, their blocks read as zero, nothing they wrote is left.
    fn wipe(&self, used: Used) -> Option<Arc<Stub>> {
        let Used { stub, threads, blocks } = used;
        threads.iter().for_each(|thread| thread.kill(Death::Signal(libc::SIGKILL)));
        stub.tidy();
        if stub.death().is_none() && (blocks == 0 || self.control.punch(stub.area + AREA_BLOCKS, blocks * BLOCK_LEN).is_ok()) {
            return Some(stub);
        }
        self.discard(&stub, &threads);
        None
    }

    fn discard(&self, stub: &Stub, threads: &[Arc<Thread>]) {
        threads.iter().for_each(|thread| thread.kill(Death::Signal(libc::SIGKILL)));
        stub.kill(Death::Signal(libc::SIGKILL));
        if self.control.punch(stub.area, AREA_LEN).is_ok() {
            self.areas.lock().free.push((stub.area - FILE_AREAS) / AREA_LEN);
        }
    }

    /// Unmaps what the application had.
    fn unmap_all(&self, stub: &Stub) -> Result<(), PlatformError> {
        let mut keep = self.layout.reserved.clone();
        keep.sort_by_key(|range| range.start);
        let ends = keep.iter().map(|range| range.start).chain([USER.end]);
        let starts = [USER.start].into_iter().chain(keep.iter().map(|range| range.end));
        for (from, to) in starts.zip(ends).filter(|(from, to)| to > from) {
            let args = [from, to - from, 0, 0, 0, 0];
            stub.post(Order { what: "munmap", number: libc::SYS_munmap, args, failure: Failure::Reported })?;
        }
        stub.settle()
    }
}

impl Platform for Systrap {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn capabilities(&self) -> Capabilities {
        let format = self.xformat();
        Capabilities { host_schedules: true, patches: true, xfeatures: format.features, xstate_size: format.size }
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError> {
        Ok(self.new_space()?)
    }
    fn plan_patch(&self, request: &PatchRequest<'_>) -> Option<Patch> {
        patch::plan(request)
    }

    fn poll(&self, executor: ExecutorId) -> usize {
        self.executors.get(executor.0).map_or(0, Executor::poll)
    }

    fn park(&self, executor: ExecutorId, deadline_ns: Option<u64>) {
        if let Some(executor) = self.executors.get(executor.0) {
            executor.park(deadline_ns);
        }
    }

    fn unpark(&self, executor: ExecutorId) {
        if let Some(executor) = self.executors.get(executor.0) {
            executor.unpark();
        }
    }

    fn idle(&self, executor: ExecutorId) -> Idle {
        self.executors.get(executor.0).map_or_else(Idle::default, Executor::idle)
    }
}
