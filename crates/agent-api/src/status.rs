//! [`Status`]: an error of the other side, in gRPC's codes.

use crate::frame::StatusBody;

/// gRPC's canonical codes, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    /// The state does not allow it (start of a running container).
    FailedPrecondition = 9,
    /// Neither now nor later: this agent lacks it.
    Unimplemented = 12,
    Internal = 13,
}

impl Code {
    fn from_raw(raw: i32) -> Code {
        match raw {
            3 => Code::InvalidArgument,
            5 => Code::NotFound,
            6 => Code::AlreadyExists,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            _ => Code::Unknown,
        }
    }
}

/// Bytes of a message that are kept: two paths of any length, and words around them.
const MAX_MESSAGE: usize = 9 << 10;

/// Why a call failed. The message says what was wrong, for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into() }
    }
}

/// The other side may have been taken over, and its words go to logs and people's terminals: one line, of bounded length, that cannot steer them.
impl From<StatusBody> for Status {
    fn from(body: StatusBody) -> Status {
        Status { code: Code::from_raw(body.code), message: crate::text::line(&body.message, MAX_MESSAGE) }
    }
}

impl From<Status> for StatusBody {
    fn from(status: Status) -> StatusBody {
        StatusBody { code: status.code as i32, message: status.message }
    }
}
