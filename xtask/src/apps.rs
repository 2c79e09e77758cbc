//! `apps`: the scripts of tests/apps natively, in `nacre do` over the host's root, and in a bundle of a debootstrapped Debian.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{bundle, packages, sh};

/// Interpreter and script.
const APPS: [(&str, &str); 8] = [
    ("bash", "everyday.sh"),
    ("python3", "python.py"),
    ("bash", "git.sh"),
    ("bash", "gcc.sh"),
    ("perl", "perl.pl"),
    ("bash", "sqlite.sh"),
    ("bash", "strace.sh"),
    ("bash", "gdb.sh"),
];
const LIMIT: Duration = Duration::from_secs(300);

pub fn run(args: &[String]) -> Result<Tally> {
    let mut places = vec!["native", "do", "bundle"];
    let mut wanted = Vec::new();
    for arg in args {
        match arg.as_str() {
            "--native" => places = vec!["native"],
            "--do" => places = vec!["do"],
            "--bundle" => places = vec!["bundle"],
            flag if flag.starts_with('-') => bail!("apps: unknown flag {flag}"),
            name => wanted.push(name.to_string()),
        }
    }
    packages::ensure(packages::TEST)?;
    if places != ["native"] {
        sh::build_nacre()?;
    }
    let mut tally = Tally::default();
    for place in places {
        for (interpreter, script) in APPS {
            let name = script.split('.').next().unwrap_or(script);
            if wanted.is_empty() || wanted.iter().any(|w| w == name) {
                tally.step(
                    &format!("{place} {script}"),
                    one(place, interpreter, script),
                );
            }
        }
    }
    Ok(tally)
}

fn one(place: &str, interpreter: &str, script: &str) -> Result<()> {
    let scripts = sh::top().join("tests/apps");
    let path = scripts.join(script);
    let mut command = match place {
        "native" => Command::new(interpreter),
        "do" => {
            let mut command = Command::new(sh::nacre());
            command.args(["do", "--", interpreter]);
            command
        }
        _ => return in_bundle(interpreter, script, &path),
    };
    verdict(sh::timed(command.arg(&path).current_dir("/"), LIMIT)?)
}

fn in_bundle(interpreter: &str, script: &str, path: &Path) -> Result<()> {
    let made = bundle::debian()?;
    let root = made.join("rootfs");
    std::fs::create_dir_all(root.join("apps"))?;
    std::fs::copy(path, root.join("apps").join(script))?;
    let id = format!("app-{}-{}", script.replace('.', "-"), std::process::id());
    let dir = sh::target().join("bundles").join(&id);
    bundle::Config::new(&root, &[interpreter, &format!("/apps/{script}")]).write(&dir)?;
    let state = sh::scratch()?;
    let mut command = Command::new(sh::nacre());
    command
        .arg("--root")
        .arg(&state)
        .arg("run")
        .arg("--bundle")
        .arg(&dir)
        .arg(&id);
    let result = verdict(sh::timed(&mut command, LIMIT)?);
    let mut delete = Command::new(sh::nacre());
    let _ = sh::timed(
        delete
            .arg("--root")
            .arg(&state)
            .args(["delete", "--force", &id]),
        Duration::from_secs(20),
    );
    let _ = std::fs::remove_dir_all(state);
    let _ = std::fs::remove_dir_all(dir);
    result
}

fn verdict(ended: sh::Ended) -> Result<()> {
    if ended.success() {
        return Ok(());
    }
    bail!(
        "{}\n{}\n{}",
        ended.how(),
        sh::tail(&ended.stdout, 12),
        sh::tail(&ended.stderr, 12)
    );
}
