//! Making and deleting containers.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_api::{Code, Status};
use runtime::sandbox::Kind;
use runtime::state::Access;
use runtime::{child, config};

use super::{Container, Process, Stage, Tasks, deleted, recover, root, status, unknown};
use crate::proto::{CreateTaskRequest, DeleteResponse, PidResponse, TaskCreate, TaskDelete, TaskIo, Timestamp};
use crate::stdio::{Io, Kept, Streams};
use crate::{launch, options, rootfs};

/// How long the containers of a sandbox that ends may take to do so.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the making of a container may take, with its hooks; other containers of the pod wait meanwhile.
const CREATION: Duration = Duration::from_secs(300);
/// What of the log of a container that could not be made is looked at for the reason.
const LOG_TAIL: usize = 8 << 10;
/// What the VMM says (`vmm::Error::NoSlot`), among other things, where a VM takes no further device.
const NO_SLOT: &str = "no free slot for device";

impl Tasks {
    /// Makes a container, and with the first the sandbox.
    pub fn create(self: &Arc<Tasks>, request: &CreateTaskRequest) -> Result<PidResponse, Status> {
        runtime::state::check_id(&request.id).map_err(status)?;
        if !request.checkpoint.is_empty() {
            return Err(Status::new(Code::Unimplemented, "a sandbox cannot be restored from a checkpoint"));
        }
        options::check(request.options.as_ref()).map_err(|what| Status::new(Code::InvalidArgument, what))?;
        {
            let mut state = self.lock();
            if state.containers.contains_key(&request.id) || !state.creating.insert(request.id.clone()) {
                return Err(Status::new(Code::AlreadyExists, format!("container {} exists already", request.id)));
            }
        }
        let made = self.make(request);
        if made.is_err() {
            self.without_images(&request.id);
        }
        self.lock().creating.remove(&request.id);
        let pid = made?;
        let io = TaskIo {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io),
            checkpoint: String::new(),
            pid,
        };
        self.publisher.put("create", "TaskCreate", &event);
        Ok(PidResponse { pid })
    }

    fn make(self: &Arc<Tasks>, request: &CreateTaskRequest) -> Result<u32, Status> {
        let bundle = PathBuf::from(&request.bundle);
        let io = Io {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let root = bundle.join("rootfs");
        // What is wrong with it is said when the container is made.
        let images = match config::load(&bundle) {
            Ok(spec) => {
                root::check_annotations(&spec)?;
                self.root_images(request, &spec)
            }
            Err(_) => Vec::new(),
        };
        let unmount = |status| {
            rootfs::unmount(&root);
            status
        };
        let made = |images: &[PathBuf]| {
            if images.is_empty() {
                rootfs::mount(&request.rootfs, &root).map_err(unknown)?;
            }
            let (streams, kept) = io.open().map_err(|what| Status::new(Code::InvalidArgument, what))?;
            self.run_create(&request.id, &bundle, images, io.clone(), streams, kept)
        };
        let process = match made(&images) {
            Err(status) if !images.is_empty() && status.message.contains(NO_SLOT) => {
                tracing::info!("the VM has no room for the images of {}: its root is mounted", request.id);
                self.without_images(&request.id);
                made(&[])
            }
            made => made,
        };
        let process = process.map_err(unmount)?;
        let entry = self.runtime.store.open(&request.id, Access::Look).map_err(status).map_err(unmount)?;
        let pid = entry.saved.pid() as u32;
        if let Err(error) = recover::remember(&bundle, &process.io) {
            tracing::warn!("a shim that follows this one will not know the streams of {}: {error}", request.id);
        }
        let processes = [(String::new(), process)].into();
        self.lock().containers.insert(request.id.clone(), Container { bundle, pid, paused: false, processes });
        self.watch(&entry);
        Ok(pid)
    }

    /// Runs `nacre create` with the process's streams as its own. Without images, the root is the bundle's directory.
    fn run_create(
        &self,
        id: &str,
        bundle: &Path,
        images: &[PathBuf],
        io: Io,
        streams: Streams,
        kept: Kept,
    ) -> Result<Process, Status> {
        let log = bundle.join("nacre.log");
        let mut command = Command::new("/proc/self/exe");
        command.arg0("nacre").current_dir(bundle).arg("--root").arg(&self.root);
        command.arg("--log").arg(&log).args(["--log-format", "json"]);
        if self.debug {
            command.arg("--debug");
        }
        if self.kind == Kind::Vm {
            command.args(["--sandbox", "vm"]);
        }
        // What is half made when this process is killed must not come to life after its remains were cleared away.
        command.arg("create").arg("--parent").arg(std::process::id().to_string()).arg("--bundle").arg(bundle);
        for image in images {
            command.arg("--root-image").arg(image);
        }
        let process = Process::new(io, kept);
        let console = match process.io.terminal {
            true => Some(ConsoleSocket::new(id).map_err(unknown)?),
            false => None,
        };
        match &console {
            Some(console) => {
                command.arg("--console-socket").arg(&console.path);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            }
            None => {
                let stream = |file: &Option<File>| match file {
                    Some(file) => file.try_clone().map(Stdio::from),
                    None => Ok(Stdio::null()),
                };
                command.stdin(stream(&streams.stdin).map_err(unknown)?);
                command.stdout(stream(&streams.stdout).map_err(unknown)?);
                command.stderr(stream(&streams.stderr).map_err(unknown)?);
            }
        }
        command.arg(id);
        let said = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        // Its own group, for all of it to be killed together.
        command.process_group(0);
        let ended = {
            let _ours = self.children();
            let mut child = command.spawn().map_err(|error| unknown(format!("cannot run nacre create: {error}")))?;
            child::wait_until(&mut child, Instant::now() + CREATION)
        };
        // It was killed, by this process or by somebody else, in the middle of its work.
        if !matches!(&ended, Ok(Some(status)) if status.code().is_some()) {
            self.clear(id);
        }
        let ended = ended.map_err(|error| unknown(format!("cannot wait for nacre create: {error}")))?;
        let Some(ended) = ended else {
            return Err(unknown(format!("nacre create did not end within {} s, and was killed", CREATION.as_secs())));
        };
        if !ended.success() {
            let reason = reason(&log, said).unwrap_or_else(|| format!("nacre create: {ended}"));
            let exists = reason.contains("already exists");
            return Err(Status::new(if exists { Code::AlreadyExists } else { Code::Unknown }, reason));
        }
        if let Some(console) = console {
            let carried = console.take().and_then(|master| crate::stdio::carry(master, streams));
            if let Err(error) = carried {
                // It is there, and nobody would know of it.
                self.clear(id);
                return Err(unknown(format!("cannot take the terminal: {error}")));
            }
        }
        Ok(process)
    }

    /// Takes away what there is of a container that could not be made.
    fn clear(&self, id: &str) {
        let _ours = self.children();
        if let Err(error) = self.runtime.delete(id, true) {
            tracing::warn!("{id} could not be made, and something of it stays: {error}");
        }
    }

    /// Deletes a stopped container, or forgets an ended process of one.
    pub fn delete(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, Status> {
        let (exit, pid, bundle) = {
            let mut state = self.lock();
            let container = state.container(id)?;
            let (pid, bundle) = (container.pid, container.bundle.clone());
            let process = state.process(id, exec_id)?;
            let exit = match process.stage {
                Stage::Exited(exit) => exit,
                // One that was never started can go; a container is killed with it.
                Stage::Created => super::Exit::killed(),
                Stage::Starting | Stage::Running => {
                    return Err(Status::new(Code::FailedPrecondition, format!("{id} {exec_id} has not stopped")));
                }
            };
            (exit, pid, bundle)
        };
        if exec_id.is_empty() {
            {
                let _ours = self.children();
                self.runtime.delete(id, true).map_err(status)?;
            }
            rootfs::unmount(&bundle.join("rootfs"));
            self.lock().containers.remove(id);
            self.without_images(id);
            self.reap();
        } else if let Some(container) = self.lock().containers.get_mut(id) {
            container.processes.remove(exec_id);
        }
        self.changed.notify_all();
        let event = TaskDelete {
            container_id: id.into(),
            pid,
            exit_status: exit.status,
            exited_at: Some(Timestamp::from_ns(exit.at_ns)),
            id: exec_id.into(),
        };
        self.publisher.put("delete", "TaskDelete", &event);
        Ok(deleted(pid, exit))
    }

    /// Deletes all containers, which have stopped or are about to; the one that the sandbox is of last.
    pub fn delete_all(&self) -> Result<(), Status> {
        let ids: Vec<String> = self.lock().containers.keys().cloned().collect();
        let is_member = |id: &String| self.runtime.store.open(id, Access::Look).is_ok_and(|entry| entry.saved.is_member());
        let (members, first): (Vec<_>, Vec<_>) = ids.into_iter().partition(is_member);
        for id in members.iter().chain(&first) {
            match self.wait_for(id, "", Some(PATIENCE)).and_then(|_| self.delete(id, "")) {
                // The engine has deleted it meanwhile.
                Err(status) if status.code == Code::NotFound => {}
                done => _ = done?,
            }
        }
        Ok(())
    }

    /// Waits for those children that the sandbox's processes are, once they have ended.
    pub(super) fn reap(&self) {
        let _ours = self.children();
        while let Ok(Some(_)) = rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG) {}
    }
}

/// The last error that was logged after `from`.
fn reason(log: &Path, from: u64) -> Option<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL as u64)))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_TAIL as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line.get("level")? == "error").then(|| line.get("msg").and_then(|text| text.as_str()).map(String::from))?
    });
    line.filter(|line| !line.is_empty())
}

/// Where `nacre create` sends a terminal's master.
struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    fn new(id: &str) -> std::io::Result<ConsoleSocket> {
        let path = launch::socket_path(&["console", id, &std::process::id().to_string()]);
        let _ = std::fs::remove_file(&path);
        Ok(ConsoleSocket { listener: UnixListener::bind(&path)?, path })
    }

    /// The master, which was sent before the container was made.
    fn take(self) -> std::io::Result<OwnedFd> {
        self.listener.set_nonblocking(true)?;
        let (connection, _) = self.listener.accept()?;
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        let (mut name, mut fds) = ([0; 256], Vec::new());
        agent_api::fds::receive(connection.as_fd(), &mut name, &mut fds)?;
        fds.pop().ok_or_else(|| std::io::Error::other("no terminal came"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
