//! Many entries at a time, without a node for each: attributes, opens, and whole directories one after the other.
//!
//! What is asked for here is asked by name beneath a directory's node, and nothing stays in this process: so a walk over a tree costs no
//! handles. The rules are those of single operations (see `docs/gofer.md`).

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
    vec,
};

use rustix::fs::{Mode, OFlags};

use super::{DirStream, Node, attr, lookup::beneath, open::flags};
use crate::{
    Errno,
    protocol::{Attr, FileKind, MAX_SCAN_DEPTH, Name, OpenHow, ReadDirDetail, Scanned},
};

/// Room for what is said of a directory itself.
const HEAD_BYTES: usize = 512;

/// What a scan is bounded by.
#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    /// As the entries are encoded; the first directory has its first entries in any case.
    pub bytes: usize,
    pub directories: usize,
    /// Others wait for their answers meanwhile.
    pub time: Duration,
}

/// A directory on the way, whose subdirectories are still to be looked at.
struct Level {
    fd: OwnedFd,
    rest: vec::IntoIter<Name>,
}

impl Node {
    /// The node of a directory some names below, or of this one.
    ///
    /// # Errors
    /// The host's; `ENOTDIR`, also for symbolic links on the way; `ENFILE` without budget.
    pub fn descend(self: &Arc<Node>, path: &[Name]) -> Result<Arc<Node>, Errno> {
        let mut at = Arc::clone(self);
        for name in path {
            at = at.lookup(name)?.0;
        }
        at.directory()?;
        Ok(at)
    }

    /// An entry's attributes.
    ///
    /// # Errors
    /// The host's; `ENOTDIR`.
    pub fn attr_of(&self, name: &Name) -> Result<Attr, Errno> {
        attr::of_entry(self.directory()?.as_fd(), name)
    }

    /// Opens a regular file by its name, and says which it is.
    ///
    /// # Errors
    /// As [`Node::open`]; `ESTALE` if the name did not mean one and the same file while it was opened.
    pub fn open_entry(&self, name: &Name, how: OpenHow) -> Result<(Attr, OwnedFd), Errno> {
        if how != OpenHow::Read {
            self.writable()?;
        }
        let dir = self.directory()?;
        // Looked at first: nothing but a regular file is opened, except in vain when the name changes in between.
        match attr::of_entry(dir.as_fd(), name)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Symlink => return Err(Errno::ELOOP),
            _ => return Err(Errno::ENXIO),
        }
        let fd = beneath(dir.as_fd(), name.as_c_str(), flags(how), Mode::empty()).map_err(|e| match e {
            Errno::ENOENT | Errno::ELOOP | Errno::ENXIO | Errno::EISDIR | Errno::ENODEV => Errno::ESTALE,
            e => e,
        })?;
        let found = attr::of_fd(fd.as_fd())?;
        if found.kind == FileKind::Regular { Ok((found, fd)) } else { Err(Errno::ESTALE) }
    }

    /// The directories that these names lead to, each followed by those below it, in the order in which a walk would come to them; as far as the limits
    /// allow. What cannot be read is left out, except the first.
    ///
    /// # Errors
    /// The host's, for the first name; `ENOTDIR`.
    pub fn scan(
        self: &Arc<Node>,
        roots: &[Vec<Name>],
        detail: ReadDirDetail,
        limits: ScanLimits,
    ) -> Result<Vec<Scanned>, Errno> {
        let start = Instant::now();
        let mut roots = roots.iter();
        // Where the last root was: others are mostly in the same directory.
        let mut near: (&[Name], Arc<Node>) = (&[], Arc::clone(self));
        let mut levels: Vec<Level> = Vec::new();
        let mut found: Vec<Scanned> = Vec::new();
        let mut used = 0;
        while found.len() < limits.directories && (found.is_empty() || start.elapsed() < limits.time) {
            let depth = levels.len();
            let (dir, name) = match levels.last_mut() {
                Some(level) => match level.rest.next() {
                    Some(name) => (level.fd.as_fd(), name),
                    None => {
                        levels.pop();
                        continue;
                    }
                },
                None => {
                    let Some(root) = roots.next() else { break };
                    let (name, above) = root.split_last().ok_or(Errno::EINVAL)?;
                    if near.0 != above {
                        match self.descend(above) {
                            Ok(dir) => near = (above, dir),
                            Err(e) if found.is_empty() => return Err(e),
                            Err(_) => continue,
                        }
                    }
                    (near.1.directory()?.as_fd(), name.clone())
                }
            };
            let room = limits.bytes.saturating_sub(used + HEAD_BYTES);
            let (fd, scanned) = match scan_one(dir, name, detail, room) {
                Ok(one) => one,
                Err(e) if found.is_empty() => return Err(e),
                Err(_) => continue,
            };
            // One that does not fit is for the next time.
            if !scanned.end && !found.is_empty() {
                break;
            }
            used += scanned.encoded_len();
            if used > limits.bytes && !found.is_empty() {
                break;
            }
            let below: Vec<Name> = match scanned.end && depth + 1 < MAX_SCAN_DEPTH {
                true => scanned
                    .entries
                    .iter()
                    .filter(|entry| entry.kind == Some(FileKind::Directory))
                    .filter_map(|entry| Name::new(entry.name).ok())
                    .collect(),
                false => Vec::new(),
            };
            let whole = scanned.end;
            found.push(Scanned { depth: depth as u8, ..scanned });
            if !whole {
                break;
            }
            levels.push(Level { fd, rest: below.into_iter() });
        }
        Ok(found)
    }
}

/// One directory, its entries as far as there is room.
fn scan_one(dir: BorrowedFd<'_>, name: Name, detail: ReadDirDetail, room: usize) -> Result<(OwnedFd, Scanned), Errno> {
    let fd = beneath(dir, name.as_c_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::DIRECTORY, Mode::empty())?;
    let attr = attr::of_fd(fd.as_fd())?;
    let stream = DirStream::of(fd);
    let (entries, end) = stream.pack(None, detail, room)?;
    Ok((stream.into_fd(), Scanned { depth: 0, name, attr, entries, end }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::{Budget, Export, Source};
    use super::*;
    use crate::{protocol::Access, testdir::TestDir};

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn root(dir: &TestDir, access: Access) -> Arc<Node> {
        Export::open(Source::at_path(dir.path()).unwrap(), access, &Budget::new(100)).unwrap()
    }

    const WIDE: ScanLimits = ScanLimits { bytes: 60_000, directories: 100, time: Duration::MAX };

    #[test]
    fn a_scan_goes_down_before_it_goes_on() {
        let dir = TestDir::new("scan");
        for path in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("a/b/file"), "data").unwrap();
        symlink("/etc", dir.path().join("a/link")).unwrap();
        let root = root(&dir, Access::ReadOnly);
        let found = root.scan(&[vec![name("a")], vec![name("e")]], ReadDirDetail::Attributes, WIDE).unwrap();
        let at = |text: &str| found.iter().position(|s| s.name == name(text));
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!((at("a"), at("e")), (Some(0), Some(4)));
        assert_eq!(at("c").unwrap(), at("b").unwrap() + 1);
        assert_eq!(found.iter().map(|s| s.depth).max(), Some(2));
        assert!(at("link").is_none(), "links are not followed");
        let b = &found[at("b").unwrap()];
        let file = b.entries.iter().find(|e| e.name == b"file").unwrap();
        assert_eq!(file.attr().map(|attr| attr.size), Some(4));
        assert!(b.end && b.attr.kind == FileKind::Directory);
        let below = root.scan(&[vec![name("a"), name("d")], vec![name("e")]], ReadDirDetail::Names, WIDE).unwrap();
        assert_eq!(below.iter().map(|s| s.name.clone()).collect::<Vec<_>>(), [name("d"), name("e")]);
        assert_eq!(root.scan(&[Vec::new()], ReadDirDetail::Names, WIDE).unwrap_err(), Errno::EINVAL);
        assert_eq!(
            root.scan(&[vec![name("a"), name("link"), name("x")]], ReadDirDetail::Names, WIDE).unwrap_err(),
            Errno::ENOTDIR
        );
        let kinds = root.scan(&[vec![name("a")]], ReadDirDetail::Directories, WIDE).unwrap();
        let b = kinds.iter().find(|s| s.name == name("b")).unwrap();
        for entry in b.entries.iter() {
            assert_eq!(entry.has_attr(), entry.kind == Some(FileKind::Directory), "{entry:?}");
        }
    }

    #[test]
    fn a_scan_keeps_to_its_limits() {
        let dir = TestDir::new("scanlimits");
        for n in 0..40 {
            fs::create_dir_all(dir.path().join(format!("d{n}/x"))).unwrap();
        }
        fs::create_dir(dir.path().join("big")).unwrap();
        for n in 0..300 {
            fs::write(dir.path().join(format!("big/{n}")), "").unwrap();
        }
        let mut deep = dir.path().join("deep");
        for _ in 0..MAX_SCAN_DEPTH + 10 {
            deep.push("x");
        }
        fs::create_dir_all(&deep).unwrap();
        let root = root(&dir, Access::ReadOnly);
        let names: Vec<Vec<Name>> = (0..40).map(|n| vec![name(&format!("d{n}"))]).collect();
        let two = ScanLimits { directories: 3, ..WIDE };
        assert_eq!(root.scan(&names, ReadDirDetail::Names, two).unwrap().len(), 3);
        let small = ScanLimits { bytes: 1000, ..WIDE };
        let some = root.scan(&names, ReadDirDetail::Attributes, small).unwrap();
        assert!(some.len() < 10 && some.iter().all(|s| s.end), "{}", some.len());
        let big = root.scan(&[vec![name("big")], vec![name("d1")]], ReadDirDetail::Names, small).unwrap();
        assert!(big.len() == 1 && !big[0].end && big[0].entries.len() > 10 && big[0].encoded_len() <= 1000, "{big:?}");
        assert_eq!(root.scan(&[vec![name("deep")]], ReadDirDetail::Names, WIDE).unwrap().len(), MAX_SCAN_DEPTH);
        let hasty = ScanLimits { time: Duration::ZERO, ..WIDE };
        assert_eq!(root.scan(&names, ReadDirDetail::Names, hasty).unwrap().len(), 1, "the first in any case");
        assert_eq!(root.scan(&[vec![name("none")]], ReadDirDetail::Names, WIDE).unwrap_err(), Errno::ENOENT);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(root.scan(&[vec![name("file")]], ReadDirDetail::Names, WIDE).unwrap_err(), Errno::ENOTDIR);
    }

    #[test]
    fn entries_are_opened_by_the_rules() {
        let dir = TestDir::new("openentry");
        fs::write(dir.path().join("file"), "data").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let root = root(&dir, Access::ReadOnly);
        let (attr, fd) = root.open_entry(&name("file"), OpenHow::Read).unwrap();
        assert_eq!((attr.size, attr::of_fd(fd.as_fd()).unwrap().ino), (4, attr.ino));
        for (text, errno) in [("sub", Errno::EISDIR), ("link", Errno::ELOOP), ("fifo", Errno::ENXIO), ("none", Errno::ENOENT)] {
            assert_eq!(root.open_entry(&name(text), OpenHow::Read).unwrap_err(), errno, "{text}");
        }
        assert_eq!(root.open_entry(&name("file"), OpenHow::ReadWrite).unwrap_err(), Errno::EROFS);
        assert_eq!(root.descend(&[name("link")]).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(root.descend(&[name("sub")]).unwrap().attr().unwrap().kind, FileKind::Directory);
    }
}
