//! [`View`]: who walks the tree, and from where.

use std::sync::Arc;

use super::{FsContext, Path};
use crate::task::{Creds, Cx};
use crate::time::Clock;

/// What name resolution and changes of the tree need to know of the caller. Taken once for each system call.
#[derive(Clone)]
pub struct View {
    pub root: Path,
    pub cwd: Path,
    pub creds: Arc<Creds>,
    pub umask: u32,
    pub clock: Clock,
}

impl View {
    pub fn of(cx: &Cx) -> View {
        View::new(&cx.fs, cx.creds(), cx.kernel().clock.clone())
    }

    pub fn new(fs: &FsContext, creds: Arc<Creds>, clock: Clock) -> View {
        let (root, cwd, umask) = fs.snapshot();
        View { root, cwd, creds, umask, clock }
    }

    /// The kernel's own view of a tree: root with all capabilities, at the root.
    pub fn kernel(root: Path) -> View {
        View { cwd: root.clone(), root, creds: Arc::new(Creds::root()), umask: 0, clock: Clock::Host }
    }
}
