//! Connections to the host (`agent_api::vm`).

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Duration;

use agent_api::vm::{ANY_PORT, CONTROL_PORT, HOST, STREAM_PORT};
use agent_api::{Code, Status};
use rustix::io::Errno;

use crate::sys;

/// Attempts at the control connection: the device may be found before its transport works.
const ATTEMPTS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(20);

/// The connection that the protocol is served on.
///
/// # Errors
/// When the host does not take it, in words for the console.
pub fn connect_control() -> Result<OwnedFd, String> {
    let mut last = Errno::NODEV;
    for _ in 0..ATTEMPTS {
        match sys::connect_vsock(HOST, CONTROL_PORT, ANY_PORT) {
            Ok(socket) => return Ok(socket),
            Err(errno) => last = errno,
        }
        sleep(BETWEEN);
    }
    Err(format!("cannot connect to the host (vsock port {CONTROL_PORT}): {last}"))
}

/// The host's stream `number`.
///
/// # Errors
/// `Internal`, when the host does not take the connection.
pub fn connect_stream(number: u32) -> Result<OwnedFd, Status> {
    let about = |errno: Errno| Status::new(Code::Internal, format!("cannot connect stream {number} to the host: {errno}"));
    sys::connect_vsock(HOST, STREAM_PORT, number).map_err(about)
}
