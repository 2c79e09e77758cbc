//! getdents and getdents64.

use super::{Args, Flow};
use crate::Errno;
use crate::fs::{DirEntry, OpenFlags};
use crate::task::Cx;

/// Bytes of entries collected at a time: a caller's larger buffer is filled by further calls.
const BATCH: usize = 32 << 10;

/// Which of the two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `struct linux_dirent`: the type is the last byte.
    Old,
    /// `struct linux_dirent64`.
    New,
}

pub(super) fn sys_getdents(cx: &mut Cx, args: Args) -> Flow<'_> {
    getdents(cx, args, Layout::Old)
}

pub(super) fn sys_getdents64(cx: &mut Cx, args: Args) -> Flow<'_> {
    getdents(cx, args, Layout::New)
}

fn getdents(cx: &mut Cx, args: Args, layout: Layout) -> Flow<'_> {
    Flow::wait(async move {
        let file = cx.file(args.i32(0))?;
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF.into());
        }
        let size = (args.u32(2) as usize).min(BATCH);
        let from = *file.position.lock();
        let mut bytes = Vec::new();
        let mut next = from;
        let mut too_small = false;
        let mut emit = |entry: DirEntry<'_>| {
            let record = encode(&entry, layout);
            if bytes.len() + record.len() > size {
                too_small = bytes.is_empty();
                return false;
            }
            bytes.extend_from_slice(&record);
            next = entry.next;
            true
        };
        file.ops.read_dir(&file, from, &mut emit).await?;
        if too_small {
            return Err(Errno::EINVAL.into());
        }
        cx.mm.write(args.u64(1), &bytes)?;
        *file.position.lock() = next;
        Ok(bytes.len() as u64)
    })
}

fn encode(entry: &DirEntry<'_>, layout: Layout) -> Vec<u8> {
    let kind = entry.kind.dirent_type();
    // Inode number, next position, length; then type and name in either order, NUL, padding to 8.
    let len = (8 + 8 + 2 + 1 + entry.name.len() + 1).next_multiple_of(8);
    let mut record = Vec::with_capacity(len);
    record.extend_from_slice(&entry.ino.to_le_bytes());
    record.extend_from_slice(&entry.next.to_le_bytes());
    record.extend_from_slice(&(len as u16).to_le_bytes());
    if layout == Layout::New {
        record.push(kind);
    }
    record.extend_from_slice(entry.name);
    record.resize(len, 0);
    if layout == Layout::Old
        && let Some(last) = record.last_mut()
    {
        *last = kind;
    }
    record
}
