//! One undoes a record at a time, and nobody while it is made. Another file than the record is locked, since that is replaced as it changes; it is there while
//! somebody has it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::directory;
use crate::error::{Doing, Result};

/// The right to make and to undo the network of a sandbox.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// # Errors
    /// The host's.
    pub fn wait(root: &Path, id: &str) -> Result<Lock> {
        loop {
            if let Some(lock) = Lock::by(root, id, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// None: another has it.
    ///
    /// # Errors
    /// The host's.
    pub fn at_once(root: &Path, id: &str) -> Result<Option<Lock>> {
        Lock::by(root, id, FlockOperation::NonBlockingLockExclusive)
    }

    /// None: another has it, or had it and took the file away.
    fn by(root: &Path, id: &str, how: FlockOperation) -> Result<Option<Lock>> {
        let dir = directory(root);
        fs::create_dir_all(&dir).doing(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{id}.lock"));
        let about = || format!("cannot lock {}", path.display());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).doing(about)?;
        loop {
            match flock(&file, how) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).doing(about),
            }
        }
        let own = file.metadata().doing(about)?;
        let same = fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()));
        Ok(same.then_some(Lock { path, _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked: who waits for it sees that it is gone, and makes another.
        let _ = fs::remove_file(&self.path);
    }
}
