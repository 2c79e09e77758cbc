//! `nacre image rm`.

use clap::Args;

use super::super::{Failure, print};
use crate::cli::Global;
use crate::imaged;

/// Remove images, and what only they need
#[derive(Debug, Args)]
pub struct Rm {
    /// Names, or digests or the beginnings of them (which take all names of an image)
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rm {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let store = global.images()?;
        for wanted in &self.images {
            let name = imaged::full_name(&store, wanted)?;
            let collected = store.remove_image(&name, &imaged::is_there)?;
            print(&format!("removed {wanted}: {} freed", super::size(collected.bytes)))?;
        }
        Ok(0)
    }
}
