//! `cri`: sandboxes under a real containerd, which is started by hand with a root, state and socket of its own; and under podman.
//!
//! `engine` is that containerd and `image` what it runs; the cases are in `tasks` (through `ctr`), `pods`, `streams` and `settings`
//! (through CRI), `podman`, `vm` (through both) `faults` and
//! `walk` (what is killed at which step).
//! After each case nothing may be left: no process, no mount, no state.

pub mod bench;
mod engine;
mod faults;
mod image;
mod podman;
mod pods;
mod settings;
mod streams;
mod tasks;
mod vm;
mod walk;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{agent, packages, sh};
use engine::Engine;

/// Debian's.
pub const PACKAGES: &[&str] =
    &["containerd", "containernetworking-plugins", "podman", "busybox-static", "qemu-system-x86", "linux-image-cloud-amd64"];

/// A case, by name.
type Case = (&'static str, fn(&mut Engine) -> Result<()>);

pub fn run(args: &[String]) -> Result<Tally> {
    let (flags, names): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| arg.starts_with("--"));
    let (full, bench) = match flags.as_slice() {
        [] => (false, false),
        [flag] if *flag == "--full" => (true, false),
        [flag] if *flag == "--bench" => (false, true),
        flags => bail!("cri: unknown arguments {flags:?}"),
    };
    packages::ensure(PACKAGES)?;
    sh::build_nacre()?;
    agent::build()?;
    sh::run(std::process::Command::new("cargo").args(["build", "-q", "-p", "cri-client"]).current_dir(sh::top()))?;
    let mut tally = Tally::default();
    let mut engine = Engine::start()?;
    if bench {
        tally.step("cri --bench", bench::run(&mut engine, &names));
        return Ok(tally);
    }
    let small = [tasks::CASES, pods::CASES, streams::CASES, settings::CASES, podman::CASES, vm::CASES, faults::CASES];
    let large = [pods::FULL, walk::FULL];
    // A case of the full tier also runs when it is named.
    let wanted = |name: &str, small: bool| match names.as_slice() {
        [] => small || full,
        names => names.iter().any(|part| if small { name.contains(part.as_str()) } else { name == part.as_str() }),
    };
    let cases = small.into_iter().flatten().filter(|(name, _)| wanted(name, true));
    for (name, case) in cases.chain(large.into_iter().flatten().filter(|(name, _)| wanted(name, false))) {
        let mut play = || {
            let done = case(&mut engine);
            // Also after a failure, so that the next case is not its victim.
            let clean = engine.clear();
            done.and(clean)
        };
        tally.attempt(&format!("cri {name}"), play(), play);
    }
    Ok(tally)
}
