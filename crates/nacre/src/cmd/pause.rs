//! `nacre pause`.

use clap::Args;

use super::Failure;
use crate::cli::Global;

/// Stop all processes of a container where they are
#[derive(Debug, Args)]
pub struct Pause {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Pause {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        global.runtime().pause(&self.id)?;
        Ok(0)
    }
}
