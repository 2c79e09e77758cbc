//! A QMP client on a connected socket: one command at a time, and a log of events.
//!
//! Why not the crate `qapi`: its types of all of QEMU's commands cost 28 s of compile time and 53 MB of library for the twenty we use, and it sends no
//! descriptors. QEMU runs a hostile guest and may be taken over, so its lines are input to check: bounded, and never waited for without end.
//!
//! A thread reads; one lock, `State`, is between it and the callers. The lock of `writer` is taken first, and held until a command is answered.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::DRIVER;
use crate::{Error, Result};

/// The longest line of QEMU's that is read. Its answers to our commands are below a tenth of it.
const MAX_LINE: usize = 1 << 20;
/// Events kept for those who wait for them. The guest can cause events: whoever is slower than that misses the oldest.
const MAX_EVENTS: usize = 256;

pub(super) struct Client {
    writer: Mutex<Writer>,
    shared: Arc<Shared>,
}

struct Writer {
    stream: UnixStream,
    next_id: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    greeted: bool,
    /// The answer that came last: its command's number, what was returned or QEMU's reason.
    answer: Option<(u64, Result<Value, String>)>,
    events: VecDeque<QmpEvent>,
    /// How many events there were before the first of `events`.
    forgotten: u64,
    /// Set at the end of the stream, with the reason if the stream was at fault.
    ended: Option<Option<String>>,
}

/// One event as QEMU told it.
#[derive(Debug, Clone)]
pub(super) struct QmpEvent {
    pub name: String,
    pub data: Value,
}

impl QmpEvent {
    /// A string of its data, empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        self.data.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Client {
    /// Speaks to the QEMU at the other end; returns when it takes commands.
    pub fn new(stream: UnixStream, timeout: Duration) -> Result<Client> {
        let io_error = |what| move |source| Error::Io { what, source };
        stream.set_write_timeout(Some(timeout)).map_err(io_error("a timeout on QMP"))?;
        let reader = stream.try_clone().map_err(io_error("a second descriptor of QMP"))?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        thread::Builder::new()
            .name("qmp".into())
            .stack_size(128 << 10)
            .spawn(move || read(reader, &theirs))
            .map_err(io_error("a thread for QMP"))?;
        let client = Client { writer: Mutex::new(Writer { stream, next_id: 1 }), shared };
        let deadline = Instant::now() + timeout;
        client.wait(deadline, "QEMU's greeting", timeout, |state| state.greeted.then_some(()))?;
        client.command("qmp_capabilities", json!({}), timeout)?;
        Ok(client)
    }

    pub fn command(&self, name: &str, arguments: Value, timeout: Duration) -> Result<Value> {
        self.command_with(name, arguments, &[], timeout)
    }

    /// A command that takes descriptors.
    pub fn command_with(&self, name: &str, arguments: Value, fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Value> {
        let mut writer = self.writer.lock();
        let id = writer.next_id;
        writer.next_id += 1;
        let mut line = json!({"execute": name, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        self.alive()?;
        send(&writer.stream, line.as_bytes(), fds).map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Ended,
            _ => Error::Io { what: "a QMP command", source },
        })?;
        let deadline = Instant::now() + timeout;
        let answer = self.wait(deadline, name, timeout, |state| {
            // An answer to an older command, which was not waited for long enough, is left behind.
            state.answer.take_if(|(to, _)| *to <= id).filter(|(to, _)| *to == id).map(|(_, answer)| answer)
        })?;
        answer.map_err(|message| Error::Refused { driver: DRIVER, command: name.into(), message })
    }

    /// Where the log of events ends now.
    pub fn events_end(&self) -> u64 {
        let state = self.shared.state.lock();
        state.forgotten + state.events.len() as u64
    }

    /// The first event from `*cursor` on that `pick` makes something of; None when `deadline` has passed.
    ///
    /// # Errors
    /// [`Error::Ended`] when no more can come.
    pub fn event<T>(
        &self,
        cursor: &mut u64,
        deadline: Instant,
        mut pick: impl FnMut(&QmpEvent) -> Option<T>,
    ) -> Result<Option<T>> {
        let found = self.wait(deadline, "", Duration::ZERO, |state| {
            let seen = cursor.saturating_sub(state.forgotten) as usize;
            for event in state.events.iter().skip(seen) {
                *cursor = (*cursor).max(state.forgotten) + 1;
                if let Some(value) = pick(event) {
                    return Some(value);
                }
            }
            None
        });
        match found {
            Ok(value) => Ok(Some(value)),
            Err(Error::Timeout { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits for the end of the stream.
    pub fn wait_ended(&self, timeout: Duration) -> Result<()> {
        match self.wait::<()>(Instant::now() + timeout, "quit", timeout, |_| None) {
            Err(Error::Ended | Error::Protocol { .. }) => Ok(()),
            other => other,
        }
    }

    fn alive(&self) -> Result<()> {
        match &self.shared.state.lock().ended {
            None => Ok(()),
            Some(reason) => Err(end(reason)),
        }
    }

    fn wait<T>(
        &self,
        deadline: Instant,
        what: &str,
        waited: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(value) = ready(&mut state) {
                return Ok(value);
            }
            if let Some(reason) = &state.ended {
                return Err(end(reason));
            }
            // Looked at once more after the time is over: what came with it counts.
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: what.into(), waited });
            }
            self.shared.changed.wait_until(&mut state, deadline);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Wakes the reader, which has a descriptor of its own.
        let _ = self.writer.get_mut().stream.shutdown(std::net::Shutdown::Both);
    }
}

fn end(reason: &Option<String>) -> Error {
    match reason {
        None => Error::Ended,
        Some(what) => Error::Protocol { driver: DRIVER, what: what.clone() },
    }
}

fn send(stream: &UnixStream, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    while !bytes.is_empty() {
        let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        bytes = bytes.get(sent..).unwrap_or_default();
        control.clear();
    }
    Ok(())
}

fn read(mut stream: UnixStream, shared: &Shared) {
    let reason = read_lines(&mut stream, |line| {
        let mut state = shared.state.lock();
        let outcome = take(&mut state, line);
        shared.changed.notify_all();
        outcome
    });
    if let Err(what) = &reason {
        tracing::warn!(%what, "QMP ends");
    }
    shared.state.lock().ended = Some(reason.err());
    shared.changed.notify_all();
}

fn read_lines(stream: &mut impl Read, mut line: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let mut pending: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let got = match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        let mut rest = chunk.get(..got).unwrap_or_default();
        while let Some(at) = rest.iter().position(|&b| b == b'\n') {
            let (head, tail) = rest.split_at(at);
            pending.extend_from_slice(head);
            if !pending.trim_ascii().is_empty() {
                line(&pending)?;
            }
            pending.clear();
            rest = tail.get(1..).unwrap_or_default();
        }
        pending.extend_from_slice(rest);
        if pending.len() > MAX_LINE {
            return Err(format!("a line of more than {MAX_LINE} bytes"));
        }
    }
}

/// Takes one message of QEMU's in.
fn take(state: &mut State, line: &[u8]) -> Result<(), String> {
    let mut message: Value = serde_json::from_slice(line).map_err(|e| format!("a line that is no JSON: {e}"))?;
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let name = name.to_string();
        if state.events.len() == MAX_EVENTS {
            state.events.pop_front();
            state.forgotten += 1;
        }
        state.events.push_back(QmpEvent { name, data: message["data"].take() });
    } else if message.get("QMP").is_some() {
        state.greeted = true;
    } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
        let answer = match message.get("error") {
            None => Ok(message["return"].take()),
            Some(error) => Err(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_string()),
        };
        state.answer = Some((id, answer));
    } else if let Some(error) = message.get("error") {
        return Err(format!("it took a command for no JSON: {error}"));
    }
    Ok(())
}
