//! Sending and receiving on sockets: send*, recv*, and what goes with the bytes.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fds::install;
use super::mask;
use super::socket::{read_address, socket_of, write_address};
use super::transfer::{broken_pipe, part, total};
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::fs::{File, OpenFlags};
use crate::ipc::unix;
use crate::mm::{Ranges, UserSink, UserSource};
use crate::net::options::SOL_SOCKET;
use crate::net::socket::{Control, MsgFlags, Outgoing, Received, SOCK_STREAM, Socket};
use crate::step::Step;
use crate::task::Cx;
use crate::wait::{Interrupt, PollEvents, WaitError};

const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// `sizeof(struct cmsghdr)`.
const CMSG_HEADER: usize = 16;
/// Longest control data that is looked at (`net.core.optmem_max`).
const CONTROL_MAX: u64 = 131_072;
/// Most pieces of a message (`UIO_MAXIOV`).
const IOV_MAX: u64 = 1024;
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
    socket: Arc<dyn Socket>,
    ranges: Ranges,
    out: Outgoing,
    /// Not yet looked up.
    to: Option<Vec<u8>>,
}

fn prepare_sendto(cx: &Cx, args: &Args) -> Result<Send, Errno> {
    let (file, socket) = socket_of(cx, args.i32(0))?;
    let to = match args.u64(4) {
        0 => None,
        addr => Some(read_address(cx, addr, args.u32(5))?),
    };
    let ranges = smallvec![(args.u64(1), args.io_len(2))];
    Ok(build_send(cx, file, socket, ranges, args.u32(3), to))
}

fn prepare_sendmsg(cx: &Cx, fd: i32, addr: u64, flags: u32) -> Result<Send, Errno> {
    let (file, socket) = socket_of(cx, fd)?;
    let header: MsgHdr = cx.mm.read_val(addr)?;
    let to = match header.name {
        0 => None,
        // A name that is too long is cut (copy_msghdr_from_user).
        name => Some(read_address(cx, name, name_len(header.name_len)?)?),
    };
    let ranges = ranges_of(cx, &header)?;
    let mut send = build_send(cx, file, socket, ranges, flags, to);
    if header.control != 0 && header.control_len > 0 {
        if header.control_len > CONTROL_MAX {
            return Err(Errno::ENOBUFS);
        }
        let mut control = vec![0; header.control_len as usize];
        cx.mm.read(header.control, &mut control)?;
        read_control(cx, &control, &send.socket, &mut send.out)?;
    }
    Ok(send)
}

/// A message's pieces; too many are an error of their own here.
fn ranges_of(cx: &Cx, header: &MsgHdr) -> Result<Ranges, Errno> {
    if header.iov_len > IOV_MAX {
        return Err(Errno::EMSGSIZE);
    }
    cx.mm.read_ranges(header.iov, header.iov_len)
}

fn name_len(len: u32) -> Result<u32, Errno> {
    if (len as i32) < 0 { Err(Errno::EINVAL) } else { Ok(len.min(128)) }
}

fn build_send(cx: &Cx, file: Arc<File>, socket: Arc<dyn Socket>, ranges: Ranges, flags: u32, to: Option<Vec<u8>>) -> Send {
    let out = Outgoing { flags: MsgFlags::from_bits_retain(flags), ..socket.outgoing(cx) };
    Send { file, socket, ranges, out, to }
}

/// Reads control messages.
fn read_control(cx: &Cx, mut control: &[u8], socket: &Arc<dyn Socket>, out: &mut Outgoing) -> Result<(), Errno> {
    while control.len() >= CMSG_HEADER {
        let word = |at: usize| control.get(at..at + 4).map_or(0, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let len = control.get(..8).map_or(0, |b| b.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte)));
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let data = control.get(CMSG_HEADER..len).ok_or(Errno::EINVAL)?;
        socket.take_control(cx, Control::new(word(8), word(12), data), out)?;
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(())
}

impl Send {
    fn nonblocking(&self) -> bool {
        self.out.flags.contains(MsgFlags::DONTWAIT) || self.file.flags().contains(OpenFlags::NONBLOCK)
    }

    fn failed(&self, cx: &Cx, errno: Errno) -> Fail {
        if !self.out.flags.contains(MsgFlags::NOSIGNAL) {
            broken_pipe(cx, &self.file, errno);
        }
        errno.into()
    }

    /// The result if it is there without waiting; otherwise how much is done.
    fn now(&mut self, cx: &Cx) -> Result<Outcome, usize> {
        if let Some(address) = &self.to {
            match self.socket.target(cx, address.clone()) {
                Step::Ready(Ok(target)) => self.out.to = target,
                Step::Ready(Err(fail)) => return Ok(Err(fail)),
                Step::Wait(_) => return Err(0),
            }
            self.to = None;
        }
        let whole = total(&self.ranges);
        let mut source = UserSource::from_ranges(&cx.mm, part(&self.ranges, 0));
        match self.socket.send(&mut source, &mut self.out) {
            Ok(n) if n >= whole || self.nonblocking() => Ok(Ok(n as u64)),
            Ok(n) => Err(n),
            Err(Errno::EAGAIN) if !self.nonblocking() => Err(0),
            Err(errno) => Ok(Err(self.failed(cx, errno))),
        }
    }

    async fn later(mut self, cx: &mut Cx, mut done: usize) -> Outcome {
        if let Some(address) = self.to.take() {
            self.out.to = self.socket.target(cx, address).await?;
        }
        let whole = total(&self.ranges);
        let timeout_ns = self.socket.options().lock().send_timeout_ns;
        let deadline = cx.deadline(timeout_ns);
        let nonblocking = self.nonblocking();
        let socket = self.socket.clone();
        loop {
            let owned = socket.send_queues(&self.out);
            let queues: SmallVec<[_; 2]> = owned.iter().map(|queue| (queue, PollEvents::OUT)).collect();
            let (ranges, out) = (&self.ranges, &mut self.out);
            let attempt = || {
                let mut source = UserSource::from_ranges(&cx.mm, part(ranges, done));
                match socket.send(&mut source, out) {
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
                Err(WaitError::Interrupted) => Fail::interrupted(timeout_ns),
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
        socket_of(cx, args.i32(0))?;
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
    socket: Arc<dyn Socket>,
    ranges: Ranges,
    flags: MsgFlags,
}

impl Receive {
    fn new(cx: &Cx, fd: i32, ranges: Ranges, flags: u32) -> Result<Receive, Errno> {
        let (file, socket) = socket_of(cx, fd)?;
        Ok(Receive { file, socket, ranges, flags: MsgFlags::from_bits_retain(flags) })
    }

    fn nonblocking(&self) -> bool {
        self.flags.intersects(MsgFlags::DONTWAIT | MsgFlags::ERRQUEUE) || self.file.flags().contains(OpenFlags::NONBLOCK)
    }

    fn is_stream(&self) -> bool {
        self.socket.kind().kind == SOCK_STREAM
    }

    fn attempt(&self, cx: &Cx, done: usize) -> Result<Received, Errno> {
        let mut sink = UserSink::from_ranges(&cx.mm, part(&self.ranges, done));
        let waits = if self.nonblocking() { MsgFlags::DONTWAIT } else { MsgFlags::empty() };
        self.socket.receive(&mut sink, self.flags | waits)
    }

    /// Bytes that a blocking receive waits for (`sock_rcvlowat`).
    fn goal(&self, whole: usize) -> usize {
        if !self.is_stream() || self.nonblocking() || self.flags.intersects(MsgFlags::PEEK | MsgFlags::OOB) {
            return 0;
        }
        if self.flags.contains(MsgFlags::WAITALL) { whole } else { self.socket.options().lock().receive_low_water.min(whole) }
    }

    /// The result if it is there without waiting.
    fn now(&self, cx: &Cx) -> Option<Result<Received, Errno>> {
        let whole = total(&self.ranges);
        if self.goal(whole) > 1 {
            return None;
        }
        if whole == 0 && self.is_stream() && self.socket.kind().family == 1 {
            return Some(Ok(Received::default()));
        }
        match self.attempt(cx, 0) {
            Err(Errno::EAGAIN) if !self.nonblocking() && !self.flags.contains(MsgFlags::OOB) => None,
            result => Some(result),
        }
    }

    async fn later(&self, cx: &mut Cx) -> Result<Received, Fail> {
        let timeout_ns = self.socket.options().lock().receive_timeout_ns;
        let deadline = cx.deadline(timeout_ns);
        let nonblocking = self.nonblocking();
        let whole = total(&self.ranges);
        let goal = self.goal(whole);
        let mut all = Received::default();
        loop {
            let done = all.bytes;
            let attempt = || match self.attempt(cx, done) {
                Err(Errno::EAGAIN) if !nonblocking => None,
                result => Some(result),
            };
            let queues = [(self.socket.queue(), PollEvents::IN)];
            let error = match cx.wait(&queues, deadline, attempt).await {
                Ok(Ok(received)) => {
                    let end = received.bytes == 0 || !received.files.is_empty();
                    let bytes = done + received.bytes;
                    all = Received { bytes, length: done + received.length, ..received };
                    if end || bytes >= goal || bytes >= whole {
                        return Ok(all);
                    }
                    continue;
                }
                Ok(Err(errno)) => errno.into(),
                Err(WaitError::TimedOut) => Errno::EAGAIN.into(),
                Err(WaitError::Interrupted) => Fail::interrupted(timeout_ns),
            };
            return if all.bytes > 0 { Ok(all) } else { Err(error) };
        }
    }

    /// The return value.
    fn value(&self, received: &Received) -> u64 {
        let whole = self.flags.contains(MsgFlags::TRUNC) && !self.is_stream();
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
        if args.u64(4) != 0 {
            write_address(cx, received.from.as_deref().unwrap_or_default(), args.u64(4), args.u64(5))?;
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
    let (file, socket) = socket_of(cx, fd)?;
    let header: MsgHdr = cx.mm.read_val(addr)?;
    if header.name != 0 {
        name_len(header.name_len)?;
    }
    let ranges = ranges_of(cx, &header)?;
    Ok((Receive { file, socket, ranges, flags: MsgFlags::from_bits_retain(flags) }, header))
}

/// Stores everything that came with the bytes.
fn finish_recvmsg(cx: &Cx, receive: &Receive, addr: u64, mut header: MsgHdr, mut received: Received) -> Result<u64, Errno> {
    let mut flags = receive.flags & MsgFlags::CMSG_CLOEXEC | received.flags;
    if header.name != 0 {
        let name = received.from.as_deref().unwrap_or_default();
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
fn control_of(cx: &Cx, receive: &Receive, header: &MsgHdr, received: &mut Received, flags: &mut MsgFlags) -> Vec<u8> {
    let room = if header.control == 0 { 0 } else { header.control_len.min(CONTROL_MAX) as usize };
    let mut control = Vec::new();
    if let Some(who) = received.credentials {
        let who = unix::seen_by(cx, who);
        put_control(&mut control, &Control::new(SOL_SOCKET, SCM_CREDENTIALS, who.as_bytes()), room, flags);
    }
    for message in &received.controls {
        put_control(&mut control, message, room, flags);
    }
    let files = std::mem::take(&mut received.files);
    if files.is_empty() {
        return control;
    }
    let most = room.saturating_sub(control.len() + CMSG_HEADER) / 4;
    let close_on_exec = receive.flags.contains(MsgFlags::CMSG_CLOEXEC);
    let mut fds = Vec::new();
    for file in files {
        match (fds.len() < most).then(|| install(cx, file, close_on_exec)) {
            Some(Ok(fd)) => fds.push(fd),
            _ => {
                *flags |= MsgFlags::CTRUNC;
                break;
            }
        }
    }
    if !fds.is_empty() {
        put_control(&mut control, &Control::new(SOL_SOCKET, SCM_RIGHTS, fds.as_slice().as_bytes()), room, flags);
    }
    control
}

/// Adds a control message as far as the guest's buffer goes (`put_cmsg`).
fn put_control(control: &mut Vec<u8>, message: &Control, room: usize, flags: &mut MsgFlags) {
    let left = room.saturating_sub(control.len());
    if left < CMSG_HEADER {
        *flags |= MsgFlags::CTRUNC;
        return;
    }
    let len = (CMSG_HEADER + message.data.len()).min(left);
    if len < CMSG_HEADER + message.data.len() {
        *flags |= MsgFlags::CTRUNC;
    }
    control.extend_from_slice(&(len as u64).to_le_bytes());
    control.extend_from_slice(&message.level.to_le_bytes());
    control.extend_from_slice(&message.kind.to_le_bytes());
    control.extend_from_slice(message.data.get(..len - CMSG_HEADER).unwrap_or_default());
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
        socket_of(cx, args.i32(0))?;
        let until = timeout_ns.map(|timeout_ns| cx.now().after(timeout_ns));
        let mut flags = MsgFlags::from_bits_retain(args.u32(3));
        let mut count = 0;
        for at in 0..u64::from(args.u32(2).min(MESSAGES_MAX)) {
            let header = args.u64(1).wrapping_add(at * MMSGHDR_SIZE);
            let outcome = receive_one(cx, args.i32(0), header, (flags - MsgFlags::WAITFORONE).bits()).await;
            let stored = outcome.and_then(|n| Ok(cx.mm.write_val(header.wrapping_add(MMSGHDR_LEN_AT), &(n as u32))?));
            match stored {
                Ok(()) => count += 1,
                Err(_) if count > 0 => break,
                Err(fail) => return Err(fail),
            }
            if flags.contains(MsgFlags::WAITFORONE) {
                flags |= MsgFlags::DONTWAIT;
            }
            if until.is_some_and(|until| cx.now() >= until) {
                break;
            }
        }
        Ok(count)
    })
}
