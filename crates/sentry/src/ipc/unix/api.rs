//! [`UnixSocket`]: a core as the system calls see it; addresses become sockets here.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;
use zerocopy::IntoBytes;

use super::{Address, Core, Credentials, Kind, UnixSocket};
use crate::Errno;
use crate::fs::permission::{Mask, Ownership, permission};
use crate::fs::walk::AT_FDCWD;
use crate::fs::{File, FileKind, NewInode, OpenFlags, ResolveFlags, View, namei, resolve, resolve_parent};
use crate::mm::{Sink, Source};
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SockFlags, SocketOptions, int, so};
use crate::net::socket::{
    Accepted, AddressBytes, Control, End, Kind as SocketKind, MsgFlags, OptionBytes, Outgoing, Received, Shutdown, Socket,
    SocketFile, Target, Waiting,
};
use crate::net::{filter, ifreq};
use crate::ns::Ids;
use crate::step::Step;
use crate::syscalls::{Fail, Flow, Outcome};
use crate::task::{Capability, Cx, Resource};
use crate::wait::{PollEvents, WaitError, WaitQueue};

const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Most files in a message.
const SCM_MAX_FD: usize = 253;
/// Not in [`Errno`]'s names.
const ETOOMANYREFS: i32 = 109;

/// The task's credentials as a socket's peer sees them.
pub fn credentials(cx: &Cx) -> Credentials {
    let creds = cx.creds();
    Credentials { pid: cx.task.tgid(), uid: creds.euid, gid: creds.egid }
}

/// The credentials that go with what the task sends.
fn sender(cx: &Cx) -> Credentials {
    let creds = cx.creds();
    Credentials { pid: cx.task.tgid(), uid: creds.uid, gid: creds.gid }
}

/// The socket of an address.
///
/// # Errors
/// `ECONNREFUSED`, `EACCES`, and those of the path.
async fn find(cx: &Cx, path: &[u8]) -> Result<Arc<Core>, Errno> {
    let place = resolve(cx, AT_FDCWD, path, ResolveFlags::empty()).await?;
    let owner = Ownership::from(&place.inode().metadata().await?);
    permission(owner, &cx.creds(), Mask::WRITE)?;
    if owner.kind != FileKind::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    let bound = place.inode().socket_slot().and_then(|slot| slot.lock().clone());
    let core = bound.and_then(|bound| bound.downcast::<Weak<Core>>().ok()).and_then(|core| core.upgrade());
    core.ok_or(Errno::ECONNREFUSED)
}

fn find_abstract(core: &Core, name: &[u8]) -> Result<Arc<Core>, Errno> {
    core.shared.names.find(name).ok_or(Errno::ECONNREFUSED)
}

async fn bind_path(cx: &mut Cx, core: Arc<Core>, path: Vec<u8>) -> Outcome {
    core.check_unnamed()?;
    let (dir, last) = resolve_parent(cx, AT_FDCWD, &path).await?;
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

async fn connect(cx: &mut Cx, core: Arc<Core>, address: Address, waiting: Waiting) -> Outcome {
    let target = match &address {
        Address::Abstract(name) => find_abstract(&core, name)?,
        Address::Path(path) => find(cx, path).await?,
    };
    let who = credentials(cx);
    let timeout_ns = core.options.lock().send_timeout_ns;
    let deadline = cx.deadline(timeout_ns);
    let attempt = || match core.connect(&target, who) {
        Err(Errno::EAGAIN) if waiting == Waiting::Allowed => None,
        result => Some(result),
    };
    let queues = [(target.queue(), PollEvents::OUT)];
    match cx.wait(&queues, deadline, attempt).await {
        Ok(result) => Ok(result.map(|()| 0)?),
        Err(WaitError::TimedOut) => Err(Errno::EAGAIN.into()),
        Err(WaitError::Interrupted) => Err(Fail::interrupted(timeout_ns)),
    }
}

/// Somebody's credentials as the caller's namespaces show them.
pub fn seen_by(cx: &Cx, who: Credentials) -> Credentials {
    let ns = &cx.creds().user_ns;
    Credentials { pid: cx.local(who.pid), uid: ns.show_uid(who.uid), gid: ns.show_gid(who.gid) }
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

fn take_files(cx: &Cx, fds: &[i32], out: &mut Outgoing) -> Result<(), Errno> {
    for fd in fds {
        let file = cx.file(*fd)?;
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
    if !privileged && cx.task.namespaces().net.unix.gc.in_flight() as u64 > limit {
        return Err(Errno::from_raw(ETOOMANYREFS));
    }
    Ok(())
}

impl UnixSocket {
    /// The socket of an open file, if it is a unix one.
    pub fn of(file: &File) -> Option<&UnixSocket> {
        SocketFile::of(file)?.as_any().downcast_ref()
    }
}

impl Socket for UnixSocket {
    fn kind(&self) -> SocketKind {
        SocketKind { family: 1, kind: self.core.kind as i32, protocol: 0 }
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.core.options
    }

    fn queue(&self) -> &WaitQueue {
        self.core.queue()
    }

    fn poll(&self) -> PollEvents {
        self.core.poll()
    }

    fn bind<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>) -> Flow<'a> {
        let core = self.core.clone();
        match Address::decode(&address) {
            Err(errno) => Flow::done(Err(errno)),
            // Binding to the family alone picks a name, unless there is one.
            Ok(None) if core.address().is_some() => Flow::done(Ok(0)),
            Ok(None) => Flow::done(core.bind_abstract(None).map(|()| 0)),
            Ok(Some(Address::Abstract(name))) => Flow::done(core.bind_abstract(Some(name)).map(|()| 0)),
            Ok(Some(Address::Path(path))) => Flow::wait(bind_path(cx, core, path)),
        }
    }

    fn connect<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>, waiting: Waiting) -> Flow<'a> {
        if self.core.kind == Kind::Datagram && address.starts_with(&0u16.to_le_bytes()) {
            self.core.disconnect();
            return Flow::done(Ok(0));
        }
        match Address::decode(&address).and_then(|address| address.ok_or(Errno::EINVAL)) {
            Err(errno) => Flow::done(Err(errno)),
            Ok(address) => Flow::wait(connect(cx, self.core.clone(), address, waiting)),
        }
    }

    fn listen(&self, cx: &Cx, backlog: i32) -> Result<(), Errno> {
        self.core.listen(cx.task.namespaces().net.backlog(backlog), credentials(cx))
    }

    fn accept(&self) -> Result<Accepted, Errno> {
        if self.core.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let core = self.core.accept()?;
        let address = core.peer().and_then(|peer| peer.address());
        Ok(Accepted { socket: UnixSocket::new(core), from: SmallVec::from_vec(Address::encode(address.as_deref())) })
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        let address = match end {
            End::Own => self.core.address(),
            End::Peer => self.core.peer().ok_or(Errno::ENOTCONN)?.address(),
        };
        Ok(SmallVec::from_vec(Address::encode(address.as_deref())))
    }

    fn shut_down(&self, what: Shutdown) -> Result<(), Errno> {
        self.core.shut_down(what)
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.core.kind != Kind::Stream
            && let Some(result) = filter::set(&self.core.options, name, value)
        {
            return result;
        }
        // Nothing of it leaves over a network, so a mark or a device is kept and has no effect: the caller's network will do.
        options::set(cx, &cx.task.namespaces().net, &self.core.options, self.kind(), name, value)?;
        self.core.options_changed();
        Ok(())
    }

    fn option(&self, cx: &Cx, level: i32, name: i32, _given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match (name, self.core.peer_credentials()) {
            (so::ERROR, _) => Ok(int(self.core.take_error().map_or(0, Errno::raw))),
            (so::PEERCRED, Some(peer)) => Ok(SmallVec::from_slice(seen_by(cx, peer).as_bytes())),
            _ => {
                let facts = Facts { kind: self.kind(), listening: self.core.is_listening(), cookie: self.core.id };
                options::get(&cx.task.namespaces().net, &self.core.options.lock(), &facts, name)
            }
        }
    }

    fn target<'a>(&'a self, cx: &'a Cx, address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        if address.is_empty() {
            return Step::ok(None);
        }
        let core = &self.core;
        match core.kind {
            Kind::Stream => Step::err(if core.peer().is_some() { Errno::EISCONN } else { Errno::EOPNOTSUPP }.into()),
            // Connected anyway; the name is ignored (unix_seqpacket_sendmsg).
            Kind::SeqPacket => Step::ok(None),
            Kind::Datagram => match Address::decode(&address) {
                Err(errno) => Step::err(errno.into()),
                Ok(None) => Step::err(Errno::EINVAL.into()),
                Ok(Some(Address::Abstract(name))) => {
                    Step::Ready(find_abstract(core, &name).map(|core| Some(Target::Unix(core))).map_err(Fail::Errno))
                }
                Ok(Some(Address::Path(path))) => Step::wait(async move { Ok(Some(Target::Unix(find(cx, &path).await?))) }),
            },
        }
    }

    fn outgoing(&self, cx: &Cx) -> Outgoing {
        Outgoing { credentials: sender(cx), ..Outgoing::default() }
    }

    fn take_control(&self, cx: &Cx, control: Control, out: &mut Outgoing) -> Result<(), Errno> {
        if control.level != SOL_SOCKET {
            return Ok(());
        }
        let ints: SmallVec<[i32; 8]> =
            control.data.chunks_exact(4).map(|b| b.try_into().map_or(0, i32::from_le_bytes)).collect();
        match control.kind {
            SCM_RIGHTS => take_files(cx, &ints, out),
            SCM_CREDENTIALS => claimed(cx, &ints).map(|who| out.credentials = who),
            _ => Err(Errno::EINVAL),
        }
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        let urgent = out.flags.contains(MsgFlags::OOB);
        if urgent && (self.core.kind != Kind::Stream || from.remaining() == 0) {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = match &out.to {
            Some(Target::Unix(core)) => Some(core.clone()),
            _ => None,
        };
        let credentials = if out.credentials.pid == 0 { self.core.writer() } else { out.credentials };
        let mut message = super::Outgoing { files: std::mem::take(&mut out.files), credentials, to, urgent };
        let result = self.core.send(from, &mut message);
        out.files = message.files;
        result
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        let peek = flags.contains(MsgFlags::PEEK);
        if flags.contains(MsgFlags::OOB) {
            if self.core.kind != Kind::Stream {
                return Err(Errno::EOPNOTSUPP);
            }
            let got = self.core.receive_urgent(into, peek)?;
            return Ok(Received { bytes: got.bytes, length: got.length, flags: MsgFlags::OOB, ..Received::default() });
        }
        let mut got = self.core.receive(into, peek)?;
        let mut received = Received { bytes: got.bytes, length: got.length, ..Received::default() };
        received.files = std::mem::take(&mut got.files);
        // A sender without a name gives no address, not even its family (unix_copy_addr).
        received.from = got.from.as_deref().map(|from| SmallVec::from_vec(Address::encode(Some(from))));
        received.credentials = got.credentials.filter(|_| self.core.options.lock().has(SockFlags::PASSCRED));
        received.flags.set(MsgFlags::TRUNC, got.bytes < got.length);
        Ok(received)
    }

    fn send_queues(&self, out: &Outgoing) -> SmallVec<[WaitQueue; 2]> {
        let target = match &out.to {
            Some(Target::Unix(core)) => Some(core.clone()),
            _ => self.core.peer(),
        };
        let mut queues = SmallVec::from_iter([self.core.queue().clone()]);
        queues.extend(target.map(|target| target.queue().clone()));
        queues
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        if command == linux_raw_sys::ioctl::SIOCATMARK && self.core.kind == Kind::Stream {
            return cx.mm.write_val(argument, &i32::from(self.core.at_mark())).map(|()| 0);
        }
        match self.core.ioctl_value(command) {
            Ok(value) => cx.mm.write_val(argument, &value).map(|()| 0),
            // Interfaces may be asked for by any socket.
            Err(Errno::ENOTTY) => ifreq::ioctl(cx, &cx.task.namespaces().net, command, argument),
            Err(errno) => Err(errno),
        }
    }

    /// A plain write says who it is from.
    fn before_write(&self, cx: &Cx) {
        self.core.note_writer(|| sender(cx));
    }

    fn close(self: Arc<Self>) {
        self.core.close();
        self.core.shared.gc.collect();
    }

    fn set_inode(&self, ino: u64) {
        self.core.set_inode(ino);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
