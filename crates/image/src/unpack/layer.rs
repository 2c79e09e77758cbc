//! Applies a layer's members to the tree of the layers below.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::decompress::Layer;
use super::whiteout::{Meaning, Touched, meaning};
use super::{Applied, Counts, Limits, Owners, UnpackError, beneath};
use crate::archive::{Kind, Member, Reader};

/// Most bytes of names that are remembered until the end of a layer.
const MOST_REMEMBERED: usize = 512 << 20;

/// Unpacks `input` into the directory `root`. `progress` gets the number of compressed bytes read so far.
///
/// # Errors
/// Why the layer was refused. What was done until then stays in the tree, which is then worth nothing.
pub fn apply<R: Read + 'static>(
    root: BorrowedFd<'_>,
    input: R,
    limits: Limits,
    owners: Owners,
    progress: &mut dyn FnMut(u64),
) -> Result<Applied, UnpackError> {
    let mut tree = Tree {
        root,
        limits,
        owners,
        progress,
        counts: Counts::default(),
        touched: Touched::default(),
        directories: Vec::new(),
        remembered: 0,
        parent: None,
    };
    let mut reader = Reader::new(Layer::new(input, limits)?);
    let applied = apply_all(&mut tree, &mut reader);
    let mut layer = reader.into_inner();
    if let Err(error) = applied {
        return Err(layer.refused.take().unwrap_or(error));
    }
    tree.finish_directories()?;
    let (blob, diff_id, bytes) = layer.finish()?;
    Ok(Applied { blob, diff_id, counts: Counts { bytes, ..tree.counts } })
}

fn apply_all<R: Read + 'static>(tree: &mut Tree<'_>, reader: &mut Reader<Layer<R>>) -> Result<(), UnpackError> {
    while let Some(member) = reader.next_member()? {
        tree.counts.members += 1;
        if tree.counts.members > tree.limits.members {
            return Err(UnpackError::TooMany { limit: tree.limits.members });
        }
        tree.member(&member, reader)?;
        (tree.progress)(reader.input().consumed());
    }
    Ok(())
}

/// The tree being made.
pub(super) struct Tree<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) limits: Limits,
    pub(super) owners: Owners,
    pub(super) progress: &'a mut dyn FnMut(u64),
    pub(super) counts: Counts,
    /// What this layer has, for whiteouts, which hide only what is below.
    pub(super) touched: Touched,
    /// Directories whose times are set at the end, when nothing is put into them any more.
    directories: Vec<(Vec<u8>, Timestamps)>,
    remembered: usize,
    /// The directory of the member before.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

/// A member's checked path.
pub(super) struct Name<'a> {
    pub(super) components: Vec<&'a [u8]>,
}

impl<'a> Name<'a> {
    /// Without `.` and empty components. `..` is refused: no tool writes it, and attacks begin with it.
    fn of(path: &'a [u8]) -> Result<Name<'a>, UnpackError> {
        let components: Vec<_> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        let problem = if components.contains(&&b".."[..]) {
            "\"..\" in a path"
        } else if components.iter().any(|part| part.len() > 255) {
            "a component longer than 255 bytes"
        } else {
            return Ok(Name { components });
        };
        Err(refused(path, problem))
    }

    pub(super) fn path(&self) -> Vec<u8> {
        self.components.join(&b'/')
    }

    pub(super) fn parent(&self) -> Vec<u8> {
        self.components.get(..self.components.len().saturating_sub(1)).unwrap_or_default().join(&b'/')
    }

    fn last(&self) -> &'a [u8] {
        self.components.last().copied().unwrap_or_default()
    }
}

pub(super) fn refused(path: &[u8], problem: impl Into<String>) -> UnpackError {
    UnpackError::Member { path: shown(path), problem: problem.into() }
}

pub(super) fn host(path: &[u8], what: &'static str) -> impl FnOnce(Errno) -> UnpackError {
    move |cause| UnpackError::Host { path: shown(path), what, cause }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..path.len().min(300)).unwrap_or_default()).into_owned()
}

impl Tree<'_> {
    fn member<R: Read + 'static>(&mut self, member: &Member, reader: &mut Reader<Layer<R>>) -> Result<(), UnpackError> {
        let name = Name::of(&member.path)?;
        if name.components.is_empty() {
            return match member.kind {
                Kind::Directory => {
                    let root =
                        self.root.try_clone_to_owned().map_err(|_| refused(&member.path, "cannot use the tree's root"))?;
                    self.directory_attributes(root.as_fd(), &name, member)
                }
                _ => Err(refused(&member.path, "the root is not a directory")),
            };
        }
        match meaning(&name.components) {
            Meaning::Member => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Bad(problem) => return Err(refused(&member.path, problem)),
            Meaning::Opaque => return self.opaque(&name),
            Meaning::Hides(hidden) => return self.hide(&name, hidden),
        }
        if member.kind == Kind::Device {
            self.counts.devices_skipped += 1;
            return Ok(());
        }
        self.touched.add(&name.components);
        let parent = self.parent(&name)?;
        let last = name.last();
        match member.kind {
            Kind::Directory => return self.directory(parent.as_fd(), &name, member),
            Kind::HardLink => return self.hard_link(parent.as_fd(), &name, member),
            _ => self.make_room(parent.as_fd(), &name)?,
        }
        match member.kind {
            Kind::File => self.file(parent.as_fd(), &name, member, reader),
            Kind::Symlink => {
                if member.target.is_empty() {
                    return Err(refused(&member.path, "a symbolic link to nothing"));
                }
                rustix::fs::symlinkat(&*member.target, &parent, last).map_err(host(&member.path, "make a symbolic link"))?;
                self.link_attributes(parent.as_fd(), last, member)
            }
            _ => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&parent, last, FileType::Fifo, mode, 0).map_err(host(&member.path, "make a FIFO"))?;
                self.link_attributes(parent.as_fd(), last, member)?;
                // Just made by us, so no symbolic link.
                let mode = Mode::from_raw_mode(member.mode);
                rustix::fs::chmodat(&parent, last, mode, AtFlags::empty()).map_err(host(&member.path, "set the mode"))
            }
        }
    }

    /// The directory a member goes to. Symbolic links on the way are followed inside the tree; directories that are missing are made.
    pub(super) fn parent(&mut self, name: &Name<'_>) -> Result<OwnedFd, UnpackError> {
        let path = name.parent();
        if let Some((known, fd)) = &self.parent
            && *known == path
            && let Ok(fd) = fd.try_clone()
        {
            return Ok(fd);
        }
        let opened = match beneath::directory(self.root, &path) {
            Err(Errno::NOENT) => self.make_parents(name)?,
            opened => opened.map_err(host(&name.path(), "open the directory it is in"))?,
        };
        if let Ok(copy) = opened.try_clone() {
            self.parent = Some((path, copy));
        }
        Ok(opened)
    }

    fn make_parents(&mut self, name: &Name<'_>) -> Result<OwnedFd, UnpackError> {
        let parents = name.components.get(..name.components.len().saturating_sub(1)).unwrap_or_default();
        let mut above = beneath::directory(self.root, b"").map_err(host(b"", "open the tree"))?;
        for (index, part) in parents.iter().enumerate() {
            let path = parents.get(..=index).unwrap_or_default().join(&b'/');
            above = match beneath::directory(self.root, &path) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&above, *part, Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) => {
                            return Err(refused(&name.path(), format!("{:?} is a symbolic link to nothing", shown(&path))));
                        }
                        made => made.map_err(host(&path, "make the directory"))?,
                    }
                    // The creator's umask may have cut the mode.
                    let made = beneath::directory(self.root, &path).map_err(host(&path, "open the directory"))?;
                    rustix::fs::chmodat(&above, *part, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(host(&path, "set the mode"))?;
                    made
                }
                opened => opened.map_err(host(&path, "open the directory"))?,
            };
        }
        Ok(above)
    }

    /// Something is removed that may be the remembered directory, or a link on the way to it.
    pub(super) fn forget_parent(&mut self) {
        self.parent = None;
    }

    /// Removes what is in the member's place.
    pub(super) fn make_room(&mut self, parent: BorrowedFd<'_>, name: &Name<'_>) -> Result<(), UnpackError> {
        if beneath::kind(parent, name.last()).map_err(host(&name.path(), "look at what is there"))?.is_some() {
            self.forget_parent();
            beneath::remove(parent, name.last()).map_err(host(&name.path(), "replace what is there"))?;
        }
        Ok(())
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &Name<'_>, member: &Member) -> Result<(), UnpackError> {
        let there = beneath::kind(parent, name.last()).map_err(host(&member.path, "look at what is there"))?;
        if there != Some(FileType::Directory) {
            self.make_room(parent, name)?;
            rustix::fs::mkdirat(parent, name.last(), Mode::from_raw_mode(0o700))
                .map_err(host(&member.path, "make the directory"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            rustix::fs::openat(parent, name.last(), flags, Mode::empty()).map_err(host(&member.path, "open the directory"))?;
        self.directory_attributes(made.as_fd(), name, member)
    }

    fn directory_attributes(&mut self, directory: BorrowedFd<'_>, name: &Name<'_>, member: &Member) -> Result<(), UnpackError> {
        self.attributes(directory, member)?;
        let path = name.path();
        self.remembered += path.len() + size_of::<(Vec<u8>, Timestamps)>();
        if self.remembered > MOST_REMEMBERED {
            return Err(UnpackError::TooMany { limit: self.counts.members });
        }
        self.directories.push((path, times(member)));
        Ok(())
    }

    fn finish_directories(&self) -> Result<(), UnpackError> {
        for (path, times) in self.directories.iter().rev() {
            // It may have been replaced since; then it is not this directory any more.
            let Ok(directory) = beneath::open(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) else {
                continue;
            };
            rustix::fs::futimens(&directory, times).map_err(host(path, "set the time"))?;
        }
        Ok(())
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &Name<'_>, member: &Member) -> Result<(), UnpackError> {
        let target = Name::of(&member.target)?;
        let problem = |problem: &str| refused(&member.path, format!("a hard link to {:?}, {problem}", shown(&member.target)));
        if target.components.is_empty() {
            return Err(problem("which is no file"));
        }
        if target.components == name.components {
            return Ok(());
        }
        let from = match beneath::directory(self.root, &target.parent()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(problem("which is not there")),
            opened => opened.map_err(host(&member.path, "open the directory of its target"))?,
        };
        match beneath::kind(from.as_fd(), target.last()).map_err(host(&member.path, "look at its target"))? {
            None => return Err(problem("which is not there")),
            Some(FileType::Directory) => return Err(problem("which is a directory")),
            Some(_) => {}
        }
        let same = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let there = rustix::fs::statat(parent, name.last(), AtFlags::SYMLINK_NOFOLLOW).map(same).ok();
        let wanted = rustix::fs::statat(&from, target.last(), AtFlags::SYMLINK_NOFOLLOW).map(same).ok();
        if there.is_some() && there == wanted {
            return Ok(());
        }
        self.make_room(parent, name)?;
        match rustix::fs::linkat(&from, target.last(), parent, name.last(), AtFlags::empty()) {
            // What was in the way was, or held, the target.
            Err(Errno::NOENT) => Err(problem("which it replaces")),
            linked => linked.map_err(host(&member.path, "make a hard link")),
        }
    }
}

pub(super) fn times(member: &Member) -> Timestamps {
    let time = Timespec { tv_sec: member.mtime.seconds, tv_nsec: member.mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The owner to set, if any.
pub(super) fn owner(owners: Owners, member: &Member) -> Result<Option<(Uid, Gid)>, UnpackError> {
    if owners == Owners::Own {
        return Ok(None);
    }
    let id = |id: u64, what: &str| match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(refused(&member.path, format!("{what} id {id} is out of range"))),
    };
    Ok(Some((Uid::from_raw(id(member.uid, "user")?), Gid::from_raw(id(member.gid, "group")?))))
}
