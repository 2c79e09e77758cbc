//! The verbs, one file each.

pub mod do_;

use crate::cli::{Cli, Verb};

/// A verb that failed, and the exit code it fails with.
#[derive(Debug)]
pub struct Failure {
    pub error: anyhow::Error,
    pub code: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { error: error.into(), code: 1 }
    }
}

/// Runs the verb. The number is the exit code.
pub fn run(cli: &Cli) -> Result<u8, Failure> {
    match &cli.verb {
        Verb::Do(verb) => verb.run(&cli.global),
    }
}
