//! All connections of one guest.
//!
//! Whoever owns the virtqueues gives each packet of the guest to [`Mux::transmit`], asks [`Mux::receive`] for packets while [`Mux::has_packet`], and
//! calls [`Mux::turn`] when [`Mux::as_fd`] is readable. One thread does all that; there are no locks. Everything here is bounded: connections, bytes
//! kept, and resets owed; a guest above a bound is reset, or at worst not answered, and only it is the worse for it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;

use rustix::event::{Timespec, epoll};
use slab::Slab;
use vm_memory::VolatileSlice;

use super::connection::{Breach, Connection};
use super::packet::{HOST_CID, Header, Op, Ports, STREAM, Shut};

/// Connections of a guest at a time.
pub const MAX_CONNECTIONS: usize = 1024;
/// Bytes kept for host sides that are slow, of all connections together.
pub(super) const MAX_KEPT: usize = 32 << 20;
/// Resets that wait for room in the guest's queue.
pub(super) const MAX_RESETS: usize = 256;
/// Host ports of connections that the host asks for start here, away from those that services have.
const FIRST_PORT: u32 = 1 << 30;

/// The host's services.
pub trait Host: Send {
    /// The guest asks for a connection between these ports: a connected unix stream socket, made non-blocking by the caller; None refuses. Must not
    /// wait.
    fn connect(&mut self, ports: Ports) -> Option<OwnedFd>;
}

impl<F: FnMut(Ports) -> Option<OwnedFd> + Send> Host for F {
    fn connect(&mut self, ports: Ports) -> Option<OwnedFd> {
        self(ports)
    }
}

/// What a guest did that it should not have, by the way it was answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Packets of another guest's, or without meaning: not answered.
    pub ignored: u64,
    /// Connections reset because the guest broke a rule.
    pub breaches: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Resets that were not sent because too many waited.
    pub silent: u64,
}

pub struct Mux {
    guest: u64,
    host: Box<dyn Host>,
    poll: OwnedFd,
    connections: Slab<Connection>,
    /// Those the guest knows; a connection that it closed may stay in `connections` until the host's side has all.
    by_ports: HashMap<Ports, usize>,
    /// Keys of those that may have a packet, each once.
    ready: VecDeque<usize>,
    resets: VecDeque<Header>,
    /// Bytes kept by all connections.
    kept: usize,
    next_port: u32,
    counts: Counts,
}

impl Mux {
    /// For the guest with the context id `guest`.
    pub fn new(guest: u64, host: Box<dyn Host>) -> io::Result<Mux> {
        Ok(Mux {
            guest,
            host,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Slab::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            kept: 0,
            next_port: FIRST_PORT,
            counts: Counts::default(),
        })
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Bytes kept for host sides that are slow.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Forgets everything: the guest's driver starts anew.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.by_ports.clear();
        self.ready.clear();
        self.resets.clear();
        self.kept = 0;
    }

    /// Asks the guest for a connection to its `port`; `answer` hears of it when it agrees, and is dropped when it refuses.
    ///
    /// # Errors
    /// Too many connections; the socket cannot be watched.
    pub fn connect(&mut self, port: u32, stream: UnixStream, answer: SyncSender<()>) -> io::Result<()> {
        let mut ports = Ports { host: self.next_port, guest: port };
        while self.by_ports.contains_key(&ports) {
            ports.host = if ports.host == u32::MAX { FIRST_PORT } else { ports.host + 1 };
        }
        self.next_port = if ports.host == u32::MAX { FIRST_PORT } else { ports.host + 1 };
        self.insert(Connection::asked(ports, stream, answer))
    }

    /// Whether [`receive`](Mux::receive) may have a packet.
    pub fn has_packet(&self) -> bool {
        !self.ready.is_empty() || !self.resets.is_empty()
    }

    /// The next packet for the guest; its data, if it has any, is in the first bytes of `room`.
    pub fn receive(&mut self, room: &[VolatileSlice<'_>]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let packet = connection.next(self.guest, room);
            connection.queued = packet.is_some();
            if packet.is_some() {
                // To the end: all get their turn.
                self.ready.push_back(key);
                return packet;
            }
        }
        None
    }

    /// Takes a packet of the guest's. `payload` is `header.len` bytes long, or shorter if the guest's descriptors are.
    pub fn transmit(&mut self, header: &Header, payload: &[VolatileSlice<'_>]) {
        let op = Op::from_number(header.op.get());
        if header.src_cid.get() != self.guest {
            self.counts.ignored += 1;
            return;
        }
        let (Some(op), STREAM, HOST_CID) = (op, header.kind.get(), header.dst_cid.get()) else {
            self.counts.ignored += 1;
            if op != Some(Op::Reset) {
                let mut reset = Ports::of(header).to_guest(self.guest, Op::Reset);
                (reset.src_cid, reset.kind) = (header.dst_cid, header.kind);
                self.owe_reset(reset);
            }
            return;
        };
        let ports = Ports::of(header);
        match (self.by_ports.get(&ports), op) {
            (None, Op::Request) => self.accept(ports, header),
            (None, Op::Reset) => {}
            (None, _) => self.owe_reset(ports.to_guest(self.guest, Op::Reset)),
            (Some(&key), op) => {
                if let Err(Breach(what)) = self.packet(key, op, header, payload) {
                    if self.counts.breaches.is_power_of_two() || self.counts.breaches == 0 {
                        tracing::warn!(?ports, what, "the guest breaks vsock's rules");
                    }
                    self.counts.breaches += 1;
                    self.owe_reset(ports.to_guest(self.guest, Op::Reset));
                    self.remove(key);
                }
            }
        }
    }

    fn packet(&mut self, key: usize, op: Op, header: &Header, payload: &[VolatileSlice<'_>]) -> Result<(), Breach> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.hear(header);
        let before = connection.kept();
        let outcome = match op {
            Op::Request => Err(Breach("a request for a connection that exists")),
            Op::Response => connection.agreed(),
            Op::Data if payload.iter().map(VolatileSlice::len).sum::<usize>() != header.len.get() as usize => {
                Err(Breach("less data than its length says"))
            }
            Op::Data => connection.take(payload, MAX_KEPT.saturating_sub(self.kept)),
            Op::CreditUpdate => Ok(()),
            Op::CreditRequest => {
                connection.owe_credit();
                Ok(())
            }
            Op::Shutdown => {
                connection.guest_ends(Shut::from_bits_truncate(header.flags.get()));
                Ok(())
            }
            Op::Reset => {
                connection.guest_ends(Shut::all());
                Ok(())
            }
        };
        self.kept = self.kept + connection.kept() - before;
        outcome?;
        if connection.guest_closed() {
            let (ports, done) = (connection.ports, connection.kept() == 0);
            if op != Op::Reset {
                self.owe_reset(ports.to_guest(self.guest, Op::Reset));
            }
            self.by_ports.remove(&ports);
            if done {
                self.remove(key);
            }
        } else {
            self.ready(key);
        }
        Ok(())
    }

    /// Sees to what the sockets are ready for.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 64];
        // What is left after some rounds keeps the descriptor readable.
        for _ in 0..MAX_CONNECTIONS / 64 {
            let (events, _) = match epoll::wait(&self.poll, &mut events, Some(&Timespec::default())) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if events.is_empty() {
                break;
            }
            for event in events {
                self.notice(event.data.u64() as usize, event.flags);
            }
        }
        Ok(())
    }

    fn notice(&mut self, key: usize, flags: epoll::EventFlags) {
        use epoll::EventFlags;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let before = connection.kept();
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        connection.notice(flags.intersects(EventFlags::IN | EventFlags::RDHUP), flags.contains(EventFlags::OUT), hung_up);
        self.kept = self.kept + connection.kept() - before;
        if connection.guest_closed() {
            if connection.kept() == 0 {
                self.remove(key);
            }
        } else if hung_up && connection.is_asking() {
            // Whoever asked does not want it any more.
            let reset = connection.ports.to_guest(self.guest, Op::Reset);
            self.owe_reset(reset);
            self.remove(key);
        } else {
            self.ready(key);
        }
    }

    fn accept(&mut self, ports: Ports, request: &Header) {
        let stream = (self.len() < MAX_CONNECTIONS || self.make_room()).then(|| self.host.connect(ports));
        if stream.is_none() {
            self.counts.refused += 1;
        }
        let accepted =
            stream.flatten().is_some_and(|fd| self.insert(Connection::accepted(request, UnixStream::from(fd))).is_ok());
        if !accepted {
            self.owe_reset(ports.to_guest(self.guest, Op::Reset));
        }
    }

    fn insert(&mut self, connection: Connection) -> io::Result<()> {
        use epoll::EventFlags;
        if self.len() >= MAX_CONNECTIONS && !self.make_room() {
            return Err(io::Error::other("too many connections"));
        }
        connection.stream().set_nonblocking(true)?;
        let ports = connection.ports;
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.poll, connection.stream(), epoll::EventData::new_u64(key as u64), flags)?;
        entry.insert(connection);
        self.by_ports.insert(ports, key);
        self.ready(key);
        Ok(())
    }

    /// Resets a connection that only waits for the guest to close its end.
    fn make_room(&mut self) -> bool {
        let over = self.connections.iter().find(|(_, connection)| connection.is_over()).map(|(key, c)| (key, c.ports));
        if let Some((key, ports)) = over {
            self.owe_reset(ports.to_guest(self.guest, Op::Reset));
            self.remove(key);
        }
        over.is_some()
    }

    fn remove(&mut self, key: usize) {
        let Some(connection) = self.connections.try_remove(key) else { return };
        self.kept -= connection.kept();
        if self.by_ports.get(&connection.ports) == Some(&key) {
            self.by_ports.remove(&connection.ports);
        }
        if connection.queued {
            self.ready.retain(|other| *other != key);
        }
    }

    fn ready(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    fn owe_reset(&mut self, reset: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        } else {
            self.counts.silent += 1;
        }
    }
}

impl AsFd for Mux {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}
