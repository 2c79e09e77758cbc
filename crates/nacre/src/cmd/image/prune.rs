//! `nacre image prune`.

use clap::Args;
use image::store::All;

use super::super::{Failure, print};
use crate::cli::Global;
use crate::imaged;

/// Remove what no image and no container needs
#[derive(Debug, Args)]
pub struct Prune {
    /// Images that no container uses too
    #[arg(long, short)]
    all: bool,
}

impl Prune {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let all = if self.all { All::UnusedImages } else { All::Unreferenced };
        let done = global.images()?.prune(all, &imaged::is_there)?;
        let freed = super::size(done.bytes);
        print(&format!("{} images, {} blobs, {} unpacked roots removed: {freed} freed", done.images, done.blobs, done.roots))?;
        Ok(0)
    }
}
