//! The shim as containerd 2 uses it: the Sandbox service, by a client that speaks ttrpc to the real process.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_api::frame::{self, HEADER, Header, Kind, RequestBody, ResponseBody};
use prost::Message;
use serde_json::json;

use crate::support::Place;

const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
const TASK: &str = "containerd.task.v2.Task";
/// gRPC's codes.
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const FAILED_PRECONDITION: i32 = 9;

/// Any message that is asked with: an id, and perhaps a bundle.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    bundle: String,
}

/// `StartSandboxResponse`.
#[derive(Clone, PartialEq, Message)]
struct Started {
    #[prost(uint32, tag = "1")]
    pid: u32,
    #[prost(bytes, tag = "2")]
    created_at: Vec<u8>,
}

/// `SandboxStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "2")]
    pid: u32,
    #[prost(string, tag = "3")]
    state: String,
    #[prost(bytes, tag = "6")]
    exited_at: Vec<u8>,
}

/// `WaitSandboxResponse`, and the Task service's.
#[derive(Clone, PartialEq, Message)]
struct Exit {
    #[prost(uint32, tag = "1")]
    status: u32,
}

/// A shim that serves.
struct Shim {
    address: PathBuf,
    namespace: String,
}

impl Shim {
    /// None (with a word why) where it cannot be.
    fn start(place: &Place, bundle: &Path) -> Option<Shim> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tested: a shim is root's");
            return None;
        }
        fs::create_dir_all(bundle).expect("bundle");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        command.arg0("containerd-shim-nacre-v2").current_dir(bundle).env_remove("TTRPC_ADDRESS");
        let socket = place.dir.join("containerd.sock");
        command.args(["-namespace", &place.id(), "-id", &place.id(), "-address"]).arg(socket).arg("start");
        let output = command.stdin(Stdio::null()).output().expect("the shim runs");
        assert!(output.status.success(), "{output:?}");
        let address = String::from_utf8(output.stdout).expect("text");
        Some(Shim { address: address.strip_prefix("unix://").expect("a socket").into(), namespace: place.id() })
    }

    fn call<R: Message + Default>(&self, service: &str, method: &str, request: &impl Message) -> Result<R, i32> {
        let mut stream = UnixStream::connect(&self.address).expect("the shim listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
        let body =
            RequestBody { service: service.into(), method: method.into(), payload: request.encode_to_vec(), timeout_nano: 0 };
        stream.write_all(&frame::encode(1, Kind::Request, &body)).expect("asks");
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).expect("an answer");
        let mut payload = vec![0; Header::parse(header).expect("a header").len];
        stream.read_exact(&mut payload).expect("all of it");
        let answer = ResponseBody::decode(payload.as_slice()).expect("an answer");
        match answer.status.filter(|status| status.code != 0) {
            Some(status) => {
                eprintln!("{method}: {}", status.message);
                Err(status.code)
            }
            None => Ok(R::decode(answer.payload.as_slice()).expect("a message")),
        }
    }

    fn sandbox<R: Message + Default>(&self, method: &str, asked: &Asked) -> Result<R, i32> {
        self.call(SANDBOX, method, asked)
    }

    /// It ends by itself, and leaves nothing.
    #[track_caller]
    fn ends(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.address.exists() || UnixStream::connect(&self.address).is_ok() {
            assert!(Instant::now() < deadline, "the shim does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        let states = fs::read_dir("/run/nacre-shim/state").into_iter().flatten().flatten();
        let left: Vec<_> = states.map(|state| state.path().join(&self.namespace)).filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_sandbox_by_itself_lives_and_ends() {
    let Some(place) = Place::new("sandbox-api").busybox() else { return };
    let bundle = place.dir.join("sandbox");
    let Some(shim) = Shim::start(&place, &bundle) else { return };
    let id = place.id();
    let asked = Asked { id: id.clone(), bundle: bundle.display().to_string() };
    assert_eq!(shim.sandbox::<()>("PingSandbox", &asked), Err(NOT_FOUND));
    assert_eq!(shim.sandbox::<()>("StartSandbox", &asked), Err(NOT_FOUND));
    shim.sandbox::<()>("CreateSandbox", &asked).expect("created");
    assert_eq!(shim.sandbox::<()>("CreateSandbox", &asked), Err(ALREADY_EXISTS));
    let status = |shim: &Shim| shim.sandbox::<SandboxStatus>("SandboxStatus", &asked).expect("a status");
    assert_eq!(status(&shim).state, "SANDBOX_NOTREADY");
    let started: Started = shim.sandbox("StartSandbox", &asked).expect("started");
    assert!(started.pid > 0 && !started.created_at.is_empty(), "{started:?}");
    assert_eq!(shim.sandbox::<()>("StartSandbox", &asked), Err(FAILED_PRECONDITION));
    let now = status(&shim);
    assert_eq!((now.state.as_str(), now.pid, now.exited_at.is_empty()), ("SANDBOX_READY", started.pid, true));
    shim.sandbox::<()>("PingSandbox", &asked).expect("it answers");
    let platform: Vec<u8> = {
        let answer: PlatformAnswer = shim.sandbox("Platform", &asked).expect("a platform");
        answer.platform
    };
    assert_eq!(platform, b"\n\x05linux\x12\x05amd64");
    let metrics: MetricsAnswer = shim.sandbox("SandboxMetrics", &asked).expect("metrics");
    assert!(String::from_utf8_lossy(&metrics.metrics).contains("io.containerd.cgroups.v1.Metrics"));

    // A container joins it by the Task service.
    let mut config = Place::config(&["sleep", "1000"]);
    config["annotations"] = json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": id});
    place.write(&config);
    let member = Asked { id: format!("{id}-member"), bundle: place.bundle().display().to_string() };
    shim.call::<Started>(TASK, "Create", &member).expect("created");
    shim.call::<Started>(TASK, "Start", &Asked { bundle: String::new(), ..member.clone() }).expect("started");

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| shim.sandbox::<Exit>("WaitSandbox", &asked).expect("an end"));
        shim.sandbox::<()>("StopSandbox", &Asked { bundle: String::new(), ..asked.clone() }).expect("stopped");
        assert_eq!(waiting.join().expect("waits").status, 137);
    });
    shim.sandbox::<()>("StopSandbox", &Asked { bundle: String::new(), ..asked.clone() }).expect("stopped already");
    let exit: Exit = shim.call(TASK, "Wait", &Asked { bundle: String::new(), ..member }).expect("an end");
    assert_eq!(exit.status, 137, "with its sandbox");
    let ended = status(&shim);
    assert_eq!((ended.state.as_str(), ended.exited_at.is_empty()), ("SANDBOX_NOTREADY", false));
    shim.sandbox::<()>("ShutdownSandbox", &asked).expect("shut down");
    shim.ends();
}

/// `PlatformResponse`.
#[derive(Clone, PartialEq, Message)]
struct PlatformAnswer {
    #[prost(bytes, tag = "1")]
    platform: Vec<u8>,
}

/// `SandboxMetricsResponse`.
#[derive(Clone, PartialEq, Message)]
struct MetricsAnswer {
    #[prost(bytes, tag = "1")]
    metrics: Vec<u8>,
}

#[test]
fn a_running_sandbox_is_shut_down() {
    let Some(place) = Place::new("sandbox-down").busybox() else { return };
    let bundle = place.dir.join("sandbox");
    let Some(shim) = Shim::start(&place, &bundle) else { return };
    let asked = Asked { id: place.id(), bundle: bundle.display().to_string() };
    shim.sandbox::<()>("CreateSandbox", &asked).expect("created");
    shim.sandbox::<Started>("StartSandbox", &asked).expect("started");
    shim.sandbox::<()>("ShutdownSandbox", &asked).expect("shut down");
    shim.ends();
}

/// A containerd that was killed after it had started it does not come back to it.
#[test]
fn a_shim_that_nobody_uses_ends() {
    let place = Place::new("shim-idle");
    let bundle = place.dir.join("sandbox");
    fs::create_dir_all(&bundle).expect("bundle");
    let Some(shim) = Shim::start(&place, &bundle) else { return };
    // It answers, so it has given up what it gives up.
    let asked = Asked { id: place.id(), bundle: String::new() };
    assert_eq!(shim.sandbox::<()>("PingSandbox", &asked), Err(NOT_FOUND));
    let pid = fs::read_to_string(bundle.join("shim.pid")).expect("its pid");
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).expect("it lives");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("a set");
    let bounding = u64::from_str_radix(bounding, 16).expect("hexadecimal");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    const SYS_MODULE: u64 = 1 << 16;
    assert_eq!(bounding & SYS_MODULE, 0, "{bounding:x}");
    // Looking at its socket would be a client.
    let deadline = Instant::now() + Duration::from_secs(60);
    while shim.address.exists() {
        assert!(Instant::now() < deadline, "the shim does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    shim.ends();
}

/// As containerd does for the containers of a pod whose shim is dead.
#[test]
fn of_several_starts_at_once_one_leaves_a_shim() {
    let place = Place::new("shim-starts");
    let bundle = |n: usize| place.dir.join(format!("sandbox{n}"));
    let start = &|n: usize| Shim::start(&place, &bundle(n));
    let started: Vec<Option<Shim>> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..12).map(|n| scope.spawn(move || start(n))).collect();
        starts.into_iter().map(|start| start.join().expect("started")).collect()
    });
    let [Some(first), others @ ..] = &started[..] else { return };
    assert!(others.iter().flatten().all(|other| other.address == first.address));
    let left = (0..12).filter(|n| bundle(*n).join("shim.pid").exists()).count();
    assert_eq!(left, 1, "shims for one pod");
    let asked = Asked { id: place.id(), bundle: bundle(0).display().to_string() };
    assert_eq!(first.sandbox::<()>("PingSandbox", &asked), Err(NOT_FOUND), "it serves");
    first.ends();
}
