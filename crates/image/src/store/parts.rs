//! A blob on its way into the store.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::Store;
use crate::blob::Blob;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// The beginning of a blob, locked, in `tmp/`. It stays there when its maker dies, for the next to go on with.
pub struct Part {
    digest: Digest,
    file: File,
    hasher: Hasher,
    path: PathBuf,
    to: PathBuf,
}

impl Store {
    /// What there is of a blob that is not whole yet. None while another process has it.
    ///
    /// # Errors
    /// The host's.
    pub fn part(&self, digest: Digest) -> Result<Option<Part>> {
        let path = self.tmp(&format!("{}.part", digest.hex()));
        let cannot = || format!("cannot open {}", path.display());
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let mut file = file.map_err(Error::host(cannot()))?;
        match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return Ok(None),
            locked => locked.map_err(|e| Error::host(cannot())(e.into()))?,
        }
        // Another process may have finished it, or given it up, and this file has its name no more.
        let same = fs::metadata(&path).and_then(|there| {
            Ok((there.dev(), there.ino()) == {
                let ours = file.metadata()?;
                (ours.dev(), ours.ino())
            })
        });
        if !same.unwrap_or(false) {
            return Ok(None);
        }
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).map_err(Error::host(cannot()))? {
                0 => break,
                count => hasher.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        Ok(Some(Part { digest, file, hasher, path, to: self.blob_path(digest) }))
    }

    /// Copies a blob of another source.
    ///
    /// # Errors
    /// It is not what its digest says; the host's.
    pub fn copy_blob(&self, blob: &Blob, digest: Digest, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut part = loop {
            if self.has_blob(digest) {
                return Ok(());
            }
            match self.part(digest)? {
                Some(part) => break part,
                None => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        };
        if self.has_blob(digest) {
            return Ok(());
        }
        part.restart()?;
        let cannot = || format!("cannot read blob {}", digest.short());
        let mut reader = blob.reader().map_err(Error::host(cannot()))?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer).map_err(Error::host(cannot()))? {
                0 => break,
                count => part.write(buffer.get(..count).unwrap_or_default())?,
            }
            progress(part.length());
        }
        part.finish()
    }
}

impl Part {
    /// Bytes there are.
    pub fn length(&self) -> u64 {
        self.hasher.count()
    }

    /// # Errors
    /// The host's.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::host(format!("cannot write {}", self.path.display())))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Forgets what there is.
    ///
    /// # Errors
    /// The host's.
    pub fn restart(&mut self) -> Result<()> {
        self.hasher = Hasher::default();
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(drop).map_err(Error::host(format!("cannot write {}", self.path.display())))
    }

    /// All there: it becomes a blob.
    ///
    /// # Errors
    /// It is not what its digest says (and is thrown away); the host's.
    pub fn finish(mut self) -> Result<()> {
        let actual = self.hasher.clone().finish();
        if actual != self.digest {
            let expected = self.digest;
            self.restart()?;
            let _ = fs::remove_file(&self.path);
            return Err(Error::Digest { what: format!("blob {}", expected.short()), expected, actual });
        }
        let kept = self.file.sync_all().and_then(|()| fs::rename(&self.path, &self.to));
        kept.map_err(Error::host(format!("cannot keep {}", self.to.display())))
    }
}
