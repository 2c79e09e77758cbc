//! Open regular files of the host: I/O on donated descriptors, and what is mapped of them.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use gofer::protocol::Durability;
use hostcall::io::{self, Sleep};
use hostcall::Window;
use hostcall::window::WindowMode;
use parking_lot::Mutex;

use super::node::Node;
use crate::Errno;
use crate::abi::{page_down, page_up};
use crate::fs::{File, FileOps, Whence, WriteAt, Written};
use crate::mm::{Access, Mappable, Piece, Sink, Source};
use crate::step::Step;

/// Bytes at a time where data has to pass through a buffer.
const CHUNK: usize = 64 << 10;

/// A descriptor that the gofer opened.
pub(super) struct HostFile {
    fd: Arc<OwnedFd>,
    writable: bool,
    /// Made at the first mapping; replaced when the file has outgrown it.
    window: Mutex<Option<Arc<Window>>>,
    /// Taken by writes at the end.
    append: Mutex<()>,
}

impl HostFile {
    pub(super) fn new(fd: OwnedFd, writable: bool) -> Arc<HostFile> {
        Arc::new(HostFile { fd: Arc::new(fd), writable, window: Mutex::default(), append: Mutex::default() })
    }

    /// A window that has all of the first `len` bytes.
    fn window(&self, len: u64) -> Result<Arc<Window>, Errno> {
        let mut window = self.window.lock();
        if let Some(window) = window.as_ref().filter(|window| window.len() >= len) {
            return Ok(window.clone());
        }
        let mode = if self.writable { WindowMode::ReadWrite } else { WindowMode::Read };
        let new = Arc::new(Window::map(self.fd.clone(), 0, len, mode)?);
        let old = window.replace(new.clone());
        drop(window);
        drop(old);
        Ok(new)
    }
}

/// An open file.
pub(super) struct OpenFile {
    node: Arc<Node>,
    file: Arc<HostFile>,
}

/// `offset` as the host takes it.
fn host_offset(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

impl OpenFile {
    pub(super) fn new(node: Arc<Node>, file: Arc<HostFile>) -> OpenFile {
        OpenFile { node, file }
    }

    fn read_now(&self, mut offset: u64, into: &mut dyn Sink) -> Result<usize, Errno> {
        let fd = self.file.fd.as_fd();
        let at = host_offset(offset)?;
        let direct = into.put_direct(usize::MAX, &mut |slices| match io::read_windows(fd, slices, at, Sleep::Never) {
            // Not in the host's page cache (or it cannot tell): wait for the disk.
            Err(Errno::EAGAIN | Errno::EOPNOTSUPP) => io::read_windows(fd, slices, at, Sleep::Allowed),
            result => result,
        });
        if let Some(result) = direct {
            return result;
        }
        let mut buffer = vec![0; into.remaining().min(CHUNK)];
        let mut done = 0;
        while into.remaining() > 0 {
            let want = into.remaining().min(buffer.len());
            let part = buffer.get_mut(..want).unwrap_or_default();
            let n = io::read_at(fd, part, host_offset(offset)?, Sleep::Allowed)?;
            if n == 0 {
                break;
            }
            match into.put(buffer.get(..n).unwrap_or_default()) {
                Ok(put) => {
                    done += put;
                    offset = offset.saturating_add(put as u64);
                    if put < n {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn write_now(&self, at: WriteAt, from: &mut dyn Source) -> Result<Written, Errno> {
        let fd = self.file.fd.as_fd();
        let _end;
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => {
                _end = self.file.append.lock();
                io::status(fd)?.size
            }
        };
        let done = self.write_at(start, from)?;
        let end = start.saturating_add(done as u64);
        self.node.written(end);
        Ok(Written { bytes: done, end })
    }

    fn write_at(&self, mut offset: u64, from: &mut dyn Source) -> Result<usize, Errno> {
        let fd = self.file.fd.as_fd();
        let at = host_offset(offset)?;
        let direct =
            from.take_direct(usize::MAX, &mut |slices| io::write_windows(fd, slices, at, Sleep::Allowed));
        if let Some(result) = direct {
            return result;
        }
        let mut buffer = vec![0; from.remaining().min(CHUNK)];
        let mut done = 0;
        while from.remaining() > 0 {
            let step = from.take(&mut buffer).and_then(|n| {
                let part = buffer.get(..n).unwrap_or_default();
                io::write_at(fd, part, host_offset(offset)?, Sleep::Allowed).map(|written| (n, written))
            });
            match step {
                Ok((n, written)) => {
                    done += written;
                    offset = offset.saturating_add(written as u64);
                    if written < n || n == 0 {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl FileOps for OpenFile {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(offset, into))
    }

    fn write<'a>(&'a self, _file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::Ready(self.write_now(at, from))
    }

    fn seekable(&self) -> bool {
        true
    }

    /// Without asking where the host's holes are: all is data, as on file systems without the feature (lseek(2)).
    fn seek_data<'a>(&'a self, offset: u64, whence: Whence) -> Step<'a, Result<u64, Errno>> {
        let size = match io::status(self.file.fd.as_fd()) {
            Ok(status) => status.size,
            Err(errno) => return Step::err(errno),
        };
        match whence {
            _ if offset >= size => Step::err(Errno::ENXIO),
            Whence::Data => Step::ok(offset),
            Whence::Hole => Step::ok(size),
        }
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::new(Mapped { node: self.node.clone(), file: self.file.clone() }))
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        if !self.file.writable {
            return Step::ok(());
        }
        Step::wait(async { self.node.shared.client.fsync(self.node.handle(), Durability::All).await })
    }

    /// The gofer has no operation for it: space is taken as it is written.
    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EOPNOTSUPP)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A host file as something to be mapped.
struct Mapped {
    node: Arc<Node>,
    file: Arc<HostFile>,
}

impl Mappable for Mapped {
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno> {
        if access == Access::Write && !self.file.writable {
            return Err(Errno::EACCES);
        }
        let size = io::status(self.file.fd.as_fd())?.size;
        self.node.set_size(size);
        let offset = page_down(offset);
        let end = offset.saturating_add(len).min(page_up(size).unwrap_or(size));
        if offset >= end {
            return Ok(Vec::new());
        }
        let window = self.file.window(page_up(size).unwrap_or(size))?;
        Ok(vec![Piece { window, offset, len: end - offset, pages: None }])
    }

    fn size(&self) -> u64 {
        io::status(self.file.fd.as_fd()).map_or_else(|_| self.node.size(), |status| status.size)
    }

    fn identity(&self) -> u64 {
        self.node.identity()
    }
}
