//! `fuzz`: the programs of tests/fuzz (system calls at random, programs with bent headers) in sandboxes, one after the other, each with another seed. A sandbox that breaks is reported with its
//! reason and its seed; what the guest comes to is its own affair.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sh;
use crate::tally::Tally;

const PROGRAMS: [&str; 2] = ["syscalls", "elf"];
/// How long one sandbox lives, in seconds.
const SANDBOX_SECONDS: u64 = 30;

pub fn run(args: &[String]) -> Result<Tally> {
    let (mut minutes, mut seed) = (1, 1);
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = || -> Result<u64> { args.clone().next().context("a number is missing")?.parse().context("no number") };
        match flag.as_str() {
            "--minutes" => minutes = value().context("fuzz: --minutes")?,
            "--seed" => seed = value().context("fuzz: --seed")?,
            _ => bail!("fuzz: unknown argument {flag}"),
        }
        args.next();
    }
    sh::build_nacre()?;
    let mut tally = Tally::default();
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let seconds = SANDBOX_SECONDS.min(left);
        if seconds == 0 {
            return Ok(tally);
        }
        for program in PROGRAMS {
            tally
                .step(&format!("fuzz {program} from seed {seed}"), one(program, seed, seconds.div_ceil(PROGRAMS.len() as u64)));
        }
        // The program takes one seed a round, of which there is at most one a few milliseconds.
        seed += 100_000;
    }
}

fn one(program: &str, seed: u64, seconds: u64) -> Result<()> {
    let dir = sh::scratch()?;
    let result = one_in(&dir, program, seed, seconds);
    std::fs::remove_dir_all(dir)?;
    result
}

fn one_in(dir: &std::path::Path, program: &str, seed: u64, seconds: u64) -> Result<()> {
    sh::compile_c(&sh::top().join(format!("tests/fuzz/{program}.c")), &dir.join(program))?;
    let mut command = Command::new(sh::nacre());
    command.args(["do", "--memory", "1073741824", "--pids", "300", "--volume"]);
    command.arg(format!("{}:/fuzz:ro", dir.display())).args([
        "--",
        &format!("/fuzz/{program}"),
        &seed.to_string(),
        &seconds.to_string(),
    ]);
    let ended = sh::timed(&mut command, Duration::from_secs(seconds + 60))?;
    let last = ended.stdout.lines().last().unwrap_or_default().to_string();
    if ended.success() && last.starts_with("done") {
        return Ok(());
    }
    bail!("{} at '{last}': {}", ended.how(), sh::tail(&ended.stderr, 6))
}
