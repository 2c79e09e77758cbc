//! What is kept of images, by digest.
//!
//! `STORE/` is an OCI layout (`oci-layout`, `index.json`, `blobs/sha256/`), so other tools can read it, and beside it
//! - `roots/CHAIN/rootfs`: layers unpacked, shared read-only by every container of that chain id; `rootfs.erofs`, the same as one image;
//! - `containers/NAME/`: bundles of containers made from images;
//! - `tmp/`: what is being made, each under a lock of its own.
//!
//! Locking (flock, so a process that dies holds none): `lock` while the index is changed; `users` shared by whoever is using or adding something that
//! nothing refers to yet, exclusively by who removes; `tmp/X.lock` or the part itself by who makes X. They are taken in the order users, tmp, lock. Files
//! appear by rename after fsync: what has its name is whole.

mod containers;
mod gc;
mod index;
mod mapped;
mod parts;
mod roots;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

pub use self::containers::{Container, Record};
pub use self::gc::{All, Collected};
pub use self::index::Listed;
pub use self::parts::Part;
pub use self::roots::{Root, may_give_files_away};
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::{Files, Source};

/// A store of images.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// Held while something of the store is used; nothing is removed meanwhile.
#[derive(Debug)]
pub struct Use {
    _lock: File,
}

impl Store {
    /// Opens the store in a directory, making it if it is not there.
    ///
    /// # Errors
    /// The host's.
    pub fn open(dir: &Path) -> Result<Store> {
        let store = Store { dir: dir.into() };
        let cannot = || format!("cannot make the image store {}", dir.display());
        for name in ["blobs/sha256", "roots", "containers", "tmp"] {
            // Setuid programs of images are for nobody else on this host.
            DirBuilder::new().recursive(true).mode(0o700).create(dir.join(name)).map_err(Error::host(cannot()))?;
        }
        let layout = dir.join("oci-layout");
        if !layout.exists() {
            store.write(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(store)
    }

    /// The default place: for root with other state that outlives a boot, for others with their data.
    pub fn default_dir() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/nacre/images".into();
        }
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
        data.unwrap_or_else(|| std::env::temp_dir().join(format!("nacre-{}", rustix::process::geteuid().as_raw())))
            .join("nacre/images")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps everything in the store until the answer is dropped.
    ///
    /// # Errors
    /// The host's.
    pub fn hold(&self) -> Result<Use> {
        Ok(Use { _lock: self.lock("users", FlockOperation::LockShared)? })
    }

    /// The store as a source of its images.
    ///
    /// # Errors
    /// The host's.
    pub fn source(&self) -> Result<Source> {
        Ok(Source::layout(Files::open(&self.dir)?))
    }

    /// A blob that is there.
    ///
    /// # Errors
    /// It is not.
    pub fn blob(&self, digest: Digest) -> Result<Blob> {
        self.source()?.blob(digest)
    }

    pub fn has_blob(&self, digest: Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Adds a small blob.
    ///
    /// # Errors
    /// The host's.
    pub fn add_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(digest) {
            self.write(&self.blob_path(digest), bytes)?;
        }
        Ok(digest)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn tmp(&self, name: &str) -> PathBuf {
        self.dir.join("tmp").join(name)
    }

    /// A lock, waited for.
    fn lock(&self, name: &str, how: FlockOperation) -> Result<File> {
        let path = self.dir.join(name);
        let file = open_lock(&path)?;
        loop {
            match rustix::fs::flock(file.as_fd(), how) {
                Err(rustix::io::Errno::INTR) => {}
                locked => {
                    locked.map_err(|e| Error::host(format!("cannot lock {}", path.display()))(e.into()))?;
                    return Ok(file);
                }
            }
        }
    }

    /// Writes a file beside its place, to the disk, and renames it there.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let cannot = || format!("cannot write {}", path.display());
        let beside = self.tmp(&format!("write-{}-{}", std::process::id(), rand()));
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written.map_err(Error::host(cannot()))
    }
}

fn open_lock(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    opened.map_err(Error::host(format!("cannot open {}", path.display())))
}

/// A number that no other thread or process has now.
fn rand() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}

fn missing<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
