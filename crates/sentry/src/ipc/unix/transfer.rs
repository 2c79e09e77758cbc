//! Sending and receiving.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::socket::State;
use super::{Address, Core, Credentials, Kind, Message, Rights, Urgency};
use crate::Errno;
use crate::fs::File;
use crate::mm::{Sink, Source};
use crate::net::filter::{self, View};
use crate::net::options::SockFlags;
use crate::wait::PollEvents;

/// Largest piece of a stream in one message, in bytes.
const PIECE: usize = 64 << 10;

/// What goes with the bytes.
#[derive(Default)]
pub struct Outgoing {
    /// Files; taken when they are sent (with the first byte).
    pub files: Vec<Arc<File>>,
    pub credentials: Credentials,
    /// A datagram's receiver, if not the peer.
    pub to: Option<Arc<Core>>,
    /// The last byte of a stream's send is urgent.
    pub urgent: bool,
}

/// What came out of a socket.
#[derive(Default)]
pub struct Received {
    pub bytes: usize,
    /// A packet's length, of which `bytes` fitted.
    pub length: usize,
    pub files: Vec<Arc<File>>,
    pub credentials: Option<Credentials>,
    /// The sender's name, if it has one.
    pub from: Option<Arc<Address>>,
}

/// How a stream is read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    peek: bool,
    /// Bytes left out first (`SO_PEEK_OFF`).
    skip: usize,
    /// `SO_OOBINLINE`
    inline: bool,
}

impl Core {
    /// Sends as much of `from` as there is room for (packets: all of it).
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, `ENOTCONN`, `ECONNREFUSED`, `EMSGSIZE`, `EFAULT`.
    pub fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        let (target, address) = self.target(out)?;
        if self.kind != Kind::Stream {
            if from.remaining() > self.send_buffer() {
                return Err(Errno::EMSGSIZE);
            }
            return self.send_piece(&target, address, from, usize::MAX, out);
        }
        let mut sent = 0;
        loop {
            let room = self.send_buffer().saturating_sub(target.waiting.load(Ordering::Relaxed));
            let left = from.remaining();
            if left == 0 {
                return Ok(sent);
            }
            // An urgent byte is a piece of its own.
            let most = if out.urgent && left > 1 { left - 1 } else { left };
            match self.send_piece(&target, address.clone(), from, room.min(PIECE).min(most), out) {
                Ok(n) => sent += n,
                Err(_) if sent > 0 => return Ok(sent),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Where a message goes, and the sender's name for it.
    fn target(&self, out: &Outgoing) -> Result<(Arc<Core>, Option<Arc<Address>>), Errno> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.shut_send {
            return Err(Errno::EPIPE);
        }
        let target = out.to.clone().or_else(|| state.peer.clone()).ok_or(Errno::ENOTCONN)?;
        Ok((target, state.address.clone()))
    }

    fn send_piece(
        &self,
        target: &Arc<Core>,
        from_address: Option<Arc<Address>>,
        from: &mut dyn Source,
        most: usize,
        out: &mut Outgoing,
    ) -> Result<usize, Errno> {
        self.check_target(target)?;
        // Copied without a lock held; the room may be overrun a little by another sender.
        let mut bytes = vec![0; from.remaining().min(most)];
        let n = if bytes.is_empty() { 0 } else { from.take(&mut bytes)? };
        if n < bytes.len() && self.kind != Kind::Stream {
            return Err(Errno::EFAULT);
        }
        bytes.truncate(n);
        if self.kind != Kind::Stream {
            let filter = target.options.lock().filter.clone();
            if let Some(filter) = filter {
                match filter::admits(&filter, &View { bytes: &bytes, ..View::default() }) {
                    Some(kept) => bytes.truncate(kept),
                    // Tossed, and nobody is told.
                    None => return Ok(n),
                }
            }
        }
        let files = std::mem::take(&mut out.files);
        let rights = (!files.is_empty()).then(|| Rights::new(files, &self.shared.gc));
        let credentials = out.credentials;
        let last = out.urgent && from.remaining() == 0 && n == 1;
        let urgency = if last { Urgency::Urgent } else { Urgency::None };
        let message = Message { bytes: bytes.into_boxed_slice(), read: 0, rights, credentials, from: from_address, urgency };
        let mut state = target.state.lock();
        if state.closed || state.shut_receive {
            drop(state);
            return Err(if self.kind == Kind::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        target.waiting.fetch_add(n, Ordering::Relaxed);
        state.inbox.push_back(message);
        drop(state);
        let urgent = if last { PollEvents::PRI } else { PollEvents::empty() };
        target.queue.wake(PollEvents::IN | PollEvents::RDNORM | urgent);
        Ok(n)
    }

    fn check_target(&self, target: &Core) -> Result<(), Errno> {
        let state = target.state.lock();
        if self.kind == Kind::Datagram {
            if state.closed {
                return Err(Errno::ECONNREFUSED);
            }
            // A connected receiver takes from its peer only.
            if state.peer.as_ref().is_some_and(|peer| !std::ptr::eq(&**peer, self)) {
                return Err(Errno::EPERM);
            }
        }
        if state.shut_receive {
            return Err(Errno::EPIPE);
        }
        if !self.has_room(target, state.inbox.len()) {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Receives: of a stream what is there, else one packet. `peek` leaves it.
    ///
    /// # Errors
    /// `EAGAIN`; `EINVAL`, `ENOTCONN` for a socket that is not connected; the socket's pending error; `EFAULT`.
    pub fn receive(&self, into: &mut dyn Sink, peek: bool) -> Result<Received, Errno> {
        let mut state = self.state.lock();
        if self.kind != Kind::Datagram && !state.connected {
            return Err(if self.kind == Kind::Stream { Errno::EINVAL } else { Errno::ENOTCONN });
        }
        if state.inbox.is_empty() {
            return match state.error.take() {
                Some(error) => Err(error),
                None if state.shut_receive => Ok(Received::default()),
                None => Err(Errno::EAGAIN),
            };
        }
        let mut gone = Vec::new();
        let (offset, inline) = {
            let options = self.options.lock();
            (usize::try_from(options.peek_offset).ok(), options.has(SockFlags::OOBINLINE))
        };
        let skip = offset.filter(|_| peek).unwrap_or(0);
        let result = match self.kind {
            Kind::Stream => self.receive_stream(&mut state, into, Reading { peek, skip, inline }, &mut gone),
            _ => self.receive_packet(&mut state, into, peek, skip, &mut gone),
        };
        if let (Ok(received), Some(offset)) = (&result, offset) {
            let offset = if peek { offset + received.bytes } else { offset.saturating_sub(received.length) };
            self.options.lock().peek_offset = i32::try_from(offset).unwrap_or(i32::MAX);
        }
        let (peer, senders) = (state.peer.clone(), if peek { Vec::new() } else { std::mem::take(&mut state.senders) });
        drop(state);
        for sender in senders.iter().filter_map(std::sync::Weak::upgrade) {
            sender.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        drop(gone);
        if !peek && let Ok(received) = &result {
            self.waiting.fetch_sub(received.length, Ordering::Relaxed);
            // Senders of datagrams wait at the receiver, the others at themselves.
            self.queue.wake(PollEvents::OUT);
            if let Some(peer) = peer.filter(|peer| peer.writable_to(self)) {
                peer.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
            }
        }
        result
    }

    fn writable_to(&self, receiver: &Core) -> bool {
        receiver.waiting.load(Ordering::Relaxed) * 4 <= self.send_buffer()
    }

    /// Reads over the borders of messages, but not past one with files, nor (when they are asked for) to another's credentials.
    fn receive_stream(
        &self,
        state: &mut State,
        into: &mut dyn Sink,
        how: Reading,
        gone: &mut Vec<Message>,
    ) -> Result<Received, Errno> {
        let mut received = Received::default();
        let passes = self.wants_credentials();
        let Reading { peek, mut skip, inline } = how;
        let mut at = 0;
        while into.remaining() > 0
            && let Some(message) = state.inbox.get_mut(at)
        {
            let first = received.credentials.is_none();
            // At the mark: so far and no further; then past it.
            if message.urgency != Urgency::None && !(inline && message.urgency == Urgency::Urgent) {
                if !first {
                    break;
                }
                if peek {
                    at += 1;
                } else {
                    self.waiting.fetch_sub(message.rest().len(), Ordering::Relaxed);
                    gone.extend(state.inbox.pop_front());
                }
                continue;
            }
            if skip >= message.rest().len() && skip > 0 {
                skip -= message.rest().len();
                at += 1;
                continue;
            }
            if !first && passes && received.credentials != Some(message.credentials) {
                break;
            }
            let rest = message.rest().get(skip..).unwrap_or_default();
            skip = 0;
            let length = rest.len();
            let n = match into.put(rest.get(..into.remaining().min(length)).unwrap_or_default()) {
                Ok(n) => n,
                Err(_) if received.bytes > 0 => break,
                Err(errno) => return Err(errno),
            };
            received.bytes += n;
            received.credentials = Some(message.credentials);
            received.from = received.from.or_else(|| message.from.clone());
            let has_files = message.rights.is_some();
            take_files(message, &mut received, peek);
            let done = n == length;
            if !peek {
                message.read += n;
            }
            match (done, peek) {
                (true, true) => at += 1,
                (true, false) => gone.extend(state.inbox.pop_front()),
                (false, _) => break,
            }
            if has_files {
                break;
            }
        }
        received.length = received.bytes;
        // Only a mark was there, or what lies behind an offset is still to come.
        if received.credentials.is_none() && into.remaining() > 0 {
            return if state.shut_receive { Ok(received) } else { Err(Errno::EAGAIN) };
        }
        Ok(received)
    }

    /// The urgent byte (`unix_stream_recv_urg`).
    ///
    /// # Errors
    /// `EINVAL` when there is none; `EFAULT`.
    pub fn receive_urgent(&self, into: &mut dyn Sink, peek: bool) -> Result<Received, Errno> {
        if self.options.lock().has(SockFlags::OOBINLINE) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        let found = state.inbox.iter_mut().find(|message| message.urgency == Urgency::Urgent).ok_or(Errno::EINVAL)?;
        let n = into.put(found.rest())?;
        if !peek {
            found.urgency = Urgency::Mark;
        }
        Ok(Received { bytes: n, length: n, ..Received::default() })
    }

    /// Whether the next byte is urgent, or was (`SIOCATMARK`).
    pub fn at_mark(&self) -> bool {
        self.state.lock().inbox.front().is_some_and(|message| message.urgency != Urgency::None)
    }

    fn receive_packet(
        &self,
        state: &mut State,
        into: &mut dyn Sink,
        peek: bool,
        skip: usize,
        gone: &mut Vec<Message>,
    ) -> Result<Received, Errno> {
        let Some(message) = state.inbox.front_mut() else { return Err(Errno::EAGAIN) };
        let rest = message.bytes.get(skip.min(message.bytes.len())..).unwrap_or_default();
        let (fits, length) = (into.remaining().min(rest.len()), rest.len());
        let bytes = if fits == 0 { 0 } else { into.put(rest.get(..fits).unwrap_or_default())? };
        let mut received =
            Received { bytes, length, credentials: Some(message.credentials), from: message.from.clone(), files: Vec::new() };
        take_files(message, &mut received, peek);
        if !peek {
            gone.extend(state.inbox.pop_front());
        }
        Ok(received)
    }
}

fn take_files(message: &mut Message, received: &mut Received, peek: bool) {
    if peek {
        if let Some(rights) = &message.rights {
            received.files.extend(rights.files().iter().cloned());
        }
    } else if let Some(rights) = message.rights.take() {
        received.files.extend(rights.arrive());
    }
}
