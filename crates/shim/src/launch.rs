//! The verbs: `start` leaves a process that serves, `delete` clears away after a dead one, `-info` says what this is.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use prost::Message;
use runtime::container::Runtime;
use runtime::logging::{self, Format};
use runtime::process::Privilege;
use runtime::sandbox::Kind;
use runtime::state::{Access, Store, write_whole};
use sha2::{Digest, Sha256};

use crate::args::{Args, Verb};
use crate::proto::{DeleteResponse, RuntimeInfo, RuntimeVersion, Timestamp};
use crate::publish::Publisher;
use crate::service::TaskService;
use crate::tasks::Tasks;
use crate::{name_of, rootfs, server};

/// How long a shim without a container stays without a client.
const IDLE: Duration = Duration::from_secs(10);
/// Where shims keep their sockets and the runtime's state of their containers.
const BASE: &str = "/run/nacre-shim";

/// Does what the command line says.
///
/// # Errors
/// In words; containerd shows them.
pub fn run(kind: Kind, args: &Args) -> Result<(), String> {
    match args.verb {
        Verb::Info => info(kind),
        Verb::Version => say(format!("{} {}\n", name_of(kind), env!("CARGO_PKG_VERSION")).as_bytes()),
        Verb::Start => start(kind, args),
        Verb::Delete => delete(kind, args),
        Verb::Serve => serve(kind, args),
    }
}

/// The state of all containers of one containerd and namespace.
fn root(args: &Args) -> PathBuf {
    Path::new(BASE).join("state").join(hash(&[&args.address])).join(&args.namespace)
}

/// The states of all containerds' shims: each containerd's name space, and its directory.
pub fn states() -> Vec<(String, PathBuf)> {
    let dirs = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = dirs(&Path::new(BASE).join("state")).flat_map(|containerd| dirs(&containerd).collect::<Vec<_>>());
    let mut all: Vec<_> = all.filter_map(|dir| Some((dir.file_name()?.to_str()?.to_string(), dir))).collect();
    all.sort();
    all
}

/// A socket's path that is short, whatever the ids are.
pub fn socket_path(parts: &[&str]) -> PathBuf {
    Path::new(BASE).join("s").join(hash(parts))
}

fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The pod that a bundle's container belongs to: the containers of a pod have one shim.
fn group(bundle: &Path, id: &str) -> Result<String, String> {
    let path = bundle.join("config.json");
    let text = match fs::read(&path) {
        // A sandbox by itself has no configuration yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(id.into()),
        text => text.map_err(|e| format!("cannot read {}: {e}", path.display()))?,
    };
    #[derive(serde::Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    let spec: Annotated = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let place = runtime::pod::Place::of_annotations(|name| spec.annotations.get(name)).map_err(|e| e.to_string())?;
    Ok(match place {
        runtime::pod::Place::Member(sandbox) => sandbox,
        runtime::pod::Place::Alone | runtime::pod::Place::First => id.into(),
    })
}

fn info(kind: Kind) -> Result<(), String> {
    let name = match kind {
        Kind::Sentry => "io.containerd.nacre.v2",
        Kind::Vm => "io.containerd.nacre-vm.v2",
    };
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), revision: String::new() };
    say(&RuntimeInfo { name: name.into(), version: Some(version) }.encode_to_vec())
}

fn say(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| format!("cannot write to standard output: {e}"))
}

/// In the bundle's directory: prints where the pod's shim listens, which is left running if it does not run yet.
fn start(kind: Kind, args: &Args) -> Result<(), String> {
    let here = std::env::current_dir().map_err(|e| format!("cannot find the bundle: {e}"))?;
    let group = group(&here, &args.id)?;
    let socket = socket_path(&[&args.address, &args.namespace, &group]);
    let address = format!("unix://{}", socket.display());
    if UnixStream::connect(&socket).is_err() {
        leave(kind, args, &group, &socket)?;
    }
    // containerd reads it when it is started again.
    write_whole(&here.join("address"), address.as_bytes()).map_err(|e| e.to_string())?;
    say(address.as_bytes())
}

/// Leaves a process that serves the pod.
fn leave(kind: Kind, args: &Args, group: &str, socket: &Path) -> Result<(), String> {
    let dir = socket.parent().unwrap_or(Path::new(BASE));
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    fs::set_permissions(BASE, std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .map_err(|e| format!("cannot close {BASE} to others: {e}"))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|e| format!("cannot close {} to others: {e}", dir.display()))?;
    // Nobody answers there.
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|e| format!("cannot listen on {}: {e}", socket.display()))?;
    let log =
        OpenOptions::new().create(true).append(true).open("nacre-shim.log").map_err(|e| format!("cannot open the log: {e}"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name_of(kind)).args(["-namespace", &args.namespace, "-id", group, "-address", &args.address]);
    if args.debug {
        command.arg("-debug");
    }
    // It must not hold the pipes that containerd reads this verb's answer from. The listener is its standard input.
    command.arg("serve").stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(log);
    command.process_group(0);
    let child = command.spawn().map_err(|e| format!("cannot start the shim: {e}"))?;
    write_whole(Path::new("shim.pid"), child.id().to_string().as_bytes()).map_err(|e| e.to_string())
}

/// The life of a process that serves.
fn serve(kind: Kind, args: &Args) -> Result<(), String> {
    logging::install(&logging::Config { format: Format::Json, debug: args.debug }, None);
    let stdin = std::io::stdin();
    let listener = rustix::io::dup(&stdin).map_err(|e| format!("no socket to listen on: {e}"))?;
    let listener = UnixListener::from(listener);
    let null = File::open("/dev/null").map_err(|e| format!("cannot open /dev/null: {e}"))?;
    runtime::sys::dup_to(null.as_fd(), 0).map_err(|e| format!("cannot let go of the socket: {e}"))?;
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"nacre-shim");
    // Sandboxes are adopted when those that have made them end.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| format!("cannot adopt sandboxes: {e}"))?;
    let events = std::env::var("TTRPC_ADDRESS").ok().filter(|address| !address.is_empty());
    let publisher = Publisher::start(events, &args.namespace).map_err(|e| format!("cannot start a thread: {e}"))?;
    let tasks = Arc::new(Tasks::new(new_runtime(args), kind, root(args), args.debug, publisher));
    tasks.recover(&args.id);
    let socket = socket_path(&[&args.address, &args.namespace, &args.id]);
    let last = tasks.clone();
    let end = move || {
        last.publisher.flush();
        let _ = fs::remove_file(&socket);
        last.runtime.store.tidy();
        std::process::exit(0);
    };
    let end: Arc<dyn Fn() + Send + Sync> = Arc::new(end);
    let clients = Arc::new(());
    end_when_idle(tasks.clone(), Arc::downgrade(&clients), end.clone())?;
    let service = Arc::new(TaskService::new(tasks, end));
    server::serve(&listener, &service, &clients)
}

/// Ends this process when for a while it has had no container and nobody has been connected: a containerd that was killed after it had started it, or before it
/// has ended it, does not know it any more.
fn end_when_idle(tasks: Arc<Tasks>, clients: Weak<()>, end: Arc<dyn Fn() + Send + Sync>) -> Result<(), String> {
    let watching = move || {
        let mut since = Instant::now();
        loop {
            std::thread::sleep(IDLE / 4);
            // The server itself holds it as well.
            if !tasks.is_empty() || clients.strong_count() > 1 {
                since = Instant::now();
            } else if since.elapsed() >= IDLE {
                tracing::info!("no container, and no client for {} s: the shim ends", IDLE.as_secs());
                end();
            }
        }
    };
    let thread = std::thread::Builder::new().name("idle".into()).stack_size(64 << 10);
    thread.spawn(watching).map(drop).map_err(|e| format!("cannot start a thread: {e}"))
}

fn new_runtime(args: &Args) -> Runtime {
    Runtime {
        store: Store::new(root(args)),
        privilege: Privilege::current(),
        log: logging::Config { format: Format::Json, debug: args.debug },
        log_file: None,
    }
}

/// Whatever is left of a container whose shim is gone. With a pod's first container, its sandbox ends.
fn delete(kind: Kind, args: &Args) -> Result<(), String> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|e| format!("cannot find the bundle: {e}"))?,
    };
    logging::install(&logging::Config { format: Format::Text, debug: args.debug }, None);
    let runtime = new_runtime(args);
    let pid = runtime.store.open(&args.id, Access::Look).map_or(0, |entry| entry.saved.pid());
    let deleted = runtime.delete(&args.id, true);
    // Also of one that cannot be deleted: whatever still runs has its files open.
    rootfs::unmount(&bundle.join("rootfs"));
    deleted.map_err(|e| format!("{}: cannot delete {}: {e}", name_of(kind), args.id))?;
    runtime.store.tidy();
    // The socket of a shim that is dead; one that lives serves other containers of the pod.
    let socket = socket_path(&[&args.address, &args.namespace, &args.id]);
    if UnixStream::connect(&socket).is_err() {
        let _ = fs::remove_file(&socket);
    }
    let exit = 128 + libc::SIGKILL as u32;
    say(&DeleteResponse { pid: pid as u32, exit_status: exit, exited_at: Some(Timestamp::now()) }.encode_to_vec())
}
