//! `cri`: sandboxes under a real containerd, which is started by hand with a root, state and socket of its own; and under podman.
//!
//! `engine` is that containerd and `image` what it runs; the cases are in `tasks` (through `ctr`), `pods`, `streams` and `settings`
//! (through CRI), `podman`, `rootless` and `conmon`, `install`, `vm` (through both), `layers`, `faults` and
//! `walk` (what is killed at which step).
//! After each case nothing may be left: no process, no mount, no state.

pub mod bench;
mod conmon;
mod engine;
mod faults;
mod image;
mod install;
mod layers;
mod podman;
mod pods;
mod rootless;
mod settings;
mod streams;
mod tasks;
mod vm;
mod walk;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{agent, packages, sh};
use engine::{Engine, Release};

/// Debian's.
pub const PACKAGES: &[&str] =
    &["containerd", "containernetworking-plugins", "podman", "busybox-static", "qemu-system-x86", "linux-image-cloud-amd64"];

/// A case, by name.
type Case = (&'static str, fn(&mut Engine) -> Result<()>);

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Small,
    Full,
    Bench,
}

pub fn run(args: &[String]) -> Result<Tally> {
    let (mut tier, mut release, mut snapshotter, mut names) = (Tier::Small, None, "", Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => tier = Tier::Full,
            "--bench" => tier = Tier::Bench,
            "--containerd" => {
                release = Some(match args.next().map(String::as_str) {
                    Some("1") => Release::One,
                    Some("2") => Release::Two,
                    _ => bail!("cri: --containerd 1 or 2"),
                });
            }
            "--snapshotter" => {
                snapshotter = match args.next().map(String::as_str) {
                    Some("erofs") if release == Some(Release::Two) => "erofs",
                    _ => bail!("cri: --containerd 2 --snapshotter erofs"),
                };
            }
            flag if flag.starts_with("--") => bail!("cri: unknown argument {flag}"),
            name => names.push(name),
        }
    }
    packages::ensure(PACKAGES)?;
    sh::build_nacre()?;
    agent::build()?;
    sh::run(std::process::Command::new("cargo").args(["build", "-q", "-p", "cri-client"]).current_dir(sh::top()))?;
    let mut tally = Tally::default();
    if tier == Tier::Bench {
        let mut engine = Engine::start(release.unwrap_or(Release::One), snapshotter)?;
        let done = bench::run(&engine, &names);
        // Also after a failure: pods would live on.
        let clean = engine.clear();
        tally.step("cri --bench", done.and(clean));
        return Ok(tally);
    }
    if release.unwrap_or(Release::One) == Release::One {
        cases(&mut Engine::start(Release::One, "")?, tier, &names, &mut tally);
    }
    // The full tier is under both; a machine on which containerd 2 cannot be had fails it.
    if release == Some(Release::Two) || (release.is_none() && tier == Tier::Full) {
        match Engine::start(Release::Two, snapshotter) {
            Ok(mut engine) => cases(&mut engine, tier, &names, &mut tally),
            Err(error) => tally.fail(format!("cri: {error:#}")),
        }
    }
    Ok(tally)
}

fn cases(engine: &mut Engine, tier: Tier, names: &[&str], tally: &mut Tally) {
    // The same beside both.
    let (under, beside): (_, [&[Case]; 4]) = match engine.release {
        Release::One => ("cri", [podman::CASES, rootless::CASES, conmon::CASES, install::OTHERS]),
        Release::Two => ("cri containerd-2", [layers::CASES, &[], &[], &[]]),
    };
    let small = [tasks::CASES, pods::CASES, streams::CASES, settings::CASES, install::CASES, vm::CASES, faults::CASES];
    let small = small.into_iter().chain(beside);
    let large = [pods::FULL, walk::FULL];
    // A case of the full tier also runs when it is named.
    let wanted = |name: &str, small: bool| match names {
        [] => small || tier == Tier::Full,
        names => names.iter().any(|part| if small { name.contains(part) } else { name == *part }),
    };
    let cases = small.flatten().filter(|(name, _)| wanted(name, true));
    for (name, case) in cases.chain(large.into_iter().flatten().filter(|(name, _)| wanted(name, false))) {
        if engine.release == Release::Two
            && let Some((_, why)) = settings::NOT_UNDER_TWO.iter().find(|(other, _)| other == name)
        {
            tally.skip(format!("{under} {name}: {why}"));
            continue;
        }
        play(engine, &format!("{under} {name}"), *case, tally);
    }
    // What pods can do, in VMs.
    let again = [pods::CASES, streams::CASES, settings::CASES].into_iter().flatten();
    let again = again.filter(|(name, _)| vm::EXCEPTIONS.iter().all(|(exception, _)| exception != name));
    engine.handler = engine::VM;
    for (name, case) in again {
        let name = format!("vm-{name}");
        if wanted(&name, false) {
            play(engine, &format!("{under} {name}"), *case, tally);
        }
    }
    engine.handler = engine::SENTRY;
}

fn play(engine: &mut Engine, name: &str, case: fn(&mut Engine) -> Result<()>, tally: &mut Tally) {
    let mut play = || {
        let done = case(engine);
        // Also after a failure, so that the next case is not its victim.
        let clean = engine.clear();
        done.and(clean)
    };
    tally.attempt(name, play(), play);
}
