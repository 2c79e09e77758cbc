//! Where a container's application memory is: a tmpfs of its own, mounted nowhere, whose size is the container's limit.
//!
//! The sentry gets one empty file in it; the container's gofer holds its top directory and does nothing with it. So `update` finds the
//! file system there, in whatever process it runs, and gives it another size.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use agent_api::Limits;
use rustix::fs::CWD;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_string, fspick};
use rustix::process::{Gid, Uid};

use super::NOBODY;
use super::isolate::{Code, tmpfs};
use crate::error::{Doing, Error, Result};
use crate::state::ProcessRef;

/// A container's memory, held by the process that makes it.
#[derive(Debug)]
pub struct Memory {
    pub dir: OwnedFd,
    pub file: OwnedFd,
    /// The file system's device number, by which [`resize`] knows it.
    pub dev: u64,
}

/// A tmpfs for guest memory of at most so many bytes.
pub(super) fn file_system(limit: Option<u64>) -> io::Result<OwnedFd> {
    tmpfs(&[("size", &size(limit)), ("nr_inodes", "0"), ("mode", "0700"), ("huge", "advise")], Code::Mappable)
}

/// 0: no limit of its own.
fn size(limit: Option<u64>) -> String {
    limit.filter(|&bytes| bytes != Limits::NONE).unwrap_or(0).to_string()
}

impl Memory {
    /// For a container that may use so much. Needs the power to mount.
    ///
    /// # Errors
    /// The host's.
    pub fn new(limit: Option<u64>) -> Result<Memory> {
        let make = || -> io::Result<Memory> {
            let dir = file_system(limit)?;
            let file = hostcall::io::unnamed_file(dir.as_fd()).map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))?;
            let dev = rustix::fs::fstat(&dir)?.st_dev;
            Ok(Memory { dir, file, dev })
        };
        make().doing(|| "cannot make the container's memory")
    }
}

/// Changes the size of the memory on file system `dev`, which `holder` holds.
///
/// # Errors
/// It is not there; more than `limit` bytes are in use.
pub fn resize(holder: &ProcessRef, dev: u64, limit: u64) -> Result<()> {
    let what = || "cannot change the size of the container's memory";
    let fds = format!("/proc/{}/fd", holder.pid);
    for entry in fs::read_dir(&fds).doing(what)? {
        let path = entry.doing(what)?.path();
        if !fs::metadata(&path).is_ok_and(|found| found.is_dir() && found.dev() == dev) {
            continue;
        }
        let context = fspick(CWD, &path, FsPickFlags::FSPICK_CLOEXEC).doing(what)?;
        fsconfig_set_string(context.as_fd(), "size", size(Some(limit))).doing(what)?;
        return match fsconfig_reconfigure(context.as_fd()) {
            Err(rustix::io::Errno::INVAL) => {
                Err(Error::Other(format!("linux.resources.memory.limit: the container uses more than {limit} bytes of memory")))
            }
            done => done.doing(what),
        };
    }
    Err(Error::Other(format!("{}: it is in no process of the container", what())))
}
