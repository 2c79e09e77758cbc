//! `lint`: formatting and clippy over the workspace, warnings denied.

use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

pub fn run(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("lint: unknown argument {arg}");
    }
    sh::run(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(sh::top()))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "-q", "--", "-D", "warnings"];
    sh::run(Command::new("cargo").args(clippy).current_dir(sh::top()))
}
