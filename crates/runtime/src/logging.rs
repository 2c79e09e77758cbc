//! Log lines in runc's two formats, for the runtime's own processes.
//!
//! A subscriber of a few lines rather than a crate: confined processes log too, under a filter that allows `write` and the clock and
//! little else. One line is one write. What a guest can provoke it can provoke without end, so each place in the code gets so many lines in
//! so much time ([`Rate`]).

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    Text,
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    pub format: Format,
    pub debug: bool,
    /// The sandbox that all lines are about, if it is known from the start ([`about`]).
    pub sandbox: Option<String>,
}

impl Config {
    fn level(&self) -> Level {
        if self.debug { Level::DEBUG } else { Level::WARN }
    }

    /// The same, as syslog counts.
    pub fn syslog_level(&self) -> u32 {
        if self.debug { 7 } else { 4 }
    }
}

struct Log {
    format: Format,
    level: Level,
    /// Standard error if none.
    file: Option<File>,
    /// Short lines for people.
    terminal: bool,
    rate: Mutex<Rate>,
    sandbox: OnceLock<String>,
    /// Unless a thread has another ([`About`]).
    container: OnceLock<String>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts logging to `file`, or to standard error. The first call counts.
pub fn install(config: &Config, file: Option<File>) {
    let terminal = file.is_none() && std::io::stderr().is_terminal();
    let sandbox = OnceLock::new();
    if let Some(id) = &config.sandbox {
        let _ = sandbox.set(id.clone());
    }
    let (rate, container) = (Mutex::default(), OnceLock::new());
    let log = Log { format: config.format, level: config.level(), file, terminal, rate, sandbox, container };
    if LOG.set(log).is_ok() {
        let _ = tracing::subscriber::set_global_default(Lines);
    }
}

/// From now on all lines of this process are about this container in this sandbox. The first call counts.
pub fn about(sandbox: &str, container: &str) {
    if let Some(log) = LOG.get() {
        let _ = log.sandbox.set(sandbox.into());
        let _ = log.container.set(container.into());
    }
}

thread_local! {
    static CONTAINER: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While this lives, the lines of this thread are about a container.
#[derive(Debug)]
pub struct About(Option<String>);

impl About {
    pub fn container(id: &str) -> About {
        About(CONTAINER.replace(Some(id.into())))
    }
}

impl Drop for About {
    fn drop(&mut self) {
        CONTAINER.set(self.0.take());
    }
}

struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        LOG.get().is_some_and(|log| *metadata.level() <= log.level)
    }
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        LOG.get().map(|log| log.level.into())
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(log) = LOG.get() else { return };
        let place = event.metadata().callsite();
        let Some(left_out) = log.rate.lock().unwrap_or_else(PoisonError::into_inner).take(place, Instant::now()) else {
            return;
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if !log.terminal {
            let container = CONTAINER.with_borrow(|id| id.clone()).or_else(|| log.container.get().cloned());
            fields.others.extend(log.sandbox.get().map(|id| ("sandbox", id.clone())));
            fields.others.extend(container.map(|id| ("container", id)));
        }
        if left_out > 0 {
            fields.others.push(("left_out", format!("{left_out} like it")));
        }
        let mut line = log.line(*event.metadata().level(), &fields);
        line.push('\n');
        let _ = match &log.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

/// Lines one place may log in one [`PERIOD`].
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// How much each place in the code has logged lately. As many entries as there are places that log.
#[derive(Default)]
struct Rate(Vec<Place>);

struct Place {
    id: Identifier,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Rate {
    /// None if the place has logged enough; else how many of its lines were left out before this one.
    fn take(&mut self, id: Identifier, now: Instant) -> Option<u64> {
        let Some(place) = self.0.iter_mut().find(|place| place.id == id) else {
            self.0.push(Place { id, since: now, lines: 1, left_out: 0 });
            return Some(0);
        };
        if now.duration_since(place.since) >= PERIOD {
            (place.since, place.lines) = (now, 0);
        }
        if place.lines >= LINES {
            place.left_out += 1;
            return None;
        }
        place.lines += 1;
        Some(std::mem::take(&mut place.left_out))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn append_to(&self, line: &mut String) {
        for (key, value) in &self.others {
            let _ = write!(line, " {key}={value:?}");
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.into(),
            name => self.others.push((name, value.into())),
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Log {
    fn line(&self, level: Level, fields: &Fields) -> String {
        let name = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut line = String::new();
        match self.format {
            Format::Json => {
                let mut object = serde_json::Map::new();
                object.insert("level".into(), name.into());
                object.insert("msg".into(), fields.message.as_str().into());
                object.insert("time".into(), now().into());
                for (key, value) in &fields.others {
                    object.insert((*key).into(), value.as_str().into());
                }
                line = serde_json::Value::Object(object).to_string();
            }
            Format::Text if self.terminal => {
                let _ = write!(line, "{:.4}[0000] {}", name.to_uppercase(), fields.message);
                fields.append_to(&mut line);
            }
            Format::Text => {
                let _ = write!(line, "time={:?} level={name} msg={:?}", now(), fields.message);
                fields.append_to(&mut line);
            }
        }
        line
    }
}

fn now() -> String {
    rfc3339(hostcall::time::realtime_ns())
}

/// Nanoseconds since 1970 as RFC 3339 in UTC.
pub fn rfc3339(ns: u64) -> String {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Days to a civil date, years from March (Howard Hinnant's algorithm).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_logs_so_much_and_no_more() {
        struct Here;
        impl tracing::Callsite for Here {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("only its identity counts")
            }
        }
        static HERE: Here = Here;
        let (mut rate, start) = (Rate::default(), Instant::now());
        let mut take = |after: u64| rate.take(Identifier(&HERE), start + Duration::from_secs(after));
        assert_eq!((0..LINES + 7).filter(|_| take(0).is_some()).count() as u32, LINES);
        assert_eq!((take(9), take(10), take(10)), (None, Some(8), Some(0)));
    }

    #[test]
    fn dates() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(super::rfc3339(951_827_696_000_000_001), "2000-02-29T12:34:56.000000001Z");
        assert_eq!(super::rfc3339(1_764_000_000_000_000_000), "2025-11-24T16:00:00.000000000Z");
    }
}
