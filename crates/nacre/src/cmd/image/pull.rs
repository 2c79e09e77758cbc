//! `nacre image pull`.

use std::ffi::OsString;

use clap::Args;
use image::source::{Source, Wanted};

use super::super::{Failure, print};
use crate::cli::Global;
use crate::imaged::Fetch;

/// Bring an image into the store, from a registry or from files
#[derive(Debug, Args)]
pub struct Pull {
    #[command(flatten)]
    fetch: Fetch,
    /// Name to keep an image from files under [default: its path]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Do not unpack it yet
    #[arg(long)]
    no_unpack: bool,
    /// Reference, or path of an OCI layout, oci-archive or docker-archive
    #[arg(value_name = "REF|PATH")]
    image: OsString,
}

impl Pull {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let store = global.images()?;
        let _use = store.hold()?;
        let progress = self.fetch.progress();
        let image = match Wanted::parse(&self.image)? {
            Wanted::Reference(reference) => self.fetch.pull(&store, &reference, &*progress)?,
            Wanted::Path { path, select } => {
                let source = Source::open(&path)?;
                let image = source.image(select.as_deref())?;
                let name = self.name.clone().unwrap_or_else(|| self.image.to_string_lossy().into_owned());
                store.import(&source, &image, &name, &*progress)?
            }
        };
        if !self.no_unpack {
            store.root(&store.source()?, &image, &crate::imaged::unpacker(), &*progress)?;
        }
        print(&image.digest().to_string())?;
        Ok(0)
    }
}
