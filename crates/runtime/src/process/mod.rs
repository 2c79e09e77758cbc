//! Confined processes: the sentry and the gofers, both this program executed again under another name.
//!
//! A process is cloned straight into its name spaces (and cgroup v2), held until its parent has written its id maps, walks into its
//! cgroups v1, and then executes `/proc/self/exe`. It gets one [`message`] on descriptor 3. If the parent dies first, the socket closes and the process
//! ends: nothing is left behind by a crash at any moment.

mod confine;
pub mod fs;
pub mod fs_control;
pub mod gofer;
mod isolate;
pub mod keeper;
pub mod kvm;
pub mod memory;
pub mod message;
pub mod report;
pub mod sentry;
mod vmm;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};
use rustix::thread::CapabilitySets;

pub use self::isolate::shrink_bounding_set;
use crate::cgroup::Entrance;
use crate::error::{Doing, Error, Result};
use crate::state::ProcessRef;
use crate::sys;

/// Host user and group that a privileged runtime gives its confined processes (`nobody`).
pub const NOBODY: u32 = 65534;

/// The names under which this program is a confined process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Sentry,
    Gofer,
    /// Of a VM, in the sentry's place.
    Keeper,
    /// Of a VM, in the gofer's place.
    Fs,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Sentry => "nacre-sentry",
            Role::Gofer => "nacre-gofer",
            Role::Keeper => "nacre-keeper",
            Role::Fs => "nacre-fs",
        }
    }

    /// The role this process was started in, if in any: by the name it was called.
    pub fn of(argv0: &OsStr) -> Option<Role> {
        [Role::Sentry, Role::Gofer, Role::Keeper, Role::Fs].into_iter().find(|role| argv0 == role.name())
    }

    /// Lives that life. Does not return.
    pub fn live(self) -> ! {
        sys::small_heap();
        let _ = rustix::thread::set_name(match self {
            Role::Sentry => c"nacre-sentry",
            Role::Gofer => c"nacre-gofer",
            Role::Keeper => c"nacre-keeper",
            Role::Fs => c"nacre-fs",
        });
        let socket = UnixStream::from(sys::inherited(3));
        let status = match self {
            Role::Sentry => sentry::main(&socket),
            Role::Gofer => gofer::main(&socket),
            Role::Keeper => keeper::main(&socket),
            Role::Fs => fs::main(&socket),
        };
        std::process::exit(status)
    }
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMap {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

impl IdMap {
    pub const IDENTITY: IdMap = IdMap { inside: 0, outside: 0, count: u32::MAX };

    pub const fn one(inside: u32, outside: u32) -> IdMap {
        IdMap { inside, outside, count: 1 }
    }

    /// All users that this process's own name space has, each as itself.
    pub fn of_own_users() -> Vec<IdMap> {
        IdMap::onto_themselves(IdMap::read("uid_map"))
    }

    /// The same of groups.
    pub fn of_own_groups() -> Vec<IdMap> {
        IdMap::onto_themselves(IdMap::read("gid_map"))
    }

    /// A map of this process's name space, by the file's name below /proc/self; where it cannot be read, all there are.
    fn read(file: &str) -> Vec<IdMap> {
        IdMap::parse(&std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default())
    }

    fn parse(text: &str) -> Vec<IdMap> {
        let line = |line: &str| {
            let mut fields = line.split_whitespace().map(|field| field.parse().ok());
            let (inside, outside, count) = (fields.next()??, fields.next()??, fields.next()??);
            Some(IdMap { inside, outside, count })
        };
        let maps: Vec<IdMap> = text.lines().filter_map(line).collect();
        if maps.is_empty() { vec![IdMap::IDENTITY] } else { maps }
    }

    fn onto_themselves(maps: Vec<IdMap>) -> Vec<IdMap> {
        maps.into_iter().map(|map| IdMap { outside: map.inside, ..map }).collect()
    }

    /// What an id inside is called outside.
    fn outside_of(&self, id: u32) -> Option<u32> {
        let above = id.checked_sub(self.inside).filter(|&above| above < self.count)?;
        self.outside.checked_add(above)
    }
}

/// Whether a name space with these maps has an id, as itself.
pub fn keeps(maps: &[IdMap], id: u32) -> bool {
    maps.iter().any(|map| map.outside_of(id) == Some(id))
}

/// What this process's user is called outside of its user namespace.
pub fn user_outside() -> u32 {
    let own = rustix::process::geteuid().as_raw();
    IdMap::read("uid_map").iter().find_map(|map| map.outside_of(own)).unwrap_or(own)
}

/// Whether this process's root is that of a user namespace, as under a rootless engine, and not the host's.
pub fn in_user_namespace() -> bool {
    IdMap::of_own_users() != [IdMap::IDENTITY]
}

/// The user namespace of a confined process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
    /// Become this user and group of the name space (both the same number).
    pub switch_to: Option<u32>,
}

/// Whether the runtime has the host's root rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// May mount, map any id of its name space, and write cgroups as far as they are its own.
    Root,
    /// An ordinary user (or a root without CAP_SYS_ADMIN).
    User,
}

impl Privilege {
    /// Of this process.
    pub fn current() -> Privilege {
        let wanted = rustix::thread::CapabilitySet::SYS_ADMIN | rustix::thread::CapabilitySet::SETUID;
        match rustix::thread::capabilities(None) {
            Ok(sets) if sets.effective.contains(wanted) => Privilege::Root,
            _ => Privilege::User,
        }
    }
}

/// Which network guests have.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Network {
    /// A loopback interface of their own.
    #[default]
    None,
    /// The host's, of the namespace the runtime runs in.
    Host,
    /// A pod's: that of the network namespace at this path, by packet sockets.
    Namespace(PathBuf),
}

/// How to make a confined process.
#[derive(Debug)]
pub struct Spawn<'a> {
    pub role: Role,
    pub ids: &'a Ids,
    pub privilege: Privilege,
    pub cgroup: &'a Entrance,
    /// Its descriptor 2; /dev/null if none.
    pub stderr: Option<BorrowedFd<'a>>,
    pub die_with_parent: bool,
    /// Whether it gets a network namespace of its own.
    pub network: Network,
}

/// A confined process, seen by its parent.
#[derive(Debug)]
pub struct Confined {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub socket: UnixStream,
}

impl Spawn<'_> {
    /// Makes the process and writes its id maps. It waits for [`Confined::release`].
    ///
    /// # Errors
    /// The host refuses (no user namespaces, process limit).
    pub fn spawn(&self) -> Result<Confined> {
        let (ours, theirs) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
        let flags = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | if self.network == Network::Host { 0 } else { libc::CLONE_NEWNET }
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        let child = sys::clone_process(flags, self.cgroup.birth(), || {
            // The parent's death must be seen as the end of the socket.
            sys::close_in_child(ours.as_fd());
            let Err((what, error)) = self.become_it(&theirs);
            let _ = message::send_all(theirs.as_fd(), format!("{}: cannot {what}: {error}", self.role.name()).as_bytes());
        });
        let child = child
            .doing(|| format!("cannot start {} in new user, mount, pid, network, ipc and uts namespaces", self.role.name()))?;
        // A guest that has made a thread nicer may take that back, down to our own value; only root can allow it.
        let room = rustix::process::getpriority_process(None).ok().and_then(|own| u64::try_from(20 - own).ok());
        let nice = Rlimit { current: room.or(Some(0)), maximum: room.or(Some(0)) };
        let _ = rustix::process::prlimit(Some(child.pid), Resource::Nice, nice);
        let confined = Confined { pid: child.pid, pidfd: child.pidfd, socket: ours };
        if let Err(error) = self.write_maps(child.pid) {
            confined.kill();
            return Err(error);
        }
        Ok(confined)
    }

    fn write_maps(&self, pid: Pid) -> Result<()> {
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        let text =
            |maps: &[IdMap]| maps.iter().map(|m| format!("{} {} {}\n", m.inside, m.outside, m.count)).collect::<String>();
        if self.privilege == Privilege::User {
            let helper = |program: &str, maps: &[IdMap]| -> Result<()> {
                let numbers = maps.iter().flat_map(|m| [m.inside, m.outside, m.count]).map(|n| n.to_string());
                let status = Command::new(program).arg(pid.as_raw_nonzero().to_string()).args(numbers).status();
                match status {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(io::Error::other(status.to_string())).doing(|| program),
                    Err(e) => Err(e).doing(|| format!("{program} (needed to map more ids than one's own)")),
                }
            };
            let own = |maps: &[IdMap], id: u32| matches!(maps, [only] if only.count == 1 && only.outside == id);
            if !own(&self.ids.uids, rustix::process::geteuid().as_raw())
                || !own(&self.ids.gids, rustix::process::getegid().as_raw())
            {
                helper("newuidmap", &self.ids.uids)?;
                return helper("newgidmap", &self.ids.gids);
            }
            std::fs::write(format!("{proc}/setgroups"), "deny").doing(|| "cannot deny setgroups")?;
        }
        std::fs::write(format!("{proc}/uid_map"), text(&self.ids.uids)).doing(|| "cannot map user ids")?;
        std::fs::write(format!("{proc}/gid_map"), text(&self.ids.gids)).doing(|| "cannot map group ids")
    }

    /// The child's way from clone to exec.
    fn become_it(&self, socket: &UnixStream) -> std::result::Result<Infallible, (&'static str, io::Error)> {
        let step = |what: &'static str| move |error: rustix::io::Errno| (what, io::Error::from(error));
        let mut go = [0];
        if (&*socket).read(&mut go).map_err(|e| ("wait for the parent", e))? == 0 {
            return Err(("start", io::ErrorKind::UnexpectedEof.into()));
        }
        self.cgroup.walk_in().map_err(|e| ("enter its cgroup", e))?;
        rustix::process::setsid().map_err(step("start a session"))?;
        if let Some(id) = self.ids.switch_to {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            rustix::thread::set_thread_groups(&[]).map_err(step("drop groups"))?;
            rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("change group"))?;
            rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("change user"))?;
        }
        keep_capabilities_over_exec().map_err(step("keep capabilities"))?;
        if self.die_with_parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("set the death signal"))?;
            // It may have died just before: then there is nobody at its end, and no signal to come.
            let mut ends = [PollFd::new(socket, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut ends, Some(&now)).map_err(step("look after the parent"))?;
            if ends.iter().any(|end| end.revents().contains(PollFlags::HUP)) {
                return Err(("start", io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let open_files = rustix::process::getrlimit(Resource::Nofile).maximum;
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: open_files, maximum: open_files })
            .map_err(step("raise the limit of open files"))?;
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
            .map_err(step("forbid core dumps"))?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|e| ("open /dev/null", e))?;
        let (null, stderr) = (null.as_fd(), self.stderr.unwrap_or(null.as_fd()));
        place_descriptors(&[(null, 0), (null, 1), (stderr, 2), (socket.as_fd(), 3)]).map_err(|e| ("place descriptors", e))?;
        let _ = std::env::set_current_dir("/");
        let mut command = Command::new("/proc/self/exe");
        command.arg0(self.role.name()).env_clear();
        // rseq areas would be written by the kernel after a stub has unmapped them.
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0:glibc.malloc.arena_max=1");
        if let Some(value) = std::env::var_os("NACRE_TIMING") {
            command.env("NACRE_TIMING", value);
        }
        Err(("execute /proc/self/exe", command.exec()))
    }
}

/// Where descriptors wait until they get their numbers, above all of those.
const AWAY: i32 = 100;

/// Gives descriptors their numbers, to be kept over exec, which closes all others from 3 on. For the way to exec only.
fn place_descriptors(places: &[(BorrowedFd<'_>, i32)]) -> io::Result<()> {
    // Out of the way first, so that no copy closes what is still to be copied.
    let away = |(fd, _): &(BorrowedFd<'_>, i32)| rustix::io::fcntl_dupfd_cloexec(fd, AWAY);
    let copies: Vec<OwnedFd> = places.iter().map(away).collect::<std::result::Result<_, _>>()?;
    sys::close_on_exec_from(3);
    for ((_, number), copy) in places.iter().zip(&copies) {
        sys::dup_to(copy.as_fd(), *number)?;
    }
    // Exec closes them.
    std::mem::forget(copies);
    Ok(())
}

/// A new user namespace gives all capabilities over it; exec takes them from all but its root, unless they are ambient.
fn keep_capabilities_over_exec() -> rustix::io::Result<()> {
    let have = rustix::thread::capabilities(None)?;
    let sets = CapabilitySets { effective: have.permitted, permitted: have.permitted, inheritable: have.permitted };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in have.permitted.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

impl Confined {
    /// One that an earlier process has made. It says nothing here.
    ///
    /// # Errors
    /// It has ended.
    pub fn found(process: &ProcessRef) -> Result<Confined> {
        let ended = || Error::SandboxEnded("its process is gone".into());
        let pid = Pid::from_raw(process.pid).ok_or_else(ended)?;
        // The descriptor pins the process; then the look at its start time is no race.
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|_| ended())?;
        if !process.is_alive() {
            return Err(ended());
        }
        let (socket, _silent) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
        Ok(Confined { pid, pidfd, socket })
    }

    /// Lets the process go on to exec.
    ///
    /// # Errors
    /// It has died.
    pub fn release(&self) -> Result<()> {
        message::send_all(self.socket.as_fd(), &[1]).doing(|| "cannot start a confined process")
    }

    /// What the process said before it ended, if it could not start.
    pub fn last_words(&self) -> Option<String> {
        self.socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        let mut text = String::new();
        let _ = (&self.socket).take(4096).read_to_string(&mut text);
        let text = agent_api::text::line(text.trim(), usize::MAX);
        (!text.is_empty()).then_some(text)
    }

    /// Ends it and reaps it.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ =
            rustix::process::waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_spaces_ids_are_mapped_onto_themselves() {
        let of = |text| IdMap::onto_themselves(IdMap::parse(text));
        assert_eq!(of("         0          0 4294967295\n"), [IdMap::IDENTITY]);
        let rootless = [IdMap { inside: 0, outside: 0, count: 1 }, IdMap { inside: 1, outside: 1, count: 65536 }];
        assert_eq!(of("         0       1000          1\n         1     100000      65536\n"), rootless);
        assert_eq!(of(""), [IdMap::IDENTITY]);
    }
}
