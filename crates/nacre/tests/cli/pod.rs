//! Several containers in one sandbox, as engines ask for them by annotations.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Place, in_vm};

/// A pod's first container and one that joins it, from one root.
struct Pod {
    place: Place,
    first: String,
    member: String,
}

impl Pod {
    /// The first container runs.
    fn start(name: &str) -> Option<Pod> {
        let place = Place::new(name).busybox()?;
        let first = place.id();
        let pod = Pod { member: format!("{first}-member"), first, place };
        let mut config = Place::config(&["sleep", "1000"]);
        config["hostname"] = "pod".into();
        config["annotations"] = json!({"io.kubernetes.cri.container-type": "sandbox"});
        pod.place.write(&config);
        pod.place.detached(&["run", "-d", &pod.first]).ok();
        Some(pod)
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.place.nacre(&["state", id]).ok().stdout).expect("JSON")
    }

    fn pid(&self) -> i64 {
        self.state(&self.first)["pid"].as_i64().expect("a pid")
    }

    /// The configuration of a container that joins.
    fn joining(&self, args: &[&str], namespaces: &[&str]) -> Value {
        let mut config = Place::config(args);
        config["annotations"] =
            json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": self.first});
        let pid = self.pid();
        let path = |kind: &&str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{kind}")});
        config["linux"]["namespaces"] = namespaces.iter().map(path).collect();
        config
    }

    fn wait_for(&self, id: &str, wanted: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.state(id)["status"] != wanted {
            assert!(std::time::Instant::now() < deadline, "{id} is not {wanted}: {}", self.state(id));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_container_joins_and_leaves() {
    let Some(pod) = Pod::start("pod-life") else { return };
    let (place, first, member) = (&pod.place, &*pod.first, &*pod.member);
    place.write(&pod.joining(&["sleep", "2000"], &["uts", "ipc"]));
    place.detached(&["create", member]).ok();
    assert_eq!(pod.state(member)["status"], "created");
    place.nacre(&["start", member]).ok();
    // Known by its gofer; a VM has none of its own for it.
    assert_eq!(pod.state(member)["pid"] == pod.state(first)["pid"], in_vm(), "the member's pid");
    let inside = place.nacre(&["exec", member, "sh", "-c", "hostname; ls /proc | grep -c '^[0-9]'"]);
    assert!(inside.stdout.starts_with("pod\n"), "{inside:?}");
    // Its processes, and only those: pid namespaces are its own.
    let listed = place.nacre(&["ps", member]).ok().stdout;
    assert!(listed.contains("sleep 2000") && !listed.contains("sleep 1000"), "{listed}");
    place.nacre(&["delete", member]).fails(1, "not stopped");
    place.nacre(&["kill", member, "KILL"]).ok();
    pod.wait_for(member, "stopped");
    place.nacre(&["kill", member]).fails(1, "not running");
    assert_eq!(pod.state(first)["status"], "running", "the sandbox lives on");
    place.nacre(&["delete", member]).ok();
    place.nacre(&["state", member]).fails(1, "does not exist");
    // Its name is free again, and in the foreground the exit status comes out.
    place.write(&pod.joining(&["sh", "-c", "exit 7"], &[]));
    assert_eq!(place.nacre(&["run", member]).code, Some(7));
    place.nacre(&["exec", first, "true"]).ok();
}

/// What has ended may be a zombie: whose it is, is not ours to say.
fn wait_for_end(pid: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    while lives() {
        assert!(std::time::Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn the_pid_in_the_file_ends_with_what_runs_inside() {
    let Some(pod) = Pod::start("pod-pid-file") else { return };
    let (place, member) = (&pod.place, &*pod.member);
    let file = place.dir.join("pid");
    let (option, pid) = (file.to_str().expect("a path"), || fs::read_to_string(&file).expect("the pid file"));
    let made = [&["create", "--pid-file", option, member][..], &["run", "--detach", "--pid-file", option, member]];
    for args in made {
        place.write(&pod.joining(&["sleep", "2000"], &[]));
        place.detached(args).ok();
        if args[0] == "create" {
            place.nacre(&["start", member]).ok();
        }
        let own = pid();
        assert_eq!(pod.state(member)["pid"].to_string(), own, "{args:?}: an engine waits for it");
        place.detached(&["exec", "--detach", "--pid-file", option, member, "sleep", "3000"]).ok();
        let execs = pid();
        assert!(own != execs && fs::metadata(format!("/proc/{execs}")).is_ok(), "an exec has one of its own");
        place.nacre(&["exec", member, "sh", "-c", "kill -9 $(grep -l ^sleep.3000 /proc/[0-9]*/cmdline | cut -d/ -f3)"]);
        wait_for_end(&execs);
        assert!(fs::metadata(format!("/proc/{own}")).is_ok(), "{args:?}: the container's lives on");
        place.nacre(&["kill", member, "KILL"]).ok();
        wait_for_end(&own);
        pod.wait_for(member, "stopped");
        place.nacre(&["delete", member]).ok();
    }
}

#[test]
fn members_end_with_the_sandbox() {
    let Some(pod) = Pod::start("pod-end") else { return };
    let (place, first, member) = (&pod.place, &*pod.first, &*pod.member);
    place.write(&pod.joining(&["sleep", "2000"], &["ipc"]));
    place.detached(&["run", "-d", member]).ok();
    place.nacre(&["delete", "--force", first]).ok();
    assert_eq!(pod.state(member)["status"], "stopped");
    place.nacre(&["delete", member]).ok();
    place.assert_clean();
}

#[test]
fn a_pid_namespace_is_shared() {
    let Some(pod) = Pod::start("pod-pid") else { return };
    let (place, first, member) = (&pod.place, &*pod.first, &*pod.member);
    let mut config = pod.joining(&["sh", "-c", "sleep 3000 & exec sleep 2000"], &["pid"]);
    // The shell opens /dev/null for what it runs in the background.
    config["mounts"].as_array_mut().expect("a list").push(json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}));
    place.write(&config);
    place.detached(&["run", "-d", member]).ok();
    let seen = place.nacre(&["exec", member, "sh", "-c", "cat /proc/1/cmdline; echo; cat /proc/[0-9]*/cmdline"]).ok().stdout;
    assert!(seen.starts_with("sleep\x001000") && seen.contains("sleep\x003000"), "{seen:?}");
    let listed = place.nacre(&["ps", first]).ok().stdout;
    assert!(listed.contains("sleep 1000") && !listed.contains("sleep 2000"), "by container: {listed}");
    // The end of its own process ends all of the container, and nothing else.
    place.nacre(&["exec", first, "sh", "-c", "kill -9 $(grep -l ^sleep.2000 /proc/[0-9]*/cmdline | cut -d/ -f3)"]);
    pod.wait_for(member, "stopped");
    let left = place.nacre(&["exec", first, "sh", "-c", "cat /proc/[0-9]*/cmdline"]).ok().stdout;
    assert!(left.contains("sleep\x001000") && !left.contains("3000"), "{left:?}");
    place.nacre(&["delete", member]).ok();
    place.nacre(&["exec", first, "true"]).ok();
}

#[test]
fn three_containers_share_what_they_are_told_to() {
    let Some(pod) = Pod::start("pod-three") else { return };
    let (place, member) = (&pod.place, &*pod.member);
    let (volume, file, third) = (place.dir.join("volume"), place.dir.join("file"), format!("{}-third", pod.first));
    fs::create_dir(&volume).expect("a directory");
    fs::write(&file, "one").expect("a file");
    for (id, namespaces) in [(member, &["pid", "ipc", "uts"][..]), (&third, &["ipc"])] {
        let mut config = pod.joining(&["sleep", "2000"], namespaces);
        let bind = |from: &std::path::Path, to: &str, how: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["bind", how]});
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.extend([bind(&volume, "/volume", "rw"), bind(&file, "/etc/file", "ro")]);
        place.write(&config);
        place.detached(&["run", "-d", id]).ok();
    }
    let run = |id: &str, script: &str| place.nacre(&["exec", id, "sh", "-c", script]);
    let seen = run(member, "cat /etc/file; echo written > /volume/from-member; cat /proc/1/cmdline; hostname").ok().stdout;
    assert_eq!(seen, "onesleep\x001000\x00pod\n");
    assert_eq!(run(&third, "cat /volume/from-member /proc/1/cmdline").ok().stdout, "written\nsleep\x002000\x00");
    assert_ne!(run(&third, "echo two > /etc/file").code, Some(0));
    assert_eq!(fs::read_to_string(volume.join("from-member")).expect("the file"), "written\n");
    place.nacre(&["delete", "--force", member]).ok();
    // What has left takes its files with it, and its name and place are free again.
    assert_eq!(run(&third, "cat /volume/from-member").ok().stdout, "written\n");
    place.write(&pod.joining(&["sh", "-c", "exit 7"], &["pid"]));
    assert_eq!(place.nacre(&["run", member]).code, Some(7));
    place.nacre(&["delete", "--force", &third]).ok();
}

#[test]
fn foreign_namespaces_and_sandboxes_are_refused() {
    let Some(pod) = Pod::start("pod-foreign") else { return };
    let (place, member) = (&pod.place, &*pod.member);
    let mut config = pod.joining(&["true"], &[]);
    config["linux"]["namespaces"] = json!([{"type": "ipc", "path": "/proc/1/ns/ipc"}]);
    place.write(&config);
    place.nacre(&["create", member]).fails(1, "joining /proc/1/ns/ipc");
    config["linux"]["namespaces"] = json!([]);
    config["annotations"]["io.kubernetes.cri.sandbox-id"] = "no-such-pod".into();
    place.write(&config);
    place.nacre(&["create", member]).fails(1, "no-such-pod");
    config["annotations"]["io.kubernetes.cri.sandbox-id"] = "../escape".into();
    place.write(&config);
    place.nacre(&["create", member]).fails(1, "invalid");
    // Neither directory nor cgroup is left.
    assert!(fs::metadata(place.dir.join("state").join(member)).is_err());
}
