//! The names of the store's images: its `index.json`.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use rustix::fs::FlockOperation;
use serde_json::json;

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Image, MOST_DOCUMENT, Place};
use crate::progress::{Progress, Step, Update};
use crate::source::Source;

const NAME: &str = "org.opencontainers.image.ref.name";

/// An image of the store, as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: String,
    pub manifest: Digest,
    /// Bytes of its layers as stored. None if it is damaged.
    pub size: Option<u64>,
    /// When it was built, as it says.
    pub created: Option<String>,
}

impl Store {
    pub(super) fn index(&self) -> Result<ImageIndex> {
        let path = self.dir.join("index.json");
        match super::missing(std::fs::read(&path)).map_err(Error::host(format!("cannot read {}", path.display())))? {
            Some(bytes) => image::parse(&path.display().to_string(), &bytes),
            None => image::parse(
                "index",
                br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
            ),
        }
    }

    /// Changes the list of images, alone.
    pub(super) fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<()> {
        let _lock = self.lock("lock", FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let mut entries = index.manifests().clone();
        change(&mut entries);
        if entries == *index.manifests() {
            return Ok(());
        }
        index.set_manifests(entries);
        let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::malformed("index.json", e))?;
        self.write(&self.dir.join("index.json"), &text)
    }

    /// Gives an image a name, taking it from whichever had it.
    ///
    /// # Errors
    /// The host's.
    pub fn set_name(&self, name: &str, manifest: Digest, size: u64) -> Result<()> {
        let digest: oci_spec::image::Digest = manifest.to_string().parse().map_err(|e| Error::malformed(name, e))?;
        let mut entry = Descriptor::new(MediaType::ImageManifest, size, digest);
        entry.set_annotations(Some(HashMap::from([(NAME.to_string(), name.to_string())])));
        self.change_index(|entries| {
            entries.retain(|entry| name_of(entry) != Some(name));
            entries.push(entry);
        })
    }

    /// The image of that name, or of that digest or the beginning of it. None if there is none.
    ///
    /// # Errors
    /// The store is damaged; several begin so.
    pub fn find(&self, wanted: &str) -> Result<Option<(String, Image)>> {
        let index = self.index()?;
        let place = self.dir.display().to_string();
        let by_name = index.manifests().iter().find(|entry| name_of(entry) == Some(wanted));
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let mut by_digest: Vec<_> = Vec::new();
        if by_name.is_none() && hex.len() >= 6 {
            by_digest = index.manifests().iter().filter(|entry| entry.digest().digest().starts_with(hex)).collect();
            by_digest.dedup_by_key(|entry| entry.digest().clone());
        }
        let entry = match (by_name, &*by_digest) {
            (Some(entry), _) => entry,
            (None, [only]) => *only,
            (None, []) => return Ok(None),
            (None, several) => {
                let available = several.iter().map(|entry| entry.digest().to_string()).collect::<Vec<_>>().join(", ");
                return Err(Error::SeveralImages { place, available });
            }
        };
        let image = self.source()?.image_of(image::digest_of(&place, entry)?)?;
        Ok(Some((name_of(entry).unwrap_or_default().to_string(), image)))
    }

    /// All images, by name.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let index = self.index()?;
        let source = self.source()?;
        let mut all = Vec::new();
        for entry in index.manifests() {
            let Ok(manifest) = image::digest_of("index.json", entry) else { continue };
            let image = source.image_of(manifest).ok();
            all.push(Listed {
                name: name_of(entry).unwrap_or("<none>").to_string(),
                manifest,
                size: image.as_ref().map(|image| image.layers.iter().map(|layer| layer.size).sum()),
                created: image.and_then(|image| image.config.created().clone()),
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Copies an image of this machine's files into the store, under a name.
    ///
    /// # Errors
    /// It is damaged; the host's.
    pub fn import(&self, source: &Source, image: &Image, name: &str, progress: &dyn Progress) -> Result<Image> {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let blob = source.layer(layer)?;
            let shown = layer.name();
            let update = |done| progress.update(Update { layer: &shown, step: Step::Pulling, done, total: layer.size });
            // docker's archives hold layers unpacked: their digests are the diff ids.
            let digest = match layer.place {
                Place::Blob(digest) => digest,
                Place::Member(_) => layer.diff_id,
            };
            self.copy_blob(&blob, digest, &mut |done| {
                if done < layer.size {
                    update(done);
                }
            })?;
            update(layer.size);
            layers.push((digest, layer.size));
        }
        self.add_blob(&image.config_bytes)?;
        let manifest = match image.manifest.filter(|_| source.is_layout()) {
            Some(digest) => source.blob(digest)?.read("manifest", MOST_DOCUMENT)?,
            None => {
                let layer = |(digest, size): &(Digest, u64)| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": size});
                let manifest = json!({
                    "schemaVersion": 2,
                    "mediaType": image::OCI_MANIFEST,
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image.config_digest.to_string(), "size": image.config_bytes.len()},
                    "layers": layers.iter().map(layer).collect::<Vec<_>>(),
                });
                manifest.to_string().into_bytes()
            }
        };
        let digest = self.add_blob(&manifest)?;
        self.set_name(name, digest, manifest.len() as u64)?;
        self.source()?.image_of(digest)
    }
}

pub(super) fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations().as_ref()?.get(NAME).map(String::as_str)
}
