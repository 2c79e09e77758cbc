//! What can go wrong between us and a VMM.

use std::io;
use std::time::Duration;

use crate::Features;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no {program} in PATH: install the Debian package {package}")]
    NoProgram { program: String, package: &'static str },
    #[error("the {driver} driver cannot do {feature}")]
    Unsupported { driver: &'static str, feature: Feature },
    #[error("no free slot for device {id}: the machine was started with {slots}")]
    NoSlot { id: String, slots: usize },
    #[error("device name {0:?}: 1 to 32 of a-z, 0-9 and -, beginning with a letter, and no other's")]
    BadName(String),
    #[error("{what} {asked} is not between {low} and {high}")]
    Limit { what: &'static str, asked: u64, low: u64, high: u64 },
    #[error("{driver} refused {command}: {message}")]
    Refused { driver: &'static str, command: String, message: String },
    #[error("{driver} broke its protocol: {what}")]
    Protocol { driver: &'static str, what: String },
    #[error("no answer to {what} in {waited:?}")]
    Timeout { what: String, waited: Duration },
    #[error("the VMM has ended")]
    Ended,
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

/// Names one or more features in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature(pub Features);

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (name, _)) in self.0.iter_names().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{}", name.to_ascii_lowercase().replace('_', "-"))?;
        }
        Ok(())
    }
}
