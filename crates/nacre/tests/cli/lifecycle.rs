//! Containers that run.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Place, Run};

fn status(place: &Place, id: &str) -> String {
    let state: Value = serde_json::from_str(&place.nacre(&["state", id]).ok().stdout).expect("JSON");
    state["status"].as_str().expect("status").to_string()
}

fn wait_for(place: &Place, id: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(place, id) != wanted {
        assert!(Instant::now() < deadline, "{id} is {}, not {wanted}", status(place, id));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn run_gives_output_and_exit_code() {
    let Some(place) = Place::new("run").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sh", "-c", "echo out; echo err >&2; exit 7"]));
    let run = place.nacre(&["run", id]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(7), "out\n"), "{run:?}");
    assert!(run.stderr.contains("err"));
    place.write(&Place::config(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]));
    assert_eq!(place.nacre(&["run", id]).code, Some(137));
    place.write(&Place::config(&["no-such-program"]));
    place.nacre(&["run", id]).fails(1, "no-such-program");
    place.assert_clean();
}

#[test]
fn the_whole_life() {
    let Some(place) = Place::new("life").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    let pid_file = place.dir.join("pid");
    place.detached(&["create", "--pid-file", pid_file.to_str().expect("path"), id]).ok();
    assert_eq!(status(&place, id), "created");
    place.detached(&["create", id]).fails(1, "already exists");
    place.nacre(&["exec", id, "true"]).fails(255, "created");
    place.nacre(&["start", id]).ok();
    assert_eq!(status(&place, id), "running");
    place.nacre(&["start", id]).fails(1, "already running");
    place.nacre(&["delete", id]).fails(1, "not stopped");
    assert_eq!(place.nacre(&["list", "-q"]).ok().stdout.trim(), id);
    assert!(place.nacre(&["ps", id]).ok().stdout.contains("sleep 1000"));
    let exec = place.nacre(&["exec", "--env", "A=b", "--cwd", "/bin", id, "sh", "-c", "echo $A; pwd; exit 3"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (Some(3), "b\n/bin\n"), "{exec:?}");
    place.nacre(&["pause", id]).ok();
    assert_eq!(status(&place, id), "paused");
    place.nacre(&["exec", id, "true"]).fails(255, "paused");
    place.nacre(&["resume", id]).ok();
    let stats: Value = serde_json::from_str(&place.nacre(&["events", "--stats", id]).ok().stdout).expect("JSON");
    assert!(stats["data"]["pids"]["current"].as_u64().is_some_and(|n| n >= 1), "{stats}");
    assert!(place.nacre(&["debug", "--ps", id]).ok().stdout.contains("sleep"));
    let pid: i32 = fs::read_to_string(&pid_file).expect("pid file").parse().expect("pid");
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok());
    place.nacre(&["kill", id, "KILL"]).ok();
    wait_for(&place, id, "stopped");
    place.nacre(&["kill", id]).fails(1, "container not running");
    place.nacre(&["delete", id]).ok();
    place.assert_clean();
}

#[test]
fn statistics_count_what_has_ended() {
    let Some(place) = Place::new("ended-cpu").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    place.detached(&["run", "--detach", id]).ok();
    // What the shell has used, in hundredths of a second.
    let used = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; cut -d ' ' -f 14 /proc/$$/stat";
    let used: u64 = place.nacre(&["exec", id, "sh", "-c", used]).ok().stdout.trim().parse().expect("a number");
    let stats: Value = serde_json::from_str(&place.nacre(&["events", "--stats", id]).ok().stdout).expect("JSON");
    let total = stats["data"]["cpu"]["usage"]["total"].as_u64().expect("a number");
    assert!(used > 0 && total >= used * 10_000_000, "{used}: {stats}");
    place.nacre(&["delete", "--force", id]).ok();
    place.assert_clean();
}

#[test]
fn exec_with_a_terminal() {
    let Some(place) = Place::new("exec-tty").busybox() else { return };
    let id = &*place.id();
    let mut config = Place::config(&["sleep", "1000"]);
    config["mounts"].as_array_mut().expect("mounts").extend([
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}),
    ]);
    place.write(&config);
    place.detached(&["run", "-d", id]).ok();
    let exec = place.command(&[
        "exec",
        "-t",
        id,
        "sh",
        "-c",
        "test -t 0 && test -t 1 && busybox stty size; read line; echo got $line; exit 4",
    ]);
    let words = std::iter::once(exec.get_program()).chain(exec.get_args()).map(|word| format!("'{}'", word.to_string_lossy()));
    // A terminal of this size, at whose other end `script` types what it reads.
    let inner = format!("stty cols 91 rows 23; {}", words.collect::<Vec<_>>().join(" "));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = script.spawn().expect("script, of bsdutils");
    script.stdin.take().expect("stdin").write_all(b"typed\n").expect("write");
    let run = Run::of(script.wait_with_output().expect("output"));
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stdout.contains("23 91") && run.stdout.contains("got typed"), "{run:?}");
    place.nacre(&["delete", "--force", id]).ok();
    place.assert_clean();
}

#[test]
fn force_deletes_whatever_is_there() {
    let Some(place) = Place::new("force").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    place.detached(&["run", "-d", id]).ok();
    place.nacre(&["delete", "--force", id]).ok();
    place.assert_clean();
    place.detached(&["create", id]).ok();
    place.nacre(&["delete", id]).ok();
    place.assert_clean();
}

#[test]
fn a_sandbox_that_is_killed_is_stopped() {
    let Some(place) = Place::new("killed").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    place.detached(&["run", "-d", id]).ok();
    let state: Value = serde_json::from_str(&place.nacre(&["state", id]).ok().stdout).expect("JSON");
    let pid =
        state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    wait_for(&place, id, "stopped");
    place.nacre(&["delete", id]).ok();
    place.assert_clean();
}

#[test]
fn a_sandbox_that_hangs_hangs_nobody() {
    let Some(place) = Place::new("hung").busybox() else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    place.detached(&["run", "-d", id]).ok();
    let state: Value = serde_json::from_str(&place.nacre(&["state", id]).ok().stdout).expect("JSON");
    let pid =
        state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
    let verbs = [&["ps", id][..], &["kill", id, "TERM"], &["events", "--stats", id], &["debug", "--stacks", id]];
    // Side by side: each waits as long as it may.
    std::thread::scope(|scope| {
        for verb in verbs {
            let place = &place;
            scope.spawn(move || place.nacre(verb).fails(1, "delete --force"));
        }
    });
    assert_eq!(status(&place, id), "running");
    let killed = place.nacre(&["kill", id, "KILL"]).ok();
    assert!(killed.stderr.contains("its process is killed instead"), "{killed:?}");
    wait_for(&place, id, "stopped");
    place.nacre(&["delete", id]).ok();
    place.assert_clean();
}

#[test]
fn hooks_see_the_container() {
    let Some(place) = Place::new("hooks").busybox() else { return };
    let id = &*place.id();
    let log = place.dir.join("hooks");
    let hook =
        |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat) >> {}", log.display())]}]);
    let mut config = Place::config(&["true"]);
    config["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    config["annotations"] = json!({"a": "b"});
    place.write(&config);
    place.nacre(&["run", id]).ok();
    let text = fs::read_to_string(&log).expect("hooks ran");
    let names: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["createRuntime", "poststart", "poststop"], "{text}");
    assert!(text.lines().all(|line| line.contains(id) && line.contains("\"a\":\"b\"")), "{text}");
    place.assert_clean();
}

#[test]
fn sysctls_are_set_or_refused() {
    let Some(place) = Place::new("sysctls").busybox() else { return };
    let id = &*place.id();
    let mut config = Place::config(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/sem"]);
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "80", "kernel.sem": "250 32000 100 128"});
    place.write(&config);
    assert_eq!(place.nacre(&["run", id]).ok().stdout, "80\n250\t32000\t100\t128\n");
    config["linux"]["sysctl"] = json!({"kernel.sem": "many"});
    place.write(&config);
    place.nacre(&["run", id]).fails(1, "kernel.sem");
    config["linux"]["sysctl"] = json!({"net.nothing.of_that_name": "1"});
    place.write(&config);
    place.nacre(&["run", id]).fails(1, "net.nothing.of_that_name");
    place.assert_clean();
}

#[test]
fn do_runs_over_the_host() {
    let place = Place::new("do-run");
    let mut child = place
        .command(&[
            "do",
            "--env",
            "A=b",
            "--",
            "/bin/sh",
            "-c",
            "cat; echo $A; pwd; echo x > /etc/nacre-was-here; cat /etc/nacre-was-here; exit 5",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nacre runs");
    child.stdin.take().expect("stdin").write_all(b"input\n").expect("write");
    let run = Run::of(child.wait_with_output().expect("output"));
    let expected = format!("input\nb\n{}\nx\n", place.bundle().display());
    assert_eq!((run.code, run.stdout.as_str()), (Some(5), expected.as_str()), "{run:?}");
    assert!(!fs::exists("/etc/nacre-was-here").expect("stat"), "the host was written");
    place.nacre(&["do", "/no/such/program"]).fails(127, "/no/such/program");
}

#[test]
fn an_overlay_directory_keeps_what_a_command_has_done() {
    let place = Place::new("do-overlay");
    let host_file = place.bundle().join("host-file");
    fs::write(&host_file, "of the host\n").expect("write");
    let mode = format!("dir:{}", place.dir.join("kept").display());
    let run = |script: &str| place.nacre(&["do", "--overlay", &mode, "--", "/bin/sh", "-c", script]);
    let first = run("echo first > /etc/nacre-was-here && rm host-file && ls -A ../kept");
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), ""), "its raw content is not for the guest: {first:?}");
    assert!(!fs::exists("/etc/nacre-was-here").expect("stat"), "the host was written");
    assert_eq!(fs::read_to_string(&host_file).expect("host-file"), "of the host\n");
    let second = run("cat /etc/nacre-was-here; ls; echo second >> /etc/nacre-was-here");
    assert_eq!((second.code, second.stdout.as_str()), (Some(0), "first\nrootfs\n"), "{second:?}");
    assert_eq!(run("cat /etc/nacre-was-here").stdout, "first\nsecond\n");
    let other = place.nacre(&["do", "--", "/bin/sh", "-c", "cat host-file; ls /etc/nacre-was-here 2>/dev/null"]);
    assert_eq!(other.stdout, "of the host\n", "kept there only");
}

#[test]
fn do_passes_signals_on() {
    let place = Place::new("do-signal");
    let mut child = place
        .command(&["do", "--", "/bin/sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nacre runs");
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().expect("stdout")), &mut ready)
        .expect("read");
    assert_eq!(ready, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(42));
}

#[test]
fn volumes_are_written_through_unless_read_only() {
    let place = Place::new("do-volume");
    let shared = place.dir.join("shared");
    fs::create_dir(&shared).expect("dir");
    let (rw, ro) = (format!("{}:/mnt", shared.display()), format!("{}:/mnt:ro", shared.display()));
    place.nacre(&["do", "-v", &rw, "--", "/bin/sh", "-c", "echo hello > /mnt/file"]).ok();
    assert_eq!(fs::read_to_string(shared.join("file")).expect("written"), "hello\n");
    let run = place.nacre(&["do", "-v", &ro, "--", "/bin/sh", "-c", "cat /mnt/file; echo no > /mnt/file"]);
    assert_eq!(run.stdout, "hello\n");
    assert_ne!(run.code, Some(0));
    assert_eq!(fs::read_to_string(shared.join("file")).expect("kept"), "hello\n");
}

/// Runs `sleep` in 32 MiB, and sees its cgroup.
fn limited(name: &str) -> Option<Place> {
    let place = Place::new(name).busybox()?;
    let mut config = Place::config(&["sleep", "1000"]);
    config["linux"]["resources"] = json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 10}});
    let cgroups = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
    config["mounts"].as_array_mut().expect("mounts").push(cgroups);
    place.write(&config);
    place.detached(&["run", "-d", &place.id()]).ok();
    Some(place)
}

#[test]
fn memory_is_what_the_limit_is() {
    let Some(place) = limited("memory") else { return };
    let id = &place.id();
    let inside = |script: &str| place.nacre(&["exec", id, "sh", "-c", script]);
    let fill = "busybox yes | busybox head -c 50331648 >/f; echo $?; busybox rm -f /f; grep MemTotal /proc/meminfo";
    assert_eq!(inside(fill).stdout, "1\nMemTotal:          32768 kB\n", "not enough");
    place.nacre(&["update", "--memory", "128m", id]).ok();
    assert_eq!(inside(fill).stdout, "0\nMemTotal:         131072 kB\n", "enough");
    place.nacre(&["kill", id, "KILL"]).ok();
    place.nacre(&["delete", "--force", id]).ok();
}

#[test]
fn limits_change_while_it_runs() {
    let Some(place) = limited("update") else { return };
    let id = &place.id();
    let inside = |script: &str| place.nacre(&["exec", id, "sh", "-c", script]);
    place
        .nacre(&["update", "--memory", "128m", "--pids-limit", "4", "--cpu-quota", "50000", "--cpu-period", "100000", id])
        .ok();
    let shown = inside("cd /sys/fs/cgroup; cat memory.max pids.max cpu.max").stdout;
    assert_eq!(shown, "134217728\n4\n50000 100000\n");
    // Less than is in use is refused, and nothing changes.
    let fill = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do busybox cat /proc/self/exe || exit 1; done >/f";
    inside(fill).ok();
    place.nacre(&["update", "--memory", "16m", id]).fails(1, "the container uses more than 16777216 bytes");
    assert_eq!(inside("cat /sys/fs/cgroup/memory.max").stdout, "134217728\n");
    assert!(inside("sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait").stderr.contains("fork"), "four tasks at a time");
    std::thread::sleep(Duration::from_secs(2));
    assert!(inside("true & wait").stderr.contains("fork"), "those that have ended and that nobody waits for are tasks still");
    // As engines say it; -1 is no limit.
    let file = place.dir.join("resources.json");
    fs::write(&file, r#"{"memory":{"limit":67108864},"pids":{"limit":-1}}"#).expect("a file");
    place.nacre(&["update", "--resources", file.to_str().expect("a path"), id]).ok();
    assert_eq!(inside("cd /sys/fs/cgroup; cat memory.max pids.max").stdout, "67108864\nmax\n");
    place.nacre(&["update", "--memory", "lots", id]).fails(1, "is no size");
    place.nacre(&["kill", id, "KILL"]).ok();
    place.nacre(&["delete", "--force", id]).ok();
    place.nacre(&["update", "--memory", "64m", id]).fails(1, "does not exist");
}
