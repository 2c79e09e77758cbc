//! Open regular files of a tmpfs.

use std::any::Any;
use std::sync::Arc;

use super::Node;
use super::data::Data;
use crate::Errno;
use crate::fs::permission::without_set_id;
use crate::fs::{File, FileOps, MountFlags, OpenFlags, Origin, Whence, WriteAt, Written};
use crate::mm::{Mappable, Sink, Source};
use crate::step::Step;

/// Bytes that pass through the stack; larger transfers take a buffer on the heap.
const SMALL: usize = 4096;

/// Largest piece of a transfer.
const CHUNK: usize = 64 << 10;

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

/// An open regular file.
pub(super) struct OpenFile {
    node: Arc<Node>,
    data: Option<Arc<Data>>,
    /// Its opener may write without clearing set-user-id bits.
    keeps_set_id: bool,
}

impl OpenFile {
    pub fn new(node: Arc<Node>, keeps_set_id: bool) -> OpenFile {
        let data = node.data().ok().cloned();
        OpenFile { node, data, keeps_set_id }
    }

    fn data(&self) -> Result<&Arc<Data>, Errno> {
        self.data.as_ref().ok_or(Errno::EINVAL)
    }

    fn read_now(&self, mut offset: u64, into: &mut dyn Sink) -> Result<usize, Errno> {
        let data = self.data()?;
        let mut small = [0; SMALL];
        let mut large;
        let buffer: &mut [u8] = if into.remaining() <= SMALL {
            &mut small
        } else {
            large = vec![0; into.remaining().min(CHUNK)];
            &mut large
        };
        let mut done = 0;
        loop {
            let want = into.remaining().min(buffer.len());
            let n = data.read(offset, buffer.get_mut(..want).unwrap_or_default())?;
            if n == 0 {
                return Ok(done);
            }
            match into.put(buffer.get(..n).unwrap_or_default()) {
                Ok(put) => {
                    done += put;
                    offset += put as u64;
                    if put < n {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn write_now(&self, at: WriteAt, from: &mut dyn Source) -> Result<Written, Errno> {
        let data = self.data()?;
        let mut small = [0; SMALL];
        let mut large;
        let buffer: &mut [u8] = if from.remaining() <= SMALL {
            &mut small
        } else {
            large = vec![0; from.remaining().min(CHUNK)];
            &mut large
        };
        let mut place = match at {
            WriteAt::Offset(offset) => Some(offset),
            WriteAt::Append => None,
        };
        // All that is appended at once is in one piece.
        let _appending = place.is_none().then(|| data.appending());
        let mut written = Written { bytes: 0, end: place.unwrap_or(0) };
        while from.remaining() > 0 {
            let want = from.remaining().min(buffer.len());
            let step = from.take(buffer.get_mut(..want).unwrap_or_default()).and_then(|n| {
                let end = data.write(place, buffer.get(..n).unwrap_or_default())?;
                Ok((n, end))
            });
            match step {
                Ok((0, _)) => break,
                Ok((n, end)) => {
                    written = Written { bytes: written.bytes + n, end };
                    place = place.map(|_| end);
                }
                Err(_) if written.bytes > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if written.bytes > 0 {
            self.modified();
        }
        Ok(written)
    }

    fn modified(&self) {
        let now = self.node.fs.now();
        let mut attributes = self.node.attributes.lock();
        attributes.modified = now;
        attributes.changed = now;
        if !self.keeps_set_id {
            attributes.permissions = without_set_id(attributes.permissions);
        }
    }

    /// As with `relatime`, without its daily update.
    fn accessed(&self, file: &File) {
        if file.flags().contains(OpenFlags::NOATIME) {
            return;
        }
        if let Origin::Path(path) = &file.origin
            && path.mount.has(MountFlags::NOATIME)
        {
            return;
        }
        let mut attributes = self.node.attributes.lock();
        if attributes.accessed <= attributes.modified || attributes.accessed <= attributes.changed {
            attributes.accessed = self.node.fs.now();
        }
    }
}

impl FileOps for OpenFile {
    fn read<'a>(&'a self, file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let result = self.read_now(offset, into);
        if matches!(result, Ok(1..)) {
            self.accessed(file);
        }
        Step::Ready(result)
    }

    fn write<'a>(&'a self, _file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::Ready(self.write_now(at, from))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek_data<'a>(&'a self, offset: u64, whence: Whence) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(self.data().and_then(|data| data.seek(offset, whence)))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(self.data()?.clone())
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Step<'_, Result<(), Errno>> {
        let result = self.data().and_then(|data| {
            let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
            let keep_size = mode & KEEP_SIZE != 0;
            match mode & !KEEP_SIZE {
                0 => data.allocate(offset, end, keep_size),
                PUNCH_HOLE if keep_size => data.punch(offset, end),
                // Also ZERO_RANGE (`shmem_fallocate`): the seals of a memfd know of writes and punched holes only.
                _ => Err(Errno::EOPNOTSUPP),
            }
        });
        if result.is_ok() {
            self.modified();
        }
        Step::Ready(result)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
