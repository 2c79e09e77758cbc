//! The keeper's server between a client, an agent that keeps to a script, and a VMM that does nothing.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api::frame::{self, Kind, ResponseBody};
use agent_api::{
    Call, Client, ClientError, Code, Connection, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
    Empty, ExecProcessRequest, ExecProcessResponse, Incoming, Process, SetUpSandboxRequest, SetUpSandboxResponse, StatsRequest,
    StatsResponse, Status, Stdio, WaitProcessRequest, WaitProcessResponse,
};
use vmm::vsock::Ports;
use vmm::{Cpus, Device, Event, Features, Memory, Vmm, vsock};

use crate::console::Console;
use crate::drives::{Drives, Plugs};
use crate::guest::Guest;
use crate::nics::{Nics, NicsAtStart};
use crate::serve::Server;
use crate::size::{Range, Sizes};
use crate::streams::Streams;
use crate::{KeeperError, News, wait_for_the_end};

/// For one message of the agent's.
const PATIENCE: Duration = Duration::from_millis(200);
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A VMM that takes all devices, but for memory devices if it is told so.
#[derive(Default)]
pub struct FakeVmm {
    pub refuses_memory: bool,
    /// How many removals are still to end without the guest's leave.
    pub slow_removals: Mutex<u32>,
    /// What was plugged in: the ids.
    pub devices: Mutex<Vec<String>>,
}

impl Vmm for FakeVmm {
    fn features(&self) -> Features {
        Features::all()
    }

    fn boot(&self, _: Duration) -> vmm::Result<()> {
        Ok(())
    }

    fn add_device(&self, id: &str, device: Device) -> vmm::Result<()> {
        if self.refuses_memory && matches!(device, Device::Pmem { .. }) {
            let message = "not enough space for the device".into();
            return Err(vmm::Error::Refused { driver: "fake", command: "device_add".into(), message });
        }
        self.devices.lock().unwrap().push(id.into());
        Ok(())
    }

    fn remove_device(&self, id: &str, waited: Duration) -> vmm::Result<()> {
        let mut slow = self.slow_removals.lock().unwrap();
        if *slow > 0 {
            *slow -= 1;
            return Err(vmm::Error::Timeout { what: format!("the guest's leave for {id} to go"), waited });
        }
        self.devices.lock().unwrap().retain(|other| other != id);
        Ok(())
    }

    fn resize_cpus(&self, count: u32, _: Duration) -> vmm::Result<u32> {
        Ok(count)
    }

    fn resize_memory(&self, bytes: u64, _: Duration) -> vmm::Result<u64> {
        Ok(bytes)
    }

    fn pause(&self) -> vmm::Result<()> {
        Ok(())
    }

    fn resume(&self) -> vmm::Result<()> {
        Ok(())
    }

    fn stop(&self) -> vmm::Result<()> {
        Ok(())
    }

    fn status(&self) -> vmm::Result<vmm::Status> {
        Ok(vmm::Status::Running)
    }

    fn next_event(&self, _: Duration) -> Option<Event> {
        None
    }
}

/// A keeper whose guest has not called yet, and a client of it.
struct Keeper {
    client: Client,
    guest: Arc<Guest>,
    streams: Arc<Streams>,
    told: Receiver<News>,
}

impl Keeper {
    fn new() -> Keeper {
        let (news, told) = channel();
        let vmm: Arc<dyn Vmm> = Arc::new(FakeVmm::default());
        let (guest, streams) = (Arc::new(Guest::new(news.clone(), PATIENCE)), Arc::new(Streams::default()));
        let (frontend, _) = UnixStream::pair().unwrap();
        let (_, vsock) = vsock::Device::new(frontend, 3, |_: Ports| None).unwrap();
        let range = Range { cpus: Cpus { boot: 1, max: 1 }, memory: Memory { boot: 1 << 30, max: 1 << 30 }, overhead: 0 };
        let server = Server {
            guest: guest.clone(),
            streams: streams.clone(),
            first_container: "first".into(),
            set_up: SetUpSandboxRequest::default(),
            sizes: Sizes::new(vmm.clone(), range),
            plugs: Plugs::new(vmm.clone(), Drives::default()),
            nics: Nics::new(vmm, NicsAtStart { hardware_addresses: Vec::new(), queues: 1, vhost: false }),
            making: Mutex::default(),
            vsock,
            news,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        Arc::new(server).serve(theirs.into(), None).unwrap();
        Keeper { client: Client::new(ours.into()), guest, streams, told }
    }

    /// The agent calls.
    fn agent(&self) -> Agent {
        Agent(Connection::new(self.guest.connect().unwrap()))
    }

    /// Why the VM ends, as those are told whose calls have no answer.
    fn end(&self) -> KeeperError {
        let (console, _) = console("");
        let end = wait_for_the_end(&self.told, &self.guest, &console, LONG).unwrap_err();
        self.guest.ended(end.to_string());
        end
    }

    /// What a call is told when the agent answers it like this, and why the VM ends.
    fn broken_by(&self, answer: impl FnOnce(&mut Agent, Incoming)) -> (String, String) {
        let mut agent = self.agent();
        let call = self.client.start(&stats(), &[]).unwrap();
        let request = agent.next();
        answer(&mut agent, request);
        let end = self.end().to_string();
        (refused(call.wait()).1, end)
    }

    /// Makes the first container; the agent takes these of its streams.
    fn first_container(&self, agent: &mut Agent, takes: impl Fn(Stdio) -> Vec<u32>) -> (UnixStream, Vec<OwnedFd>) {
        let (reader, writer) = UnixStream::pair().unwrap();
        let stdio = Stdio { stdin: None, stdout: Some(0), stderr: Some(1) };
        let process = Some(Process { stdio: Some(stdio), ..Process::default() });
        let request = CreateContainerRequest { id: "first".into(), process, ..CreateContainerRequest::default() };
        let call = self.client.start(&request, &[writer.as_fd(), writer.as_fd()]).unwrap();
        let Incoming { stream, call: Ok(Call::SetUpSandbox(set_up)), .. } = agent.next() else { panic!("another call") };
        let stdio = set_up.container.unwrap().process.unwrap().stdio.unwrap();
        let taken = takes(stdio).into_iter().map(|number| self.streams.connect(number).unwrap()).collect();
        agent.0.reply(stream, Ok(SetUpSandboxResponse::default())).unwrap();
        call.wait().unwrap();
        (reader, taken)
    }
}

struct Agent(Connection);

impl Agent {
    fn next(&mut self) -> Incoming {
        self.0.recv().unwrap().unwrap()
    }

    fn send(&self, bytes: &[u8]) {
        rustix::io::write(&self.0, bytes).unwrap();
    }

    /// Waits until the keeper asks for the first container's end.
    fn asked_for_the_end(&mut self) -> u32 {
        let Incoming { stream, call: Ok(Call::WaitProcess(wait)), .. } = self.next() else { panic!("another call") };
        assert_eq!((wait.container_id.as_str(), wait.exec_id.as_str()), ("first", ""));
        stream
    }
}

fn console(text: &str) -> (Console, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::write(&theirs, text.as_bytes()).unwrap();
    (Console::watch(ours.into()).unwrap(), theirs)
}

fn stats() -> StatsRequest {
    StatsRequest { container_id: "c".into() }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (Code, String) {
    match answer {
        Err(ClientError::Status(status)) => (status.code, status.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_agent_that_closes_ends_the_vm() {
    let keeper = Keeper::new();
    let (mut agent, call) = (keeper.agent(), keeper.client.start(&stats(), &[]).unwrap());
    agent.next();
    drop(agent);
    assert_eq!(keeper.end().to_string(), "the agent in the guest has gone: its console is empty");
    assert_eq!(refused(call.wait()).1, "the agent in the guest has gone: its console is empty");
    assert!(keeper.guest.connect().is_none(), "another agent is not let in");
}

#[test]
fn an_agent_that_sends_nonsense_ends_the_vm() {
    let cases: [(&str, fn(&mut Agent, Incoming)); 4] = [
        ("frame of unknown kind 127", |agent, _| agent.send(&[0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 0])),
        ("frame of 4278190080 bytes is longer", |agent, _| agent.send(&[0xff, 0, 0, 0, 0, 0, 0, 1, 2, 0])),
        ("frame of unknown kind 1", |agent, request| {
            let body = ResponseBody::default();
            agent.send(&frame::encode(request.stream, Kind::Request, &body));
        }),
        ("malformed message", |agent, request| {
            // A number's place is taken by text.
            let payload = vec![0x0a, 3, b'x', b'y', b'z'];
            agent.send(&frame::encode(request.stream, Kind::Response, &ResponseBody { status: None, payload }));
        }),
    ];
    for (what, answer) in cases {
        let (told, end) = Keeper::new().broken_by(answer);
        assert!(end.starts_with(&format!("the agent in the guest sent nonsense: {what}")), "{what}: {end}");
        assert_eq!(told, end);
    }
}

#[test]
fn an_agent_that_stops_within_a_message_ends_the_vm() {
    let (told, end) = Keeper::new().broken_by(|agent, request| {
        let whole = frame::encode(request.stream, Kind::Response, &ResponseBody::default());
        // It stays, and says no more.
        agent.send(&whole[..5]);
    });
    assert_eq!(end, "the agent in the guest stopped within a message for 0 s: its console is empty");
    assert_eq!(told, end);
}

#[test]
fn who_waits_for_the_first_container_hears_of_a_broken_agent() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    let ends = keeper.first_container(&mut agent, |stdio| vec![stdio.stdout.unwrap(), stdio.stderr.unwrap()]);
    agent.asked_for_the_end();
    // As `nacre run` waits.
    let wait = WaitProcessRequest { container_id: "first".into(), exec_id: String::new() };
    let call = keeper.client.start(&wait, &[]).unwrap();
    agent.next();
    agent.send(&[0x7f; 10]);
    assert!(matches!(keeper.end(), KeeperError::AgentGone { .. }));
    assert!(refused(call.wait()).1.contains("sent nonsense"));
    drop(ends);
}

#[test]
fn an_agent_that_does_not_tell_the_first_end_is_of_no_use() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    let ends = keeper.first_container(&mut agent, |stdio| vec![stdio.stdout.unwrap(), stdio.stderr.unwrap()]);
    let request = agent.asked_for_the_end();
    agent.0.reply::<Empty>(request, Err(Status::new(Code::NotFound, "what\x1b[2Jcontainer?"))).unwrap();
    let end = keeper.end().to_string();
    assert!(end.contains("does not tell the first container's end (what [2Jcontainer?)"), "{end}");
    drop(ends);
}

#[test]
fn the_first_container_ends_the_vm_with_its_status() {
    for (exit_code, signal, status) in [(3, 0, 3), (0, 9, 137), (256, 0, 0), (0, u32::MAX, 255)] {
        let keeper = Keeper::new();
        let mut agent = keeper.agent();
        let (reader, taken) = keeper.first_container(&mut agent, |stdio| vec![stdio.stdout.unwrap(), stdio.stderr.unwrap()]);
        let request = agent.asked_for_the_end();
        drop((taken, reader));
        agent.0.reply(request, Ok(WaitProcessResponse { exit_code, signal, ..Default::default() })).unwrap();
        let (console, _) = console("");
        let end = wait_for_the_end(&keeper.told, &keeper.guest, &console, LONG).unwrap();
        assert_eq!(end, Some(status), "{exit_code}, {signal}");
    }
}

#[test]
fn streams_that_the_agent_leaves_end_with_the_call() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    let (mut reader, taken) = keeper.first_container(&mut agent, |stdio| vec![stdio.stderr.unwrap()]);
    // The one that it has taken ends with it, and there is no other one.
    drop(taken);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_nobody_asked_for_is_dropped() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    // One that is not answered holds up nobody.
    let wait = WaitProcessRequest { container_id: "c".into(), exec_id: String::new() };
    let waiting = keeper.client.start(&wait, &[]).unwrap();
    let first = agent.next();
    let call = keeper.client.start(&stats(), &[]).unwrap();
    let request = agent.next();
    for stream in [0, request.stream + 2, u32::MAX] {
        agent.0.reply(stream, Ok(StatsResponse { pids: 7, ..Default::default() })).unwrap();
    }
    agent.0.reply(request.stream, Ok(StatsResponse { pids: 3, ..Default::default() })).unwrap();
    assert_eq!(call.wait().unwrap().pids, 3);
    assert!(keeper.told.try_recv().is_err(), "nothing has happened");
    agent.0.reply(first.stream, Ok(WaitProcessResponse { exit_code: 4, ..Default::default() })).unwrap();
    assert_eq!(waiting.wait().unwrap().exit_code, 4);
}

#[test]
fn an_agents_refusal_is_passed_on_as_one_line_of_text() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    let exec = ExecProcessRequest { container_id: "c".into(), exec_id: "e".into(), process: Some(Process::default()) };
    let call = keeper.client.start(&exec, &[]).unwrap();
    let request = agent.next();
    agent.0.reply::<ExecProcessResponse>(request.stream, Err(Status::new(Code::NotFound, "no\r\n\x1b]0;x\x07"))).unwrap();
    assert_eq!(refused(call.wait()), (Code::NotFound, "no   ]0;x ".into()));
    // It is not the VM's end.
    let call = keeper.client.start(&DeleteContainerRequest { container_id: "c".into(), force: true }, &[]).unwrap();
    let request = agent.next();
    agent.0.reply(request.stream, Ok(Empty {})).unwrap();
    assert_eq!(call.wait().unwrap(), Empty {});
    assert!(keeper.told.try_recv().is_err());
}

#[test]
fn a_name_is_free_again_when_its_container_cannot_be_made() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    for _ in 0..2 {
        let request = CreateContainerRequest { id: "second".into(), ..CreateContainerRequest::default() };
        let call = keeper.client.start(&request, &[]).unwrap();
        let request = agent.next();
        agent.0.reply::<Empty>(request.stream, Err(Status::new(Code::InvalidArgument, "process is missing"))).unwrap();
        assert_eq!(refused(call.wait()), (Code::InvalidArgument, "process is missing".into()));
    }
}

#[test]
fn a_container_that_takes_long_keeps_no_other_waiting() {
    let keeper = Keeper::new();
    let mut agent = keeper.agent();
    let request = |id: &str| CreateContainerRequest { id: id.into(), ..CreateContainerRequest::default() };
    let calls = ["second", "third"].map(|id| keeper.client.start(&request(id), &[]).unwrap());
    // Neither is answered before both have come.
    for incoming in [agent.next(), agent.next()] {
        agent.0.reply(incoming.stream, Ok(CreateContainerResponse {})).unwrap();
    }
    for call in calls {
        call.wait().unwrap();
    }
}

#[test]
fn a_guest_that_never_calls_is_given_up_with_what_it_said() {
    let keeper = Keeper::new();
    let call = keeper.client.start(&stats(), &[]).unwrap();
    let (console, _open) = console("[ 1.0] VFS: cannot open root device\n");
    // The console is read by a thread.
    while console.tail() == "its console is empty" {
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = wait_for_the_end(&keeper.told, &keeper.guest, &console, Duration::from_millis(50)).unwrap_err();
    assert_eq!(end.to_string(), "the guest did not come up within 0 s: [ 1.0] VFS: cannot open root device");
    keeper.guest.ended(end.to_string());
    assert!(refused(call.wait()).1.contains("cannot open root device"));
}

#[test]
fn an_image_without_room_as_memory_becomes_a_disk() {
    let vmm = Arc::new(FakeVmm { refuses_memory: true, ..FakeVmm::default() });
    let plugs = Plugs::new(vmm.clone(), Drives::default());
    let image = |name: &str| {
        let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, vmm::qemu::PMEM_ALIGN).unwrap();
        file
    };
    let (one, two) = (image("one"), image("two"));
    let copy = |file: &OwnedFd| (rustix::io::fcntl_dupfd_cloexec(file, 0).unwrap(), crate::Hold::Read);
    let disk = |number: u32| agent_api::vm::DISK | number;
    assert_eq!(plugs.plug("a", vec![copy(&one), copy(&two)]).unwrap(), [disk(0), disk(1)]);
    assert_eq!(plugs.plug("b", vec![copy(&one)]).unwrap(), [disk(0)], "as others have it");
    assert_eq!(*vmm.devices.lock().unwrap(), ["disk-0", "disk-1"]);
    plugs.release("a");
    assert_eq!(*vmm.devices.lock().unwrap(), ["disk-0"]);
}

#[test]
fn a_disk_that_did_not_leave_in_time_is_nobodys() {
    let vmm = Arc::new(FakeVmm { slow_removals: Mutex::new(2), ..FakeVmm::default() });
    let plugs = Plugs::new(vmm.clone(), Drives::default());
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 4096).unwrap();
    let disk = || vec![(rustix::io::fcntl_dupfd_cloexec(&file, 0).unwrap(), crate::Hold::Write)];
    assert_eq!(plugs.plug("a", disk()).unwrap(), [agent_api::vm::DISK]);
    plugs.release("a");
    // Nor does it leave now: the next container is not given what is on its way out.
    let refused = plugs.plug("b", disk()).unwrap_err();
    assert!(refused.message.contains("does not leave the VM"), "{refused}");
    assert_eq!(*vmm.devices.lock().unwrap(), ["disk-0"]);
    assert_eq!(plugs.plug("b", disk()).unwrap(), [agent_api::vm::DISK | 1], "plugged in anew");
    assert_eq!(*vmm.devices.lock().unwrap(), ["disk-1"]);
}
