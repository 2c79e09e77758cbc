//! A host socket as the system calls see it.

use std::any::Any;
use std::sync::Arc;

use hostcall::{event, net as host};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{BOUNCE, HostSocket};
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::address::{AF_INET, AF_UNSPEC, Family, family_of};
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SocketOptions, so};
use crate::net::socket::{
    Accepted, AddressBytes, Control, End, Kind, MsgFlags, OptionBytes, Outgoing, Received, SOCK_STREAM, Shutdown, Socket,
    Target, Waiting,
};
use crate::net::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, datagram, ifreq};
use crate::step::Step;
use crate::syscalls::{Fail, Flow, Outcome};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitError, WaitQueue};

/// Longest option value that is passed on.
const OPTION_MAX: usize = 64;
/// What of the guest's flags the host is told.
const SEND_FLAGS: MsgFlags = MsgFlags::OOB.union(MsgFlags::DONTROUTE).union(MsgFlags::MORE);
const RECEIVE_FLAGS: MsgFlags = MsgFlags::OOB.union(MsgFlags::PEEK).union(MsgFlags::ERRQUEUE);

impl HostSocket {
    fn is_stream(&self) -> bool {
        self.kind.kind == SOCK_STREAM
    }

    /// Whether a connection that was begun is there, has failed (the error), or is still on its way.
    fn connect_result(&self) -> Option<Result<(), Errno>> {
        if !self.poll().intersects(PollEvents::OUT | PollEvents::ERR | PollEvents::HUP) {
            return None;
        }
        let raw = host::option(self.fd(), SOL_SOCKET, so::ERROR, 4).ok();
        let errno = raw.and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_le_bytes);
        Some(if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) })
    }
}

async fn connect_waiting(cx: &mut Cx, socket: Arc<HostSocket>) -> Outcome {
    let timeout_ns = socket.options.lock().send_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    let queues = [(socket.watch.queue(), PollEvents::OUT | PollEvents::IN)];
    match cx.wait(&queues, deadline, || socket.connect_result()).await {
        Ok(result) => Ok(result.map(|()| 0)?),
        Err(WaitError::TimedOut) => Err(Errno::EINPROGRESS.into()),
        Err(WaitError::Interrupted) => Err(Fail::interrupted(timeout_ns)),
    }
}

impl Socket for HostSocket {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.options
    }

    fn queue(&self) -> &WaitQueue {
        self.watch.queue()
    }

    fn poll(&self) -> PollEvents {
        let all = PollEvents::IN
            | PollEvents::OUT
            | PollEvents::PRI
            | PollEvents::RDHUP
            | PollEvents::RDNORM
            | PollEvents::WRNORM
            | PollEvents::WRBAND;
        let ready = event::poll_now(self.watch.file(), all.bits() as u16).unwrap_or(PollEvents::ERR.bits() as u16);
        PollEvents::from_bits_truncate(ready.into())
    }

    fn bind<'a>(self: Arc<Self>, _cx: &'a mut Cx, address: Vec<u8>) -> Flow<'a> {
        Flow::done(host::bind(self.fd(), &address).map(|()| 0))
    }

    fn connect<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>, waiting: Waiting) -> Flow<'a> {
        // Only internet addresses: the host's kernel would look at whatever it is.
        if let Err(errno) = family_of(&address).and_then(|family| match i32::from(family) {
            family if family == self.kind.family || family == i32::from(AF_UNSPEC) => Ok(()),
            2 | 10 => Ok(()),
            _ => Err(Errno::EAFNOSUPPORT),
        }) {
            return Flow::done(Err(errno));
        }
        match host::connect(self.fd(), &address) {
            // A second look at a connection under way (after a signal) waits for it too.
            Err(Errno::EINPROGRESS | Errno::EALREADY) if waiting == Waiting::Allowed => Flow::wait(connect_waiting(cx, self)),
            result => Flow::done(result.map(|()| 0)),
        }
    }

    fn listen(&self, _cx: &Cx, backlog: i32) -> Result<(), Errno> {
        host::listen(self.fd(), backlog)
    }

    fn accept(&self) -> Result<Accepted, Errno> {
        let (socket, from) = host::accept(self.fd())?;
        Ok(Accepted { socket: HostSocket::wrap(&self.net, &self.reactor, self.kind, socket)?, from: SmallVec::from_vec(from) })
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        let name = match end {
            End::Own => host::own_name(self.fd()),
            End::Peer => host::peer_name(self.fd()),
        };
        name.map(SmallVec::from_vec)
    }

    fn shut_down(&self, what: Shutdown) -> Result<(), Errno> {
        let how = match what {
            Shutdown { receive: true, send: false } => 0,
            Shutdown { receive: false, .. } => 1,
            _ => 2,
        };
        host::shut_down(self.fd(), how)
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        if level == SOL_SOCKET && !host::OPTIONS.contains(&(level, name)) || matches!((level, name), (SOL_SOCKET, so::RCVLOWAT))
        {
            return options::set(cx, &self.net, &self.options, self.kind, name, value);
        }
        let bytes = value.bytes(OPTION_MAX)?;
        host::set_option(self.fd(), level, name, &bytes)
    }

    fn option(&self, _cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        if level == SOL_SOCKET && !host::OPTIONS.contains(&(level, name)) {
            let facts = Facts { kind: self.kind, listening: false, cookie: 0 };
            return options::get(&self.net, &self.options.lock(), &facts, name);
        }
        host::option(self.fd(), level, name, given.len).map(SmallVec::from_vec)
    }

    fn target<'a>(&'a self, _cx: &'a Cx, address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        match family_of(&address) {
            Ok(0 | 2 | 10) => Step::ok(Some(Target::Host(SmallVec::from_vec(address)))),
            Ok(_) => Step::err(Errno::EAFNOSUPPORT.into()),
            Err(errno) => Step::err(errno.into()),
        }
    }

    /// What concerns a datagram itself is passed on: where it is sent from, TTL, traffic class. Of level `SOL_SOCKET` is what the host lets no sentry
    /// do: marks, priorities. Segments (`UDP_SEGMENT`) are not made here; other levels are nobody's.
    fn take_control(&self, _cx: &Cx, control: Control, out: &mut Outgoing) -> Result<(), Errno> {
        match control.level {
            SOL_SOCKET => return Err(Errno::EINVAL),
            IPPROTO_UDP if !self.is_stream() => return Err(Errno::EINVAL),
            IPPROTO_IP | IPPROTO_IPV6 if !self.is_stream() => {
                let family = if self.kind.family == i32::from(AF_INET) { Family::Inet } else { Family::Inet6 };
                datagram::check_control(family, &control)?;
                out.controls.push(control);
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        let wanted = from.remaining();
        if !self.is_stream() && wanted > BOUNCE {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = vec![0; wanted.min(BOUNCE)];
        let taken = if bytes.is_empty() { 0 } else { from.take(&mut bytes)? };
        if taken < bytes.len() && !self.is_stream() {
            return Err(Errno::EFAULT);
        }
        bytes.truncate(taken);
        let to = match &out.to {
            Some(Target::Host(address)) => address.as_slice(),
            _ => &[],
        };
        let controls: Vec<_> = out.controls.iter().map(|c| (c.level, c.kind, c.data.to_vec())).collect();
        host::send(self.fd(), &bytes, to, &controls, (out.flags & SEND_FLAGS).bits() as i32)
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        let mut bytes = vec![0; into.remaining().min(BOUNCE)];
        let told = if self.is_stream() { flags & MsgFlags::TRUNC } else { MsgFlags::TRUNC };
        let got = host::receive(self.fd(), &mut bytes, ((flags & RECEIVE_FLAGS) | told).bits() as i32)?;
        let discarded = self.is_stream() && flags.contains(MsgFlags::TRUNC);
        let n = if got.bytes == 0 || discarded { got.bytes } else { into.put(bytes.get(..got.bytes).unwrap_or_default())? };
        let shown = MsgFlags::TRUNC | MsgFlags::CTRUNC | MsgFlags::OOB | MsgFlags::ERRQUEUE;
        Ok(Received {
            bytes: n,
            length: if self.is_stream() { n } else { got.length },
            flags: MsgFlags::from_bits_retain(got.flags as u32) & shown,
            from: Some(SmallVec::from_vec(got.from)),
            controls: got.controls.iter().map(|(level, kind, data)| Control::new(*level, *kind, data)).collect(),
            ..Received::default()
        })
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        match command {
            linux_raw_sys::ioctl::FIONREAD => cx.mm.write_val(argument, &host::readable(self.fd())?).map(|()| 0),
            _ => ifreq::ioctl(cx, &self.net, command, argument),
        }
    }

    /// The descriptor goes with the last reference; those who wait have one.
    fn close(self: Arc<Self>) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}
