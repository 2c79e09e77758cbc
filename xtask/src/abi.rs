//! `abi`: the programs of tests/abi, natively and in a sandbox.
//!
//! Each family is one program that prints `ok CASE`, `FAIL CASE: what` or `skip CASE: why`. A case passes if it passes natively and in the
//! sandbox; `tests/abi/known-failures` names those that may fail there (`FAMILY/CASE reason`; in VMs it is
//! `known-failures-vm`), and one of them that passes is a failure too. A program that dies is started again for the cases it has not answered.
//! Cases about what a Linux has that is newer, or configured otherwise, may be skipped natively and in VMs ([`MAY_SKIP`]), which is counted and said; never
//! in a sentry, whose kernel is the one that they are about.

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

/// The variable without which no case skips itself.
const MAY_SKIP: &str = "ABI_MAY_SKIP";

#[derive(Clone, Copy, PartialEq)]
enum Where {
    Native,
    Sandbox,
    /// In a sandbox, in a directory of the host.
    Volume,
}

/// Families whose cases run in a volume too. What may fail there alone is known as `FAMILY@volume/CASE`.
const VOLUME: [&str; 1] = ["inotify"];

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// What went wrong.
    Failed(String),
    /// Why it cannot be run here.
    Skipped(String),
}

/// By names of cases.
pub type Results = BTreeMap<String, Outcome>;

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
            let again = |case: &str| run_family(&program, &[case], place)?.remove(case).context("no answer");
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
            Where::Native => {
                let mut command = Command::new(program);
                command.env(MAY_SKIP, "1");
                command
            }
            Where::Sandbox => {
                let mut command = sandbox();
                command.arg("--").arg(program);
                command
            }
            Where::Volume => {
                let volume = program.with_file_name("volume");
                std::fs::create_dir_all(&volume)?;
                let mut command = sandbox();
                command.arg("-v").arg(format!("{}:/mnt", volume.display()));
                command.args(["--env", "ABI_FOLDER=/mnt", "--"]).arg(program);
                command
            }
        };
        sh::timed(command.args(left), LIMIT)
    })
}

/// `nacre do`, to be gone on with.
fn sandbox() -> Command {
    let mut command = Command::new(sh::nacre());
    command.arg("do");
    if sh::in_vm() {
        command.args(["--env", &format!("{MAY_SKIP}=1")]);
    }
    command
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
        results.insert(culprit.to_string(), Outcome::Failed(why));
        if ended.stdout.is_empty() && results.len() == 3 {
            // Nothing runs at all: do not try it for every case.
            break;
        }
    }
    for case in cases {
        results.entry(case.to_string()).or_insert(Outcome::Failed("no answer".into()));
    }
    Ok(results)
}

fn parse(text: &str, cases: &[&str], results: &mut Results) {
    for line in text.lines() {
        let with_reason = |word: &str| line.strip_prefix(word).and_then(|l| l.split_once(": "));
        let (case, outcome) = if let Some(case) = line.strip_prefix("ok ") {
            (case, Outcome::Passed)
        } else if let Some((case, what)) = with_reason("FAIL ") {
            (case, Outcome::Failed(what.into()))
        } else if let Some((case, why)) = with_reason("skip ") {
            (case, Outcome::Skipped(why.into()))
        } else {
            continue;
        };
        if cases.contains(&case) {
            // The first complaint is the most precise one.
            results.entry(case.into()).or_insert(outcome);
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
    again: &dyn Fn(&str) -> Result<Outcome>,
    tally: &mut Tally,
) {
    let label = match place {
        Where::Native => "native",
        Where::Sandbox if sh::in_vm() => "vm",
        Where::Sandbox => "sandbox",
        Where::Volume if sh::in_vm() => "vm, volume",
        Where::Volume => "sandbox, volume",
    };
    let (mut good, mut skipped) = (0, 0);
    for (case, result) in results {
        let name = format!("{family}/{case}");
        let excused = match place {
            Where::Native => None,
            Where::Sandbox => known.get(&name),
            Where::Volume => known.get(&format!("{family}@volume/{case}")),
        };
        match (result, excused) {
            (Outcome::Passed, None) => {
                tally.pass();
                good += 1;
            }
            (Outcome::Passed, Some(_)) => tally.fail(format!("{name}: passes, but known-failures lists it")),
            (Outcome::Skipped(why), None) if place == Where::Native || sh::in_vm() => {
                tally.skip(format!("{label} {name}: {why}"));
                skipped += 1;
            }
            (Outcome::Skipped(why), _) => tally.fail(format!("{label} {name} is skipped: {why}")),
            (Outcome::Failed(_), Some(reason)) => {
                println!("known {name}: {reason}");
                tally.known();
            }
            (Outcome::Failed(what), None) => {
                let again = || match again(case)? {
                    Outcome::Passed => Ok(()),
                    Outcome::Failed(still) | Outcome::Skipped(still) => Err(anyhow!(still)),
                };
                tally.attempt(&format!("{label} {name}"), Err::<(), _>(anyhow!(what.clone())), again);
            }
        }
    }
    let skipped = if skipped > 0 { format!(", {skipped} are skipped") } else { String::new() };
    println!("abi {family} ({label}): {good} of {} cases pass{skipped}", results.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_about_a_case_counts() {
        let text = "skip new: needs Linux 6.9, this is 6.1\nFAIL bad: line 3: x is 1\nFAIL bad: exit 1\nok good\nok other\nskip what\n";
        let mut results = Results::new();
        parse(text, &["new", "bad", "good", "what"], &mut results);
        let outcome = |case: &str| results.get(case).cloned();
        assert_eq!(outcome("new"), Some(Outcome::Skipped("needs Linux 6.9, this is 6.1".into())));
        assert_eq!(outcome("bad"), Some(Outcome::Failed("line 3: x is 1".into())));
        assert_eq!((outcome("good"), outcome("other"), outcome("what")), (Some(Outcome::Passed), None, None));
    }

    #[test]
    fn nothing_is_skipped_in_a_sentry() {
        let judged = |place| {
            let results = Results::from([("case".into(), Outcome::Skipped("why".into()))]);
            let mut tally = Tally::default();
            judge("family", place, &results, &BTreeMap::new(), &|_| Ok(Outcome::Passed), &mut tally);
            tally.finish().is_ok()
        };
        assert!(judged(Where::Native));
        assert_eq!(judged(Where::Sandbox), sh::in_vm());
    }
}
