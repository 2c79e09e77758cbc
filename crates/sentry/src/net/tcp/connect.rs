//! From a name to a connection, and to its end.

use std::sync::Arc;

use super::options::buffer;
use super::table::Remains;
use super::{Deferred, Listener, Phase, Progress, State, Tcp};
use crate::Errno;
use crate::net::address::{Endpoint, needs_scope};
use crate::net::namespace::{AddressKind, to_loopback};
use crate::net::options::SockFlags;
use crate::net::ports::{BindRules, bind_scope, check_bind};
use crate::net::socket::Shutdown;
use crate::task::Cx;
use crate::wait::PollEvents;

const ALL: PollEvents = PollEvents::all();

impl Tcp {
    pub(super) fn bind_to(&self, cx: &Cx, address: &[u8]) -> Result<(), Errno> {
        let rules = {
            let ip = self.ip.lock();
            BindRules { only_v6: ip.only_v6, free_bind: ip.free_bind, stream: true, ports: true }
        };
        let device = bind_scope(&self.net, self.family, address, rules, self.options.lock().device)?;
        let at = check_bind(cx, &self.net, self.family, address, rules)?;
        self.options.lock().device = device;
        let mut table = self.net.tcp.lock();
        {
            let state = self.state.lock();
            if !matches!(state.phase, Phase::Closed) || state.hold.is_some() || state.local.port != 0 {
                return Err(Errno::EINVAL);
            }
        }
        let port = table.bind(self.id, at.port, self.claim(at.ip), self.net.clock.monotonic())?;
        let mut state = self.state.lock();
        state.local = Endpoint::new(at.ip, port);
        state.bound_ip = !at.ip.is_unspecified();
        state.bound_port = at.port != 0;
        state.hold = Some(super::Hold::Bound(port));
        drop(state);
        self.ip.lock().bound_to(at.ip);
        Ok(())
    }

    pub(in crate::net) fn start_listening(&self, backlog: i32) -> Result<(), Errno> {
        let most = self.net.backlog(backlog);
        let mut table = self.net.tcp.lock();
        let (hold, ip) = {
            let mut state = self.state.lock();
            if state.progress != Progress::None {
                return Err(Errno::EINVAL);
            }
            match &mut state.phase {
                Phase::Listening(listener) => {
                    listener.most = most;
                    return Ok(());
                }
                Phase::Closed => {}
                _ => return Err(Errno::EINVAL),
            }
            (state.hold, state.local.ip)
        };
        let port = match hold {
            Some(super::Hold::Bound(port)) => port,
            _ => table.bind(self.id, 0, self.claim(ip), self.net.clock.monotonic())?,
        };
        table.listen(port, self.id, &self.arc())?;
        let mut state = self.state.lock();
        state.hold = Some(super::Hold::Bound(port));
        state.local.port = port;
        (state.shut_receive, state.shut_send) = (false, false);
        state.phase = Phase::Listening(Listener { most, ..Listener::default() });
        Ok(())
    }

    /// Begins a connection: afterwards it is there, refused (an error waits), or waits for room in the listener's queue.
    pub(in crate::net) fn begin_connect(&self, to: Endpoint) -> Result<(), Errno> {
        let to = Endpoint::new(to_loopback(to.ip), to.port);
        let device = self.options.lock().device;
        let (source, way) = match self.net.address_kind(to.ip) {
            AddressKind::Foreign => {
                let way = self.net.way(to.ip, device)?;
                (way.source, Some(way))
            }
            _ => (self.net.route(to.ip)?, None),
        };
        let own = self.state.lock().local.ip;
        if matches!(self.net.address_kind(own), AddressKind::Local | AddressKind::Foreign) {
            let transparent = self.ip.lock().transparent;
            self.net.check_source(own, to.ip, transparent)?;
        }
        let now = self.net.clock.monotonic();
        let key = self.key(source);
        let mut table = self.net.tcp.lock();
        let listener = if way.is_none() { table.listener(to, self.net.local_device(to.ip, device)) } else { None };
        let pair;
        {
            let mut state = self.state.lock();
            let ip = if state.local.ip.is_unspecified() { source } else { state.local.ip };
            let port = match state.hold {
                Some(_) => state.local.port,
                None => {
                    let port = table.choose_port(ip, to, now)?;
                    state.hold = Some(table.hold(port, super::Key { ip, ..key }));
                    port
                }
            };
            let local = Endpoint::new(ip, port);
            if !table.pair_is_free((local, to), now) {
                return Err(Errno::EADDRNOTAVAIL);
            }
            table.add_pair((local, to));
            pair = (local, to);
            *state = State {
                local,
                bound_ip: state.bound_ip,
                bound_port: state.bound_port,
                hold: state.hold,
                remote: Some(to),
                paired: true,
                phase: Phase::Connecting,
                progress: Progress::Connecting,
                ..State::new(self.family)
            };
        }
        self.net.counters.tcp_active_opens.add(1);
        if let Some(way) = way {
            drop(table);
            self.connect_by_wire(pair, way);
            return Ok(());
        }
        let mut woken = None;
        match listener {
            Some(listener) => {
                if listener.admit(&self.arc(), &mut table) {
                    woken = Some(listener);
                }
            }
            None => self.connect_itself_or_fail(),
        }
        drop(table);
        if let Some(listener) = woken {
            listener.queue.wake(PollEvents::IN | PollEvents::RDNORM);
        }
        if !matches!(self.state.lock().phase, Phase::Connecting) {
            self.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        Ok(())
    }

    /// Nobody listens: the socket may be its own peer (both SYNs cross), else it is refused.
    fn connect_itself_or_fail(&self) {
        let mut state = self.state.lock();
        if state.remote == Some(state.local) {
            state.phase = Phase::Connected;
            state.peer = Some(self.arc());
            drop(state);
            self.grow_buffer();
        } else {
            state.refuse();
            self.net.counters.tcp_attempt_fails.add(1);
        }
    }

    /// Puts a connection for `client` into this listener's queue; `client` waits when it is full, and is refused when there is none. Says
    /// whether there is something new to accept.
    fn admit(&self, client: &Arc<Tcp>, table: &mut super::Table) -> bool {
        let (mut options, ip, tcp) = (self.options.lock().clone(), self.ip.lock().clone(), self.tcp.lock().clone());
        let device = client.options.lock().device;
        let key_flags = (options.has(SockFlags::REUSEADDR), options.has(SockFlags::REUSEPORT));
        let mut own = self.state.lock();
        let mut theirs = client.state.lock();
        if !matches!(theirs.phase, Phase::Connecting) {
            return false;
        }
        let (Phase::Listening(listener), Some(near)) = (&mut own.phase, theirs.remote) else {
            theirs.refuse();
            return false;
        };
        if listener.queue.len() + listener.deferred.len() > listener.most {
            listener.pending.push_back(Arc::downgrade(client));
            return false;
        }
        if needs_scope(near.ip) {
            options.device = device;
        }
        let child = Tcp::with_options(&self.net, self.family, self.uid, options, ip, tcp);
        {
            let mut state = child.state.lock();
            state.local = near;
            state.remote = Some(theirs.local);
            state.paired = true;
            state.hold = Some(table.hold(near.port, super::Key { ip: near.ip, reuse: key_flags.0, reuse_port: key_flags.1 }));
            table.add_pair((near, theirs.local));
            state.phase = Phase::Connected;
            state.progress = Progress::Connected;
            state.peer = Some(client.clone());
        }
        child.grow_buffer();
        client.grow_buffer();
        theirs.phase = Phase::Connected;
        theirs.peer = Some(child.clone());
        let seconds = child.tcp.lock().defers_accept();
        let shown = seconds == 0;
        if shown {
            listener.queue.push_back(child);
        } else {
            child.defer(self, seconds);
            listener.deferred.push(child);
        }
        self.net.counters.tcp_passive_opens.add(1);
        self.net.counters.packets.add(3);
        self.net.counters.bytes.add(180);
        shown
    }

    /// Is shown to those who accept at the latest after `seconds`.
    pub(super) fn defer(&self, listener: &Tcp, seconds: i32) {
        let me = self.me.clone();
        let show = move || {
            if let Some(child) = me.upgrade() {
                child.show();
            }
        };
        let deadline = self.net.clock.monotonic().after(u64::from(seconds.unsigned_abs()) * 1_000_000_000);
        let timer = self.net.timers.arm(deadline, Arc::new(show));
        self.state.lock().deferred = Some(Deferred { listener: listener.me.clone(), _timer: timer });
    }

    /// Shows a deferred connection to those who accept.
    pub(super) fn show(&self) {
        let Some(deferred) = self.state.lock().deferred.take() else { return };
        let Some(listener) = deferred.listener.upgrade() else { return };
        {
            let mut state = listener.state.lock();
            let Phase::Listening(list) = &mut state.phase else { return };
            let Some(at) = list.deferred.iter().position(|child| child.id == self.id) else { return };
            let child = list.deferred.swap_remove(at);
            list.queue.push_back(child);
        }
        listener.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }

    pub(super) fn grow_buffer(&self) {
        let mut options = self.options.lock();
        if !options.has(SockFlags::SNDBUF_LOCK) {
            (_, options.send_buffer) = buffer(self.net.tcp_values().send);
        }
    }

    /// Takes a connection off the queue.
    pub(super) fn take_connection(&self) -> Result<Arc<Tcp>, Errno> {
        let (child, pending) = {
            let mut state = self.state.lock();
            let Phase::Listening(listener) = &mut state.phase else { return Err(Errno::EINVAL) };
            let child = listener.queue.pop_front().ok_or(Errno::EAGAIN)?;
            (child, listener.pending.pop_front())
        };
        let mut waiting = pending;
        while let Some(client) = waiting.take() {
            match client.upgrade() {
                Some(client) => {
                    let admitted = self.admit(&client, &mut self.net.tcp.lock());
                    client.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
                    if admitted {
                        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
                    }
                }
                // It has gone: its place is another's.
                None => {
                    if let Phase::Listening(listener) = &mut self.state.lock().phase {
                        waiting = listener.pending.pop_front();
                    }
                }
            }
        }
        Ok(child)
    }

    /// The last step of connect, when it is no longer in progress.
    pub(in crate::net) fn finish_connect(&self) -> Option<Result<(), Errno>> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Connecting => None,
            Phase::Connected => {
                state.progress = Progress::Connected;
                Some(Ok(()))
            }
            _ => {
                // A connection that came and went before anybody looked has been one.
                let errno = state.error.take().unwrap_or(Errno::ECONNABORTED);
                drop(state);
                self.disconnect();
                Some(Err(errno))
            }
        }
    }

    /// `tcp_disconnect`: a fresh socket again, but for what bind gave it.
    pub(super) fn disconnect(&self) {
        self.stop_listening();
        let (peer, wire, hold, pair) = {
            let mut state = self.state.lock();
            let (peer, wire) = (state.peer.take(), state.wire.take());
            let pair = state.take_pair();
            let keep = state.bound_port;
            let hold = if keep { None } else { state.hold.take() };
            self.net.discharge(state.ring.len());
            // A connection that is cut short by its own side is an error too.
            let cut = matches!(state.phase, Phase::Connected | Phase::Connecting);
            let ip = if state.bound_ip { state.local.ip } else { self.family.unspecified() };
            let port = if keep { state.local.port } else { 0 };
            *state = State {
                local: Endpoint::new(ip, port),
                bound_ip: state.bound_ip,
                bound_port: keep,
                hold: state.hold,
                orphan: state.orphan,
                error: cut.then_some(Errno::ECONNRESET),
                ..State::new(self.family)
            };
            (peer, wire, hold, pair)
        };
        self.release(hold, pair, Remains::Nothing);
        if let Some(peer) = peer {
            peer.reset();
        }
        if let Some(wire) = wire {
            self.cut_wire(&wire);
        }
        self.queue.wake(ALL);
    }

    /// Stops listening, if it does: waiting connections are reset.
    fn stop_listening(&self) {
        let listener = {
            let mut table = self.net.tcp.lock();
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Listening(_)) {
                return;
            }
            table.stop_listening(state.local.port, self.id);
            match std::mem::replace(&mut state.phase, Phase::Closed) {
                Phase::Listening(listener) => listener,
                _ => return,
            }
        };
        for child in listener.queue.into_iter().chain(listener.deferred) {
            child.abort();
        }
        for client in listener.pending.iter().filter_map(std::sync::Weak::upgrade) {
            client.reset();
        }
    }

    /// Ends a connection at once: the peer is reset.
    pub(super) fn abort(&self) {
        let (peer, wire, hold, pair) = {
            let mut state = self.state.lock();
            state.orphan = true;
            state.phase = Phase::Closed;
            let pair = state.take_pair();
            (state.peer.take(), state.wire.take(), state.hold.take(), pair)
        };
        self.release(hold, pair, Remains::Nothing);
        if let Some(peer) = peer {
            peer.reset();
        }
        if let Some(wire) = wire {
            self.cut_wire(&wire);
        }
    }

    /// A RST came (`tcp_reset`).
    pub(super) fn reset(&self) {
        self.net.counters.tcp_resets.add(1);
        let (hold, pair, link) = {
            let mut state = self.state.lock();
            state.error = match state.phase {
                Phase::Connecting => Some(Errno::ECONNREFUSED),
                Phase::Connected if state.fin_received && !state.fin_sent => Some(Errno::EPIPE),
                Phase::Connected => Some(Errno::ECONNRESET),
                _ => return,
            };
            state.phase = Phase::Closed;
            (state.shut_receive, state.shut_send) = (true, true);
            let hold = if state.bound_port && !state.orphan { None } else { state.hold.take() };
            let pair = state.take_pair();
            (hold, pair, state.peer.take())
        };
        self.release(hold, pair, Remains::Nothing);
        drop(link);
        self.queue.wake(ALL);
    }

    /// The peer's FIN came.
    pub(super) fn fin_arrives(&self) {
        let over = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Connected) {
                return;
            }
            state.fin_received = true;
            state.done = true;
            state.shut_receive = true;
            state.fin_sent
        };
        self.show();
        if over {
            self.both_fins();
        }
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM | PollEvents::RDHUP | PollEvents::HUP);
    }

    /// Sends the FIN, once.
    fn send_fin(&self) {
        let (peer, wire, over) = {
            let mut state = self.state.lock();
            state.shut_send = true;
            if state.fin_sent || !matches!(state.phase, Phase::Connected) {
                return;
            }
            state.fin_sent = true;
            state.fin_first = !state.fin_received;
            (state.peer.clone(), state.wire.clone(), state.fin_received)
        };
        if let Some(wire) = wire {
            self.finish_wire(&wire);
            return;
        }
        self.net.counters.packets.add(2);
        self.net.counters.bytes.add(104);
        if let Some(peer) = peer {
            peer.fin_arrives();
        }
        if over {
            self.both_fins();
        }
    }

    /// Both sides have sent a FIN: the one that was first is in TIME_WAIT.
    fn both_fins(&self) {
        let (hold, pair, remains, link) = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Connected) {
                return;
            }
            state.phase = Phase::Closed;
            (state.shut_receive, state.shut_send) = (true, true);
            let remains = if state.fin_first { Remains::TimeWait(self.net.clock.monotonic()) } else { Remains::Nothing };
            let hold = if state.bound_port && !state.orphan && remains == Remains::Nothing { None } else { state.hold.take() };
            (hold, state.take_pair(), remains, state.peer.take())
        };
        self.release(hold, pair, remains);
        drop(link);
        self.queue.wake(ALL);
    }

    pub(super) fn shut(&self, what: Shutdown) -> Result<(), Errno> {
        enum Case {
            Closed,
            Listening,
            Connecting,
            Connected,
        }
        let case = {
            let mut state = self.state.lock();
            let case = match state.phase {
                Phase::Closed => Case::Closed,
                Phase::Listening(_) => Case::Listening,
                Phase::Connecting => Case::Connecting,
                Phase::Connected => Case::Connected,
            };
            if matches!(case, Case::Connected | Case::Closed) {
                state.shut_receive |= what.receive;
                state.shut_send |= what.send;
            }
            case
        };
        match case {
            Case::Closed => {
                self.queue.wake(ALL);
                return Err(Errno::ENOTCONN);
            }
            Case::Listening if !what.receive => {}
            Case::Listening | Case::Connecting => self.disconnect(),
            Case::Connected if what.send => self.send_fin(),
            Case::Connected => {}
        }
        self.queue.wake(ALL);
        Ok(())
    }

    /// The file is gone.
    pub(super) fn close_socket(&self) {
        self.stop_listening();
        let lingers_not = self.options.lock().linger == (true, 0);
        let (connected, unread) = {
            let mut state = self.state.lock();
            state.orphan = true;
            if matches!(state.phase, Phase::Connecting) {
                state.phase = Phase::Closed;
            }
            (matches!(state.phase, Phase::Connected), !state.ring.is_empty())
        };
        if let Some(wire) = self.wire()
            && connected
            && !unread
            && !lingers_not
        {
            self.state.lock().fin_sent = true;
            self.abandon_wire(&wire);
            return;
        }
        if connected && (unread || lingers_not) {
            self.abort();
        } else if connected {
            self.send_fin();
        }
        // What is left: a claim on a port; or this side of a connection whose peer has not closed (FIN_WAIT2).
        let (hold, pair, remains, link) = {
            let mut state = self.state.lock();
            let waits = matches!(state.phase, Phase::Connected) && state.fin_first;
            let remains = if waits { Remains::TimeWait(self.net.clock.monotonic()) } else { Remains::Nothing };
            let pair = state.take_pair();
            (state.hold.take(), pair, remains, (state.peer.take(), state.wire.take()))
        };
        self.release(hold, pair, remains);
        // A connection that was still being made.
        if let Some(wire) = &link.1 {
            self.cut_wire(wire);
        }
        drop(link);
        self.queue.wake(ALL);
    }
}

impl State {
    /// Connecting has failed.
    fn refuse(&mut self) {
        self.phase = Phase::Closed;
        self.error = Some(Errno::ECONNREFUSED);
        (self.shut_receive, self.shut_send) = (true, true);
    }
}
