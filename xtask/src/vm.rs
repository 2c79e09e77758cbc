//! `vm`: the tests of sandboxes again, with virtual machines as sandboxes: those that fit in ten minutes of an emulated machine, or in two.
//!
//! They are the same commands, started again with `NACRE_SANDBOX=vm`, which nacre reads too.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{agent, packages, sh};

/// What is run: a command of ours, and its arguments.
type Runs = &'static [&'static [&'static str]];

const SMALL: Runs = &[
    &["abi", "--sandbox", "files", "mounts", "namespaces", "pipes", "process", "unix"],
    &["robust", "exit-codes", "stdin-and-stdout", "signals-are-forwarded", "memory-hog", "kill-each-process", "life-cycle"],
];
const ALL: Runs =
    &[&["abi", "--sandbox"], &["robust"], &["apps", "--do", "everyday", "python", "git", "gcc", "perl", "sqlite", "tmux"]];

pub fn run(args: &[String]) -> Result<Tally> {
    let runs = match args {
        [] => ALL,
        [flag] if flag == "--small" => SMALL,
        _ => bail!("vm: unknown arguments {args:?}"),
    };
    packages::ensure(packages::TEST)?;
    sh::build_nacre()?;
    agent::build()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut tally = Tally::default();
    for command in runs.iter().copied() {
        let mut run = Command::new(&program);
        run.args(command).env("NACRE_SANDBOX", "vm").current_dir(sh::top());
        tally.step(&format!("in VMs: {}", command.join(" ")), sh::run(&mut run));
    }
    Ok(tally)
}
