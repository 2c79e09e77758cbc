//! Open files and their data.

use std::os::fd::{AsFd, OwnedFd};

use gofer::{
    Errno,
    passthrough::attr_of_open,
    protocol::{OpenHow, Truncate},
};
use rustix::fs::{FallocateFlags, Mode, SeekFrom};

use super::{Answer, Fs, HEAD, MAX_WRITE, OUT_HEAD, Outcome, Request, attr::without_set_ids, done, gone, is_exclusive, reply};
use crate::{
    abi::{
        CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, LseekIn, LseekOut, OPEN_KILL_SUIDGID, OpenIn, OpenOut, ROOT_ID,
        ReadIn, ReleaseIn, WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn, WriteOut, fopen,
    },
    handles::Open,
    memory::Placement,
    trees::Tree,
};

/// How much one copy moves, so that it does not hold up others; the guest's program goes on by itself.
const MAX_COPY: u64 = 8 << 20;

/// How to open for `open(2)`'s flags. Truncating takes the right to write.
pub(super) fn open_how(flags: u32) -> OpenHow {
    match flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY if flags as i32 & libc::O_TRUNC == 0 => OpenHow::Read,
        libc::O_WRONLY => OpenHow::Write,
        _ => OpenHow::ReadWrite,
    }
}

pub(super) fn truncated(fd: OwnedFd, flags: u32) -> Result<OwnedFd, Errno> {
    if flags as i32 & libc::O_TRUNC != 0 {
        rustix::fs::ftruncate(&fd, 0)?;
    }
    Ok(fd)
}

pub(super) fn open_out(fh: u64, tree: &Tree) -> OpenOut {
    // With AUTO_INVAL_DATA a guest drops what it has of a shared file when size or time of change differ.
    let open_flags = if is_exclusive(tree) { fopen::KEEP_CACHE } else { 0 };
    OpenOut { fh, open_flags, padding: 0 }
}

impl Fs {
    pub(super) fn open(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        if id == ROOT_ID {
            return Err(Errno::EISDIR);
        }
        let arg: OpenIn = request.arg()?;
        let how = open_how(arg.flags);
        let known = self.inodes.lock().known(id)?;
        self.handles.lock().check_room()?;
        let fd = match (&known.node, &known.place) {
            // The common case takes no descriptor beside the one wanted. Not for writing: an overlay's copy-up would change the identity.
            (None, Some((dir, name))) if how == OpenHow::Read => {
                let (attr, fd) = self.node(*dir)?.open_entry(name, how).map_err(gone)?;
                if !self.inodes.lock().is(id, &attr) {
                    return Err(Errno::ESTALE);
                }
                fd
            }
            _ => self.node(id)?.open(how, Truncate::Keep)?,
        };
        let fd = truncated(fd, arg.flags)?;
        if arg.open_flags & OPEN_KILL_SUIDGID != 0 && arg.flags as i32 & libc::O_TRUNC != 0 {
            kill_set_ids(&fd)?;
        }
        let fh = self.handles.lock().insert(id, Some(&known.tree), Open::File(fd.into()))?;
        reply(&open_out(fh, &known.tree))
    }

    pub(super) fn read(&self, request: &Request<'_>) -> Outcome {
        let arg: ReadIn = request.arg()?;
        let file = self.handles.lock().file(arg.fh)?;
        let len = (arg.size.min(MAX_WRITE) as usize).min(request.room());
        let mut done = 0;
        // A short read would mean the end of the file.
        while done < len {
            let offset = arg.offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            match request.output.read_from(OUT_HEAD + done, len - done, &*file.fd, offset) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(Answer::InPlace(done))
    }

    pub(super) fn write(&self, request: &Request<'_>) -> Outcome {
        let arg: WriteIn = request.arg()?;
        let file = self.handles.lock().file(arg.fh)?;
        let from = HEAD + size_of::<WriteIn>();
        let len = (arg.size.min(MAX_WRITE) as usize).min(request.input.len().saturating_sub(from));
        if arg.write_flags & WRITE_KILL_SUIDGID != 0 {
            kill_set_ids(&file.fd)?;
        }
        // Others may have made the file longer than the guest knows.
        let appends = arg.flags as i32 & libc::O_APPEND != 0 && arg.write_flags & WRITE_CACHE == 0 && !is_exclusive(&file.tree);
        let mut done = 0;
        while done < len {
            let place = match appends {
                true => Placement::End,
                false => Placement::At(arg.offset.checked_add(done as u64).ok_or(Errno::EINVAL)?),
            };
            match request.input.write_to(from + done, len - done, &*file.fd, place) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        reply(&WriteOut { size: done as u32, padding: 0 })
    }

    pub(super) fn fsync(&self, request: &Request<'_>) -> Outcome {
        let arg: FsyncIn = request.arg()?;
        let file = self.handles.lock().file(arg.fh)?;
        match arg.fsync_flags & FSYNC_FDATASYNC {
            0 => rustix::fs::fsync(&*file.fd)?,
            _ => rustix::fs::fdatasync(&*file.fd)?,
        }
        done()
    }

    pub(super) fn fallocate(&self, request: &Request<'_>) -> Outcome {
        let arg: FallocateIn = request.arg()?;
        let file = self.handles.lock().file(arg.fh)?;
        let flags = FallocateFlags::from_bits(arg.mode).ok_or(Errno::EOPNOTSUPP)?;
        rustix::fs::fallocate(&*file.fd, flags, arg.offset, arg.length)?;
        done()
    }

    /// For holes and data only; the guest's kernel knows the rest.
    pub(super) fn lseek(&self, request: &Request<'_>) -> Outcome {
        let arg: LseekIn = request.arg()?;
        let file = self.handles.lock().file(arg.fh)?;
        // The descriptor's own position is used by nothing else.
        let to = match arg.whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(arg.offset),
            libc::SEEK_HOLE => SeekFrom::Hole(arg.offset),
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(arg.offset).map_err(|_| Errno::EINVAL)?;
        reply(&LseekOut { offset: rustix::fs::seek(&*file.fd, to)? })
    }

    pub(super) fn copy_file_range(&self, request: &Request<'_>) -> Outcome {
        let arg: CopyFileRangeIn = request.arg()?;
        if arg.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let (from, to) = {
            let handles = self.handles.lock();
            (handles.file(arg.fh_in)?, handles.file(arg.fh_out)?)
        };
        let len = usize::try_from(arg.len.min(MAX_COPY)).map_err(|_| Errno::EINVAL)?;
        let (mut off_in, mut off_out) = (arg.off_in, arg.off_out);
        if i64::try_from(off_in).is_err() || i64::try_from(off_out).is_err() {
            return Err(Errno::EINVAL);
        }
        let n = rustix::fs::copy_file_range(&*from.fd, Some(&mut off_in), &*to.fd, Some(&mut off_out), len)?;
        reply(&WriteOut { size: n as u32, padding: 0 })
    }

    /// RELEASE and RELEASEDIR.
    pub(super) fn release(&self, request: &Request<'_>) -> Outcome {
        let arg: ReleaseIn = request.arg()?;
        let open = self.handles.lock().remove(arg.fh);
        drop(open);
        done()
    }
}

/// As a write by somebody without `CAP_FSETID` does; this process may have it.
fn kill_set_ids(fd: impl AsFd) -> Result<(), Errno> {
    if let Some(mode) = without_set_ids(&attr_of_open(fd.as_fd())?) {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}
