//! mq_open and its family.

use std::sync::Arc;

use super::fds::install;
use super::fs_path::real_file;
use super::mask::nanoseconds;
use super::socket::socket_of;
use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::fs::permission::{may_remove, permission};
use crate::fs::{File, Inode, Mask, Metadata, OpenFlags, Origin, Ownership};
use crate::ipc::mqueue::{Attributes, Notification, NotifyKind, OpenQueue, Owner, PRIO_MAX};
use crate::signal::Signal;
use crate::step::Step;
use crate::task::{Capability, Cx, Resource};
use crate::wait::PollEvents;

/// `struct mq_attr`.
type MqAttr = [i64; 8];

/// A queue's name, as glibc gives it: without the slash.
fn name(cx: &Cx, addr: u64) -> Result<Vec<u8>, Errno> {
    let name = cx.mm.read_cstr(addr, crate::fs::walk::PATH_MAX)?;
    match name.as_slice() {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        _ => Ok(name),
    }
}

fn metadata(inode: &dyn Inode) -> Result<Metadata, Errno> {
    match inode.metadata() {
        Step::Ready(metadata) => metadata,
        Step::Wait(_) => Err(Errno::EIO),
    }
}

pub fn sys_mq_open(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(open(cx, &args))
}

fn open(cx: &Cx, args: &Args) -> Result<u64, Errno> {
    let (flags, mode) = (OpenFlags::from_bits_retain(args.u32(1)), args.u32(2));
    let attributes = match args.opt_ptr(3) {
        None => None,
        Some(addr) => {
            let attr: MqAttr = cx.mm.read_val(addr)?;
            let [max_messages, message_size] = [attr[1], attr[2]].map(|value| u64::try_from(value).unwrap_or(0));
            Some(Attributes { max_messages, message_size })
        }
    };
    let name = name(cx, args.u64(0))?;
    let ipc = cx.task.ipc_objects();
    let fs = ipc.mqueues(&cx.kernel().clock);
    let creds = cx.creds();
    let inode = match fs.find(&name) {
        Some(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => return Err(Errno::EEXIST),
        Some(inode) => {
            let mask = match flags.bits() & 3 {
                0 => Mask::READ,
                1 => Mask::WRITE,
                2 => Mask::READ | Mask::WRITE,
                _ => return Err(Errno::EINVAL),
            };
            permission(Ownership::from(&metadata(&*inode)?), &creds, mask)?;
            inode
        }
        None if !flags.contains(OpenFlags::CREAT) => return Err(Errno::ENOENT),
        None => {
            permission(Ownership::from(&fs.directory()), &creds, Mask::WRITE | Mask::EXEC)?;
            let owner = Owner {
                uid: creds.fsuid,
                gid: creds.fsgid,
                bytes_max: cx.task.rlimit(Resource::Msgqueue).soft,
                privileged: creds.has(Capability::SysResource),
            };
            fs.create(&name, mode & 0o777 & !cx.fs.umask(), attributes.filter(|_| args.u64(3) != 0), owner)?
        }
    };
    let ops = Arc::new(OpenQueue { queue: inode.queue.clone(), opener: cx.task.tgid() });
    let text = format!("/{}", String::from_utf8_lossy(&name));
    let kept = OpenFlags::from_bits_retain(flags.bits() & 3) | flags & OpenFlags::NONBLOCK;
    let file = File::new(ops, Origin::Anonymous { inode, name: text }, kept);
    install(cx, file, true).map(|fd| fd as u64)
}

pub fn sys_mq_unlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let name = name(cx, args.u64(0))?;
        let ipc = cx.task.ipc_objects();
        let fs = ipc.mqueues(&cx.kernel().clock);
        let inode = fs.find(&name).ok_or(Errno::ENOENT)?;
        let (directory, creds) = (Ownership::from(&fs.directory()), cx.creds());
        permission(directory, &creds, Mask::WRITE | Mask::EXEC)?;
        may_remove(directory, Ownership::from(&metadata(&*inode)?), &creds)?;
        fs.remove(&name).map(|()| 0)
    })())
}

/// A descriptor's queue.
fn queue(file: &File) -> Result<&OpenQueue, Errno> {
    file.downcast::<OpenQueue>().ok_or(Errno::EBADF)
}

/// What is left until an absolute time of the real-time clock, in nanoseconds; None: for ever.
fn timeout(cx: &Cx, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let [sec, nsec] = cx.mm.read_val::<[i64; 2]>(addr)?;
    let at = nanoseconds(sec, nsec)?;
    Ok(Some(at.saturating_sub(cx.kernel().clock.realtime_ns())))
}

pub fn sys_mq_timedsend(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(send(cx, args))
}

async fn send(cx: &mut Cx, args: Args) -> Outcome {
    let (len, priority) = (args.u64(2), args.u32(3));
    let timeout_ns = timeout(cx, args.u64(4))?;
    if priority >= PRIO_MAX {
        return Err(Errno::EINVAL.into());
    }
    let file = real_file(cx, args.i32(0))?;
    let queue = &queue(&file)?.queue;
    if !file.flags().writable() {
        return Err(Errno::EBADF.into());
    }
    if len > queue.attributes.message_size {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut message = vec![0; len as usize];
    cx.mm.read(args.u64(1), &mut message)?;
    let deadline = cx.deadline(timeout_ns);
    let nonblocking = file.flags().contains(OpenFlags::NONBLOCK);
    let cx = &*cx;
    let attempt = || match queue.send(cx, priority, &mut message) {
        Err(Errno::EAGAIN) if !nonblocking => None,
        result => Some(result),
    };
    let queues = [(queue.queue(), PollEvents::OUT)];
    let sent = cx.wait(&queues, deadline, attempt).await;
    sent.map_err(|error| Fail::from_wait(error, Errno::ETIMEDOUT, Restart::Sys))??;
    Ok(0)
}

pub fn sys_mq_timedreceive(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(receive(cx, args))
}

async fn receive(cx: &mut Cx, args: Args) -> Outcome {
    let timeout_ns = timeout(cx, args.u64(4))?;
    let file = real_file(cx, args.i32(0))?;
    let queue = &queue(&file)?.queue;
    if !file.flags().readable() {
        return Err(Errno::EBADF.into());
    }
    if args.u64(2) < queue.attributes.message_size {
        return Err(Errno::EMSGSIZE.into());
    }
    let deadline = cx.deadline(timeout_ns);
    let nonblocking = file.flags().contains(OpenFlags::NONBLOCK);
    let cx = &*cx;
    let received = match queue.receive() {
        Err(Errno::EAGAIN) if !nonblocking => {
            let _waiting = queue.waiting();
            let queues = [(queue.queue(), PollEvents::IN)];
            let received = cx.wait(&queues, deadline, || queue.receive().ok()).await;
            received.map_err(|error| Fail::from_wait(error, Errno::ETIMEDOUT, Restart::Sys))?
        }
        received => received?,
    };
    let (priority, message) = received;
    if args.u64(3) != 0 {
        cx.mm.write_val(args.u64(3), &priority)?;
    }
    cx.mm.write(args.u64(1), &message)?;
    Ok(message.len() as u64)
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;

pub fn sys_mq_notify(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let pid = cx.task.tgid();
        let new = match args.opt_ptr(1) {
            None => None,
            Some(addr) => {
                // `struct sigevent`: value, signal, kind.
                let [value, rest] = cx.mm.read_val::<[u64; 2]>(addr)?;
                let (signal, kind) = (rest as u32 as i32, (rest >> 32) as i32);
                let kind = match kind {
                    SIGEV_NONE => NotifyKind::None,
                    SIGEV_SIGNAL if (0..=64).contains(&signal) => NotifyKind::Signal(Signal::new(signal), value),
                    SIGEV_THREAD => {
                        // The value is the datagram's address, the signal's number the socket's descriptor.
                        let cookie = cx.mm.read_val(value)?;
                        NotifyKind::datagram(socket_of(cx, signal)?.1, cookie)?
                    }
                    _ => return Err(Errno::EINVAL),
                };
                Some(Notification { owner: Arc::downgrade(&cx.task.group), pid, kind })
            }
        };
        let file = real_file(cx, args.i32(0))?;
        queue(&file)?.queue.set_notification(pid, new).map(|()| 0)
    })())
}

pub fn sys_mq_getsetattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let new = args.opt_ptr(1).map(|addr| cx.mm.read_val::<MqAttr>(addr)).transpose()?;
        let nonblock = i64::from(OpenFlags::NONBLOCK.bits());
        if new.is_some_and(|new| new[0] & !nonblock != 0) {
            return Err(Errno::EINVAL);
        }
        let file = real_file(cx, args.i32(0))?;
        let queue = &queue(&file)?.queue;
        let flags = file.flags();
        let old = i64::from((flags & OpenFlags::NONBLOCK).bits());
        if let Some(new) = new {
            let wanted = OpenFlags::from_bits_retain(new[0] as u32);
            file.set_flags((flags - OpenFlags::NONBLOCK) | wanted);
        }
        if args.u64(2) != 0 {
            let Attributes { max_messages, message_size } = queue.attributes;
            let attr: MqAttr = [old, max_messages as i64, message_size as i64, queue.count() as i64, 0, 0, 0, 0];
            cx.mm.write_val(args.u64(2), &attr)?;
        }
        Ok(0)
    })())
}
