//! Starting programs: with their output shown, captured, or captured under a time limit.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The top of the checkout.
pub fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => top().join("target"),
    }
}

/// The program under test. `NACRE` names another build.
pub fn nacre() -> PathBuf {
    match std::env::var_os("NACRE") {
        Some(path) => PathBuf::from(path),
        None => target().join("release/nacre"),
    }
}

/// Whether sandboxes are virtual machines: so says the variable that nacre itself reads.
pub fn in_vm() -> bool {
    std::env::var_os("NACRE_SANDBOX").is_some_and(|kind| kind == "vm")
}

/// Builds the program under test, unless `NACRE` names one.
pub fn build_nacre() -> Result<()> {
    if std::env::var_os("NACRE").is_some() {
        return Ok(());
    }
    build_release()?;
    if in_vm() { crate::agent::build() } else { Ok(()) }
}

pub fn build_release() -> Result<()> {
    run(Command::new("cargo").args(["build", "--release", "-p", "nacre", "-q"]).current_dir(top()))
}

/// Runs it with its output shown; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// As [`run`], in a process group of its own that is killed at the limit.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child =
        command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
    match wait(&mut child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{command:?}: {status}"),
        None => bail!("{command:?}: still running after {} s", limit.as_secs()),
    }
}

/// Its standard output; anything but success is an error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a program under a time limit did.
pub struct Ended {
    /// None: it was killed at the limit.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// As a shell has it: 128 + signal for a death by signal.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code().or(s.signal().map(|n| 128 + n)))
    }

    pub fn how(&self) -> String {
        match self.status {
            Some(status) => status.to_string(),
            None => "still running at the time limit".into(),
        }
    }
}

/// Runs it in a process group of its own, which is killed at the limit. Output goes through files, so that a process left
/// behind with a copy of the descriptor cannot keep us waiting.
pub fn timed(command: &mut Command, limit: Duration) -> Result<Ended> {
    let dir = scratch()?;
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    command.stdout(File::create(&out)?).stderr(File::create(&err)?).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let status = wait(&mut child, limit)?;
    let text = |path| Ok::<_, std::io::Error>(String::from_utf8_lossy(&std::fs::read(path)?).into_owned());
    let ended = Ended { status, stdout: text(&out)?, stderr: text(&err)? };
    std::fs::remove_dir_all(&dir)?;
    Ok(ended)
}

/// Waits for it; at the limit it is killed, with its group if it has one of its own, and there is no status.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            signal_group(child.id(), "KILL");
            let _ = child.kill();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All processes.
pub fn pids() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc").map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().filter_map(|e| e.file_name().to_string_lossy().parse().ok()).collect()
}

/// Sends a signal to one process we started; whether it was there.
pub fn signal(pid: u32, name: &str) -> bool {
    kill(&[&format!("-{name}"), &pid.to_string()])
}

fn signal_group(pid: u32, name: &str) {
    kill(&[&format!("-{name}"), "--", &format!("-{pid}")]);
}

fn kill(args: &[&str]) -> bool {
    Command::new("kill").args(args).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// A new folder of ours in /tmp that every user may search.
pub fn scratch() -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("nacre-test.{}.{n}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))?;
    Ok(dir)
}

/// The last `n` lines of a text, for a message.
pub fn tail(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Compiles a static C program.
pub fn compile_c(source: &Path, to: &Path) -> Result<()> {
    let newer = |a: &Path| std::fs::metadata(a).and_then(|m| m.modified()).ok();
    let header = source.with_file_name("abi.h");
    if let (Some(out), Some(src)) = (newer(to), newer(source))
        && out > src
        && newer(&header).is_none_or(|h| out > h)
    {
        return Ok(());
    }
    let flags = ["-static", "-O2", "-Wall", "-Wno-format-truncation", "-fno-ipa-icf", "-pthread"];
    let compiler = std::env::var("CC").unwrap_or("cc".into());
    run(Command::new(compiler).args(flags).arg("-o").arg(to).arg(source))
}
