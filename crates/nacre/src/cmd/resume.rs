//! `nacre resume`.

use clap::Args;

use super::Failure;
use crate::cli::Global;

/// Let a paused container go on
#[derive(Debug, Args)]
pub struct Resume {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Resume {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        global.runtime().resume(&self.id)?;
        Ok(0)
    }
}
