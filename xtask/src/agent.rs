//! `agent`: PID 1 of VMs, as one static program.
//!
//! Built with the C library linked in, in a target directory of its own (its flags would otherwise build everything anew each time), and
//! put beside every `nacre` that has been built, where that looks for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// The program.
pub fn path() -> PathBuf {
    sh::target().join("agent/nacre-agent")
}

pub fn run(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("agent: unknown arguments {args:?}");
    }
    build()?;
    println!("{}", path().display());
    Ok(())
}

/// Builds it, if it is not up to date.
pub fn build() -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let dir = sh::target().join("agent");
    let mut cargo = Command::new("cargo");
    // The target is named so that the flags are not those of procedural macros, which cannot be static.
    cargo.args(["build", "-q", "-p", "nacre-agent", "--profile", "agent", "--target", &triple]).current_dir(sh::top());
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static").env("CARGO_TARGET_DIR", &dir);
    sh::run(&mut cargo)?;
    let built = dir.join(triple).join("agent/nacre-agent");
    let places = ["debug", "fast", "release"].map(|profile| sh::target().join(profile));
    let places = places.into_iter().filter(|dir| dir.join("nacre").exists()).map(|dir| dir.join("nacre-agent"));
    for place in places.chain([path()]) {
        // Renamed, as the old one may be in use; and not at all if it is the same, for the cache's sake.
        let new = place.with_extension("new");
        fs::copy(&built, &new)
            .and_then(|_| fs::rename(&new, &place))
            .with_context(|| format!("cannot write {}", place.display()))?;
    }
    Ok(())
}
