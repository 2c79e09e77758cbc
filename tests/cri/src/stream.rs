//! The streams of exec, attach and port-forward: a websocket, whose messages begin with the number of their channel.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long the other side may be silent.
const LIMIT: Duration = Duration::from_secs(60);
/// Only to tell connections apart; any value will do.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// What came of a stream.
#[derive(Debug, Default)]
pub struct Streamed {
    /// By channel.
    pub channels: [Vec<u8>; 4],
}

/// Opens the stream at a URL that CRI gave.
///
/// # Errors
/// It is none of ours; the server refuses.
pub fn open(url: &str, query: &str) -> Result<TcpStream> {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("a strange URL")?;
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET /{path}{query} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: http://{host}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    )?;
    // To the empty line, and not a byte further: frames follow.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer to the upgrade")?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(stream)
}

/// Sends bytes on a channel.
///
/// # Errors
/// The connection has ended.
pub fn send(stream: &mut TcpStream, channel: u8, bytes: &[u8]) -> Result<()> {
    for piece in bytes.chunks(16 << 10) {
        let payload: Vec<u8> = std::iter::once(&channel).chain(piece).copied().collect();
        frame(stream, BINARY, &payload)?;
    }
    Ok(())
}

fn frame(stream: &mut TcpStream, kind: u8, payload: &[u8]) -> Result<()> {
    let mut frame = vec![0x80 | kind];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len)?.to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(stream.write_all(&frame)?)
}

/// Receives until the server closes, or until a channel has what is wanted.
///
/// # Errors
/// The connection breaks; nothing comes for too long.
pub fn receive(stream: &mut TcpStream, enough: impl Fn(&Streamed) -> bool) -> Result<Streamed> {
    let mut streamed = Streamed::default();
    while !enough(&streamed) {
        let mut head = [0; 2];
        match stream.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let len = match head[1] & 0x7f {
            126 => {
                let mut len = [0; 2];
                stream.read_exact(&mut len)?;
                u16::from_be_bytes(len).into()
            }
            127 => {
                let mut len = [0; 8];
                stream.read_exact(&mut len)?;
                u64::from_be_bytes(len)
            }
            len => u64::from(len),
        };
        ensure!(len < 16 << 20, "a message of {len} bytes");
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload)?;
        match head[0] & 0xf {
            CLOSE => break,
            PING => frame(stream, 10, &payload)?,
            BINARY | 0 => {
                let Some((channel, bytes)) = payload.split_first() else { continue };
                match streamed.channels.get_mut(usize::from(*channel)) {
                    Some(to) => to.extend_from_slice(bytes),
                    None => bail!("a message for channel {channel}"),
                }
            }
            _ => {}
        }
    }
    Ok(streamed)
}
