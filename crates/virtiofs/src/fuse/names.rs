//! Names: finding, removing, renaming.

use std::sync::Arc;

use gofer::{
    Errno,
    passthrough::Node,
    protocol::{Attr, EntryKind, Name, RenameKind},
};

use super::{Fs, Outcome, Request, c_string, done, is_exclusive, name, reply};
use crate::{
    abi::{EntryOut, ROOT_ID, Rename2In, RenameIn, op},
    inodes::Place,
    trees::Tree,
};

impl Fs {
    pub(super) fn lookup(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        if id == ROOT_ID {
            return self.root_lookup(c_string(request.body)?.0);
        }
        let (name, _) = name(request.body)?;
        let (dir, tree) = self.directory(id)?;
        match dir.attr_of(&name) {
            Ok(attr) => reply(&self.entry(&tree, Some(Place { dir: id, node: &dir, name: &name }), &attr, None)?),
            // That there is no such name may be remembered too.
            Err(Errno::ENOENT) if is_exclusive(&tree) => {
                reply(&EntryOut { entry_valid: tree.validity().as_secs(), ..EntryOut::default() })
            }
            Err(e) => Err(e),
        }
    }

    /// UNLINK and RMDIR.
    pub(super) fn unlink(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        let (name, _) = name(request.body)?;
        let (dir, tree) = self.directory(id)?;
        let kind = if request.head.opcode == op::RMDIR { EntryKind::Directory } else { EntryKind::NotDirectory };
        let held = self.hold(&dir, &tree, &name);
        dir.unlink(&name, kind)?;
        if let Some(held) = held {
            self.inodes.lock().unlinked(held.inode, id, &name, &held.attr);
        }
        done()
    }

    /// RENAME and RENAME2.
    pub(super) fn rename(&self, request: &Request<'_>) -> Outcome {
        let (new_id, flags, rest) = match request.head.opcode {
            op::RENAME => request.arg_and_rest::<RenameIn>().map(|(arg, rest)| (arg.newdir, 0, rest))?,
            _ => request.arg_and_rest::<Rename2In>().map(|(arg, rest)| (arg.newdir, arg.flags, rest))?,
        };
        let kind = match flags {
            0 => RenameKind::Replace,
            libc::RENAME_NOREPLACE => RenameKind::NoReplace,
            libc::RENAME_EXCHANGE => RenameKind::Exchange,
            libc::RENAME_WHITEOUT => RenameKind::Whiteout,
            _ => return Err(Errno::EINVAL),
        };
        let id = request.head.nodeid;
        let (old_name, rest) = name(rest)?;
        let (new_name, _) = name(rest)?;
        let ((dir, tree), (new_dir, new_tree)) = (self.directory(id)?, self.directory(new_id)?);
        let moved = dir.attr_of(&old_name).ok().and_then(|attr| self.inodes.lock().find(&tree, &attr));
        let displaced = self.hold(&new_dir, &new_tree, &new_name);
        dir.rename(&old_name, &new_dir, &new_name, kind)?;
        let mut inodes = self.inodes.lock();
        match displaced {
            // Two names of one file: rename(2) does nothing.
            Some(held) if Some(held.inode) == moved => return done(),
            Some(held) if kind == RenameKind::Exchange => {
                inodes.moved(held.inode, Place { dir: id, node: &dir, name: &old_name });
            }
            Some(held) => inodes.unlinked(held.inode, new_id, &new_name, &held.attr),
            None => {}
        }
        if let Some(moved) = moved {
            inodes.moved(moved, Place { dir: new_id, node: &new_dir, name: &new_name });
        }
        done()
    }

    /// Makes sure that the inode which is about to lose this name has a node, as nothing may lead to it afterwards. Without success the
    /// name is lost all the same, and the inode stale.
    fn hold(&self, dir: &Node, tree: &Arc<Tree>, name: &Name) -> Option<Held> {
        let attr = dir.attr_of(name).ok()?;
        let inode = self.inodes.lock().find(tree, &attr)?;
        let (node, attr) = self.with_room(|| dir.lookup(name)).ok()?;
        let mut inodes = self.inodes.lock();
        if !inodes.is(inode, &attr) {
            return None;
        }
        inodes.keep(inode, &node);
        Some(Held { inode, attr, _node: node })
    }
}

/// An inode that loses a name, with a node that is not dropped meanwhile.
struct Held {
    inode: u64,
    attr: Attr,
    _node: Arc<Node>,
}
