//! The verbs, one file each.

pub mod create;
pub mod debug;
pub mod delete;
pub mod do_;
pub mod events;
pub mod exec;
pub mod features;
pub mod guest;
pub mod help;
pub mod image;
pub mod install;
pub mod kill;
pub mod list;
pub mod metrics;
pub mod pause;
pub mod port_forward;
pub mod ps;
pub mod resume;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod top;
pub mod update;

use std::io::Write;

use anyhow::Context;

use crate::cli::{Cli, Verb};

/// A verb that failed, and the exit code it fails with.
#[derive(Debug)]
pub struct Failure {
    pub error: anyhow::Error,
    pub code: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { error: error.into(), code: 1 }
    }
}

/// Runs the verb. The number is the exit code.
pub fn run(cli: &Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Do(verb) => verb.run(global),
        Verb::Spec(verb) => verb.run(),
        Verb::Create(verb) => verb.run(global),
        Verb::Start(verb) => verb.run(global),
        Verb::Run(verb) => verb.run(global),
        Verb::Exec(verb) => verb.run(global),
        Verb::State(verb) => verb.run(global),
        Verb::Kill(verb) => verb.run(global),
        Verb::Delete(verb) => verb.run(global),
        Verb::List(verb) => verb.run(global),
        Verb::Ps(verb) => verb.run(global),
        Verb::Pause(verb) => verb.run(global),
        Verb::Resume(verb) => verb.run(global),
        Verb::Update(verb) => verb.run(global),
        Verb::Events(verb) => verb.run(global),
        Verb::Metrics(verb) => verb.run(global),
        Verb::Top(verb) => verb.run(global),
        Verb::Image(verb) => verb.run(global),
        Verb::Guest(verb) => verb.run(),
        Verb::Install(verb) => verb.run(),
        Verb::Features(verb) => verb.run(),
        Verb::Debug(verb) => verb.run(global),
        Verb::PortForward(verb) => verb.run(global),
        Verb::Help(verb) => verb.run(),
    }
}

/// Writes a line to standard output; a closed one is an error, not a panic.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Writes rows in columns.
fn table<const N: usize>(rows: &[[String; N]]) -> anyhow::Result<()> {
    print(&columns(rows).join("\n"))
}

/// Text of somebody else's choice, without what would steer a terminal.
fn printable(text: &str) -> String {
    agent_api::text::line(text, usize::MAX)
}

/// Rows as lines of columns.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   "));
        cells.collect::<String>().trim_end().to_string()
    };
    rows.iter().map(line).collect()
}
