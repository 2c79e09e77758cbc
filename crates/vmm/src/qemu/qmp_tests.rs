//! A scripted QEMU at the other end of the socket.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Qemu;
use crate::{Device, Error, Event, Features, Status, Vmm};

const SOON: Duration = Duration::from_secs(10);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;

/// A QEMU that answers each command with `answer`'s lines (`@` stands for `"id": N`), and `{"return": {}}` if that is None.
fn qemu(answer: impl Fn(&str, &Value) -> Option<String> + Send + 'static) -> Result<Qemu, Error> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut writer = theirs.try_clone().unwrap();
        writeln!(writer, "{GREETING}").unwrap();
        for line in BufReader::new(theirs).lines() {
            let Ok(line) = line else { return };
            let command: Value = serde_json::from_str(&line).unwrap();
            let name = command["execute"].as_str().unwrap();
            let lines = answer(name, &command["arguments"]).unwrap_or_else(|| r#"{"return": {}, @}"#.into());
            if lines == "end" {
                return;
            }
            let _ = writeln!(writer, "{}", lines.replace('@', &format!("\"id\": {}", command["id"])));
        }
    });
    Qemu::attach(ours, SOON)
}

/// One that answers the command `name` with `lines`.
fn that(name: &'static str, lines: &'static str) -> Qemu {
    qemu(move |command, _| (command == name).then(|| lines.to_string())).unwrap()
}

#[test]
fn its_state_is_told() {
    let states = [
        ("running", Status::Running),
        ("paused", Status::Paused),
        ("shutdown", Status::Shutdown),
        ("io-error", Status::Failed),
    ];
    for (name, status) in states {
        let qemu = qemu(move |command, _| {
            (command == "query-status")
                .then(|| json!({"status": name, "running": false}).to_string())
                .map(|status| format!(r#"{{"return": {status}, @}}"#))
        });
        assert_eq!(qemu.unwrap().status().unwrap(), status);
    }
    let odd = that("query-status", r#"{"return": {"status": "dreaming"}, @}"#).status().unwrap_err();
    assert_eq!(odd.to_string(), "qemu broke its protocol: an unknown state \"dreaming\"");
    assert!(matches!(that("query-status", r#"{"return": [7], @}"#).status(), Err(Error::Protocol { .. })));
}

#[test]
fn a_refusal_carries_its_reason() {
    let qemu = that("stop", r#"{"error": {"class": "GenericError", "desc": "not now"}, @}"#);
    assert_eq!(qemu.pause().unwrap_err().to_string(), "qemu refused stop: not now");
    qemu.resume().unwrap();
}

#[test]
fn answers_to_other_commands_and_blank_lines_are_passed_over() {
    let qemu = that("stop", "\n{\"return\": {}, \"id\": 1}\n\r\n{\"event\": \"STOP\"}\n{\"return\": {}, @}");
    qemu.pause().unwrap();
}

#[test]
fn events_are_ours_in_their_order() {
    let lines = [
        json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}),
        json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}),
        json!({"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}),
        json!({"event": "GUEST_PANICKED", "data": {"action": "pause"}}),
        json!({"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/x/y"}}),
        json!({"event": "DEVICE_DELETED", "data": {"device": "cpu-1-0", "path": "/machine/peripheral/cpu-1-0"}}),
        json!({"event": "DEVICE_DELETED", "data": {"device": "disk", "path": "/machine/peripheral/disk"}}),
        json!({"event": "BLOCK_IO_ERROR", "data": {"node-name": "b-disk"}}),
        json!({"event": "NEWS_TO_US", "data": 7}),
        json!({"event": "RESET"}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let qemu = qemu(move |command, _| match command {
        "stop" => Some(format!(r#"{text}{{"return": {{}}, @}}"#)),
        "cont" => Some("end".into()),
        _ => None,
    })
    .unwrap();
    qemu.pause().unwrap();
    let disk = || "disk".to_string();
    let expected = [Event::Shutdown, Event::Reset, Event::Panicked, Event::DeviceRemoved(disk()), Event::DeviceFailed(disk())];
    for event in expected.into_iter().chain([Event::Reset]) {
        assert_eq!(qemu.next_event(SOON), Some(event));
    }
    assert_eq!(qemu.next_event(Duration::from_millis(1)), None);
    assert!(matches!(qemu.resume(), Err(Error::Ended)));
    assert_eq!((qemu.next_event(SOON), qemu.next_event(SOON)), (Some(Event::Ended), Some(Event::Ended)));
    qemu.stop().expect("it has ended");
}

#[test]
fn a_flood_of_events_costs_the_oldest() {
    let flood: String =
        (0..10_000).map(|n| format!("{{\"event\": \"DEVICE_DELETED\", \"data\": {{\"device\": \"d{n}\"}}}}\n")).collect();
    let qemu = qemu(move |command, _| (command == "stop").then(|| format!(r#"{flood}{{"return": {{}}, @}}"#))).unwrap();
    qemu.pause().unwrap();
    assert_eq!(qemu.next_event(SOON), Some(Event::DeviceRemoved("d9744".into())));
}

#[test]
fn what_is_no_protocol_ends_it_with_a_reason() {
    let long = "x".repeat(3 << 20);
    for (bad, why) in
        [("}{", "no JSON"), (long.as_str(), "more than"), ("[[[[", "no JSON"), (r#"{"error": {}}"#, "for no JSON")]
    {
        let bad = bad.to_string();
        let qemu = qemu(move |command, _| (command == "stop").then(|| bad.clone())).unwrap();
        let error = qemu.pause().unwrap_err().to_string();
        assert!(error.starts_with("qemu broke its protocol") && error.contains(why), "{error}");
        assert_eq!(qemu.next_event(SOON), Some(Event::Ended));
    }
}

#[test]
fn silence_is_not_waited_for_without_end() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let began = Instant::now();
    assert!(matches!(Qemu::attach(ours, Duration::from_millis(50)), Err(Error::Timeout { .. })));
    assert!(began.elapsed() < SOON);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Qemu::attach(ours, SOON), Err(Error::Ended)));
}

#[test]
fn an_emulated_cpu_is_not_taken_away() {
    let cpus = r#"{"return": [{"type": "c", "props": {"core-id": 1}, "qom-path": "/machine/peripheral/cpu-1"}, {"type": "c", "props": {"core-id": 0}, "qom-path": "/machine/unattached/0"}], @}"#;
    let qemu = that("query-hotpluggable-cpus", cpus);
    assert_eq!(qemu.features(), Features::all() - Features::CPU_UNPLUG);
    assert_eq!(qemu.resize_cpus(1, SOON).unwrap_err().to_string(), "the qemu driver cannot do cpu-unplug");
    assert_eq!(qemu.resize_cpus(2, SOON).unwrap(), 2);
    for bad in [0, 3] {
        assert!(matches!(qemu.resize_cpus(bad, SOON), Err(Error::Limit { low: 1, high: 2, .. })));
    }
}

#[test]
fn a_device_that_is_refused_leaves_nothing_behind() {
    let (sender, commands) = std::sync::mpsc::channel();
    let qemu = qemu(move |command, arguments| {
        let _ = sender.send(format!("{command} {arguments}"));
        match command {
            "qom-list" => Some(
                r#"{"return": [{"name": "port0", "type": "child<pcie-root-port>"}, {"name": "type", "type": "string"}], @}"#
                    .into(),
            ),
            "add-fd" => Some(r#"{"return": {"fdset-id": 4, "fd": 30}, @}"#.into()),
            "query-fdsets" => Some(r#"{"return": [{"fdset-id": 4, "fds": [{"fd": 30, "opaque": "disk"}]}], @}"#.into()),
            "device_add" => Some(r#"{"error": {"desc": "no"}, @}"#.into()),
            _ => None,
        }
    })
    .unwrap();
    let image: OwnedFd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let device = Device::Block { image, access: crate::Access::Read };
    assert_eq!(qemu.add_device("disk", device).unwrap_err().to_string(), "qemu refused device_add: no");
    let said: Vec<String> = commands.try_iter().collect();
    assert_eq!(
        said[2..],
        [
            r#"qom-list {"path":"/machine/peripheral"}"#,
            r#"add-fd {"opaque":"disk"}"#,
            r#"blockdev-add {"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/4","read-only":true},"node-name":"b-disk","read-only":true}"#,
            r#"device_add {"bus":"port0","drive":"b-disk","driver":"virtio-blk-pci","id":"disk","rerror":"report","serial":"disk","werror":"report"}"#,
            r#"blockdev-del {"node-name":"b-disk"}"#,
            r#"query-fdsets {}"#,
            r#"remove-fd {"fdset-id":4}"#,
        ]
    );
}

#[test]
fn names_are_checked_before_anything_is_done() {
    let qemu = qemu(|_, _| None).unwrap();
    for bad in ["", "Disk", "1a", "a/b", "a,b", "port0", "cpu-1", "resizable", &"a".repeat(33)] {
        assert!(matches!(qemu.add_device(bad, Device::Rng), Err(Error::BadName(_))), "{bad}");
    }
}
