//! [`Mount`]: a file system attached to the tree.

use std::sync::Arc;

use super::FileSystem;

/// A mounted file system (or a part of one).
pub struct Mount {
    pub fs: Arc<dyn FileSystem>,
}
