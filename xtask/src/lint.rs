//! `lint`: formatting and clippy over the workspace, warnings denied; and whether the fuzz targets, which stand apart, still compile.

use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

pub fn run(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("lint: unknown argument {arg}");
    }
    sh::run(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(sh::top()))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "-q", "--", "-D", "warnings"];
    sh::run(Command::new("cargo").args(clippy).current_dir(sh::top()))?;
    // With the workspace's versions, in the same folder: what both need is checked once.
    std::fs::copy(sh::top().join("Cargo.lock"), sh::top().join("fuzz/Cargo.lock"))?;
    let mut check = Command::new("cargo");
    check
        .args(["check", "-q", "--manifest-path", "fuzz/Cargo.toml"])
        .env("CARGO_TARGET_DIR", sh::target())
        .current_dir(sh::top());
    sh::run(&mut check)
}
