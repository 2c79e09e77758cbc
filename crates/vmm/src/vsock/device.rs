//! The vhost-user device: one thread, one epoll.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::mux::{Counts, Host, Mux};
use super::queues::{self, Moved};
use crate::vhost_user::{FREE, Frontend, KICK, Layout, Rings, SOCKET};

/// Entries of a queue; Linux asks for 128.
const QUEUE: u16 = 1024;
const MUX: u64 = FREE;
const WAKE: u64 = FREE + 1;

/// Serves one guest until its VMM ends.
pub struct Device {
    epoll: Arc<OwnedFd>,
    frontend: Frontend,
    mux: Mux,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
}

/// What the rest of the process asks of a running [`Device`].
#[derive(Clone)]
pub struct Vsock {
    wake: Arc<OwnedFd>,
    commands: Sender<Command>,
}

enum Command {
    Connect { port: u32, stream: UnixStream, answer: SyncSender<()> },
    Count { answer: SyncSender<(usize, Counts)> },
}

impl Device {
    /// A device for the VMM at the other end of `socket` (a connected unix stream socket), whose guest has the context id `cid` (3 or above).
    ///
    /// # Errors
    /// The process is short of descriptors.
    pub fn new(socket: UnixStream, cid: u64, host: impl Host + 'static) -> io::Result<(Device, Vsock)> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        // Queues: to the guest, from the guest, events (which are for migration, and never come).
        let layout = Layout { features: 0, queues: 3, max_queue: QUEUE, config: cid.to_le_bytes().to_vec() };
        let frontend = Frontend::new(socket, layout, epoll.clone())?;
        let mux = Mux::new(cid, Box::new(host))?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, mux.as_fd(), epoll::EventData::new_u64(MUX), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (sender, commands) = mpsc::channel();
        Ok((Device { epoll, frontend, mux, wake: wake.clone(), commands }, Vsock { wake, commands: sender }))
    }

    /// Serves until the VMM closes its end; all connections are closed then.
    ///
    /// # Errors
    /// The VMM broke the vhost-user protocol.
    pub fn run(mut self) -> io::Result<()> {
        let mut more = false;
        let mut events = [const { MaybeUninit::uninit() }; 16];
        loop {
            let timeout = more.then(Timespec::default);
            let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in events {
                match event.data.u64() {
                    SOCKET => match self.frontend.handle() {
                        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                        other => other?,
                    },
                    MUX => self.mux.turn()?,
                    WAKE => self.obey(),
                    kick => self.frontend.rings().kicked(kick - KICK),
                }
            }
            more = pump(&mut self.frontend.rings(), &mut self.mux);
        }
    }

    fn obey(&mut self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                // Without room for it, `answer` is dropped, which refuses.
                Command::Connect { port, stream, answer } => drop(self.mux.connect(port, stream, answer)),
                Command::Count { answer } => drop(answer.send((self.mux.len(), self.mux.counts()))),
            }
        }
    }
}

/// Moves packets both ways; whether there are more to move at once.
fn pump(rings: &mut Rings, mux: &mut Mux) -> bool {
    let Rings { memory, rings, fresh, .. } = rings;
    let memory: &GuestMemoryMmap = memory;
    if std::mem::take(fresh) {
        mux.reset();
    }
    let [to_guest, from_guest, ..] = rings.as_mut_slice() else { return false };
    let mut again = false;
    for (ring, is_from_guest) in [(from_guest, true), (to_guest, false)] {
        if !ring.is_live() {
            continue;
        }
        let mut serve = || {
            ring.queue.disable_notification(memory)?;
            let Moved { any, more } = match is_from_guest {
                true => queues::transmit(&mut ring.queue, memory, mux),
                false => queues::receive(&mut ring.queue, memory, mux),
            }?;
            if any {
                ring.signal(memory)?;
            }
            // Buffers for packets to come are of interest only while a packet waits for one.
            let wanted = is_from_guest || mux.has_packet();
            Ok::<_, virtio_queue::Error>(more || (wanted && ring.queue.enable_notification(memory)?))
        };
        match serve() {
            Ok(more) => again |= more,
            Err(e) => {
                tracing::warn!(%e, "the guest's vsock driver broke its ring, which is given up");
                ring.give_up();
            }
        }
    }
    again
}

impl Vsock {
    /// Connects to the guest's `port`.
    ///
    /// # Errors
    /// `ConnectionRefused`: nobody listens there, or there are too many connections; `TimedOut`: no answer, as from a guest that has no driver
    /// yet; `NotConnected`: the device has ended.
    pub fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Command::Connect { port, stream: theirs, answer })?;
        match answered.recv_timeout(timeout) {
            Ok(()) => Ok(ours),
            Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    /// How many connections there are, and what the guest did wrong so far.
    ///
    /// # Errors
    /// `NotConnected`: the device has ended.
    pub fn counts(&self) -> io::Result<(usize, Counts)> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Command::Count { answer })?;
        answered.recv().map_err(|_| ErrorKind::NotConnected.into())
    }

    fn send(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| io::Error::from(ErrorKind::NotConnected))?;
        rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes())?;
        Ok(())
    }
}
