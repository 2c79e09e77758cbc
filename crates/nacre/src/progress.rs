//! Progress of pulling and unpacking, on standard error: one line for each layer that changes in place on a terminal, a line when something is
//! done elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use image::progress::{Progress, Quiet, Step, Update};

use crate::cmd::image::size;
use crate::terminal;

/// How often a terminal is written to.
const EVERY: Duration = Duration::from_millis(80);

/// What fits where standard error goes.
pub fn new(quiet: bool) -> Box<dyn Progress> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Box::new(Quiet),
        (false, true) => Box::new(Lines::default()),
        (false, false) => Box::new(Plain),
    }
}

struct Plain;

impl Progress for Plain {
    fn update(&self, update: Update<'_>) {
        if update.done == update.total {
            let _ = writeln!(std::io::stderr(), "layer {}: {} ({})", update.layer, done(update.step), size(update.total));
        }
    }

    fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn done(step: Step) -> &'static str {
    match step {
        Step::Pulling => "pulled",
        Step::Unpacking => "unpacked",
    }
}

/// Lines that change in place.
#[derive(Default)]
struct Lines {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Layers in the order in which they were first heard of.
    lines: Vec<(String, String)>,
    /// How many of them are on the terminal.
    shown: usize,
    last: Option<Instant>,
}

impl Progress for Lines {
    fn update(&self, update: Update<'_>) {
        let mut state = self.state.borrow_mut();
        let text = match update.done == update.total {
            true => format!("layer {}  {:<9} {}", update.layer, done(update.step), size(update.total)),
            false => {
                let doing = if update.step == Step::Pulling { "pulling" } else { "unpacking" };
                let filled = (update.done.saturating_mul(20) / update.total.max(1)).min(20) as usize;
                let bar: String = (0..20).map(|at| if at < filled { '#' } else { '.' }).collect();
                format!("layer {}  {doing:<9} [{bar}] {} of {}", update.layer, size(update.done), size(update.total))
            }
        };
        match state.lines.iter_mut().find(|(layer, _)| layer == update.layer) {
            Some((_, line)) => *line = text,
            None => state.lines.push((update.layer.into(), text)),
        }
        if update.done == update.total || state.last.is_none_or(|last| last.elapsed() >= EVERY) {
            state.show("");
        }
    }

    fn note(&self, text: &str) {
        self.state.borrow_mut().show(&format!("{text}\n"));
    }
}

impl State {
    /// Writes all lines over those that are there, below `note`.
    fn show(&mut self, note: &str) {
        self.last = Some(Instant::now());
        let width = match terminal::own_size().columns {
            0 => 80,
            columns => columns as usize,
        };
        let mut out = String::new();
        if self.shown > 0 {
            out.push_str(&format!("\x1b[{}A", self.shown));
        }
        if !note.is_empty() {
            out.push_str("\r\x1b[K");
            out.push_str(note);
        }
        for (_, line) in &self.lines {
            // A line that wraps would be two.
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            out.push_str(&format!("\r\x1b[K{line}\n"));
        }
        self.shown = self.lines.len();
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(out.as_bytes()).and_then(|()| stderr.flush());
    }
}
