//! New files, directories, links and special files.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{
    Identity, Node, Share, attr,
    lookup::{beneath, child_within},
    open::flags,
};
use crate::{
    Errno,
    protocol::{Attr, FileKind, MakeNode, Name, OpenHow, Owner},
};

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

impl Node {
    /// `O_CREAT|O_EXCL`: a new regular file, opened.
    ///
    /// # Errors
    /// The host's; `EEXIST`, `EROFS`, `ENOTDIR`.
    pub fn create(&self, name: &Name, mode: u32, owner: Owner, how: OpenHow) -> Result<(Arc<Node>, Attr, OwnedFd), Errno> {
        let dir = self.writable_directory()?;
        let room = self.export.budget.take()?;
        let flags = flags(how) | OFlags::CREATE | OFlags::EXCL;
        let fd = beneath(dir, name.as_c_str(), flags, permissions(mode))?;
        let made = attr::of_fd(fd.as_fd())?;
        let finish = || {
            let (node, _) = child_within(room, &self.export, dir, name)?;
            // The name could have been taken over since; the descriptor is ours for certain.
            if !node.is(Identity::of(&made))? {
                return Err(Errno::ESTALE);
            }
            let attr = node.own(made, mode, owner)?;
            Ok((node, attr))
        };
        match finish() {
            Ok((node, attr)) => Ok((node, attr, fd)),
            Err(e) => {
                self.take_back(name, Identity::of(&made));
                Err(e)
            }
        }
    }

    /// # Errors
    /// The host's; `EEXIST`, `EROFS`, `ENOTDIR`.
    pub fn mkdir(&self, name: &Name, mode: u32, owner: Owner) -> Result<(Arc<Node>, Attr), Errno> {
        let dir = self.writable_directory()?;
        let room = self.export.budget.take()?;
        rustix::fs::mkdirat(dir, name.as_c_str(), permissions(mode))?;
        self.adopt(room, name, FileKind::Directory, mode, owner)
    }

    /// Makes a regular file, FIFO or socket. Devices are refused by type.
    ///
    /// # Errors
    /// The host's; `EEXIST`, `EROFS`, `ENOTDIR`.
    pub fn mknod(&self, name: &Name, kind: MakeNode, mode: u32, owner: Owner) -> Result<(Arc<Node>, Attr), Errno> {
        let dir = self.writable_directory()?;
        let (kind, host_kind) = match kind {
            MakeNode::Regular => (FileKind::Regular, FileType::RegularFile),
            MakeNode::Fifo => (FileKind::Fifo, FileType::Fifo),
            MakeNode::Socket => (FileKind::Socket, FileType::Socket),
            MakeNode::Whiteout => (FileKind::CharDevice, FileType::CharacterDevice),
        };
        let room = self.export.budget.take()?;
        rustix::fs::mknodat(dir, name.as_c_str(), host_kind, permissions(mode), 0)?;
        self.adopt(room, name, kind, mode, owner)
    }

    /// # Errors
    /// The host's; `EEXIST`, `EROFS`, `ENOTDIR`.
    pub fn symlink(&self, name: &Name, target: &CStr, owner: Owner) -> Result<(Arc<Node>, Attr), Errno> {
        let dir = self.writable_directory()?;
        let room = self.export.budget.take()?;
        rustix::fs::symlinkat(target, dir, name.as_c_str())?;
        self.adopt(room, name, FileKind::Symlink, 0o777, owner)
    }

    /// Gives `target` a further name in this directory. The new name has a node of its own.
    ///
    /// # Errors
    /// The host's; `EPERM` for directories, `EXDEV` between exports, `ESTALE` if the target's name means another file by now.
    pub fn link(&self, target: &Node, name: &Name) -> Result<(Arc<Node>, Attr), Errno> {
        let dir = self.writable_directory()?;
        self.same_export(target)?;
        if target.kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        // By name, as AT_EMPTY_PATH asks for a capability in the first user namespace. Without AT_SYMLINK_FOLLOW both ends are single
        // components beneath the export; that it was the right inode is checked afterwards.
        let room = self.export.budget.take()?;
        let place = target.place.lock().clone().ok_or(Errno::ESTALE)?;
        rustix::fs::linkat(&place.dir, place.name.as_c_str(), dir, name.as_c_str(), AtFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT if attr::of_entry(place.dir.as_fd(), &place.name).is_err() => Errno::ESTALE,
            e => e.into(),
        })?;
        let (node, attr) = child_within(room, &self.export, dir, name)?;
        if target.is(Identity::of(&attr))? {
            return Ok((node, attr));
        }
        self.take_back(name, Identity::of(&attr));
        Err(Errno::ESTALE)
    }

    /// Looks up what was just made by name and gives it to its owner. The name could mean something else by now, put there
    /// by another writer of a shared tree to have it given away: so only what belongs to this process and has one name
    /// is given.
    fn adopt(&self, room: Share, name: &Name, kind: FileKind, mode: u32, owner: Owner) -> Result<(Arc<Node>, Attr), Errno> {
        let (node, made) = child_within(room, &self.export, self.directory()?, name)?;
        let ours = made.uid == rustix::process::geteuid().as_raw();
        if made.kind != kind || !ours || (kind != FileKind::Directory && made.nlink != 1) {
            return Err(Errno::ESTALE);
        }
        match node.own(made, mode, owner) {
            Ok(attr) => Ok((node, attr)),
            Err(e) => {
                self.take_back(name, Identity::of(&made));
                Err(e)
            }
        }
    }

    /// Owner, and the mode bits that creation cannot give or that a change of owner clears.
    fn own(&self, made: Attr, mode: u32, owner: Owner) -> Result<Attr, Errno> {
        if (made.uid, made.gid) == (owner.uid, owner.gid) && (made.mode == mode || self.kind == FileKind::Symlink) {
            return Ok(made);
        }
        if (made.uid, made.gid) != (owner.uid, owner.gid) {
            attr::chown(&self.fd, Some(owner.uid), Some(owner.gid))?;
        }
        if self.kind != FileKind::Symlink && (mode & 0o7000 != 0 || made.mode & 0o7000 != 0) {
            self.chmod(mode & 0o7777)?;
        }
        self.attr()
    }

    /// Removes an entry we made and cannot hand out, if it is still that.
    fn take_back(&self, name: &Name, made: Identity) {
        let Ok(found) = attr::of_entry(self.fd.as_fd(), name) else { return };
        if Identity::of(&found) == made {
            let flags = match found.kind {
                FileKind::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            // The first error is the one to tell.
            let _ = rustix::fs::unlinkat(&self.fd, name.as_c_str(), flags);
        }
    }
}
