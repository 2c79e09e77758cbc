//! [`Socket`]: what every family of sockets is to the system calls; and [`SocketFile`], the open file around one.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::address::Endpoint;
use super::options::{OptionIn, SockFlags, SocketOptions};
use super::packet;
use crate::Errno;
use crate::fs::{Direction, File, FileOps, OpenFlags, Patience, WriteAt, Written};
use crate::ipc::unix::{Core, Credentials};
use crate::mm::{Mappable, Sink, Source};
use crate::step::Step;
use crate::syscalls::{Fail, Flow};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

bitflags::bitflags! {
    /// `MSG_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MsgFlags: u32 {
        const OOB = 0x1;
        const PEEK = 0x2;
        const DONTROUTE = 0x4;
        const CTRUNC = 0x8;
        const TRUNC = 0x20;
        const DONTWAIT = 0x40;
        const EOR = 0x80;
        const WAITALL = 0x100;
        const ERRQUEUE = 0x2000;
        const NOSIGNAL = 0x4000;
        const MORE = 0x8000;
        const WAITFORONE = 0x1_0000;
        const FASTOPEN = 0x2000_0000;
        const CMSG_CLOEXEC = 0x4000_0000;
        const _ = !0;
    }
}

pub const SOCK_STREAM: i32 = 1;
pub const SOCK_DGRAM: i32 = 2;
pub const SOCK_RAW: i32 = 3;

/// What `socket` was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `AF_*`
    pub family: i32,
    /// `SOCK_*`
    pub kind: i32,
    /// `IPPROTO_*`
    pub protocol: i32,
}

/// An encoded `sockaddr`.
pub type AddressBytes = SmallVec<[u8; 32]>;

/// An option's value, encoded.
pub type OptionBytes = SmallVec<[u8; 32]>;

/// Which end's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Own,
    Peer,
}

/// What `shutdown` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    pub receive: bool,
    pub send: bool,
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Allowed,
    /// `O_NONBLOCK`, `MSG_DONTWAIT`
    Never,
}

/// Where a message goes, looked up.
pub enum Target {
    Unix(Arc<Core>),
    /// With the interface that the address names as its scope, or 0.
    Inet(Endpoint, i32),
    /// A netlink port and groups.
    Netlink(u32, u32),
    Packet(packet::To),
    /// The host's kernel shall look at it.
    Host(AddressBytes),
}

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub level: i32,
    pub kind: i32,
    pub data: SmallVec<[u8; 32]>,
}

/// What goes with the bytes of a send.
#[derive(Default)]
pub struct Outgoing {
    pub to: Option<Target>,
    pub flags: MsgFlags,
    /// Taken when they are sent (with the first byte).
    pub files: Vec<Arc<File>>,
    pub credentials: Credentials,
    /// Checked by the socket's `take_control`.
    pub controls: SmallVec<[Control; 1]>,
}

/// What came out of a socket.
#[derive(Default)]
pub struct Received {
    pub bytes: usize,
    /// A packet's length, of which `bytes` fitted.
    pub length: usize,
    /// `MSG_*` that the receiver is told.
    pub flags: MsgFlags,
    /// None: this kind of socket names no sender.
    pub from: Option<AddressBytes>,
    pub controls: SmallVec<[Control; 1]>,
    /// The sender's, if they were asked for.
    pub credentials: Option<Credentials>,
    pub files: Vec<Arc<File>>,
}

/// A connection taken off a listener.
pub struct Accepted {
    pub socket: Arc<dyn Socket>,
    pub from: AddressBytes,
}

/// A socket. All is non-blocking: what would wait gives `EAGAIN` and an event on the wait queue later.
pub trait Socket: Send + Sync + Any {
    fn kind(&self) -> Kind;

    /// The options of level `SOL_SOCKET`.
    fn options(&self) -> &Mutex<SocketOptions>;

    fn queue(&self) -> &WaitQueue;

    fn poll(&self) -> PollEvents;

    fn bind<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>) -> Flow<'a>;

    fn connect<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>, waiting: Waiting) -> Flow<'a>;

    /// # Errors
    /// `EOPNOTSUPP` where there are no connections.
    fn listen(&self, _cx: &Cx, _backlog: i32) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// # Errors
    /// `EAGAIN`; `EOPNOTSUPP`.
    fn accept(&self) -> Result<Accepted, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// # Errors
    /// `ENOTCONN`.
    fn name(&self, end: End) -> Result<AddressBytes, Errno>;

    /// # Errors
    /// `ENOTCONN`, `EOPNOTSUPP`.
    fn shut_down(&self, what: Shutdown) -> Result<(), Errno>;

    /// # Errors
    /// `ENOPROTOOPT` and the like.
    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno>;

    /// The value, of which the caller keeps as much as `given` has room for.
    ///
    /// # Errors
    /// As [`Socket::set_option`].
    fn option(&self, cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno>;

    /// Looks a receiver up. None: the address is ignored.
    fn target<'a>(&'a self, cx: &'a Cx, address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>>;

    /// What every send of this task starts from.
    fn outgoing(&self, _cx: &Cx) -> Outgoing {
        Outgoing::default()
    }

    /// Takes a control message of the sender's.
    ///
    /// # Errors
    /// `EINVAL` for what is not known.
    fn take_control(&self, cx: &Cx, control: Control, out: &mut Outgoing) -> Result<(), Errno>;

    /// Sends as much as there is room for (packets: all of it).
    ///
    /// # Errors
    /// `EAGAIN` and the socket's.
    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno>;

    /// Receives: of a stream what is there, else one packet.
    ///
    /// # Errors
    /// `EAGAIN` and the socket's. `MSG_DONTWAIT` says that the caller will not wait.
    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno>;

    /// The queues to wait on for a send to go on.
    fn send_queues(&self, _out: &Outgoing) -> SmallVec<[WaitQueue; 2]> {
        SmallVec::from_iter([self.queue().clone()])
    }

    fn ioctl(&self, _cx: &Cx, _command: u32, _argument: u64) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }

    /// What `mmap` maps.
    ///
    /// # Errors
    /// `ENODEV`.
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Err(Errno::ENODEV)
    }

    /// Asked before a plain write.
    fn before_write(&self, _cx: &Cx) {}

    /// The open file is gone.
    fn close(self: Arc<Self>);

    /// The number of its inode, once it has a file.
    fn set_inode(&self, _ino: u64) {}

    fn as_any(&self) -> &dyn Any;
}

/// An open socket.
pub struct SocketFile(pub Arc<dyn Socket>);

impl SocketFile {
    /// The socket of an open file.
    pub fn of(file: &File) -> Option<&Arc<dyn Socket>> {
        file.downcast::<SocketFile>().map(|file| &file.0)
    }

    /// A blocking read below `SO_RCVLOWAT` is one that waits.
    fn below_low_water(&self, file: &File, wanted: usize) -> bool {
        let low_water = self.0.options().lock().receive_low_water;
        let ready = PollEvents::IN | PollEvents::ERR | PollEvents::HUP | PollEvents::RDHUP;
        low_water > 1
            && wanted >= low_water
            && self.0.kind().kind == SOCK_STREAM
            && !file.flags().contains(OpenFlags::NONBLOCK)
            && !self.0.poll().intersects(ready)
    }
}

impl FileOps for SocketFile {
    fn read<'a>(&'a self, file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        if self.below_low_water(file, into.remaining()) {
            return Step::err(Errno::EAGAIN);
        }
        let mut flags = MsgFlags::empty();
        flags.set(MsgFlags::DONTWAIT, file.flags().contains(OpenFlags::NONBLOCK));
        Step::Ready(self.0.receive(into, flags).map(|received| received.bytes))
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let sent = self.0.send(from, &mut Outgoing::default());
        Step::Ready(sent.map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        self.0.poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.0.queue())
    }

    fn admit(&self, _file: &File, cx: &Cx, direction: Direction) -> Result<(), Fail> {
        if direction == Direction::Write {
            self.0.before_write(cx);
        }
        Ok(())
    }

    fn patience(&self, direction: Direction) -> Patience {
        let options = self.0.options().lock();
        let timeout_ns = match direction {
            Direction::Read => options.receive_timeout_ns,
            _ => options.send_timeout_ns,
        };
        Patience { timeout_ns, ..Patience::default() }
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(self.0.ioctl(cx, command, argument))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.0.mappable()
    }

    fn release(&self, _file: &File) {
        self.0.clone().close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Control {
    pub fn new(level: i32, kind: i32, data: &[u8]) -> Control {
        Control { level, kind, data: SmallVec::from_slice(data) }
    }
}

/// `SCM_TIMESTAMP` and `SCM_TIMESTAMPNS` of a packet that came at `at_ns` (real time), as far as they are asked for.
pub fn timestamp(options: &SocketOptions, at_ns: u64) -> Option<Control> {
    let (sec, ns) = ((at_ns / 1_000_000_000) as i64, (at_ns % 1_000_000_000) as i64);
    let (kind, fraction) = match () {
        () if options.flags.contains(SockFlags::TIMESTAMPNS) => (35, ns),
        () if options.flags.contains(SockFlags::TIMESTAMP) => (29, ns / 1000),
        () => return None,
    };
    let mut data = SmallVec::from_slice(&sec.to_le_bytes());
    data.extend_from_slice(&fraction.to_le_bytes());
    Some(Control { level: 1, kind, data })
}
