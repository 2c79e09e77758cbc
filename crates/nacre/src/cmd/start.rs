//! `nacre start`.

use clap::Args;

use super::Failure;
use crate::cli::Global;

/// Run the process of a created container
#[derive(Debug, Args)]
pub struct Start {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Start {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        global.runtime().start(&self.id)?;
        Ok(0)
    }
}
