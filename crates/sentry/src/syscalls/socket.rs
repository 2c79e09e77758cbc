//! Sockets: making, naming, connecting and their options. Sending and receiving is in `message`.

use std::sync::{Arc, Weak};

use super::fds::{install, install_pair};
use super::mask;
use super::transfer::wait_ready;
use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::anon::{self, Anon};
use crate::fs::permission::{Mask, Ownership, permission};
use crate::fs::{Direction, File, FileKind, NewInode, OpenFlags, ResolveFlags, View, namei, resolve, resolve_parent};
use crate::ipc::unix::{Address, Core, Credentials, Kind, Shutdown, UnixSocket};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitError};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: i32 = 1;
/// Longest socket address (`struct sockaddr_storage`).
const ADDRESS_MAX: usize = 128;

/// The socket behind a descriptor.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`.
pub fn socket_of(cx: &Cx, fd: i32) -> Result<(Arc<File>, Arc<Core>), Errno> {
    let file = cx.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let core = file.downcast::<UnixSocket>().ok_or(Errno::ENOTSOCK)?.core().clone();
    Ok((file, core))
}

/// The task's credentials as a socket's peer sees them.
pub fn credentials(cx: &Cx) -> Credentials {
    let creds = cx.creds();
    Credentials { pid: cx.task.tgid(), uid: creds.euid, gid: creds.egid }
}

/// Somebody's credentials as the caller's namespaces show them.
pub fn seen_by(cx: &Cx, who: Credentials) -> Credentials {
    let ns = &cx.creds().user_ns;
    Credentials { pid: cx.local(who.pid), uid: ns.show_uid(who.uid), gid: ns.show_gid(who.gid) }
}

/// Reads a socket address from guest memory.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn read_address(cx: &Cx, addr: u64, len: u32) -> Result<Vec<u8>, Errno> {
    let len = len as usize;
    if len > ADDRESS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    cx.mm.read(addr, &mut bytes)?;
    Ok(bytes)
}

/// Stores a socket address by accept's rules: as much as fits, and its whole length.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn write_address(cx: &Cx, address: Option<&Address>, addr: u64, len_addr: u64) -> Result<(), Errno> {
    let room = usize::try_from(cx.mm.read_val::<i32>(len_addr)?).map_err(|_| Errno::EINVAL)?;
    let bytes = Address::encode(address);
    cx.mm.write(addr, bytes.get(..room.min(bytes.len())).unwrap_or_default())?;
    cx.mm.write_val(len_addr, &(bytes.len() as i32))
}

/// The socket of an address.
///
/// # Errors
/// `ECONNREFUSED`, `EACCES`, and those of the path.
pub async fn find(cx: &Cx, address: &Address) -> Result<Arc<Core>, Errno> {
    let path = match address {
        Address::Abstract(name) => return cx.kernel().ipc.unix.names.find(name).ok_or(Errno::ECONNREFUSED),
        Address::Path(path) => path,
    };
    let place = resolve(cx, crate::fs::walk::AT_FDCWD, path, ResolveFlags::empty()).await?;
    let owner = Ownership::from(&place.inode().metadata().await?);
    permission(owner, &cx.creds(), Mask::WRITE)?;
    if owner.kind != FileKind::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    let bound = place.inode().socket_slot().and_then(|slot| slot.lock().clone());
    let core = bound.and_then(|bound| bound.downcast::<Weak<Core>>().ok()).and_then(|core| core.upgrade());
    core.ok_or(Errno::ECONNREFUSED)
}

/// `SOCK_*` of a type argument: the kind, and the open flags in it.
fn kind_and_flags(raw: u32) -> Result<(Kind, OpenFlags), Errno> {
    let flags = OpenFlags::from_bits_retain(raw & !0xf);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let kind = match raw & 0xf {
        1 => Kind::Stream,
        2 | 3 => Kind::Datagram,
        5 => Kind::SeqPacket,
        4 | 6 | 10 => return Err(Errno::ESOCKTNOSUPPORT),
        _ => return Err(Errno::EINVAL),
    };
    Ok((kind, flags))
}

fn unix_kind(args: &Args) -> Result<(Kind, OpenFlags), Errno> {
    let (kind, flags) = kind_and_flags(args.u32(1))?;
    match (args.i32(0), args.i32(2)) {
        (AF_UNIX, 0 | AF_UNIX) => Ok((kind, flags)),
        (AF_UNIX, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn open(cx: &Cx, core: Arc<Core>, flags: OpenFlags) -> Arc<File> {
    anon::file(cx, &Anon::Socket, UnixSocket::new(core), OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK))
}

pub fn sys_socket(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(unix_kind(&args).and_then(|(kind, flags)| {
        let file = open(cx, Core::new(kind, &cx.kernel().ipc.unix), flags);
        install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
    }))
}

pub fn sys_socketpair(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(unix_kind(&args).and_then(|(kind, flags)| {
        let (a, b) = Core::pair(kind, &cx.kernel().ipc.unix, credentials(cx));
        let files = (open(cx, a, flags), open(cx, b, flags));
        install_pair(cx, files, flags.contains(OpenFlags::CLOEXEC), args.u64(3))
    }))
}

pub fn sys_bind(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = socket_of(cx, args.i32(0)).and_then(|(_, core)| {
        let bytes = read_address(cx, args.u64(1), args.u32(2))?;
        Ok((core, Address::decode(&bytes)?))
    });
    match prepared {
        Err(errno) => Flow::done(Err(errno)),
        // Binding to the family alone picks a name, unless there is one.
        Ok((core, None)) if core.address().is_some() => Flow::done(Ok(0)),
        Ok((core, None)) => Flow::done(core.bind_abstract(None).map(|()| 0)),
        Ok((core, Some(Address::Abstract(name)))) => Flow::done(core.bind_abstract(Some(name)).map(|()| 0)),
        Ok((core, Some(Address::Path(path)))) => Flow::wait(bind_path(cx, core, path)),
    }
}

async fn bind_path(cx: &mut Cx, core: Arc<Core>, path: Vec<u8>) -> Outcome {
    core.check_unnamed()?;
    let (dir, last) = resolve_parent(cx, crate::fs::walk::AT_FDCWD, &path).await?;
    let creds = cx.creds();
    let new = NewInode {
        kind: FileKind::Socket,
        permissions: 0o777,
        uid: creds.fsuid,
        gid: creds.fsgid,
        rdev: 0,
        target: Vec::new(),
    };
    let place = match namei::create(&View::of(cx), &dir, &last, new).await {
        Ok(place) => place,
        Err(Errno::EEXIST) => return Err(Errno::EADDRINUSE.into()),
        Err(errno) => return Err(errno.into()),
    };
    let slot = place.inode().socket_slot().ok_or(Errno::EOPNOTSUPP)?;
    *slot.lock() = Some(Arc::new(Arc::downgrade(&core)));
    core.set_address(Address::Path(path));
    Ok(0)
}

pub fn sys_listen(cx: &mut Cx, args: Args) -> Flow<'_> {
    let listened = socket_of(cx, args.i32(0)).and_then(|(_, core)| core.listen(args.i32(1), credentials(cx)));
    Flow::done(listened.map(|()| 0))
}

pub fn sys_connect(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = socket_of(cx, args.i32(0)).and_then(|(file, core)| {
        let bytes = read_address(cx, args.u64(1), args.u32(2))?;
        if core.kind == Kind::Datagram && bytes.starts_with(&AF_UNSPEC.to_le_bytes()) {
            return Ok((file, core, None));
        }
        Ok((file, core, Some(Address::decode(&bytes)?.ok_or(Errno::EINVAL)?)))
    });
    match prepared {
        Err(errno) => Flow::done(Err(errno)),
        Ok((_, core, None)) => {
            core.disconnect();
            Flow::done(Ok(0))
        }
        Ok((file, core, Some(address))) => Flow::wait(connect(cx, file, core, address)),
    }
}

async fn connect(cx: &mut Cx, file: Arc<File>, core: Arc<Core>, address: Address) -> Outcome {
    let target = find(cx, &address).await?;
    let who = credentials(cx);
    let nonblocking = file.flags().contains(OpenFlags::NONBLOCK);
    let timeout_ns = core.options().send_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    let attempt = || match core.connect(&target, who) {
        Err(Errno::EAGAIN) if !nonblocking => None,
        result => Some(result),
    };
    let queues = [(target.queue(), PollEvents::OUT)];
    match cx.wait(&queues, deadline, attempt).await {
        Ok(result) => Ok(result.map(|()| 0)?),
        Err(WaitError::TimedOut) => Err(Errno::EAGAIN.into()),
        Err(WaitError::Interrupted) => Err(interrupted(timeout_ns)),
    }
}

/// `sock_intr_errno`.
pub fn interrupted(timeout_ns: Option<u64>) -> Fail {
    match timeout_ns {
        None => Fail::Restart(Restart::Sys),
        Some(_) => Fail::Errno(Errno::EINTR),
    }
}

pub fn sys_accept(cx: &mut Cx, args: Args) -> Flow<'_> {
    accept(cx, args, 0)
}

pub fn sys_accept4(cx: &mut Cx, args: Args) -> Flow<'_> {
    accept(cx, args, args.u32(3))
}

fn accept(cx: &mut Cx, args: Args, flags: u32) -> Flow<'_> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Flow::done(Err(Errno::EINVAL));
    }
    let (file, core) = match socket_of(cx, args.i32(0)) {
        Ok((_, core)) if core.kind == Kind::Datagram => return Flow::done(Err(Errno::EOPNOTSUPP)),
        Ok(found) => found,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match core.accept() {
        Ok(accepted) => Flow::done(accepted_file(cx, &args, accepted, flags)),
        Err(Errno::EAGAIN) if !file.flags().contains(OpenFlags::NONBLOCK) => {
            Flow::wait(accept_waiting(cx, args, file, core, flags))
        }
        Err(errno) => Flow::done(Err(errno)),
    }
}

async fn accept_waiting(cx: &mut Cx, args: Args, file: Arc<File>, core: Arc<Core>, flags: OpenFlags) -> Outcome {
    let timeout_ns = core.options().receive_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    loop {
        match wait_ready(cx, &file, Direction::Read.events(), deadline).await {
            Ok(_) => {}
            Err(WaitError::TimedOut) => return Err(Errno::EAGAIN.into()),
            Err(WaitError::Interrupted) => return Err(interrupted(timeout_ns)),
        }
        match core.accept() {
            Ok(accepted) => return Ok(accepted_file(cx, &args, accepted, flags)?),
            // Another thread was faster.
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn accepted_file(cx: &Cx, args: &Args, core: Arc<Core>, flags: OpenFlags) -> Result<u64, Errno> {
    let address = core.peer().and_then(|peer| peer.address());
    let file = open(cx, core, flags);
    if args.u64(1) != 0 {
        write_address(cx, address.as_ref(), args.u64(1), args.u64(2))?;
    }
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

pub fn sys_getsockname(cx: &mut Cx, args: Args) -> Flow<'_> {
    let stored = socket_of(cx, args.i32(0))
        .and_then(|(_, core)| write_address(cx, core.address().as_ref(), args.u64(1), args.u64(2)));
    Flow::done(stored.map(|()| 0))
}

pub fn sys_getpeername(cx: &mut Cx, args: Args) -> Flow<'_> {
    let stored = socket_of(cx, args.i32(0)).and_then(|(_, core)| {
        let peer = core.peer().ok_or(Errno::ENOTCONN)?;
        write_address(cx, peer.address().as_ref(), args.u64(1), args.u64(2))
    });
    Flow::done(stored.map(|()| 0))
}

pub fn sys_shutdown(cx: &mut Cx, args: Args) -> Flow<'_> {
    let what = match args.i32(1) {
        0 => Shutdown { receive: true, send: false },
        1 => Shutdown { receive: false, send: true },
        2 => Shutdown { receive: true, send: true },
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    Flow::done(socket_of(cx, args.i32(0)).and_then(|(_, core)| core.shut_down(what)).map(|()| 0))
}

/// `SOL_SOCKET` and the options in it (include/uapi/asm-generic/socket.h).
mod so {
    pub const SOL_SOCKET: i32 = 1;
    pub const REUSEADDR: i32 = 2;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const DONTROUTE: i32 = 5;
    pub const BROADCAST: i32 = 6;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const KEEPALIVE: i32 = 9;
    pub const PASSCRED: i32 = 16;
    pub const PEERCRED: i32 = 17;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const ACCEPTCONN: i32 = 30;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
}

/// Limits of buffer sizes: as Linux's, after its doubling.
const SEND_BUFFER: std::ops::RangeInclusive<usize> = 4608..=2 * 212_992;
const RECEIVE_BUFFER: std::ops::RangeInclusive<usize> = 2304..=2 * 212_992;

fn buffer_size(value: i32, limits: std::ops::RangeInclusive<usize>) -> usize {
    (value.max(0) as usize).saturating_mul(2).clamp(*limits.start(), *limits.end())
}

pub fn sys_setsockopt(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(set_option(cx, &args).map(|()| 0))
}

fn set_option(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let (_, core) = socket_of(cx, args.i32(0))?;
    let (level, option, addr, len) = (args.i32(1), args.i32(2), args.u64(3), args.i32(4));
    if level != so::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if len < 4 {
        return Err(Errno::EINVAL);
    }
    if matches!(option, so::RCVTIMEO | so::SNDTIMEO) {
        let timeout_ns = read_timeout(cx, addr, len)?;
        core.set_options(|options| match option {
            so::RCVTIMEO => options.receive_timeout_ns = timeout_ns,
            _ => options.send_timeout_ns = timeout_ns,
        });
        return Ok(());
    }
    let value = cx.mm.read_val::<i32>(addr)?;
    match option {
        so::PASSCRED => core.set_options(|options| options.pass_credentials = value != 0),
        so::SNDBUF | so::SNDBUFFORCE => core.set_send_buffer(buffer_size(value, SEND_BUFFER)),
        so::RCVBUF | so::RCVBUFFORCE => core.set_options(|options| options.receive_buffer = buffer_size(value, RECEIVE_BUFFER)),
        // They mean nothing to unix sockets; Linux takes them too.
        so::REUSEADDR | so::DONTROUTE | so::BROADCAST | so::KEEPALIVE => {
            core.set_options(|options| options.idle_flags.set(option, value != 0));
        }
        so::TYPE | so::ERROR | so::ACCEPTCONN | so::PROTOCOL | so::DOMAIN | so::PEERCRED => return Err(Errno::ENOPROTOOPT),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// A `timeval`; 0 is for ever.
fn read_timeout(cx: &Cx, addr: u64, len: i32) -> Result<Option<u64>, Errno> {
    if len < 16 {
        return Err(Errno::EINVAL);
    }
    let [sec, usec] = cx.mm.read_val::<[i64; 2]>(addr)?;
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // A negative time does not wait at all.
    let ns = if sec < 0 { return Ok(Some(0)) } else { mask::nanoseconds(sec, usec * 1000)? };
    Ok(Some(ns).filter(|&ns| ns > 0))
}

pub fn sys_getsockopt(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(get_option(cx, &args).map(|()| 0))
}

fn get_option(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let (_, core) = socket_of(cx, args.i32(0))?;
    let (level, option, addr, len_addr) = (args.i32(1), args.i32(2), args.u64(3), args.u64(4));
    let room = usize::try_from(cx.mm.read_val::<i32>(len_addr)?).map_err(|_| Errno::EINVAL)?;
    if level != so::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let options = core.options();
    let int = |value: i32| value.to_le_bytes().to_vec();
    let time = |ns: Option<u64>| {
        let ns = ns.unwrap_or(0);
        [(ns / 1_000_000_000).to_le_bytes(), (ns % 1_000_000_000 / 1000).to_le_bytes()].concat()
    };
    let value = match option {
        so::TYPE => int(core.kind as i32),
        so::ERROR => int(core.take_error().map_or(0, Errno::raw)),
        so::SNDBUF => int(core.send_buffer() as i32),
        so::RCVBUF => int(options.receive_buffer as i32),
        so::PASSCRED => int(i32::from(options.pass_credentials)),
        so::ACCEPTCONN => int(i32::from(core.is_listening())),
        so::PROTOCOL => int(0),
        so::DOMAIN => int(AF_UNIX),
        so::RCVTIMEO => time(options.receive_timeout_ns),
        so::SNDTIMEO => time(options.send_timeout_ns),
        so::REUSEADDR | so::DONTROUTE | so::BROADCAST | so::KEEPALIVE => int(i32::from(options.idle_flags.get(option))),
        so::PEERCRED => {
            let peer = core.peer_credentials().map_or(Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX }, |peer| seen_by(cx, peer));
            [peer.pid.to_le_bytes(), peer.uid.to_le_bytes(), peer.gid.to_le_bytes()].concat()
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    let n = room.min(value.len());
    cx.mm.write(addr, value.get(..n).unwrap_or_default())?;
    cx.mm.write_val(len_addr, &(n as i32))
}

const _: () = assert!(uapi::O_CLOEXEC == OpenFlags::CLOEXEC.bits(), "SOCK_CLOEXEC is O_CLOEXEC");
