//! The vhost-user device: virtqueues, guest memory, threads. The protocol and the rings are `vmm::vhost_user`'s.
//!
//! Queue 0 has requests of high priority (forgets), queue 1 all others. The *leader* has the queues: it takes requests and does them itself, as handing each
//! over would cost more than most requests do. When more than one waits it wakes a *helper*; and a *watcher* wakes one when the leader has been in one
//! request for long (a hung network file system), so that this does not stop the others. The watcher sleeps while nothing happens. What the VMM says is heard by
//! the thread that called [`Running::wait`], so that it is heard whatever the others do.
//!
//! Locks: the rings' (for taking a request and giving it back), and the pool's. Neither is held while a request is done.

mod pool;
#[cfg(test)]
mod tests;

use std::{
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, atomic::Ordering},
    thread,
};

use hostcall::seccomp::gofer::GoferCalls;
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};
use vmm::vhost_user::{FREE, Frontend, KICK, Layout, Ring, Shared};

use crate::{
    fuse::{Fs, Limits},
    memory::Pieces,
    trees::{TreeConfig, TreeError, Trees},
};
use pool::Pool;

/// High priority, and requests.
const QUEUES: usize = 2;
/// The longest queue; a guest's kernel makes no request of more pieces.
const MAX_QUEUE: u16 = 1024;
/// The most pieces of a request, indirect ones included.
const MAX_PIECES: usize = 2048;
/// Of helpers and the watcher, in bytes.
const STACK: usize = 256 << 10;
/// The leader is to look at all queues.
const WAKE: u64 = FREE;

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
    Device(io::Error),
    #[error("cannot start a thread of the virtio-fs device: {0}")]
    Thread(io::Error),
    #[error("connection to the VMM failed: {0}")]
    Connection(io::Error),
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

    pub(crate) fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Does one request, whose bytes are in `input`, as the device's threads do those that they find in its rings; returns how many bytes of `output` its
    /// answer has.
    pub fn serve(&self, input: &[VolatileSlice<'_>], output: &[VolatileSlice<'_>]) -> usize {
        self.fs.serve(&input.iter().copied().collect(), &output.iter().copied().collect())
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
    /// Make it before any thread: one that has a heap of its own opens a file when that shrinks, which [`Running::confine`] forbids.
    pub fn new(config: Config) -> Server {
        // One heap for all threads: it stays small, and the requests' buffers are few. SAFETY: sets a parameter of the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let trees = Arc::new(Trees::new(config.limits.nodes));
        let fs = Arc::new(Fs::new(Arc::clone(&trees), config.limits));
        Server { shown: Shown { trees, fs }, helpers: config.helpers }
    }

    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Serves the VMM at the other end of `socket`, in threads of its own and the one that [waits](Running::wait).
    ///
    /// # Errors
    /// No threads; too few descriptors.
    pub fn start(self, socket: UnixStream) -> Result<Running, ServeError> {
        let device = Arc::new(Device::new(self.shown.fs.clone()).map_err(ServeError::Device)?);
        let frontend = Frontend::for_threads(socket, device.rings.clone()).map_err(ServeError::Device)?;
        let spawn = |name: String, run: fn(&Device)| {
            let device = device.clone();
            let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(move || run(&device));
            thread.map(drop).map_err(ServeError::Thread)
        };
        spawn("leader".to_owned(), Device::lead)?;
        for n in 0..self.helpers {
            spawn(format!("helper {n}"), Device::help)?;
        }
        if self.helpers > 0 {
            spawn("watcher".to_owned(), Device::watch)?;
        }
        Ok(Running { frontend, device, shown: self.shown })
    }
}

/// A device that is connected.
pub struct Running {
    frontend: Frontend,
    device: Arc<Device>,
    shown: Shown,
}

impl Running {
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Confines all threads of the process to what the device needs (`hostcall::seccomp::virtiofs`), for good. With `ReadOnly` no tree may be
    /// writable. The rest of the lock-down (namespaces, user, capabilities) must be done before [`Server::start`], as it holds for one
    /// thread and those it makes. Landlock's rules for files cannot be used: they would not let trees in that are added later.
    ///
    /// # Errors
    /// The host refuses; nothing should be served then.
    pub fn confine(&self, calls: GoferCalls) -> Result<(), ServeError> {
        Ok(hostcall::seccomp::virtiofs::list(calls).install_on_all_threads()?)
    }

    /// Serves until the VMM closes the connection. The threads end when they have done what they do, which is not waited for: it may hang.
    ///
    /// # Errors
    /// The connection failed, or requests hang that the VMM wants an end of.
    pub fn wait(mut self) -> Result<(), ServeError> {
        let ended = loop {
            match self.frontend.handle() {
                // It may have started a queue that has requests already.
                Ok(()) => self.device.wake(),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
                Err(e) => break Err(ServeError::Connection(e)),
            }
        };
        self.device.pool.end();
        self.device.wake();
        ended
    }
}

/// What the threads share.
struct Device {
    fs: Arc<Fs>,
    rings: Arc<Shared>,
    pool: Arc<Pool>,
    /// Kicks, and `wake`.
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
}

/// Whether a thread is the one the queues belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Helper,
}

impl Device {
    fn new(fs: Arc<Fs>) -> io::Result<Device> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let pool = Arc::new(Pool::default());
        let settles = pool.clone();
        let layout = Layout { features: 0, queues: QUEUES, max_queue: MAX_QUEUE, config: Vec::new() };
        let rings = Shared::new(layout, epoll.clone(), move || settles.settle())?;
        Ok(Device { fs, rings: Arc::new(rings), pool, epoll, wake })
    }

    /// Has the leader look at all queues, or at whether it should end.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn lead(&self) {
        let mut events = [const { MaybeUninit::uninit() }; QUEUES + 1];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut events, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(events) => events,
            };
            for event in events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                        (0..QUEUES).for_each(|queue| self.attend(queue));
                    }
                    kick => {
                        let queue = kick.wrapping_sub(KICK);
                        self.rings.lock().kicked(queue);
                        self.attend(queue as usize);
                    }
                }
            }
            if self.pool.is_at_its_end() {
                return;
            }
        }
    }

    /// Does what is in a queue, as its leader.
    fn attend(&self, queue: usize) {
        self.pool.begin();
        let mut told_at = None;
        loop {
            // Errors: a broken queue, on which nothing will be found.
            self.with(queue, |ring, memory| ring.queue.disable_notification(memory));
            self.drain(queue, Role::Leader);
            if !self.must_look_again(queue, &mut told_at) {
                return;
            }
        }
    }

    /// Has the guest kick for the next request; whether one came just before, for which it will not. `told_at` is where the queue was when that was last so: if
    /// nobody has taken any since (helpers do too, so it says nothing whether the leader has), the guest has broken its queue: no turning in circles for it.
    fn must_look_again(&self, queue: usize, told_at: &mut Option<u16>) -> bool {
        let more = self.with(queue, |ring, memory| (ring.queue.enable_notification(memory), ring.queue.next_avail()));
        let Some((Ok(true), at)) = more else { return false };
        told_at.replace(at) != Some(at)
    }

    /// Works on a queue, if it may be touched.
    fn with<T>(&self, queue: usize, work: impl FnOnce(&mut Ring, &GuestMemoryMmap) -> T) -> Option<T> {
        let mut rings = self.rings.lock();
        let memory = rings.memory.clone();
        rings.rings.get_mut(queue).filter(|ring| ring.is_live()).map(|ring| work(ring, &memory))
    }

    /// A request, and whether more wait; counted as taken.
    fn take(&self, queue: usize) -> Option<(DescriptorChain<Arc<GuestMemoryMmap>>, Arc<GuestMemoryMmap>, bool)> {
        let mut rings = self.rings.lock();
        let memory = rings.memory.clone();
        let queue = &mut rings.rings.get_mut(queue).filter(|ring| ring.is_live())?.queue;
        let chain = queue.pop_descriptor_chain(memory.clone())?;
        let waiting = queue.avail_idx(&*memory, Ordering::Acquire).map_or(0, |idx| idx.0.wrapping_sub(queue.next_avail()));
        // Under the rings' lock: whoever stops the queue sees it.
        self.pool.taken.fetch_add(1, Ordering::SeqCst);
        Some((chain, memory, waiting > 0))
    }

    /// Gives a request back. The queue may have stopped meanwhile, and then waits for this.
    fn give_back(&self, queue: usize, head: u16, used: usize) {
        let mut rings = self.rings.lock();
        let memory = rings.memory.clone();
        if let Some(ring) = rings.rings.get_mut(queue) {
            // Errors: the rings are not where memory is, so the guest (or the VMM) has broken its own queue.
            let _ = ring.queue.add_used(&*memory, head, used as u32);
            let _ = ring.signal(&memory);
        }
        self.pool.taken.fetch_sub(1, Ordering::SeqCst);
    }

    /// Does requests until there are none.
    fn drain(&self, queue: usize, role: Role) {
        while let Some((chain, memory, more)) = self.take(queue) {
            if more {
                self.pool.call();
            }
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
            self.give_back(queue, head, used);
        }
    }

    fn help(&self) {
        while self.pool.await_call() {
            (0..QUEUES).rev().for_each(|queue| self.drain(queue, Role::Helper));
        }
    }

    fn watch(&self) {
        self.pool.watch();
    }
}

/// A chain's memory, what the guest wrote and what it wants written; none if some of it is not there or there is too much.
fn pieces<'a>(
    memory: &'a GuestMemoryMmap,
    chain: DescriptorChain<Arc<GuestMemoryMmap>>,
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
