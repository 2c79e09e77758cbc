//! `bench --programs`: whole programs (bench/programs.sh) in one Debian bundle under runc, runsc and Nacre; median of interleaved rounds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::{self, Load, Options, Samples, System, Unit};
use crate::{bundle, packages, page, sh};

pub const ROWS: [&str; 12] = [
    "thread-pool",
    "forks-1000",
    "git-status-50k",
    "find-usr",
    "find-usr-newer",
    "tar-100MiB",
    "python-start-5",
    "gcc-5000-lines",
    "make-j2-lua",
    "redis-benchmark",
    "pgbench",
    "sqlite",
];

/// Rows that mostly compute, and how many times native's time they and the others may take: the goals.
const COMPUTE: [&str; 5] = ["thread-pool", "python-start-5", "gcc-5000-lines", "make-j2-lua", "sqlite"];
const COMPUTE_GOAL: f64 = 1.5;
const CALL_GOAL: f64 = 2.5;

/// How long one of them may take, with what it needs made before.
const LIMIT: Duration = Duration::from_secs(600);

/// Of its section in docs/performance.md.
pub const HEADING: &str = "## Programs";

/// The table; a whole one goes to docs/performance.md, in the place of the one before.
pub fn run(options: &Options) -> Result<()> {
    options.check(&ROWS)?;
    let root = bundle::programs()?;
    prepare(&root)?;
    let load = Load {
        rootfs: root,
        args: vec!["/bin/bash".into(), "/bench/programs.sh".into()],
        rows: options.wanted(&ROWS),
        limit: LIMIT,
    };
    let samples = bench::measure(&load, options)?;
    let title = format!("{} (ms; one run each, median of {} rounds)", HEADING.trim_start_matches("## "), options.rounds);
    let mut text = bench::table(&title, &samples, &load.rows, options, Unit::Milliseconds)?;
    text += &verdict(&samples, &load.rows);
    page::show(HEADING, &text, options.rows.is_empty())
}

/// A sentence about the goals, with the rows that miss theirs.
fn verdict(samples: &Samples, rows: &[String]) -> String {
    let missed = rows.iter().filter_map(|row| {
        let ratio = bench::ratio(samples, row, System::Nacre)?;
        let goal = if COMPUTE.contains(&row.as_str()) { COMPUTE_GOAL } else { CALL_GOAL };
        let behind = bench::ratio(samples, row, System::Runsc).is_some_and(|runsc| runsc < ratio);
        let behind = if behind { ", behind runsc" } else { "" };
        (ratio > goal || !behind.is_empty()).then(|| format!("{row} ({ratio:.2}{behind})"))
    });
    let missed: Vec<String> = missed.collect();
    let missed = if missed.is_empty() { "none".into() } else { missed.join(", ") };
    let compute = COMPUTE.join(", ");
    format!(
        "\nGoals: ahead of runsc; at most {COMPUTE_GOAL} times native for what computes ({compute}), {CALL_GOAL} for the others. Missed by: {missed}.\n"
    )
}

/// What the programs work on, in /bench of the root.
fn prepare(root: &Path) -> Result<()> {
    let dir = root.join("bench");
    std::fs::create_dir_all(&dir)?;
    for name in ["programs.sh", "lua.mk"] {
        std::fs::copy(sh::top().join("bench").join(name), dir.join(name))?;
    }
    let made = dir.join("made");
    if made.exists() {
        return Ok(());
    }
    std::fs::write(dir.join("large.c"), large_source()?)?;
    repository(&dir.join("repo"))?;
    small_files(&dir.join("small"))?;
    packages::source("lua5.4")?;
    copy_source("lua5.4-", &dir.join("lua"))?;
    std::fs::write(made, "")?;
    Ok(())
}

fn large_source() -> Result<String> {
    let mut text = String::from("#include <stdio.h>\n#include <string.h>\n");
    for n in 0..500 {
        write!(
            text,
            "int f{n}(int a, int *b, char *s)\n{{\n    int r = a, k;\n    for (k = 0; k < a; k++) {{\n        r += b[k & 15] * {n} + s[k % 7];\n        \
             if (r > {n} * 7) r -= strlen(s);\n    }}\n    printf(\"%d %s\\n\", r, s);\n    return r;\n}}\n"
        )?;
    }
    Ok(text)
}

/// 50,000 files in 1,000 directories, committed.
fn repository(dir: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    for d in 0..1000 {
        let below = dir.join(format!("d{}/s{d}", d / 50));
        std::fs::create_dir_all(&below)?;
        for f in 0..50 {
            std::fs::write(below.join(format!("file{f}.c")), format!("int f{d}_{f};\n"))?;
        }
    }
    let git = "git init -q . && git add -A && git -c user.email=a@b -c user.name=a commit -qm all && sleep 1 && touch .git/index && git status >/dev/null";
    sh::run(Command::new("sh").args(["-c", git]).current_dir(dir))
}

/// 100 MiB in files of 16 KiB.
fn small_files(dir: &Path) -> Result<()> {
    for d in 0..64 {
        let below = dir.join(format!("d{d}"));
        std::fs::create_dir_all(&below)?;
        for f in 0..100 {
            std::fs::write(below.join(format!("f{f}")), vec![b'a' + (f % 26) as u8; 16 << 10])?;
        }
    }
    Ok(())
}

/// Copies the source of a package, whose folder's name begins so.
fn copy_source(prefix: &str, to: &Path) -> Result<()> {
    let sources = std::fs::read_dir(packages::sources())?.flatten().map(|entry| entry.path());
    let is_it =
        |path: &PathBuf| path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let found = sources.into_iter().find(is_it).context("the source is not there")?;
    let _ = std::fs::remove_dir_all(to);
    sh::run(Command::new("cp").arg("-r").arg(found).arg(to))
}
