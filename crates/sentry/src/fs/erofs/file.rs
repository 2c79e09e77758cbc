//! [`OpenFile`]: reading a file, and its pages for `mmap`: straight from the image, but for what is on no page of its own.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::data::Place;
use super::image::{BLOCK, Layout};
use super::inode::Node;
use crate::Errno;
use crate::abi::page_up;
use crate::fs::{File, FileOps, Whence};
use crate::mm::{Access, Mappable, Pages, Piece, Sink};
use crate::step::Step;

/// Bytes that are copied at a time.
const CHUNK: usize = 64 << 10;

/// Bytes of zeros that are made for a touch of a hole.
const HOLE_LEN: u64 = 64 << 10;

pub(super) struct OpenFile {
    node: Arc<Node>,
    identity: u64,
}

/// Beside the numbers of other file systems.
fn next_identity() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    1 << 61 | NEXT.fetch_add(1, Ordering::Relaxed)
}

impl OpenFile {
    /// # Errors
    /// `EOPNOTSUPP` for a compressed file.
    pub fn new(node: Arc<Node>) -> Result<OpenFile, Errno> {
        if node.raw.layout == Layout::Unsupported {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(OpenFile { identity: next_identity(), node })
    }

    fn read_now(&self, mut offset: u64, into: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        while into.remaining() > 0 {
            let bytes = match self.node.raw.read(&self.node.fs.image, offset, into.remaining().min(CHUNK)) {
                Ok(bytes) => bytes,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            if bytes.is_empty() {
                break;
            }
            let n = into.put(&bytes)?;
            done += n;
            offset += n as u64;
            if n < bytes.len() {
                break;
            }
        }
        Ok(done)
    }
}

impl FileOps for OpenFile {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(offset, into))
    }

    fn seekable(&self) -> bool {
        true
    }

    /// Holes of chunked files are not looked for: everything is data.
    fn seek_data<'a>(&'a self, offset: u64, whence: Whence) -> Step<'a, Result<u64, Errno>> {
        let size = self.node.raw.size;
        Step::Ready(match whence {
            _ if offset >= size => Err(Errno::ENXIO),
            Whence::Data => Ok(offset),
            Whence::Hole => Ok(size),
        })
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::new(Mapped { node: self.node.clone(), identity: self.identity }))
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Mapped {
    node: Arc<Node>,
    identity: u64,
}

impl Mapped {
    /// Pages of the container's memory with these bytes, then zeros.
    fn pages(&self, bytes: &[u8], len: u64) -> Result<Pages, Errno> {
        let pages = self.node.fs.memory.alloc(len)?;
        let window = pages.memory().window();
        window.zero(pages.start(), len).map_err(|_| Errno::ENOMEM)?;
        window.write(pages.start(), bytes).map_err(|_| Errno::ENOMEM)?;
        Ok(pages)
    }

    fn in_memory(pages: Pages) -> Piece {
        Piece { window: pages.memory().window().clone(), offset: pages.start(), len: pages.len(), pages: Some(pages) }
    }

    /// The last page, whose bytes lie beside the inode. It is kept while the file is in use.
    fn tail(&self, offset: u64) -> Result<Piece, Errno> {
        if self.node.tail.get().is_none() {
            let bytes = self.node.raw.read(&self.node.fs.image, offset, BLOCK as usize)?;
            let _ = self.node.tail.set(self.pages(&bytes, BLOCK)?);
        }
        let pages = self.node.tail.get().ok_or(Errno::EIO)?;
        Ok(Mapped::in_memory(pages.share(0, BLOCK)))
    }
}

impl Mappable for Mapped {
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno> {
        if access == Access::Write {
            return Err(Errno::EACCES);
        }
        let (raw, image) = (&self.node.raw, &self.node.fs.image);
        let end = offset.saturating_add(len).min(page_up(raw.size).unwrap_or(raw.size));
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = offset;
        while at < end {
            let run = match raw.run(image, at) {
                Ok(run) => run,
                // What cannot be had is as if it were past the end.
                Err(_) => break,
            };
            let run_len = page_up(run.len).ok_or(Errno::EUCLEAN)?.min(end - at);
            let piece = match run.place {
                Place::Hole => Mapped::in_memory(self.pages(&[], run_len.min(HOLE_LEN))?),
                Place::At(place) if place % BLOCK == 0 => {
                    // Blocks past the image's end are not there.
                    let there = image.window().len().next_multiple_of(BLOCK).saturating_sub(place);
                    let len = run_len.min(there);
                    if len == 0 {
                        break;
                    }
                    Piece { window: image.window().clone(), offset: place, len, pages: None }
                }
                Place::At(_) => self.tail(at)?,
            };
            at += piece.len;
            match pieces.last_mut().filter(|last| last.pages.is_none() && piece.pages.is_none()) {
                Some(last) if last.offset + last.len == piece.offset => last.len += piece.len,
                _ => pieces.push(piece),
            }
        }
        Ok(pieces)
    }

    fn size(&self) -> u64 {
        self.node.raw.size
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    /// An image does not change.
    fn version(&self) -> Option<u64> {
        Some(0)
    }
}
