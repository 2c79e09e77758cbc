//! Sockets: making, naming, connecting and their options, whatever the family. Sending and receiving is in `message`.

use std::sync::Arc;

use super::fds::{install, install_pair};
use super::transfer::wait_ready;
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::anon::{self, Anon};
use crate::fs::{Direction, File, OpenFlags};
use crate::ipc::unix::{self, Core, UnixSocket};
use crate::net;
use crate::net::options::OptionIn;
use crate::net::socket::{Accepted, End, Kind, Shutdown, Socket, SocketFile, Waiting};
use crate::task::Cx;
use crate::wait::WaitError;

const AF_UNIX: i32 = 1;
/// One past the largest family (`AF_MAX`).
const AF_MAX: i32 = 46;
/// One past the largest type (`SOCK_MAX`).
const SOCK_MAX: u32 = 11;
/// Longest socket address (`struct sockaddr_storage`).
const ADDRESS_MAX: usize = 128;

/// The socket behind a descriptor.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`.
pub fn socket_of(cx: &Cx, fd: i32) -> Result<(Arc<File>, Arc<dyn Socket>), Errno> {
    let file = cx.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let socket = SocketFile::of(&file).ok_or(Errno::ENOTSOCK)?.clone();
    Ok((file, socket))
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
pub fn write_address(cx: &Cx, address: &[u8], addr: u64, len_addr: u64) -> Result<(), Errno> {
    let room = usize::try_from(cx.mm.read_val::<i32>(len_addr)?).map_err(|_| Errno::EINVAL)?;
    cx.mm.write(addr, address.get(..room.min(address.len())).unwrap_or_default())?;
    cx.mm.write_val(len_addr, &(address.len() as i32))
}

/// The family, type and protocol asked for, and the open flags in the type.
fn kind_and_flags(args: &Args) -> Result<(Kind, OpenFlags), Errno> {
    let raw = args.u32(1);
    let flags = OpenFlags::from_bits_retain(raw & !0xf);
    let kind = raw & 0xf;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    if !(0..AF_MAX).contains(&args.i32(0)) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind >= SOCK_MAX {
        return Err(Errno::EINVAL);
    }
    Ok((Kind { family: args.i32(0), kind: kind as i32, protocol: args.i32(2) }, flags))
}

fn unix_kind(kind: Kind) -> Result<unix::Kind, Errno> {
    match (kind.protocol, kind.kind) {
        (0 | AF_UNIX, 1) => Ok(unix::Kind::Stream),
        (0 | AF_UNIX, 2 | 3) => Ok(unix::Kind::Datagram),
        (0 | AF_UNIX, 5) => Ok(unix::Kind::SeqPacket),
        (0 | AF_UNIX, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}

fn open(cx: &Cx, socket: Arc<dyn Socket>, flags: OpenFlags) -> Arc<File> {
    let flags = OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK);
    let file = anon::file(cx, &Anon::Socket, Arc::new(SocketFile(socket.clone())), flags);
    if let Some(ino) = anon::number(&file) {
        socket.set_inode(ino);
    }
    file
}

pub fn sys_socket(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(kind_and_flags(&args).and_then(|(kind, flags)| {
        let socket: Arc<dyn Socket> = match kind.family {
            AF_UNIX => UnixSocket::new(Core::new(unix_kind(kind)?, &cx.task.namespaces().net.unix)),
            _ => net::make(cx, kind)?,
        };
        let file = open(cx, socket, flags);
        install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
    }))
}

pub fn sys_socketpair(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(kind_and_flags(&args).and_then(|(kind, flags)| {
        if kind.family != AF_UNIX {
            // A family that is there has no pairs.
            net::make(cx, kind)?.close();
            return Err(Errno::EOPNOTSUPP);
        }
        let (a, b) = Core::pair(unix_kind(kind)?, &cx.task.namespaces().net.unix, unix::credentials(cx));
        let files = (open(cx, UnixSocket::new(a), flags), open(cx, UnixSocket::new(b), flags));
        install_pair(cx, files, flags.contains(OpenFlags::CLOEXEC), args.u64(3))
    }))
}

fn socket_and_address(cx: &Cx, args: &Args) -> Result<(Arc<File>, Arc<dyn Socket>, Vec<u8>), Errno> {
    let (file, socket) = socket_of(cx, args.i32(0))?;
    let address = read_address(cx, args.u64(1), args.u32(2))?;
    Ok((file, socket, address))
}

pub fn sys_bind(cx: &mut Cx, args: Args) -> Flow<'_> {
    match socket_and_address(cx, &args) {
        Err(errno) => Flow::done(Err(errno)),
        Ok((_, socket, address)) => socket.bind(cx, address),
    }
}

pub fn sys_listen(cx: &mut Cx, args: Args) -> Flow<'_> {
    let listened = socket_of(cx, args.i32(0)).and_then(|(_, socket)| socket.listen(cx, args.i32(1)));
    Flow::done(listened.map(|()| 0))
}

pub fn sys_connect(cx: &mut Cx, args: Args) -> Flow<'_> {
    match socket_and_address(cx, &args) {
        Err(errno) => Flow::done(Err(errno)),
        Ok((file, socket, address)) => {
            let waiting = if file.flags().contains(OpenFlags::NONBLOCK) { Waiting::Never } else { Waiting::Allowed };
            socket.connect(cx, address, waiting)
        }
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
    let (file, socket) = match socket_of(cx, args.i32(0)) {
        Ok(found) => found,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match socket.accept() {
        Ok(accepted) => Flow::done(accepted_file(cx, &args, accepted, flags)),
        Err(Errno::EAGAIN) if !file.flags().contains(OpenFlags::NONBLOCK) => {
            Flow::wait(accept_waiting(cx, args, file, socket, flags))
        }
        Err(errno) => Flow::done(Err(errno)),
    }
}

async fn accept_waiting(cx: &mut Cx, args: Args, file: Arc<File>, socket: Arc<dyn Socket>, flags: OpenFlags) -> Outcome {
    let timeout_ns = socket.options().lock().receive_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    loop {
        match wait_ready(cx, &file, Direction::Read.events(), deadline).await {
            Ok(_) => {}
            Err(WaitError::TimedOut) => return Err(Errno::EAGAIN.into()),
            Err(WaitError::Interrupted) => return Err(Fail::interrupted(timeout_ns)),
        }
        match socket.accept() {
            Ok(accepted) => return Ok(accepted_file(cx, &args, accepted, flags)?),
            // Another thread was faster.
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn accepted_file(cx: &Cx, args: &Args, accepted: Accepted, flags: OpenFlags) -> Result<u64, Errno> {
    let file = open(cx, accepted.socket, flags);
    if args.u64(1) != 0 {
        write_address(cx, &accepted.from, args.u64(1), args.u64(2))?;
    }
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

pub fn sys_getsockname(cx: &mut Cx, args: Args) -> Flow<'_> {
    store_name(cx, &args, End::Own)
}

pub fn sys_getpeername(cx: &mut Cx, args: Args) -> Flow<'_> {
    store_name(cx, &args, End::Peer)
}

fn store_name<'a>(cx: &'a mut Cx, args: &Args, end: End) -> Flow<'a> {
    let stored =
        socket_of(cx, args.i32(0)).and_then(|(_, socket)| write_address(cx, &socket.name(end)?, args.u64(1), args.u64(2)));
    Flow::done(stored.map(|()| 0))
}

pub fn sys_shutdown(cx: &mut Cx, args: Args) -> Flow<'_> {
    let result = socket_of(cx, args.i32(0)).and_then(|(_, socket)| {
        let what = match args.i32(1) {
            0 => Shutdown { receive: true, send: false },
            1 => Shutdown { receive: false, send: true },
            2 => Shutdown { receive: true, send: true },
            _ => return Err(Errno::EINVAL),
        };
        socket.shut_down(what)
    });
    Flow::done(result.map(|()| 0))
}

pub fn sys_setsockopt(cx: &mut Cx, args: Args) -> Flow<'_> {
    let set = usize::try_from(args.i32(4)).map_err(|_| Errno::EINVAL).and_then(|len| {
        let (_, socket) = socket_of(cx, args.i32(0))?;
        socket.set_option(cx, args.i32(1), args.i32(2), OptionIn { mm: &cx.mm, addr: args.u64(3), len })
    });
    Flow::done(set.map(|()| 0))
}

pub fn sys_getsockopt(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(get_option(cx, &args).map(|()| 0))
}

fn get_option(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let (_, socket) = socket_of(cx, args.i32(0))?;
    let room = usize::try_from(cx.mm.read_val::<i32>(args.u64(4))?).map_err(|_| Errno::EINVAL)?;
    let value = socket.option(cx, args.i32(1), args.i32(2), OptionIn { mm: &cx.mm, addr: args.u64(3), len: room }).map_err(
        |errno| match errno {
            Errno::ENOPROTOOPT if strange_level(socket.kind(), args.i32(1)) => Errno::EOPNOTSUPP,
            errno => errno,
        },
    )?;
    let n = room.min(value.len());
    cx.mm.write(args.u64(3), value.get(..n).unwrap_or_default())?;
    cx.mm.write_val(args.u64(4), &(n as i32))
}

/// Whether an IPv4 socket knows nothing of a level: `ip_getsockopt` then says so in its own way.
fn strange_level(kind: Kind, level: i32) -> bool {
    const SOL_RAW: i32 = 255;
    const IPPROTO_TCP: i32 = 6;
    const IPPROTO_UDP: i32 = 17;
    let own = match (kind.kind, kind.protocol) {
        (net::socket::SOCK_RAW, _) => SOL_RAW,
        (net::socket::SOCK_STREAM, 0) => IPPROTO_TCP,
        (_, 0) => IPPROTO_UDP,
        (_, protocol) => protocol,
    };
    kind.family == i32::from(net::address::AF_INET) && level != net::options::SOL_SOCKET && level != 0 && level != own
}

const _: () = assert!(uapi::O_CLOEXEC == OpenFlags::CLOEXEC.bits(), "SOCK_CLOEXEC is O_CLOEXEC");
