//! `nacre delete`.

use clap::Args;
use runtime::state::Access;

use super::Failure;
use crate::cli::Global;
use crate::imaged;

/// Delete a stopped container
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill it first if it runs; no error if it does not exist
    #[arg(long, short)]
    force: bool,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Delete {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let runtime = global.runtime();
        // Of a container made from an image, the bundle is ours too.
        let bundle = runtime.store.open(&self.id, Access::Look).ok().map(|entry| entry.saved.bundle);
        runtime.delete(&self.id, self.force)?;
        if let Some(bundle) = bundle {
            imaged::forget(&bundle, &self.id);
        }
        Ok(0)
    }
}
