//! Sending and receiving on sockets: send*, recv*, and what goes with the bytes.

use std::sync::Arc;

use smallvec::smallvec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fds::install;
use super::mask;
use super::socket::{find, interrupted, read_address, socket_of, write_address};
use super::transfer::{broken_pipe, part, total};
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::fs::{File, OpenFlags};
use crate::ipc::unix::{Address, Core, Credentials, Kind, Outgoing, Received};
use crate::mm::{Ranges, UserSink, UserSource};
use crate::ns::Ids;
use crate::task::{Capability, Cx, Resource};
use crate::wait::{Interrupt, PollEvents, WaitError};

bitflags::bitflags! {
    /// `MSG_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Flags: u32 {
        const OOB = 0x1;
        const PEEK = 0x2;
        const DONTROUTE = 0x4;
        const CTRUNC = 0x8;
        const TRUNC = 0x20;
        const DONTWAIT = 0x40;
        const EOR = 0x80;
        const WAITALL = 0x100;
        const NOSIGNAL = 0x4000;
        const MORE = 0x8000;
        const WAITFORONE = 0x1_0000;
        const CMSG_CLOEXEC = 0x4000_0000;
        const _ = !0;
    }
}

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Most files in a message.
const SCM_MAX_FD: usize = 253;
/// `sizeof(struct cmsghdr)`.
const CMSG_HEADER: usize = 16;
/// Longest control data that is looked at (`net.core.optmem_max`).
const CONTROL_MAX: u64 = 131_072;
/// Not in [`Errno`]'s names.
const ETOOMANYREFS: i32 = 109;
/// Most messages of one call.
const MESSAGES_MAX: u32 = 1024;

/// `struct msghdr`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MsgHdr {
    name: u64,
    name_len: u32,
    pad: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    pad_end: u32,
}

/// Size of `struct mmsghdr`, and where its `msg_len` is.
const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LEN_AT: u64 = 56;

/// A message to be sent.
struct Send {
    file: Arc<File>,
    core: Arc<Core>,
    ranges: Ranges,
    flags: Flags,
    out: Outgoing,
    to: Option<Address>,
}

fn sender(cx: &Cx) -> Credentials {
    let creds = cx.creds();
    Credentials { pid: cx.task.tgid(), uid: creds.uid, gid: creds.gid }
}

fn prepare_sendto(cx: &Cx, args: &Args) -> Result<Send, Errno> {
    let (file, core) = socket_of(cx, args.i32(0))?;
    let to = match args.u64(4) {
        0 => None,
        addr => Some(read_address(cx, addr, args.u32(5))?),
    };
    let ranges = smallvec![(args.u64(1), args.io_len(2))];
    build_send(cx, file, core, ranges, args.u32(3), to)
}

fn prepare_sendmsg(cx: &Cx, fd: i32, addr: u64, flags: u32) -> Result<Send, Errno> {
    let (file, core) = socket_of(cx, fd)?;
    let header: MsgHdr = cx.mm.read_val(addr)?;
    let to = match header.name {
        0 => None,
        name => Some(read_address(cx, name, header.name_len)?),
    };
    let ranges = cx.mm.read_ranges(header.iov, header.iov_len)?;
    let mut send = build_send(cx, file, core, ranges, flags, to)?;
    if header.control != 0 && header.control_len > 0 {
        if header.control_len > CONTROL_MAX {
            return Err(Errno::ENOBUFS);
        }
        let mut control = vec![0; header.control_len as usize];
        cx.mm.read(header.control, &mut control)?;
        read_control(cx, &control, &mut send.out)?;
    }
    Ok(send)
}

fn build_send(
    cx: &Cx,
    file: Arc<File>,
    core: Arc<Core>,
    ranges: Ranges,
    flags: u32,
    to: Option<Vec<u8>>,
) -> Result<Send, Errno> {
    let flags = Flags::from_bits_retain(flags);
    if flags.contains(Flags::OOB) {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = match to.filter(|bytes| !bytes.is_empty()) {
        None => None,
        Some(_) if core.kind == Kind::Stream => {
            return Err(if core.peer().is_some() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        // Connected anyway; the name is ignored (unix_seqpacket_sendmsg).
        Some(_) if core.kind == Kind::SeqPacket => None,
        Some(bytes) => Some(Address::decode(&bytes)?.ok_or(Errno::EINVAL)?),
    };
    let out = Outgoing { credentials: sender(cx), ..Outgoing::default() };
    Ok(Send { file, core, ranges, flags, out, to })
}

/// Reads control messages.
fn read_control(cx: &Cx, mut control: &[u8], out: &mut Outgoing) -> Result<(), Errno> {
    while control.len() >= CMSG_HEADER {
        let word = |at: usize| control.get(at..at + 4).map_or(0, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let len = control.get(..8).map_or(0, |b| b.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte)));
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let data = control.get(CMSG_HEADER..len).ok_or(Errno::EINVAL)?;
        let ints = data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if word(8) == SOL_SOCKET {
            match word(12) {
                SCM_RIGHTS => send_files(cx, ints, out)?,
                SCM_CREDENTIALS => out.credentials = claimed(cx, ints.collect::<Vec<_>>().as_slice())?,
                _ => return Err(Errno::EINVAL),
            }
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(())
}

fn send_files(cx: &Cx, fds: impl Iterator<Item = i32>, out: &mut Outgoing) -> Result<(), Errno> {
    for fd in fds {
        let file = cx.file(fd)?;
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF);
        }
        out.files.push(file);
        if out.files.len() > SCM_MAX_FD {
            return Err(Errno::EINVAL);
        }
    }
    let limit = cx.task.rlimit(Resource::Nofile).soft;
    let creds = cx.creds();
    let privileged = creds.has(Capability::SysResource) || creds.has(Capability::SysAdmin);
    if !privileged && cx.kernel().ipc.unix.gc.in_flight() as u64 > limit {
        return Err(Errno::from_raw(ETOOMANYREFS));
    }
    Ok(())
}

/// Credentials that the sender claims (`scm_check_creds`).
fn claimed(cx: &Cx, ints: &[i32]) -> Result<Credentials, Errno> {
    let &[pid, uid, gid] = ints else { return Err(Errno::EINVAL) };
    let creds = cx.creds();
    let uid = creds.user_ns.kernel_id(Ids::Users, uid as u32).ok_or(Errno::EINVAL)?;
    let gid = creds.user_ns.kernel_id(Ids::Groups, gid as u32).ok_or(Errno::EINVAL)?;
    let ns = &cx.task.group.pid_ns;
    let pid = if pid == 0 { Some(0) } else { ns.global(pid) }.ok_or(Errno::ESRCH)?;
    let allowed = (pid == cx.task.tgid() || creds.has_in(&ns.owner(), Capability::SysAdmin))
        && ([creds.uid, creds.euid, creds.suid].contains(&uid) || creds.has_own(Capability::Setuid))
        && ([creds.gid, creds.egid, creds.sgid].contains(&gid) || creds.has_own(Capability::Setgid));
    if allowed { Ok(Credentials { pid, uid, gid }) } else { Err(Errno::EPERM) }
}

impl Send {
    fn nonblocking(&self) -> bool {
        self.flags.contains(Flags::DONTWAIT) || self.file.flags().contains(OpenFlags::NONBLOCK)
    }

    fn failed(&self, cx: &Cx, errno: Errno) -> Fail {
        if !self.flags.contains(Flags::NOSIGNAL) && self.core.kind == Kind::Stream {
            broken_pipe(cx, errno);
        }
        errno.into()
    }

    /// The result if it is there without waiting; otherwise how much is done.
    fn now(&mut self, cx: &Cx) -> Result<Outcome, usize> {
        if let Some(Address::Path(_)) = self.to {
            return Err(0);
        }
        if let Some(Address::Abstract(name)) = &self.to {
            match cx.kernel().ipc.unix.names.find(name) {
                Some(core) => self.out.to = Some(core),
                None => return Ok(Err(Errno::ECONNREFUSED.into())),
            }
        }
        let whole = total(&self.ranges);
        let mut source = UserSource::from_ranges(&cx.mm, part(&self.ranges, 0));
        match self.core.send(&mut source, &mut self.out) {
            Ok(n) if n >= whole || self.nonblocking() => Ok(Ok(n as u64)),
            Ok(n) => Err(n),
            Err(Errno::EAGAIN) if !self.nonblocking() => Err(0),
            Err(errno) => Ok(Err(self.failed(cx, errno))),
        }
    }

    async fn later(mut self, cx: &mut Cx, mut done: usize) -> Outcome {
        if let Some(address @ Address::Path(_)) = &self.to {
            self.out.to = Some(find(cx, address).await?);
        }
        let whole = total(&self.ranges);
        let timeout_ns = self.core.options().send_timeout_ns;
        let deadline = cx.deadline(timeout_ns);
        let nonblocking = self.nonblocking();
        let core = self.core.clone();
        loop {
            let target = self.out.to.clone().or_else(|| core.peer());
            let mut queues: smallvec::SmallVec<[_; 2]> = smallvec![(core.queue(), PollEvents::OUT)];
            if let Some(target) = &target {
                queues.push((target.queue(), PollEvents::OUT));
            }
            let (ranges, out) = (&self.ranges, &mut self.out);
            let attempt = || {
                let mut source = UserSource::from_ranges(&cx.mm, part(ranges, done));
                match core.send(&mut source, out) {
                    Err(Errno::EAGAIN) if !nonblocking => None,
                    result => Some(result),
                }
            };
            let error = match cx.wait(&queues, deadline, attempt).await {
                Ok(Ok(n)) => {
                    done += n;
                    if done >= whole || nonblocking || cx.task.interrupted() {
                        return Ok(done as u64);
                    }
                    crate::executor::yield_now().await;
                    continue;
                }
                Ok(Err(errno)) => self.failed(cx, errno),
                Err(WaitError::TimedOut) => Errno::EAGAIN.into(),
                Err(WaitError::Interrupted) => interrupted(timeout_ns),
            };
            return if done > 0 { Ok(done as u64) } else { Err(error) };
        }
    }
}

fn send(cx: &mut Cx, prepared: Result<Send, Errno>) -> Flow<'_> {
    let mut send = match prepared {
        Ok(send) => send,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match send.now(cx) {
        Ok(outcome) => Flow::Done(outcome),
        Err(done) => Flow::wait(send.later(cx, done)),
    }
}

pub fn sys_sendto(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = prepare_sendto(cx, &args);
    send(cx, prepared)
}

pub fn sys_sendmsg(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = prepare_sendmsg(cx, args.i32(0), args.u64(1), args.u32(2));
    send(cx, prepared)
}

pub fn sys_sendmmsg(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let mut sent = 0;
        for at in 0..u64::from(args.u32(2).min(MESSAGES_MAX)) {
            let header = args.u64(1).wrapping_add(at * MMSGHDR_SIZE);
            let outcome = match prepare_sendmsg(cx, args.i32(0), header, args.u32(3)) {
                Ok(mut send) => match send.now(cx) {
                    Ok(outcome) => outcome,
                    Err(done) => send.later(cx, done).await,
                },
                Err(errno) => Err(errno.into()),
            };
            let stored = outcome.and_then(|n| Ok(cx.mm.write_val(header.wrapping_add(MMSGHDR_LEN_AT), &(n as u32))?));
            match stored {
                Ok(()) => sent += 1,
                Err(_) if sent > 0 => break,
                Err(fail) => return Err(fail),
            }
        }
        Ok(sent)
    })
}

/// A receive.
struct Receive {
    file: Arc<File>,
    core: Arc<Core>,
    ranges: Ranges,
    flags: Flags,
}

impl Receive {
    fn new(cx: &Cx, fd: i32, ranges: Ranges, flags: u32) -> Result<Receive, Errno> {
        let (file, core) = socket_of(cx, fd)?;
        let flags = Flags::from_bits_retain(flags);
        if flags.contains(Flags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(Receive { file, core, ranges, flags })
    }

    fn nonblocking(&self) -> bool {
        self.flags.contains(Flags::DONTWAIT) || self.file.flags().contains(OpenFlags::NONBLOCK)
    }

    fn attempt(&self, cx: &Cx, done: usize) -> Result<Received, Errno> {
        let mut sink = UserSink::from_ranges(&cx.mm, part(&self.ranges, done));
        self.core.receive(&mut sink, self.flags.contains(Flags::PEEK))
    }

    /// The result if it is there without waiting.
    fn now(&self, cx: &Cx) -> Option<Result<Received, Errno>> {
        let whole = total(&self.ranges);
        if self.wants_all() && whole > 0 {
            return None;
        }
        if whole == 0 && self.core.kind == Kind::Stream {
            return Some(Ok(Received::default()));
        }
        match self.attempt(cx, 0) {
            Err(Errno::EAGAIN) if !self.nonblocking() => None,
            result => Some(result),
        }
    }

    fn wants_all(&self) -> bool {
        self.core.kind == Kind::Stream && self.flags.contains(Flags::WAITALL) && !self.flags.contains(Flags::PEEK)
    }

    async fn later(&self, cx: &mut Cx) -> Result<Received, Fail> {
        let timeout_ns = self.core.options().receive_timeout_ns;
        let deadline = cx.deadline(timeout_ns);
        let nonblocking = self.nonblocking();
        let whole = total(&self.ranges);
        let mut all = Received::default();
        loop {
            let done = all.bytes;
            let attempt = || match self.attempt(cx, done) {
                Err(Errno::EAGAIN) if !nonblocking => None,
                result => Some(result),
            };
            let queues = [(self.core.queue(), PollEvents::IN)];
            let error = match cx.wait(&queues, deadline, attempt).await {
                Ok(Ok(received)) => {
                    let end = received.bytes == 0 || !received.files.is_empty();
                    let bytes = done + received.bytes;
                    all = Received { bytes, length: done + received.length, ..received };
                    if end || !self.wants_all() || bytes >= whole {
                        return Ok(all);
                    }
                    continue;
                }
                Ok(Err(errno)) => errno.into(),
                Err(WaitError::TimedOut) => Errno::EAGAIN.into(),
                Err(WaitError::Interrupted) => interrupted(timeout_ns),
            };
            return if all.bytes > 0 { Ok(all) } else { Err(error) };
        }
    }

    /// The return value.
    fn value(&self, received: &Received) -> u64 {
        let whole = self.flags.contains(Flags::TRUNC) && self.core.kind != Kind::Stream;
        (if whole { received.length } else { received.bytes }) as u64
    }
}

pub fn sys_recvfrom(cx: &mut Cx, args: Args) -> Flow<'_> {
    let ranges: Ranges = smallvec![(args.u64(1), args.io_len(2))];
    let receive = match Receive::new(cx, args.i32(0), ranges, args.u32(3)) {
        Ok(receive) => receive,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let finish = move |cx: &Cx, receive: &Receive, received: Received| {
        if args.u64(4) != 0 && receive.core.kind == Kind::Datagram {
            write_address(cx, received.from.as_ref(), args.u64(4), args.u64(5))?;
        } else if args.u64(4) != 0 {
            cx.mm.write_val(args.u64(5), &0i32)?;
        }
        Ok(receive.value(&received))
    };
    match receive.now(cx) {
        Some(result) => Flow::done(result.and_then(|received| finish(cx, &receive, received))),
        None => Flow::wait(async move {
            let received = receive.later(cx).await?;
            Ok(finish(cx, &receive, received)?)
        }),
    }
}

fn prepare_recvmsg(cx: &Cx, fd: i32, addr: u64, flags: u32) -> Result<(Receive, MsgHdr), Errno> {
    let header: MsgHdr = cx.mm.read_val(addr)?;
    let ranges = cx.mm.read_ranges(header.iov, header.iov_len)?;
    Ok((Receive::new(cx, fd, ranges, flags)?, header))
}

/// Stores everything that came with the bytes.
fn finish_recvmsg(cx: &Cx, receive: &Receive, addr: u64, mut header: MsgHdr, mut received: Received) -> Result<u64, Errno> {
    let mut flags = receive.flags & Flags::CMSG_CLOEXEC;
    flags.set(Flags::TRUNC, received.bytes < received.length);
    if header.name != 0 {
        let name = match receive.core.kind {
            Kind::Datagram => Address::encode(received.from.as_ref()),
            _ => Vec::new(),
        };
        let n = name.len().min(header.name_len as usize);
        cx.mm.write(header.name, name.get(..n).unwrap_or_default())?;
        header.name_len = name.len() as u32;
    }
    let control = control_of(cx, receive, &header, &mut received, &mut flags);
    cx.mm.write(header.control, &control)?;
    header.control_len = control.len() as u64;
    header.flags = flags.bits();
    cx.mm.write_val(addr, &header)?;
    Ok(receive.value(&received))
}

/// Control messages for what was received, as far as they fit; files get descriptors.
fn control_of(cx: &Cx, receive: &Receive, header: &MsgHdr, received: &mut Received, flags: &mut Flags) -> Vec<u8> {
    let room = if header.control == 0 { 0 } else { header.control_len.min(CONTROL_MAX) as usize };
    let mut control = Vec::new();
    if let Some(who) = received.credentials.filter(|_| receive.core.options().pass_credentials) {
        if room >= CMSG_HEADER + size_of::<Credentials>() {
            put_control(&mut control, SCM_CREDENTIALS, super::socket::seen_by(cx, who).as_bytes(), room);
        } else {
            *flags |= Flags::CTRUNC;
        }
    }
    let files = std::mem::take(&mut received.files);
    if files.is_empty() {
        return control;
    }
    let most = room.saturating_sub(control.len() + CMSG_HEADER) / 4;
    let close_on_exec = receive.flags.contains(Flags::CMSG_CLOEXEC);
    let mut fds = Vec::new();
    for file in files {
        match (fds.len() < most).then(|| install(cx, file, close_on_exec)) {
            Some(Ok(fd)) => fds.push(fd),
            _ => {
                *flags |= Flags::CTRUNC;
                break;
            }
        }
    }
    if !fds.is_empty() {
        put_control(&mut control, SCM_RIGHTS, fds.as_slice().as_bytes(), room);
    }
    control
}

/// Adds a control message, padded as far as the guest's buffer goes.
fn put_control(control: &mut Vec<u8>, kind: i32, data: &[u8], room: usize) {
    control.extend_from_slice(&((CMSG_HEADER + data.len()) as u64).to_le_bytes());
    control.extend_from_slice(&SOL_SOCKET.to_le_bytes());
    control.extend_from_slice(&kind.to_le_bytes());
    control.extend_from_slice(data);
    control.resize(control.len().next_multiple_of(8).min(room), 0);
}

pub fn sys_recvmsg(cx: &mut Cx, args: Args) -> Flow<'_> {
    let addr = args.u64(1);
    let (receive, header) = match prepare_recvmsg(cx, args.i32(0), addr, args.u32(2)) {
        Ok(prepared) => prepared,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match receive.now(cx) {
        Some(result) => Flow::done(result.and_then(|received| finish_recvmsg(cx, &receive, addr, header, received))),
        None => Flow::wait(async move {
            let received = receive.later(cx).await?;
            Ok(finish_recvmsg(cx, &receive, addr, header, received)?)
        }),
    }
}

async fn receive_one(cx: &mut Cx, fd: i32, addr: u64, flags: u32) -> Outcome {
    let (receive, header) = prepare_recvmsg(cx, fd, addr, flags)?;
    let received = match receive.now(cx) {
        Some(result) => result?,
        None => receive.later(cx).await?,
    };
    Ok(finish_recvmsg(cx, &receive, addr, header, received)?)
}

/// The time-out is looked at after each message only (recvmmsg(2), BUGS).
pub fn sys_recvmmsg(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let timeout_ns = mask::timespec(cx, args.u64(4))?;
        let until = timeout_ns.map(|timeout_ns| cx.now().after(timeout_ns));
        let mut flags = Flags::from_bits_retain(args.u32(3));
        let mut count = 0;
        for at in 0..u64::from(args.u32(2).min(MESSAGES_MAX)) {
            let header = args.u64(1).wrapping_add(at * MMSGHDR_SIZE);
            let outcome = receive_one(cx, args.i32(0), header, (flags - Flags::WAITFORONE).bits()).await;
            let stored = outcome.and_then(|n| Ok(cx.mm.write_val(header.wrapping_add(MMSGHDR_LEN_AT), &(n as u32))?));
            match stored {
                Ok(()) => count += 1,
                Err(_) if count > 0 => break,
                Err(fail) => return Err(fail),
            }
            if flags.contains(Flags::WAITFORONE) {
                flags |= Flags::DONTWAIT;
            }
            if until.is_some_and(|until| cx.now() >= until) {
                break;
            }
        }
        Ok(count)
    })
}
