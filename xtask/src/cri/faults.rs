//! What is killed while containers run: every process of theirs, and containerd. Nothing is left, and nothing hangs.

use anyhow::{Context, Result, ensure};

use super::Case;
use super::engine::{Engine, is_live};
use crate::sh;

pub const CASES: &[Case] = &[
    ("containerd-restart", containerd_restart),
    ("kill-shim", kill_shim),
    ("kill-sentry", kill_sentry),
    ("kill-gofer", kill_gofer),
    ("kill-while-starting", kill_while_starting),
];

/// Containers live on, and those who come back find them.
fn containerd_restart(engine: &mut Engine) -> Result<()> {
    let log = format!("file://{}", engine.dir.join("restart.log").display());
    engine.run_detached("restart", &["--log-uri", &log], &["sh", "-c", "while echo tick; do sleep 0.1; done"])?;
    engine.kill()?;
    engine.run()?;
    engine.wait_for("restart", Some("RUNNING"))?;
    let ended = engine.try_ctr(&["task", "exec", "--exec-id", "x", "restart", "echo", "still here"])?;
    ensure!(ended.stdout == "still here\n", "{:?} {}", ended.code(), ended.stderr);
    // One that ended while nobody looked is seen to have ended.
    engine.run_detached("ending", &[], &["sh", "-c", "sleep 1; exit 9"])?;
    engine.kill()?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    engine.run()?;
    engine.wait_for("ending", Some("STOPPED"))?;
    engine.deleted("ending", 9)
}

/// containerd clears away, and its task is gone.
fn kill_shim(engine: &mut Engine) -> Result<()> {
    engine.run_detached("orphan", &[], &["sleep", "1000"])?;
    let shim = engine.only_shim()?;
    let sentries = engine.children(shim, "nacre-sentry");
    let sentry = *sentries.first().context("the sandbox is no child of the shim")?;
    sh::signal(shim, "KILL");
    engine.soon("the sandbox has ended", |_| Ok(!is_live(sentry)))?;
    engine.soon("the task is gone", |engine| Ok(!matches!(engine.status("orphan")?.as_deref(), Some("RUNNING"))))
}

/// The task has ended as if killed.
fn kill_sentry(engine: &mut Engine) -> Result<()> {
    kill_part(engine, "broken", "nacre-sentry")
}

/// Without files nothing can go on for long; what can be said is that the end comes at once when it is asked for.
fn kill_gofer(engine: &mut Engine) -> Result<()> {
    kill_part(engine, "fileless", "nacre-gofer")
}

fn kill_part(engine: &mut Engine, id: &str, name: &str) -> Result<()> {
    engine.run_detached(id, &[], &["sleep", "1000"])?;
    let shim = engine.only_shim()?;
    let processes = engine.children(shim, name);
    sh::signal(*processes.first().with_context(|| format!("the shim has no {name}"))?, "KILL");
    if name == "nacre-gofer" {
        engine.ctr(&["task", "kill", "-s", "KILL", id])?;
    }
    engine.wait_for(id, Some("STOPPED"))?;
    engine.deleted(id, 137)
}

/// The shim dies at some moment of a start; whatever has been made by then goes.
fn kill_while_starting(engine: &mut Engine) -> Result<()> {
    for milliseconds in [0, 5, 15, 30, 60, 120] {
        let id = format!("early{milliseconds}");
        let ctr = format!("$CTR run -d --runtime io.containerd.nacre.v2 {} {id} sleep 1000 & wait", super::image::NAME);
        std::thread::scope(|scope| -> Result<()> {
            let running = scope.spawn(|| engine.shell(&ctr));
            engine.soon("a shim starts", |engine| Ok(!engine.shims().is_empty()))?;
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            for shim in engine.shims() {
                sh::signal(shim, "KILL");
            }
            // Whether it had started by then is all the same; it must end.
            let ended = running.join().map_err(|_| anyhow::anyhow!("the thread of ctr panicked"))??;
            ensure!(ended.status.is_some(), "ctr hangs when its shim is killed after {milliseconds} ms");
            Ok(())
        })?;
        engine.clear().with_context(|| format!("the shim was killed after {milliseconds} ms"))?;
    }
    Ok(())
}
