//! [`LinkInode`]: a symbolic link whose text depends on who reads it.

use std::any::Any;
use std::sync::Arc;

use super::Identity;
use crate::Errno;
use crate::fs::{FileKind, FileOps, Inode, Link, Metadata, OpenFlags, Timestamp};
use crate::step::Step;
use crate::task::Cx;

type Follow = dyn Fn(&Cx) -> Result<Link, Errno> + Send + Sync;

/// A made-up symbolic link.
pub struct LinkInode {
    identity: Identity,
    follow: Box<Follow>,
}

impl LinkInode {
    pub fn make(identity: Identity, follow: impl Fn(&Cx) -> Result<Link, Errno> + Send + Sync + 'static) -> Arc<dyn Inode> {
        Arc::new(LinkInode { identity, follow: Box::new(follow) })
    }

    /// A link that is the same for everyone.
    pub fn text(identity: Identity, text: &'static str) -> Arc<dyn Inode> {
        LinkInode::make(identity, move |_| Ok(Link::Text(text.into())))
    }
}

impl Inode for LinkInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Symlink, Timestamp::default()))
    }

    fn read_link<'a>(&'a self, cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        Step::Ready((self.follow)(cx))
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::err(Errno::ELOOP)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
