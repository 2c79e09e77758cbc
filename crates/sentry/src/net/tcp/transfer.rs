//! Bytes: one copy from the sender's memory into the receiver's ring, one out of it.

use std::sync::atomic::Ordering;

use super::options::INQ;
use super::{Phase, State, Tcp, Urgent, low_water};
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::IPPROTO_TCP;
use crate::net::options::SockFlags;
use crate::net::socket::{Control, MsgFlags, Received};
use crate::wait::PollEvents;

/// An empty ring keeps this much memory in bytes, more in the sockets of [`LARGE`] only.
const KEEP: usize = 64 << 10;
/// So many sockets of a namespace keep what they have, the latest: to take it anew for each burst costs more than to move the bytes.
const LARGE: usize = 32;
/// Room for a sender while too much waits in the namespace.
const LITTLE: usize = 4096;

/// What became of bytes at the peer.
enum Delivered {
    Bytes(usize),
    /// It receives no more: a RST comes back.
    Refused,
}

impl State {
    /// Looks whether the urgent byte is among those that have come. True: it is, and was not before.
    pub(super) fn urgent_comes(&mut self) -> bool {
        let Some(urgent) = &mut self.urgent else { return false };
        let ahead = urgent.at.checked_sub(self.position).and_then(|ahead| usize::try_from(ahead).ok());
        let Some(ahead) = ahead.filter(|ahead| urgent.byte.is_none() && *ahead < self.ring.len()) else { return false };
        let mut byte: Vec<u8> = Vec::with_capacity(1);
        let _ = self.ring.copy_out_from(ahead, &mut byte, 1);
        urgent.byte = byte.first().copied();
        urgent.byte.is_some()
    }
}

impl Tcp {
    /// Its buffers have become large. Called without a lock.
    pub(super) fn keep_large(&self) {
        if self.large.swap(true, Ordering::Relaxed) {
            return;
        }
        let oldest = {
            let mut large = self.net.large.lock();
            large.push_back(self.me.clone());
            if large.len() > LARGE { large.pop_front() } else { None }
        };
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
            oldest.let_go();
        }
    }

    /// Gives back what its empty buffers keep.
    fn let_go(&self) {
        self.large.store(false, Ordering::Relaxed);
        let wire = {
            let mut state = self.state.lock();
            state.ring.trim(KEEP);
            state.wire.clone()
        };
        if let Some(wire) = wire {
            wire.connection.lock().trim();
        }
    }

    pub(super) fn send_bytes(&self, from: &mut dyn Source, flags: MsgFlags) -> Result<usize, Errno> {
        let peer = {
            let mut state = self.state.lock();
            if matches!(state.phase, Phase::Connecting) {
                return Err(Errno::EAGAIN);
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let connected = matches!(state.phase, Phase::Connected) && !state.shut_send;
            if let Some(wire) = state.wire.clone().filter(|_| connected) {
                drop(state);
                if from.remaining() == 0 {
                    return Ok(0);
                }
                let sent = self.send_by_wire(&wire, from, flags)?;
                self.state.lock().bytes_sent += sent as u64;
                return Ok(sent);
            }
            state.peer.clone().filter(|_| connected).ok_or(Errno::EPIPE)?
        };
        let wanted = from.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let send_buffer = self.options.lock().send_buffer;
        match peer.deliver(from, send_buffer, flags.contains(MsgFlags::OOB))? {
            Delivered::Bytes(0) => Err(Errno::EAGAIN),
            Delivered::Bytes(n) => {
                self.state.lock().bytes_sent += n as u64;
                let counters = &self.net.counters;
                counters.tcp_segments.add(1);
                counters.packets.add(1);
                counters.bytes.add(n as u64 + 52);
                Ok(n)
            }
            Delivered::Refused => {
                self.reset();
                // The first write after the peer has gone succeeds.
                Ok(wanted)
            }
        }
    }

    /// Takes bytes in from the peer.
    fn deliver(&self, from: &mut dyn Source, send_buffer: usize, urgent: bool) -> Result<Delivered, Errno> {
        let (receive_buffer, low_water) = {
            let options = self.options.lock();
            (options.receive_buffer, low_water(&options))
        };
        let mut state = self.state.lock();
        if state.orphan || (state.fin_sent && state.shut_receive) || matches!(state.phase, Phase::Closed) {
            let alive = !state.orphan;
            drop(state);
            if alive {
                self.reset();
            }
            return Ok(Delivered::Refused);
        }
        let mut room = state.room(receive_buffer, send_buffer);
        if self.net.under_pressure() {
            room = room.min(LITTLE.saturating_sub(state.ring.len()));
        }
        let wanted = from.remaining();
        let n = state.ring.fill(from, room)?;
        if n < wanted {
            state.sender_waits = Some(send_buffer);
        }
        if n == 0 {
            return Ok(Delivered::Bytes(0));
        }
        state.bytes_received += n as u64;
        let mut events = PollEvents::IN | PollEvents::RDNORM;
        if urgent && n == wanted {
            let at = state.position + state.ring.len() as u64 - 1;
            state.urgent = Some(Urgent { at, byte: None, read: false });
            state.urgent_comes();
            events |= PollEvents::PRI;
        }
        let deferred = state.deferred.is_some();
        let enough = state.ring.len() >= low_water || urgent;
        drop(state);
        self.net.charge(n);
        if deferred {
            self.show();
        }
        if enough {
            self.queue.wake(events);
        }
        Ok(Delivered::Bytes(n))
    }

    pub(super) fn receive_bytes(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        if flags.contains(MsgFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        if flags.contains(MsgFlags::OOB) {
            return self.receive_urgent(into, flags);
        }
        let (inline, receive_buffer) = {
            let options = self.options.lock();
            (options.has(SockFlags::OOBINLINE), options.receive_buffer)
        };
        let peek = flags.contains(MsgFlags::PEEK);
        let mut state = self.state.lock();
        let mut wanted = into.remaining();
        // At the urgent byte: it is no part of the stream, unless asked for. Before it: so far and no further.
        let mut start = 0;
        if let Some(urgent) = state.urgent {
            match urgent.at.checked_sub(state.position) {
                Some(0) if !inline && wanted > 0 && state.ring.len() > 1 => {
                    if peek {
                        start = 1;
                    } else {
                        state.ring.skip(1);
                        state.position += 1;
                        state.urgent = None;
                        self.net.discharge(1);
                    }
                }
                Some(0) if !inline => wanted = 0,
                Some(0) | None => {}
                Some(before) => wanted = wanted.min(usize::try_from(before).unwrap_or(usize::MAX)),
            }
        }
        let available = state.ring.len().saturating_sub(start);
        let at_mark = wanted == 0 && into.remaining() > 0;
        if available > 0 && !at_mark {
            if into.remaining() == 0 {
                return Ok(Received::default());
            }
            let n = match (peek, flags.contains(MsgFlags::TRUNC)) {
                (_, true) => wanted.min(available),
                (true, false) => state.ring.copy_out_from(start, into, wanted)?,
                (false, false) => state.ring.copy_out(into, wanted)?,
            };
            if !peek {
                state.ring.skip(n);
                state.position += n as u64;
                if state.urgent.is_some_and(|urgent| urgent.at < state.position) {
                    state.urgent = None;
                }
                let large = state.ring.memory() > KEEP;
                let waiting = state.sender_waits.filter(|&buffer| state.writable(receive_buffer, buffer));
                let sender = waiting.and_then(|_| state.peer.clone());
                if sender.is_some() {
                    state.sender_waits = None;
                }
                let wire = state.wire.clone();
                drop(state);
                if large {
                    self.keep_large();
                }
                self.net.discharge(n);
                if let Some(wire) = wire {
                    self.read_from_wire(&wire, n);
                }
                if let Some(sender) = sender {
                    sender.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
                }
            } else {
                drop(state);
            }
            let mut received = Received { bytes: n, length: n, ..Received::default() };
            if self.tcp.lock().tells_queue() {
                // TCP_INQ: what is still there.
                received.controls.push(Control::new(IPPROTO_TCP, INQ, &(self.readable_bytes() as i32).to_le_bytes()));
            }
            return Ok(received);
        }
        if matches!(state.phase, Phase::Listening(_)) {
            return Err(Errno::ENOTCONN);
        }
        if state.done {
            return Ok(Received::default());
        }
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.shut_receive {
            return Ok(Received::default());
        }
        match state.phase {
            Phase::Closed => Err(Errno::ENOTCONN),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// `tcp_recv_urg`.
    fn receive_urgent(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        let inline = self.options.lock().has(SockFlags::OOBINLINE);
        let mut state = self.state.lock();
        let urgent = state.urgent.filter(|urgent| !inline && !urgent.read).ok_or(Errno::EINVAL)?;
        let Some(byte) = urgent.byte else { return Err(Errno::EAGAIN) };
        if matches!(state.phase, Phase::Closed) && !state.done {
            return Err(Errno::ENOTCONN);
        }
        if !flags.contains(MsgFlags::PEEK)
            && let Some(urgent) = &mut state.urgent
        {
            urgent.read = true;
        }
        drop(state);
        let n = if into.remaining() > 0 { into.put(&[byte])? } else { 0 };
        let mut flags = MsgFlags::OOB;
        flags.set(MsgFlags::TRUNC, n == 0);
        Ok(Received { bytes: n, length: n, flags, ..Received::default() })
    }

    /// Bytes to be read (`FIONREAD`), without an urgent one that is not in line.
    pub(super) fn readable_bytes(&self) -> usize {
        let inline = self.options.lock().has(SockFlags::OOBINLINE);
        let state = self.state.lock();
        match state.urgent.filter(|_| !inline).and_then(|urgent| urgent.at.checked_sub(state.position)) {
            None => state.ring.len(),
            Some(0) => state.ring.len().saturating_sub(1),
            Some(before) => state.ring.len().min(before as usize),
        }
    }

    /// Bytes sent that the peer's receive buffer has not taken (`SIOCOUTQ`).
    pub(in crate::net) fn unsent_bytes(&self) -> usize {
        let (peer, wire) = {
            let state = self.state.lock();
            (state.peer.clone(), state.wire.clone())
        };
        if let Some(wire) = wire {
            return wire.connection.lock().unacknowledged();
        }
        peer.map_or(0, |peer| {
            let receive_buffer = peer.options.lock().receive_buffer;
            peer.state.lock().ring.len().saturating_sub(receive_buffer)
        })
    }

    /// Whether the next byte is the urgent one (`SIOCATMARK`).
    pub(super) fn at_mark(&self) -> bool {
        let state = self.state.lock();
        state.urgent.is_some_and(|urgent| urgent.at == state.position)
    }
}
