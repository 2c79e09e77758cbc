//! Plugins that do not do what they should: shell scripts.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

/// A folder with plugins in it, and one for the state.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("nacre-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("state")).expect("a folder");
        Place(dir)
    }

    fn plugin(&self, name: &str, script: &str) {
        let path = self.0.join(name);
        // Made elsewhere and moved: a file that is open for writing cannot be executed, and other tests' children have it for a moment.
        let made = self.0.join(format!("{name}.new"));
        fs::write(&made, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::rename(&made, &path).expect("in place");
    }

    fn plugins(&self) -> Plugins {
        Plugins { path: self.0.clone().into(), patience: Duration::from_secs(20) }
    }

    fn root(&self) -> PathBuf {
        self.0.join("state")
    }

    fn record(&self, kinds: &[&str]) -> Record {
        let plugins =
            kinds.iter().map(|kind| config::Plugin { kind: (*kind).into(), fields: serde_json::Map::default() }).collect();
        let network = NetworkConfig { name: "n".into(), version: "1.0.0".into(), plugins };
        let record = Record { id: "c".into(), owner: None, network, ports: Vec::new(), result: None, attempts: 0 };
        record.save(&self.root()).expect("a record");
        record
    }

    /// Whether there is something that a sweep would undo.
    fn is_kept(&self) -> bool {
        place(&self.root(), "c").exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn answers_are_looked_at() {
    let place = Place::new("answers");
    for (script, said) in [
        ("echo nonsense", "its answer cannot be used"),
        ("true", "its answer cannot be used"),
        ("echo '[]'", "no object"),
        ("echo '{\"ips\":[{\"address\":\"10.0.0.1\"}]}'", "no address with a prefix"),
        ("echo '{\"cniVersion\":\"7.0.0\"}'", "is not known"),
        ("echo '{\"msg\":\"no more addresses\",\"details\":\"of 254\"}'; exit 1", "no more addresses: of 254"),
        ("echo away >&2; exit 3", "away"),
        ("kill -9 $$", "signal: 9"),
    ] {
        place.plugin("odd", script);
        let error = place.record(&["odd"]).add(Path::new("/nowhere"), &place.plugins()).expect_err(script);
        assert!(error.to_string().contains(said), "{script}: {error}");
    }
    // The answer of the one is told to the next.
    place.plugin("first", "cat >/dev/null; echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.0.0.1/8\"}]}'");
    place.plugin("second", "grep -q '10.0.0.1/8' && echo '{\"dns\":{\"nameservers\":[\"10.0.0.53\"]}}'");
    let mut record = place.record(&["first", "second"]);
    record.add(Path::new("/nowhere"), &place.plugins()).expect("both");
    assert_eq!(record.result.as_ref().and_then(answer::resolv_conf).as_deref(), Some("nameserver 10.0.0.53\n"));
}

#[test]
fn one_that_hangs_is_killed_with_what_it_has_started() {
    let place = Place::new("hangs");
    place.plugin("hangs", "sleep 1000 & echo $! >\"$CNI_PATH/child\"; wait");
    let plugins = Plugins { patience: Duration::from_millis(300), ..place.plugins() };
    let error = place.record(&["hangs"]).add(Path::new("/nowhere"), &plugins).expect_err("it hangs");
    assert!(error.to_string().contains("is killed"), "{error}");
    let child: i32 = fs::read_to_string(place.0.join("child")).expect("its child").trim().parse().expect("a number");
    let gone = |child: i32| ProcessRef::of(child).is_none_or(|child| child.wait_gone(5000));
    assert!(gone(child));
    // One that leaves something behind, which has its output open, is not waited for.
    place.plugin("leaves", "sleep 1000 & echo $! >\"$CNI_PATH/child\"; echo '{}'");
    place.record(&["leaves"]).add(Path::new("/nowhere"), &place.plugins()).expect("it ends");
    let child: i32 = fs::read_to_string(place.0.join("child")).expect("its child").trim().parse().expect("a number");
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_raw(child).expect("a number"), rustix::process::Signal::KILL);
}

#[test]
fn what_cannot_be_undone_is_kept_and_tried_again() {
    let place = Place::new("undo");
    place.plugin("fails", "echo '{\"msg\":\"not today\"}'; exit 1");
    place.plugin("notes", "echo DEL >>\"$CNI_PATH/list\"");
    undo(&place.root(), place.record(&["fails", "notes"]), &place.plugins());
    assert!(place.is_kept());
    assert_eq!(fs::read_to_string(place.0.join("list")).expect("notes"), "DEL\n", "the others are run all the same");
    let kept = || Record::read(&super::place(&place.root(), "c")).expect("a record");
    assert!(kept().attempts > 0, "a sweep takes it, though it has no owner");
    // It can now.
    place.plugin("fails", "true");
    undo(&place.root(), kept(), &place.plugins());
    assert!(!place.is_kept());
    // One that never can is forgotten some time.
    place.plugin("fails", "exit 1");
    place.record(&["fails"]);
    for _ in 0..ATTEMPTS {
        assert!(place.is_kept());
        undo(&place.root(), kept(), &place.plugins());
    }
    assert!(!place.is_kept());
}
