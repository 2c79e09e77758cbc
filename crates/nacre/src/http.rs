//! As much of a web server as Prometheus asks of one: a page, got over TCP or a Unix socket, a connection for each request.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest head of a request, in bytes, and most of its fields.
const HEAD: usize = 8 << 10;
const FIELDS: usize = 64;
/// How long a client may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what a client goes on sending is read, and how many times.
const LINGER: Duration = Duration::from_secs(1);
const DRAINED: usize = 16;
/// Most clients at a time.
const CLIENTS: usize = 16;

/// Where to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: without a path".into()),
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp).map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor unix:PATH")),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A client's connection.
trait Stream: Read + Write + Send {
    fn set_patience(&self, read: Duration, write: Duration) -> io::Result<()>;
    /// Nothing more is sent.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_patience(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(read)).and_then(|()| self.set_write_timeout(Some(write)))
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn set_patience(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(read)).and_then(|()| self.set_write_timeout(Some(write)))
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Listener {
    /// A Unix socket is for its owner only; one that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(address) => TcpListener::bind(address).map(Listener::Tcp),
            Address::Unix(path) => {
                let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
                if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                    fs::remove_file(path)?;
                }
                let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
                let bound = UnixListener::bind(path);
                rustix::process::umask(mask);
                Ok(Listener::Unix(bound?, path.clone()))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The host's.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
            Listener::Unix(listener, _) => listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
        }
    }

    /// Serves what `page` makes at path `/metrics`, for ever.
    pub fn serve(&self, page: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> ! {
        // Held once more for each client.
        let (page, slots) = (Arc::new(page), Arc::new(()));
        loop {
            let mut stream = match self.accept() {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!("cannot take a connection: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if Arc::strong_count(&slots) > CLIENTS {
                let _ = stream.set_patience(PATIENCE, Duration::from_millis(100));
                let _ = stream.write_all(&answer("503 Service Unavailable", "too many clients\n", Body::Sent));
                continue;
            }
            let (page, slot) = (page.clone(), slots.clone());
            let serving = move || {
                let _slot = slot;
                if let Err(error) = serve_one(&mut *stream, &*page) {
                    tracing::debug!("a client is not answered: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("http".into()).stack_size(256 << 10).spawn(serving) {
                tracing::warn!("a client cannot be served: {error}");
            }
        }
    }
}

/// Whether an answer brings what it tells the length of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Sent,
    /// To `HEAD`.
    Kept,
}

fn serve_one(stream: &mut dyn Stream, page: &dyn Fn() -> Result<String, String>) -> io::Result<()> {
    let head = read_head(stream)?;
    let answer = match head {
        None => answer("400 Bad Request", "this is no request\n", Body::Sent),
        Some((method, path)) => respond(&method, &path, page),
    };
    stream.write_all(&answer)?;
    stream.end()?;
    // What has been sent and not read would have the answer taken back.
    stream.set_patience(LINGER, PATIENCE)?;
    let mut room = [0; 4096];
    for _ in 0..DRAINED {
        if stream.read(&mut room)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The answer to a request.
fn respond(method: &str, path: &str, page: &dyn Fn() -> Result<String, String>) -> Vec<u8> {
    let body = match method {
        "GET" => Body::Sent,
        "HEAD" => Body::Kept,
        _ => return answer("405 Method Not Allowed", "GET and HEAD only\n", Body::Sent),
    };
    match path.split('?').next() {
        Some("/metrics") => match page() {
            Ok(text) => answer("200 OK", &text, body),
            Err(what) => answer("500 Internal Server Error", &format!("{what}\n"), body),
        },
        Some("/") => answer("200 OK", "nacre: see /metrics\n", body),
        _ => answer("404 Not Found", "see /metrics\n", body),
    }
}

/// A request's method and path; None if it is no request.
fn read_head(stream: &mut dyn Stream) -> io::Result<Option<(String, String)>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_patience(left, PATIENCE)?;
        let mut room = [0; 1024];
        let n = stream.read(&mut room)?;
        bytes.extend_from_slice(room.get(..n).unwrap_or_default());
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {
                return Ok(request.method.zip(request.path).map(|(method, path)| (method.into(), path.into())));
            }
            Ok(httparse::Status::Partial) if n > 0 && bytes.len() < HEAD => {}
            _ => return Ok(None),
        }
    }
}

fn answer(status: &str, text: &str, body: Body) -> Vec<u8> {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = text.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    head.into_bytes().into_iter().chain(text.bytes().filter(|_| body == Body::Sent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8]) -> String {
        let (mut client, mut server) = UnixStream::pair().expect("a pair");
        client.write_all(request).expect("asks");
        client.shutdown(Shutdown::Write).expect("ends");
        serve_one(&mut server, &|| Ok("up 1\n".into())).expect("answers");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn requests() {
        let got = ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nup 1\n"), "{got}");
        let got = ask(b"HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(got.contains("Content-Length: 5\r\n") && got.ends_with("\r\n\r\n"), "{got}");
        for (request, status) in [
            (&b"POST /metrics HTTP/1.1\r\n\r\n"[..], "405"),
            (b"GET /../etc HTTP/1.1\r\n\r\n", "404"),
            (b"\0\0\0\0", "400"),
            (b"GET /metrics HTTP/1.1\r\nunfinished", "400"),
            (&[b"GET /metrics HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(5000)].concat(), "400"),
        ] {
            let got = ask(request);
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!("127.0.0.1:0".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for bad in ["", "unix:", "9464", "localhost:1", "/run/x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}
