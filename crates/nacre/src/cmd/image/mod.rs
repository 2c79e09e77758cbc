//! `nacre image`: what is kept of images, one file per verb.

mod list;
mod prune;
mod pull;
mod rm;

use clap::{Args, Subcommand};

use super::Failure;
use crate::cli::Global;

/// List, pull and remove images
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::List),
    Pull(pull::Pull),
    Rm(rm::Rm),
    Prune(prune::Prune),
}

impl Image {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        match &self.verb {
            Verb::List(verb) => verb.run(global),
            Verb::Pull(verb) => verb.run(global),
            Verb::Rm(verb) => verb.run(global),
            Verb::Prune(verb) => verb.run(global),
        }
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}
