//! Where the data of a sparse file belongs.

use std::io::Read;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{PaxSparse, number};
use super::{ArchiveError, BLOCK, Reader, fill};

/// Most segments of one file.
const MOST_SEGMENTS: usize = 1 << 20;

/// A piece of a file that is in the archive; what lies between pieces is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// In order, without overlap, within the file, and together as long as the data.
fn checked(segments: Vec<Segment>, size: u64, data: u64) -> Result<(Vec<Segment>, u64), ArchiveError> {
    let mut end = 0;
    let mut total = 0_u64;
    for segment in &segments {
        let next = segment.offset.checked_add(segment.length).ok_or(ArchiveError::Sparse)?;
        if segment.offset < end || next > size {
            return Err(ArchiveError::Sparse);
        }
        end = next;
        total += segment.length;
    }
    match total == data {
        true => Ok((segments, size)),
        false => Err(ArchiveError::Sparse),
    }
}

impl<R: Read> Reader<R> {
    /// GNU's own type: four segments in the header, more in blocks after it.
    pub(super) fn old_gnu_sparse(&mut self, header: &Header, data: u64) -> Result<(Vec<Segment>, u64), ArchiveError> {
        let gnu = header.as_gnu().ok_or(ArchiveError::Sparse)?;
        let size = gnu.real_size().map_err(|_| ArchiveError::Sparse)?;
        let mut segments = Vec::new();
        add(&mut segments, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            let got = fill(&mut self.input, block.as_mut_bytes())?;
            self.position += got as u64;
            if got < BLOCK as usize {
                return Err(ArchiveError::Truncated("a sparse file's map"));
            }
            add(&mut segments, block.sparse())?;
            more = block.is_extended();
        }
        checked(segments, size, data)
    }

    /// pax formats 0.0, 0.1 (the map is in records) and 1.0 (the map precedes the data, in whole blocks).
    pub(super) fn pax_sparse(&mut self, sparse: &PaxSparse) -> Result<(Vec<Segment>, u64), ArchiveError> {
        let numbers = match sparse.major {
            0 => sparse.numbers.clone(),
            1 => self.map_before_data()?,
            _ => return Err(ArchiveError::Sparse),
        };
        let size = sparse.real_size.ok_or(ArchiveError::Sparse)?;
        if numbers.len() % 2 != 0 || numbers.len() / 2 > MOST_SEGMENTS {
            return Err(ArchiveError::Sparse);
        }
        let segment = |pair: &[u64]| match pair {
            [offset, length] => Some(Segment { offset: *offset, length: *length }),
            _ => None,
        };
        checked(numbers.chunks(2).filter_map(segment).collect(), size, self.data)
    }

    fn map_before_data(&mut self) -> Result<Vec<u64>, ArchiveError> {
        let mut numbers = Vec::new();
        let mut digits = Vec::new();
        let mut wanted = None;
        while wanted != Some(numbers.len()) {
            let mut block = [0; BLOCK as usize];
            let mut filled = 0;
            while filled < block.len() {
                match self.read_data(block.get_mut(filled..).unwrap_or_default())? {
                    0 => return Err(ArchiveError::Sparse),
                    count => filled += count,
                }
            }
            for byte in block {
                if wanted == Some(numbers.len()) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(ArchiveError::Sparse);
                    }
                    continue;
                }
                let value = number(&digits).map_err(|_| ArchiveError::Sparse)?;
                digits.clear();
                match wanted {
                    Some(_) => numbers.push(value),
                    None if value > MOST_SEGMENTS as u64 => return Err(ArchiveError::Sparse),
                    None => wanted = Some(value as usize * 2),
                }
            }
        }
        Ok(numbers)
    }
}

fn add(segments: &mut Vec<Segment>, headers: &[GnuSparseHeader]) -> Result<(), ArchiveError> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        if segments.len() >= MOST_SEGMENTS {
            return Err(ArchiveError::Sparse);
        }
        let offset = header.offset().map_err(|_| ArchiveError::Sparse)?;
        let length = header.length().map_err(|_| ArchiveError::Sparse)?;
        segments.push(Segment { offset, length });
    }
    Ok(())
}
