//! The vhost-user device: virtqueues, guest memory, threads.
//!
//! Queue 0 has requests of high priority (forgets), queue 1 all others. The thread that the `vhost-user-backend` crate gives the queues, the *leader*,
//! takes requests and does them itself, as handing each over would cost more than most requests do. When more than one waits it
//! wakes a *helper*; and a *watcher* wakes one when the leader has been in one request for long (a hung network file system), so that this does not
//! stop the others. The watcher sleeps while nothing happens.
//!
//! Locks: a queue's (for taking a request and giving it back), and the pool's. Neither is held while a request is done.

#[cfg(test)]
mod tests;

use std::{
    io,
    os::unix::net::UnixListener,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hostcall::seccomp::gofer::GoferCalls;
use parking_lot::{Condvar, Mutex};
use vhost::vhost_user::{Listener, message::VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, Permissions};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};

use crate::{
    fuse::{Fs, Limits},
    memory::Pieces,
    trees::{TreeConfig, TreeError, Trees},
};

/// High priority, and requests.
const QUEUES: usize = 2;
const REQUESTS: u16 = 1;
/// The longest queue; a guest's kernel makes no request of more pieces.
const MAX_QUEUE: usize = 1024;
/// The most pieces of a request, indirect ones included.
const MAX_PIECES: usize = 2048;

/// How long the leader may be in one request before others are taken over by a helper.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a queue that is to stop waits for the requests taken from it.
const STOP: Duration = Duration::from_secs(10);
/// For how many times that nothing has to happen before the watcher sleeps.
const IDLE_ROUNDS: u32 = 50;

mod feature {
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
}

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Ring = VringMutex<Memory>;

/// What a device is made of.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub limits: Limits,
    /// Threads that help when requests come faster than one thread does them, or one takes long.
    pub helpers: usize,
}

impl Config {
    /// For this many open files.
    pub fn for_nofile(nofile: u64) -> Config {
        Config { limits: Limits::for_nofile(nofile), helpers: 3 }
    }
}

/// Why a device cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot make the virtio-fs device: {0}")]
    Device(String),
    #[error("cannot start a thread of the virtio-fs device: {0}")]
    Thread(io::Error),
    #[error("cannot take the VMM's connection: {0}")]
    Accept(String),
    #[error("connection to the VMM failed: {0}")]
    Connection(String),
    #[error(transparent)]
    Seccomp(#[from] hostcall::seccomp::SeccompError),
}

/// What the device shows; may be changed while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shown {
    trees: Arc<Trees>,
    fs: Arc<Fs>,
}

impl Shown {
    /// Shows a tree under a free number, which is returned: one that was not used lately.
    ///
    /// # Errors
    /// The tree cannot be opened; there are too many.
    pub fn add(&self, tree: TreeConfig) -> Result<u32, TreeError> {
        self.trees.add(tree)
    }

    /// Shows a tree under a number.
    ///
    /// # Errors
    /// The tree cannot be opened; the number is taken or too high.
    pub fn add_at(&self, index: u32, tree: TreeConfig) -> Result<(), TreeError> {
        self.trees.add_at(index, tree)
    }

    /// No longer shows a tree, and closes all that is open in it; what a guest still knows of it is `ESTALE`. Whether there was one.
    pub fn remove(&self, index: u32) -> bool {
        self.fs.remove_tree(index)
    }
}

/// A device that is not connected yet.
#[derive(Debug)]
pub struct Server {
    shown: Shown,
    helpers: usize,
}

impl Server {
    pub fn new(config: Config) -> Server {
        let trees = Arc::new(Trees::new(config.limits.nodes));
        let fs = Arc::new(Fs::new(Arc::clone(&trees), config.limits));
        Server { shown: Shown { trees, fs }, helpers: config.helpers }
    }

    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Waits for the VMM to connect, and serves it in threads of its own.
    ///
    /// # Errors
    /// No threads; no connection.
    pub fn start(self, listener: UnixListener) -> Result<Running, ServeError> {
        // One heap for all threads: it stays small, and the requests' buffers are few. SAFETY: sets a parameter of the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let pool = Arc::new(Pool::default());
        let exit = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)
            .map_err(|e| ServeError::Device(e.to_string()))?;
        let device =
            Arc::new(Device { fs: Arc::clone(&self.shown.fs), memory: OnceLock::new(), pool: Arc::clone(&pool), exit });
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("virtiofs".to_owned(), Arc::clone(&device), memory)
            .map_err(|e| ServeError::Device(e.to_string()))?;
        let mut helpers = Vec::new();
        let mut spawn = |name: String, run: fn(&Device)| {
            let device = Arc::clone(&device);
            let thread = thread::Builder::new().name(name).stack_size(256 * 1024).spawn(move || run(&device));
            thread.map(|thread| helpers.push(thread)).map_err(ServeError::Thread)
        };
        for n in 0..self.helpers {
            spawn(format!("helper {n}"), Device::help)?;
        }
        if self.helpers > 0 {
            spawn("watcher".to_owned(), Device::watch)?;
        }
        daemon.start(&mut Listener::from(listener)).map_err(|e| ServeError::Accept(e.to_string()))?;
        Ok(Running { daemon, pool, helpers, shown: self.shown })
    }
}

/// A device that is connected.
pub struct Running {
    daemon: VhostUserDaemon<Arc<Device>>,
    pool: Arc<Pool>,
    helpers: Vec<thread::JoinHandle<()>>,
    shown: Shown,
}

impl Running {
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Confines all threads of the process to what the device needs (`hostcall::seccomp::virtiofs`), for good. With `ReadOnly` no tree may be
    /// writable. The rest of the lock-down (namespaces, user, capabilities) must be done before [`Server::start`], as it holds for one
    /// thread and those it makes. Landlock cannot be used: it would not let trees in that are added later.
    ///
    /// # Errors
    /// The host refuses; nothing should be served then.
    pub fn confine(&self, calls: GoferCalls) -> Result<(), ServeError> {
        Ok(hostcall::seccomp::virtiofs::list(calls).install_on_all_threads()?)
    }

    /// Serves until the VMM closes the connection.
    ///
    /// # Errors
    /// The connection failed.
    pub fn wait(mut self) -> Result<(), ServeError> {
        let served = self.daemon.wait();
        self.pool.end();
        for helper in self.helpers.drain(..) {
            // It has ended; that it panicked was said already.
            let _ = helper.join();
        }
        use vhost::vhost_user::Error::{Disconnected, PartialMessage, SocketBroken};
        match served {
            Ok(()) | Err(vhost_user_backend::Error::HandleRequest(Disconnected | PartialMessage | SocketBroken(_))) => Ok(()),
            Err(e) => Err(ServeError::Connection(e.to_string())),
        }
    }
}

/// Wakes and ends helpers and watcher.
#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    help: Condvar,
    watch: Condvar,
    /// Never notified: for a pause.
    stop: Condvar,
    /// Of the leader's requests: odd while it is in one.
    turns: AtomicU64,
    /// Requests taken and not yet given back.
    taken: AtomicUsize,
    /// How often the leader began.
    begun: AtomicU64,
    watching: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The queue to help with.
    ring: Option<Ring>,
    calls: usize,
    idle: usize,
    end: bool,
}

impl Pool {
    /// Wakes a helper, if one is free.
    fn call(&self, ring: &Ring) {
        let mut state = self.state.lock();
        if state.calls < state.idle {
            state.calls += 1;
            state.ring = Some(ring.clone());
            self.help.notify_one();
        }
    }

    fn call_again(&self) {
        let ring = self.state.lock().ring.clone();
        if let Some(ring) = ring {
            self.call(&ring);
        }
    }

    fn end(&self) {
        self.state.lock().end = true;
        self.help.notify_all();
        self.watch.notify_all();
    }
}

/// What the threads share.
pub struct Device {
    fs: Arc<Fs>,
    memory: OnceLock<Memory>,
    pool: Arc<Pool>,
    exit: (EventConsumer, EventNotifier),
}

/// Whether a thread is the one the queues belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Helper,
}

impl Device {
    /// Does requests until there are none; whether there was any.
    fn drain(&self, ring: &Ring, role: Role) -> bool {
        let Some(memory) = self.memory.get() else { return false };
        let mut any = false;
        loop {
            let memory = memory.memory();
            let (chain, more) = {
                let mut state = ring.get_mut();
                if !state.is_enabled() {
                    return any;
                }
                let queue = state.get_queue_mut();
                let Some(chain) = queue.pop_descriptor_chain(memory.clone()) else { return any };
                let waiting =
                    queue.avail_idx(&*memory, Ordering::Acquire).map_or(0, |idx| idx.0.wrapping_sub(queue.next_avail()));
                // Under the queue's lock: whoever stops the queue sees it.
                self.pool.taken.fetch_add(1, Ordering::SeqCst);
                (chain, waiting > 0)
            };
            if more {
                self.pool.call(ring);
            }
            any = true;
            if role == Role::Leader {
                self.pool.turns.fetch_add(1, Ordering::Relaxed);
            }
            let head = chain.head_index();
            let (mut input, mut output) = (Pieces::default(), Pieces::default());
            let used = match pieces(&memory, chain, &mut input, &mut output) {
                Some(()) => self.fs.serve(&input, &output),
                None => 0,
            };
            if role == Role::Leader {
                self.pool.turns.fetch_add(1, Ordering::Relaxed);
            }
            let mut state = ring.get_mut();
            // Errors: the rings are not where memory is, so the guest (or the VMM) has broken its own queue.
            let _ = state.add_used(head, used as u32);
            if state.needs_notification().unwrap_or(true) {
                let _ = state.signal_used_queue();
            }
            self.pool.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn help(&self) {
        loop {
            let ring = {
                let mut state = self.pool.state.lock();
                state.idle += 1;
                while state.calls == 0 && !state.end {
                    self.pool.help.wait(&mut state);
                }
                if state.end {
                    return;
                }
                state.idle -= 1;
                state.calls -= 1;
                state.ring.clone()
            };
            if let Some(ring) = ring {
                self.drain(&ring, Role::Helper);
            }
        }
    }

    fn watch(&self) {
        let (mut idle, mut last, mut begun) = (0, 0, 0);
        loop {
            {
                let mut state = self.pool.state.lock();
                if idle >= IDLE_ROUNDS {
                    self.pool.watching.store(false, Ordering::SeqCst);
                    if self.pool.begun.load(Ordering::SeqCst) != begun {
                        self.pool.watching.store(true, Ordering::SeqCst);
                    }
                    while !self.pool.watching.load(Ordering::SeqCst) && !state.end {
                        self.pool.watch.wait(&mut state);
                    }
                    idle = 0;
                } else {
                    self.pool.watch.wait_for(&mut state, PATIENCE);
                }
                if state.end {
                    return;
                }
            }
            begun = self.pool.begun.load(Ordering::SeqCst);
            let turns = self.pool.turns.load(Ordering::Relaxed);
            match turns == last {
                true if turns % 2 == 1 => self.pool.call_again(),
                true => idle += 1,
                false => idle = 0,
            }
            last = turns;
        }
    }

    /// The leader begins: somebody must watch.
    fn begin(&self, ring: &Ring) {
        // Then the swap: a watcher about to sleep sees the one, or is seen to sleep by the other.
        self.pool.begun.fetch_add(1, Ordering::SeqCst);
        if !self.pool.watching.swap(true, Ordering::SeqCst) {
            let mut state = self.pool.state.lock();
            state.ring = Some(ring.clone());
            self.pool.watch.notify_one();
        }
    }
}

/// A chain's memory, what the guest wrote and what it wants written; none if some of it is not there or there is too much.
fn pieces<'a>(
    memory: &'a GuestMemoryMmap,
    chain: virtio_queue::DescriptorChain<vm_memory::atomic::GuestMemoryLoadGuard<GuestMemoryMmap>>,
    input: &mut Pieces<'a>,
    output: &mut Pieces<'a>,
) -> Option<()> {
    for (n, descriptor) in chain.enumerate() {
        if n >= MAX_PIECES {
            return None;
        }
        let (into, access) = match descriptor.is_write_only() {
            true => (&mut *output, Permissions::Write),
            false => (&mut *input, Permissions::Read),
        };
        for slice in GuestMemory::get_slices(memory, descriptor.addr(), descriptor.len() as usize, access).ok()? {
            into.push(slice.ok()?);
        }
    }
    Some(())
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE
    }

    fn features(&self) -> u64 {
        feature::VERSION_1 | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX | feature::PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// Afterwards the guest's memory is not touched any more: it may be another guest's by then. So the connection ends if a request hangs.
    fn stop_vring(&self, _: u32) -> io::Result<()> {
        let start = Instant::now();
        while self.pool.taken.load(Ordering::SeqCst) > 0 {
            if start.elapsed() > STOP {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.pool.stop.wait_for(&mut self.pool.state.lock(), Duration::from_millis(1));
        }
        Ok(())
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        // One and the same object each time; what it leads to changes.
        self.memory.get_or_init(|| memory);
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        Some((self.exit.0.try_clone().ok()?, self.exit.1.try_clone().ok()?))
    }

    fn handle_event(&self, event: u16, _: EventSet, rings: &[Ring], _: usize) -> io::Result<()> {
        let Some(ring) = rings.get(usize::from(event)) else { return Ok(()) };
        if event == REQUESTS {
            self.begin(ring);
        }
        loop {
            // Errors as above: a broken queue, on which nothing will be found.
            let _ = ring.disable_notification();
            let any = self.drain(ring, Role::Leader);
            // A request may have come just before notifications were on again. If one is said to be there and none is found, the guest
            // has broken its queue: do not turn in circles for it.
            if !ring.enable_notification().unwrap_or(false) || !any {
                return Ok(());
            }
        }
    }
}
