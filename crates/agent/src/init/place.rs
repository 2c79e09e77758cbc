//! [`Tree`]: finding and making places in a container's tree, none of which may lead out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;

/// A directory that is the root of all paths.
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// The tree below a directory.
    pub fn new(root: OwnedFd) -> Tree {
        Tree { root }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A place, symbolic links followed as if the tree were all there is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, Mode::empty())
    }

    /// As [`find`](Tree::find), opened as `flags` say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"/" } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // A rename elsewhere in the tree got in between (openat2(2)).
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// A directory; it is made if it is missing, and so are those above.
    ///
    /// # Errors
    /// The kernel's; `ENOTDIR` for what is there and no directory.
    pub fn ensure_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = split(path).ok_or(Errno::NOENT)?;
        let parent = self.ensure_dir(parent)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// Something that is no directory; an empty file is made if it is missing, and so are the directories above.
    ///
    /// # Errors
    /// The kernel's; `EISDIR` for a directory.
    pub fn ensure_file(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match self.find(path) {
            Err(Errno::NOENT) => {}
            Ok(fd) if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Directory => return Err(Errno::ISDIR),
            other => return other,
        }
        let (parent, _) = split(path).ok_or(Errno::NOENT)?;
        self.ensure_dir(parent)?;
        drop(self.open(path, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?);
        self.find(path)
    }

    /// The directory that `path` is in, which is made if it is missing, and the last name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let (parent, name) = split(path).ok_or(Errno::NOENT)?;
        Ok((self.ensure_dir(parent)?, name))
    }
}

/// The directory and the last name. None for the root and for names that are none.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let path = path.get(..end)?;
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (path.get(..at)?, path.get(at + 1..)?),
        None => (&path[..0], path),
    };
    (name != b"." && name != b"..").then_some((parent, name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_split_at_the_last_name() {
        assert_eq!(split(b"/a/b/"), Some((b"/a".as_slice(), b"b".as_slice())));
        assert_eq!(split(b"a"), Some((b"".as_slice(), b"a".as_slice())));
        assert_eq!((split(b"/"), split(b""), split(b"/a/.."), split(b"/a/.")), (None, None, None, None));
    }

    #[test]
    fn links_do_not_lead_out() {
        let dir = std::env::temp_dir().join(format!("nacre-agent-place-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("in")).expect("made");
        symlink("/in", dir.join("absolute")).expect("a link");
        symlink("../../../../../../in", dir.join("up")).expect("a link");
        let root = rustix::fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let tree = Tree::new(root);
        for path in [b"/absolute/one/two".as_slice(), b"up/three", b"/../../in/four"] {
            tree.ensure_dir(path).expect("a directory");
        }
        tree.ensure_file(b"/absolute/file").expect("a file");
        assert!(dir.join("in/one/two").is_dir() && dir.join("in/three").is_dir() && dir.join("in/four").is_dir());
        assert!(dir.join("in/file").is_file());
        assert_eq!(tree.ensure_file(b"/in").map(drop), Err(Errno::ISDIR));
        assert_eq!(tree.ensure_dir(b"/in/file").map(drop), Err(Errno::NOTDIR));
        let _ = fs::remove_dir_all(&dir);
    }
}
