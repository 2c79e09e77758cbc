//! [`Error`]: what the runtime could not do, in words for its user.

use std::io;

use agent_api::ClientError;

use crate::config::ConfigError;

/// Why an operation failed. The text is what `nacre` prints, causes included (so they are no `source`s, to be printed twice).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("container does not exist: {0}")]
    NotFound(String),
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    #[error("container not running")]
    NotRunning,
    #[error("invalid container ID format: {0:?}")]
    BadId(String),
    #[error("cannot {verb} container {id:?} in the {status} state")]
    WrongStatus { verb: &'static str, id: String, status: crate::state::Status },
    #[error("{what}: {cause}")]
    Host { what: String, cause: io::Error },
    #[error("{what}: {cause}")]
    Agent { what: String, cause: ClientError },
    #[error("the sandbox has ended: {0}")]
    SandboxEnded(String),
    #[error("{0}")]
    Other(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when a host call failed.
pub trait Doing<T> {
    /// # Errors
    /// The error, with `what` in front.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::Host { what: what().into(), cause })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::Host { what: what().into(), cause: errno.into() })
    }
}

impl<T> Doing<T> for std::result::Result<T, ClientError> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::Agent { what: what().into(), cause })
    }
}
