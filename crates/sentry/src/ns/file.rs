//! A namespace as a file: what /proc/PID/ns/* leads to (`ioctl_ns(2)`, `setns(2)`).

use std::any::Any;
use std::sync::Arc;

use super::{CgroupNamespace, IpcNamespace, Kind, PidNs, UserNs, UtsNamespace};
use crate::Errno;
use crate::fs::anon::{Anon, AnonInode};
use crate::fs::{File, FileOps, Inode, Metadata, MountNamespace, OpenFlags, Path, SetAttr};
use crate::net::NetNamespace;
use crate::step::Step;
use crate::syscalls::fds::install;
use crate::task::{Cx, Task};

const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;
const NS_GET_PID_FROM_PIDNS: u32 = 0x8004_b706;
const NS_GET_TGID_FROM_PIDNS: u32 = 0x8004_b707;
const NS_GET_PID_IN_PIDNS: u32 = 0x8004_b708;
const NS_GET_TGID_IN_PIDNS: u32 = 0x8004_b709;

/// A namespace that somebody holds open.
#[derive(Clone)]
pub enum Held {
    Cgroup(Arc<CgroupNamespace>),
    Ipc(Arc<IpcNamespace>),
    Mnt(Arc<MountNamespace>),
    Net(Arc<NetNamespace>),
    Pid(PidNs),
    User(UserNs),
    Uts(Arc<UtsNamespace>),
}

impl Held {
    /// The one of a task.
    ///
    /// # Errors
    /// `ENOENT` for the mounts of one that has ended.
    pub fn of(task: &Task, kind: Kind) -> Result<Held, Errno> {
        let set = task.namespaces();
        Ok(match kind {
            Kind::Cgroup => Held::Cgroup(set.cgroup.clone()),
            Kind::Ipc => Held::Ipc(set.ipc.clone()),
            Kind::Pid => Held::Pid(task.group.pid_ns.clone()),
            Kind::User => Held::User(task.creds().user_ns.clone()),
            Kind::Uts => Held::Uts(set.uts.clone()),
            Kind::Mnt => {
                let fs = task.shared.read().as_ref().map(|shared| shared.fs.clone()).ok_or(Errno::ENOENT)?;
                Held::Mnt(fs.namespace())
            }
            Kind::Net => Held::Net(set.net.clone()),
        })
    }

    pub fn kind(&self) -> Kind {
        match self {
            Held::Cgroup(_) => Kind::Cgroup,
            Held::Ipc(_) => Kind::Ipc,
            Held::Mnt(_) => Kind::Mnt,
            Held::Net(_) => Kind::Net,
            Held::Pid(_) => Kind::Pid,
            Held::User(_) => Kind::User,
            Held::Uts(_) => Kind::Uts,
        }
    }

    pub fn id(&self) -> u64 {
        match self {
            Held::Cgroup(ns) => ns.id,
            Held::Ipc(ns) => ns.id,
            Held::Mnt(ns) => ns.id(),
            Held::Net(ns) => ns.id,
            Held::Pid(ns) => ns.id(),
            Held::User(ns) => ns.id(),
            Held::Uts(ns) => ns.id,
        }
    }

    /// The user namespace that it belongs to; None for the container's own user namespace.
    pub fn owner(&self) -> Option<UserNs> {
        match self {
            Held::Cgroup(ns) => Some(ns.owner.clone()),
            Held::Ipc(ns) => Some(ns.owner.clone()),
            Held::Mnt(ns) => Some(ns.owner()),
            Held::Net(ns) => Some(ns.owner.clone()),
            Held::Pid(ns) => Some(ns.owner()),
            Held::User(ns) => ns.parent(),
            Held::Uts(ns) => Some(ns.owner.clone()),
        }
    }

    /// `uts:[4026531838]`
    pub fn name(&self) -> String {
        format!("{}:[{}]", self.kind().name(), self.id())
    }

    /// The place that a link in /proc/PID/ns leads to.
    pub fn place(self) -> Path {
        let name = self.name();
        Path::disconnected(Arc::new(NsInode::new(self)), name.as_bytes())
    }

    /// The owner as `cx` may know it: its own user namespace or one inside it.
    fn visible_owner(&self, cx: &Cx) -> Result<UserNs, Errno> {
        self.owner().filter(|owner| owner.is_within(&cx.creds().user_ns)).ok_or(Errno::EPERM)
    }

    fn parent(&self, cx: &Cx) -> Result<Held, Errno> {
        match self {
            Held::User(_) => self.visible_owner(cx).map(Held::User),
            Held::Pid(ns) => {
                let parent = ns.parent().filter(|parent| parent.is_within(&cx.task.group.pid_ns));
                parent.map(Held::Pid).ok_or(Errno::EPERM)
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Opens a namespace and gives it a descriptor.
///
/// # Errors
/// `EMFILE`.
pub fn open(cx: &Cx, held: Held) -> Result<i32, Errno> {
    let name = held.name();
    let inode = Arc::new(NsInode::new(held.clone()));
    let origin = crate::fs::Origin::Anonymous { inode, name };
    install(cx, File::new(Arc::new(NsFile { held }), origin, OpenFlags::empty()), true)
}

/// The inode of a namespace.
struct NsInode {
    held: Held,
    anon: Arc<AnonInode>,
}

impl NsInode {
    fn new(held: Held) -> NsInode {
        let anon = AnonInode::new(&Anon::Object("ns"), held.id(), (0, 0), 0);
        NsInode { held, anon }
    }
}

impl Inode for NsInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.anon.metadata() {
            Step::Ready(Ok(metadata)) => Step::ok(Metadata { dev: 4, permissions: 0o444, ..metadata }),
            other => other,
        }
    }

    fn set_attr(&self, _: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if flags.writable() {
            return Step::err(Errno::EPERM);
        }
        Step::ok(Arc::new(NsFile { held: self.held.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open namespace.
pub struct NsFile {
    pub held: Held,
}

impl NsFile {
    fn control(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        let related = |held: Held| open(cx, held).map(|fd| fd as u64);
        match command {
            NS_GET_USERNS => self.held.visible_owner(cx).map(Held::User).and_then(related),
            NS_GET_PARENT => self.held.parent(cx).and_then(related),
            NS_GET_NSTYPE => Ok(self.held.kind().flag().bits()),
            NS_GET_OWNER_UID => match &self.held {
                Held::User(ns) => cx.mm.write_val(argument, &cx.creds().user_ns.show_uid(ns.owner())).map(|()| 0),
                _ => Err(Errno::EINVAL),
            },
            NS_GET_PID_FROM_PIDNS | NS_GET_TGID_FROM_PIDNS | NS_GET_PID_IN_PIDNS | NS_GET_TGID_IN_PIDNS => {
                self.translate(cx, command, argument as i32)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    /// A number from this pid namespace into the caller's, or the other way.
    fn translate(&self, cx: &Cx, command: u32, number: i32) -> Result<u64, Errno> {
        let Held::Pid(ns) = &self.held else { return Err(Errno::EINVAL) };
        let own = &cx.task.group.pid_ns;
        let inward = matches!(command, NS_GET_PID_IN_PIDNS | NS_GET_TGID_IN_PIDNS);
        let (from, to) = if inward { (own, ns) } else { (ns, own) };
        let task = from.global(number).and_then(|tid| cx.task.container.pids.task(tid)).ok_or(Errno::ESRCH)?;
        let whole = matches!(command, NS_GET_TGID_FROM_PIDNS | NS_GET_TGID_IN_PIDNS);
        match to.local(if whole { task.tgid() } else { task.tid() }) {
            0 => Err(Errno::ESRCH),
            number => Ok(number as u64),
        }
    }
}

impl FileOps for NsFile {
    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(self.control(cx, command, argument))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
