//! [`Image`]: the bytes of an image, and its superblock and inodes as checked values.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostcall::window::WindowMode;
use hostcall::{Window, io};

use agent_api::erofs::{self, BLOCK_BITS, Refused, SUPER_AT, SUPER_LEN};

use crate::Errno;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;

/// Bytes between the places of two inodes.
const SLOT: u64 = 32;

/// An image file.
pub(super) struct Image {
    window: Arc<Window>,
    pub root_nid: u64,
    /// Some names of attributes are not read.
    pub long_prefixes: bool,
    pub inodes: u64,
    pub blocks: u64,
    meta_at: u64,
    xattrs_at: u64,
    built: (i64, u32),
}

/// A little-endian number in bytes that were read.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, Errno> {
    let part = bytes.get(at..at + N).ok_or(Errno::EUCLEAN)?;
    Ok(part.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// How a file's data is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks from this one on.
    Plain { block: u64 },
    /// The same, but for the last, partial one, which is at this byte.
    Inline { block: u64, tail_at: u64 },
    /// In pieces of this many bytes, whose blocks are in a table at this byte.
    Chunks { bits: u32, table_at: u64, entry: Entry },
    /// Compressed, or unknown.
    Unsupported,
}

/// What a table of chunks has for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A block number.
    Block,
    /// Device and block number.
    Index,
}

impl Entry {
    pub fn len(self) -> u64 {
        match self {
            Entry::Block => 4,
            Entry::Index => 8,
        }
    }
}

/// An inode as it is on the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInode {
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified: (i64, u32),
    /// Of a device.
    pub rdev: u32,
    pub layout: Layout,
    /// Its own attributes: place and length; length 0 if it has none.
    pub xattrs: (u64, u64),
}

impl Image {
    pub fn open(file: OwnedFd) -> Result<Image, Errno> {
        let size = io::status(&file)?.size;
        if size < SUPER_AT + SUPER_LEN as u64 {
            return Err(Errno::EINVAL);
        }
        let window = Arc::new(Window::map(Arc::new(file), 0, size, WindowMode::Read)?);
        let mut bytes = [0; SUPER_LEN];
        window.read(SUPER_AT, &mut bytes).map_err(|_| Errno::EIO)?;
        erofs::check(&bytes).map_err(|refused| match refused {
            Refused::NoImage => Errno::EINVAL,
            Refused::Unsupported => Errno::EOPNOTSUPP,
        })?;
        Ok(Image {
            window,
            root_nid: number::<2>(&bytes, 14)?,
            long_prefixes: erofs::has_long_prefixes(&bytes),
            inodes: number::<8>(&bytes, 16)?,
            blocks: number::<4>(&bytes, 36)?,
            meta_at: number::<4>(&bytes, 40)? * BLOCK,
            xattrs_at: number::<4>(&bytes, 44)? * BLOCK,
            built: (number::<8>(&bytes, 24)? as i64, (number::<4>(&bytes, 32)? as u32).min(999_999_999)),
        })
    }

    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }

    /// Reads all of `into`.
    ///
    /// # Errors
    /// `EUCLEAN` outside the image, `EIO` if it cannot be read.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let end = at.checked_add(into.len() as u64).ok_or(Errno::EUCLEAN)?;
        if end > self.window.len() {
            return Err(Errno::EUCLEAN);
        }
        self.window.read(at, into).map_err(|_| Errno::EIO)
    }

    /// `len` bytes, which the caller has bounded.
    pub fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        if len as u64 > self.window.len() {
            return Err(Errno::EUCLEAN);
        }
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the shared attribute of a number is.
    pub fn shared_xattr_at(&self, id: u64) -> Result<u64, Errno> {
        self.xattrs_at.checked_add(id * 4).ok_or(Errno::EUCLEAN)
    }

    /// Reads an inode.
    pub fn inode(&self, nid: u64) -> Result<RawInode, Errno> {
        let at = nid.checked_mul(SLOT).and_then(|at| at.checked_add(self.meta_at)).ok_or(Errno::EUCLEAN)?;
        let mut bytes = [0; 64];
        self.read(at, bytes.get_mut(..32).unwrap_or_default())?;
        let format = number::<2>(&bytes, 0)?;
        let extended = format & 1 != 0;
        if format & !0x1f != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = if extended { 64 } else { 32 };
        self.read(at, bytes.get_mut(..len).unwrap_or_default())?;
        let xattr_count = number::<2>(&bytes, 2)?;
        let xattr_len = if xattr_count == 0 { 0 } else { 12 + (xattr_count - 1) * 4 };
        let xattrs_at = at + len as u64;
        let after = xattrs_at + xattr_len;
        let mode = number::<2>(&bytes, 4)? as u32;
        let union = number::<4>(&bytes, 16)?;
        let (nlink, uid, gid, size, modified) = if extended {
            let modified = (number::<8>(&bytes, 32)? as i64, (number::<4>(&bytes, 40)? as u32).min(999_999_999));
            (number::<4>(&bytes, 44)?, number::<4>(&bytes, 24)?, number::<4>(&bytes, 28)?, number::<8>(&bytes, 8)?, modified)
        } else {
            (number::<2>(&bytes, 6)?, number::<2>(&bytes, 24)?, number::<2>(&bytes, 26)?, number::<4>(&bytes, 8)?, self.built)
        };
        if size > i64::MAX as u64 {
            return Err(Errno::EUCLEAN);
        }
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain { block: union },
            2 => Layout::Inline { block: union, tail_at: after },
            4 => {
                let entry = if union & 0x20 != 0 { Entry::Index } else { Entry::Block };
                if union & 0xffff & !0x3f != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                let bits = u32::from(BLOCK_BITS) + (union & 0x1f) as u32;
                Layout::Chunks { bits, table_at: after.next_multiple_of(entry.len()), entry }
            }
            _ => Layout::Unsupported,
        };
        Ok(RawInode {
            mode,
            nlink: nlink as u32,
            uid: uid as u32,
            gid: gid as u32,
            size,
            modified,
            rdev: union as u32,
            layout,
            xattrs: (xattrs_at, xattr_len),
        })
    }
}
