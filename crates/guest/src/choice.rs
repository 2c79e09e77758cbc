//! Which kernel VMs start with: the one that `nacre guest build` was told to use, which the cache remembers by a link, or the newest of /boot.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{GuestError, cache, io_error};

const LINK: &str = "kernel";

/// What was chosen, if anything.
///
/// # Errors
/// It has gone.
pub fn chosen(cache: &Path) -> Result<Option<PathBuf>, GuestError> {
    match fs::read_link(cache.join(LINK)) {
        Ok(path) if path.exists() => Ok(Some(path)),
        Ok(path) => Err(GuestError::ChosenGone(path)),
        Err(_) => Ok(None),
    }
}

/// Remembers a kernel.
///
/// # Errors
/// The host's.
pub fn choose(cache: &Path, kernel: &Path) -> Result<(), GuestError> {
    let kernel = fs::canonicalize(kernel).map_err(io_error("find", kernel))?;
    let link = cache.join(LINK);
    let new = cache::beside(&link, "new");
    let made = fs::create_dir_all(cache).and_then(|()| symlink(&kernel, &new)).and_then(|()| fs::rename(&new, &link));
    made.map_err(io_error("make", &link))
}

/// Forgets what was chosen.
///
/// # Errors
/// The host's.
pub fn forget(cache: &Path) -> Result<(), GuestError> {
    let link = cache.join(LINK);
    match fs::remove_file(&link) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_error("remove", &link)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_holds_until_it_is_forgotten_and_is_missed_when_it_has_gone() {
        let dir = cache::beside(&std::env::temp_dir().join("nacre-guest-choice"), "test");
        let kernel = dir.join("vmlinuz");
        fs::create_dir_all(&dir).expect("made");
        fs::write(&kernel, "").expect("written");
        let cache = dir.join("cache");
        let none = chosen(&cache).expect("nothing");
        choose(&cache, &kernel).expect("chosen");
        choose(&cache, &kernel).expect("again");
        let it = chosen(&cache).expect("there");
        fs::remove_file(&kernel).expect("removed");
        let gone = chosen(&cache).expect_err("gone").to_string();
        forget(&cache).expect("forgotten");
        forget(&cache).expect("twice");
        let nothing = chosen(&cache).expect("nothing");
        let expected = fs::canonicalize(&dir).map(|dir| dir.join("vmlinuz"));
        let _ = fs::remove_dir_all(&dir);
        assert_eq!((none, it, nothing), (None, expected.ok(), None));
        assert!(gone.contains("vmlinuz") && gone.contains("guest build"), "{gone}");
    }
}
