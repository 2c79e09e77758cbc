//! [`Mapped`]: a host file's pages, as `mmap` maps them.
//!
//! A stub maps the host file by the window's descriptor, so all who map or read a file share the host's page cache.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hostcall::window::WindowMode;
use hostcall::{Window, io};

use super::fd_cache::Donated;
use super::{Cache, GoferInode};
use crate::Errno;
use crate::abi::{page_down, page_up};
use crate::mm::{Access, Mappable, Piece};

/// Files up to this size are mapped whole, in one window that is kept; of larger ones a window is made for what is asked.
const WHOLE_MAX: u64 = 1 << 40;

/// The smallest window: small files grow in it.
const WINDOW_MIN: u64 = 64 << 10;

/// An open file's pages.
pub(super) struct Mapped {
    inode: Arc<GoferInode>,
    file: Arc<Donated>,
}

impl Mapped {
    pub(super) fn new(inode: Arc<GoferInode>, file: Arc<Donated>) -> Mapped {
        Mapped { inode, file }
    }

    /// A window that contains [offset, offset+len).
    fn window(&self, offset: u64, len: u64) -> Result<Arc<Window>, Errno> {
        let mode = if self.file.writable() { WindowMode::ReadWrite } else { WindowMode::Read };
        let end = offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        if end > WHOLE_MAX {
            return Ok(Arc::new(Window::map(self.file.fd().clone(), offset, len, mode)?));
        }
        let mut kept = self.file.window.lock();
        if let Some(window) = kept.as_ref().filter(|window| window.len() >= end) {
            return Ok(window.clone());
        }
        // Twice the size, so that a file that grows has few windows in its life.
        let window = Window::map(self.file.fd().clone(), 0, end.max(WINDOW_MIN).next_power_of_two(), mode)?;
        let window = Arc::new(window);
        let old = kept.replace(window.clone());
        drop(kept);
        drop(old);
        Ok(window)
    }
}

impl Mappable for Mapped {
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno> {
        if access == Access::Write {
            if !self.file.writable() {
                return Err(Errno::EACCES);
            }
            self.inode.mapped_shared.store(true, Ordering::Relaxed);
        }
        let size = page_up(self.size()).unwrap_or(page_down(u64::MAX));
        let len = len.min(size.saturating_sub(offset));
        if len == 0 {
            return Ok(Vec::new());
        }
        Ok(vec![Piece { window: self.window(offset, len)?, offset, len, pages: None }])
    }

    fn size(&self) -> u64 {
        if self.inode.tree.cache == Cache::Exclusive {
            return self.inode.known_size();
        }
        io::status(&*self.file).map_or(0, |status| status.size.min(i64::MAX as u64))
    }

    fn identity(&self) -> u64 {
        self.inode.identity()
    }

    /// What only this VFS changes has a count of the changes; of other files the host's times tell. What is mapped shared and writable
    /// changes at any time.
    fn version(&self) -> Option<u64> {
        if self.inode.mapped_shared.load(Ordering::Relaxed) {
            return None;
        }
        if self.inode.tree.cache == Cache::Exclusive {
            return Some(self.inode.changed_at());
        }
        let status = io::status(&*self.file).ok()?;
        let mut hasher = DefaultHasher::new();
        (status.size, status.modified, status.changed).hash(&mut hasher);
        Some(hasher.finish())
    }
}
