//! The process that unpacks: this program executed again as `nacre-unpack`, and confined before it reads a byte of the layer.
//!
//! It gets the layer as descriptor 0, the tree as another and a [`Request`] and that one's number as its arguments; it writes lines to descriptor 1: how far it is, and last
//! what came of it. It may reach nothing but the tree: Landlock, as root also chroot and only the capabilities to make files, and a list of
//! file system calls without sockets, processes or tracing. It dies with its parent.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use landlock::{ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::layer::apply;
use super::{Applied, Counts, Limits, Owners, UnpackError};
use crate::blob::Blob;

/// argv[0] of the helper.
pub const NAME: &str = "nacre-unpack";

/// Address space: a zstd window, what is remembered of a layer, and room.
const MOST_MEMORY: u64 = 4 << 30;

/// Bytes of progress that are listened to.
const MOST_SAID: u64 = 64 << 20;

/// Where layers are unpacked.
#[derive(Debug, Clone)]
pub enum Unpacker {
    /// In a confined process of this program, which calls [`main`] when its name is [`NAME`].
    Confined { program: PathBuf },
    /// In this process: for tests.
    Here,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    length: u64,
    limits: Limits,
    owners: Owners,
}

/// A line of the helper's.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Read(u64),
    Done { blob: String, diff_id: String, counts: Counts },
    Refused(String),
}

impl Unpacker {
    /// Unpacks a layer into the directory `tree`.
    ///
    /// # Errors
    /// Why the layer was refused.
    pub fn unpack(
        &self,
        tree: BorrowedFd<'_>,
        blob: &Blob,
        limits: Limits,
        owners: Owners,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Applied, UnpackError> {
        let io = |error: std::io::Error| UnpackError::Helper(format!("cannot read the layer: {error}"));
        let mut file = blob.file.try_clone().map_err(io)?;
        file.seek(SeekFrom::Start(blob.offset)).map_err(io)?;
        match self {
            Unpacker::Here => apply(tree, file.take(blob.length), limits, owners, progress),
            Unpacker::Confined { program } => {
                let request = Request { length: blob.length, limits, owners };
                run(program, &request, tree, file, progress)
            }
        }
    }
}

fn run(
    program: &PathBuf,
    request: &Request,
    tree: BorrowedFd<'_>,
    layer: File,
    progress: &mut dyn FnMut(u64),
) -> Result<Applied, UnpackError> {
    let failed = |what: &'static str| move |error: std::io::Error| UnpackError::Helper(format!("cannot {what}: {error}"));
    let text = serde_json::to_string(request).map_err(|e| UnpackError::Helper(e.to_string()))?;
    // Open over exec, by a number the helper is told, beyond those of its streams.
    let inherited = rustix::io::fcntl_dupfd_cloexec(tree, 10).map_err(|e| failed("pass the tree on")(e.into()))?;
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).map_err(|e| failed("pass the tree on")(e.into()))?;
    let mut command = Command::new(program);
    command.arg0(NAME).arg(text).arg(inherited.as_raw_fd().to_string()).env_clear();
    let mut child = command
        .stdin(layer)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("start the unpacking process"))?;
    drop(inherited);
    let mut result = None;
    for line in child.stdout.take().map(|out| BufReader::new(out.take(MOST_SAID))).into_iter().flat_map(|lines| lines.lines()) {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Line::Read(count)) => progress(count),
            Ok(done) => result = Some(done),
            Err(_) => break,
        }
    }
    let output = child.wait_with_output().map_err(failed("wait for the unpacking process"))?;
    let malformed = |_| UnpackError::Helper("the unpacking process gave a malformed answer".into());
    match result {
        Some(Line::Done { blob, diff_id, counts }) if output.status.success() => {
            Ok(Applied { blob: blob.parse().map_err(malformed)?, diff_id: diff_id.parse().map_err(malformed)?, counts })
        }
        Some(Line::Refused(reason)) => Err(UnpackError::Helper(reason)),
        _ => {
            let why = match output.status.signal() {
                Some(libc::SIGSYS) => "made a system call it must not make".to_string(),
                Some(signal) => format!("was killed by signal {signal}"),
                None => output.status.to_string(),
            };
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
            Err(UnpackError::Helper(format!("the unpacking process ended early: {why} {said}").trim_end().to_string()))
        }
    }
}

/// Whether this process was started as the helper.
pub fn is_helper(argv0: &OsStr) -> bool {
    argv0 == NAME
}

/// The helper's life. The exit status.
pub fn main(layer: OwnedFd, tree: OwnedFd, request: &str) -> u8 {
    let _ = rustix::thread::set_name(c"nacre-unpack");
    let line = match unpack(layer, tree, request) {
        Ok(done) => Line::Done { blob: done.blob.to_string(), diff_id: done.diff_id.to_string(), counts: done.counts },
        Err(error) => Line::Refused(error.to_string()),
    };
    match say(&line) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn unpack(layer: OwnedFd, tree: OwnedFd, request: &str) -> Result<Applied, UnpackError> {
    let request: Request = serde_json::from_str(request).map_err(|e| UnpackError::Helper(format!("malformed request: {e}")))?;
    // Allocated before the filter: the locale and the like of what follows need no more of the host.
    confine(tree.as_fd(), request.owners)
        .map_err(|what| UnpackError::Helper(format!("cannot confine the unpacking process: {what}")))?;
    let mut said = 0;
    let mut progress = |count: u64| {
        if count >= said + (1 << 20) {
            said = count;
            // A parent that is gone takes us with it.
            let _ = say(&Line::Read(count));
        }
    };
    apply(tree.as_fd(), File::from(layer).take(request.length), request.limits, request.owners, &mut progress)
}

fn say(line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Each step must work; the order is the one in which each still may.
fn confine(tree: BorrowedFd<'_>, owners: Owners) -> Result<(), String> {
    let step = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("death signal"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("dumpable"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(step("core limit"))?;
    let memory = Rlimit { current: Some(MOST_MEMORY), maximum: Some(MOST_MEMORY) };
    rustix::process::setrlimit(Resource::As, memory).map_err(step("memory limit"))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::fchdir(tree).map_err(step("change to the tree"))?;
    if owners == Owners::Archive {
        rustix::process::chroot(".").map_err(step("chroot"))?;
        let kept = CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::FOWNER
            | CapabilitySet::FSETID
            | CapabilitySet::SETFCAP;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map_err(step("capabilities"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
    landlock(tree).map_err(|error| format!("Landlock: {error}"))?;
    let filter = filter().map_err(|error| format!("seccomp: {error}"))?;
    seccompiler::apply_filter(&filter).map_err(|error| format!("seccomp: {error}"))
}

fn landlock(tree: BorrowedFd<'_>) -> Result<(), String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let abi = ABI::V6;
    let rights = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeFifo
        | AccessFs::MakeSym
        | AccessFs::Refer;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .map_err(text)?;
    let rules = rules.create().map_err(text)?;
    let rules = rules.add_rule(PathBeneath::new(tree, rights)).map_err(text)?;
    match rules.restrict_self().map_err(text)?.ruleset {
        RulesetStatus::NotEnforced => Err("the host kernel has none, or it is off (boot parameter lsm=)".into()),
        _ => Ok(()),
    }
}

/// What reading a stream and making files takes.
const CALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_dup,
    // Memory, and the ends of a process.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn filter() -> Result<seccompiler::BpfProgram, String> {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let rules = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    filter.and_then(TryInto::try_into).map_err(|error: seccompiler::BackendError| error.to_string())
}
