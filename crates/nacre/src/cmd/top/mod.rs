//! `nacre top`: what containers use, live.
//!
//! One thread asks the sandboxes, the main one draws and listens to the keyboard, so that a sandbox that hangs keeps nobody from leaving.

mod rows;

use std::io::{IsTerminal, PipeReader, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use runtime::sys::SignalSet;
use rustix::event::{PollFd, PollFlags, poll};

use self::rows::{HEADING, Moment, Row, Sort, rows, sort};
use super::Failure;
use super::events::duration;
use crate::cli::Global;
use crate::gather::{Gatherer, Which};
use crate::terminal;

/// Show what containers use, live in a terminal (q ends, c m p s n i sort)
#[derive(Debug, Args)]
pub struct Top {
    /// Print one table and exit, as without a terminal
    #[arg(long)]
    once: bool,
    /// Time between looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    interval: Duration,
    /// What is first
    #[arg(long, value_name = "COLUMN", default_value = "cpu")]
    sort: Sort,
    #[command(flatten)]
    which: Which,
}

/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner; the rest of the line, and of the screen, is empty.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

impl Top {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let gatherer = self.which.gatherer(global);
        if self.once || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            let (_, before) = rows(&gatherer.gather()?, Instant::now(), None);
            std::thread::sleep(self.interval.min(Duration::from_secs(1)));
            let (mut rows, _) = rows(&gatherer.gather()?, Instant::now(), Some(&before));
            sort(&mut rows, self.sort);
            super::table(&table(&rows))?;
            return Ok(0);
        }
        self.live(gatherer)?;
        Ok(0)
    }

    fn live(&self, gatherer: Gatherer) -> anyhow::Result<()> {
        let ends = SignalSet::new(&[libc::SIGTERM, libc::SIGHUP]);
        ends.block();
        let feed = Feed::start(gatherer, self.interval)?;
        let _raw = terminal::Raw::enter()?;
        let screen = Screen::enter()?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            ends.wait();
            let _ = std::io::stdout().write_all(LEAVE.as_bytes());
            terminal::restore();
            std::process::exit(0);
        })?;
        let mut by = self.sort;
        loop {
            screen.draw(&feed.rows(), by)?;
            match feed.next_key()? {
                None => {}
                // Also Ctrl-C and the end of the input.
                Some(b'q' | 3 | 4) => return Ok(()),
                Some(key) => by = sort_key(key).unwrap_or(by),
            }
        }
    }
}

fn sort_key(key: u8) -> Option<Sort> {
    Some(match key {
        b'c' => Sort::Cpu,
        b'm' => Sort::Memory,
        b'p' => Sort::Pids,
        b's' => Sort::Calls,
        b'n' => Sort::Net,
        b'i' => Sort::Name,
        _ => return None,
    })
}

fn table(rows: &[Row]) -> Vec<[String; 10]> {
    std::iter::once(HEADING.map(String::from)).chain(rows.iter().map(Row::cells)).collect()
}

/// What the thread that asks has found, and a pipe that says when.
struct Feed {
    rows: Arc<Mutex<Result<Vec<Row>, String>>>,
    news: PipeReader,
}

impl Feed {
    fn start(gatherer: Gatherer, interval: Duration) -> std::io::Result<Feed> {
        let (news, mut tell) = std::io::pipe()?;
        let shared = Arc::new(Mutex::new(Ok(Vec::new())));
        let out = shared.clone();
        std::thread::Builder::new().name("gather".into()).spawn(move || {
            let mut before: Option<Moment> = None;
            loop {
                let found = gatherer.gather().map_err(|error| format!("{error:#}")).map(|seen| {
                    let (rows, moment) = rows(&seen, Instant::now(), before.as_ref());
                    // The first rates come soon.
                    let pause = if before.is_some() { interval } else { interval.min(Duration::from_millis(500)) };
                    before = Some(moment);
                    (rows, pause)
                });
                let pause = found.as_ref().map_or(interval, |(_, pause)| *pause);
                *out.lock().unwrap_or_else(PoisonError::into_inner) = found.map(|(rows, _)| rows);
                if tell.write_all(b"n").is_err() {
                    return;
                }
                std::thread::sleep(pause);
            }
        })?;
        Ok(Feed { rows: shared, news })
    }

    fn rows(&self) -> Result<Vec<Row>, String> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a key, which it gives, or for news or another size (None).
    fn next_key(&self) -> std::io::Result<Option<u8>> {
        let stdin = std::io::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.news, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => return Ok(None),
            done => done?,
        };
        let (key, news) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if news {
            rustix::io::read(&self.news, &mut [0; 64])?;
        }
        if !key {
            return Ok(None);
        }
        let mut byte = [0];
        // The end of the input ends this, as Ctrl-D does.
        Ok(Some(if rustix::io::read(&stdin, &mut byte)? == 0 { 4 } else { byte[0] }))
    }
}

struct Screen(());

impl Screen {
    fn enter() -> std::io::Result<Screen> {
        print(ENTER)?;
        Ok(Screen(()))
    }

    fn draw(&self, rows: &Result<Vec<Row>, String>, by: Sort) -> std::io::Result<()> {
        let size = terminal::size(std::io::stdout().as_fd());
        let (height, width) = (size.rows.max(4) as usize, size.columns.max(20) as usize);
        let lines = match rows {
            Err(what) => vec![what.clone()],
            Ok(rows) => {
                let mut rows = rows.clone();
                sort(&mut rows, by);
                super::columns(&table(&rows))
            }
        };
        let head = format!("nacre top, by {by:?}: c(pu) m(emory) p(ids) s(ystem calls) n(et) i(d), q ends").to_lowercase();
        let mut text = String::from(HOME);
        for line in std::iter::once(head).chain(lines).take(height - 1) {
            text.extend(line.chars().take(width));
            text += CLEAR_LINE;
            text += "\r\n";
        }
        print(&(text + CLEAR_BELOW))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print(LEAVE);
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}
