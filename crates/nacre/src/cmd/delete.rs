//! `nacre delete`.

use clap::Args;

use super::Failure;
use crate::cli::Global;

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
        global.runtime().delete(&self.id, self.force)?;
        Ok(0)
    }
}
