//! The system calls that no library wraps safely: each with its conditions.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

/// Turns a C call's answer into a result.
fn checked(answer: libc::c_long) -> Result<libc::c_long, Errno> {
    match answer {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        answer => Ok(answer),
    }
}

/// Connects to a port of a vsock context, from one of ours (`VMADDR_PORT_ANY`: any).
///
/// # Errors
/// The kernel's: `ENODEV` without a transport, `ECONNRESET` when nobody listens.
pub fn connect_vsock(cid: u32, port: u32, from: u32) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let address = |cid: u32, port: u32| {
        // SAFETY: all zeros are a value of this plain C struct.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = cid;
        address.svm_port = port;
        address
    };
    let (own, other) = (address(libc::VMADDR_CID_ANY, from), address(cid, port));
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address lives through the call and `size` is its size.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const own).cast(), size) }.into())?;
    // SAFETY: as above.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const other).cast(), size) }.into())?;
    Ok(socket)
}

/// Which of the two a fork returned into.
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks. Only for processes of one thread: the child may then do what it likes.
///
/// # Errors
/// The kernel's.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: the helper processes that call this have one thread, so no lock is held by another one in the child.
    let pid = checked(unsafe { libc::fork() }.into())?;
    Ok(match Pid::from_raw(pid as i32) {
        Some(pid) => Fork::Parent(pid),
        None => Fork::Child,
    })
}

/// Executes a program; returns only to say why it could not.
pub fn execute(path: &CString, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and, with the strings, live through the call.
    match checked(unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) }.into()) {
        Err(errno) => errno,
        Ok(_) => Errno::IO,
    }
}

/// Leaves the process without running anything of the parent's that a fork has copied.
pub fn leave(status: i32) -> ! {
    // SAFETY: has no conditions.
    unsafe { libc::_exit(status) }
}

/// Every signal at its default and none blocked, as a program expects to start.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default action runs no code of ours. The refusal for SIGKILL, SIGSTOP and libc's own signals is of no matter.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_mask(libc::SIG_SETMASK, &[]);
}

/// Blocks SIGCHLD in this thread and those it will make.
pub fn block_child_signal() {
    set_mask(libc::SIG_BLOCK, &[libc::SIGCHLD]);
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: all zeros are a value of this plain C struct, and the calls only write to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

fn set_mask(how: libc::c_int, signals: &[libc::c_int]) {
    let set = signal_set(signals);
    // SAFETY: the set lives through the call; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

/// Sleeps until a child has changed; SIGCHLD must be blocked.
pub fn wait_child_signal() {
    let set = signal_set(&[libc::SIGCHLD]);
    // SAFETY: the set lives through the call; information about the signal is not wanted.
    unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
}

/// Takes over a descriptor by its number.
///
/// # Safety
/// The number must be an open descriptor that nothing else in this process owns.
pub unsafe fn take_fd(number: RawFd) -> OwnedFd {
    // SAFETY: the caller's.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes `fd` the descriptor `number`, inherited by programs. What was there is closed.
///
/// # Errors
/// The kernel's.
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: a system call on numbers; the helper's descriptors below 3 and those numbered for the program have no other owner.
    checked(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }.into()).map(drop)
}

/// Closes the descriptors `from` to `to`.
pub fn close_range(from: u32, to: u32) {
    // SAFETY: a system call on numbers; the caller executes a program next, or exits.
    unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
}

/// Marks all descriptors from `from` on to be closed by exec.
pub fn close_on_exec_from(from: u32) {
    // SAFETY: a system call on numbers that closes nothing now.
    unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Sets flags (`MOUNT_ATTR_*`) of a mount, and of those below it.
///
/// # Errors
/// The kernel's.
pub fn set_mount_flags(mount: BorrowedFd<'_>, set: u64, clear: u64, below: Below) -> Result<(), Errno> {
    /// `struct mount_attr` (mount_setattr(2)).
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { set, clear, propagation: 0, userns_fd: 0 };
    let flags = match below {
        Below::Too => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        Below::No => libc::AT_EMPTY_PATH,
    };
    // SAFETY: the path is an empty C string, the struct lives through the call and the last argument is its size.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    })
    .map(drop)
}

/// Whether mounts below one are meant too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    Too,
    No,
}

/// Installs a seccomp filter for this thread (and what it becomes).
///
/// # Errors
/// The kernel's.
pub fn install_filter(program: &[libc::sock_filter], flags: u32) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions, which live through the call.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }).map(drop)
}

/// Adds bytes to the kernel's pool of entropy, and says that they count.
///
/// # Errors
/// The kernel's.
pub fn add_entropy(bytes: &[u8]) -> Result<(), Errno> {
    /// `struct rand_pool_info` with room for what the protocol allows.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        len: libc::c_int,
        bytes: [u8; 256],
    }
    /// `RNDADDENTROPY`: `_IOW('R', 0x03, int[2])`.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    let bytes = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    let mut pool = Pool { bits: bytes.len() as libc::c_int * 8, len: bytes.len() as libc::c_int, bytes: [0; 256] };
    pool.bytes.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let random = rustix::fs::open("/dev/urandom", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
    // SAFETY: the struct has the layout of `rand_pool_info` and `len` is within its bytes.
    checked(unsafe { libc::ioctl(random.as_fd().as_raw_fd(), RNDADDENTROPY, &raw const pool) }.into()).map(drop)
}

/// Has a network interface use as many of its pairs of queues as it has, up to `most`. One that has no queues to choose from stays as it is.
///
/// # Errors
/// The kernel's.
pub fn use_queues(interface: &str, most: u32) -> Result<(), Errno> {
    /// `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        command: u32,
        max_rx: u32,
        max_tx: u32,
        max_other: u32,
        max_combined: u32,
        rx: u32,
        tx: u32,
        other: u32,
        combined: u32,
    }
    const GET: u32 = 0x3c;
    const SET: u32 = 0x3d;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut channels = Channels { command: GET, ..Channels::default() };
    // SAFETY: all zeros are a value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::INVAL);
    }
    request.ifr_name.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    let mut ask = |channels: &mut Channels| {
        request.ifr_ifru.ifru_data = (&raw mut *channels).cast();
        // SAFETY: the request is an `ifreq` whose data is an `ethtool_channels`, which the kernel reads and writes; both live through the call.
        checked(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }.into()).map(drop)
    };
    match ask(&mut channels) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        asked => asked?,
    }
    let wanted = channels.max_combined.min(most);
    if wanted <= channels.combined {
        return Ok(());
    }
    (channels.command, channels.combined) = (SET, wanted);
    ask(&mut channels)
}

/// An instruction of BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// The destination, and in the upper half the source.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

impl Instruction {
    const fn new(code: u8, registers: u8, offset: i16, immediate: u32) -> Instruction {
        Instruction { code, registers, offset, immediate: immediate as i32 }
    }

    /// The 32 bits at an offset of the memory that `from` points to.
    pub const fn load(to: u8, from: u8, offset: i16) -> Instruction {
        Instruction::new(0x61, to | from << 4, offset, 0)
    }

    pub const fn copy(to: u8, from: u8) -> Instruction {
        Instruction::new(0xbf, to | from << 4, 0, 0)
    }

    pub const fn set(to: u8, value: u32) -> Instruction {
        Instruction::new(0xb7, to, 0, value)
    }

    pub const fn and(to: u8, mask: u32) -> Instruction {
        Instruction::new(0x57, to, 0, mask)
    }

    pub const fn shift_right(to: u8, bits: u32) -> Instruction {
        Instruction::new(0x77, to, 0, bits)
    }

    /// Leaves `skip` instructions out unless the lower 32 bits are equal.
    pub const fn unless_equal(of: u8, value: u32, skip: i16) -> Instruction {
        Instruction::new(0x56, of, skip, value)
    }

    pub const fn if_zero(of: u8, skip: i16) -> Instruction {
        Instruction::new(0x15, of, skip, 0)
    }

    pub const fn unless_zero(of: u8, skip: i16) -> Instruction {
        Instruction::new(0x55, of, skip, 0)
    }

    /// Answers with register 0.
    pub const fn exit() -> Instruction {
        Instruction::new(0x95, 0, 0, 0)
    }
}

/// bpf(2) with one of its structures.
fn bpf<T>(command: libc::c_int, with: &T) -> Result<libc::c_long, Errno> {
    // SAFETY: the callers' structures are those of their commands, the memory they point to lives through the call, and neither command writes.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, with, size_of::<T>()) })
}

/// Loads a program for [`attach_device_program`].
///
/// # Errors
/// The kernel's: `ENOSYS` without bpf(2), `EINVAL` without such programs.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const CGROUP_DEVICE: u32 = 15;
    let load = Load {
        kind: CGROUP_DEVICE,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        // It calls nothing that would ask for one.
        license: c"".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    let fd = bpf(PROG_LOAD, &load)?;
    // SAFETY: the kernel has just made it, for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Has the kernel ask a program about each device that processes of a cgroup, or below it, make or open. With those of other cgroups on the way, not instead.
///
/// # Errors
/// The kernel's.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    #[repr(C)]
    struct Attach {
        cgroup: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_ATTACH: libc::c_int = 8;
    const DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let (cgroup, program) = (cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32);
    bpf(PROG_ATTACH, &Attach { cgroup, program, kind: DEVICE, flags: ALLOW_MULTI }).map(drop)
}

/// A signal by its number, realtime ones too.
pub fn signal(number: i32) -> Option<Signal> {
    // SAFETY: the numbers that Linux has; none of those that libc keeps for itself is ever sent by it to a process of its own here.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// glibc may otherwise make an arena of 64 MiB of addresses, and some pages, for each thread.
pub fn one_heap() {
    // SAFETY: sets a number in the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
