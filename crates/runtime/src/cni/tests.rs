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
        let record =
            Record { id: "c".into(), owner: None, network, ports: Vec::new(), result: None, begun: usize::MAX, attempts: 0 };
        record.save(&self.root()).expect("a record");
        record
    }

    fn undo(&self, record: Record) {
        let held = Lock::at_once(&self.root(), "c").expect("a lock").expect("nobody has it");
        undo(&self.root(), &held, record, &self.plugins());
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
        let error = place.record(&["odd"]).add(&place.root(), Path::new("/nowhere"), &place.plugins()).expect_err(script);
        assert!(error.to_string().contains(said), "{script}: {error}");
    }
    // The answer of the one is told to the next.
    place.plugin("first", "cat >/dev/null; echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.0.0.1/8\"}]}'");
    place.plugin("second", "grep -q '10.0.0.1/8' && echo '{\"dns\":{\"nameservers\":[\"10.0.0.53\"]}}'");
    let mut record = place.record(&["first", "second"]);
    record.add(&place.root(), Path::new("/nowhere"), &place.plugins()).expect("both");
    assert_eq!(record.result.as_ref().and_then(answer::resolv_conf).as_deref(), Some("nameserver 10.0.0.53\n"));
}

#[test]
fn one_that_hangs_is_killed_with_what_it_has_started() {
    let place = Place::new("hangs");
    place.plugin("hangs", "sleep 1000 & echo $! >\"$CNI_PATH/pid\"; mv \"$CNI_PATH/pid\" \"$CNI_PATH/child\"; wait");
    let mut plugins = Plugins { patience: Duration::from_millis(100), ..place.plugins() };
    while !place.0.join("child").exists() {
        // As long as it takes for it to get so far.
        plugins.patience *= 2;
        let error = place.record(&["hangs"]).add(&place.root(), Path::new("/nowhere"), &plugins).expect_err("it hangs");
        assert!(error.to_string().contains("is killed"), "{error}");
    }
    let child: i32 = fs::read_to_string(place.0.join("child")).expect("its child").trim().parse().expect("a number");
    let gone = |child: i32| ProcessRef::of(child).is_none_or(|child| child.wait_gone(5000));
    assert!(gone(child));
    // One that leaves something behind, which has its output open, is not waited for.
    place.plugin("leaves", "sleep 1000 & echo $! >\"$CNI_PATH/child\"; echo '{}'");
    place.record(&["leaves"]).add(&place.root(), Path::new("/nowhere"), &place.plugins()).expect("it ends");
    let child: i32 = fs::read_to_string(place.0.join("child")).expect("its child").trim().parse().expect("a number");
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_raw(child).expect("a number"), rustix::process::Signal::KILL);
}

#[test]
fn what_cannot_be_undone_is_kept_and_tried_again() {
    let place = Place::new("undo");
    place.plugin("fails", "echo '{\"msg\":\"not today\"}'; exit 1");
    place.plugin("notes", "echo DEL >>\"$CNI_PATH/list\"");
    place.undo(place.record(&["fails", "notes"]));
    assert!(place.is_kept());
    assert_eq!(fs::read_to_string(place.0.join("list")).expect("notes"), "DEL\n", "the others are run all the same");
    let kept = || Record::read(&super::place(&place.root(), "c")).expect("a record");
    assert!(kept().attempts > 0, "a sweep takes it, though it has no owner");
    // It can now.
    place.plugin("fails", "true");
    place.undo(kept());
    assert!(!place.is_kept());
    // One that never can is forgotten some time.
    place.plugin("fails", "exit 1");
    place.record(&["fails"]);
    for _ in 0..ATTEMPTS {
        assert!(place.is_kept());
        place.undo(kept());
    }
    assert!(!place.is_kept());
}

#[test]
fn only_what_has_begun_is_undone() {
    let place = Place::new("begun");
    for name in ["first", "second", "third"] {
        let refuses = if name == "second" { "[ $CNI_COMMAND = DEL ] || exit 1;" } else { "" };
        place.plugin(name, &format!("echo $CNI_COMMAND {name} >>\"$CNI_PATH/list\"; {refuses} echo '{{}}'"));
    }
    let mut record = Record { begun: 0, ..place.record(&["first", "second", "third"]) };
    record.add(&place.root(), Path::new("/nowhere"), &place.plugins()).expect_err("the second refuses");
    let saved = Record::read(&super::place(&place.root(), "c")).expect("a record");
    assert_eq!(saved.begun, 2, "also if we die now");
    place.undo(saved);
    let list = fs::read_to_string(place.0.join("list")).expect("notes");
    assert_eq!(list.lines().collect::<Vec<_>>(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    // One that is not there is missed before anything is done.
    let record = place.record(&["first", "absent"]);
    let error = place.plugins().find_all(&record.network).expect_err("there is none");
    assert!(error.to_string().contains("absent is not in"), "{error}");
}

#[test]
fn who_undoes_a_record_has_it_alone() {
    let place = Place::new("locked");
    let (root, lock) = (place.root(), |id: &str| Lock::at_once(&place.root(), id).expect("a lock"));
    let held = lock("c").expect("nobody has it");
    assert!(lock("c").is_none());
    assert!(lock("d").is_some(), "another record");
    let waits = std::thread::spawn(move || Lock::wait(&root, "c").map(drop));
    drop(held);
    waits.join().expect("it ends").expect("it gets it");
    assert!(fs::read_dir(place.root().join("~networks")).expect("the folder").next().is_none(), "nothing is left");
}

#[test]
fn name_servers_go_with_the_network_even_if_that_is_kept() {
    let place = Place::new("servers");
    place.plugin("fails", "exit 1");
    let record = place.record(&["fails"]);
    fs::write(servers(&place.root(), "c"), "nameserver 10.0.0.53\n").expect("a file");
    assert!(resolv_conf(&place.root(), "c").is_some());
    place.undo(record);
    assert!(place.is_kept() && resolv_conf(&place.root(), "c").is_none());
    assert!(!servers(&place.root(), "c").exists());
    // What has failed once is left to a sweep.
    detach(&place.root(), "c");
    assert_eq!(Record::read(&super::place(&place.root(), "c")).map(|record| record.attempts), Some(1));
}

#[test]
#[allow(unsafe_code)]
fn a_signal_that_we_have_blocked_stops_what_is_made_and_not_what_is_undone() {
    let place = Place::new("stopped");
    place.plugin("slow", "[ $CNI_COMMAND = DEL ] || sleep 1000");
    let errors = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            crate::sys::SignalSet::new(&plugin::ENDINGS).block();
            // SAFETY: sends a signal to this thread, which has blocked it: it waits until the thread ends.
            unsafe { libc::raise(libc::SIGINT) };
            let mut record = place.record(&["slow"]);
            let error = record.add(&place.root(), Path::new("/nowhere"), &place.plugins()).expect_err("it is stopped");
            place.undo(record);
            error.to_string()
        });
        thread.join().expect("it ends")
    });
    assert!(errors.contains("a signal says"), "{errors}");
    assert!(!place.is_kept());
}
