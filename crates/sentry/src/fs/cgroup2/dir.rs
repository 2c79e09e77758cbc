//! [`Dir`]: a group's directory.

use std::any::Any;
use std::sync::Arc;

use super::Shared;
use super::control::{self, File};
use super::file::FileNode;
use crate::Errno;
use crate::cgroup::{Cgroup, Members};
use crate::fs::{
    DirEntry, FileKind, FileOps, Inode, Metadata, NewInode, OpenFlags, RenameFlags, SetAttr, Timestamp, UnlinkKind,
};
use crate::step::Step;
use crate::task::Cx;

pub(super) struct Dir {
    shared: Arc<Shared>,
    pub(super) group: Arc<Cgroup>,
}

/// Most files of a group: the inode numbers of one group's.
const FILES_MAX: u64 = 256;

/// The inode number of a group's file; the directory's is that of file 0.
pub(super) fn number(group: &Cgroup, file: u64) -> u64 {
    group.id * FILES_MAX + file
}

/// Attributes of a group's directory or file.
pub(super) fn metadata(shared: &Shared, group: &Cgroup, kind: FileKind, ino: u64, owner: (u32, u32, u32)) -> Metadata {
    let (uid, gid, permissions) = owner;
    let at = Timestamp::default();
    Metadata {
        dev: shared.dev,
        ino,
        kind,
        permissions,
        nlink: if kind == FileKind::Directory { 2 + group.children().len() as u32 } else { 1 },
        uid,
        gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        block_size: 4096,
        accessed: at,
        modified: at,
        changed: at,
        born: at,
    }
}

/// Changes the owner or mode of a group's file or (the empty name) directory.
pub(super) fn set_owner(group: &Cgroup, name: &'static str, default: (u32, u32, u32), change: SetAttr) -> Result<(), Errno> {
    if change.size.is_some_and(|size| size != 0) {
        return Err(Errno::EINVAL);
    }
    let mut settings = group.settings.lock();
    let owner = settings.owners.entry(name).or_insert(default);
    owner.0 = change.uid.unwrap_or(owner.0);
    owner.1 = change.gid.unwrap_or(owner.1);
    owner.2 = change.permissions.unwrap_or(owner.2);
    Ok(())
}

impl Dir {
    pub(super) fn new(shared: &Arc<Shared>, group: Arc<Cgroup>) -> Dir {
        Dir { shared: shared.clone(), group }
    }

    fn owner(&self) -> (u32, u32, u32) {
        self.group.settings.lock().owners.get("").copied().unwrap_or((0, 0, 0o755))
    }

    fn files(&self) -> impl Iterator<Item = (u64, &'static File)> + '_ {
        let controllers = self.group.controllers();
        let root = self.group.is_root();
        control::FILES.iter().enumerate().filter_map(move |(at, file)| {
            let there = controllers.contains(file.controller) && !(root && file.below_root);
            there.then_some((at as u64 + 1, file))
        })
    }

    fn child(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(group) = self.group.child(name) {
            return Ok(Arc::new(Dir::new(&self.shared, group)));
        }
        if self.group.is_removed() {
            return Err(Errno::ENOENT);
        }
        let (at, file) = self.files().find(|(_, file)| file.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(FileNode { shared: self.shared.clone(), group: self.group.clone(), file, ino: number(&self.group, at) }))
    }
}

impl Inode for Dir {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(metadata(&self.shared, &self.group, FileKind::Directory, number(&self.group, 0), self.owner()))
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::Ready(set_owner(&self.group, "", (0, 0, 0o755), change))
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.child(name))
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        if new.kind != FileKind::Directory {
            return Step::err(if new.kind == FileKind::Regular { Errno::EACCES } else { Errno::EPERM });
        }
        if self.group.is_removed() {
            return Step::err(Errno::ENOENT);
        }
        let made = self.group.make(name, (new.uid, new.gid, new.permissions));
        Step::Ready(made.map(|group| Arc::new(Dir::new(&self.shared, group)) as Arc<dyn Inode>))
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::Ready(match kind {
            UnlinkKind::Directory => self.group.remove(name, &Members(&self.shared.container)),
            UnlinkKind::NotDirectory => Err(Errno::EPERM),
        })
    }

    fn rename<'a>(
        &'a self,
        _name: &'a [u8],
        _to: &'a Arc<dyn Inode>,
        _to_name: &'a [u8],
        _flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::ok(Arc::new(OpenDir(self)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenDir(Arc<Dir>);

impl FileOps for OpenDir {
    fn read<'a>(
        &'a self,
        _file: &'a crate::fs::File,
        _offset: u64,
        _into: &'a mut dyn crate::mm::Sink,
    ) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    /// Positions 0 and 1 are `.` and `..`; then the files, then the groups below: places in that list.
    fn read_dir<'a>(
        &'a self,
        _file: &'a crate::fs::File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        let group = &self.0.group;
        let own = number(group, 0);
        let up = group.parent().filter(|_| !Arc::ptr_eq(group, &self.0.shared.top)).map_or(own, |parent| number(parent, 0));
        let mut entries: Vec<(u64, FileKind, Box<[u8]>)> =
            vec![(own, FileKind::Directory, b".".as_slice().into()), (up, FileKind::Directory, b"..".as_slice().into())];
        if !group.is_removed() {
            entries
                .extend(self.0.files().map(|(at, file)| (number(group, at), FileKind::Regular, file.name.as_bytes().into())));
            entries.extend(group.children().iter().map(|child| (number(child, 0), FileKind::Directory, child.name.clone())));
        }
        let first = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in entries.iter().enumerate().skip(first) {
            if !emit(DirEntry { ino: *ino, kind: *kind, name, next: at as u64 + 1 }) {
                break;
            }
        }
        Step::ok(())
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
