//! `abi`: the programs of tests/abi, natively and in a sandbox.
//!
//! Each family is one program that prints `ok CASE` or `FAIL CASE: what`. A case passes if it passes natively and in the
//! sandbox; `tests/abi/known-failures` names those that may fail there (`FAMILY/CASE reason`; in VMs it is
//! `known-failures-vm`), and one of them that passes is a failure too. A program that dies is started again for the cases it has not answered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::sh;
use crate::tally::Tally;

/// How long one family may take.
const LIMIT: Duration = Duration::from_secs(240);
/// How often a family's program is started again after it died.
const RESTARTS: usize = 40;

#[derive(Clone, Copy, PartialEq)]
enum Where {
    Native,
    Sandbox,
    /// In a sandbox, in a directory of the host.
    Volume,
}

/// Families whose cases run in a volume too. What may fail there alone is known as `FAMILY@volume/CASE`.
const VOLUME: [&str; 1] = ["inotify"];

/// Case name to what went wrong, if anything.
pub type Results = BTreeMap<String, Option<String>>;

pub fn run(args: &[String]) -> Result<Tally> {
    let mut places = vec![Where::Native, Where::Sandbox, Where::Volume];
    let mut wanted = Vec::new();
    for arg in args {
        match arg.as_str() {
            "--native" => places = vec![Where::Native],
            "--sandbox" => places = vec![Where::Sandbox, Where::Volume],
            flag if flag.starts_with('-') => bail!("abi: unknown flag {flag}"),
            family => wanted.push(family.to_string()),
        }
    }
    if places.contains(&Where::Sandbox) {
        sh::build_nacre()?;
    }
    let known = known_failures()?;
    let dir = sh::scratch()?;
    let mut tally = Tally::default();
    for source in sources()? {
        let family = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !wanted.is_empty() && !wanted.contains(&family) {
            continue;
        }
        let program = compile(&source, &family, &dir)?;
        let cases = sh::output(Command::new(&program).arg("--list"))?;
        let cases: Vec<&str> = cases.lines().collect();
        for &place in &places {
            if place == Where::Volume && !VOLUME.contains(&family.as_str()) {
                continue;
            }
            let results = run_family(&program, &cases, place)?;
            let again = |case: &str| Ok(run_family(&program, &[case], place)?.remove(case).flatten());
            judge(&family, place, &results, &known, &again, &mut tally);
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(tally)
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(sh::top().join("tests/abi"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Compiles into target/ and copies to a folder that every user may enter (cases change their user and execute themselves).
fn compile(source: &Path, family: &str, dir: &Path) -> Result<PathBuf> {
    let built = sh::target().join("abi");
    std::fs::create_dir_all(&built)?;
    sh::compile_c(source, &built.join(family))?;
    let program = dir.join(family);
    std::fs::copy(built.join(family), &program).with_context(|| format!("cannot copy {family}"))?;
    Ok(program)
}

fn run_family(program: &Path, cases: &[&str], place: Where) -> Result<Results> {
    run_cases(cases, &mut |left| {
        let mut command = match place {
            Where::Native => Command::new(program),
            Where::Sandbox => {
                let mut command = Command::new(sh::nacre());
                command.args(["do", "--"]).arg(program);
                command
            }
            Where::Volume => {
                let volume = program.with_file_name("volume");
                std::fs::create_dir_all(&volume)?;
                let mut command = Command::new(sh::nacre());
                command.arg("do").arg("-v").arg(format!("{}:/mnt", volume.display()));
                command.args(["--env", "ABI_FOLDER=/mnt", "--"]).arg(program);
                command
            }
        };
        sh::timed(command.args(left), LIMIT)
    })
}

/// Runs a program for these cases, again for those it has not answered.
pub fn run_cases(cases: &[&str], run: &mut dyn FnMut(&[&str]) -> Result<sh::Ended>) -> Result<Results> {
    let mut results = Results::new();
    for _ in 0..RESTARTS {
        let left: Vec<&str> = cases.iter().copied().filter(|c| !results.contains_key(*c)).collect();
        if left.is_empty() {
            break;
        }
        let ended = run(&left)?;
        parse(&ended.stdout, &left, &mut results);
        // The first case without an answer is the one that ended the program.
        let Some(culprit) = left.iter().find(|c| !results.contains_key(**c)) else {
            continue;
        };
        let why = format!("no answer; the end: {}; {}", ended.how(), sh::tail(&ended.stderr, 3));
        results.insert(culprit.to_string(), Some(why));
        if ended.stdout.is_empty() && results.len() == 3 {
            // Nothing runs at all: do not try it for every case.
            break;
        }
    }
    for case in cases {
        results.entry(case.to_string()).or_insert(Some("no answer".into()));
    }
    Ok(results)
}

fn parse(text: &str, cases: &[&str], results: &mut Results) {
    for line in text.lines() {
        if let Some(case) = line.strip_prefix("ok ") {
            if cases.contains(&case) {
                results.entry(case.into()).or_insert(None);
            }
        } else if let Some((case, what)) = line.strip_prefix("FAIL ").and_then(|l| l.split_once(": "))
            && cases.contains(&case)
        {
            // The first complaint is the most precise one.
            results.entry(case.into()).or_insert(Some(what.into()));
        }
    }
}

fn known_failures() -> Result<BTreeMap<String, String>> {
    let list = if sh::in_vm() { "known-failures-vm" } else { "known-failures" };
    let path = sh::top().join("tests/abi").join(list);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut known = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once(' ') {
            Some((name, reason)) => known.insert(name.to_string(), reason.trim().to_string()),
            None => bail!("known-failures: '{line}' has no reason"),
        };
    }
    Ok(known)
}

/// Counts the results of a family; a case that failed unexpectedly is run `again`, alone.
fn judge(
    family: &str,
    place: Where,
    results: &Results,
    known: &BTreeMap<String, String>,
    again: &dyn Fn(&str) -> Result<Option<String>>,
    tally: &mut Tally,
) {
    let label = match place {
        Where::Native => "native",
        Where::Sandbox if sh::in_vm() => "vm",
        Where::Sandbox => "sandbox",
        Where::Volume if sh::in_vm() => "vm, volume",
        Where::Volume => "sandbox, volume",
    };
    let mut good = 0;
    for (case, result) in results {
        let name = format!("{family}/{case}");
        let excused = match place {
            Where::Native => None,
            Where::Sandbox => known.get(&name),
            Where::Volume => known.get(&format!("{family}@volume/{case}")),
        };
        match (result, excused) {
            (None, None) => {
                tally.pass();
                good += 1;
            }
            (None, Some(_)) => tally.fail(format!("{name}: passes, but known-failures lists it")),
            (Some(_), Some(reason)) => {
                println!("known {name}: {reason}");
                tally.known();
            }
            (Some(what), None) => {
                let again = || again(case)?.map_or(Ok(()), |still| Err(anyhow!(still)));
                tally.attempt(&format!("{label} {name}"), Err::<(), _>(anyhow!(what.clone())), again);
            }
        }
    }
    println!("abi {family} ({label}): {good} of {} cases pass", results.len());
}
