//! Where a file's bytes are on the image.

use super::image::{BLOCK, Image, Layout, RawInode, number};
use crate::Errno;

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub len: u64,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the image, from this byte on.
    At(u64),
    /// Zeros.
    Hole,
}

/// The block number of a chunk that is not there.
const NO_BLOCK: u64 = 0xffff_ffff;

impl RawInode {
    /// The run that begins at a byte before the end of the file. Never empty.
    pub fn run(&self, image: &Image, offset: u64) -> Result<Run, Errno> {
        let rest = self.size.checked_sub(offset).filter(|&rest| rest > 0).ok_or(Errno::EUCLEAN)?;
        let at_block = |block: u64| block.checked_mul(BLOCK).ok_or(Errno::EUCLEAN);
        match self.layout {
            Layout::Plain { block } => {
                let at = at_block(block)?.checked_add(offset).ok_or(Errno::EUCLEAN)?;
                Ok(Run { len: rest, place: Place::At(at) })
            }
            Layout::Inline { block, tail_at } => {
                let tail = (self.size - 1) / BLOCK * BLOCK;
                if offset < tail {
                    let at = at_block(block)?.checked_add(offset).ok_or(Errno::EUCLEAN)?;
                    return Ok(Run { len: tail - offset, place: Place::At(at) });
                }
                // It is in the block of its inode.
                if tail_at % BLOCK + (self.size - tail) > BLOCK {
                    return Err(Errno::EUCLEAN);
                }
                Ok(Run { len: rest, place: Place::At(tail_at + (offset - tail)) })
            }
            Layout::Chunks { bits, table_at, entry } => {
                let (chunk, within) = (offset >> bits, offset & ((1 << bits) - 1));
                let at = chunk.checked_mul(entry.len()).and_then(|at| at.checked_add(table_at)).ok_or(Errno::EUCLEAN)?;
                let bytes = image.bytes(at, entry.len() as usize)?;
                let len = rest.min((1 << bits) - within);
                let block = if entry.len() == 4 { number::<4>(&bytes, 0)? } else { number::<4>(&bytes, 4)? };
                if block == NO_BLOCK {
                    return Ok(Run { len, place: Place::Hole });
                }
                if entry.len() == 8 && number::<2>(&bytes, 2)? != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                Ok(Run { len, place: Place::At(at_block(block)?.checked_add(within).ok_or(Errno::EUCLEAN)?) })
            }
            Layout::Unsupported => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Reads up to `len` bytes: fewer only at the end of the file.
    pub fn read(&self, image: &Image, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let len = (len as u64).min(self.size.saturating_sub(offset));
        let mut bytes = Vec::new();
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let run = self.run(image, at)?;
            let n = run.len.min(end - at);
            let n_bytes = usize::try_from(n).map_err(|_| Errno::EUCLEAN)?;
            match run.place {
                Place::At(place) => bytes.extend_from_slice(&image.bytes(place, n_bytes)?),
                Place::Hole => bytes.resize(bytes.len() + n_bytes, 0),
            }
            at += n;
        }
        Ok(bytes)
    }
}
