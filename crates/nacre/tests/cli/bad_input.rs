//! What is wrong is named, with runc's exit codes, and nothing is left behind.

use serde_json::json;

use crate::support::Place;

#[test]
fn flags_and_verbs() {
    let place = Place::new("flags");
    place.nacre(&["run", "--colour", "x"]).fails(1, "--colour");
    place.nacre(&["--colour", "list"]).fails(1, "--colour");
    place.nacre(&["paint"]).fails(3, "paint");
    place.nacre(&["state"]).fails(1, "CONTAINER-ID");
    place.nacre(&["--log-format", "xml", "list"]).fails(1, "xml");
    place.nacre(&["events", "--interval", "soon", "x"]).fails(1, "soon");
    place.nacre(&["debug", "x"]).fails(1, "--stacks");
}

#[test]
fn containers_that_are_not_there() {
    let place = Place::new("absent");
    for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps", "events"] {
        place.nacre(&[verb, "nobody"]).fails(1, "container does not exist: nobody");
    }
    place.nacre(&["exec", "nobody", "true"]).fails(255, "container does not exist");
    place.nacre(&["delete", "--force", "nobody"]).ok();
    place.nacre(&["state", "../etc"]).fails(1, "invalid container ID format");
    assert_eq!(place.nacre(&["list", "-q"]).ok().stdout.trim(), "");
}

#[test]
fn a_missing_or_malformed_configuration() {
    let place = Place::new("config");
    place.nacre(&["run", "x"]).fails(1, "JSON specification file config.json not found");
    place.nacre(&["run", "-b", "/no/such/bundle", "x"]).fails(1, "/no/such/bundle");
    std::fs::write(place.bundle().join("config.json"), "{").expect("write");
    place.nacre(&["run", "x"]).fails(1, "malformed JSON");
    let cases = [
        ("/process/args", json!([]), "process.args is missing"),
        ("/process/args", json!("sh"), "process.args"),
        ("/process/cwd", json!("here"), "process.cwd"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/ociVersion", json!("9.9"), "ociVersion"),
        ("/root/path", json!("nowhere"), "invalid rootfs"),
        ("/mounts/0/type", json!("ntfs"), "mounts[0].type"),
        ("/mounts/0/type", json!("bind"), "mounts[0].source"),
        ("/linux/namespaces", json!([]), "dev.nacre.network"),
        ("/linux/cgroupsPath", json!("../../x"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("kubepods:cri-containerd:x"), "is no name of a slice"),
    ];
    for (pointer, value, text) in cases {
        let mut config = Place::config(&["true"]);
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        match config.pointer_mut(parent).expect("a key of the configuration") {
            serde_json::Value::Array(list) => list[key.parse::<usize>().expect("an index")] = value,
            parent => parent[key] = value,
        }
        place.write(&config);
        place.nacre(&["create", "x"]).fails(1, text);
        place.assert_clean();
    }
}

#[test]
fn a_terminal_needs_someone_who_holds_it() {
    let place = Place::new("terminal");
    let mut config = Place::config(&["true"]);
    config["process"]["terminal"] = json!(true);
    place.write(&config);
    place.nacre(&["create", "x"]).fails(1, "without setting console socket");
    config["process"]["terminal"] = json!(false);
    place.write(&config);
    place.nacre(&["create", "--console-socket", "/no/socket", "x"]).fails(1, "cannot use console socket");
    place.assert_clean();
}

#[test]
fn failing_hooks_stop_a_create_and_leave_nothing() {
    let place = Place::new("hook");
    let mut config = Place::config(&["true"]);
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 9"]}]});
    place.write(&config);
    place.nacre(&["create", "x"]).fails(1, "createRuntime hook #0");
    place.assert_clean();
    // What is logged says of whom.
    let log = place.dir.join("log");
    place.nacre(&["--log", &log.display().to_string(), "--log-format", "json", "create", "x"]);
    let log = std::fs::read_to_string(&log).expect("a log");
    let line: serde_json::Value = serde_json::from_str(log.lines().next_back().expect("a line")).expect("JSON");
    assert_eq!((&line["sandbox"], &line["container"], &line["level"]), (&json!("x"), &json!("x"), &json!("error")));
    config["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]});
    place.write(&config);
    place.nacre(&["create", "x"]).fails(1, "hooks.startContainer");
    place.assert_clean();
}

#[test]
fn do_checks_its_flags() {
    let place = Place::new("do");
    for (args, text) in [
        (&["do", "--volume", "/tmp", "true"][..], "--volume /tmp"),
        (&["do", "--root", "/no/such/root", "true"], "--root /no/such/root"),
        (&["do", "--memory", "much", "true"], "--memory much"),
        (&["do", "--user", "nobody-of-that-name", "true"], "nobody-of-that-name"),
        (&["do", "--cwd", "here", "true"], "--cwd here"),
        (&["do", "-t", "true"], "-t needs a terminal"),
        (&["do", "--pids", "0", "true"], "--pids 0"),
        (&["do"], "COMMAND"),
    ] {
        let mut command = place.command(args);
        let output = command.stdin(std::process::Stdio::null()).output().expect("nacre runs");
        crate::support::Run::of(output).fails(1, text);
    }
}

#[test]
fn json_logs_are_json() {
    let place = Place::new("json");
    let log = place.dir.join("log");
    let run = place.nacre(&["--log", log.to_str().expect("path"), "--log-format", "json", "state", "x"]);
    assert_eq!(run.code, Some(1));
    let text = std::fs::read_to_string(&log).expect("log");
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().is_some_and(|msg| msg.contains("container does not exist")), "{line}");
}

#[test]
fn what_tells_about_itself() {
    let place = Place::new("self");
    let features: serde_json::Value = serde_json::from_str(&place.nacre(&["features"]).ok().stdout).expect("JSON");
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
    assert!(place.nacre(&["help", "syscalls"]).ok().stdout.contains(" read "));
    assert!(place.nacre(&["--version"]).ok().stdout.starts_with("nacre "));
    place.nacre(&["help", "painting"]).fails(1, "painting");
}
