//! What can go wrong with an image.

use std::io;

use crate::archive::ArchiveError;
use crate::digest::Digest;
use crate::unpack::UnpackError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {cause}")]
    Host { what: String, cause: io::Error },
    #[error("{0} is neither an OCI layout, an oci-archive nor a docker-archive")]
    NotAnImage(String),
    #[error("{place}: {problem}")]
    Malformed { place: String, problem: String },
    #[error("{what} has {actual} bytes instead of {expected}")]
    Size { what: String, expected: u64, actual: u64 },
    #[error("{what} has {size} bytes; more than {most} are refused")]
    TooLarge { what: String, size: u64, most: u64 },
    #[error("{what} is corrupt: its digest is {actual} instead of {expected}")]
    Digest { what: String, expected: Digest, actual: Digest },
    #[error("{place} has no image {wanted:?}; it has {available}")]
    NoSuchImage { place: String, wanted: String, available: String },
    #[error("{place} has several images; choose one by {place}:NAME or {place}@DIGEST: {available}")]
    SeveralImages { place: String, available: String },
    #[error("{place} is not for linux/amd64; it is for {available}")]
    Platform { place: String, available: String },
    #[error("{place}: {what} is not supported")]
    Unsupported { place: String, what: String },
    #[error("{place}: {cause}")]
    Archive { place: String, cause: ArchiveError },
    #[error("layer {layer} cannot be unpacked: {cause}")]
    Unpack { layer: String, cause: UnpackError },
    #[error("{text:?} is no image: not a path that exists, and no reference ({problem})")]
    Reference { text: String, problem: String },
    #[error("cannot pull {reference}: {problem}")]
    Registry { reference: String, problem: String },
    #[error("no image {0:?} in the store (`nacre image list` shows them)")]
    NotInStore(String),
    #[error("image {image} is in use by {container}")]
    InUse { image: String, container: String },
}

impl Error {
    /// For `map_err`.
    pub fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Host { what: what.into(), cause }
    }

    pub(crate) fn malformed(place: impl Into<String>, problem: impl ToString) -> Error {
        Error::Malformed { place: place.into(), problem: problem.to_string() }
    }
}
