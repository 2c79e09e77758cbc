//! docker's archives: `manifest.json` names the files of each image.

use serde::Deserialize;

use super::{Candidate, Files, select};
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, Image, MOST_DOCUMENT, Place};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn image(files: &Files, wanted: Option<&str>) -> Result<Image> {
    let place = &files.place;
    let bytes = file(files, "manifest.json")?.read("manifest.json", MOST_DOCUMENT)?;
    let mut entries: Vec<Entry> = image::parse(&format!("{place}: manifest.json"), &bytes)?;
    let mut candidates = Vec::new();
    for entry in &entries {
        let config = file(files, &entry.config)?.read("configuration", MOST_DOCUMENT)?;
        candidates.push(Candidate { names: entry.repo_tags.clone().unwrap_or_default(), digest: Digest::of(&config) });
    }
    let entry = entries.swap_remove(select(place, &candidates, wanted)?);
    let config = file(files, &entry.config)?.read("configuration", MOST_DOCUMENT)?;
    let mut layers = Vec::new();
    for name in entry.layers.unwrap_or_default() {
        let size = file(files, &name)?.length;
        layers.push((Place::Member(name), size));
    }
    Image::new(place, None, &config, layers)
}

pub(super) fn member(files: &Files, name: &str) -> Result<Blob> {
    file(files, name)
}

fn file(files: &Files, name: &str) -> Result<Blob> {
    files.get(name)?.ok_or_else(|| Error::malformed(&files.place, format!("{name:?} is missing")))
}
