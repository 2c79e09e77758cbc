//! `robust`: bad luck from outside and greed from inside. Each case ends with a look for what was left behind: processes,
//! mounts, cgroups, files.

mod rootless;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::startup;
use crate::tally::Tally;
use crate::{bundle, packages, sh};

type Case = fn(&Ground) -> Result<()>;

const CASES: [(&str, Case); 24] = [
    ("exit-codes", exit_codes),
    ("stdin-and-stdout", stdin_and_stdout),
    ("signals-are-forwarded", signals_are_forwarded),
    ("reader-leaves-early", reader_leaves_early),
    ("closed-stdout", closed_stdout),
    ("memory-hog", memory_hog),
    ("memory-hog-in-the-kernel", memory_hog_in_the_kernel),
    ("memory-hog-that-is-idle", memory_hog_that_is_idle),
    ("memory-hog-that-is-protected", memory_hog_that_is_protected),
    ("memory-hog-that-two-wait-for", memory_hog_that_two_wait_for),
    ("fork-bomb", fork_bomb),
    ("fork-bomb-in-container", fork_bomb_in_container),
    ("full-volume", full_volume),
    ("full-state-folder", full_state_folder),
    ("kill-do-at-any-moment", kill_do_at_any_moment),
    ("kill-run-at-any-moment", kill_run_at_any_moment),
    ("kill-each-process", kill_each_process),
    ("life-cycle", life_cycle),
    ("delete-force-while-running", delete_force_while_running),
    ("many-at-once", many_at_once),
    ("one-after-another", one_after_another),
    ("rootless-do", rootless::do_over_the_root),
    ("rootless-container", rootless::container_with_one_id),
    ("rootless-id-ranges", rootless::container_with_ranges),
];

pub fn run(args: &[String]) -> Result<Tally> {
    if let Some(flag) = args.iter().find(|a| a.starts_with('-')) {
        bail!("robust: unknown flag {flag}");
    }
    packages::ensure(&["busybox-static", "procps"])?;
    sh::build_nacre()?;
    let mut tally = Tally::default();
    for (name, case) in CASES {
        if args.is_empty() || args.iter().any(|a| a == name) {
            tally.attempt(&format!("robust {name}"), play(case), || play(case));
        }
    }
    Ok(tally)
}

/// Plays a case on a ground of its own, and looks what it left behind.
fn play(case: Case) -> Result<()> {
    let before = Traces::look()?;
    let ground = Ground { state: sh::scratch()?, root: bundle::busybox()?.join("rootfs") };
    let result = case(&ground).and_then(|()| before.nothing_left(&ground));
    let _ = std::fs::remove_dir_all(&ground.state);
    result
}

const LIMIT: Duration = Duration::from_secs(60);

/// Where a case plays: a state folder of its own and the busybox root.
struct Ground {
    state: PathBuf,
    root: PathBuf,
}

impl Ground {
    fn nacre(&self) -> Command {
        let mut command = Command::new(sh::nacre());
        command.arg("--root").arg(&self.state).stdin(Stdio::null());
        command
    }

    /// `nacre do` over the busybox root.
    fn inside(&self, flags: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new(sh::nacre());
        command.arg("do").arg("--root").arg(&self.root).args(flags).arg("--").args(args);
        command.stdin(Stdio::null());
        command
    }

    fn bundle(&self, id: &str, args: &[&str], change: impl FnOnce(&mut bundle::Config)) -> Result<PathBuf> {
        let dir = self.state.join(format!("bundle-{id}"));
        let mut config = bundle::Config::new(&self.root, args);
        change(&mut config);
        config.write(&dir)?;
        Ok(dir)
    }

    /// Starts a container in the background.
    fn start(&self, id: &str, args: &[&str]) -> Result<()> {
        let dir = self.bundle(id, args, |_| ())?;
        let mut command = self.nacre();
        command.args(["run", "--detach", "--bundle"]).arg(&dir).arg(id);
        expect(sh::timed(&mut command, LIMIT)?, 0)
    }

    fn status(&self, id: &str) -> Result<String> {
        let ended = sh::timed(self.nacre().args(["state", id]), LIMIT)?;
        if !ended.success() {
            bail!("state {id}: {}: {}", ended.how(), ended.stderr);
        }
        let text = ended.stdout.replace(' ', "");
        let status = text.split("\"status\":\"").nth(1).and_then(|t| t.split('"').next());
        Ok(status.context("state prints no status")?.to_string())
    }

    fn await_status(&self, id: &str, wanted: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(id)?;
            if status == wanted {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{id} stays {status}, not {wanted}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn delete(&self, id: &str) -> Result<()> {
        expect(sh::timed(self.nacre().args(["delete", "--force", id]), LIMIT)?, 0)
    }
}

fn expect(ended: sh::Ended, code: i32) -> Result<()> {
    if ended.code() == Some(code) {
        return Ok(());
    }
    bail!("{} instead of code {code}: {}", ended.how(), sh::tail(&ended.stderr, 4))
}

fn exit_codes(ground: &Ground) -> Result<()> {
    for (script, code) in [
        ("true", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("sh -c 'kill -TERM $$'; exit $?", 143),
        ("sh -c 'kill -KILL $$'; exit $?", 137),
    ] {
        expect(sh::timed(&mut ground.inside(&[], &["/bin/sh", "-c", script]), LIMIT)?, code).context(script)?;
    }
    expect(sh::timed(&mut ground.inside(&[], &["/no/such/program"]), LIMIT)?, 127)?;
    expect(sh::timed(&mut ground.inside(&[], &["/etc/passwd"]), LIMIT)?, 126)
}

fn stdin_and_stdout(ground: &Ground) -> Result<()> {
    let mut command = Command::new("sh");
    let script = "head -c 3000000 /dev/zero | \"$0\" do --root \"$1\" -- /bin/cat | wc -c";
    command.arg("-c").arg(script).arg(sh::nacre()).arg(&ground.root);
    let ended = sh::timed(&mut command, LIMIT)?;
    if ended.stdout.trim() != "3000000" {
        bail!("{} of 3000000 bytes came through: {}", ended.stdout.trim(), ended.stderr);
    }
    Ok(())
}

fn signals_are_forwarded(ground: &Ground) -> Result<()> {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut child = ground.inside(&[], &["/bin/sleep", "100"]).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(1500));
        sh::signal(child.id(), signal);
        let status = sh::wait(&mut child, Duration::from_secs(10))?;
        expect(sh::Ended { status, stdout: String::new(), stderr: String::new() }, code).context(signal)?;
    }
    Ok(())
}

fn reader_leaves_early(ground: &Ground) -> Result<()> {
    let mut command = Command::new("sh");
    let script = "\"$0\" do --root \"$1\" -- /bin/yes | head -n 1";
    command.arg("-c").arg(script).arg(sh::nacre()).arg(&ground.root);
    let ended = sh::timed(&mut command, LIMIT)?;
    if ended.stdout.trim() != "y" {
        bail!("{}: {}", ended.how(), ended.stderr);
    }
    Ok(())
}

fn closed_stdout(ground: &Ground) -> Result<()> {
    let mut command = Command::new("sh");
    let script = "\"$0\" do --root \"$1\" -- /bin/echo x >&-";
    command.arg("-c").arg(script).arg(sh::nacre()).arg(&ground.root);
    let ended = sh::timed(&mut command, LIMIT)?;
    if ended.status.is_none() {
        bail!("it hangs");
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg("\"$0\" --root \"$1\" list >/dev/full").arg(sh::nacre()).arg(&ground.state);
    let ended = sh::timed(&mut command, LIMIT)?;
    if ended.success() || ended.stderr.contains("panicked") {
        bail!("list to a full device: {}: {}", ended.how(), ended.stderr);
    }
    Ok(())
}

/// The hog dies as if out of memory; its parent, in the same container, goes on.
fn memory_hog(ground: &Ground) -> Result<()> {
    let hog = "x=y; while true; do x=$x$x; done & wait $!; echo hog ended with $?";
    let ended = sh::timed(&mut ground.inside(&["--memory", "64M"], &["/bin/sh", "-c", hog]), LIMIT)?;
    if !ended.stdout.contains("hog ended with 137") {
        bail!("{}: {} {}", ended.how(), ended.stdout, sh::tail(&ended.stderr, 3));
    }
    Ok(())
}

/// Here it is the sentry that writes to the memory that is not there.
fn memory_hog_in_the_kernel(ground: &Ground) -> Result<()> {
    let hog = "dd if=/dev/zero of=/dev/null bs=300M count=1 & wait $!; echo hog ended with $?";
    let mut command = ground.inside(&["--memory", "64M"], &["/bin/sh", "-c", hog]);
    let ended = sh::timed(&mut command, LIMIT)?;
    if !ended.stdout.contains("hog ended with 137") {
        bail!("{}: {} {}", ended.how(), ended.stdout, sh::tail(&ended.stderr, 3));
    }
    Ok(())
}

const OTHER: &str = "dd if=/dev/zero of=/dev/null bs=60M count=1; echo other ended with $?";

/// A process that holds nearly all memory and does nothing, another that needs a little more than is left. `first` is what the
/// first does before, `other` the other's command. Gives what was said of their ends.
fn hog_and_other(ground: &Ground, first: &str, other: &str) -> Result<String> {
    // The pipe's first byte comes when all is read into the buffer.
    let script = format!(
        "mkfifo /tmp/p; exec 3<>/tmp/p; ({first} exec dd if=/dev/zero of=/tmp/p bs=100M count=1) & hog=$!
        head -c 1 <&3 >/dev/null
        {other}
        kill -0 $hog && echo hog is alive && kill $hog; wait $hog; echo hog ended with $?"
    );
    let ended = sh::timed(&mut ground.inside(&["--memory", "128M"], &["/bin/sh", "-c", &script]), LIMIT)?;
    if !ended.success() {
        bail!("{}: {} {}", ended.how(), ended.stdout, sh::tail(&ended.stderr, 3));
    }
    Ok(ended.stdout)
}

/// Who holds most is killed, not who touches what is no longer there; and that one goes on.
fn memory_hog_that_is_idle(ground: &Ground) -> Result<()> {
    let said = hog_and_other(ground, "", OTHER)?;
    if !said.contains("other ended with 0") || !said.contains("hog ended with 137") || said.contains("alive") {
        bail!("{said}");
    }
    Ok(())
}

/// Two meet the limit at about the same time: one victim is enough for both.
fn memory_hog_that_two_wait_for(ground: &Ground) -> Result<()> {
    let one = "dd if=/dev/zero of=/dev/null bs=40M count=1";
    let other = format!("{one} & a=$!; {one} & b=$!; wait $a; echo a ended with $?; wait $b; echo b ended with $?");
    let said = hog_and_other(ground, "", &other)?;
    if !said.contains("a ended with 0") || !said.contains("b ended with 0") || !said.contains("hog ended with 137") {
        bail!("{said}");
    }
    Ok(())
}

/// `oom_score_adj` -1000: somebody else is.
fn memory_hog_that_is_protected(ground: &Ground) -> Result<()> {
    let said = hog_and_other(ground, "echo -1000 >/proc/self/oom_score_adj;", OTHER)?;
    if !said.contains("other ended with 137") || !said.contains("hog is alive") {
        bail!("{said}");
    }
    Ok(())
}

const BOMB: &str = "f() { f | f & }; f; sleep 2; echo still here";

fn fork_bomb(ground: &Ground) -> Result<()> {
    let ended = sh::timed(&mut ground.inside(&["--pids", "40"], &["/bin/sh", "-c", BOMB]), LIMIT)?;
    if ended.status.is_none() {
        bail!("it does not end");
    }
    Ok(())
}

fn fork_bomb_in_container(ground: &Ground) -> Result<()> {
    // A shell that cannot fork ends, so the container's own process forks no more once the bomb has its place.
    let script = "f() { f | f & }; f; exec sleep 1000";
    let dir = ground.bundle("bomb", &["/bin/sh", "-c", script], |c| c.pids = Some(40))?;
    let mut command = ground.nacre();
    command.args(["run", "--detach", "--bundle"]).arg(&dir).arg("bomb");
    expect(sh::timed(&mut command, LIMIT)?, 0)?;
    let result = tame(ground);
    ground.delete("bomb")?;
    result
}

/// The sandbox of the bomb stays manageable.
fn tame(ground: &Ground) -> Result<()> {
    std::thread::sleep(Duration::from_secs(2));
    ground.await_status("bomb", "running")?;
    expect(sh::timed(ground.nacre().args(["kill", "bomb", "KILL"]), LIMIT)?, 0)?;
    ground.await_status("bomb", "stopped")
}

/// A tiny tmpfs of the host, mounted for the length of a case.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(path: PathBuf, size: &str) -> Result<Tiny> {
        std::fs::create_dir_all(&path)?;
        let options = format!("size={size},mode=755");
        sh::run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path))?;
        Ok(Tiny(path))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_volume(ground: &Ground) -> Result<()> {
    let tiny = Tiny::mount(ground.state.join("tiny"), "1M")?;
    let volume = format!("{}:/mnt", tiny.0.display());
    let script = "dd if=/dev/zero of=/mnt/f bs=64k count=100 2>&1; echo then $?; rm /mnt/f; echo ok >/mnt/g && cat /mnt/g";
    let ended = sh::timed(&mut ground.inside(&["--volume", &volume], &["/bin/sh", "-c", script]), LIMIT)?;
    let text = &ended.stdout;
    if !text.contains("No space left") || !text.contains("then 1") || !text.trim_end().ends_with("ok") {
        bail!("{}: {text} {}", ended.how(), sh::tail(&ended.stderr, 3));
    }
    Ok(())
}

fn full_state_folder(ground: &Ground) -> Result<()> {
    let tiny = Tiny::mount(ground.state.join("tiny"), "16k")?;
    std::fs::write(tiny.0.join("filler"), vec![0u8; 4096])?;
    let _ = std::fs::write(tiny.0.join("more"), vec![0u8; 65536]);
    let dir = ground.bundle("full", &["/bin/true"], |_| ())?;
    let mut command = Command::new(sh::nacre());
    command.arg("--root").arg(&tiny.0).args(["run", "--bundle"]).arg(&dir).arg("full");
    let ended = sh::timed(&mut command, LIMIT)?;
    if ended.success() || ended.status.is_none() || !ended.stderr.contains("space") {
        bail!("{}: {}", ended.how(), ended.stderr);
    }
    Ok(())
}

fn kill_do_at_any_moment(ground: &Ground) -> Result<()> {
    for step in 0..20 {
        let mut command = ground.inside(&[], &["/bin/sh", "-c", "sleep 50 & sleep 50"]);
        let mut child = command.stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(step * 8));
        sh::signal(child.id(), "KILL");
        child.wait()?;
    }
    Ok(())
}

fn kill_run_at_any_moment(ground: &Ground) -> Result<()> {
    for step in 0..20 {
        let id = format!("half-{step}");
        let dir = ground.bundle(&id, &["/bin/sleep", "50"], |_| ())?;
        let mut command = ground.nacre();
        command.args(["run", "--bundle"]).arg(&dir).arg(&id);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(step * 8));
        sh::signal(child.id(), "KILL");
        child.wait()?;
        // Whatever half-made thing it left, this must clear away; none at all is fine too.
        sh::timed(ground.nacre().args(["delete", "--force", &id]), LIMIT)?;
        let again = sh::timed(ground.nacre().args(["state", &id]), LIMIT)?;
        if again.success() {
            bail!("{id}, killed after {} ms, is still known after delete --force", step * 8);
        }
    }
    Ok(())
}

/// Sentry, gofer, stub, zygote: whichever dies, the container is reported stopped and can be deleted.
fn kill_each_process(ground: &Ground) -> Result<()> {
    for n in 0..16 {
        let before = sh::pids();
        let id = format!("victim-{n}");
        ground.start(&id, &["/bin/sh", "-c", "while true; do sleep 1; done"])?;
        std::thread::sleep(Duration::from_millis(300));
        let made: Vec<u32> = sh::pids().difference(&before).copied().filter(|p| ours(*p, ground)).collect();
        if let Some(victim) = made.get(n) {
            let what = std::fs::read_to_string(format!("/proc/{victim}/comm")).unwrap_or_default();
            sh::signal(*victim, "KILL");
            std::thread::sleep(Duration::from_millis(300));
            // A stub is one guest process; the container may live on without it.
            let status = ground.status(&id).with_context(|| format!("after the death of {}", what.trim()))?;
            println!("  killed {} ({} of {}): {status}", what.trim(), n + 1, made.len());
        }
        ground.delete(&id)?;
        if n + 1 >= made.len() {
            return if made.is_empty() { Err(anyhow::anyhow!("no process of the sandbox was found")) } else { Ok(()) };
        }
    }
    Ok(())
}

fn life_cycle(ground: &Ground) -> Result<()> {
    let dir = ground.bundle("life", &["/bin/sleep", "100"], |_| ())?;
    let verb = |args: &[&str]| sh::timed(ground.nacre().args(args), LIMIT);
    expect(sh::timed(ground.nacre().args(["create", "--bundle"]).arg(&dir).arg("life"), LIMIT)?, 0)?;
    ground.await_status("life", "created")?;
    expect(verb(&["start", "life"])?, 0)?;
    ground.await_status("life", "running")?;
    expect(verb(&["exec", "life", "/bin/true"])?, 0)?;
    expect(verb(&["exec", "life", "/bin/sh", "-c", "exit 9"])?, 9)?;
    expect(verb(&["pause", "life"])?, 0)?;
    ground.await_status("life", "paused")?;
    expect(verb(&["resume", "life"])?, 0)?;
    let listed = verb(&["list"])?;
    if !listed.stdout.contains("life") {
        bail!("list does not show it: {}", listed.stdout);
    }
    if verb(&["delete", "life"])?.success() {
        bail!("a running container was deleted without --force");
    }
    expect(verb(&["kill", "life", "KILL"])?, 0)?;
    ground.await_status("life", "stopped")?;
    expect(verb(&["delete", "life"])?, 0)?;
    if verb(&["state", "life"])?.success() {
        bail!("it is still known");
    }
    Ok(())
}

fn delete_force_while_running(ground: &Ground) -> Result<()> {
    ground.start("busy", &["/bin/sh", "-c", "while true; do true; done"])?;
    ground.delete("busy")
}

fn many_at_once(ground: &Ground) -> Result<()> {
    let mut children = Vec::new();
    for n in 0..6 {
        let script = format!("echo n{n}; sleep 0.2; exit {n}");
        children.push(ground.inside(&[], &["/bin/sh", "-c", &script]).stdout(Stdio::null()).spawn()?);
    }
    for (n, mut child) in children.into_iter().enumerate() {
        let status = sh::wait(&mut child, LIMIT)?;
        if status.and_then(|s| s.code()) != Some(n as i32) {
            bail!("number {n}: {status:?}");
        }
    }
    Ok(())
}

fn one_after_another(ground: &Ground) -> Result<()> {
    for _ in 0..20 {
        expect(sh::timed(&mut ground.inside(&[], &["/bin/true"]), LIMIT)?, 0)?;
    }
    Ok(())
}

/// Whether a process runs the program under test, or descends from one that does (stubs run a zygote from memory).
fn ours(mut pid: u32, ground: &Ground) -> bool {
    let program = sh::nacre();
    let mentions = |pid: u32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let state = ground.state.display().to_string();
        exe.display().to_string().starts_with(&program.display().to_string()) || String::from_utf8_lossy(&line).contains(&state)
    };
    while pid > 1 {
        if mentions(pid) {
            return true;
        }
        pid = startup::parent(pid).unwrap_or(0);
    }
    false
}

/// What a sandbox could leave behind on the host.
struct Traces {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    fn look() -> Result<Traces> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?.lines().map(mount_point).collect();
        let mut cgroups = BTreeSet::new();
        folders(Path::new("/sys/fs/cgroup"), 4, &mut cgroups);
        let mut files = BTreeSet::new();
        for dir in ["/run", "/tmp", "/var/tmp", "/dev/shm", "/run/nacre"] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Our own scratch folders are not the sandbox's.
                if !name.starts_with("nacre-test.") && (name.contains("nacre") || dir.contains("nacre")) {
                    files.insert(entry.path());
                }
            }
        }
        Ok(Traces { mounts, cgroups, files })
    }

    fn nothing_left(&self, ground: &Ground) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.left(ground)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("left behind: {}", left.join(", "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self, ground: &Ground) -> Result<Vec<String>> {
        let now = Traces::look()?;
        let processes = sh::pids().into_iter().filter(|p| ours(*p, ground));
        let mut left: Vec<String> = processes.map(|p| format!("process {p}")).collect();
        left.extend(now.mounts.difference(&self.mounts).map(|m| format!("mount {m}")));
        left.extend(now.cgroups.difference(&self.cgroups).map(|c| format!("cgroup {}", c.display())));
        left.extend(now.files.difference(&self.files).map(|f| format!("file {}", f.display())));
        for entry in std::fs::read_dir(&ground.state)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("bundle-") && name != "tiny" {
                left.push(format!("state {name}"));
            }
        }
        Ok(left)
    }
}

fn mount_point(line: &str) -> String {
    line.split(' ').nth(4).unwrap_or_default().to_string()
}

fn folders(dir: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.insert(entry.path());
            if depth > 1 {
                folders(&entry.path(), depth - 1, found);
            }
        }
    }
}
