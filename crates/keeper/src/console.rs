//! What the guest's kernel and agent print: logged, and the end of it kept for messages.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_api::rate::Rate;
use agent_api::vm;

use crate::{KeeperError, spawn};

/// Lines that are kept.
const LINES: usize = 8;
/// Longest line in bytes; longer ones are cut into several.
const LINE: u64 = 512;
/// How a kernel's line on its own end begins, behind the time.
const PANIC: &str = "Kernel panic";
/// Lines of the agent's in one [`PERIOD`] that are logged as urgent as they say: more than the agent lets itself say, but whoever has taken over the guest is
/// bounded by it.
const AGENT_LINES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(10);
/// How long [`Console::last_words`] waits for the end.
const LAST_WORDS: Duration = Duration::from_millis(300);

#[derive(Default)]
struct State {
    tail: VecDeque<String>,
    /// Why its kernel has given up, in the kernel's words.
    panic: Option<String>,
    closed: bool,
}

/// The guest's console. It only speaks.
pub struct Console(Arc<(Mutex<State>, Condvar)>);

impl Console {
    /// Begins to read it.
    ///
    /// # Errors
    /// No thread.
    pub fn watch(console: OwnedFd) -> Result<Console, KeeperError> {
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let watched = Console(state.clone());
        spawn("console", move || {
            let mut reader = BufReader::with_capacity(1024, File::from(console));
            let mut line = Vec::new();
            let mut rate = Rate::new(AGENT_LINES, PERIOD, Instant::now());
            loop {
                line.clear();
                match (&mut reader).take(LINE).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                let text = printable(&line);
                if text.is_empty() {
                    continue;
                }
                let text = log(text, &mut rate);
                let mut state = lock(&state.0);
                if let Some(at) = text.find(PANIC).filter(|_| state.panic.is_none()) {
                    state.panic = text.get(at..).map(str::to_string);
                }
                if state.tail.len() == LINES {
                    state.tail.pop_front();
                }
                state.tail.push_back(text);
            }
            lock(&state.0).closed = true;
            state.1.notify_all();
        })?;
        Ok(watched)
    }

    /// Why its kernel has panicked, if it has; else the last lines, or that there are none.
    pub fn tail(&self) -> String {
        let state = lock(&self.0.0);
        match &state.panic {
            // What comes behind it are registers.
            Some(panic) => panic.clone(),
            None if state.tail.is_empty() => "its console is empty".into(),
            None => state.tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | "),
        }
    }

    /// Whether its kernel has said that it panics.
    pub fn has_panicked(&self) -> bool {
        lock(&self.0.0).panic.is_some()
    }

    /// [`Console::tail`] when the guest has said everything, or a moment has passed.
    pub fn last_words(&self) -> String {
        let state = lock(&self.0.0);
        drop(self.0.1.wait_timeout_while(state, LAST_WORDS, |state| !state.closed));
        self.tail()
    }
}

/// Logs a line: the agent's as urgent as it says, the rest (the kernel's, and what is too much) for those who look for a fault. Returns it as people
/// read it.
fn log(line: String, rate: &mut Rate) -> String {
    let levelled = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match levelled {
        Some((level, text)) if text.starts_with(vm::AGENT_LOG) => {
            let urgent = matches!(level, "0" | "1" | "2" | "3" | "4" | "5" | "6");
            let left_out = if urgent { rate.take(Instant::now()) } else { None };
            if let Some(left_out @ 1..) = left_out {
                tracing::warn!(left_out, "in the guest: more lines than are logged");
            }
            match level {
                _ if left_out.is_none() => tracing::debug!("in the guest: {text}"),
                "4" => tracing::warn!("in the guest: {text}"),
                "5" | "6" => tracing::info!("in the guest: {text}"),
                _ => tracing::error!("in the guest: {text}"),
            }
            text.to_string()
        }
        _ => {
            tracing::debug!("the guest's console: {line}");
            line
        }
    }
}

/// A line as text without control characters: it goes to people's terminals.
fn printable(line: &[u8]) -> String {
    // A longer one was cut where it was read.
    agent_api::text::line(&String::from_utf8_lossy(line), usize::MAX).trim().to_string()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_end_is_kept_and_cannot_harm_a_terminal() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let console = Console::watch(reader.into()).unwrap();
        assert_eq!(console.tail(), "its console is empty");
        for n in 0..100 {
            writeln!(writer, "line {n}\r").unwrap();
        }
        writer.write_all(&[b'x'; 2000]).unwrap();
        writer.write_all(b"\n<3>nacre-agent: gone\n\x1b[2Jpanic\x07\n").unwrap();
        drop(writer);
        let tail = console.last_words();
        assert!(
            tail.ends_with("| nacre-agent: gone | [2Jpanic") && !tail.contains('\x1b') && tail.contains("line 99"),
            "{tail}"
        );
        assert!(!tail.contains("line 90 "), "{tail}");
        assert!(!console.has_panicked());
    }

    #[test]
    fn of_a_panic_the_reason_is_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let console = Console::watch(reader.into()).unwrap();
        writer.write_all(b"[    9.1] Kernel panic - not syncing: sysrq triggered crash\r\n").unwrap();
        (0..100).for_each(|n| writeln!(writer, "RSP: {n}").unwrap());
        drop(writer);
        assert_eq!(console.last_words(), "Kernel panic - not syncing: sysrq triggered crash");
        assert!(console.has_panicked());
    }
}
