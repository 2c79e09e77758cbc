//! The few host calls no crate offers safely: clone3 into name spaces and a cgroup, mount_setattr, waiting for signals, the death signal, the seccomp
//! status of a dead child's signal, the time stamp counter. With `bpf` the crate's only unsafe code.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// `linux/sched.h`; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The CPU's time stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: reading it has no effect, and every 64-bit CPU has it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A child made by [`clone_process`].
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Clones this process with `flags` (`CLONE_NEW*`) and, on cgroup v2, into `cgroup` (a descriptor of its directory). The child runs `body`, which should
/// exec; if it returns, the child ends with status 127.
///
/// Call it from a single-threaded process: the child has only the calling thread, and locks held by others would stay held.
///
/// # Errors
/// The host's clone3 errors.
pub fn clone_process(flags: i32, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce()) -> io::Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which zeros are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything. The child never returns from this
    // function; it runs `body` on its copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            body();
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
            Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// `mount_setattr(2)`'s argument.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Changes the attributes of the mount `mount` is the root of, and of those below it if `recursive`.
///
/// # Errors
/// The host's.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: all pointers are to live data of the sizes given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub fn new(signals: &[i32]) -> SignalSet {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set; sigaddset changes an initialised one (and refuses numbers that are none).
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for &signal in signals {
                libc::sigaddset(&mut set, signal);
            }
            SignalSet(set)
        }
    }

    /// Blocks these signals in the calling thread (and threads it makes).
    pub fn block(&self) {
        self.mask(libc::SIG_BLOCK);
    }

    /// Those of `signals` that the calling thread has blocked, and that do not wait for it already.
    pub fn to_come(signals: &[i32]) -> SignalSet {
        let mut waiting = SignalSet::new(&[]);
        // SAFETY: the set is room for what is told.
        unsafe { libc::sigpending(&mut waiting.0) };
        let others = signals.iter().copied().filter(|&signal| !waiting.has(signal));
        SignalSet::blocked(&others.collect::<Vec<_>>())
    }

    /// Those of `signals` that the calling thread has blocked.
    pub fn blocked(signals: &[i32]) -> SignalSet {
        let mut blocked = SignalSet::new(&[]);
        // SAFETY: a null new set only asks; the other is room for what is told.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut blocked.0) };
        SignalSet::new(&signals.iter().copied().filter(|&signal| blocked.has(signal)).collect::<Vec<_>>())
    }

    fn has(&self, signal: i32) -> bool {
        // SAFETY: the set is initialised.
        unsafe { libc::sigismember(&self.0, signal) == 1 }
    }

    /// A descriptor that can be read once one of them has come. They must be blocked.
    ///
    /// # Errors
    /// The host's.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is initialised.
        let fd = unsafe { libc::signalfd(-1, &self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has made it just now, for nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Unblocks them.
    pub fn unblock(&self) {
        self.mask(libc::SIG_UNBLOCK);
    }

    fn mask(&self, how: i32) {
        // SAFETY: the set is initialised; a null old set is allowed.
        unsafe { libc::pthread_sigmask(how, &self.0, std::ptr::null_mut()) };
    }

    /// Takes the next pending signal of the set, waiting for it. They must be blocked.
    pub fn wait(&self) -> Signalled {
        loop {
            let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
            // SAFETY: the set is initialised; `info` is room for what the kernel writes.
            let signal = unsafe { libc::sigwaitinfo(&self.0, info.as_mut_ptr()) };
            if signal > 0 {
                // SAFETY: the call succeeded and has filled it.
                let code = unsafe { info.assume_init() }.si_code;
                return Signalled { signal, by_terminal: code == libc::SI_KERNEL };
            }
        }
    }
}

/// A signal that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signalled {
    pub signal: i32,
    /// The kernel sent it (Ctrl-C, Ctrl-Z, a window that changed), not a process.
    pub by_terminal: bool,
}

/// Lets a child be killed when the thread that has made it ends.
pub fn die_with_parent(command: &mut std::process::Command) {
    let parent = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have died just before.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: two system calls, which may be made between fork and exec; nothing is allocated.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, tie) };
}

/// Closes all descriptors from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: only called between clone and exec, where nothing above `first` is used any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Lets exec close all descriptors from `first` on.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: changes a flag of descriptors; who owns them does not matter.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes the child's copy of a descriptor its parent keeps.
pub fn close_in_child(fd: BorrowedFd<'_>) {
    // SAFETY: only called in a fresh child, which never uses the descriptor's owner again (it execs or ends without drops).
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Makes `fd` (whatever is there is closed) a copy of `from` that stays open over exec.
///
/// # Errors
/// The host's.
pub fn dup_to(from: BorrowedFd<'_>, fd: i32) -> io::Result<()> {
    if from.as_raw_fd() == fd {
        // SAFETY: clears close-on-exec of a descriptor we borrow.
        return if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    }
    // SAFETY: only called between clone and exec, where nobody else owns `fd`.
    if unsafe { libc::dup2(from.as_raw_fd(), fd) } == fd { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor this process was started with.
pub fn inherited(fd: i32) -> OwnedFd {
    // SAFETY: called once, at the start of a process whose parent put the descriptor there for it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Puts the calling thread alone into a new network namespace.
///
/// # Errors
/// The host's.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: a network namespace is the thread's own affair; nothing in memory depends on it.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which of a tap's queues a descriptor is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapQueue {
    /// The tap is made, and has no other.
    Only,
    /// The tap is made, and will have more.
    First,
    Further,
    /// The tap is there, and has no other.
    Existing,
}

/// Makes an open /dev/net/tun a queue of the tap of this name, with virtio-net headers and nothing else before its frames.
///
/// # Errors
/// The host's; `EBUSY` if a tap to be made is there; `EINVAL` for a name that is too long.
pub fn make_tap(tun: BorrowedFd<'_>, name: &str, queue: TapQueue) -> io::Result<()> {
    // SAFETY: all fields may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    let more = match queue {
        TapQueue::Only => libc::IFF_TUN_EXCL,
        TapQueue::First => libc::IFF_TUN_EXCL | libc::IFF_MULTI_QUEUE,
        TapQueue::Further => libc::IFF_MULTI_QUEUE,
        TapQueue::Existing => 0,
    };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as i16;
    // SAFETY: the request is a whole `ifreq`, which the kernel reads and writes.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets a tap outlive its descriptor.
///
/// # Errors
/// The host's.
pub fn keep_tap(tap: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request's argument is a number.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Says what frames read from a tap may leave to their reader (`TUN_F_*`), and that virtio-net's header is the short one, whoever had the tap before.
///
/// # Errors
/// The host's.
pub fn set_tap_offloads(tap: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    let short: libc::c_int = 10;
    // SAFETY: the first argument is a live number that is only read, the second is a number.
    let done = unsafe {
        libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const short) < 0
            || libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) < 0
    };
    if done { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One arena and no trimming thresholds that grow: small processes stay small.
pub fn small_heap() {
    // SAFETY: mallopt has no preconditions.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
}
