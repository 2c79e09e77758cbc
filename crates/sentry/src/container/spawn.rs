//! Starting a process from outside: from a request to a task that has its program loaded.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_api::execs;
use agent_api::program::{Search, candidates};
use agent_api::{Code, ExecProcessRequest, ExecProcessResponse, Process as Request, Status, take_fd};
use parking_lot::Mutex;

use super::process::{Process, Stage};
use super::{Agent, Handle, precondition, stdio, wait_forever};
use crate::Errno;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FsContext, Path, ResolveFlags, resolve};
use crate::ipc::tty::console::Console;
use crate::kernel::Container;
use crate::mm::Mm;
use crate::ns::UserNs;
use crate::task::{Creds, Cx, Limit, NewProcess, Resource, Rlimits, Shared, new_process};
use crate::wait::{PollEvents, WaitQueue};

impl Agent {
    /// Runs one more process in a running container.
    pub async fn exec(
        self: &Arc<Agent>,
        request: ExecProcessRequest,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<ExecProcessResponse, Status> {
        let (id, exec_id) = (&request.container_id, request.exec_id);
        let handle = self.handle(id)?;
        if !matches!(self.process(id, "")?.stage(), Stage::Running) {
            return Err(precondition(format!("container {id} is not running")));
        }
        if exec_id.is_empty() || !handle.make_room(&exec_id) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id} has a process {exec_id} already")));
        }
        let wanted = request.process.ok_or_else(|| missing("process"))?;
        let process = self.load(&handle, &exec_id, wanted, fds).await?;
        process.start();
        Ok(ExecProcessResponse { pid: process.group.tgid })
    }

    /// Makes a process, loads its program, and leaves it waiting for [`Process::start`].
    pub(super) async fn load(
        self: &Arc<Agent>,
        handle: &Arc<Handle>,
        exec_id: &str,
        request: Request,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<Arc<Process>, Status> {
        let container = &handle.container;
        let root = handle.fs.root();
        let umask = request.umask.unwrap_or(0o022);
        let fs = FsContext::new(root.clone(), root, umask);
        let mm = Mm::new(self.kernel.platform.clone(), container.memory.clone()).map_err(internal("address space"))?;
        let context = mm.space().new_context().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        let (files, console) = match &request.terminal {
            None => (stdio::table(&self.reactor, &request, fds)?, None),
            Some(size) => {
                let console = self.console(container, &request, fds)?;
                let (rows, columns) = stdio::window(Some(size));
                console.resize(rows, columns);
                let slave = console.open_slave(&fs.root()).await.map_err(|errno| {
                    Status::new(Code::FailedPrecondition, format!("cannot open the terminal in /dev/pts: {errno}"))
                })?;
                (stdio::terminal_table(&slave)?, Some(console))
            }
        };
        let new = NewProcess { creds: creds(&request), rlimits: rlimits(&request)?, shared: Shared { mm, files, fs } };
        let cx = new_process(&self.kernel, container, new, context).map_err(internal("process"))?;
        cx.task.set_seccomp(handle.seccomp.clone());
        let group = &cx.task.group;
        if let Some(console) = &console {
            console.pty().tie_session(&group.session(), Arc::downgrade(container), group.pgid());
        }
        let process = Process::new(group.clone(), console);
        handle.processes.lock().insert(exec_id.to_string(), process.clone());
        self.report_exit(handle, exec_id, &process);
        let loaded = Loaded::default();
        self.run_when_started(cx, request, &process, &loaded);
        match loaded.wait().await {
            Ok(()) => Ok(process),
            Err(status) => {
                process.exited().await;
                handle.processes.lock().remove(exec_id);
                Err(status)
            }
        }
    }

    /// A new terminal whose other end is the host's.
    fn console(
        &self,
        container: &Arc<Container>,
        request: &Request,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<Arc<Console>, Status> {
        let stdin = request.stdio.and_then(|stdio| stdio.stdin).ok_or_else(|| missing("stdio.stdin"))?;
        let host = take_fd(fds, stdin, "the terminal")?;
        Console::attach(&self.kernel, &container.terminals, host, request.uid)
            .map_err(|errno| Status::new(Code::InvalidArgument, format!("cannot use the terminal: {errno}")))
    }

    /// The task's life: load the program, wait for the start, run.
    fn run_when_started(&self, mut cx: Cx, request: Request, process: &Arc<Process>, loaded: &Loaded) {
        let (process, loaded) = (process.clone(), loaded.clone());
        self.kernel.scheduler.spawn(move |executor| async move {
            let result = load_program(&mut cx, request).await;
            let failed = result.is_err();
            loaded.set(result);
            if failed {
                crate::task::abandon(cx).await;
                return;
            }
            process.started().await;
            crate::task::run(cx, executor).await;
        });
    }

    /// Keeps the status when the process (for a container's own: the whole container) has ended.
    fn report_exit(self: &Arc<Agent>, handle: &Arc<Handle>, exec_id: &str, process: &Arc<Process>) {
        let (agent, container, exec_id) = (Arc::downgrade(self), handle.container.clone(), exec_id.to_string());
        let (of, clock, console) = (process.clone(), self.kernel.clock.clone(), process.console());
        let whole = exec_id.is_empty();
        let kernel = self.kernel.clone();
        let report = Box::new(move |status| {
            let report = move || {
                let exit = of.set_exited(status, clock.realtime_ns());
                if let Some(agent) = agent.upgrade() {
                    agent.report(&container.id, &exec_id, exit);
                }
            };
            match console {
                None => report(),
                // What it wrote last is to be seen before its end is known.
                Some(console) => kernel.scheduler.spawn(|_| async move {
                    console.drain().await;
                    console.close();
                    report();
                }),
            }
        });
        if whole {
            handle.container.life.on_exit(report);
        } else {
            process.group.on_exit(report);
        }
    }
}

impl Handle {
    /// Whether a new process may have this exec id.
    fn make_room(&self, exec_id: &str) -> bool {
        execs::make_room(&mut self.processes.lock(), exec_id, |process| match process.stage() {
            Stage::Exited(exit) => Some(exit.exited_at_ns),
            _ => None,
        })
    }
}

/// Changes to the working directory, finds the program and puts it in place.
async fn load_program(cx: &mut Cx, request: Request) -> Result<(), Status> {
    let cwd = if request.cwd.is_empty() { b"/".to_vec() } else { request.cwd };
    let place = working_directory(cx, &cwd)
        .await
        .map_err(|errno| Status::new(Code::InvalidArgument, format!("cwd {}: {errno}", String::from_utf8_lossy(&cwd))))?;
    cx.fs.set_cwd(place);
    let program = request.args.first().ok_or_else(|| missing("process.args"))?;
    let mut search = Search::new(program);
    for path in candidates(program, &request.env) {
        match cx.exec(AT_FDCWD, path, ResolveFlags::empty(), request.args.clone(), request.env.clone()).await {
            Ok(()) => return Ok(()),
            Err(errno) => search.failed(errno)?,
        }
    }
    Err(search.end())
}

async fn working_directory(cx: &Cx, path: &[u8]) -> Result<Path, Errno> {
    let place = resolve(cx, AT_FDCWD, path, ResolveFlags::empty()).await?;
    if place.dentry.is_dir() { Ok(place) } else { Err(Errno::ENOTDIR) }
}

fn creds(request: &Request) -> Creds {
    let (uid, gid) = (request.uid, request.gid);
    let sets = request.capabilities.unwrap_or_default();
    Creds {
        login: None,
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        gid,
        egid: gid,
        sgid: gid,
        fsgid: gid,
        groups: request.additional_gids.clone(),
        permitted: sets.permitted,
        effective: sets.effective,
        inheritable: sets.inheritable,
        bounding: sets.bounding,
        ambient: sets.ambient,
        no_new_privs: request.no_new_privs,
        securebits: 0,
        user_ns: UserNs::ROOT,
    }
}

fn rlimits(request: &Request) -> Result<Rlimits, Status> {
    let mut limits = Rlimits::default();
    for limit in &request.rlimits {
        let resource = Resource::new(limit.resource)
            .ok_or_else(|| Status::new(Code::InvalidArgument, format!("there is no resource {}", limit.resource)))?;
        limits.set(resource, Limit { soft: limit.soft, hard: limit.hard });
    }
    Ok(limits)
}

fn missing(what: &str) -> Status {
    Status::new(Code::InvalidArgument, format!("{what} is missing"))
}

fn internal(what: &'static str) -> impl Fn(Errno) -> Status {
    move |errno| Status::new(Code::ResourceExhausted, format!("cannot make a {what}: {errno}"))
}

/// Tells the creator whether the program could be loaded.
#[derive(Clone, Default)]
struct Loaded {
    result: Arc<Mutex<Option<Result<(), Status>>>>,
    set: WaitQueue,
}

impl Loaded {
    fn set(&self, result: Result<(), Status>) {
        *self.result.lock() = Some(result);
        self.set.wake(PollEvents::IN);
    }

    async fn wait(&self) -> Result<(), Status> {
        wait_forever(&self.set, || self.result.lock().take()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_path() {
        let env = [b"A=1".to_vec(), b"PATH=/a::/b".to_vec()];
        assert_eq!(candidates(b"x", &env), [b"/a/x".to_vec(), b"./x".to_vec(), b"/b/x".to_vec()]);
        assert_eq!(candidates(b"./x", &env), [b"./x".to_vec()]);
    }
}
