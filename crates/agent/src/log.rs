//! The log: lines on the guest's console, each with its level in front as the kernel's have it (`<4>nacre-agent: …`). The host's keeper takes that off and
//! logs them as the sandbox's.
//!
//! The console is slow, and containers can provoke lines: so many in so much time, then the number of those left out.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent_api::rate::Rate;
use agent_api::vm::AGENT_LOG;
use parking_lot::Mutex;

/// syslog(3)'s levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error = 3,
    Warning = 4,
    Debug = 7,
}

/// Lines in one [`PERIOD`].
const LINES: u32 = 40;
const PERIOD: Duration = Duration::from_secs(10);

/// The least urgent level that is printed.
static LEVEL: AtomicU32 = AtomicU32::new(Level::Warning as u32);
static RATE: Mutex<Option<Rate>> = Mutex::new(None);

/// From now on lines up to this level are printed; 0 changes nothing.
pub fn set_level(level: u32) {
    if level > 0 {
        LEVEL.store(level, Ordering::Relaxed);
    }
}

/// The end is near: said whatever was said before.
pub fn error(text: fmt::Arguments<'_>) {
    eprintln!("{}", line(Level::Error, text));
}

/// Something is wrong, and the guest goes on.
pub fn warn(text: fmt::Arguments<'_>) {
    say(Level::Warning, text);
}

/// For those who look for a fault.
pub fn debug(text: fmt::Arguments<'_>) {
    say(Level::Debug, text);
}

fn say(level: Level, text: fmt::Arguments<'_>) {
    if level as u32 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let taken = RATE.lock().get_or_insert_with(|| Rate::new(LINES, PERIOD, Instant::now())).take(Instant::now());
    match taken {
        None => {}
        Some(0) => eprintln!("{}", line(level, text)),
        Some(left_out) => eprintln!("{} (after {left_out} that were left out)", line(level, text)),
    }
}

fn line(level: Level, text: fmt::Arguments<'_>) -> String {
    format!("<{}>{AGENT_LOG}{text}", level as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_level_in_front() {
        assert_eq!(line(Level::Warning, format_args!("x")), "<4>nacre-agent: x");
    }
}
