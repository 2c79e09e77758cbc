//! Container images: where they come from, how they are kept, and what they say about running them.
//!
//! [`source`] finds an image in a layout, an archive or a registry; [`store`] keeps blobs by digest and unpacked roots by chain id;
//! [`unpack`] makes directories of layers, in a confined process; [`settings`] is what an image's configuration says about its process.
//! Everything that comes from an image is hostile: digests and sizes are checked as bytes go by, and nothing is used before.
//!
//! Not here: the command line, bundles and containers (`nacre`, `runtime`).

#![forbid(unsafe_code)]

pub mod archive;
pub mod blob;
pub mod digest;
pub mod error;
pub mod image;
pub mod progress;
pub mod settings;
pub mod source;
pub mod store;
pub mod unpack;

pub use error::{Error, Result};
