//! From a directory and a name to a node.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Export, Identity, Node, PathFd, Place, Share, attr};
use crate::{
    Errno,
    protocol::{Attr, FileKind, Name},
};

/// How often `openat2` is tried again when it cannot prove, because of renames elsewhere, that it stayed beneath.
const TRIES: usize = 16;

/// The one way anything is opened: a single component (or `.`) beneath a directory's descriptor, no links of any kind
/// followed, no waiting for FIFOs, no terminal acquired.
pub(super) fn beneath(dir: impl AsFd, name: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(&dir, name, flags, mode, resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EAGAIN)
}

/// The node of a directory's entry, whatever its kind, with its attributes.
pub(super) fn child(export: &Arc<Export>, dir: &Arc<PathFd>, name: &Name) -> Result<(Arc<Node>, Attr), Errno> {
    child_within(export.budget.take()?, export, dir, name)
}

/// The same, with room taken before: for what was just made, which would stay without a node if there were none.
pub(super) fn child_within(
    share: Share,
    export: &Arc<Export>,
    dir: &Arc<PathFd>,
    name: &Name,
) -> Result<(Arc<Node>, Attr), Errno> {
    let fd = beneath(&**dir, name.as_c_str(), OFlags::PATH, Mode::empty())?;
    let fd = PathFd { fd, _share: share };
    let attr = attr::of(&fd)?;
    let place = match attr.kind {
        FileKind::Directory => None,
        _ => Some(Place { dir: Arc::clone(dir), name: name.clone() }),
    };
    let node = Node {
        export: Arc::clone(export),
        fd: Arc::new(fd),
        kind: attr.kind,
        identity: Identity::of(&attr),
        place: Mutex::new(place),
    };
    Ok((Arc::new(node), attr))
}

impl Node {
    /// # Errors
    /// The host's; `ENOTDIR`; `ENFILE` without budget.
    pub fn lookup(&self, name: &Name) -> Result<(Arc<Node>, Attr), Errno> {
        child(&self.export, self.directory()?, name)
    }
}
