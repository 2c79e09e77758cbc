//! Random bytes from the host.

use crate::Errno;
use crate::tally::{self, Counted};

/// Fills `into` with random bytes.
///
/// # Errors
/// The host's (none in practice once the host has booted).
pub fn fill(into: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        tally::count(Counted::Getrandom);
        done += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}
