//! Containers made from images: their bundles, which say what they use.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Root, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What a container uses, for whoever removes images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    /// The state root it is known in.
    pub state_root: PathBuf,
    /// As the person said it.
    pub image: String,
    pub chain_id: String,
    pub config: String,
}

/// A container's directory in the store: an OCI bundle beside a root that is shared.
#[derive(Debug)]
pub struct Container {
    pub dir: PathBuf,
}

impl Store {
    /// A place for a bundle, which is not made yet.
    pub fn bundle_path(&self, id: &str) -> PathBuf {
        self.dir.join("containers").join(format!("{id}-{:016x}", super::rand()))
    }

    /// Makes a bundle of these files, which everyone in the container may read.
    ///
    /// # Errors
    /// The host's.
    pub fn add_container(&self, dir: PathBuf, record: &Record, files: &[(&str, Vec<u8>)]) -> Result<Container> {
        let cannot = || format!("cannot make {}", dir.display());
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(Error::host(cannot()))?;
        let container = Container { dir };
        let text = serde_json::to_vec_pretty(record).map_err(|e| Error::malformed("record", e))?;
        let mut written = self.write(&container.dir.join("record.json"), &text);
        for (name, bytes) in files {
            let path = container.dir.join(name);
            written = written.and_then(|()| self.write(&path, bytes)).and_then(|()| {
                let readable = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
                readable.map_err(Error::host(format!("cannot make {} readable", path.display())))
            });
        }
        if written.is_err() {
            container.remove();
        }
        written.map(|()| container)
    }

    /// The record of a bundle, if it is one of this kind.
    pub fn record(bundle: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(bundle.join("record.json")).ok()?).ok()
    }

    /// All containers' directories.
    pub(super) fn containers(&self) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join("containers");
        let entries = fs::read_dir(&dir).map_err(Error::host(format!("cannot read {}", dir.display())))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    }
}

impl Record {
    pub fn new(id: &str, state_root: &Path, image: &str, root: &Root, config: Digest) -> Record {
        Record {
            id: id.into(),
            state_root: state_root.into(),
            image: image.into(),
            chain_id: root.chain_id.to_string(),
            config: config.to_string(),
        }
    }
}

impl Container {
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
