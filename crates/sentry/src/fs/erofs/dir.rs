//! Directories: blocks of entries, each with its names behind them, sorted.

use super::image::{BLOCK, Image, RawInode, number};
use crate::Errno;
use crate::fs::FileKind;

/// Bytes of an entry without its name.
const ENTRY: usize = 12;

/// The largest directory that is looked at, in bytes.
const DIRECTORY_MAX: u64 = 64 << 20;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: Box<[u8]>,
    pub nid: u64,
    pub kind: FileKind,
}

/// All entries but `.` and `..`, sorted by name.
pub(super) fn entries(image: &Image, raw: &RawInode) -> Result<Vec<Entry>, Errno> {
    if raw.size > DIRECTORY_MAX {
        return Err(Errno::EUCLEAN);
    }
    let mut all = Vec::new();
    let mut at = 0;
    while at < raw.size {
        let block = raw.read(image, at, BLOCK as usize)?;
        block_entries(&block, &mut all)?;
        at += BLOCK;
    }
    // As they should be already; a name that stands twice counts once.
    all.sort_by(|a: &Entry, b: &Entry| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    Ok(all)
}

fn block_entries(block: &[u8], into: &mut Vec<Entry>) -> Result<(), Errno> {
    let first = number::<2>(block, 8)? as usize;
    let count = first / ENTRY;
    if count == 0 || !first.is_multiple_of(ENTRY) || first > block.len() {
        return Err(Errno::EUCLEAN);
    }
    for index in 0..count {
        let entry = block.get(index * ENTRY..(index + 1) * ENTRY).ok_or(Errno::EUCLEAN)?;
        let start = number::<2>(entry, 8)? as usize;
        let end = match index + 1 < count {
            true => number::<2>(block, (index + 1) * ENTRY + 8)? as usize,
            false => block.len(),
        };
        let name = block.get(start..end).filter(|_| start >= first).ok_or(Errno::EUCLEAN)?;
        // The last one of a block ends at a NUL, if there is room for one.
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if name.is_empty() || name.len() > 255 || name.contains(&b'/') {
            return Err(Errno::EUCLEAN);
        }
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match number::<1>(entry, 10)? {
            1 => FileKind::Regular,
            2 => FileKind::Directory,
            3 => FileKind::CharDevice,
            4 => FileKind::BlockDevice,
            5 => FileKind::Fifo,
            6 => FileKind::Socket,
            7 => FileKind::Symlink,
            _ => return Err(Errno::EUCLEAN),
        };
        into.push(Entry { name: name.into(), nid: number::<8>(entry, 0)?, kind });
    }
    Ok(())
}
