//! sysinfo, getrandom, syslog, reboot, vhangup: calls about the machine.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::executor::yield_now;
use crate::task::{Capability, Cx};
use crate::wait::Interrupt;

/// `struct sysinfo`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: u16,
    pad2: u32,
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    pad3: u32,
}

pub fn sys_sysinfo(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (kernel, container) = (cx.kernel(), &cx.task.container);
    let total = container.memory_bytes(&kernel.machine);
    let loads = container.load.at(kernel.clock.monotonic().0, container.activity().usage.cpu_ns());
    let info = SysInfo {
        loads: loads.map(|load| (load * 65536.0) as u64),
        // A begun second counts (kernel/sys.c).
        uptime: kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns).div_ceil(1_000_000_000) as i64,
        totalram: total,
        freeram: total.saturating_sub(container.memory.used_bytes()),
        procs: u16::try_from(container.pids.tasks().len()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..SysInfo::default()
    };
    Flow::done(cx.mm.write_val(args.u64(0), &info).map(|()| 0))
}

/// `GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE`.
const RANDOM_FLAGS: u32 = 7;
/// Random bytes made at a time.
const RANDOM_CHUNK: usize = 4096;

pub fn sys_getrandom(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (addr, len, flags) = (args.u64(0), args.io_len(1), args.u32(2));
    if flags & !RANDOM_FLAGS != 0 || flags & 6 == 6 {
        return Flow::done(Err(Errno::EINVAL));
    }
    if len <= RANDOM_CHUNK {
        return Flow::done(random_to(cx, addr, len).map(|()| len as u64));
    }
    Flow::wait(async move {
        let mut done = 0;
        while done < len {
            let n = RANDOM_CHUNK.min(len - done);
            match random_to(cx, addr.saturating_add(done as u64), n) {
                Ok(()) => done += n,
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
            yield_now().await;
            if cx.task.interrupted() {
                break;
            }
        }
        Ok(done as u64)
    })
}

fn random_to(cx: &Cx, addr: u64, len: usize) -> Result<(), Errno> {
    let mut bytes = [0; RANDOM_CHUNK];
    let bytes = bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
    hostcall::random::fill(bytes)?;
    cx.mm.write(addr, bytes)
}

/// The kernel log, which is empty, for those with `CAP_SYSLOG` (as with `dmesg_restrict`).
pub fn sys_syslog(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(log_action(cx, args.i32(0), args.u64(1), args.i32(2)))
}

fn log_action(cx: &Cx, action: i32, buffer: u64, len: i32) -> Result<u64, Errno> {
    const READ: i32 = 2;
    const READ_CLEAR: i32 = 4;
    const CONSOLE_LEVEL: i32 = 8;
    const SIZE_BUFFER: i32 = 10;
    let creds = cx.creds();
    if !creds.has(Capability::Syslog) && !creds.has(Capability::SysAdmin) {
        return Err(Errno::EPERM);
    }
    match action {
        READ..=READ_CLEAR if buffer == 0 || len < 0 => Err(Errno::EINVAL),
        CONSOLE_LEVEL if !(1..=8).contains(&len) => Err(Errno::EINVAL),
        0..=SIZE_BUFFER => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `reboot`: what Linux checks first, and then no. (In a pid namespace as a container's, Linux ends the first process.)
pub fn sys_reboot(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(reboot(cx, args))
}

fn reboot(cx: &Cx, args: Args) -> Result<u64, Errno> {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC_2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    /// `LINUX_REBOOT_CMD_`: RESTART, HALT, POWER_OFF, RESTART2.
    const COMMANDS: [u32; 4] = [0x0123_4567, 0xcdef_0123, 0x4321_fedc, 0xa1b2_c3d4];
    if !cx.creds().has(Capability::SysBoot) {
        return Err(Errno::EPERM);
    }
    if args.u32(0) != MAGIC || !MAGIC_2.contains(&args.u32(1)) || !COMMANDS.contains(&args.u32(2)) {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EPERM)
}

/// `vhangup`: the caller's terminal is hung up.
pub fn sys_vhangup(cx: &mut Cx, _args: Args) -> Flow<'_> {
    if !cx.creds().has(Capability::SysTtyConfig) {
        return Flow::done(Err(Errno::EPERM));
    }
    if let Some(terminal) = cx.task.group.session().terminal() {
        terminal.leader_exited();
    }
    Flow::done(Ok(0))
}
