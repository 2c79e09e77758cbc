//! A platform without a host: contexts run scripts (Rust futures) instead of machine code. For the kernel's unit tests.
//!
//! A *script* is an async closure that gets a [`User`]; each `user.syscall(..).await` is a trap. Scripts stand at code addresses: a context whose `rip`
//! is the address of a script runs it, so clone, signal handlers and exec work by registers as on a processor. Where a script
//! makes a system call it gets a unique return address; a kernel that moves `rip` two bytes back makes it call again.
//!
//! Memory is real: an address space keeps the mappings it is ordered to make, and scripts' loads and stores go to the mapped
//! files, or fault. Time is virtual: [`ScriptedPlatform::park`] jumps to the next thing that happens.
//!
//! Not modelled: flags, the extended state beyond keeping it, patching.

mod context;
mod space;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

pub use user::User;

use crate::{AddressSpace, Capabilities, ExecutorId, Layout, Patch, PatchRequest, Platform, PlatformError};

/// What a script at an address does when its future ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A process's program: `exit_group(0)`.
    Program,
    /// A thread's start: `exit(0)`.
    Thread,
    /// A signal handler: `rt_sigreturn`.
    Handler,
}

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;
type Factory = Arc<dyn Fn(User) -> Script + Send + Sync>;

/// The platform.
pub struct ScriptedPlatform {
    layout: Layout,
    shared: Arc<Shared>,
}

/// What contexts need of their platform.
struct Shared {
    clock: Arc<AtomicU64>,
    scripts: Mutex<HashMap<u64, (Role, Factory)>>,
    next_address: AtomicU64,
    /// Contexts that compute until a point in time.
    computing: Mutex<BTreeMap<(u64, u64), Waker>>,
    next_id: AtomicU64,
    contexts: AtomicUsize,
    /// Refuse more contexts than this.
    max_contexts: AtomicUsize,
}

impl ScriptedPlatform {
    /// A platform whose time is `clock`, in nanoseconds.
    pub fn new(clock: Arc<AtomicU64>) -> Arc<ScriptedPlatform> {
        let shared = Shared {
            clock,
            scripts: Mutex::default(),
            next_address: AtomicU64::new(0x10_0000),
            computing: Mutex::default(),
            next_id: AtomicU64::new(0),
            contexts: AtomicUsize::new(0),
            max_contexts: AtomicUsize::new(usize::MAX),
        };
        let layout = Layout { user: 0x1_0000..0x7fff_ffff_f000, reserved: Vec::new(), vdso: None, vvar: None };
        Arc::new(ScriptedPlatform { layout, shared: Arc::new(shared) })
    }

    /// Puts a script at a new code address.
    pub fn script<F, Fut>(&self, role: Role, script: F) -> u64
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.shared.script(role, script)
    }

    /// Whether some context computes: virtual time can pass although no timer is armed.
    pub fn computing(&self) -> bool {
        !self.shared.computing.lock().is_empty()
    }

    /// Live contexts.
    pub fn contexts(&self) -> usize {
        self.shared.contexts.load(Ordering::SeqCst)
    }

    /// Makes `new_context` fail beyond this many.
    pub fn limit_contexts(&self, most: usize) {
        self.shared.max_contexts.store(most, Ordering::SeqCst);
    }
}

impl Shared {
    fn script<F, Fut>(&self, role: Role, script: F) -> u64
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = self.new_address();
        let factory: Factory = Arc::new(move |user| Box::pin(script(user)));
        self.scripts.lock().insert(address, (role, factory));
        address
    }

    fn new_address(&self) -> u64 {
        self.next_address.fetch_add(16, Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Wakes contexts whose computation is over.
    fn wake_done(&self) -> usize {
        let now = self.now();
        let mut computing = self.computing.lock();
        let later = computing.split_off(&(now.saturating_add(1), 0));
        let done = std::mem::replace(&mut *computing, later);
        drop(computing);
        let count = done.len();
        done.into_values().for_each(Waker::wake);
        count
    }
}

impl Platform for ScriptedPlatform {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { host_schedules: true, patches: false, xfeatures: 3, xstate_size: 576 }
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError> {
        Ok(space::ScriptedSpace::start(self.shared.clone()))
    }

    fn plan_patch(&self, _request: &PatchRequest<'_>) -> Option<Patch> {
        None
    }

    fn poll(&self, _executor: ExecutorId) -> usize {
        self.shared.wake_done()
    }

    /// Jumps to the earlier of the deadline and the end of a computation.
    fn park(&self, _executor: ExecutorId, deadline_ns: Option<u64>) {
        let computed = self.shared.computing.lock().keys().next().map(|key| key.0);
        if let Some(next) = [deadline_ns, computed].into_iter().flatten().min() {
            self.shared.clock.fetch_max(next, Ordering::SeqCst);
        }
        self.shared.wake_done();
    }

    fn unpark(&self, _executor: ExecutorId) {}
}
