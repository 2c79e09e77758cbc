//! Options of level `SOL_SOCKET`, which all families share, and how an option's value is read.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::NetNamespace;
use super::address::array;
use super::socket::{Control, Kind, OptionBytes, SOCK_STREAM};
use crate::Errno;
use crate::bpf::Program;
use crate::mm::Mm;
use crate::syscalls::mask;
use crate::task::{Capability, Creds, Cx};

pub const SOL_SOCKET: i32 = 1;

/// The options by name (include/uapi/asm-generic/socket.h).
pub mod so {
    pub const REUSEADDR: i32 = 2;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const DONTROUTE: i32 = 5;
    pub const BROADCAST: i32 = 6;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const KEEPALIVE: i32 = 9;
    pub const OOBINLINE: i32 = 10;
    pub const NO_CHECK: i32 = 11;
    pub const PRIORITY: i32 = 12;
    pub const LINGER: i32 = 13;
    pub const REUSEPORT: i32 = 15;
    pub const PASSCRED: i32 = 16;
    pub const PEERCRED: i32 = 17;
    pub const RCVLOWAT: i32 = 18;
    pub const SNDLOWAT: i32 = 19;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const BINDTODEVICE: i32 = 25;
    pub const ATTACH_FILTER: i32 = 26;
    pub const DETACH_FILTER: i32 = 27;
    pub const TIMESTAMP: i32 = 29;
    pub const ACCEPTCONN: i32 = 30;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const PASSSEC: i32 = 34;
    pub const TIMESTAMPNS: i32 = 35;
    pub const MARK: i32 = 36;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
    pub const RXQ_OVFL: i32 = 40;
    pub const WIFI_STATUS: i32 = 41;
    pub const PEEK_OFF: i32 = 42;
    pub const NOFCS: i32 = 43;
    pub const LOCK_FILTER: i32 = 44;
    pub const SELECT_ERR_QUEUE: i32 = 45;
    pub const BUSY_POLL: i32 = 46;
    pub const MAX_PACING_RATE: i32 = 47;
    pub const INCOMING_CPU: i32 = 49;
    pub const COOKIE: i32 = 57;
    pub const PEERGROUPS: i32 = 59;
    pub const ZEROCOPY: i32 = 60;
    pub const BINDTOIFINDEX: i32 = 62;
    pub const RCVTIMEO_NEW: i32 = 66;
    pub const SNDTIMEO_NEW: i32 = 67;
}

bitflags::bitflags! {
    /// The options that are on or off.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct SockFlags: u32 {
        const REUSEADDR = 1 << 0;
        const DONTROUTE = 1 << 1;
        const BROADCAST = 1 << 2;
        const KEEPALIVE = 1 << 3;
        const OOBINLINE = 1 << 4;
        const NO_CHECK = 1 << 5;
        const REUSEPORT = 1 << 6;
        const PASSCRED = 1 << 7;
        const PASSSEC = 1 << 8;
        const TIMESTAMP = 1 << 9;
        const TIMESTAMPNS = 1 << 10;
        const RXQ_OVFL = 1 << 11;
        const WIFI_STATUS = 1 << 12;
        const NOFCS = 1 << 13;
        const LOCK_FILTER = 1 << 14;
        const SELECT_ERR_QUEUE = 1 << 15;
        const ZEROCOPY = 1 << 16;
        /// A buffer's size was set, and is not to be changed.
        const SNDBUF_LOCK = 1 << 17;
        const RCVBUF_LOCK = 1 << 18;
    }
}

const BOOLEANS: &[(i32, SockFlags)] = &[
    (so::REUSEADDR, SockFlags::REUSEADDR),
    (so::DONTROUTE, SockFlags::DONTROUTE),
    (so::BROADCAST, SockFlags::BROADCAST),
    (so::KEEPALIVE, SockFlags::KEEPALIVE),
    (so::OOBINLINE, SockFlags::OOBINLINE),
    (so::NO_CHECK, SockFlags::NO_CHECK),
    (so::REUSEPORT, SockFlags::REUSEPORT),
    (so::PASSCRED, SockFlags::PASSCRED),
    (so::PASSSEC, SockFlags::PASSSEC),
    (so::TIMESTAMP, SockFlags::TIMESTAMP),
    (so::TIMESTAMPNS, SockFlags::TIMESTAMPNS),
    (so::RXQ_OVFL, SockFlags::RXQ_OVFL),
    (so::WIFI_STATUS, SockFlags::WIFI_STATUS),
    (so::NOFCS, SockFlags::NOFCS),
    (so::LOCK_FILTER, SockFlags::LOCK_FILTER),
    (so::SELECT_ERR_QUEUE, SockFlags::SELECT_ERR_QUEUE),
    (so::ZEROCOPY, SockFlags::ZEROCOPY),
];

/// `net.core.wmem_default`, and the largest that may be asked for (`wmem_max`, `rmem_max`), in bytes.
pub const BUFFER: usize = 212_992;
/// Smallest sizes (`SOCK_MIN_SNDBUF`, `SOCK_MIN_RCVBUF`).
pub const SMALLEST_SEND: usize = 4608;
const SMALLEST_RECEIVE: usize = 2304;
/// Largest size that a privileged process may set.
pub const LARGEST_FORCED: usize = 8 << 20;

#[derive(Debug, Clone)]
pub struct SocketOptions {
    pub flags: SockFlags,
    pub receive_timeout_ns: Option<u64>,
    pub send_timeout_ns: Option<u64>,
    pub send_buffer: usize,
    pub receive_buffer: usize,
    pub receive_low_water: usize,
    /// `SO_LINGER`: on, and the seconds.
    pub linger: (bool, i32),
    pub priority: i32,
    pub mark: u32,
    pub peek_offset: i32,
    /// Index of the interface it is bound to; 0 is any.
    pub device: i32,
    pub busy_poll: i32,
    pub pacing: u64,
    pub incoming_cpu: i32,
    /// Asked for each packet that comes.
    pub filter: Option<Arc<Program>>,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            flags: SockFlags::empty(),
            receive_timeout_ns: None,
            send_timeout_ns: None,
            send_buffer: BUFFER,
            receive_buffer: BUFFER,
            receive_low_water: 1,
            linger: (false, 0),
            priority: 0,
            mark: 0,
            peek_offset: -1,
            device: 0,
            busy_poll: 0,
            pacing: u64::MAX,
            incoming_cpu: -1,
            filter: None,
        }
    }
}

impl SocketOptions {
    pub fn has(&self, flag: SockFlags) -> bool {
        self.flags.contains(flag)
    }
}

/// The value given to `setsockopt`: guest memory, read when the option is known.
#[derive(Clone, Copy)]
pub struct OptionIn<'a> {
    pub mm: &'a Mm,
    pub addr: u64,
    pub len: usize,
}

impl OptionIn<'_> {
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    pub fn int(&self) -> Result<i32, Errno> {
        self.val()
    }

    /// An int, or (options of IP) one byte.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    pub fn int_or_byte(&self) -> Result<i32, Errno> {
        match self.len {
            0 => Err(Errno::EINVAL),
            1..=3 => Ok(i32::from(self.mm.read_val::<u8>(self.addr)?)),
            _ => self.mm.read_val(self.addr),
        }
    }

    /// # Errors
    /// `EINVAL`, `EFAULT`.
    pub fn val<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self) -> Result<T, Errno> {
        if self.len < size_of::<T>() {
            return Err(Errno::EINVAL);
        }
        self.mm.read_val(self.addr)
    }

    /// At most `max` bytes.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn bytes(&self, max: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; self.len.min(max)];
        self.mm.read(self.addr, &mut bytes)?;
        Ok(bytes)
    }
}

pub fn int(value: i32) -> OptionBytes {
    SmallVec::from_slice(&value.to_le_bytes())
}

/// Sets a common option of a socket in `net`: what it may be marked with is for who rules that network, wherever the caller is now. Options that
/// are about one family are the family's.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EPERM`, `EDOM`, `ENODEV`, `EOPNOTSUPP`, `ENOPROTOOPT`.
pub fn set(
    cx: &Cx,
    net: &NetNamespace,
    options: &Mutex<SocketOptions>,
    kind: Kind,
    name: i32,
    value: OptionIn<'_>,
) -> Result<(), Errno> {
    if name == so::BINDTODEVICE {
        return bind_to_device(cx, net, options, value);
    }
    let n = value.int()?;
    let creds = cx.creds();
    let inet = matches!(kind.family, 2 | 10);
    let admin = creds.has(Capability::NetAdmin);
    let may_mark = || may_mark(&creds, net);
    let mut changed = options.lock();
    match name {
        so::TYPE | so::ERROR | so::ACCEPTCONN | so::PROTOCOL | so::DOMAIN | so::PEERCRED => return Err(Errno::ENOPROTOOPT),
        so::REUSEPORT if n != 0 && !inet => return Err(Errno::EOPNOTSUPP),
        so::PASSCRED | so::PASSSEC if !matches!(kind.family, 1 | 16) => return Err(Errno::EOPNOTSUPP),
        so::ZEROCOPY if !inet || !matches!(kind.protocol, 6 | 17) => return Err(Errno::EOPNOTSUPP),
        so::ZEROCOPY if !(0..=1).contains(&n) => return Err(Errno::EINVAL),
        so::WIFI_STATUS | so::NOFCS if inet => {}
        so::LOCK_FILTER if n == 0 && changed.has(SockFlags::LOCK_FILTER) => return Err(Errno::EPERM),
        so::TIMESTAMP | so::TIMESTAMPNS => {
            changed.flags -= SockFlags::TIMESTAMP | SockFlags::TIMESTAMPNS;
        }
        _ => {}
    }
    if let Some((_, flag)) = BOOLEANS.iter().find(|(option, _)| *option == name) {
        changed.flags.set(*flag, n != 0);
        return Ok(());
    }
    match name {
        so::SNDBUF | so::SNDBUFFORCE => {
            let most = buffer_limit(name == so::SNDBUFFORCE, admin)?;
            changed.send_buffer = doubled(n, most).max(SMALLEST_SEND);
            changed.flags |= SockFlags::SNDBUF_LOCK;
        }
        so::RCVBUF | so::RCVBUFFORCE => {
            let most = buffer_limit(name == so::RCVBUFFORCE, admin)?;
            changed.receive_buffer = doubled(n, most).max(SMALLEST_RECEIVE);
            changed.flags |= SockFlags::RCVBUF_LOCK;
        }
        so::PRIORITY if (0..=6).contains(&n) || may_mark() => changed.priority = n,
        so::MARK if may_mark() => changed.mark = n as u32,
        so::PRIORITY | so::MARK => return Err(Errno::EPERM),
        so::LINGER => {
            drop(changed);
            let [on, seconds] = value.val::<[i32; 2]>()?;
            let mut changed = options.lock();
            let kept = changed.linger.1;
            changed.linger = (on != 0, if on != 0 { seconds } else { kept });
        }
        so::RCVLOWAT => {
            let n = if n < 0 { i32::MAX } else { n.max(1) };
            changed.receive_low_water = n as usize;
        }
        so::SNDLOWAT => return Err(Errno::ENOPROTOOPT),
        so::RCVTIMEO | so::SNDTIMEO | so::RCVTIMEO_NEW | so::SNDTIMEO_NEW => {
            drop(changed);
            let timeout_ns = timeout(value)?;
            let mut changed = options.lock();
            match name {
                so::RCVTIMEO | so::RCVTIMEO_NEW => changed.receive_timeout_ns = timeout_ns,
                _ => changed.send_timeout_ns = timeout_ns,
            }
        }
        so::PEEK_OFF if kind.family == 1 || inet && kind.kind != SOCK_STREAM => changed.peek_offset = n.max(-1),
        so::PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        so::BUSY_POLL if n < 0 => return Err(Errno::EINVAL),
        so::BUSY_POLL if n > changed.busy_poll && !admin => return Err(Errno::EPERM),
        so::BUSY_POLL => changed.busy_poll = n,
        so::MAX_PACING_RATE => changed.pacing = if n == -1 { u64::MAX } else { u64::from(n as u32) },
        so::INCOMING_CPU => changed.incoming_cpu = n,
        so::BINDTOIFINDEX => bind_to_index(&creds, net, &mut changed, n)?,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn buffer_limit(forced: bool, admin: bool) -> Result<usize, Errno> {
    match (forced, admin) {
        (false, _) => Ok(BUFFER),
        (true, true) => Ok(LARGEST_FORCED),
        (true, false) => Err(Errno::EPERM),
    }
}

/// Linux doubles what is asked for, for its own overhead.
fn doubled(value: i32, most: usize) -> usize {
    // A negative size is a very large unsigned one.
    let asked = if value < 0 { most } else { value as usize };
    asked.min(most) * 2
}

/// Whether packets may be marked, get any priority, and come from others' addresses.
pub(super) fn may_mark(creds: &Creds, net: &NetNamespace) -> bool {
    [Capability::NetAdmin, Capability::NetRaw].iter().any(|&capability| net.allows(creds, capability))
}

/// Checks a control message of level `SOL_SOCKET` that is sent to an internet socket (`__sock_cmsg_send`).
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn check_control(cx: &Cx, net: &NetNamespace, control: &Control) -> Result<(), Errno> {
    /// `SCM_RIGHTS`, `SCM_CREDENTIALS`, `SO_TIMESTAMPING`.
    const IGNORED: [i32; 2] = [1, 2];
    const TIMESTAMPING: i32 = 37;
    let int = array::<4>(&control.data, 0).map(i32::from_le_bytes).filter(|_| control.data.len() == 4);
    match control.kind {
        kind if IGNORED.contains(&kind) => Ok(()),
        so::MARK if !may_mark(&cx.creds(), net) => Err(Errno::EPERM),
        so::MARK | TIMESTAMPING => int.map(|_| ()).ok_or(Errno::EINVAL),
        so::PRIORITY => match int.ok_or(Errno::EINVAL)? {
            0..=6 => Ok(()),
            _ if may_mark(&cx.creds(), net) => Ok(()),
            _ => Err(Errno::EPERM),
        },
        _ => Err(Errno::EINVAL),
    }
}

/// Binds to an interface, which whoever is bound already may only with a capability (`sock_bindtoindex_locked`).
fn bind_to_index(creds: &Creds, net: &NetNamespace, options: &mut SocketOptions, index: i32) -> Result<(), Errno> {
    if options.device != 0 && !net.allows(creds, Capability::NetRaw) {
        return Err(Errno::EPERM);
    }
    if index < 0 {
        return Err(Errno::EINVAL);
    }
    options.device = index;
    Ok(())
}

fn bind_to_device(cx: &Cx, net: &NetNamespace, options: &Mutex<SocketOptions>, value: OptionIn<'_>) -> Result<(), Errno> {
    let bytes = value.bytes(15)?;
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let device = match name {
        b"" => 0,
        name => net.device_named(name).ok_or(Errno::ENODEV)?,
    };
    bind_to_index(&cx.creds(), net, &mut options.lock(), device)
}

/// A `timeval`; 0 is for ever.
fn timeout(value: OptionIn<'_>) -> Result<Option<u64>, Errno> {
    let [sec, usec] = value.val::<[i64; 2]>()?;
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // A negative time does not wait at all.
    let ns = if sec < 0 { return Ok(Some(0)) } else { mask::nanoseconds(sec, usec * 1000)? };
    Ok(Some(ns).filter(|&ns| ns > 0))
}

/// What only the socket knows.
pub struct Facts {
    pub kind: Kind,
    pub listening: bool,
    pub cookie: u64,
}

/// Gets a common option of a socket in `net`; `SO_ERROR` and the peer's credentials are the family's.
///
/// # Errors
/// `ENOPROTOOPT`, `EOPNOTSUPP`.
pub fn get(net: &NetNamespace, options: &SocketOptions, facts: &Facts, name: i32) -> Result<OptionBytes, Errno> {
    if let Some((_, flag)) = BOOLEANS.iter().find(|(option, _)| *option == name) {
        return Ok(int(i32::from(options.has(*flag))));
    }
    let time = |ns: Option<u64>| {
        let ns = ns.unwrap_or(0);
        let mut bytes: OptionBytes = SmallVec::from_slice(&(ns / 1_000_000_000).to_le_bytes());
        bytes.extend_from_slice(&(ns % 1_000_000_000 / 1000).to_le_bytes());
        bytes
    };
    let two = |a: i32, b: i32| {
        let mut bytes = int(a);
        bytes.extend_from_slice(&b.to_le_bytes());
        bytes
    };
    Ok(match name {
        so::TYPE => int(facts.kind.kind),
        so::PROTOCOL => int(facts.kind.protocol),
        so::DOMAIN => int(facts.kind.family),
        so::ACCEPTCONN => int(i32::from(facts.listening)),
        so::COOKIE => SmallVec::from_slice(&facts.cookie.to_le_bytes()),
        so::SNDBUF => int(options.send_buffer as i32),
        so::RCVBUF => int(options.receive_buffer as i32),
        so::PRIORITY => int(options.priority),
        so::MARK => int(options.mark as i32),
        so::LINGER => two(i32::from(options.linger.0), options.linger.1),
        so::RCVLOWAT => int(options.receive_low_water.min(i32::MAX as usize) as i32),
        so::SNDLOWAT => int(1),
        so::RCVTIMEO | so::RCVTIMEO_NEW => time(options.receive_timeout_ns),
        so::SNDTIMEO | so::SNDTIMEO_NEW => time(options.send_timeout_ns),
        so::PEEK_OFF if facts.kind.family == 1 || facts.kind.kind != SOCK_STREAM => int(options.peek_offset),
        so::PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        so::BUSY_POLL => int(options.busy_poll),
        so::MAX_PACING_RATE => int(options.pacing.min(u64::from(u32::MAX)) as u32 as i32),
        so::INCOMING_CPU => int(options.incoming_cpu),
        so::BINDTOIFINDEX => int(options.device),
        so::BINDTODEVICE if options.device == 0 => SmallVec::new(),
        so::BINDTODEVICE => net.device_name(options.device).bytes().chain([0]).collect(),
        // Nobody is at the other end, as far as credentials go.
        so::PEERCRED => {
            let mut bytes = two(0, -1);
            bytes.extend_from_slice(&(-1i32).to_le_bytes());
            bytes
        }
        so::PEERGROUPS => return Err(Errno::ENODATA),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}
