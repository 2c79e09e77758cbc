//! `test`: everything, a fast tier first. The fast tier needs no sandbox: unit tests and the native half of the ABI tests.

use std::process::Command;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{abi, apps, escape, packages, robust, sh};

pub fn run(args: &[String]) -> Result<()> {
    let fast = match args {
        [] => false,
        [flag] if flag == "--fast" => true,
        _ => bail!("test: unknown arguments {args:?}"),
    };
    packages::ensure(packages::TEST)?;
    let mut tally = Tally::default();
    tally.step("cargo test", cargo_test());
    tally.add(abi::run(&["--native".into()])?);
    if !fast {
        sh::build_nacre()?;
        tally.add(abi::run(&["--sandbox".into()])?);
        tally.add(escape::run(&[])?);
        tally.add(robust::run(&[])?);
        tally.add(apps::run(&[])?);
    }
    tally.finish()
}

fn cargo_test() -> Result<()> {
    sh::run(
        Command::new("cargo")
            .args(["test", "--workspace", "--no-fail-fast"])
            .current_dir(sh::top()),
    )
}
