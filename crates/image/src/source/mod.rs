//! Where images come from: a directory or an archive on this machine ([`Source`]), or a registry ([`registry`]).

mod auth;
mod docker;
mod files;
mod oci;
mod reference;
pub mod registry;

use std::path::Path;

pub use self::files::Files;
pub use self::reference::Wanted;
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Image, Layer, Place};

/// Images on this machine.
#[derive(Debug)]
pub struct Source {
    files: Files,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A layout, as a directory or as an archive.
    Oci,
    /// What `docker save` writes.
    Docker,
}

impl Source {
    /// Finds out what is at a path.
    ///
    /// # Errors
    /// Nothing we know, or it cannot be read.
    pub fn open(path: &Path) -> Result<Source> {
        let files = Files::open(path)?;
        // Newer docker writes both; the layout says more.
        let format = if files.get("oci-layout")?.is_some() && files.get("index.json")?.is_some() {
            Format::Oci
        } else if files.get("manifest.json")?.is_some() {
            Format::Docker
        } else {
            return Err(Error::NotAnImage(path.display().to_string()));
        };
        Ok(Source { files, format })
    }

    /// Over files that are a layout (the store's).
    pub(crate) fn layout(files: Files) -> Source {
        Source { files, format: Format::Oci }
    }

    /// The image of that name or digest; without one, the only image there is.
    ///
    /// # Errors
    /// There is none, or there are several; it is damaged, or for another machine.
    pub fn image(&self, wanted: Option<&str>) -> Result<Image> {
        match self.format {
            Format::Oci => oci::image(&self.files, wanted),
            Format::Docker => docker::image(&self.files, wanted),
        }
    }

    /// The image with this manifest.
    ///
    /// # Errors
    /// As [`Source::image`].
    pub(crate) fn image_of(&self, manifest: Digest) -> Result<Image> {
        oci::image_of(&self.files, manifest)
    }

    /// A layer's bytes, which the reader must check.
    ///
    /// # Errors
    /// It is not there, or has another size.
    pub fn layer(&self, layer: &Layer) -> Result<Blob> {
        let blob = match &layer.place {
            Place::Blob(digest) => oci::blob(&self.files, *digest)?,
            Place::Member(name) => docker::member(&self.files, name)?,
        };
        if blob.length != layer.size {
            return Err(Error::Size { what: format!("layer {}", layer.name()), expected: layer.size, actual: blob.length });
        }
        Ok(blob)
    }

    /// Any blob of a layout.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn blob(&self, digest: Digest) -> Result<Blob> {
        oci::blob(&self.files, digest)
    }

    pub(crate) fn is_layout(&self) -> bool {
        self.format == Format::Oci
    }
}

/// One of several images of a source.
pub(crate) struct Candidate {
    pub names: Vec<String>,
    pub digest: Digest,
}

/// The index of the image wanted.
pub(crate) fn select(place: &str, candidates: &[Candidate], wanted: Option<&str>) -> Result<usize> {
    let shown = || {
        let one = |candidate: &Candidate| match candidate.names.first() {
            Some(name) => format!("{name} ({})", candidate.digest.short()),
            None => candidate.digest.to_string(),
        };
        let list: Vec<_> = candidates.iter().take(100).map(one).collect();
        if list.is_empty() { "none".into() } else { list.join(", ") }
    };
    let Some(wanted) = wanted else {
        return match candidates {
            [_] => Ok(0),
            [] => Err(Error::malformed(place, "it has no image")),
            _ => Err(Error::SeveralImages { place: place.into(), available: shown() }),
        };
    };
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let by_name = |candidate: &Candidate| candidate.names.iter().any(|name| name == wanted);
    let by_digest = |candidate: &Candidate| hex.len() >= 6 && candidate.digest.hex().starts_with(hex);
    let by_tag =
        |candidate: &Candidate| candidate.names.iter().any(|name| name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted));
    // The better way to name it first; a way that fits several names none.
    for way in [&by_name as &dyn Fn(&Candidate) -> bool, &by_digest, &by_tag] {
        let mut found = (0..candidates.len()).filter(|index| candidates.get(*index).is_some_and(way));
        match (found.next(), found.next()) {
            (Some(index), None) => return Ok(index),
            (Some(_), Some(_)) => return Err(Error::SeveralImages { place: place.into(), available: shown() }),
            (None, _) => {}
        }
    }
    Err(Error::NoSuchImage { place: place.into(), wanted: wanted.into(), available: shown() })
}
