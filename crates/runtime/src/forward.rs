//! TCP connections of the host's, passed on to what listens in a sandbox.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use agent_api::{Client, ClientError, ConnectRequest};
use rustix::net::sockopt;

pub use crate::pod_network::Loopback;

/// Stacks of the threads that copy.
const STACK: usize = 128 << 10;
/// Bytes copied at a time.
const PIECE: usize = 16 << 10;

/// Why a connection was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error("cannot pass a connection on: {0}")]
    Host(#[from] io::Error),
}

/// Joins a connection to a port of the sandbox's loopback interface, until both directions have ended.
///
/// # Errors
/// Nobody listens there, or the sandbox is gone; then the connection is reset.
pub fn join(agent: &Client, outside: &TcpStream, port: u16) -> Result<(), ForwardError> {
    let (agents_input, mut input) = io::pipe()?;
    let (mut output, agents_output) = io::pipe()?;
    let request = ConnectRequest { port: port.into(), input: 0, output: 1 };
    if let Err(error) = agent.call_with(&request, &[agents_input.as_fd(), agents_output.as_fd()]) {
        // As the host's kernel does where nobody listens.
        let _ = sockopt::set_socket_linger(outside, Some(std::time::Duration::ZERO));
        return Err(error.into());
    }
    drop((agents_input, agents_output));
    thread::scope(|scope| {
        let inwards = thread::Builder::new().name("forward".into()).stack_size(STACK).spawn_scoped(scope, move || {
            // Whichever side ends, the other one hears of it.
            copy(outside, &mut input);
        })?;
        copy(&mut output, &mut &*outside);
        let _ = outside.shutdown(Shutdown::Write);
        let _ = inwards.join();
        Ok(())
    })
}

/// Until one side ends. Not by `io::copy`: that splices, and holds the pipe locked while it waits for more, in which the sandbox is stuck as well.
fn copy(mut from: impl Read, to: &mut impl Write) {
    let mut bytes = vec![0; PIECE];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
            Ok(n) => {
                if to.write_all(bytes.get(..n).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
}
