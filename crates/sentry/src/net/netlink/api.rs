//! A netlink socket as the system calls see it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{AF_NETLINK, Asker, NETLINK_ROUTE, NETLINK_SOCK_DIAG, Netlink, answer, parse};
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::address::{AF_UNSPEC, array, family_of};
use crate::net::filter::View;
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SocketOptions, int, so};
use crate::net::socket::{
    AddressBytes, Control, End, Kind, MsgFlags, OptionBytes, Outgoing, Received, Shutdown, Socket, Target, Waiting,
};
use crate::net::{filter, ifreq};
use crate::step::Step;
use crate::syscalls::{Fail, Flow};
use crate::task::{Capability, Cx};
use crate::wait::{PollEvents, WaitQueue};

const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const PKTINFO: i32 = 3;
const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const GET_STRICT_CHK: i32 = 12;
/// Options that are on or off: PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
const BOOLEANS: [i32; 7] = [PKTINFO, 4, 5, 8, CAP_ACK, 11, GET_STRICT_CHK];
/// Bytes of memory that a datagram takes beside its own.
const OVERHEAD: usize = 512;
/// The sender may be told by flag whether it was privileged when it sent.
const ADMIN: u32 = 1 << 31;

/// What a datagram takes of the receive buffer: memory of its own beside its bytes, so that many small ones are not for nothing.
fn cost(datagram: &[u8]) -> usize {
    datagram.len() + OVERHEAD
}

fn address(port: u32, groups: u32) -> AddressBytes {
    let mut bytes: AddressBytes = SmallVec::from_slice(&AF_NETLINK.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&groups.to_le_bytes());
    bytes
}

/// The port and groups of a `sockaddr_nl`.
fn decode(bytes: &[u8]) -> Result<(u32, u32), Errno> {
    if bytes.len() < 12 || family_of(bytes)? != AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| array(bytes, at).map(u32::from_le_bytes).ok_or(Errno::EINVAL);
    Ok((word(4)?, word(8)?))
}

impl Netlink {
    fn bind_to(&self, cx: &Cx, port: u32, groups: u32) -> Result<(), Errno> {
        let mut table = self.net.netlink.lock();
        let own = self.state.lock().port;
        if own != 0 {
            if port != own {
                return Err(Errno::EINVAL);
            }
        } else {
            let port = table.bind(self, port, cx.local(cx.task.tgid()) as u32)?;
            self.state.lock().port = port;
        }
        self.state.lock().groups = groups;
        Ok(())
    }

    fn has(&self, option: i32) -> bool {
        self.state.lock().flags & (1 << option) != 0
    }

    /// A datagram of another socket's, or of the kernel's.
    pub(crate) fn queue_up(&self, datagram: Vec<u8>) {
        self.queue_answer(vec![datagram]);
    }

    /// Queues answers whole, if there is room for the first datagram: Linux makes a dump's parts as they are read.
    pub(super) fn queue_answer(&self, datagrams: Vec<Vec<u8>>) {
        let (most, filter) = {
            let options = self.options.lock();
            (options.receive_buffer, options.filter.clone())
        };
        let mut state = self.state.lock();
        if datagrams.first().is_some_and(|first| state.queued + cost(first) > most) {
            state.error = Some(Errno::ENOBUFS);
        } else {
            for mut datagram in datagrams {
                if let Some(filter) = &filter {
                    let Some(kept) = filter::admits(filter, &View { bytes: &datagram, ..View::default() }) else { continue };
                    datagram.truncate(kept);
                    datagram.shrink_to_fit();
                }
                state.queued += cost(&datagram);
                state.inbox.push_back(datagram);
            }
        }
        drop(state);
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }

    fn asker(&self, admin: bool) -> Asker {
        let port = self.state.lock().port;
        Asker { port, admin, capped: self.has(CAP_ACK), strict: self.has(GET_STRICT_CHK) }
    }
}

impl Socket for Netlink {
    fn kind(&self) -> Kind {
        Kind { family: i32::from(AF_NETLINK), kind: self.kind, protocol: self.protocol }
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.options
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn poll(&self) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        events.set(PollEvents::ERR, state.error.is_some());
        events.set(PollEvents::IN | PollEvents::RDNORM, !state.inbox.is_empty());
        events
    }

    fn bind<'a>(self: Arc<Self>, cx: &'a mut Cx, bytes: Vec<u8>) -> Flow<'a> {
        Flow::done(decode(&bytes).and_then(|(port, groups)| self.bind_to(cx, port, groups)).map(|()| 0))
    }

    fn connect<'a>(self: Arc<Self>, cx: &'a mut Cx, bytes: Vec<u8>, _waiting: Waiting) -> Flow<'a> {
        if family_of(&bytes) == Ok(AF_UNSPEC) {
            self.state.lock().to = (0, 0);
            return Flow::done(Ok(0));
        }
        Flow::done(decode(&bytes).and_then(|to| {
            if to != (0, 0) && !self.net.allows(&cx.creds(), Capability::NetAdmin) {
                return Err(Errno::EPERM);
            }
            if self.state.lock().port == 0 {
                self.bind_to(cx, 0, 0)?;
            }
            self.state.lock().to = to;
            Ok(0)
        }))
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        let state = self.state.lock();
        Ok(match end {
            End::Own => address(state.port, state.groups),
            End::Peer => address(state.to.0, state.to.1),
        })
    }

    fn shut_down(&self, _what: Shutdown) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        if level == SOL_SOCKET
            && let Some(result) = filter::set(&self.options, name, value)
        {
            return result;
        }
        match (level, name) {
            (SOL_SOCKET, _) => options::set(cx, &self.net, &self.options, self.kind(), name, value),
            (SOL_NETLINK, ADD_MEMBERSHIP | DROP_MEMBERSHIP) => {
                let group = value.int()?;
                if !(1..=32).contains(&group) {
                    return Err(Errno::EINVAL);
                }
                let bit = 1 << (group - 1);
                let mut state = self.state.lock();
                state.groups = if name == ADD_MEMBERSHIP { state.groups | bit } else { state.groups & !bit };
                Ok(())
            }
            (SOL_NETLINK, name) if BOOLEANS.contains(&name) => {
                let on = value.int()? != 0;
                let mut state = self.state.lock();
                state.flags = if on { state.flags | 1 << name } else { state.flags & !(1 << name) };
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option(&self, _cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        match (level, name) {
            (SOL_SOCKET, so::ERROR) => Ok(int(self.state.lock().error.take().map_or(0, Errno::raw))),
            (SOL_SOCKET, _) => {
                let facts = Facts { kind: self.kind(), listening: false, cookie: self.id };
                options::get(&self.net, &self.options.lock(), &facts, name)
            }
            (SOL_NETLINK, LIST_MEMBERSHIPS) => Ok(SmallVec::from_slice(&self.state.lock().groups.to_le_bytes())),
            (SOL_NETLINK, name) if BOOLEANS.contains(&name) && given.len < 4 => Err(Errno::EINVAL),
            (SOL_NETLINK, name) if BOOLEANS.contains(&name) => Ok(int(i32::from(self.has(name)))),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn target<'a>(&'a self, cx: &'a Cx, bytes: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        Step::Ready(decode(&bytes).map_err(Fail::Errno).and_then(|(port, groups)| {
            if (port, groups) != (0, 0) && !self.net.allows(&cx.creds(), Capability::NetAdmin) {
                return Err(Errno::EPERM.into());
            }
            Ok(Some(Target::Netlink(port, groups)))
        }))
    }

    fn outgoing(&self, cx: &Cx) -> Outgoing {
        if self.state.lock().port == 0 {
            // A free port is always found.
            let _ = self.bind_to(cx, 0, 0);
        }
        let admin = self.net.allows(&cx.creds(), Capability::NetAdmin);
        let mut state = self.state.lock();
        state.flags = (state.flags & !ADMIN) | if admin { ADMIN } else { 0 };
        Outgoing::default()
    }

    fn take_control(&self, _cx: &Cx, control: Control, _out: &mut Outgoing) -> Result<(), Errno> {
        if control.level == SOL_SOCKET && !matches!(control.kind, 1 | 2) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        if out.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = from.remaining();
        if len == 0 {
            return Err(Errno::ENODATA);
        }
        if len > self.options.lock().send_buffer.saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = vec![0; len];
        if len > 0 && from.take(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        let (port, _groups) = match out.to {
            Some(Target::Netlink(port, groups)) => (port, groups),
            _ => self.state.lock().to,
        };
        if port != 0 {
            let other = self.net.netlink.lock().find(self.protocol, port).ok_or(Errno::ECONNREFUSED)?;
            other.queue_up(bytes);
            return Ok(len);
        }
        if matches!(self.protocol, NETLINK_ROUTE | NETLINK_SOCK_DIAG) {
            let admin = self.state.lock().flags & ADMIN != 0;
            for message in parse::messages(&bytes) {
                self.queue_answer(answer(&self.net, self.protocol, &message, self.asker(admin)));
            }
        }
        Ok(len)
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let datagram = match flags.contains(MsgFlags::PEEK) {
            true => state.inbox.front().cloned(),
            false => {
                let datagram = state.inbox.pop_front();
                state.queued -= datagram.as_ref().map_or(0, |datagram| cost(datagram));
                datagram
            }
        };
        drop(state);
        let datagram = datagram.ok_or(Errno::EAGAIN)?;
        let fits = into.remaining().min(datagram.len());
        let n = if fits == 0 { 0 } else { into.put(datagram.get(..fits).unwrap_or_default())? };
        let mut received = Received { bytes: n, length: datagram.len(), from: Some(address(0, 0)), ..Received::default() };
        received.flags.set(MsgFlags::TRUNC, n < datagram.len());
        if self.has(PKTINFO) {
            received.controls.push(Control::new(SOL_NETLINK, PKTINFO, &0u32.to_le_bytes()));
        }
        Ok(received)
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        ifreq::ioctl(cx, &self.net, command, argument)
    }

    fn before_write(&self, cx: &Cx) {
        let _ = self.outgoing(cx);
    }

    fn close(self: Arc<Self>) {
        let port = self.state.lock().port;
        if port != 0 {
            self.net.netlink.lock().release(self.protocol, port);
        }
    }

    fn set_inode(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
