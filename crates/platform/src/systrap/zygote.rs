//! The zygote: the process from which all stubs are cloned.
//!
//! It is forked from the sentry, which then has nothing in it yet, and unmaps everything it inherited. An exec'd
//! program would be born clean, but `exec` gives it a descriptor table of its own (`unshare_files` in the kernel's
//! `begin_new_exec`), and stubs must share the sentry's: the order to map a file carries the sentry's descriptor number.

use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use hostcall::Errno;

use super::control::Control;
use super::layout::*;
use super::{blob, filter, sys};
use crate::PlatformError;

/// Where the host put its vDSO and the data pages before it: the same in all stubs.
#[derive(Debug, Clone)]
pub struct Vdso {
    pub vvar: Range<u64>,
    pub vdso: Range<u64>,
}

fn start(what: &'static str) -> impl Fn(Errno) -> PlatformError {
    move |errno| PlatformError::Start { what, errno }
}

/// Finds the vDSO in this process, or None where the host has none.
pub fn find_vdso() -> Result<Option<Vdso>, PlatformError> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| start("reading /proc/self/maps")(e.into()))?;
    let (mut vvar, mut vdso): (Option<Range<u64>>, _) = (None, None);
    for line in maps.lines() {
        let parse = || {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            Some(u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?)
        };
        if line.contains("[vvar") {
            let all = |known: Range<u64>, range: Range<u64>| known.start.min(range.start)..known.end.max(range.end);
            vvar = match (vvar, parse()) {
                (Some(known), Some(range)) => Some(all(known, range)),
                (known, range) => known.or(range),
            };
        } else if line.contains("[vdso]") {
            vdso = parse();
        }
    }
    Ok(vdso.map(|vdso| Vdso { vvar: vvar.unwrap_or(vdso.start..vdso.start), vdso }))
}

/// Puts constants and filters into the global page.
pub fn prepare(control: &Control, vdso: Option<&Vdso>, xfeatures: u64) {
    use std::sync::atomic::Ordering::Relaxed;
    let set32 = |offset: u64, value: u32| control.word32(FILE_GLOBAL + offset).store(value, Relaxed);
    let set64 = |offset: u64, value: u64| control.word64(FILE_GLOBAL + offset).store(value, Relaxed);
    set32(GLOBAL_CONTROL_FD, control.fd().as_raw_fd() as u32);
    set64(GLOBAL_XFEATURES, xfeatures);
    let programs = [
        (GLOBAL_MEMORY_FPROG, GLOBAL_MEMORY_FILTER, filter::memory_filter()),
        (GLOBAL_THREAD_FPROG, GLOBAL_THREAD_FILTER, filter::thread_filter()),
    ];
    for (header, at, program) in programs {
        set64(header, program.len() as u64);
        set64(header + 8, GLOBAL + at);
        for (i, instruction) in program.iter().enumerate() {
            let word = u64::from(instruction.code)
                | u64::from(instruction.jt) << 16
                | u64::from(instruction.jf) << 24
                | u64::from(instruction.k) << 32;
            set64(at + i as u64 * 8, word);
        }
    }
    let holes = holes(vdso);
    set32(GLOBAL_HOLES, holes.len() as u32);
    for (i, hole) in holes.iter().enumerate() {
        set64(GLOBAL_HOLE_LIST + i as u64 * 16, hole.start);
        set64(GLOBAL_HOLE_LIST + i as u64 * 16 + 8, hole.end - hole.start);
    }
}

/// Everything around our region and the vDSO. The vDSO is never moved or unmapped: it may be sealed
/// (`CONFIG_MSEAL_SYSTEM_MAPPINGS`).
pub fn holes(vdso: Option<&Vdso>) -> Vec<Range<u64>> {
    let mut keep = vec![REGION];
    keep.extend(vdso.map(|vdso| vdso.vvar.start..vdso.vdso.end));
    keep.sort_by_key(|range| range.start);
    let mut holes = Vec::new();
    let mut from = 0;
    for range in keep {
        holes.push(from..range.start);
        from = range.end;
    }
    holes.push(from..USER.end);
    holes.retain(|hole| !hole.is_empty());
    holes
}

/// The blob in a sealed memory file.
fn blob_file() -> Result<OwnedFd, PlatformError> {
    let code = blob::code();
    assert!(code.len() as u64 <= BLOB_LEN, "the blob outgrew its room");
    // SAFETY: plain calls on a new descriptor and on bytes that outlive them.
    unsafe {
        let fd = libc::memfd_create(c"nacre-blob".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(start("making the blob's file")(Errno::last_host()));
        }
        let file = OwnedFd::from_raw_fd(fd);
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        if libc::write(fd, code.as_ptr().cast(), code.len()) != code.len() as isize
            || libc::ftruncate(fd, BLOB_LEN as i64) != 0
            || libc::fcntl(fd, libc::F_ADD_SEALS, seals) != 0
        {
            return Err(start("making the blob's file")(Errno::last_host()));
        }
        Ok(file)
    }
}

/// Where glibc registered this thread's `rseq` area, and its length: the kernel writes there, and would kill a process that
/// has unmapped it.
fn rseq_area() -> Option<(u64, u64)> {
    // SAFETY: looking up two symbols of the C library by name; both are plain integers there (glibc 2.35 and later).
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() || *size == 0 {
            return None;
        }
        let thread: u64;
        std::arch::asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly));
        Some((thread.wrapping_add_signed(*offset as i64), u64::from(*size).next_multiple_of(32)))
    }
}

/// Forks the zygote, whose control area begins at `area`. Returns its pid, and the blob's file, which must stay open until the
/// zygote has answered its first order: it shares our descriptor table.
pub fn fork(control: &Control, area: u64) -> Result<(i32, OwnedFd), PlatformError> {
    let blob = blob_file()?;
    let blob_fd = blob.as_raw_fd();
    let control_fd = control.fd().as_raw_fd();
    let rseq = rseq_area();
    let handler = blob::handler();
    // Without an exit signal: the sentry's own waiting for children does not see stubs.
    // SAFETY: the child has its own copy of the address space, makes host calls only, and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES, 0, 0, 0, 0) } as i32;
    if pid == 0 {
        // SAFETY: we are the child.
        unsafe { become_zygote(blob_fd, control_fd, area, rseq, handler) }
    }
    let error = Errno::last_host();
    if pid < 0 {
        return Err(start("forking the zygote")(error));
    }
    Ok((pid, blob))
}

/// Code and stack of this process lie within so many bytes of any place in them.
const NEAR: u64 = 64 << 20;

/// The child's way into the blob. Host calls only: no allocation, no lock, no panic.
///
/// # Safety
/// Only in a process of its own.
unsafe fn become_zygote(blob_fd: i32, control_fd: i32, area: u64, rseq: Option<(u64, u64)>, handler: u64) -> ! {
    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const R: i32 = libc::PROT_READ;
    // SAFETY: this process is ours alone; the fixed mappings replace nothing it still needs.
    unsafe {
        let exit = |code: i32| -> ! {
            libc::syscall(libc::SYS_exit_group, code);
            std::hint::unreachable_unchecked()
        };
        // Have the host's out-of-memory killer choose stubs before the sentry.
        let adjust = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if adjust >= 0 {
            libc::write(adjust, c"900".as_ptr().cast(), 3);
            libc::close(adjust);
        }
        if let Some((at, len)) = rseq
            && sys::call(libc::SYS_rseq, [at, len, 1, 0x5305_3053, 0, 0]).is_err()
            && sys::call(libc::SYS_rseq, [at, 32, 1, 0x5305_3053, 0, 0]).is_err()
        {
            exit(97);
        }
        let pages = [
            (BLOB, BLOB_LEN, R | libc::PROT_EXEC, blob_fd, 0),
            (GLOBAL, PAGE, R, control_fd, FILE_GLOBAL),
            (SLEEPING, PAGE, R, control_fd, FILE_SLEEPING),
            (BELLS, PAGE, RW, control_fd, FILE_BELLS),
            (ORDERS, PAGE, R, control_fd, area + AREA_ORDERS),
            (ANSWERS, PAGE, RW, control_fd, area + AREA_ANSWERS),
        ];
        // What lies in the region now is the sentry's and not needed here, unless it is what we run on.
        let (code, stack) = (become_zygote as *const () as u64, &raw const pages as u64);
        let around = |at: u64| REGION.start.saturating_sub(NEAR) <= at && at < REGION.end + NEAR;
        if around(code) || around(stack) || around(libc::mmap as *const () as u64) {
            exit(96);
        }
        for (at, len, prot, fd, offset) in pages {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            let got = libc::mmap(at as *mut _, len as usize, prot, flags, fd, offset as i64);
            if got as u64 != at {
                exit(96);
            }
        }
        // struct kernel_sigaction: handler, flags, restorer, mask.
        const SA_RESTORER: u64 = 0x0400_0000;
        let action = [handler, (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER, handler, u64::MAX];
        for signal in SIGNALS {
            if sys::call(libc::SYS_rt_sigaction, [signal as u64, action.as_ptr() as u64, 0, 8, 0, 0]).is_err() {
                exit(95);
            }
        }
        let all = u64::MAX;
        let block = [libc::SIG_SETMASK as u64, &raw const all as u64, 0, 8, 0, 0];
        if sys::call(libc::SYS_rt_sigprocmask, block).is_err()
            || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_DUMPABLE, 0) != 0
        {
            exit(94);
        }
        libc::prctl(libc::PR_SET_NAME, c"nacre-stub".as_ptr());
        // No capability is needed from here on. _LINUX_CAPABILITY_VERSION_3 and no sets.
        let (header, sets) = ([0x2008_0522u32, 0], [0u32; 6]);
        if sys::call(libc::SYS_capset, [header.as_ptr() as u64, sets.as_ptr() as u64, 0, 0, 0, 0]).is_err() {
            exit(93);
        }
        let zygote: extern "C" fn() -> ! = std::mem::transmute(blob::zygote() as usize);
        zygote()
    }
}
