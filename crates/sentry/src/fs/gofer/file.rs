//! [`GoferFile`]: an open regular file. Data goes straight between guest memory and the host's page cache.
//!
//! Where the host would have to sleep, a read or write is done on a thread of the pool, by way of a buffer that the job owns.

use std::any::Any;
use std::os::fd::AsFd;
use std::sync::Arc;

use hostcall::WindowSlice;
use hostcall::io::{self, Seek, Sleep};

use super::GoferInode;
use super::fd_cache::{Donated, Io, Way};
use super::mappable::Mapped;
use crate::Errno;
use crate::fs::{File, FileOps, OpenFlags, Whence, WriteAt, Written};
use crate::mm::{Mappable, Sink, Source};
use crate::step::Step;

/// Most bytes of one host call.
const PIECE: usize = 256 << 10;

/// Most bytes of one job of the pool.
const JOB: usize = 128 << 10;

/// An open regular file.
pub(super) struct GoferFile {
    inode: Arc<GoferInode>,
    file: Arc<Donated>,
}

/// How far an attempt without sleeping came.
enum Attempt {
    Done(Result<usize, Errno>),
    /// The rest is to be done on the pool.
    Sleeps(usize),
}

/// Who watches a shared tree elsewhere, in another container of the pod or on the host, hears of the end of writing when a guest closes.
impl Drop for GoferFile {
    fn drop(&mut self) {
        if self.file.writable() && self.inode.is_shared() {
            self.inode.give_up_last(&self.file);
        }
    }
}

impl GoferFile {
    pub(super) fn new(inode: Arc<GoferInode>, file: Arc<Donated>) -> Arc<dyn FileOps> {
        Arc::new(GoferFile { inode, file })
    }

    /// One host call, if it may be made here. `EAGAIN`: it may not.
    fn call(&self, io: Io, mut call: impl FnMut(Sleep) -> Result<usize, Errno>) -> Result<usize, Errno> {
        let pace = &self.file.pace;
        if pace.way(io) == Way::NoWait {
            match call(Sleep::Never) {
                Err(Errno::EOPNOTSUPP) => pace.no_nowait(io),
                result => return result,
            }
        }
        match pace.way(io) {
            Way::Here => {
                let start = hostcall::time::monotonic_ns();
                let result = call(Sleep::Allowed);
                pace.took(io, hostcall::time::monotonic_ns().saturating_sub(start));
                result
            }
            _ => Err(Errno::EAGAIN),
        }
    }

    fn read_now(&self, offset: u64, done: usize, into: &mut dyn Sink) -> Attempt {
        let mut done = done;
        loop {
            let want = into.remaining().min(PIECE);
            let at = match position(offset, done) {
                Ok(at) if want > 0 => at,
                _ => return Attempt::Done(Ok(done)),
            };
            let mut asked = 0;
            let mut fill = |slices: &[WindowSlice<'_>]| {
                asked = slices.iter().map(WindowSlice::len).sum();
                self.call(Io::Read, |sleep| io::read_windows(self.file.as_fd(), slices, at, sleep))
            };
            let result = match into.put_direct(want, &mut fill) {
                Some(result) => result,
                None => {
                    let mut bytes = vec![0; want];
                    asked = want;
                    self.call(Io::Read, |sleep| io::read_at(self.file.as_fd(), &mut bytes, at, sleep))
                        .and_then(|n| put_all(into, bytes.get(..n).unwrap_or_default()))
                }
            };
            match result {
                Ok(0) => return Attempt::Done(Ok(done)),
                Ok(n) => {
                    done += n;
                    // The end; or no more of it at hand.
                    if n < asked && offset.saturating_add(done as u64) >= self.inode.known_size() {
                        return Attempt::Done(Ok(done));
                    }
                }
                Err(Errno::EAGAIN) => return Attempt::Sleeps(done),
                Err(_) if done > 0 => return Attempt::Done(Ok(done)),
                Err(errno) => return Attempt::Done(Err(errno)),
            }
        }
    }

    async fn read_slowly(&self, offset: u64, mut done: usize, into: &mut dyn Sink) -> Result<usize, Errno> {
        loop {
            let want = into.remaining().min(JOB);
            if want == 0 {
                return Ok(done);
            }
            let at = position(offset, done)?;
            let file = self.file.clone();
            let read = move || {
                let mut bytes = vec![0; want];
                let n = io::read_at(file.as_fd(), &mut bytes, at, Sleep::Allowed)?;
                bytes.truncate(n);
                Ok(bytes)
            };
            let put = match self.inode.tree.services.pool.run(read).await {
                Ok(bytes) if bytes.is_empty() => return Ok(done),
                Ok(bytes) => put_all(into, &bytes),
                Err(errno) => Err(errno),
            };
            match put {
                Ok(n) if n < want => return Ok(done + n),
                Ok(n) => done += n,
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
            // The host has read ahead meanwhile.
            match self.read_now(offset, done, into) {
                Attempt::Done(result) => return result,
                Attempt::Sleeps(so_far) => done = so_far,
            }
        }
    }

    fn write_now(&self, offset: u64, from: &mut dyn Source) -> Attempt {
        let mut done = 0;
        loop {
            let want = from.remaining().min(PIECE);
            if want == 0 {
                return Attempt::Done(Ok(done));
            }
            let result = position(offset, done).and_then(|at| {
                let mut drain = |slices: &[WindowSlice<'_>]| {
                    self.call(Io::Write, |sleep| io::write_windows(self.file.as_fd(), slices, at, sleep))
                };
                // What cannot be taken without a copy is left to the slow way: once taken it could not be given back.
                from.take_direct(want, &mut drain).unwrap_or(Err(Errno::EAGAIN))
            });
            match result {
                Ok(0) => return Attempt::Done(Ok(done)),
                Ok(n) => {
                    done += n;
                    self.inode.wrote(offset.saturating_add(done as u64));
                }
                // The VFS goes on with the rest.
                Err(_) if done > 0 => return Attempt::Done(Ok(done)),
                Err(Errno::EAGAIN) => return Attempt::Sleeps(0),
                Err(errno) => return Attempt::Done(Err(errno)),
            }
        }
    }

    async fn write_slowly(&self, offset: u64, durable: bool, from: &mut dyn Source) -> Result<Written, Errno> {
        let mut bytes = vec![0; from.remaining().min(JOB)];
        let taken = from.take(&mut bytes)?;
        bytes.truncate(taken);
        let at = position(offset, 0)?;
        let inline = || self.call(Io::Write, |sleep| io::write_at(self.file.as_fd(), &bytes, at, sleep));
        let done = match if durable { Err(Errno::EAGAIN) } else { inline() } {
            Err(Errno::EAGAIN) => {
                let file = self.file.clone();
                let write = move || {
                    let n = io::write_at(file.as_fd(), &bytes, at, Sleep::Allowed)?;
                    if durable { io::sync(&*file).map(|()| n) } else { Ok(n) }
                };
                self.inode.tree.services.pool.run(write).await
            }
            result => result,
        };
        let end = offset.saturating_add(done? as u64);
        self.inode.wrote(end);
        Ok(Written { bytes: done?, end })
    }

    /// Appends at most a piece at a time, each of them whole and at the end as it is then.
    async fn append(&self, durable: bool, from: &mut dyn Source) -> Result<Written, Errno> {
        let mut bytes = vec![0; from.remaining().min(PIECE)];
        let taken = from.take(&mut bytes)?;
        bytes.truncate(taken);
        let inline = || self.call(Io::Write, |sleep| io::append(self.file.as_fd(), &bytes, sleep));
        let done = match if durable { Err(Errno::EAGAIN) } else { inline() } {
            Err(Errno::EAGAIN) => {
                let file = self.file.clone();
                let write = move || {
                    let n = io::append(file.as_fd(), &bytes, Sleep::Allowed)?;
                    if durable { io::sync(&*file).map(|()| n) } else { Ok(n) }
                };
                self.inode.tree.services.pool.run(write).await?
            }
            result => result?,
        };
        let end = io::status(&*self.file)?.size;
        self.inode.wrote(end);
        Ok(Written { bytes: done, end })
    }

    /// Runs a host call on the pool.
    fn on_pool<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Donated) -> Result<T, Errno> + Send + 'static,
    ) -> Step<'_, Result<T, Errno>> {
        let file = self.file.clone();
        let job = self.inode.tree.services.pool.run(move || call(&file));
        Step::wait(job)
    }
}

/// A position in a host file.
fn position(offset: u64, done: usize) -> Result<i64, Errno> {
    offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok()).ok_or(Errno::EINVAL)
}

/// Puts bytes, as far as they fit and memory is there.
fn put_all(into: &mut dyn Sink, bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match into.put(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

impl FileOps for GoferFile {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        if !self.file.readable() {
            return Step::err(Errno::EBADF);
        }
        if i64::try_from(offset).is_err() {
            return Step::err(Errno::EINVAL);
        }
        match self.read_now(offset, 0, into) {
            Attempt::Done(result) => Step::Ready(result),
            Attempt::Sleeps(done) => Step::wait(self.read_slowly(offset, done, into)),
        }
    }

    fn write<'a>(&'a self, file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        if !self.file.writable() {
            return Step::err(Errno::EBADF);
        }
        let durable = file.flags().intersects(OpenFlags::DSYNC | OpenFlags::SYNC);
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => return Step::wait(self.append(durable, from)),
        };
        if i64::try_from(offset).is_err() {
            return Step::err(Errno::EINVAL);
        }
        if durable {
            return Step::wait(self.write_slowly(offset, durable, from));
        }
        match self.write_now(offset, from) {
            Attempt::Done(result) => {
                Step::Ready(result.map(|bytes| Written { bytes, end: offset.saturating_add(bytes as u64) }))
            }
            Attempt::Sleeps(_) => Step::wait(self.write_slowly(offset, durable, from)),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek_data<'a>(&'a self, offset: u64, whence: Whence) -> Step<'a, Result<u64, Errno>> {
        if i64::try_from(offset).is_err() {
            return Step::err(Errno::ENXIO);
        }
        let what = match whence {
            Whence::Data => Seek::Data,
            Whence::Hole => Seek::Hole,
        };
        self.on_pool(move |file| io::seek_data(file, offset, what))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        if !self.file.readable() {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(Mapped::new(self.inode.clone(), self.file.clone())))
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        self.on_pool(|file| io::sync(file))
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Step<'_, Result<(), Errno>> {
        if !self.file.writable() {
            return Step::err(Errno::EBADF);
        }
        if offset.checked_add(len).and_then(|end| i64::try_from(end).ok()).is_none() {
            return Step::err(Errno::EFBIG);
        }
        let (file, inode) = (self.file.clone(), self.inode.clone());
        Step::wait(async move {
            let allocate = move || {
                io::allocate(&*file, mode, offset, len)?;
                io::status(&*file)
            };
            let status = inode.tree.services.pool.run(allocate).await?;
            inode.changed(|metadata| metadata.size = status.size);
            Ok(())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
