//! Attributes, links' targets, and what a file system says of itself.

use std::os::fd::AsFd;

use gofer::{
    Errno,
    passthrough::attr_of_open,
    protocol::{Attr, FileKind, SetAttr, SetTime, Timestamp},
};

use super::{Answer, Fs, Outcome, Request, gone, reply};
use crate::{
    abi::{self, AttrOut, GETATTR_FH, GetattrIn, Kstatfs, ROOT_ID, SetattrIn, fattr},
    trees::Tree,
};

impl Fs {
    pub(super) fn getattr(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        if id == ROOT_ID {
            return reply(&self.root_attr());
        }
        let arg: GetattrIn = request.arg()?;
        let known = self.inodes.lock().known(id)?;
        let open = match arg.getattr_flags & GETATTR_FH {
            0 => None,
            _ => self.handles.lock().file(arg.fh).ok(),
        };
        let attr = match (open, &known.node, &known.place) {
            (Some(open), _, _) => attr_of_open(open.fd.as_fd())?,
            (None, Some(node), _) => node.attr()?,
            (None, None, place) => {
                let by_name = place.as_ref().map_or(Err(Errno::ESTALE), |(dir, name)| self.node(*dir)?.attr_of(name));
                match by_name.map_err(gone) {
                    Ok(attr) if self.inodes.lock().is(id, &attr) => attr,
                    // Others took the name away. fstat(2) of a guest comes without a handle, but works as long as there is one.
                    Ok(_) | Err(Errno::ESTALE) => {
                        let fd = self.handles.lock().any_of(id).ok_or(Errno::ESTALE)?;
                        attr_of_open(fd.as_fd())?
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        self.attr_out(&known.tree, &attr)
    }

    fn attr_out(&self, tree: &Tree, attr: &Attr) -> Outcome {
        reply(&AttrOut { attr_valid: tree.validity().as_secs(), attr: self.fuse_attr(attr), ..AttrOut::default() })
    }

    pub(super) fn setattr(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        if id == ROOT_ID {
            return Err(Errno::EROFS);
        }
        let arg: SetattrIn = request.arg()?;
        let known = self.inodes.lock().known(id)?;
        let mut set = changes(&arg)?;
        let open = match arg.valid & fattr::FH {
            0 => None,
            _ => Some(self.handles.lock().file(arg.fh)?),
        };
        let node = self.node(id)?;
        // A file without a name can only be cut by its descriptor.
        if let (Some(open), Some(size)) = (open, set.size) {
            rustix::fs::ftruncate(&*open.fd, size)?;
            set.size = None;
        }
        let mut attr = node.set_attr(&set)?;
        if arg.valid & fattr::KILL_SUIDGID != 0
            && let Some(mode) = without_set_ids(&attr)
        {
            attr = node.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        }
        self.attr_out(&known.tree, &attr)
    }

    pub(super) fn readlink(&self, request: &Request<'_>) -> Outcome {
        if request.head.nodeid == ROOT_ID {
            return Err(Errno::EINVAL);
        }
        Ok(Answer::Bytes(self.node(request.head.nodeid)?.read_link()?))
    }

    pub(super) fn statfs(&self, request: &Request<'_>) -> Outcome {
        if request.head.nodeid == ROOT_ID {
            return self.root_statfs();
        }
        let stat = self.node(request.head.nodeid)?.statfs()?;
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        reply(&Kstatfs {
            blocks: stat.blocks,
            bfree: stat.blocks_free,
            bavail: stat.blocks_available,
            files: stat.files,
            ffree: stat.files_free,
            bsize: small(stat.block_size),
            namelen: small(stat.name_max),
            frsize: small(stat.fragment_size),
            ..abi::Kstatfs::default()
        })
    }
}

fn changes(arg: &SetattrIn) -> Result<SetAttr, Errno> {
    let has = |bit| arg.valid & bit != 0;
    let time = |bit, now, seconds: u64, nanoseconds| match (has(bit), has(now)) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(SetTime::Now)),
        (true, false) if nanoseconds < 1_000_000_000 => {
            Ok(Some(SetTime::At(Timestamp { seconds: seconds as i64, nanoseconds })))
        }
        (true, false) => Err(Errno::EINVAL),
    };
    Ok(SetAttr {
        uid: has(fattr::UID).then_some(arg.uid),
        gid: has(fattr::GID).then_some(arg.gid),
        mode: has(fattr::MODE).then_some(arg.mode & 0o7777),
        size: has(fattr::SIZE).then_some(arg.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, arg.atime, arg.atimensec)?,
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, arg.mtime, arg.mtimensec)?,
    })
}

/// The mode that a change by somebody without `CAP_FSETID` leaves, if it is another: `setattr_should_drop_suidgid` in Linux's `fs/attr.c`.
pub(super) fn without_set_ids(attr: &Attr) -> Option<u32> {
    if attr.kind != FileKind::Regular {
        return None;
    }
    let mut mode = attr.mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        mode &= !libc::S_ISGID;
    }
    (mode != attr.mode).then_some(mode)
}
