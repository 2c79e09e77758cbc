//! An image: its configuration and its layers, wherever they are.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Most bytes of an index or manifest (what registries allow), and of a configuration.
pub const MOST_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image. Engines stop at 127.
const MOST_LAYERS: usize = 512;

/// Media types of docker's that mean the same as OCI's.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an image is made of. The configuration has been checked against its digest.
#[derive(Debug, Clone)]
pub struct Image {
    /// None in docker's archives.
    pub manifest: Option<Digest>,
    pub config_digest: Digest,
    /// As it came: its digest is of these bytes.
    pub config_bytes: Vec<u8>,
    pub config: ImageConfiguration,
    /// From the bottom up.
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub place: Place,
    /// Bytes as stored.
    pub size: u64,
    /// Of the unpacked archive.
    pub diff_id: Digest,
}

/// Where a layer is in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Blob(Digest),
    /// A member of a docker-archive.
    Member(String),
}

impl Layer {
    /// For people.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Blob(digest) => digest.short(),
            Place::Member(_) => self.diff_id.short(),
        }
    }
}

impl Image {
    /// Puts the parts together.
    ///
    /// # Errors
    /// They do not fit each other, or this machine.
    pub fn new(place: &str, manifest: Option<Digest>, config_bytes: &[u8], layers: Vec<(Place, u64)>) -> Result<Image> {
        let config: ImageConfiguration = parse(&format!("{place}: configuration"), config_bytes)?;
        if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
            return Err(Error::Platform {
                place: place.into(),
                available: format!("{}/{}", config.os(), config.architecture()),
            });
        }
        let diff_ids = config.rootfs().diff_ids();
        if layers.len() != diff_ids.len() || layers.len() > MOST_LAYERS {
            let problem =
                format!("{} layers, and {} digests of unpacked layers (at most {MOST_LAYERS})", layers.len(), diff_ids.len());
            return Err(Error::malformed(place, problem));
        }
        let layer = |((place_of, size), diff_id): ((Place, u64), &String)| -> Result<Layer> {
            let diff_id = diff_id.parse().map_err(|e| Error::malformed(format!("{place}: rootfs.diff_ids"), e))?;
            Ok(Layer { place: place_of, size, diff_id })
        };
        let layers = layers.into_iter().zip(diff_ids).map(layer).collect::<Result<_>>()?;
        Ok(Image { manifest, config_digest: Digest::of(config_bytes), config_bytes: config_bytes.to_vec(), config, layers })
    }

    /// OCI's name of the whole stack of layers: what was unpacked for it serves every image with the same stack.
    pub fn chain_id(&self) -> Digest {
        let mut chain: Option<Digest> = None;
        for layer in &self.layers {
            chain = Some(match chain {
                None => layer.diff_id,
                Some(below) => Digest::of(format!("{below} {}", layer.diff_id).as_bytes()),
            });
        }
        // An image without layers is an empty root.
        chain.unwrap_or_else(|| Digest::of(b""))
    }

    /// What names it best.
    pub fn digest(&self) -> Digest {
        self.manifest.unwrap_or(self.config_digest)
    }
}

/// Reads a document, naming the place in errors.
///
/// # Errors
/// It is no JSON of that kind.
pub fn parse<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(place, e))
}

/// A manifest, and its configuration's and layers' digests.
///
/// # Errors
/// It is malformed, or no image.
pub fn manifest(place: &str, bytes: &[u8]) -> Result<(ImageManifest, Digest, Vec<(Place, u64)>)> {
    let manifest: ImageManifest = parse(&format!("{place}: manifest"), bytes)?;
    if manifest.schema_version() != 2 {
        return Err(Error::Unsupported { place: place.into(), what: format!("manifest schema {}", manifest.schema_version()) });
    }
    let is_config = matches!(manifest.config().media_type(), MediaType::ImageConfig)
        || manifest.config().media_type().to_string() == "application/vnd.docker.container.image.v1+json";
    if !is_config {
        return Err(Error::Unsupported {
            place: place.into(),
            what: format!("an artifact of type {}", manifest.config().media_type()),
        });
    }
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        let kind = layer.media_type().to_string();
        let tar =
            kind.starts_with("application/vnd.oci.image.layer.") || kind.starts_with("application/vnd.docker.image.rootfs.");
        if !tar || kind.contains("encrypted") {
            return Err(Error::Unsupported { place: place.into(), what: format!("a layer of type {kind}") });
        }
        layers.push((Place::Blob(digest_of(place, layer)?), layer.size()));
    }
    let config = digest_of(place, manifest.config())?;
    Ok((manifest, config, layers))
}

/// A descriptor's digest, which must be one we can check.
///
/// # Errors
/// It is of another algorithm.
pub fn digest_of(place: &str, descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().to_string().parse().map_err(|e| Error::malformed(place, e))
}

/// Whether a descriptor is an index, not a manifest.
pub fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type(), MediaType::ImageIndex) || descriptor.media_type().to_string() == DOCKER_INDEX
}

/// The entry of an index that is for this machine.
///
/// # Errors
/// There is none; the error lists the platforms there are.
pub fn for_this_machine<'a>(place: &str, index: &'a ImageIndex) -> Result<&'a Descriptor> {
    choose(place, index.manifests())
}

pub(crate) fn choose<'a>(place: &str, entries: &'a [Descriptor]) -> Result<&'a Descriptor> {
    let attestation = |entry: &&Descriptor| {
        let kind = entry.annotations().as_ref().and_then(|all| all.get("vnd.docker.reference.type"));
        kind.is_none_or(|kind| kind != "attestation-manifest")
    };
    let images: Vec<_> = entries.iter().filter(attestation).collect();
    let fits = |entry: &&&Descriptor| match entry.platform() {
        Some(platform) => *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64,
        None => false,
    };
    // The base level of x86-64 before those that ask for more of the CPU.
    let level = |entry: &&&Descriptor| entry.platform().as_ref().and_then(|p| p.variant().clone()).unwrap_or_default();
    if let Some(found) = images.iter().filter(fits).min_by_key(level) {
        return Ok(*found);
    }
    // Without a platform, the image's configuration tells.
    if let [only] = &*images
        && only.platform().is_none()
    {
        return Ok(*only);
    }
    let mut names: Vec<_> = images
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        .map(|p| format!("{}/{}", p.os(), p.architecture()))
        .collect();
    names.sort();
    names.dedup();
    let available = if names.is_empty() { "no platform".into() } else { names.join(", ") };
    Err(Error::Platform { place: place.into(), available })
}
