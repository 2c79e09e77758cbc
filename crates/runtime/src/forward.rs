//! TCP connections of the host's, passed on to what listens in a sandbox.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_api::{Client, ClientError, ConnectRequest};
use rustix::net::sockopt;

pub use crate::pod_network::Loopback;

/// Connections at a time: each has two threads.
const MOST: usize = 128;
/// Stacks of the threads that forward.
pub const STACK: usize = 128 << 10;
/// How long it takes for a host that is short of something to be asked again.
const PAUSE: Duration = Duration::from_millis(100);
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

/// Gives each connection that `accept` takes, and the port it is for, to `each` on a thread of its own, until `accept` says that there are no more.
pub fn serve<E>(mut accept: impl FnMut() -> io::Result<Option<(TcpStream, u16)>>, each: E)
where
    E: Fn(&TcpStream, u16) + Send + Sync + 'static,
{
    // Held once more for each open connection, whichever way its thread ends.
    let slots = Arc::new(());
    let each = Arc::new(each);
    loop {
        let (connection, port) = match accept() {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("cannot take a connection: {error}");
                thread::sleep(PAUSE);
                continue;
            }
        };
        if Arc::strong_count(&slots) > MOST {
            tracing::warn!("port {port}: {MOST} connections are being forwarded already");
            continue;
        }
        let (slot, each) = (slots.clone(), each.clone());
        let forwarded = thread::Builder::new().name("port".into()).stack_size(STACK).spawn(move || {
            let _slot = slot;
            each(&connection, port);
        });
        if let Err(error) = forwarded {
            tracing::warn!("port {port}: {error}");
        }
    }
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
        let _ = sockopt::set_socket_linger(outside, Some(Duration::ZERO));
        return Err(error.into());
    }
    drop((agents_input, agents_output));
    thread::scope(|scope| {
        let inwards = thread::Builder::new().name("forward".into()).stack_size(STACK).spawn_scoped(scope, move || {
            // Whichever side ends, the other one hears of it.
            copy(outside, &mut input);
        })?;
        copy(&mut output, outside);
        let _ = outside.shutdown(Shutdown::Write);
        let _ = inwards.join();
        Ok(())
    })
}

/// Copies until one side ends. Not by `io::copy`: that splices, and holds the pipe locked while it waits for more, in which the sandbox is stuck as well.
pub fn copy(mut from: impl Read, mut to: impl Write) {
    let mut bytes = vec![0; PIECE];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Of a terminal, EIO: nobody has it open any more.
            Err(_) => return,
            Ok(n) => {
                if to.write_all(bytes.get(..n).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// Gives back what comes, but for one byte.
    fn echo(mut connection: &TcpStream, _port: u16) {
        let mut byte = [0];
        while let Ok(1) = connection.read(&mut byte) {
            assert_ne!(byte, *b"p", "told to panic");
            let _ = connection.write_all(&byte);
        }
    }

    /// What a connection answers to a byte; nothing: it is closed.
    fn ask(mut connection: &TcpStream, byte: u8) -> Option<u8> {
        let mut answer = [0];
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let _ = connection.write_all(&[byte]);
        loop {
            match connection.read(&mut answer) {
                Ok(1) => return Some(answer[0]),
                // With a timeout it is not begun again by itself, whatever the handler says (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("no answer: {error}"),
                _ => return None,
            }
        }
    }

    #[test]
    fn connections_are_bounded_and_a_panic_frees_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (given, taken) = mpsc::channel();
        let serving = thread::spawn(move || serve(|| Ok(taken.recv().ok().map(|connection| (connection, 80))), echo));
        let connect = || {
            let outside = TcpStream::connect(address).expect("connected");
            given.send(listener.accept().expect("accepted").0).expect("somebody takes it");
            outside
        };
        let open: Vec<TcpStream> = (0..MOST).map(|_| connect()).collect();
        assert!(open.iter().all(|connection| ask(connection, b'x') == Some(b'x')));
        assert_eq!(ask(&connect(), b'x'), None, "one too many");
        assert_eq!(ask(&open[0], b'p'), None, "its thread has panicked");
        assert_eq!(ask(&connect(), b'x'), Some(b'x'), "its place is free");
        drop(given);
        serving.join().expect("it ends when nobody comes any more");
    }
}
