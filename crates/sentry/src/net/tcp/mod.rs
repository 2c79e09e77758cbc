//! TCP on the sandbox's own addresses: a connection is two sockets, each with the bytes that came for it.
//!
//! - `table`: ports and address pairs. `connect`: from naming to a connection, and its end. `transfer`: bytes. `options`.
//! - There are no segments: what Linux does by FIN and RST is a call to the other socket ([`Tcp::fin_arrives`], [`Tcp::reset`]).
//! - The two sockets of a connection hold each other; whatever ends it (both FINs, a reset, closing) takes the links away.

mod api;
mod connect;
mod options;
mod table;
mod transfer;
mod wire;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use table::Table;

use super::address::{Endpoint, Family};
use super::ip::IpOptions;
use super::namespace::NetNamespace;
use super::options::{SockFlags, SocketOptions};
use super::ports::Claim;
use crate::Errno;
use crate::ipc::ring::ByteRing;
use crate::time::Timer;
use crate::wait::{PollEvents, WaitQueue};
use options::TcpOptions;
use table::{Hold, Key, Remains};
use wire::Wire;

/// Waiting for more bytes than this is waiting for this many.
const MOST_WAITED_FOR: usize = 131_072;

/// A TCP socket.
pub struct Tcp {
    /// Itself.
    me: Weak<Tcp>,
    pub(super) net: Arc<NetNamespace>,
    pub(super) family: Family,
    pub(super) id: u64,
    pub(super) uid: u32,
    pub(super) ino: AtomicU64,
    pub(super) options: Mutex<SocketOptions>,
    pub(super) ip: Mutex<IpOptions>,
    pub(super) tcp: Mutex<TcpOptions>,
    pub(super) state: Mutex<State>,
    queue: WaitQueue,
    /// It is among those that keep much memory for their buffers.
    large: AtomicBool,
}

/// Where the socket is in its life.
pub(super) enum Phase {
    /// Not connected, or not any more.
    Closed,
    Listening(Listener),
    /// Waits for room in a listener's queue.
    Connecting,
    /// From the connection to its last FIN.
    Connected,
}

#[derive(Default)]
pub(super) struct Listener {
    /// Connections that wait to be accepted.
    pub queue: VecDeque<Arc<Tcp>>,
    pub most: usize,
    /// Connections that are shown when bytes come, or after a while (`TCP_DEFER_ACCEPT`).
    deferred: Vec<Arc<Tcp>>,
    /// Who waits for room in the queue.
    pending: VecDeque<Weak<Tcp>>,
}

/// What `connect` has told the program (`sock->state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    None,
    Connecting,
    Connected,
}

/// Urgent data (RFC 793): one byte of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Urgent {
    /// Its position in the stream.
    at: u64,
    /// None: it is told of, and has not come.
    byte: Option<u8>,
    read: bool,
}

/// What a connection waits for before it can be accepted.
struct Deferred {
    listener: Weak<Tcp>,
    _timer: Timer,
}

pub(super) struct State {
    pub phase: Phase,
    pub local: Endpoint,
    pub remote: Option<Endpoint>,
    /// The address, the port were given by bind.
    bound_ip: bool,
    bound_port: bool,
    hold: Option<Hold>,
    /// The pair of addresses is in the table.
    paired: bool,
    peer: Option<Arc<Tcp>>,
    /// Or the connection leaves the sandbox.
    wire: Option<Arc<Wire>>,
    progress: Progress,
    /// Bytes that came and are not read, and the position in the stream of the first.
    pub ring: ByteRing,
    position: u64,
    urgent: Option<Urgent>,
    pub fin_sent: bool,
    pub fin_received: bool,
    /// This side sent its FIN first.
    fin_first: bool,
    shut_receive: bool,
    shut_send: bool,
    /// The stream ended by a FIN: reads give 0 whatever comes (`SOCK_DONE`).
    done: bool,
    error: Option<Errno>,
    /// No file any more.
    orphan: bool,
    /// Its listener, which does not show it yet.
    deferred: Option<Deferred>,
    /// The peer waits for room; the size of its send buffer.
    sender_waits: Option<usize>,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Tcp {
    pub fn new(net: &Arc<NetNamespace>, family: Family, uid: u32) -> Arc<Tcp> {
        let values = net.tcp_values();
        let ((receive_buffer, _), (send_buffer, _)) = (options::buffer(values.receive), options::buffer(values.send));
        let options = SocketOptions { send_buffer, receive_buffer, ..SocketOptions::default() };
        Tcp::with_options(net, family, uid, options, IpOptions::default(), TcpOptions::default())
    }

    fn with_options(
        net: &Arc<NetNamespace>,
        family: Family,
        uid: u32,
        options: SocketOptions,
        ip: IpOptions,
        tcp: TcpOptions,
    ) -> Arc<Tcp> {
        let socket = Arc::new_cyclic(|me| Tcp {
            me: me.clone(),
            net: net.clone(),
            family,
            id: net.next_id(),
            uid,
            ino: AtomicU64::new(0),
            options: Mutex::new(options),
            ip: Mutex::new(ip),
            tcp: Mutex::new(tcp),
            state: Mutex::new(State::new(family)),
            queue: WaitQueue::new(),
            large: AtomicBool::new(false),
        });
        net.tcp_sockets.lock().insert(socket.id, Arc::downgrade(&socket));
        socket
    }

    fn arc(&self) -> Arc<Tcp> {
        self.me.upgrade().expect("called through a reference that counts")
    }

    /// What it claims of `ip`, by its options.
    fn claim(&self, ip: core::net::IpAddr) -> Claim {
        let options = self.options.lock();
        Claim {
            ip,
            only_v6: self.ip.lock().only_v6,
            reuse: options.has(SockFlags::REUSEADDR),
            reuse_port: options.has(SockFlags::REUSEPORT),
            uid: self.uid,
            device: options.device,
        }
    }

    fn key(&self, ip: core::net::IpAddr) -> Key {
        let options = self.options.lock();
        Key { ip, reuse: options.has(SockFlags::REUSEADDR), reuse_port: options.has(SockFlags::REUSEPORT) }
    }

    /// Tells the table of changed options.
    pub(super) fn claim_changed(&self) {
        let mut table = self.net.tcp.lock();
        let state = self.state.lock();
        if let Some(Hold::Bound(port)) = state.hold {
            let claim = self.claim(state.local.ip);
            drop(state);
            table.update_claim(port, self.id, claim);
        }
    }

    /// `tcp_poll`.
    fn readiness(&self) -> PollEvents {
        let (inline, send_buffer, low_water) = {
            let options = self.options.lock();
            (options.has(SockFlags::OOBINLINE), options.send_buffer, low_water(&options))
        };
        let state = self.state.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::ERR, state.error.is_some());
        if let Phase::Listening(listener) = &state.phase {
            events.set(PollEvents::IN | PollEvents::RDNORM, !listener.queue.is_empty());
            return events;
        }
        let closed = matches!(state.phase, Phase::Closed);
        events.set(PollEvents::HUP, closed || (state.shut_receive && state.shut_send));
        events.set(PollEvents::IN | PollEvents::RDNORM | PollEvents::RDHUP, state.shut_receive);
        if matches!(state.phase, Phase::Connecting) {
            return events;
        }
        let mark = state.urgent.filter(|urgent| urgent.at == state.position && !inline);
        let readable = PollEvents::IN | PollEvents::RDNORM;
        let target = low_water + usize::from(mark.is_some());
        events.set(readable, events.contains(readable) || state.ring.len() >= target);
        let less = state.ring.len() > usize::from(mark.is_some()) && !events.contains(readable);
        events.set(PollEvents::PRI, state.urgent.is_some_and(|urgent| !urgent.read && urgent.byte.is_some()));
        let peer = state.peer.clone().filter(|_| !state.shut_send);
        let (wire, may_send) = (state.wire.clone(), !state.shut_send);
        drop(state);
        if less && wire.as_ref().is_some_and(|wire| self.wire_gets_no_more(wire)) {
            events |= readable;
        }
        let writable = match (peer, wire.filter(|_| may_send)) {
            // Nothing waits in a buffer of its own: what is sent waits at the peer.
            (Some(peer), _) => peer.has_room_for(send_buffer),
            (None, Some(wire)) => self.wire_is_writable(&wire),
            (None, None) => true,
        };
        events.set(PollEvents::OUT | PollEvents::WRNORM, writable);
        events
    }

    /// Whether a sender with this buffer may send (`sk_stream_is_writeable`); if not, it is woken when it may.
    fn has_room_for(&self, send_buffer: usize) -> bool {
        let receive_buffer = self.options.lock().receive_buffer;
        let mut state = self.state.lock();
        if state.writable(receive_buffer, send_buffer) {
            return true;
        }
        state.sender_waits = Some(send_buffer);
        false
    }

    /// The state as Linux numbers it (include/net/tcp_states.h).
    pub(super) fn state_number(&self) -> u8 {
        if let Some(wire) = self.wire() {
            return self.wire_state_number(&wire);
        }
        let state = self.state.lock();
        match (&state.phase, state.fin_sent, state.fin_received) {
            (Phase::Closed, ..) => 7,
            (Phase::Listening(_), ..) => 10,
            (Phase::Connecting, ..) => 2,
            (Phase::Connected, false, false) => 1,
            (Phase::Connected, true, false) => 5,
            (Phase::Connected, _, true) => 8,
        }
    }

    /// Both ends, and the bytes (or connections) that wait: for /proc.
    pub(super) fn summary(&self) -> (Endpoint, Option<Endpoint>, usize) {
        let state = self.state.lock();
        let waiting = match &state.phase {
            Phase::Listening(listener) => listener.queue.len(),
            _ => state.ring.len(),
        };
        (state.local, state.remote, waiting)
    }

    /// Connections that may wait at a listener.
    pub(super) fn backlog(&self) -> usize {
        match &self.state.lock().phase {
            Phase::Listening(listener) => listener.most,
            _ => 0,
        }
    }

    pub(super) fn has_bound_port(&self) -> bool {
        self.state.lock().bound_port
    }

    /// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`
    pub(super) fn shut_sides(&self) -> u8 {
        let state = self.state.lock();
        u8::from(state.shut_receive) | u8::from(state.shut_send) << 1
    }

    pub(super) fn inode(&self) -> u64 {
        self.ino.load(Ordering::Relaxed)
    }

    /// The connection is over, or never was: what it holds of ports is given back.
    fn release(&self, hold: Option<Hold>, pair: Option<(Endpoint, Endpoint)>, remains: Remains) {
        if hold.is_some() || pair.is_some() {
            self.net.tcp.lock().release(self.id, hold, pair, remains);
        }
    }
}

impl State {
    fn new(family: Family) -> State {
        State {
            phase: Phase::Closed,
            local: Endpoint::new(family.unspecified(), 0),
            remote: None,
            bound_ip: false,
            bound_port: false,
            hold: None,
            paired: false,
            peer: None,
            wire: None,
            progress: Progress::None,
            ring: ByteRing::new(usize::MAX),
            position: 0,
            urgent: None,
            fin_sent: false,
            fin_received: false,
            fin_first: false,
            shut_receive: false,
            shut_send: false,
            done: false,
            error: None,
            orphan: false,
            deferred: None,
            sender_waits: None,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Bytes that a sender with this buffer may still add.
    fn room(&self, receive_buffer: usize, send_buffer: usize) -> usize {
        receive_buffer.saturating_add(send_buffer).saturating_sub(self.ring.len())
    }

    /// Whether at least a third of the sender's buffer is free.
    fn writable(&self, receive_buffer: usize, send_buffer: usize) -> bool {
        let used = self.ring.len().saturating_sub(receive_buffer);
        send_buffer.saturating_sub(used) * 2 >= used && used < send_buffer
    }

    /// The pair of addresses, to be taken out of the table.
    fn take_pair(&mut self) -> Option<(Endpoint, Endpoint)> {
        let paired = std::mem::take(&mut self.paired);
        self.remote.filter(|_| paired).map(|remote| (self.local, remote))
    }
}

/// Bytes that have to be there before somebody is told (`SO_RCVLOWAT`).
fn low_water(options: &SocketOptions) -> usize {
    options.receive_low_water.min(options.receive_buffer).clamp(1, MOST_WAITED_FOR)
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.net.discharge(self.state.get_mut().ring.len());
        self.net.tcp_sockets.lock().remove(&self.id);
    }
}
