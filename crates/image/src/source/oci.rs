//! OCI's image layout: `index.json`, and blobs by digest.

use oci_spec::image::{Descriptor, ImageIndex};

use super::{Candidate, Files, select};
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Image, MOST_DOCUMENT};

/// How deep indexes may be in indexes.
const MOST_NESTED: usize = 4;

pub(super) fn image(files: &Files, wanted: Option<&str>) -> Result<Image> {
    let place = &files.place;
    let bytes = files
        .get("index.json")?
        .ok_or_else(|| Error::malformed(place, "it has no index.json"))?
        .read("index.json", MOST_DOCUMENT)?;
    let index: ImageIndex = image::parse(&format!("{place}/index.json"), &bytes)?;
    let entry = match of_one_image(index.manifests()) && wanted.is_none() {
        true => image::choose(place, index.manifests())?,
        false => {
            let candidate = |entry: &Descriptor| Ok(Candidate { names: names(entry), digest: image::digest_of(place, entry)? });
            let candidates = index.manifests().iter().map(candidate).collect::<Result<Vec<_>>>()?;
            let chosen = select(place, &candidates, wanted)?;
            index.manifests().get(chosen).ok_or_else(|| Error::malformed(place, "it has no image"))?
        }
    };
    resolve(files, entry)
}

/// Whether an index is of the platforms of one image, not of several images.
fn of_one_image(entries: &[Descriptor]) -> bool {
    let first = entries.first().map(names);
    entries.len() > 1 && entries.iter().all(|entry| entry.platform().is_some() && Some(names(entry)) == first)
}

/// What a layout calls an image.
pub(crate) fn names(entry: &Descriptor) -> Vec<String> {
    let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    let annotations = entry.annotations().as_ref();
    let mut names: Vec<String> = keys.iter().filter_map(|key| annotations.and_then(|all| all.get(*key)).cloned()).collect();
    names.dedup();
    names
}

/// From an entry, through indexes, to the manifest for this machine.
fn resolve(files: &Files, entry: &Descriptor) -> Result<Image> {
    let mut entry = entry.clone();
    for _ in 0..MOST_NESTED {
        let digest = image::digest_of(&files.place, &entry)?;
        if !image::is_index(&entry) {
            return image_of(files, digest);
        }
        let bytes = document(files, digest, "index")?;
        let index: ImageIndex = image::parse(&format!("{}: index {}", files.place, digest.short()), &bytes)?;
        entry = image::for_this_machine(&files.place, &index)?.clone();
    }
    Err(Error::malformed(&files.place, "indexes in indexes without end"))
}

pub(super) fn image_of(files: &Files, digest: Digest) -> Result<Image> {
    let bytes = document(files, digest, "manifest")?;
    let (_, config, layers) = image::manifest(&files.place, &bytes)?;
    Image::new(&files.place, Some(digest), &document(files, config, "configuration")?, layers)
}

fn document(files: &Files, digest: Digest, what: &str) -> Result<Vec<u8>> {
    blob(files, digest)?.read(&format!("{what} {}", digest.short()), MOST_DOCUMENT)
}

pub(super) fn blob(files: &Files, digest: Digest) -> Result<Blob> {
    match files.get(&format!("blobs/sha256/{}", digest.hex()))? {
        Some(blob) => Ok(Blob { digest: Some(digest), ..blob }),
        None => Err(Error::malformed(&files.place, format!("blob {digest} is missing"))),
    }
}
