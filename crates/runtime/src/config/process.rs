//! `process` of config.json (and of `exec`'s process.json).

use agent_api::{Process, Rlimit, WindowSize};
use oci_spec::runtime::{PosixRlimitType, Process as OciProcess};

use super::{ConfigError, capabilities, missing, wrong};

/// Checks what serde cannot. `key` is where the process stands in its file.
///
/// # Errors
/// Names the key.
pub fn check(process: &OciProcess, key: &str) -> Result<(), ConfigError> {
    if process.args().as_ref().is_none_or(|args| args.is_empty()) {
        return Err(missing(&format!("{key}.args")));
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(missing(&format!("{key}.cwd")));
    }
    if !cwd.is_absolute() {
        return Err(wrong(format!("{key}.cwd"), format!("{:?} is not an absolute path", cwd.display().to_string())));
    }
    for (index, entry) in process.env().iter().flatten().enumerate() {
        if !entry.contains('=') {
            return Err(wrong(format!("{key}.env[{index}]"), format!("{entry:?} has no \"=\"")));
        }
    }
    let texts = process.args().iter().flatten().chain(process.env().iter().flatten());
    if texts.chain(cwd.to_str().map(str::to_owned).as_ref()).any(|text| text.contains('\0')) {
        return Err(wrong(key, "a string contains NUL"));
    }
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        if limit.soft() > limit.hard() {
            return Err(wrong(format!("{key}.rlimits[{index}]"), "soft is above hard"));
        }
    }
    if let Some(size) = process.console_size()
        && (size.height() > u16::MAX.into() || size.width() > u16::MAX.into())
    {
        return Err(wrong(format!("{key}.consoleSize"), "larger than 65535"));
    }
    Ok(())
}

/// As the agent takes it; without its standard streams.
///
/// # Errors
/// Names the key.
pub fn process(process: &OciProcess) -> Result<Process, ConfigError> {
    let bytes = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| text.clone().into_bytes()).collect();
    let user = process.user();
    let terminal = process.terminal().unwrap_or(false).then(|| {
        let size = process.console_size();
        WindowSize {
            rows: size.map_or(0, |s| s.height() as u32),
            columns: size.map_or(0, |s| s.width() as u32),
            x_pixels: 0,
            y_pixels: 0,
        }
    });
    Ok(Process {
        args: bytes(process.args()),
        env: bytes(process.env()),
        cwd: process.cwd().as_os_str().as_encoded_bytes().to_vec(),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: process.capabilities().as_ref().map(capabilities::sets),
        rlimits: process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| Rlimit { resource: resource(limit.typ()), soft: limit.soft(), hard: limit.hard() })
            .collect(),
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        terminal,
        oom_score_adj: process.oom_score_adj(),
        stdio: None,
        extra_fds: Vec::new(),
    })
}

/// Linux's number of a resource.
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
