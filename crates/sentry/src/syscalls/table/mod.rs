//! The one table of system calls: number, name, arguments for traces, and a handler or the errno of what is missing.
//!
//! Each family has a file of lines beside this one, which use [`full`], [`partial`] and [`none`].

mod credentials;
mod fs;
mod io;
mod memory;
mod net;
mod process;
mod sched;
mod signal;
mod system;
mod sysvipc;
mod time;

use std::sync::OnceLock;

use super::Handler;
use crate::Errno;

/// How an argument is printed in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    Fd,
    /// A directory descriptor; `AT_FDCWD` by name.
    DirFd,
    /// A string in guest memory.
    Path,
    Addr,
    Size,
    Int,
    Uint,
    Hex,
    /// Octal.
    Mode,
    Signal,
}

/// How much of a system call is there.
#[derive(Clone, Copy)]
pub enum Support {
    Full(Handler),
    /// With a note on what is missing.
    Partial(Handler, &'static str),
    /// The errno given, as Linux built without it would (or as `note` explains).
    None(Errno, &'static str),
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Line {
    pub number: u64,
    pub name: &'static str,
    pub args: &'static [Arg],
    pub support: Support,
}

const fn full(number: u64, name: &'static str, args: &'static [Arg], handler: Handler) -> Line {
    Line { number, name, args, support: Support::Full(handler) }
}

const fn partial(number: u64, name: &'static str, args: &'static [Arg], handler: Handler, note: &'static str) -> Line {
    Line { number, name, args, support: Support::Partial(handler, note) }
}

const fn none(number: u64, name: &'static str, args: &'static [Arg], errno: Errno, note: &'static str) -> Line {
    Line { number, name, args, support: Support::None(errno, note) }
}

const FAMILIES: &[&[Line]] = &[
    credentials::LINES,
    fs::LINES,
    io::LINES,
    memory::LINES,
    net::LINES,
    process::LINES,
    sched::LINES,
    signal::LINES,
    system::LINES,
    sysvipc::LINES,
    time::LINES,
];

fn by_number() -> &'static [Option<Line>] {
    static TABLE: OnceLock<Vec<Option<Line>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let size = FAMILIES.iter().flat_map(|lines| lines.iter()).map(|line| line.number as usize + 1).max().unwrap_or(0);
        let mut table = vec![None; size];
        for line in FAMILIES.iter().flat_map(|lines| lines.iter()) {
            if let Some(place) = table.get_mut(line.number as usize) {
                *place = Some(*line);
            }
        }
        table
    })
}

/// The line of a number, if Linux has such a call.
pub fn line(number: u64) -> Option<&'static Line> {
    by_number().get(usize::try_from(number).ok()?)?.as_ref()
}

/// All lines by number, for the compatibility page.
pub fn lines() -> impl Iterator<Item = &'static Line> {
    by_number().iter().flatten()
}

/// How many calls there are in full, in part, and not at all.
pub fn totals() -> [usize; 3] {
    let mut totals = [0; 3];
    for line in lines() {
        let [full, partial, none] = &mut totals;
        *match line.support {
            Support::Full(_) => full,
            Support::Partial(..) => partial,
            Support::None(..) => none,
        } += 1;
    }
    totals
}

/// The table as docs/syscalls.md has it.
pub fn markdown() -> String {
    let [full, partial, none] = totals();
    let mut text = format!(
        "# System calls\n\nMade by `nacre help syscalls --markdown` from the sentry's one table (`crates/sentry/src/syscalls/table`); a test fails when this page is \
         stale. Linux for x86-64 has {} calls: {full} are here in full, {partial} in part, {none} are refused with the error given.\n\n\
         | number | name | support | what to know |\n|---|---|---|---|\n",
        full + partial + none,
    );
    for line in lines() {
        let (level, note) = match line.support {
            Support::Full(_) => ("full", String::new()),
            Support::Partial(_, note) => ("partial", note.to_string()),
            Support::None(errno, "") => ("none", format!("`{errno}`")),
            Support::None(errno, note) => ("none", format!("`{errno}`: {note}")),
        };
        text.push_str(&format!("| {} | `{}` | {level} | {} |\n", line.number, line.name, note.replace('|', "\\|")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_table_says() {
        let page = include_str!("../../../../../docs/syscalls.md");
        assert!(page == markdown(), "docs/syscalls.md is stale: nacre help syscalls --markdown >docs/syscalls.md");
    }

    #[test]
    fn every_number_is_there_once() {
        let mut seen = std::collections::BTreeMap::new();
        for line in FAMILIES.iter().flat_map(|lines| lines.iter()) {
            if let Some(other) = seen.insert(line.number, line.name) {
                panic!("{} and {other} are both number {}", line.name, line.number);
            }
        }
        for number in (0..=334).chain(424..=469) {
            assert!(seen.contains_key(&number), "number {number} is missing");
        }
    }
}
