//! The report file: a sandbox's last words, for whoever asks after its death.
//!
//! The sandbox process holds it open from the start (append only) and writes one line of JSON when it ends: its exit status, or why it
//! broke. Nobody watches a sandbox, so this is how a later `nacre state` knows. What is in it was written by a process that may have been
//! taken over: little of it is read, and it is only shown.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::message;

/// Longest part that is read.
const MAX: u64 = 16 << 10;

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// With this status (its first container's own process's).
    Exited(u8),
    /// It broke; the reason.
    Broke(String),
}

static FILE: OnceLock<File> = OnceLock::new();

/// Takes the file to write to.
pub fn install(file: OwnedFd) {
    let _ = FILE.set(File::from(file));
}

/// Writes a line, with one host call and, but for the text, no allocation that could fail under the filter.
pub fn write(report: &Report) {
    if let (Some(mut file), Ok(mut line)) = (FILE.get(), serde_json::to_vec(report)) {
        line.push(b'\n');
        let _ = file.write_all(&line);
    }
}

/// The life of a sandbox's main process, called `name` in messages: what breaks it is reported, and said to its parent. Returns its exit status.
pub fn live(name: &str, socket: &UnixStream, run: impl FnOnce(&UnixStream) -> Result<u8, String>) -> i32 {
    on_panic();
    match run(socket) {
        Ok(status) => status.into(),
        Err(reason) => {
            write(&Report::Broke(reason.clone()));
            let _ = message::send_all(socket.as_fd(), format!("{name}: {reason}").as_bytes());
            1
        }
    }
}

/// Makes panics end the process with their reason in the report and on standard error.
fn on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let reason = info.payload_as_str().unwrap_or("unknown panic");
        let text = format!("internal error{place}: {reason}");
        write(&Report::Broke(text.clone()));
        let _ = writeln!(std::io::stderr(), "{text}");
        std::process::exit(134);
    }));
}

/// The first report in a file, if there is one.
pub fn read(file: impl Read) -> Option<Report> {
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_valid_line_counts() {
        let text = "garbage\n{\"broke\":\"out of luck\"}\n{\"exited\":0}\n";
        assert_eq!(read(text.as_bytes()), Some(Report::Broke("out of luck".into())));
        assert_eq!(read(&b""[..]), None);
    }
}
