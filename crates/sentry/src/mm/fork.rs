//! Fork: sharing all pages, copy on write.

use std::sync::Arc;

use super::Mm;
use crate::Errno;

impl Mm {
    /// A copy of this address space. `sp` is the forking thread's stack pointer: its page is copied at once.
    ///
    /// # Errors
    /// `ENOMEM`, `EAGAIN`.
    pub fn fork(&self, _sp: u64) -> Result<Arc<Mm>, Errno> {
        Err(Errno::ENOMEM)
    }
}
