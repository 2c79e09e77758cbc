//! The keeper of a VM: the process on the host that serves the Agent protocol for the guest, as a sentry does for itself.
//!
//! Its clients are the runtime's commands, over a unix socket and with descriptors; the other side is the agent in the guest, over vsock
//! ([`agent_api::vm`]). Calls are passed on; descriptors in them become streams, which the keeper pumps ([`streams`]). It holds the VMM's control socket,
//! the vsock device's other end and the guest's console, and ends with the first container, with its exit status.
//!
//! Everything that comes from the guest is hostile: answers are decoded and encoded again, streams are only those that were announced, and no
//! wait for the guest is without an end, but where the protocol says so.

#![forbid(unsafe_code)]

mod calls;
mod console;
mod drives;
mod guest;
mod nics;
mod serve;
mod size;
mod streams;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_api::rate::Rate;
use agent_api::{BOOTED, FilesChangedRequest, Method, Metric, SetUpSandboxRequest, ShutdownRequest, client, vm};
use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm::vsock::{Ports, Vsock};
use vmm::{Event, Vmm, vsock};

use console::Console;
use drives::Plugs;
pub use drives::{Drives, Hold, NewDevice};
use guest::Guest;
use nics::Nics;
pub use nics::NicsAtStart;
use serve::Server;
pub use size::Range;
use size::Sizes;
use streams::Streams;

/// The guest's context id. Each keeper has one guest, so it need not be another's.
const CONTEXT: u64 = 3;
/// How long a guest may take from its first instruction to its agent's call. Emulated machines on busy hosts are slow, and those within
/// emulated machines slower.
const BOOT: Duration = Duration::from_secs(100);
// Who has the first container made is told why the guest did not come up, or why it could not be set up then.
const _: () = assert!(match SetUpSandboxRequest::PATIENCE {
    Some(set_up) => BOOT.as_secs() + set_up.as_secs() < BOOTED.as_secs(),
    None => false,
});
/// How long answers that are on their way may take when the first container has ended.
const ANSWERS: Duration = Duration::from_millis(100);
/// How long a guest may take to power off when asked to. Whoever waits for the keeper's end does so for two seconds.
const POWER_OFF: Duration = Duration::from_millis(1500);
/// Devices' failures in one [`PERIOD`] that are logged: the guest can have as many as it likes.
const FAILURES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// How long news of one fault may be apart.
const MOMENT: Duration = Duration::from_millis(300);
/// Threads here only wait and copy, with [`streams::PIECE`] bytes at a time on the heap.
const STACK: usize = 128 << 10;
/// Bytes of a request that tells of changed files.
const MOST_CHANGES: usize = 1 << 20;

/// What a keeper process hands over when it is confined.
pub struct Boot {
    /// The Agent protocol's first client: a connected unix stream socket.
    pub client: OwnedFd,
    /// Where others connect.
    pub listener: Option<OwnedFd>,
    /// The container whose end is the VM's.
    pub first_container: String,
    /// What the guest is told of its network and shared memory; the rest is filled in when it has booted.
    pub set_up: SetUpSandboxRequest,
    /// How large the VM is, and may become.
    pub range: Range,
    /// What it has of images and disks.
    pub drives: Drives,
    /// And of the pod's network.
    pub nics: NicsAtStart,
    /// Makes friends with the VMM, which waits for its devices first.
    pub attach: Box<dyn FnOnce() -> Result<Arc<dyn Vmm>, vmm::Error>>,
    /// The vsock device's side of the vhost-user connection.
    pub vsock: OwnedFd,
    /// What the guest prints.
    pub console: OwnedFd,
    /// The process that serves its files: a pidfd.
    pub files: OwnedFd,
    /// And where that tells of what others change: each time the length of a request (four bytes, little endian) and the request, which is answered by a byte.
    pub changes: OwnedFd,
}

/// Why there is no VM (any more).
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("cannot start the thread {name}: {cause}")]
    Thread { name: &'static str, cause: std::io::Error },
    #[error("cannot serve the guest's sockets: {0}")]
    Vsock(std::io::Error),
    #[error("the VMM does not start: {cause}: {tail}")]
    NoVmm { cause: vmm::Error, tail: String },
    #[error("the guest did not come up within {} s: {tail}", .waited.as_secs())]
    NoAgent { waited: Duration, tail: String },
    #[error("the guest {how}: {tail}")]
    GuestEnded { how: &'static str, tail: String },
    #[error("the agent in the guest {how}: {tail}")]
    AgentGone { how: String, tail: String },
    #[error("the process that serves the VM's files (nacre-fs) has ended")]
    FilesGone,
}

/// What the main thread is told.
enum News {
    /// The first container has ended, with this status for a shell.
    Ended(u8),
    /// The agent is of no use any more: what it has done.
    AgentGone(String),
    /// The process that serves the files has ended.
    FilesGone,
    /// A client wants the end.
    ShutDown,
    Vm(Event),
}

/// Keeps the VM until its first container ends, whose exit status (128 + signal) it returns, or a client ends it.
///
/// # Errors
/// [`KeeperError`]: the VM has ended otherwise.
pub fn run(boot: Boot) -> Result<Option<u8>, KeeperError> {
    let (news, told) = channel();
    let console = Console::watch(boot.console)?;
    let streams = Arc::new(Streams::default());
    let guest = Arc::new(Guest::new(news.clone(), client::PATIENCE));
    let ports = (guest.clone(), streams.clone());
    let connect = move |asked: Ports| match asked.host {
        vm::CONTROL_PORT => ports.0.connect(),
        vm::STREAM_PORT => ports.1.connect(asked.guest),
        _ => None,
    };
    let (vsock, sockets) = vsock::Device::new(boot.vsock.into(), CONTEXT, connect).map_err(KeeperError::Vsock)?;
    spawn("vsock", move || {
        if let Err(error) = vsock.run() {
            tracing::error!(%error, "the guest's sockets have failed");
        }
    })?;
    let vmm = (boot.attach)().map_err(|cause| KeeperError::NoVmm { cause, tail: console.last_words() })?;
    let vm = vmm.clone();
    let from_vm = news.clone();
    spawn("vm", move || {
        loop {
            let Some(event) = vm.next_event(Duration::from_secs(3600)) else { continue };
            let last = event == Event::Ended;
            if from_vm.send(News::Vm(event)).is_err() || last {
                return;
            }
        }
    })?;
    let of_files = news.clone();
    spawn("files", move || {
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(&boot.files, PollFlags::IN)], None) {}
        let _ = of_files.send(News::FilesGone);
    })?;
    let to_guest = guest.clone();
    spawn("changes", move || tell_changes(boot.changes, &to_guest))?;
    let server = Server {
        guest: guest.clone(),
        streams,
        first_container: boot.first_container,
        set_up: boot.set_up,
        sizes: Sizes::new(vmm.clone(), boot.range),
        plugs: Plugs::new(vmm.clone(), boot.drives),
        nics: Nics::new(vmm.clone(), boot.nics),
        making: Mutex::default(),
        vsock: sockets,
        news: news.clone(),
    };
    let serving = Arc::new(server).serve(boot.client, boot.listener)?;
    let end = wait_for_the_end(&told, &guest, &console, BOOT);
    if let Err(error) = &end {
        guest.ended(error.to_string());
    }
    serving.finish(ANSWERS);
    if end.is_ok() {
        power_off(&guest, &told);
    }
    let _ = vmm.stop();
    end
}

/// Passes on what the process that serves the files tells, until it ends. It is believed no more than the guest is.
fn tell_changes(from: OwnedFd, guest: &Guest) {
    let mut from = File::from(from);
    let mut length = [0; 4];
    while from.read_exact(&mut length).is_ok() {
        let length = u32::from_le_bytes(length) as usize;
        let mut request = vec![0; length.min(MOST_CHANGES)];
        if length > MOST_CHANGES || from.read_exact(&mut request).is_err() {
            return;
        }
        let Ok(request) = FilesChangedRequest::decode(request.as_slice()) else { return };
        if let Err(status) = guest.call(&request) {
            tracing::warn!(%status, "the guest is not told what others have changed in its volumes");
        }
        if from.write_all(&[0]).is_err() {
            return;
        }
    }
}

fn wait_for_the_end(
    told: &std::sync::mpsc::Receiver<News>,
    guest: &Guest,
    console: &Console,
    boot: Duration,
) -> Result<Option<u8>, KeeperError> {
    let up_by = Instant::now() + boot;
    let mut failures = Rate::new(FAILURES, PERIOD, Instant::now());
    loop {
        let news = match guest.is_up() {
            true => told.recv().ok(),
            false => match told.recv_timeout(up_by.saturating_duration_since(Instant::now())) {
                Ok(news) => Some(news),
                Err(RecvTimeoutError::Timeout) if guest.is_up() => continue,
                Err(_) => return Err(KeeperError::NoAgent { waited: boot, tail: console.tail() }),
            },
        };
        let news = match news {
            // It ends with the VMM too, and with the first container: then that is the news.
            Some(News::FilesGone) => match told.recv_timeout(MOMENT) {
                Ok(next @ (News::Ended(_) | News::Vm(Event::Shutdown | Event::Reset | Event::Panicked | Event::Ended))) => {
                    Some(next)
                }
                _ => return Err(KeeperError::FilesGone),
            },
            news => news,
        };
        let how = match news {
            Some(News::Ended(status)) => return Ok(Some(status)),
            Some(News::ShutDown) => return Ok(None),
            // Its last words may still be on the way.
            Some(News::AgentGone(how)) => match (console.last_words(), console.has_panicked()) {
                (_, true) => "kernel has panicked",
                (tail, false) => return Err(KeeperError::AgentGone { how, tail }),
            },
            Some(News::FilesGone) => return Err(KeeperError::FilesGone),
            Some(News::Vm(Event::Shutdown)) => "has powered itself off",
            Some(News::Vm(Event::Reset)) => "has rebooted",
            Some(News::Vm(Event::Panicked)) => "kernel has panicked",
            Some(News::Vm(Event::Ended)) | None => "has ended with its VMM",
            Some(News::Vm(Event::DeviceFailed(device))) => {
                if let Some(left_out) = failures.take(Instant::now()) {
                    tracing::error!(device, left_out, "a device of the VM has failed");
                }
                continue;
            }
            Some(News::Vm(Event::DeviceRemoved(_))) => continue,
        };
        let tail = console.last_words();
        let how = if console.has_panicked() { "kernel has panicked" } else { how };
        return Err(KeeperError::GuestEnded { how, tail });
    }
}

/// Lets the guest write back what it holds.
fn power_off(guest: &Guest, told: &std::sync::mpsc::Receiver<News>) {
    let Some(client) = guest.up() else { return };
    if client.call(&ShutdownRequest {}).is_err() {
        return;
    }
    let end = Instant::now() + POWER_OFF;
    loop {
        match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(News::Vm(Event::Shutdown | Event::Reset | Event::Panicked | Event::Ended)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// What the guest does with its sockets, and what it did wrong.
fn vsock_metrics(vsock: &Vsock) -> Vec<Metric> {
    let Ok((connections, counts)) = vsock.counts() else { return Vec::new() };
    let mut wrong = Metric::counter("nacre_vsock_refused_total", "What the guest's sockets asked for and did not get, by why.");
    for (why, count) in [
        ("meaningless", counts.ignored),
        ("breach", counts.breaches),
        ("too_many_connections", counts.refused),
        ("too_many_resets", counts.silent),
    ] {
        wrong.add(&[("why", why)], count as f64);
    }
    let open = Metric::gauge("nacre_vsock_connections", "Connections between the guest and the host.");
    vec![open.with(&[], connections as f64), wrong]
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), KeeperError> {
    let made = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
    made.map(drop).map_err(|cause| KeeperError::Thread { name, cause })
}
