//! Removing what nothing refers to.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::{Record, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Place};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub images: usize,
    pub blobs: usize,
    pub roots: usize,
    pub bytes: u64,
}

/// Asked for each container's bundle: is the container still there?
pub type IsThere<'a> = &'a dyn Fn(&Path, &Record) -> bool;

impl Store {
    /// Removes an image by name or digest: with a digest all its names.
    ///
    /// # Errors
    /// There is none; a container uses it.
    pub fn remove_image(&self, wanted: &str, is_there: IsThere<'_>) -> Result<Collected> {
        let _alone = self.lock("users", FlockOperation::LockExclusive)?;
        let Some((name, image)) = self.find(wanted)? else { return Err(Error::NotInStore(wanted.into())) };
        let chain = image.chain_id().to_string();
        let digest = image.digest().to_string();
        let others = self
            .index()?
            .manifests()
            .iter()
            .any(|entry| entry.digest().to_string() == digest && super::index::name_of(entry) != Some(&name));
        let all = name != wanted;
        if !others || all {
            let user = self.used(is_there)?.into_iter().find(|record| record.chain_id == chain);
            if let Some(record) = user {
                return Err(Error::InUse { image: wanted.into(), container: record.id });
            }
        }
        self.change_index(|entries| {
            entries.retain(|entry| {
                if all { entry.digest().to_string() != digest } else { super::index::name_of(entry) != Some(&name) }
            });
        })?;
        let collected = self.collect(is_there)?;
        Ok(Collected { images: 1, ..collected })
    }

    /// Removes what no image and no container needs; with `all`, images that no container uses too.
    ///
    /// # Errors
    /// The host's.
    pub fn prune(&self, all: All, is_there: IsThere<'_>) -> Result<Collected> {
        let _alone = self.lock("users", FlockOperation::LockExclusive)?;
        let mut images = 0;
        if all == All::UnusedImages {
            let used: HashSet<String> = self.used(is_there)?.into_iter().map(|record| record.chain_id).collect();
            let source = self.source()?;
            self.change_index(|entries| {
                let before = entries.len();
                entries.retain(|entry| {
                    let image = image::digest_of("index.json", entry).and_then(|digest| source.image_of(digest));
                    image.is_ok_and(|image| used.contains(&image.chain_id().to_string()))
                });
                images = before - entries.len();
            })?;
        }
        let collected = self.collect(is_there)?;
        Ok(Collected { images, ..collected })
    }

    /// Containers that are there. Bundles of those that are gone are removed.
    fn used(&self, is_there: IsThere<'_>) -> Result<Vec<Record>> {
        let mut used = Vec::new();
        for dir in self.containers()? {
            match Store::record(&dir) {
                Some(record) if is_there(&dir, &record) => used.push(record),
                _ => {
                    let _ = fs::remove_dir_all(&dir);
                }
            }
        }
        Ok(used)
    }

    /// With the store to ourselves.
    fn collect(&self, is_there: IsThere<'_>) -> Result<Collected> {
        let mut collected = Collected::default();
        let mut blobs: HashSet<String> = HashSet::new();
        let mut roots: HashSet<String> = HashSet::new();
        for record in self.used(is_there)? {
            roots.extend(record.chain_id.parse::<Digest>().map(|digest| digest.hex()));
        }
        let source = self.source()?;
        for entry in self.index()?.manifests() {
            let Ok(digest) = image::digest_of("index.json", entry) else { continue };
            blobs.insert(digest.hex());
            // A damaged image keeps nothing: it cannot be used.
            let Ok(image) = source.image_of(digest) else { continue };
            roots.insert(image.chain_id().hex());
            blobs.insert(image.config_digest.hex());
            blobs.extend(image.layers.iter().filter_map(|layer| match layer.place {
                Place::Blob(digest) => Some(digest.hex()),
                Place::Member(_) => None,
            }));
        }
        for (name, path) in self.entries("blobs/sha256")? {
            if !blobs.contains(&name) {
                collected.bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                collected.blobs += 1;
                fs::remove_file(&path).map_err(Error::host(format!("cannot remove {}", path.display())))?;
            }
        }
        for (name, path) in self.entries("roots")? {
            if !roots.contains(&name) {
                collected.bytes += used_bytes(&path);
                collected.roots += 1;
                self.remove_tree("roots", &name)?;
            }
        }
        // Nobody uses the store, so nobody is making anything.
        for (name, _) in self.entries("tmp")? {
            self.remove_tree("tmp", &name)?;
        }
        Ok(collected)
    }

    fn entries(&self, dir: &str) -> Result<Vec<(String, std::path::PathBuf)>> {
        let dir = self.dir.join(dir);
        let entries = fs::read_dir(&dir).map_err(Error::host(format!("cannot read {}", dir.display())))?;
        Ok(entries.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect())
    }
}

/// What `prune` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum All {
    /// What no image needs.
    Unreferenced,
    /// And images that no container uses.
    UnusedImages,
}

/// Bytes on the disk below a directory; hard links count once.
pub(super) fn used_bytes(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut total = 0;
    let mut waiting = vec![path.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if seen.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}
