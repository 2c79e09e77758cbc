//! A ttrpc server: a thread per connection, and one per request, as some wait long.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_api::Status;
use agent_api::frame::{self, HEADER, Header, Kind, RequestBody, ResponseBody};
use prost::Message;

/// How long a client may take to read its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests' own stacks; JSON is the deepest they go.
const STACK: usize = 256 << 10;

/// What is served.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// For the client, in gRPC's codes.
    fn call(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status>;

    /// A client has come.
    fn connected(&self) {}

    /// After an answer has been sent.
    fn answered(&self) {}
}

/// Serves for ever. `clients` is held once more for each that is connected.
pub fn serve<S: Service>(listener: &UnixListener, service: &Arc<S>, clients: &Arc<()>) -> ! {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                let (service, connected) = (service.clone(), clients.clone());
                let serving = move || {
                    let _connected = connected;
                    service.connected();
                    connection(client, &service);
                };
                if let Err(error) = thread().spawn(serving) {
                    tracing::warn!("cannot serve a client: {error}");
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // The host is short of something; the pod must not go for that.
            Err(error) => {
                tracing::warn!("cannot take a client: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new().name("ttrpc".into()).stack_size(STACK)
}

fn connection<S: Service>(mut client: UnixStream, service: &Arc<S>) {
    let Ok(answers) = client.try_clone() else { return };
    let _ = answers.set_write_timeout(Some(PATIENCE));
    let answers = Arc::new(Mutex::new(answers));
    loop {
        let (stream, request) = match request(&mut client) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!("a client's connection ends: {error}");
                return;
            }
        };
        let (service, answers) = (service.clone(), answers.clone());
        let spawned = thread().spawn(move || {
            let answer = match service.call(&request.service, &request.method, &request.payload) {
                Ok(payload) => ResponseBody { status: None, payload },
                Err(status) => ResponseBody { status: Some(status.into()), payload: Vec::new() },
            };
            let bytes = frame::encode(stream, Kind::Response, &answer);
            // A client that has gone is none of the request's business.
            let _ = answers.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes);
            service.answered();
        });
        if let Err(error) = spawned {
            tracing::warn!("a request cannot be served: {error}");
            return;
        }
    }
}

/// The next request; None at the client's end.
fn request(client: &mut UnixStream) -> std::io::Result<Option<(u32, RequestBody)>> {
    let mut header = [0; HEADER];
    match client.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let header = Header::parse(header).map_err(std::io::Error::other)?;
    if header.kind != Kind::Request {
        return Err(std::io::Error::other("a client sent an answer"));
    }
    let mut payload = vec![0; header.len];
    client.read_exact(&mut payload)?;
    Ok(Some((header.stream, RequestBody::decode(payload.as_slice()).map_err(std::io::Error::other)?)))
}
