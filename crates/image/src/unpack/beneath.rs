//! Files beneath a directory, whatever symbolic links in it say.
//!
//! Every path is resolved by openat2(2) with RESOLVE_IN_ROOT: `..` and absolute links stop at the tree's root, as they do for a process
//! whose root it is. Nothing here recurses: the depth of a hostile tree is not bounded by PATH_MAX.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Opens a path inside `root`. The last component is followed unless the flags say NOFOLLOW.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT) {
            // A rename elsewhere in the tree while the kernel walked `..`.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// Opens a directory inside `root` as a place for names.
pub fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// What `name` in `directory` is; None if nothing.
pub fn kind(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in a directory.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let readable = rustix::fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes `name` of `directory` and all in it. Nothing there is no error.
///
/// Directories that are not empty are moved up into `directory` under names of their own and emptied there, so neither stack nor descriptors
/// grow with the depth.
pub fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut waiting = vec![name.to_vec()];
    let mut moved = 0_u64;
    while let Some(name) = waiting.pop() {
        match rustix::fs::unlinkat(directory, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(directory, &*name, flags, Mode::empty())?;
        for child in names(inner.as_fd())? {
            match rustix::fs::unlinkat(&inner, &*child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
            match rustix::fs::unlinkat(&inner, &*child, AtFlags::REMOVEDIR) {
                Ok(()) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            // A fresh name: an archive can hold any, so never on top of one.
            let place = loop {
                let place = format!(".nacre-removed-{moved}").into_bytes();
                moved += 1;
                match rustix::fs::renameat_with(&inner, &*child, directory, &*place, rustix::fs::RenameFlags::NOREPLACE) {
                    Ok(()) => break place,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            };
            waiting.push(place);
        }
        rustix::fs::unlinkat(directory, &*name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Reads a small regular file inside `root`; None if there is none, or more than `most` bytes.
pub fn read_small(root: BorrowedFd<'_>, path: &[u8], most: u64) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || u64::try_from(stat.st_size).ok()? > most {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
