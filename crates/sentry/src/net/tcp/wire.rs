//! A connection that leaves the sandbox: the socket's side of `netstack`'s [`Connection`].
//!
//! What came in order waits in the socket's ring, as on loopback; what is to be sent, in the connection. Locking: the connection before the
//! socket's state; segments are sent with the connection locked, so that they leave in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use netstack::ip::{Fault, Packet, Sent, Way};
use netstack::tcp::{Connection, Events, Failure, Flags, Phase as Wired, Segment};
use parking_lot::{Mutex, MutexGuard};

use super::table::Remains;
use super::{Phase, Progress, Tcp, Urgent, low_water};
use crate::Errno;
use crate::mm::Source;
use crate::net::address::{Endpoint, needs_scope};
use crate::net::ip::opt;
use crate::net::socket::MsgFlags;
use crate::net::stack::{Marks, Pair, Stack, mss_of};
use crate::time::{LazyTimer, MonoTime};
use crate::wait::PollEvents;

/// Room for a sender while too much waits in the namespace, and the window then.
const LITTLE: usize = 4096;
/// A connection with more memory than this for what it sends is a large one.
const LARGE: usize = 64 << 10;
const ALL: PollEvents = PollEvents::all();

/// When what comes is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledge {
    Quickly,
    Late,
}

pub(super) struct Wire {
    pub connection: Mutex<Connection>,
    pair: Pair,
    way: Way,
    marks: Mutex<Marks>,
    timer: LazyTimer,
    /// A sender waits for room.
    wants_room: AtomicBool,
    /// Bytes to be sent, and out of order, that are counted for the namespace.
    charged: AtomicUsize,
}

impl Tcp {
    pub(super) fn wire(&self) -> Option<Arc<Wire>> {
        self.state.lock().wire.clone()
    }

    /// Bytes of memory for what is to be sent.
    #[cfg(test)]
    pub(in crate::net) fn send_memory(&self) -> usize {
        self.wire().map_or(0, |wire| wire.connection.lock().capacity())
    }

    /// The part of a connection to `pair`, which has begun or is complete.
    fn new_wire(&self, pair: Pair, connection: Connection, way: Way) -> Arc<Wire> {
        Arc::new(Wire {
            connection: Mutex::new(connection),
            pair,
            way,
            marks: Mutex::new(self.marks(pair.1)),
            timer: LazyTimer::default(),
            wants_room: AtomicBool::new(false),
            charged: AtomicUsize::new(0),
        })
    }

    fn marks(&self, far: Endpoint) -> Marks {
        let ip = self.ip.lock();
        let (hops, class) = match far.ip.is_ipv4() {
            true => (ip.v4(opt::IP_TTL), ip.v4(opt::IP_TOS)),
            false => (ip.v6(opt::IPV6_UNICAST_HOPS), ip.v6(opt::IPV6_TCLASS)),
        };
        Marks { hops: hops as u8, class: class as u8 }
    }

    /// Begins to connect over the wire. The pair is the socket's already.
    pub(super) fn connect_by_wire(&self, pair: Pair, way: Way) {
        let Some(stack) = self.net.stack() else { return };
        let now = self.net.clock.monotonic();
        let connection = stack.connect(&pair, &way, self.wire_settings(), now);
        let wire = self.new_wire(pair, connection, way);
        self.state.lock().wire = Some(wire.clone());
        stack.add(pair, &self.arc());
        self.transmit(&wire, wire.connection.lock());
    }

    /// Whether a listener takes another connection.
    pub(in crate::net) fn has_room_for_connection(&self) -> bool {
        match &self.state.lock().phase {
            Phase::Listening(listener) => listener.queue.len() + listener.deferred.len() <= listener.most,
            _ => false,
        }
    }

    pub(in crate::net) fn is_listening(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Listening(_))
    }

    /// A socket for a connection that has come to this listener.
    pub(in crate::net) fn new_connection(&self, pair: Pair, connection: Connection, way: Way) -> Arc<Tcp> {
        let (mut options, ip, tcp) = (self.options.lock().clone(), self.ip.lock().clone(), self.tcp.lock().clone());
        let (near, far) = pair;
        if needs_scope(far.ip)
            && let Some(interface) = self.net.stack().and_then(|stack| stack.network.interfaces().get(way.interface))
        {
            options.device = interface.index;
        }
        let key = self.key(near.ip);
        let child = Tcp::with_options(&self.net, self.family, self.uid, options, ip, tcp);
        let wire = child.new_wire(pair, connection, way);
        let mut table = self.net.tcp.lock();
        let mut state = child.state.lock();
        state.local = near;
        state.remote = Some(far);
        state.paired = true;
        state.hold = Some(table.hold(near.port, key));
        table.add_pair(pair);
        state.phase = Phase::Connected;
        state.progress = Progress::Connected;
        state.wire = Some(wire);
        drop(state);
        drop(table);
        child.grow_buffer();
        self.net.counters.tcp_passive_opens.add(1);
        child
    }

    /// Puts a new connection into this listener's queue; it is ended if there is none any more.
    pub(in crate::net) fn queue_connection(&self, child: Arc<Tcp>) {
        let seconds = child.tcp.lock().defers_accept();
        let has_bytes = !child.state.lock().ring.is_empty();
        let shown = seconds == 0 || has_bytes;
        if !shown {
            child.defer(self, seconds);
        }
        let refused = {
            let mut state = self.state.lock();
            match &mut state.phase {
                Phase::Listening(listener) if shown => {
                    listener.queue.push_back(child);
                    None
                }
                Phase::Listening(listener) => {
                    listener.deferred.push(child);
                    None
                }
                _ => Some(child),
            }
        };
        match refused {
            Some(child) => child.abort(),
            None if shown => self.queue.wake(PollEvents::IN | PollEvents::RDNORM),
            None => {}
        }
    }

    /// Whether it takes a packet that came over an interface: it may be bound to another, or want its peer near (`IP_MINTTL`).
    pub(in crate::net) fn hears(&self, packet: &Packet<'_>, device: i32) -> bool {
        let own = self.options.lock().device;
        let least = self.ip.lock().least_hops[usize::from(packet.from.is_ipv6())];
        (own == 0 || own == device) && packet.hops >= least
    }

    /// A segment for this connection; [`Tcp::answer`] follows, after one or several.
    pub(in crate::net) fn segment_arrives(&self, segment: &Segment, payload: &[u8]) {
        let Some(wire) = self.wire() else { return };
        let now = self.net.clock.monotonic();
        let mut connection = wire.connection.lock();
        let pressed = self.net.under_pressure();
        if pressed {
            connection.set_window(LITTLE);
        }
        // Under pressure nothing more comes in where enough waits, whatever was told before: it is to be sent again.
        let full = pressed && self.state.lock().ring.len() > LITTLE;
        let dropped = full && !payload.is_empty();
        let cut;
        let (segment, payload) = if full && segment.length(payload.len()) > 0 {
            cut = Segment { flags: segment.flags - Flags::FIN, ..segment.clone() };
            (&cut, &[][..])
        } else {
            (segment, payload)
        };
        let (mut delivered, mut unwanted) = (0, false);
        let mut events = connection.arrives(now.0, segment, payload, &mut |bytes| {
            let mut state = self.state.lock();
            if state.orphan {
                unwanted = true;
            } else if let Ok(n) = state.ring.fill(&mut &*bytes, usize::MAX) {
                delivered += n;
                state.bytes_received += n as u64;
            }
        });
        self.net.charge(delivered);
        if dropped {
            // Said at once, or the peer takes us for dead (`ICSK_ACK_NOMEM`); and whoever waits for more than there is may read that.
            connection.acknowledge_now();
            events |= Events::READABLE;
        }
        if pressed && connection.out_of_order() > 0 {
            // Nobody can read it yet (`tcp_prune_ofo_queue`).
            connection.forget_out_of_order();
        }
        if events.contains(Events::ANSWER_RESET)
            && let Some(stack) = self.net.stack()
            && let Some(reset) = segment.reset_for(payload.len())
        {
            stack.send_segment(now, &wire.way, &wire.pair, reset);
        }
        if unwanted {
            // Nobody will ever read it (RFC 1122, 4.2.2.13).
            drop(connection);
            self.abort();
            return;
        }
        if events.intersects(Events::CLOSED | Events::TIME_WAIT) {
            // There will be no connection to answer.
            self.send_what_may(&wire, &mut connection);
        }
        self.happened(&wire, connection, events);
    }

    /// Sends what the segments that came have brought about.
    pub(in crate::net) fn answer(&self) {
        if let Some(wire) = self.wire() {
            self.transmit(&wire, wire.connection.lock());
        }
    }

    /// A packet of this connection's came back.
    pub(in crate::net) fn fault(&self, stack: &Stack, fault: Fault, number: u32) {
        let Some(wire) = self.wire() else { return };
        let mut connection = wire.connection.lock();
        if !connection.has_sent(number) {
            return;
        }
        if let Fault::TooLong(mtu) = fault {
            // Only now: who cannot quote the connection must not narrow the path of others.
            let to = wire.pair.1.ip;
            let mtu = stack.network.learn_path_mtu(to, mtu, self.net.clock.monotonic().0);
            connection.set_path_mss(mss_of(to, mtu));
            self.transmit(&wire, connection);
            return;
        }
        if connection.phase() != Wired::SynSent {
            // Routes heal; retransmission finds out whether this one does.
            return;
        }
        let errno = match fault {
            Fault::NetUnreachable => Errno::ENETUNREACH,
            Fault::PortUnreachable => Errno::ECONNREFUSED,
            Fault::ProtocolUnreachable => Errno::ENOPROTOOPT,
            Fault::Malformed => Errno::EPROTO,
            Fault::HostUnreachable | Fault::Prohibited | Fault::TimeExceeded | Fault::TooLong(_) => Errno::EHOSTUNREACH,
        };
        connection.abort();
        drop(connection);
        self.net.counters.tcp_attempt_fails.add(1);
        self.over(&wire, Some(errno), None);
    }

    /// Sends what may be sent, and wakes who has waited for room if there is some now.
    fn transmit(&self, wire: &Arc<Wire>, mut connection: MutexGuard<'_, Connection>) {
        self.send_what_may(wire, &mut connection);
        self.offer_room(wire, connection);
    }

    /// Wakes who waits for room, if there is some. That is done without the lock: it may end the last reference to a file.
    fn offer_room(&self, wire: &Wire, connection: MutexGuard<'_, Connection>) {
        let roomy = self.has_made_room(wire, &connection);
        drop(connection);
        if roomy {
            self.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
    }

    /// Whether somebody waits for room and is to be woken, who is not waited for afterwards.
    fn has_made_room(&self, wire: &Wire, connection: &Connection) -> bool {
        let roomy = wire.wants_room.load(Ordering::Relaxed) && self.is_writable(connection);
        if roomy {
            wire.wants_room.store(false, Ordering::Relaxed);
        }
        roomy
    }

    /// Sends what may be sent, and sees to the timer.
    fn send_what_may(&self, wire: &Arc<Wire>, connection: &mut Connection) {
        let Some(stack) = self.net.stack() else { return };
        let now = self.net.clock.monotonic();
        let marks = *wire.marks.lock();
        for _ in 0..2 {
            let mut narrow = None;
            connection.transmit(now.0, &mut |outgoing| match stack.send_tcp(now, &wire.way, &wire.pair, marks, outgoing) {
                Sent::Yes => true,
                Sent::Full => false,
                Sent::TooLong(mtu) => {
                    narrow = Some(mtu);
                    true
                }
            });
            // Another connection has found out that the path is narrower.
            let Some(mtu) = narrow else { break };
            connection.set_path_mss(mss_of(wire.pair.1.ip, mtu));
        }
        stack.watch_neighbours(&self.net);
        self.settle(wire, connection);
        self.arm(wire, connection.deadline().map(MonoTime));
    }

    /// Counts what waits to be sent, and what waits for bytes in front of it.
    fn settle(&self, wire: &Wire, connection: &mut Connection) {
        if connection.capacity() > LARGE && !self.large.load(Ordering::Relaxed) {
            // No longer one of the latest: it had bytes in it when it was to let go.
            connection.trim();
        }
        let waits = connection.unacknowledged() + connection.out_of_order();
        let before = wire.charged.swap(waits, Ordering::Relaxed);
        if waits > before {
            self.net.charge(waits - before);
        } else {
            self.net.discharge(before - waits);
        }
    }

    fn arm(&self, wire: &Arc<Wire>, deadline: Option<MonoTime>) {
        let Some(at) = deadline else { return };
        wire.timer.arm(&self.net.timers, at, || {
            let (me, wire) = (self.me.clone(), Arc::downgrade(wire));
            Arc::new(move || {
                if let (Some(socket), Some(wire)) = (me.upgrade(), wire.upgrade()) {
                    wire.timer.fired();
                    socket.due(&wire);
                }
            })
        });
    }

    /// Time has come.
    fn due(&self, wire: &Arc<Wire>) {
        let now = self.net.clock.monotonic();
        let mut connection = wire.connection.lock();
        let mut events = connection.due(now.0);
        let (probe, more) = connection.probe(now.0);
        events |= more;
        if let (Some(probe), Some(stack)) = (probe, self.net.stack()) {
            stack.send_segment(now, &wire.way, &wire.pair, probe);
        }
        self.send_what_may(wire, &mut connection);
        // What was sent may have made room.
        self.happened(wire, connection, events | Events::WRITABLE);
    }

    /// Tells the socket, and those who wait for it, what has happened.
    fn happened(&self, wire: &Arc<Wire>, connection: MutexGuard<'_, Connection>, events: Events) {
        if events.is_empty() {
            return;
        }
        let roomy = events.contains(Events::WRITABLE) && self.has_made_room(wire, &connection);
        let used_up = self.gets_no_more(&connection);
        if let Some(ahead) = events.contains(Events::URGENT).then(|| connection.urgent_ahead()).flatten() {
            // Counted from what has come so far, so that nothing more may come now: the connection is still locked.
            let mut state = self.state.lock();
            let next = state.position + state.ring.len() as u64;
            // What has been read already cannot be urgent any more.
            let at = next.checked_add_signed(ahead.into()).filter(|at| *at >= state.position);
            if let Some(at) = at {
                state.urgent = Some(Urgent { at, byte: None, read: false });
            }
        }
        let failure = connection.failure();
        let rest = events.contains(Events::TIME_WAIT).then(|| connection.time_wait());
        drop(connection);
        if events.contains(Events::CONNECTED) {
            let begun = {
                let mut state = self.state.lock();
                let begun = matches!(state.phase, Phase::Connecting);
                if begun {
                    state.phase = Phase::Connected;
                }
                begun
            };
            if begun {
                self.grow_buffer();
                self.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
            }
        }
        if events.contains(Events::READABLE) {
            let low_water = low_water(&self.options.lock());
            let (enough, deferred, urgent) = {
                let mut state = self.state.lock();
                let urgent = state.urgent_comes();
                (state.ring.len() >= low_water || used_up || urgent, state.deferred.is_some(), urgent)
            };
            if deferred {
                self.show();
            }
            if enough {
                let urgent = if urgent { PollEvents::PRI } else { PollEvents::empty() };
                self.queue.wake(PollEvents::IN | PollEvents::RDNORM | urgent);
            }
        }
        if roomy {
            self.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        if events.contains(Events::FIN) {
            {
                let mut state = self.state.lock();
                (state.fin_received, state.done, state.shut_receive) = (true, true, true);
            }
            self.show();
            self.queue.wake(PollEvents::IN | PollEvents::RDNORM | PollEvents::RDHUP | PollEvents::HUP);
        }
        if events.intersects(Events::CLOSED | Events::TIME_WAIT) {
            let errno = failure.map(|failure| match failure {
                Failure::Refused => Errno::ECONNREFUSED,
                Failure::Reset => Errno::ECONNRESET,
                Failure::TimedOut => Errno::ETIMEDOUT,
            });
            if errno.is_some() {
                self.net.counters.tcp_resets.add(1);
            }
            self.over(wire, errno, rest);
        }
    }

    /// The connection is over.
    fn over(&self, wire: &Arc<Wire>, errno: Option<Errno>, rest: Option<netstack::tcp::TimeWait>) {
        let now = self.net.clock.monotonic();
        let (hold, pair) = {
            let mut state = self.state.lock();
            if !state.wire.as_ref().is_some_and(|own| Arc::ptr_eq(own, wire)) {
                return;
            }
            state.wire = None;
            // A reset after the peer's FIN is a broken pipe (`tcp_reset`).
            state.error = match errno {
                Some(Errno::ECONNRESET) if state.fin_received && !state.fin_sent => Some(Errno::EPIPE),
                Some(errno) => Some(errno),
                None => state.error,
            };
            state.phase = Phase::Closed;
            (state.shut_receive, state.shut_send) = (true, true);
            let keeps = state.bound_port && !state.orphan && rest.is_none();
            let hold = if keeps { None } else { state.hold.take() };
            (hold, state.take_pair())
        };
        let remains = if rest.is_some() { Remains::TimeWait(now) } else { Remains::Nothing };
        self.release(hold, pair, remains);
        self.discharge_wire(wire);
        if let Some(stack) = self.net.stack() {
            stack.remove(wire.pair, rest, now);
        }
        self.queue.wake(ALL);
    }

    fn discharge_wire(&self, wire: &Wire) {
        self.net.discharge(wire.charged.swap(0, Ordering::Relaxed));
    }

    /// Ends the connection at once, with a reset. The caller has taken it out of the socket's state.
    pub(super) fn cut_wire(&self, wire: &Wire) {
        let now = self.net.clock.monotonic();
        let reset = wire.connection.lock().abort();
        self.discharge_wire(wire);
        if let Some(stack) = self.net.stack() {
            if let Some(reset) = reset {
                stack.send_segment(now, &wire.way, &wire.pair, reset);
            }
            stack.remove(wire.pair, None, now);
        }
    }

    /// Nothing will be written any more.
    pub(super) fn finish_wire(&self, wire: &Arc<Wire>) {
        let mut connection = wire.connection.lock();
        connection.finish();
        self.transmit(wire, connection);
    }

    /// The file is gone, all has been read: the connection ends by itself.
    pub(super) fn abandon_wire(&self, wire: &Arc<Wire>) {
        let now = self.net.clock.monotonic();
        let mut connection = wire.connection.lock();
        connection.finish();
        connection.abandon(now.0);
        self.transmit(wire, connection);
    }

    /// Takes bytes to be sent.
    pub(super) fn send_by_wire(&self, wire: &Arc<Wire>, from: &mut dyn Source, flags: MsgFlags) -> Result<usize, Errno> {
        let send_buffer = self.options.lock().send_buffer;
        let most = if self.net.under_pressure() { send_buffer.min(LITTLE) } else { send_buffer };
        let mut connection = wire.connection.lock();
        if !connection.may_write() {
            return Err(Errno::EPIPE);
        }
        let wanted = from.remaining();
        let unsent = connection.unsent();
        let most = if unsent < self.tcp.lock().most_unsent { most } else { 0 };
        let room = most.saturating_sub(connection.unacknowledged()).min(wanted);
        let mut done = 0;
        while done < room {
            match from.take(connection.spare(room - done)) {
                Ok(0) => break,
                Ok(n) => {
                    connection.written(n);
                    done += n;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if done < wanted {
            wire.wants_room.store(true, Ordering::Relaxed);
        }
        if done == 0 {
            return Err(Errno::EAGAIN);
        }
        connection.set_more(flags.contains(MsgFlags::MORE));
        if flags.contains(MsgFlags::OOB) && done == wanted {
            connection.mark_urgent();
        }
        self.send_what_may(wire, &mut connection);
        let large = connection.capacity() > LARGE;
        self.offer_room(wire, connection);
        if large {
            self.keep_large();
        }
        self.net.counters.tcp_segments.add(1);
        Ok(done)
    }

    /// `bytes` have been read: the window may open.
    pub(super) fn read_from_wire(&self, wire: &Arc<Wire>, bytes: usize) {
        let mut connection = wire.connection.lock();
        if !self.net.under_pressure() && connection.settings().window == LITTLE {
            connection.set(self.wire_settings());
            // The peer may have been told of a small window, or that something was not taken.
            connection.acknowledge_now();
        }
        if connection.read(bytes) {
            self.transmit(wire, connection);
        }
    }

    /// Whether there is room to send; who waits for it is woken when there is.
    pub(super) fn wire_is_writable(&self, wire: &Wire) -> bool {
        let connection = wire.connection.lock();
        let writable = self.is_writable(&connection);
        if !writable {
            wire.wants_room.store(true, Ordering::Relaxed);
        }
        writable
    }

    /// Whether nothing more comes before something is read, so that who waits for more must read what is there (`tcp_stream_is_readable`).
    pub(super) fn wire_gets_no_more(&self, wire: &Wire) -> bool {
        self.gets_no_more(&wire.connection.lock())
    }

    fn gets_no_more(&self, connection: &Connection) -> bool {
        self.net.under_pressure() || connection.is_window_used_up()
    }

    /// `sk_stream_is_writeable`: at least a third of the buffer is free, and not too much has never been sent.
    fn is_writable(&self, connection: &Connection) -> bool {
        let (send_buffer, used) = (self.options.lock().send_buffer, connection.unacknowledged());
        let roomy = used < send_buffer && (send_buffer - used) * 2 >= used;
        roomy && connection.unsent() < self.tcp.lock().most_unsent
    }

    /// `TCP_QUICKACK`
    pub(super) fn acknowledge(&self, when: Acknowledge) {
        let Some(wire) = self.wire() else { return };
        let mut connection = wire.connection.lock();
        match when {
            Acknowledge::Quickly => connection.acknowledge_quickly(),
            Acknowledge::Late => connection.acknowledge_late(),
        }
        self.transmit(&wire, connection);
    }

    /// Options have changed.
    pub(in crate::net) fn options_changed(&self) {
        let Some(wire) = self.wire() else { return };
        let settings = self.wire_settings();
        *wire.marks.lock() = self.marks(wire.pair.1);
        let mut connection = wire.connection.lock();
        if *connection.settings() != settings {
            connection.set(settings);
            self.send_what_may(&wire, &mut connection);
        }
        // By another TCP_NOTSENT_LOWAT, too.
        self.offer_room(&wire, connection);
    }

    /// The state as Linux numbers it.
    pub(super) fn wire_state_number(&self, wire: &Wire) -> u8 {
        match wire.connection.lock().phase() {
            Wired::Established => 1,
            Wired::SynSent => 2,
            Wired::SynReceived => 3,
            Wired::FinWait1 => 4,
            Wired::FinWait2 => 5,
            Wired::TimeWait => 6,
            Wired::Closed => 7,
            Wired::CloseWait => 8,
            Wired::LastAck => 9,
            Wired::Closing => 11,
        }
    }
}
