//! [`Core`]: a socket's state, from birth to close.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Address, Credentials, Message, Shared, Urgency};
use crate::Errno;
use crate::fs::FileId;
use crate::net::options::{SockFlags, SocketOptions};
use crate::net::socket::Shutdown;
use crate::wait::{PollEvents, WaitQueue};

/// Default size of the send buffer in bytes (`net.core.wmem_default`).
const SEND_BUFFER: usize = 212_992;
/// Most datagrams that wait at a receiver (`net.unix.max_dgram_qlen`).
const DATAGRAMS_MAX: usize = 512;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The socket's type, `SOCK_*` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    Stream = 1,
    Datagram = 2,
    SeqPacket = 5,
}

/// The parts of a socket that outlive its file.
pub struct Core {
    pub kind: Kind,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Mutex<State>,
    /// Bytes in the inbox.
    pub(super) waiting: AtomicUsize,
    pub(super) send_buffer: AtomicUsize,
    /// `SO_PASSCRED` of this socket: its peer's plain writes carry credentials too.
    wants_credentials: AtomicBool,
    pub options: Mutex<SocketOptions>,
    pub(super) queue: WaitQueue,
    /// Identity in [`Shared`]'s list, and the inode's number.
    pub(super) id: u64,
    ino: AtomicU64,
}

/// A socket as it is shown to those who ask for all.
pub struct Shown {
    pub kind: Kind,
    pub id: u64,
    pub ino: u64,
    /// As TCP's states are numbered.
    pub state: u8,
    /// An abstract one begins with a zero.
    pub name: Option<Vec<u8>>,
    /// The inode of its peer.
    pub peer: Option<u64>,
    /// Of a listener connections that wait, and may wait; else bytes that wait, and room to send.
    pub waiting: (usize, usize),
    /// The inodes of connections that wait to be accepted; they have none yet.
    pub waiting_inodes: Vec<u64>,
    /// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`
    pub shut: u8,
    pub uid: u32,
}

#[derive(Default)]
pub(super) struct State {
    pub inbox: VecDeque<Message>,
    pub address: Option<Arc<Address>>,
    /// The other end; for datagrams, where they go by default.
    pub peer: Option<Arc<Core>>,
    pub peer_credentials: Option<Credentials>,
    /// Connections that wait to be accepted, and how many may.
    pub backlog: Option<(VecDeque<Arc<Core>>, usize)>,
    pub own_credentials: Credentials,
    /// Who wrote last by a plain write; noted only when the peer asks for credentials.
    pub writer: Credentials,
    pub shut_receive: bool,
    pub shut_send: bool,
    pub closed: bool,
    /// Has been connected: a stream socket that has not is hung up.
    pub connected: bool,
    pub error: Option<Errno>,
    /// Senders of datagrams that wait for room here.
    pub senders: Vec<Weak<Core>>,
}

impl Core {
    pub fn new(kind: Kind, shared: &Arc<Shared>) -> Arc<Core> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let core = Arc::new(Core {
            id,
            ino: AtomicU64::new(0),
            kind,
            shared: shared.clone(),
            state: Mutex::new(State::default()),
            waiting: AtomicUsize::new(0),
            send_buffer: AtomicUsize::new(SEND_BUFFER),
            wants_credentials: AtomicBool::new(false),
            options: Mutex::new(SocketOptions::default()),
            queue: WaitQueue::new(),
        });
        shared.all.lock().insert(id, Arc::downgrade(&core));
        core
    }

    pub(super) fn set_inode(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    /// What sock_diag(7) tells of it.
    pub(super) fn shown(&self) -> Shown {
        let state = self.state.lock();
        let (waiting, listening) = match &state.backlog {
            Some((queue, most)) => ((queue.len(), *most), true),
            None => ((self.waiting.load(Ordering::Relaxed), self.send_buffer.load(Ordering::Relaxed)), false),
        };
        let name = state.address.as_deref().map(|address| match address {
            Address::Path(path) => path.to_vec(),
            Address::Abstract(name) => [&[0], &name[..]].concat(),
        });
        let peer = state.peer.as_ref().map(|peer| peer.ino.load(Ordering::Relaxed));
        Shown {
            kind: self.kind,
            id: self.id,
            ino: self.ino.load(Ordering::Relaxed),
            // `TCP_LISTEN`, `TCP_ESTABLISHED`, `TCP_CLOSE`.
            state: if listening {
                10
            } else if state.peer.is_some() {
                1
            } else {
                7
            },
            name,
            peer,
            waiting,
            waiting_inodes: state
                .backlog
                .iter()
                .flat_map(|(queue, _)| queue.iter().map(|core| core.ino.load(Ordering::Relaxed)))
                .collect(),
            shut: u8::from(state.shut_receive) | u8::from(state.shut_send) << 1,
            uid: state.own_credentials.uid,
        }
    }

    /// Its line in /proc/net/unix.
    pub(super) fn line(&self) -> String {
        let (flags, connected, name) = {
            let state = self.state.lock();
            let name = match state.address.as_deref() {
                None => String::new(),
                Some(Address::Path(path)) => format!(" {}", String::from_utf8_lossy(path)),
                Some(Address::Abstract(name)) => format!(" @{}", String::from_utf8_lossy(name).replace('\0', "@")),
            };
            (if state.backlog.is_some() { 0x10000 } else { 0 }, state.connected, name)
        };
        let status = if connected { 3 } else { 1 };
        let ino = self.ino.load(Ordering::Relaxed);
        format!("0000000000000000: 00000002 00000000 {flags:08X} {:04X} {status:02X} {ino:5}{name}\n", self.kind as i32)
    }

    /// Two connected sockets.
    pub fn pair(kind: Kind, shared: &Arc<Shared>, who: Credentials) -> (Arc<Core>, Arc<Core>) {
        let (a, b) = (Core::new(kind, shared), Core::new(kind, shared));
        a.join(&b, who);
        b.join(&a, who);
        (a, b)
    }

    fn join(&self, peer: &Arc<Core>, who: Credentials) {
        let mut state = self.state.lock();
        state.peer = Some(peer.clone());
        state.peer_credentials = Some(who);
        state.connected = true;
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Takes over what is kept at hand of the options.
    pub fn options_changed(&self) {
        let options = self.options.lock();
        self.send_buffer.store(options.send_buffer, Ordering::Relaxed);
        self.wants_credentials.store(options.has(SockFlags::PASSCRED), Ordering::Relaxed);
    }

    pub(super) fn wants_credentials(&self) -> bool {
        self.wants_credentials.load(Ordering::Relaxed)
    }

    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// Who a plain write is from.
    pub(super) fn writer(&self) -> Credentials {
        self.state.lock().writer
    }

    /// Notes who writes, if the peer asks for it.
    pub(super) fn note_writer(&self, who: impl FnOnce() -> Credentials) {
        let mut state = self.state.lock();
        if state.peer.as_ref().is_some_and(|peer| peer.wants_credentials()) {
            state.writer = who();
        }
    }

    /// What an ioctl asks for.
    ///
    /// # Errors
    /// `EINVAL`, `ENOTTY`.
    pub(super) fn ioctl_value(&self, command: u32) -> Result<i32, Errno> {
        use linux_raw_sys::ioctl::{FIONREAD, TIOCOUTQ};
        let value = match command {
            FIONREAD if self.is_listening() => return Err(Errno::EINVAL),
            FIONREAD if self.kind == Kind::Datagram => self.state.lock().inbox.front().map_or(0, |message| message.bytes.len()),
            FIONREAD => self.waiting.load(Ordering::Relaxed),
            TIOCOUTQ => self.peer().map_or(0, |peer| peer.waiting.load(Ordering::Relaxed)),
            _ => return Err(Errno::ENOTTY),
        };
        Ok(value as i32)
    }

    /// `SO_ERROR`: takes it.
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    pub fn address(&self) -> Option<Arc<Address>> {
        self.state.lock().address.clone()
    }

    pub fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    /// The other end.
    pub fn peer(&self) -> Option<Arc<Core>> {
        self.state.lock().peer.clone()
    }

    /// `SO_PEERCRED`.
    pub fn peer_credentials(&self) -> Option<Credentials> {
        self.state.lock().peer_credentials
    }

    /// Checks that the socket has no name yet.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn check_unnamed(&self) -> Result<(), Errno> {
        if self.state.lock().address.is_some() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Sets the name of a socket bound to a path.
    pub fn set_address(&self, address: Address) {
        self.state.lock().address = Some(Arc::new(address));
    }

    /// Takes an abstract name, or (None) any.
    ///
    /// # Errors
    /// `EINVAL` when it has a name, `EADDRINUSE`.
    pub fn bind_abstract(self: &Arc<Core>, name: Option<Vec<u8>>) -> Result<(), Errno> {
        self.check_unnamed()?;
        let name = match name {
            Some(name) => self.shared.names.bind(&name, self).map(|()| name)?,
            None => self.shared.names.bind_any(self)?,
        };
        self.set_address(Address::Abstract(name));
        Ok(())
    }

    /// # Errors
    /// `EOPNOTSUPP`, `EINVAL` (no name, or connected).
    pub fn listen(&self, backlog: usize, who: Credentials) -> Result<(), Errno> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.address.is_none() || state.peer.is_some() || state.connected {
            return Err(Errno::EINVAL);
        }
        match &mut state.backlog {
            Some((_, limit)) => *limit = backlog,
            None => state.backlog = Some((VecDeque::new(), backlog)),
        }
        state.own_credentials = who;
        drop(state);
        self.queue.wake(PollEvents::OUT);
        Ok(())
    }

    /// Connects to a listener, or sets where datagrams go.
    ///
    /// # Errors
    /// `EAGAIN` when the backlog is full; `ECONNREFUSED`, `EPROTOTYPE`, `EISCONN`, `EINVAL`.
    pub fn connect(self: &Arc<Core>, to: &Arc<Core>, who: Credentials) -> Result<(), Errno> {
        if self.kind != to.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.kind == Kind::Datagram {
            {
                let theirs = to.state.lock();
                if theirs.closed {
                    return Err(Errno::ECONNREFUSED);
                }
                // It takes from its own peer only (unix_may_send).
                if theirs.peer.as_ref().is_some_and(|peer| !Arc::ptr_eq(peer, self)) {
                    return Err(Errno::EPERM);
                }
            }
            let old = self.state.lock().peer.replace(to.clone());
            drop(old);
            self.queue.wake(PollEvents::OUT);
            return Ok(());
        }
        {
            let state = self.state.lock();
            match (&state.backlog, state.connected) {
                (Some(_), _) => return Err(Errno::EINVAL),
                (_, true) => return Err(Errno::EISCONN),
                _ => {}
            }
        }
        let server = Core::new(self.kind, &self.shared);
        server.join(self, who);
        let (address, credentials) = {
            let mut state = to.state.lock();
            let refused = state.closed || state.shut_receive;
            let (address, credentials) = (state.address.clone(), state.own_credentials);
            let (waiting, most) = state.backlog.as_mut().filter(|_| !refused).ok_or(Errno::ECONNREFUSED)?;
            if waiting.len() > *most {
                return Err(Errno::EAGAIN);
            }
            server.state.lock().address = address.clone();
            waiting.push_back(server.clone());
            (address, credentials)
        };
        drop(address);
        self.join(&server, credentials);
        to.queue.wake(PollEvents::IN | PollEvents::RDNORM);
        self.queue.wake(PollEvents::OUT);
        Ok(())
    }

    /// Forgets where datagrams go (connect with `AF_UNSPEC`).
    pub fn disconnect(&self) {
        let old = self.state.lock().peer.take();
        drop(old);
    }

    /// Takes a connection off the backlog.
    ///
    /// # Errors
    /// `EAGAIN`; `EINVAL` when it does not listen, or is shut down.
    pub fn accept(&self) -> Result<Arc<Core>, Errno> {
        let mut state = self.state.lock();
        let shut = state.shut_receive;
        let (waiting, _) = state.backlog.as_mut().ok_or(Errno::EINVAL)?;
        let core = waiting.pop_front();
        drop(state);
        match core {
            Some(core) => {
                // A connect may wait for room.
                self.queue.wake(PollEvents::OUT);
                core.inherit_options(self.options.lock().flags);
                Ok(core)
            }
            None if shut => Err(Errno::EINVAL),
            None => Err(Errno::EAGAIN),
        }
    }

    fn inherit_options(&self, flags: SockFlags) {
        self.options.lock().flags |= flags & SockFlags::PASSCRED;
        self.options_changed();
    }

    /// # Errors
    /// None: what is not connected is shut down too.
    pub fn shut_down(&self, what: Shutdown) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.shut_receive |= what.receive;
        state.shut_send |= what.send;
        let peer = state.peer.clone().filter(|_| self.kind != Kind::Datagram);
        drop(state);
        self.queue.wake(PollEvents::all());
        if let Some(peer) = peer {
            let mut state = peer.state.lock();
            state.shut_receive |= what.send;
            state.shut_send |= what.receive;
            drop(state);
            peer.queue.wake(PollEvents::all());
        }
        Ok(())
    }

    /// The file is closed, or a connection was never accepted.
    pub(super) fn close(self: &Arc<Core>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.shut_receive = true;
        state.shut_send = true;
        let peer = state.peer.take();
        let inbox = std::mem::take(&mut state.inbox);
        let backlog = state.backlog.take();
        let address = state.address.clone();
        drop(state);
        self.waiting.store(0, Ordering::SeqCst);
        if let Some(Address::Abstract(name)) = address.as_deref() {
            self.shared.names.release(name, self);
        }
        if let Some(peer) = peer.filter(|_| self.kind != Kind::Datagram) {
            peer.peer_closed(!inbox.is_empty());
        }
        for waiting in backlog.into_iter().flat_map(|(waiting, _)| waiting) {
            if let Some(peer) = waiting.peer() {
                peer.state.lock().error = Some(Errno::ECONNRESET);
            }
            waiting.close();
        }
        self.queue.wake(PollEvents::all());
        drop(inbox);
    }

    fn peer_closed(&self, unread: bool) {
        let mut state = self.state.lock();
        state.shut_receive = true;
        state.shut_send = true;
        if unread {
            state.error = Some(Errno::ECONNRESET);
        }
        // The peer's core goes, its name is still asked for (getpeername): nothing else needs it.
        drop(state);
        self.queue.wake(PollEvents::all());
    }

    /// Whether a send to `to` finds room.
    pub(super) fn has_room(&self, to: &Core, packets: usize) -> bool {
        match self.kind {
            Kind::Datagram => packets < DATAGRAMS_MAX && to.waiting.load(Ordering::Relaxed) < self.send_buffer(),
            _ => to.waiting.load(Ordering::Relaxed) < self.send_buffer(),
        }
    }

    fn writable(&self, peer: Option<&Core>) -> bool {
        peer.is_none_or(|peer| peer.waiting.load(Ordering::Relaxed) * 4 <= self.send_buffer())
    }

    /// Whether the receiver of datagrams is full; then it tells us when it is not.
    fn waits_at(self: &Arc<Core>, receiver: &Core) -> bool {
        let mut state = receiver.state.lock();
        let mutual = state.peer.as_ref().is_some_and(|peer| Arc::ptr_eq(peer, self));
        let full = !state.closed && !mutual && state.inbox.len() >= DATAGRAMS_MAX;
        if full {
            let me = Arc::downgrade(self);
            state.senders.retain(|sender| sender.strong_count() > 0 && !sender.ptr_eq(&me));
            state.senders.push(me);
        }
        full
    }

    /// As `unix_poll` and `unix_dgram_poll`.
    pub fn poll(self: &Arc<Core>) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::empty();
        let readable = match &state.backlog {
            Some((waiting, _)) => !waiting.is_empty(),
            None => !state.inbox.is_empty() || state.shut_receive,
        };
        events.set(PollEvents::IN | PollEvents::RDNORM, readable);
        events.set(PollEvents::RDHUP, state.shut_receive);
        events.set(PollEvents::ERR, state.error.is_some());
        events.set(
            PollEvents::PRI,
            self.kind == Kind::Stream && state.inbox.iter().any(|message| message.urgency == Urgency::Urgent),
        );
        let unborn = self.kind != Kind::Datagram && !state.connected && state.backlog.is_none();
        events.set(PollEvents::HUP, unborn || (state.shut_receive && state.shut_send));
        let listening = state.backlog.is_some();
        let peer = state.peer.clone();
        drop(state);
        let full = self.kind == Kind::Datagram && peer.as_ref().is_some_and(|peer| self.waits_at(peer));
        if !listening && !full && self.writable(peer.as_deref()) {
            events |= PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        }
        events
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.all.lock().remove(&self.id);
    }
}

/// An open unix socket.
pub struct UnixSocket {
    pub(super) core: Arc<Core>,
}

impl UnixSocket {
    pub fn new(core: Arc<Core>) -> Arc<UnixSocket> {
        Arc::new(UnixSocket { core })
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Files in messages that can be received from here, also by way of connections not yet accepted.
    pub(super) fn files_waiting(&self) -> Vec<FileId> {
        let mut files = Vec::new();
        let add = |state: &State, files: &mut Vec<FileId>| {
            let rights = state.inbox.iter().filter_map(|message| message.rights.as_ref());
            files.extend(rights.flat_map(|rights| rights.files().iter().map(|file| file.id())));
        };
        let state = self.core.state.lock();
        add(&state, &mut files);
        let waiting: Vec<_> = state.backlog.iter().flat_map(|(waiting, _)| waiting.iter().cloned()).collect();
        drop(state);
        for core in waiting {
            add(&core.state.lock(), &mut files);
        }
        files
    }

    /// Takes all messages out (of garbage).
    pub(super) fn empty(&self) -> Vec<Message> {
        let mut state = self.core.state.lock();
        let mut messages: Vec<Message> = state.inbox.drain(..).collect();
        let waiting: Vec<_> = state.backlog.iter().flat_map(|(waiting, _)| waiting.iter().cloned()).collect();
        drop(state);
        for core in waiting {
            messages.extend(core.state.lock().inbox.drain(..));
        }
        messages
    }
}
