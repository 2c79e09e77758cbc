//! Listing directories, and the working and root directories.

use super::fs_path::{path, place_of, real_file};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::fsnotify::FsEvent;
use crate::fs::namei::ownership;
use crate::fs::permission::permission;
use crate::fs::walk::PATH_MAX;
use crate::fs::{DirEntry, FileKind, Mask, Origin, resolve_directory};
use crate::task::{Capability, Cx};

/// The two layouts of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The type in the last byte.
    Old,
    Dirent64,
}

/// Most bytes of one call: a larger buffer is not filled.
const BUFFER_MAX: usize = 128 << 10;

pub fn sys_getdents(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(list(cx, args, Layout::Old))
}

pub fn sys_getdents64(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(list(cx, args, Layout::Dirent64))
}

async fn list(cx: &Cx, args: Args, layout: Layout) -> Outcome {
    let file = real_file(cx, args.i32(0))?;
    let size = (args.u32(2) as usize).min(BUFFER_MAX);
    if file.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    if let Origin::Path(path) = &file.origin
        && !path.dentry.is_attached()
    {
        return Err(Errno::ENOENT.into());
    }
    let mut records = Vec::with_capacity(size.min(4096));
    let mut next = None;
    let mut full = false;
    let mut emit = |entry: DirEntry<'_>| {
        full = !put(&mut records, size, &entry, layout);
        if !full {
            next = Some(entry.next);
        }
        !full
    };
    let from = *file.position.lock();
    file.ops.read_dir(&file, from, &mut emit).await?;
    file.notify(FsEvent::ACCESS);
    let Some(next) = next else {
        return if full { Err(Errno::EINVAL.into()) } else { Ok(0) };
    };
    cx.mm.write(args.u64(1), &records)?;
    *file.position.lock() = next;
    Ok(records.len() as u64)
}

/// Appends a record unless it does not fit into `max` bytes.
fn put(records: &mut Vec<u8>, max: usize, entry: &DirEntry<'_>, layout: Layout) -> bool {
    let kind = entry.kind.dirent_type();
    let header = if layout == Layout::Dirent64 { 19 } else { 18 };
    let tail = if layout == Layout::Dirent64 { 1 } else { 2 };
    let len = (header + entry.name.len() + tail).next_multiple_of(8);
    let end = records.len() + len;
    if end > max {
        return false;
    }
    records.extend_from_slice(&entry.ino.to_ne_bytes());
    records.extend_from_slice(&entry.next.to_ne_bytes());
    records.extend_from_slice(&(len as u16).to_ne_bytes());
    if layout == Layout::Dirent64 {
        records.push(kind);
    }
    records.extend_from_slice(entry.name);
    records.resize(end, 0);
    if let (Layout::Old, Some(last)) = (layout, records.last_mut()) {
        *last = kind;
    }
    true
}

pub fn sys_getcwd(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (root, cwd, _) = cx.fs.snapshot();
    if !cwd.dentry.is_attached() {
        return Flow::done(Err(Errno::ENOENT));
    }
    let mut name = cwd.name_seen_from(&root);
    name.push(0);
    if name.len() > PATH_MAX {
        return Flow::done(Err(Errno::ENAMETOOLONG));
    }
    if (name.len() as u64) > args.u64(1) {
        return Flow::done(Err(Errno::ERANGE));
    }
    Flow::done(cx.mm.write(args.u64(0), &name).map(|()| name.len() as u64))
}

pub fn sys_chdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let path = path(cx, args.u64(0))?;
        let place = resolve_directory(cx, &path).await?;
        cx.fs.set_cwd(place);
        Ok(0)
    })
}

pub fn sys_fchdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let file = cx.file(args.i32(0))?;
        if file.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        permission(ownership(file.inode()).await?, &cx.creds(), Mask::EXEC)?;
        cx.fs.set_cwd(place_of(&file));
        Ok(0)
    })
}

pub fn sys_chroot(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let path = path(cx, args.u64(0))?;
        let place = resolve_directory(cx, &path).await?;
        if !cx.creds().has_own(Capability::SysChroot) {
            return Err(Errno::EPERM.into());
        }
        cx.fs.set_root(place);
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_aligned_and_end_in_time() {
        let entry = DirEntry { ino: 7, kind: FileKind::Directory, name: b"abcde", next: 9 };
        let mut records = Vec::new();
        assert!(put(&mut records, 32, &entry, Layout::Dirent64));
        assert_eq!(records.len(), 32);
        assert_eq!(records.get(16..25), Some([32, 0, 4, b'a', b'b', b'c', b'd', b'e', 0].as_slice()));
        assert!(!put(&mut records, 63, &entry, Layout::Dirent64));
        let mut old = Vec::new();
        assert!(put(&mut old, 100, &entry, Layout::Old));
        assert_eq!((old.len(), old.last()), (32, Some(&4)));
    }
}
