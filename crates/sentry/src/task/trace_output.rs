//! [`TraceOutput`]: where lines of a trace go. A pipe is the queue between us and the reader; when it stays full, lines are left out, and counted:
//! a reader that stops must not stop the sandbox.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hostcall::event::poll_for;
use hostcall::io::{Sleep, write_at};

use crate::wait::PollEvents;

/// How long a full pipe is waited for, once.
const PATIENCE: Duration = Duration::from_millis(50);
/// A pipe that polls as writable takes so many bytes without sleeping (`PIPE_BUF`).
const LONGEST_LINE: usize = 4096;

/// See the module.
pub(super) struct TraceOutput {
    output: OwnedFd,
    left_out: u64,
}

impl TraceOutput {
    pub(super) fn new(output: OwnedFd) -> TraceOutput {
        TraceOutput { output, left_out: 0 }
    }

    /// Writes a line, or counts it as left out.
    pub(super) fn write(&mut self, line: &str) {
        let patience = if self.left_out == 0 { PATIENCE } else { Duration::ZERO };
        if !self.has_room(patience) {
            self.left_out += 1;
            return;
        }
        if self.left_out > 0 {
            let left_out = std::mem::take(&mut self.left_out);
            self.put(&format!("({left_out} lines left out: the reader is too slow)"));
            if !self.has_room(Duration::ZERO) {
                self.left_out = 1;
                return;
            }
        }
        self.put(line);
    }

    fn has_room(&self, patience: Duration) -> bool {
        poll_for(&self.output, PollEvents::OUT.bits() as u16, patience).unwrap_or(true)
    }

    fn put(&self, line: &str) {
        let mut line = line.as_bytes().to_vec();
        line.truncate(LONGEST_LINE - 1);
        line.push(b'\n');
        // A reader that has gone away ends nothing.
        let _ = write_at(self.output.as_fd(), &line, -1, Sleep::Allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_reader_that_stops_stops_nothing() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let mut output = TraceOutput::new(OwnedFd::from(writer));
        let line = "x".repeat(1000);
        (0..500).for_each(|_| output.write(&line));
        assert!(output.left_out > 300, "{}", output.left_out);
        let mut taken = [0; 40_000];
        reader.read_exact(&mut taken).expect("read");
        output.write("after");
        drop(output);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("read");
        assert!(rest.contains("lines left out") && rest.ends_with("\nafter\n"), "{}", &rest[rest.len() - 100..]);
    }
}
