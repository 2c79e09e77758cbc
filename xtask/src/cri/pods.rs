//! Pods through CRI, as a kubelet makes them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use super::engine::{Engine, Release};
use super::image;
use crate::sh::{self, Ended};

pub const CASES: &[Case] = &[
    ("pod", pod),
    ("pod-containers", containers),
    ("pod-logs", logs),
    ("pod-debug-stacks", stacks),
    ("pod-volume", volume),
    ("pod-config-map", config_map),
    ("pod-share-pid", share_pid),
    ("pod-oom", out_of_memory),
    ("pod-restart", restart),
    ("pod-probes", probes),
    ("pod-kill-sentry", kill_sentry),
    ("pod-kill-shim", kill_shim),
    ("pod-debug", debug),
    ("pods", |engine| many(engine, 20)),
];

/// What takes minutes.
pub const FULL: &[Case] = &[("pods-200", |engine| many(engine, 200))];

const LIMIT: Duration = Duration::from_secs(130);

impl Engine {
    pub fn cri(&self, args: &[&str]) -> Result<Ended> {
        self.cri_within(args, LIMIT)
    }

    pub fn cri_within(&self, args: &[&str], limit: Duration) -> Result<Ended> {
        let mut command = Command::new(sh::target().join("debug/cri-client"));
        command.arg(self.dir.join("c.sock"));
        let args = match args {
            ["run-pod", rest @ ..] if !rest.contains(&"--handler") => &[&["run-pod", "--handler", self.handler], rest].concat(),
            args => args,
        };
        // A pod on the node's network makes containerd 2.1 panic where its sandbox is the shim's (containerd issue 12983): there all have one of their own.
        if let (Release::Two, ["run-pod" | "create", ..]) = (self.release, args) {
            command.arg(args[0]).arg("--cni").args(&args[1..]);
        } else {
            command.args(args);
        }
        sh::timed(&mut command, limit)
    }

    /// The client's command line in a shell.
    pub fn client(&self) -> String {
        format!("{} {}", sh::target().join("debug/cri-client").display(), self.dir.join("c.sock").display())
    }

    /// The runtime's state directory of a container.
    pub fn state_of(&self, id: &str) -> Result<PathBuf> {
        let states = self.states()?;
        states.into_iter().find(|state| state.ends_with(id)).with_context(|| format!("no state of {id}"))
    }

    /// What a call says, which must succeed.
    pub fn call(&self, args: &[&str]) -> Result<String> {
        let ended = self.cri(args)?;
        if !ended.success() {
            bail!("{}: {}: {}", args.join(" "), ended.how(), ended.stderr.trim());
        }
        Ok(ended.stdout.trim().to_string())
    }

    /// A running container of a pod.
    pub fn container(&self, pod: &str, name: &str, options: &[&str], command: &[&str]) -> Result<String> {
        let mut args = vec!["create", pod, name, image::NAME];
        args.extend(options);
        args.push("--");
        args.extend(command);
        let id = self.call(&args)?;
        self.call(&["start", &id])?;
        Ok(id)
    }

    pub fn exec(&self, id: &str, command: &[&str]) -> Result<Ended> {
        let mut args = vec!["exec", id, "--"];
        args.extend(command);
        self.cri(&args)
    }

    /// Waits until a container's state, exit code and reason are these.
    pub fn wait_status(&self, id: &str, wanted: &str) -> Result<()> {
        let mut last = String::new();
        let done = self.soon(&format!("{id} is {wanted:?}"), |engine| {
            last = engine.call(&["status", id])?;
            Ok(last == wanted)
        });
        done.with_context(|| format!("it is {last:?}"))
    }

    /// Removes all pods with what is in them.
    pub fn clear_pods(&self) -> Result<()> {
        for id in self.call(&["container-ids"])?.lines() {
            let _ = self.cri(&["stop", id])?;
            self.call(&["remove", id])?;
        }
        for id in self.call(&["pod-ids"])?.lines() {
            self.remove_pod(id)?;
        }
        Ok(())
    }

    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.call(&["stop-pod", id])?;
        self.call(&["remove-pod", id]).map(drop)
    }

    /// A pod with a network and a container that sleeps; the ids of both.
    pub fn sleeper(&self, name: &str, handler: &str) -> Result<(String, String)> {
        let pod = self.call(&["run-pod", name, "--cni", "--handler", handler])?;
        let id = self.container(&pod, "main", &["--cni"], &["sleep", "1000"])?;
        Ok((pod, id))
    }
}

/// One container's life in a pod.
fn pod(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "life"])?;
    engine.only_shim()?;
    let id = engine.container(&pod, "main", &["--user", "1000"], &["sh", "-c", "id -u; sleep 1; exit 3"])?;
    engine.wait_status(&id, "running 0")?;
    let said = engine.exec(&id, &["sh", "-c", "id -u; echo err >&2; exit 7"])?;
    ensure!(said.code() == Some(7) && said.stdout == "1000\n" && said.stderr == "err\n", "{:?} {:?}", said.code(), said.stderr);
    let stats = engine.call(&["stats", &id])?;
    ensure!(!stats.contains("memory 0") && !stats.contains("cpu 0 "), "{stats}");
    engine.wait_status(&id, "exited 3 Error")?;
    ensure!(engine.exec(&id, &["true"])?.code() != Some(0), "exec in an ended container");
    engine.call(&["remove", &id])?;
    engine.remove_pod(&pod)?;
    ensure!(engine.call(&["pod-ids"])?.is_empty(), "the pod is still there");
    Ok(())
}

/// Two containers: one sandbox, one network, files and processes of their own.
fn containers(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "two"])?;
    let server = "echo one > /mark; while true; do echo hello | nc -l -p 8080 127.0.0.1; done";
    let one = engine.container(&pod, "one", &[], &["sh", "-c", server])?;
    let two = engine.container(&pod, "two", &[], &["sleep", "1000"])?;
    let shim = engine.only_shim()?;
    ensure!(engine.children(shim, "nacre-sentry").len() == 1, "one sandbox for the pod");
    ensure!(engine.children(shim, "nacre-gofer").len() == 3, "a gofer per container");
    engine.soon("one hears the other", |engine| {
        Ok(engine.exec(&two, &["sh", "-c", "nc 127.0.0.1 8080 </dev/null"])?.stdout == "hello\n")
    })?;
    let seen = engine.exec(&two, &["sh", "-c", "ls /mark 2>&1; ps"])?.stdout;
    ensure!(!seen.contains("\n/mark") && !seen.contains("nc -l"), "{seen}");
    // System V's memory is the pod's.
    let made = engine.exec(&one, &["sh", "-c", "ipcmk -M 4096 >/dev/null 2>&1; ipcs -m | grep -c 4096"])?.stdout;
    let seen = engine.exec(&two, &["sh", "-c", "ipcs -m | grep -c 4096"])?.stdout;
    ensure!(made == seen, "segments: {made:?}, and in the other container {seen:?}");
    engine.call(&["stop", &one])?;
    engine.wait_status(&one, "exited 137 Error")?;
    engine.wait_status(&two, "running 0")?;
    Ok(())
}

/// In the form that `kubectl logs` reads.
fn logs(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "logs"])?;
    let log = engine.dir.join("logs/main.log");
    std::fs::create_dir_all(engine.dir.join("logs"))?;
    // The kubelet gives the directory with the pod; create passes it on again.
    let path = log.display().to_string();
    let id = engine.container(&pod, "main", &["--log", &path], &["sh", "-c", "echo out; echo err >&2"])?;
    engine.wait_status(&id, "exited 0 Completed")?;
    engine.soon("both lines are in the log", |_| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(text.contains(" stdout F out\n") && text.contains(" stderr F err\n"))
    })
}

/// `nacre debug`, of a container in a pod.
fn stacks(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "stacks"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1234"])?;
    let state = engine.state_of(&id)?;
    let root = state.parent().context("state without a root")?;
    for (flag, wanted) in [("--stacks", "sleep"), ("--ps", "sleep 1234")] {
        let mut debug = Command::new(engine.dir.join("bin/nacre"));
        let said = sh::timed(debug.arg("--root").arg(root).args(["debug", flag, &id]), LIMIT)?;
        ensure!(said.success() && said.stdout.contains(wanted), "{flag}: {} {:?} {}", said.how(), said.stdout, said.stderr);
    }
    Ok(())
}

/// A directory of the host, in two containers: emptyDir and hostPath.
fn volume(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "volume"])?;
    let shared = engine.dir.join("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let mount = format!("{}:/data", shared.display());
    let one = engine.container(&pod, "one", &["--mount", &mount], &["sleep", "1000"])?;
    let two = engine.container(&pod, "two", &["--mount", &mount], &["sleep", "1000"])?;
    ensure!(engine.exec(&one, &["sh", "-c", "echo told > /data/file"])?.success(), "one cannot write");
    ensure!(engine.exec(&two, &["cat", "/data/file"])?.stdout == "told\n", "two does not see it");
    ensure!(std::fs::read_to_string(shared.join("file"))? == "told\n", "the host does not see it");
    std::fs::write(shared.join("file"), "updated\n")?;
    engine.soon("an update is seen", |engine| Ok(engine.exec(&one, &["cat", "/data/file"])?.stdout == "updated\n"))
}

/// A ConfigMap, as the kubelet writes and updates it: who watches it is told, and sees the new one.
fn config_map(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "config-map"])?;
    let (tools, map) = (engine.dir.join("tools"), engine.dir.join("volumes/kubernetes.io~configmap/config"));
    let log = engine.dir.join("logs/config-map.log");
    // Should this be the second try.
    let _ = (std::fs::remove_dir_all(&map), std::fs::remove_file(&log));
    for dir in [&tools, &map, &engine.dir.join("logs")] {
        std::fs::create_dir_all(dir)?;
    }
    sh::compile_c(&sh::top().join("tests/cri/watch.c"), &tools.join("watch"))?;
    let write = |version: &str| -> Result<()> {
        let made = map.join(format!("..{version}"));
        std::fs::create_dir(&made)?;
        std::fs::write(made.join("key"), version)?;
        std::os::unix::fs::symlink(format!("..{version}"), map.join("..data_tmp"))?;
        Ok(std::fs::rename(map.join("..data_tmp"), map.join("..data"))?)
    };
    write("one")?;
    std::os::unix::fs::symlink("..data/key", map.join("key"))?;
    let (path, tools) = (log.display().to_string(), format!("{}:/tools:ro", tools.display()));
    let mount = format!("{}:/config:ro", map.display());
    let options = ["--log", &path, "--mount", &tools, "--mount", &mount];
    engine.container(&pod, "main", &options, &["/tools/watch", "/config"])?;
    let says = |what: &'static str| {
        let log = log.clone();
        move |_: &Engine| Ok(std::fs::read_to_string(&log).unwrap_or_default().contains(what))
    };
    engine.soon("the first version is there", says(" stdout F first one\n"))?;
    write("two")?;
    std::fs::remove_dir_all(map.join("..one"))?;
    engine.soon("the update is told, and seen", says(" stdout F then two\n"))
}

fn share_pid(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "pids", "--share-pid"])?;
    engine.container(&pod, "one", &["--share-pid"], &["sleep", "2000"])?;
    let two = engine.container(&pod, "two", &["--share-pid"], &["sleep", "3000"])?;
    let seen = engine.exec(&two, &["ps"])?.stdout;
    let first = match engine.release {
        Release::One => "1 root     sleep 1000000",
        // There is no image for it.
        Release::Two => "1 65535    /pause",
    };
    for wanted in [first, "sleep 2000", "sleep 3000"] {
        ensure!(seen.contains(wanted), "{wanted:?} is not in {seen}");
    }
    Ok(())
}

/// Only the container that wants too much is killed, and that is what is said of it.
fn out_of_memory(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "oom"])?;
    let other = engine.container(&pod, "other", &[], &["sleep", "1000"])?;
    let hog = engine.container(&pod, "hog", &["--memory", "33554432"], &["sh", "-c", "exec tail /dev/zero"])?;
    engine.wait_status(&hog, "exited 137 OOMKilled")?;
    engine.wait_status(&other, "running 0")
}

/// containerd is killed and started again while a pod runs.
fn restart(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "restart"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    let ending = engine.container(&pod, "ending", &[], &["sh", "-c", "sleep 1; exit 5"])?;
    engine.kill()?;
    std::thread::sleep(Duration::from_millis(1500));
    engine.restart()?;
    engine.wait_status(&id, "running 0")?;
    engine.wait_status(&ending, "exited 5 Error")?;
    ensure!(engine.exec(&id, &["echo", "here"])?.stdout == "here\n", "exec after the restart");
    Ok(())
}

/// Many short processes, as of liveness probes.
fn probes(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "probes"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    for n in 0..100 {
        let probed = engine.exec(&id, &["true"])?;
        ensure!(probed.success(), "probe {n}: {}", probed.stderr);
    }
    Ok(())
}

fn kill_sentry(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "broken"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    sh::signal(*engine.children(engine.only_shim()?, "nacre-sentry").first().context("no sandbox")?, "KILL");
    engine.wait_status(&id, "exited 137 Error")
}

fn kill_shim(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "orphan"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    sh::signal(engine.only_shim()?, "KILL");
    engine.soon("the container has ended", |engine| Ok(engine.call(&["status", &id])?.starts_with("exited")))
}

/// An ephemeral container that sees another one's processes: `kubectl debug --target`.
fn debug(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "debug"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "2000"])?;
    engine.container(&pod, "other", &[], &["sleep", "4000"])?;
    let debugger = engine.container(&pod, "debugger", &["--target", &id], &["sleep", "3000"])?;
    let seen = engine.exec(&debugger, &["ps"])?.stdout;
    ensure!(seen.contains("sleep 2000") && seen.contains("sleep 3000") && !seen.contains("sleep 4000"), "{seen}");
    Ok(())
}

/// Pods by the dozen, with a container each, all there at once.
fn many(engine: &mut Engine, count: usize) -> Result<()> {
    const AT_ONCE: usize = 8;
    let names: Vec<String> = (0..count).map(|n| format!("many{n}")).collect();
    let made = |names: &[String]| -> Result<Vec<(String, String)>> {
        names.iter().map(|name| engine.sleeper(name, "nacre")).collect()
    };
    let pods = std::thread::scope(|scope| -> Result<Vec<(String, String)>> {
        let parts: Vec<_> = names.chunks(count.div_ceil(AT_ONCE)).map(|part| scope.spawn(|| made(part))).collect();
        let mut pods = Vec::new();
        for part in parts {
            pods.extend(part.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
        }
        Ok(pods)
    })?;
    ensure!(engine.shims().len() == count, "{} shims of {count}", engine.shims().len());
    for (_, id) in &pods {
        ensure!(engine.call(&["status", id])?.starts_with("running"), "{id} does not run");
    }
    for (pod, id) in &pods {
        engine.remove_pod(pod)?;
        ensure!(!engine.call(&["container-ids"])?.contains(id.as_str()), "{id} is still there");
    }
    Ok(())
}
