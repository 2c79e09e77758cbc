//! Containers of `ctr`: the Task service from end to end.

use anyhow::{Result, bail, ensure};

use super::Case;
use super::engine::{self, Engine};

pub const CASES: &[Case] = &[
    ("run", run),
    ("life", life),
    ("exec", exec),
    ("events", events),
    ("streams", streams),
    ("log-file", log_file),
    ("terminal", terminal),
    ("stats", stats),
    ("bad-requests", bad_requests),
];

/// Output and exit status.
fn run(engine: &mut Engine) -> Result<()> {
    let ended = engine.run_once("run", &[], &["sh", "-c", "echo out; echo err >&2; uname -r; exit 7"])?;
    ensure!(ended.code() == Some(7) && ended.stdout.starts_with("out\n"), "{:?} {}", ended.code(), ended.stderr);
    ensure!(ended.stderr.contains("err"), "standard error is lost: {:?}", ended.stderr);
    let ended = engine.run_once("killed", &[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])?;
    ensure!(ended.code() == Some(137), "{:?}", ended.code());
    let ended = engine.run_once("missing", &[], &["no-such-program"])?;
    ensure!(ended.code() == Some(1) && ended.stderr.contains("no-such-program"), "{}", ended.stderr);
    Ok(())
}

fn life(engine: &mut Engine) -> Result<()> {
    engine.run_detached("life", &[], &["sleep", "1000"])?;
    engine.wait_for("life", Some("RUNNING"))?;
    engine.ctr(&["task", "pause", "life"])?;
    engine.wait_for("life", Some("PAUSED"))?;
    engine.ctr(&["task", "resume", "life"])?;
    engine.wait_for("life", Some("RUNNING"))?;
    let listed = engine.ctr(&["task", "ps", "life"])?;
    ensure!(listed.lines().count() == 2, "{listed}");
    ensure!(!engine.try_ctr(&["task", "delete", "life"])?.success(), "a running task was deleted");
    engine.ctr(&["task", "kill", "-s", "KILL", "life"])?;
    engine.wait_for("life", Some("STOPPED"))?;
    let again = engine.try_ctr(&["task", "kill", "life"])?;
    ensure!(!again.success(), "an ended task was killed");
    engine.deleted("life", 137)?;
    engine.ctr(&["container", "rm", "life"]).map(drop)
}

fn exec(engine: &mut Engine) -> Result<()> {
    engine.run_detached("exec", &[], &["sleep", "1000"])?;
    let exec = |id: &str, command: &[&str]| {
        let mut args = vec!["task", "exec", "--exec-id", id, "exec"];
        args.extend(command);
        engine.try_ctr(&args)
    };
    let ended = exec("one", &["sh", "-c", "echo in; exit 3"])?;
    ensure!(ended.code() == Some(3) && ended.stdout == "in\n", "{:?} {:?} {}", ended.code(), ended.stdout, ended.stderr);
    // The id is free again.
    ensure!(exec("one", &["true"])?.success(), "a second exec of the same id");
    let missing = exec("two", &["no-such-program"])?;
    ensure!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
    for n in 0..20 {
        let ended = exec(&format!("many{n}"), &["sh", "-c", &format!("exit {n}")])?;
        ensure!(ended.code() == Some(n), "exec {n}: {:?} {}", ended.code(), ended.stderr);
    }
    Ok(())
}

/// What containerd tells of a task's life.
fn events(engine: &mut Engine) -> Result<()> {
    let said = engine.dir.join("events");
    let mut listener = engine.listen(&said)?;
    let done = (|| {
        // Until it listens.
        engine.soon("events are told", |engine| {
            engine.ctr(&["namespace", "label", engine::NAMESPACE, "told=yes"])?;
            Ok(std::fs::read_to_string(&said)?.contains("/namespaces/update"))
        })?;
        engine.run_detached("events", &[], &["sleep", "1000"])?;
        engine.ctr(&["task", "exec", "--exec-id", "added", "events", "true"])?;
        engine.ctr(&["task", "pause", "events"])?;
        engine.ctr(&["task", "resume", "events"])?;
        engine.ctr(&["task", "kill", "-s", "KILL", "events"])?;
        engine.wait_for("events", Some("STOPPED"))?;
        engine.deleted("events", 137)?;
        let wanted = ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
        engine.soon("all that happened is told, in order", |_| {
            let text = std::fs::read_to_string(&said)?;
            let mut rest = text.as_str();
            Ok(wanted.iter().all(|topic| match rest.split_once(&format!("/tasks/{topic} ")) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            }))
        })
    })();
    listener.kill()?;
    listener.wait()?;
    done
}

/// Input, its end, and much output.
fn streams(engine: &mut Engine) -> Result<()> {
    let run = "$CTR run --rm --runtime io.containerd.nacre.v2 docker.io/library/nacre-test:latest";
    let ended = engine.shell(&format!("printf 'one\\ntwo\\n' | {run} input wc -l"))?;
    ensure!(ended.stdout.trim() == "2", "{:?} {}", ended.stdout, ended.stderr);
    let ended = engine.shell(&format!("{run} much sh -c 'head -c 50000000 /dev/zero' | wc -c"))?;
    ensure!(ended.stdout.trim() == "50000000", "{:?} {}", ended.stdout, ended.stderr);
    Ok(())
}

fn log_file(engine: &mut Engine) -> Result<()> {
    let log = engine.dir.join("container.log");
    let uri = format!("file://{}", log.display());
    engine.run_detached("log", &["--log-uri", &uri], &["sh", "-c", "echo logged; echo also >&2"])?;
    engine.wait_for("log", Some("STOPPED"))?;
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.contains("logged\n") && text.contains("also\n"), "{text:?}");
    let refused = engine.try_ctr(&[
        "run",
        "-d",
        "--runtime",
        "io.containerd.nacre.v2",
        "--log-uri",
        "binary:///bin/true",
        super::image::NAME,
        "binary",
        "true",
    ])?;
    ensure!(refused.stderr.contains("binary"), "{}", refused.stderr);
    Ok(())
}

fn terminal(engine: &mut Engine) -> Result<()> {
    let ended = engine.shell(
        "{ sleep 2; printf 'tty; stty size; exit 5\\n'; sleep 2; } | script -qec \
         \"$CTR run --rm -t --runtime io.containerd.nacre.v2 docker.io/library/nacre-test:latest tty sh\" /dev/null",
    )?;
    ensure!(ended.code() == Some(5) && ended.stdout.contains("/dev/pts/0"), "{:?} {:?}", ended.code(), ended.stdout);
    engine.run_detached("tty-exec", &[], &["sleep", "1000"])?;
    let ended = engine.shell(
        "{ sleep 1; printf 'tty; exit 4\\n'; sleep 1; } | script -qec \"$CTR task exec -t --exec-id t tty-exec sh\" /dev/null",
    )?;
    ensure!(ended.code() == Some(4) && ended.stdout.contains("/dev/pts/"), "{:?} {:?}", ended.code(), ended.stdout);
    Ok(())
}

fn stats(engine: &mut Engine) -> Result<()> {
    let hold = "x=$(head -c 20000000 /dev/zero | tr '\\0' a); sleep 1000";
    engine.run_detached("stats", &["--memory-limit", "268435456"], &["sh", "-c", hold])?;
    engine.soon("memory is counted", |engine| {
        let text = engine.ctr(&["task", "metrics", "--format", "json", "stats"])?;
        let text: String = text.split_whitespace().collect();
        Ok(number(&text, "\"usage\":{\"limit\":") == Some(268_435_456)
            && number(&text, "\"usage\":{\"limit\":268435456,\"usage\":").is_some_and(|used| used > 20_000_000)
            && number(&text, "\"current\":").is_some_and(|pids| pids >= 1))
    })
}

/// The number after some text.
fn number(text: &str, after: &str) -> Option<u64> {
    let rest = text.split_once(after)?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn bad_requests(engine: &mut Engine) -> Result<()> {
    engine.run_detached("bad", &[], &["sleep", "1000"])?;
    let fails = |args: &[&str], text: &str| {
        let ended = engine.try_ctr(args)?;
        if ended.success() || !ended.stderr.contains(text) {
            bail!("ctr {}: {:?}, {:?} is not in {}", args.join(" "), ended.code(), text, ended.stderr);
        }
        Ok(())
    };
    fails(&["task", "checkpoint", "bad"], "checkpoint")?;
    fails(&["task", "start", "bad"], "exists")?;
    fails(&["task", "exec", "--exec-id", "x", "none", "true"], "not found")?;
    engine.ctr(&["task", "kill", "-s", "KILL", "bad"])?;
    engine.wait_for("bad", Some("STOPPED"))?;
    fails(&["task", "exec", "--exec-id", "x", "bad", "true"], "stopped")?;
    Ok(())
}
