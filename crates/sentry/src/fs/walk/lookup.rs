//! A name in a directory: from the cache, or from the file system.

use std::sync::Arc;

use super::NAME_MAX;
use crate::Errno;
use crate::fs::dentry::Cached;
use crate::fs::dentry::Seen;
use crate::fs::{Dentry, Inode};
use crate::step::Step;

type Found = Result<Option<Arc<Dentry>>, Errno>;

/// What the cache knows of a name.
pub(super) fn known(dir: &Arc<Dentry>, name: &[u8]) -> Result<Cached, Errno> {
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(dir.cached(name))
}

/// Looks up a name that the cache does not know, if that needs no waiting; a step that waits must not be awaited, but asked for by [`lookup`].
pub(super) fn try_ask(dir: &Arc<Dentry>, name: &[u8]) -> Step<'static, Found> {
    let seen = dir.changes();
    match dir.inode().lookup(name) {
        Step::Ready(result) => Step::Ready(learn(dir, name, result, seen)),
        Step::Wait(_) => Step::wait(async { Err(Errno::EIO) }),
    }
}

/// Looks a name up.
pub(in crate::fs) async fn lookup(dir: &Arc<Dentry>, name: &[u8]) -> Found {
    match known(dir, name)? {
        Cached::Found(child) => return Ok(Some(child)),
        Cached::Absent => return Ok(None),
        Cached::Unknown => {}
    }
    match try_ask(dir, name) {
        Step::Ready(found) => found,
        Step::Wait(_) => ask(dir, name).await,
    }
}

async fn ask(dir: &Arc<Dentry>, name: &[u8]) -> Found {
    let seen = dir.changes();
    let result = dir.inode().lookup(name).await;
    learn(dir, name, result, seen)
}

/// Looks up the first name, and learns those after it by the way, where the file system can do that.
pub(super) async fn lookup_ahead(dir: &Arc<Dentry>, names: &[&[u8]]) -> Found {
    let Some(first) = names.first() else { return Err(Errno::ENOENT) };
    let seen = dir.changes();
    let found = match dir.inode().lookup_path(names) {
        Some(step) if names.len() > 1 => step.await?,
        _ => return ask(dir, first).await,
    };
    let mut inodes = found.inodes.into_iter();
    let mut at = match (inodes.next(), found.error) {
        (Some(inode), _) => dir.learn(first, Some(inode), seen),
        (None, Some(Errno::ENOENT)) => dir.learn(first, None, seen),
        (None, Some(errno)) => return Err(errno),
        (None, None) => return Err(Errno::EIO),
    };
    let child = at.clone();
    let mut rest = names.get(1..).unwrap_or_default().iter();
    for (name, inode) in rest.by_ref().zip(inodes) {
        let Some(parent) = at else { break };
        let seen = seen.of(&parent);
        at = parent.learn(name, Some(inode), seen);
    }
    Ok(child)
}

fn learn(dir: &Arc<Dentry>, name: &[u8], result: Result<Arc<dyn Inode>, Errno>, seen: Seen) -> Found {
    match result {
        Ok(inode) => Ok(dir.learn(name, Some(inode), seen)),
        Err(Errno::ENOENT) => Ok(dir.learn(name, None, seen)),
        Err(errno) => Err(errno),
    }
}
