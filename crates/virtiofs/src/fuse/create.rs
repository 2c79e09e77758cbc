//! New files, directories, links and special files. They belong to who asked, as the guest's kernel says; in a directory with the set-group-id bit
//! to its group (inode(7)).

use std::ffi::CString;

use gofer::{
    Errno,
    passthrough::Node,
    protocol::{MakeNode, Name, OpenHow, Owner},
};
use zerocopy::IntoBytes;

use super::{Answer, Fs, Outcome, Request, c_string, name, reply};
use crate::{
    abi::{CreateIn, LinkIn, MkdirIn, MknodIn, ROOT_ID},
    handles::Open,
    inodes::Place,
};

/// How often a name that comes and goes is tried.
const TRIES: usize = 8;

impl Request<'_> {
    fn owner(&self, dir: &Node) -> Result<(Owner, u32), Errno> {
        let parent = dir.attr()?;
        let inherits = parent.mode & libc::S_ISGID != 0;
        let gid = if inherits { parent.gid } else { self.head.gid };
        Ok((Owner { uid: self.head.uid, gid }, if inherits { libc::S_ISGID } else { 0 }))
    }
}

impl Fs {
    pub(super) fn mknod(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (MknodIn, _) = request.arg_and_rest()?;
        let (name, _) = name(rest)?;
        let kind = match arg.mode & libc::S_IFMT {
            libc::S_IFREG | 0 => MakeNode::Regular,
            libc::S_IFIFO => MakeNode::Fifo,
            libc::S_IFSOCK => MakeNode::Socket,
            libc::S_IFCHR if arg.rdev == 0 => MakeNode::Whiteout,
            // Other devices: as without CAP_MKNOD.
            _ => return Err(Errno::EPERM),
        };
        let (dir, tree) = self.directory(request.head.nodeid)?;
        let (owner, _) = request.owner(&dir)?;
        let (node, attr) = self.with_room(|| dir.mknod(&name, kind, arg.mode & 0o7777, owner))?;
        reply(&self.entry(&tree, Some(Place { dir: request.head.nodeid, node: &dir, name: &name }), &attr, Some(&node))?)
    }

    pub(super) fn mkdir(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (MkdirIn, _) = request.arg_and_rest()?;
        let (name, _) = name(rest)?;
        let (dir, tree) = self.directory(request.head.nodeid)?;
        let (owner, inherited) = request.owner(&dir)?;
        let (node, attr) = self.with_room(|| dir.mkdir(&name, (arg.mode & 0o7777) | inherited, owner))?;
        reply(&self.entry(&tree, Some(Place { dir: request.head.nodeid, node: &dir, name: &name }), &attr, Some(&node))?)
    }

    pub(super) fn symlink(&self, request: &Request<'_>) -> Outcome {
        let (name, rest) = name(request.body)?;
        let (target, _) = c_string(rest)?;
        let target = CString::new(target).map_err(|_| Errno::EINVAL)?;
        let (dir, tree) = self.directory(request.head.nodeid)?;
        let (owner, _) = request.owner(&dir)?;
        let (node, attr) = self.with_room(|| dir.symlink(&name, &target, owner))?;
        reply(&self.entry(&tree, Some(Place { dir: request.head.nodeid, node: &dir, name: &name }), &attr, Some(&node))?)
    }

    pub(super) fn link(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (LinkIn, _) = request.arg_and_rest()?;
        let (name, _) = name(rest)?;
        if arg.oldnodeid == ROOT_ID {
            return Err(Errno::EPERM);
        }
        let (dir, tree) = self.directory(request.head.nodeid)?;
        let target = self.node(arg.oldnodeid)?;
        let (node, attr) = self.with_room(|| dir.link(&target, &name))?;
        reply(&self.entry(&tree, Some(Place { dir: request.head.nodeid, node: &dir, name: &name }), &attr, Some(&node))?)
    }

    pub(super) fn create(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (CreateIn, _) = request.arg_and_rest()?;
        let (name, _) = name(rest)?;
        let how = super::data::open_how(arg.flags);
        let id = request.head.nodeid;
        let (dir, tree) = self.directory(id)?;
        // Nothing is made that then could not be kept open.
        self.handles.lock().check_room()?;
        let (owner, _) = request.owner(&dir)?;
        let exclusive = arg.flags & libc::O_EXCL as u32 != 0;
        for _ in 0..TRIES {
            match self.with_room(|| dir.create(&name, arg.mode & 0o7777, owner, how)) {
                Ok((node, attr, fd)) => {
                    let entry = self.entry(&tree, Some(Place { dir: id, node: &dir, name: &name }), &attr, Some(&node))?;
                    let fh = self.handles.lock().insert(entry.nodeid, Some(&tree), Open::File(fd.into()))?;
                    return created(&entry, fh, &tree);
                }
                Err(Errno::EEXIST) if !exclusive => {}
                Err(e) => return Err(e),
            }
            match self.open_existing(&dir, &name, how) {
                Err(Errno::ENOENT | Errno::ESTALE) => {}
                Err(e) => return Err(e),
                Ok((attr, fd)) => {
                    let fd = super::data::truncated(fd, arg.flags)?;
                    let entry = self.entry(&tree, Some(Place { dir: id, node: &dir, name: &name }), &attr, None)?;
                    let fh = self.handles.lock().insert(entry.nodeid, Some(&tree), Open::File(fd.into()))?;
                    return created(&entry, fh, &tree);
                }
            }
        }
        Err(Errno::ESTALE)
    }

    fn open_existing(
        &self,
        dir: &Node,
        name: &Name,
        how: OpenHow,
    ) -> Result<(gofer::protocol::Attr, std::os::fd::OwnedFd), Errno> {
        dir.open_entry(name, how)
    }
}

fn created(entry: &crate::abi::EntryOut, fh: u64, tree: &crate::trees::Tree) -> Outcome {
    let mut bytes = entry.as_bytes().to_vec();
    bytes.extend_from_slice(super::data::open_out(fh, tree).as_bytes());
    Ok(Answer::Bytes(bytes))
}
