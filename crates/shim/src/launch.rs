//! The verbs: `start` leaves a process that serves, `delete` clears away after a dead one, `-info` says what this is.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use prost::Message;
use runtime::cgroup::Driver;
use runtime::container::Runtime;
use runtime::logging::{self, Format};
use runtime::process::Privilege;
use runtime::sandbox::Kind;
use runtime::state::{Access, Store, write_whole};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::args::{Args, Verb};
use crate::proto::{DeleteResponse, RuntimeInfo, RuntimeVersion, Timestamp};
use crate::publish::Publisher;
use crate::service::TaskService;
use crate::tasks::Tasks;
use crate::{confine, name_of, rootfs, server};

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
    if let Some((listener, own)) = claim(&socket)? {
        leave(kind, args, &group, listener).inspect_err(|_| remove_own(&socket, own))?;
    }
    // containerd reads it when it is started again.
    write_whole(&here.join("address"), address.as_bytes()).map_err(|e| e.to_string())?;
    say(address.as_bytes())
}

/// Listens on a pod's socket, of this inode; None if somebody does already. Of several that are started at once for one pod, as after its shim's death, only one listens.
fn claim(socket: &Path) -> Result<Option<(UnixListener, Inode)>, String> {
    let dir = socket.parent().unwrap_or(Path::new(BASE));
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    fs::set_permissions(BASE, std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .map_err(|e| format!("cannot close {BASE} to others: {e}"))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|e| format!("cannot close {} to others: {e}", dir.display()))?;
    let _lock = lock(dir)?;
    if is_served(socket)? {
        return Ok(None);
    }
    let _ = fs::remove_file(socket);
    let about = |e: std::io::Error| format!("cannot listen on {}: {e}", socket.display());
    let listener = UnixListener::bind(socket).map_err(about)?;
    let own = inode(socket).map_err(about)?;
    Ok(Some((listener, own)))
}

/// Held for the moment in which a socket is looked at, made or removed.
fn lock(dir: &Path) -> Result<File, String> {
    let about = |e: std::io::Error| format!("cannot lock {}: {e}", dir.display());
    let lock = File::open(dir).map_err(about)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| about(e.into()))?;
    Ok(lock)
}

/// Whether somebody listens there, however busy.
fn is_served(socket: &Path) -> Result<bool, String> {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let about = |e: Errno| format!("cannot see whether a shim listens on {}: {e}", socket.display());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let address = SocketAddrUnix::new(socket).map_err(about)?;
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(about)?;
    match connect(&client, &address) {
        // With EAGAIN the queue of connections is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(about(error)),
    }
}

/// Removes a socket if it is still this one.
fn remove_own(socket: &Path, own: Inode) {
    let _lock = socket.parent().map(lock);
    if inode(socket).is_ok_and(|now| now == own) {
        let _ = fs::remove_file(socket);
    }
}

/// A file's device and number.
type Inode = (u64, u64);

fn inode(path: &Path) -> std::io::Result<Inode> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Leaves a process that serves the pod.
fn leave(kind: Kind, args: &Args, group: &str, listener: UnixListener) -> Result<(), String> {
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
    let mut child = command.spawn().map_err(|e| format!("cannot start the shim: {e}"))?;
    write_whole(Path::new("shim.pid"), child.id().to_string().as_bytes()).map_err(|e| {
        // Nobody will be told of it.
        let _ = child.kill();
        let _ = child.wait();
        e.to_string()
    })
}

/// The life of a process that serves.
fn serve(kind: Kind, args: &Args) -> Result<(), String> {
    logging::install(&logging::Config { sandbox: Some(args.id.clone()), ..log_config(args) }, None);
    confine::drop_privileges()?;
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
    let own = inode(&socket).inspect_err(|e| tracing::warn!("{} is not there: {e}", socket.display())).ok();
    let last = tasks.clone();
    let end = move || {
        last.publisher.flush();
        if let Some(own) = own {
            remove_own(&socket, own);
        }
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

fn log_config(args: &Args) -> logging::Config {
    logging::Config { format: Format::Json, debug: args.debug, sandbox: None }
}

fn new_runtime(args: &Args) -> Runtime {
    Runtime {
        store: Store::new(root(args)),
        privilege: Privilege::current(),
        cgroups: Driver::default(),
        log: log_config(args),
        log_file: None,
    }
}

/// Whatever is left of a container whose shim is gone. With a pod's first container, its sandbox ends.
fn delete(kind: Kind, args: &Args) -> Result<(), String> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|e| format!("cannot find the bundle: {e}"))?,
    };
    logging::install(&logging::Config { format: Format::Text, ..log_config(args) }, None);
    let runtime = new_runtime(args);
    let pid = runtime.store.open(&args.id, Access::Look).map_or(0, |entry| entry.saved.pid());
    let deleted = runtime.delete(&args.id, true);
    // Also of one that cannot be deleted: whatever still runs has its files open.
    rootfs::unmount(&bundle.join("rootfs"));
    deleted.map_err(|e| format!("{}: cannot delete {}: {e}", name_of(kind), args.id))?;
    runtime.store.tidy();
    // The socket of a shim that is dead; one that lives serves other containers of the pod.
    let socket = socket_path(&[&args.address, &args.namespace, &args.id]);
    if let Some(Ok(_lock)) = socket.parent().filter(|dir| dir.is_dir()).map(lock) {
        match is_served(&socket) {
            Ok(true) => {}
            Ok(false) => _ = fs::remove_file(&socket),
            Err(what) => tracing::warn!("{what}"),
        }
    }
    let exit = 128 + libc::SIGKILL as u32;
    say(&DeleteResponse { pid: pid as u32, exit_status: exit, exited_at: Some(Timestamp::now()) }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_shims_of_a_pod_one_listens() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-claim-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("dir");
        let socket = dir.join("s");
        // A dead one's.
        drop(UnixListener::bind(&socket).expect("bound"));
        assert_eq!(is_served(&socket), Ok(false));
        assert_eq!(is_served(&dir.join("none")), Ok(false));
        assert!(is_served(&socket.join("below a file")).is_err(), "that is no answer");
        let listener = UnixListener::bind(dir.join("t")).expect("bound");
        assert_eq!(is_served(&dir.join("t")), Ok(true));
        let own = inode(&dir.join("t")).expect("there");
        // A tmpfs, as /run is, gives no inode's number twice; others may, of one that is gone.
        fs::rename(dir.join("t"), dir.join("gone")).expect("renamed");
        let later = UnixListener::bind(dir.join("t")).expect("bound");
        remove_own(&dir.join("t"), own);
        assert_eq!(is_served(&dir.join("t")), Ok(true), "another's was removed");
        remove_own(&dir.join("t"), inode(&dir.join("t")).expect("there"));
        assert!(!dir.join("t").exists());
        drop((listener, later));
        fs::remove_dir_all(dir).expect("clean up");
    }
}
