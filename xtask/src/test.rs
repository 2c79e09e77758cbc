//! `test`: everything, a fast tier first. The fast tier needs no sandbox: lint, unit tests and the native half of the ABI tests.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{abi, agent, apps, cri, escape, lint, net, packages, robust, sh, vm};

/// How long all unit and integration tests together may run.
const TESTS_LIMIT: Duration = Duration::from_secs(600);

pub fn run(args: &[String]) -> Result<()> {
    let (fast, full) = match args {
        [] => (false, false),
        [flag] if flag == "--fast" => (true, false),
        [flag] if flag == "--full" => (false, true),
        _ => bail!("test: unknown arguments {args:?}"),
    };
    packages::ensure(packages::TEST)?;
    let mut tally = Tally::default();
    tally.step("lint", lint::run(&[]));
    tally.step("agent", agent::build());
    tally.attempt("cargo test", cargo_test(), cargo_test);
    tally.add(abi::run(&["--native".into()])?);
    if !fast {
        sh::build_nacre()?;
        tally.add(abi::run(&["--sandbox".into()])?);
        tally.add(escape::run(&[])?);
        tally.add(robust::run(&[])?);
        let tier: Vec<String> = full.then(|| "--full".into()).into_iter().collect();
        tally.add(cri::run(&tier)?);
        tally.add(net::run(&tier)?);
        tally.add(apps::run(&tier)?);
        tally.add(vm::run(&[if full { "--full" } else { "--small" }.into()])?);
    }
    tally.finish()
}

fn cargo_test() -> Result<()> {
    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.arg("test").args(args).current_dir(sh::top());
        command
    };
    // A test that hangs must not take the whole time of CI: compiling has no limit, running has.
    sh::run(&mut cargo(&["--workspace", "--no-run", "-q"]))?;
    sh::run_within(&mut cargo(&["--workspace", "--no-fail-fast"]), TESTS_LIMIT)
}
