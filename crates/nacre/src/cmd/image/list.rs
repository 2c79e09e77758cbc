//! `nacre image list`.

use clap::Args;
use serde_json::json;

use super::super::list::Format;
use super::super::{Failure, print, table};
use crate::cli::Global;

/// List the images in the store
#[derive(Debug, Args)]
pub struct List {
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Only names
    #[arg(long, short)]
    quiet: bool,
}

impl List {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let images = global.images()?.list()?;
        if self.quiet {
            print(&images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join("\n"))?;
            return Ok(0);
        }
        if self.format == Format::Json {
            let row = |image: &image::store::Listed| json!({"name": image.name, "digest": image.manifest.to_string(), "size": image.size, "created": image.created});
            print(&serde_json::to_string(&images.iter().map(row).collect::<Vec<_>>())?)?;
            return Ok(0);
        }
        let heading = ["NAME", "DIGEST", "SIZE", "BUILT"].map(String::from);
        let row = |image: &image::store::Listed| {
            let size = image.size.map_or_else(|| "damaged".into(), super::size);
            let built = image.created.as_deref().and_then(|created| created.get(..10)).unwrap_or("-");
            [image.name.clone(), image.manifest.short(), size, built.into()]
        };
        table(&[vec![heading], images.iter().map(row).collect()].concat())?;
        Ok(0)
    }
}
