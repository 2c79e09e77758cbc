//! A TCP socket as the system calls see it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Phase, Progress, Tcp};
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::address::{AF_UNSPEC, Endpoint, Family, family_of};
use crate::net::ip::About;
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SocketOptions, int, so};
use crate::net::ports::connect_scope;
use crate::net::socket::{
    Accepted, AddressBytes, Control, End, Kind, MsgFlags, OptionBytes, Outgoing, Received, SOCK_STREAM, Shutdown, Socket,
    Target, Waiting,
};
use crate::net::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, ifreq};
use crate::step::Step;
use crate::syscalls::{Fail, Flow, Outcome};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitError, WaitQueue};

impl Tcp {
    fn about(&self) -> About {
        let device = self.options.lock().device;
        let state = self.state.lock();
        let remote = state.remote.filter(|_| matches!(state.phase, Phase::Connected));
        About {
            family: self.family,
            kind: SOCK_STREAM,
            bound: state.local.port != 0,
            remote: remote.map(|remote| remote.ip),
            device,
            protocol: IPPROTO_TCP,
        }
    }

    /// Where connect shall go.
    fn destination(&self, address: &[u8]) -> Result<Endpoint, Errno> {
        if address.len() < self.family.shortest() {
            return Err(Errno::EINVAL);
        }
        let family = family_of(address)?;
        // A V6 socket takes V4 addresses only in their mapped form.
        if family != self.family.number() {
            return Err(Errno::EAFNOSUPPORT);
        }
        let to = Endpoint::decode(self.family, address)?;
        if self.family == Family::Inet6 && to.ip.is_ipv4() && self.ip.lock().only_v6 {
            return Err(Errno::ENETUNREACH);
        }
        if to.ip.is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        let mut options = self.options.lock();
        options.device = connect_scope(&to, address, options.device)?;
        Ok(to)
    }

    fn connect_now(&self, address: &[u8], waiting: Waiting) -> Result<Option<Result<(), Errno>>, Errno> {
        let (progress, idle, in_progress) = {
            let state = self.state.lock();
            let idle = matches!(state.phase, Phase::Closed);
            (state.progress, idle, matches!(state.phase, Phase::Connecting))
        };
        match progress {
            Progress::Connected => return Err(Errno::EISCONN),
            Progress::Connecting if in_progress && waiting == Waiting::Never => return Err(Errno::EALREADY),
            Progress::Connecting => {}
            Progress::None if !idle => return Err(Errno::EISCONN),
            Progress::None => {
                let to = self.destination(address)?;
                self.begin_connect(to)?;
                // It may be there already; a program that will not wait hears so by its next look.
                if waiting == Waiting::Never {
                    return Err(Errno::EINPROGRESS);
                }
            }
        }
        Ok(self.finish_connect())
    }
}

async fn connect_waiting(cx: &mut Cx, socket: Arc<Tcp>) -> Outcome {
    let timeout_ns = socket.options.lock().send_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    let queues = [(&socket.queue, PollEvents::OUT)];
    match cx.wait(&queues, deadline, || socket.finish_connect()).await {
        Ok(result) => Ok(result.map(|()| 0)?),
        Err(WaitError::TimedOut) => Err(Errno::EINPROGRESS.into()),
        Err(WaitError::Interrupted) => Err(Fail::interrupted(timeout_ns)),
    }
}

impl Socket for Tcp {
    fn kind(&self) -> Kind {
        Kind { family: i32::from(self.family.number()), kind: SOCK_STREAM, protocol: IPPROTO_TCP }
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.options
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn poll(&self) -> PollEvents {
        self.readiness()
    }

    fn bind<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>) -> Flow<'a> {
        Flow::done(self.bind_to(cx, &address).map(|()| 0))
    }

    fn connect<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>, waiting: Waiting) -> Flow<'a> {
        match family_of(&address) {
            Err(errno) => return Flow::done(Err(errno)),
            Ok(AF_UNSPEC) => {
                self.disconnect();
                return Flow::done(Ok(0));
            }
            Ok(_) => {}
        }
        match self.connect_now(&address, waiting) {
            Err(errno) => Flow::done(Err(errno)),
            Ok(Some(result)) => Flow::done(result.map(|()| 0)),
            Ok(None) => Flow::wait(connect_waiting(cx, self)),
        }
    }

    fn listen(&self, _cx: &Cx, backlog: i32) -> Result<(), Errno> {
        self.start_listening(backlog)
    }

    fn accept(&self) -> Result<Accepted, Errno> {
        let child = self.take_connection()?;
        let remote = child.state.lock().remote.unwrap_or(Endpoint::new(child.family.unspecified(), 0));
        let from = remote.encode_on(child.family, child.options.lock().device);
        Ok(Accepted { socket: child, from })
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        let device = self.options.lock().device;
        let state = self.state.lock();
        match (end, &state.phase) {
            (End::Own, _) => Ok(state.local.encode_on(self.family, device)),
            (End::Peer, Phase::Connected) => Ok(state.remote.ok_or(Errno::ENOTCONN)?.encode_on(self.family, device)),
            (End::Peer, _) => Err(Errno::ENOTCONN),
        }
    }

    fn shut_down(&self, what: Shutdown) -> Result<(), Errno> {
        self.shut(what)
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        let result = match level {
            SOL_SOCKET => {
                options::set(cx, &self.net, &self.options, self.kind(), name, value)?;
                if matches!(name, so::REUSEADDR | so::REUSEPORT | so::BINDTODEVICE | so::BINDTOIFINDEX) {
                    self.claim_changed();
                }
                Ok(())
            }
            IPPROTO_IP | IPPROTO_IPV6 => {
                let about = self.about();
                self.ip.lock().set(cx, &self.net, about, level, name, value)
            }
            IPPROTO_TCP => self.set_tcp_option(name, value),
            _ => Err(Errno::ENOPROTOOPT),
        };
        self.options_changed();
        result
    }

    fn option(&self, _cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        match (level, name) {
            (SOL_SOCKET, so::ERROR) => Ok(int(self.state.lock().error.take().map_or(0, Errno::raw))),
            (SOL_SOCKET, _) => {
                let listening = matches!(self.state.lock().phase, Phase::Listening(_));
                let facts = Facts { kind: self.kind(), listening, cookie: self.id };
                options::get(&self.net, &self.options.lock(), &facts, name)
            }
            (IPPROTO_IP | IPPROTO_IPV6, _) => {
                let about = self.about();
                self.ip.lock().get(&self.net, about, level, name, given.len)
            }
            (IPPROTO_TCP, _) => self.tcp_option(name),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// A connected stream's bytes go to its peer, whatever is asked for.
    fn target<'a>(&'a self, _cx: &'a Cx, _address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        Step::ok(None)
    }

    fn take_control(&self, cx: &Cx, control: Control, _out: &mut Outgoing) -> Result<(), Errno> {
        if control.level == SOL_SOCKET { options::check_control(cx, &self.net, &control) } else { Ok(()) }
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        if out.flags.contains(MsgFlags::FASTOPEN) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.send_bytes(from, out.flags)
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        self.receive_bytes(into, flags)
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        use linux_raw_sys::ioctl::{FIONREAD, SIOCATMARK, TIOCOUTQ};
        let listening = matches!(self.state.lock().phase, Phase::Listening(_));
        let value = match command {
            FIONREAD | TIOCOUTQ if listening => return Err(Errno::EINVAL),
            FIONREAD => self.readable_bytes() as i32,
            TIOCOUTQ => self.unsent_bytes() as i32,
            SIOCATMARK => i32::from(self.at_mark()),
            _ => return ifreq::ioctl(cx, &self.net, command, argument),
        };
        cx.mm.write_val(argument, &value).map(|()| 0)
    }

    fn close(self: Arc<Self>) {
        self.close_socket();
    }

    fn set_inode(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
