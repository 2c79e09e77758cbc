//! Following a sandbox: ends of processes, lack of memory, and the sandbox's own end.

use std::path::PathBuf;
use std::sync::Arc;

use agent_api::{Client, EventKind};
use runtime::container::connect;
use runtime::logging;
use runtime::process::report::{self, Report};
use runtime::state::{Entry, Status};

use super::told::Told;
use super::{Exit, Stage, Tasks};
use crate::proto::{TaskExit, TaskNotice, Timestamp};

impl Tasks {
    /// Connects to the sandbox of a container, and follows it from now on, unless that is done already.
    pub(super) fn watch(self: &Arc<Tasks>, entry: &Entry) {
        if self.lock().agent.is_some() {
            return;
        }
        // It may take its time, and the lock is everybody's.
        let agent = match connect(entry) {
            Ok(agent) => Arc::new(agent),
            Err(error) => {
                // Another container of the pod is connected, and its thread sees the end.
                if self.lock().agent.is_some() {
                    return;
                }
                if entry.saved.status() == Status::Stopped {
                    tracing::warn!("the sandbox of {} has ended: {error}", entry.saved.id);
                    self.end_all(&EntryOf::new(entry));
                } else {
                    tracing::error!("the sandbox of {} cannot be followed: {error}", entry.saved.id);
                }
                return;
            }
        };
        {
            let mut state = self.lock();
            // Another container of the pod was quicker.
            if state.agent.is_some() {
                return;
            }
            state.agent = Some(agent.clone());
        }
        self.forward_ports(entry);
        let (tasks, entry) = (self.clone(), EntryOf::new(entry));
        let thread = std::thread::Builder::new().name("sandbox".into()).stack_size(128 << 10);
        let followed = thread.spawn(move || {
            tasks.follow(&agent, Told::open(&entry.dir));
            tasks.lock().agent = None;
            tasks.end_forwarding();
            tasks.end_all(&entry);
            tasks.reap();
        });
        if let Err(error) = followed {
            tracing::error!("the sandbox cannot be followed: {error}");
        }
    }

    /// Until the agent is gone. What has happened before is told as well, if it has not been.
    fn follow(&self, agent: &Client, mut told: Told) {
        let error = agent.follow(|event| {
            let _about = logging::About::container(&event.container_id);
            match (event.kind(), event.exit) {
                (EventKind::ProcessExited, Some(exit)) => self.exited(&event.container_id, &event.exec_id, exit.into()),
                (EventKind::OutOfMemory, _) if told.is_news(event.sequence) => {
                    self.publisher.put("oom", "TaskOOM", &TaskNotice { container_id: event.container_id });
                }
                (EventKind::OutOfMemory, _) | (EventKind::ProcessExited, None) => {}
            }
        });
        tracing::debug!("the sandbox is gone: {error}");
    }

    /// All processes have ended with their sandbox: the one that it is of with the status it has left, the others as if killed.
    fn end_all(&self, sandbox: &EntryOf) {
        let last = std::fs::File::open(&sandbox.report).ok().and_then(report::read);
        if let Some(Report::Broke(reason)) = &last {
            tracing::error!("the sandbox {} broke: {reason}", sandbox.id);
        }
        let live: Vec<(String, String)> = {
            let state = self.lock();
            let of = |(id, container): (&String, &super::Container)| {
                container.live().map(|exec_id| (id.clone(), exec_id.to_string())).collect::<Vec<_>>()
            };
            state.containers.iter().flat_map(of).collect()
        };
        for (id, exec_id) in live {
            let exit = match &last {
                Some(Report::Exited(status)) if id == sandbox.id && exec_id.is_empty() => {
                    Exit { status: (*status).into(), ..Exit::killed() }
                }
                _ => Exit::killed(),
            };
            self.exited(&id, &exec_id, exit);
        }
    }

    /// A process has ended; told once, after its start.
    pub(super) fn exited(&self, id: &str, exec_id: &str, exit: Exit) {
        let pid = {
            let mut state = self.lock();
            let Ok(pid) = state.container(id).map(|container| container.pid) else { return };
            let Ok(process) = state.process(id, exec_id) else { return };
            match process.stage {
                Stage::Exited(_) => return,
                Stage::Starting => {
                    process.early = Some(exit);
                    return;
                }
                // Killed before it was started.
                Stage::Created | Stage::Running => {
                    process.stage = Stage::Exited(exit);
                    process.kept.process_ended();
                }
            }
            pid
        };
        self.changed.notify_all();
        let event = TaskExit {
            container_id: id.into(),
            id: if exec_id.is_empty() { id.into() } else { exec_id.into() },
            pid,
            exit_status: exit.status,
            exited_at: Some(Timestamp::from_ns(exit.at_ns)),
        };
        self.publisher.put("exit", "TaskExit", &event);
    }
}

/// What is needed of the state of a sandbox's first container after its end.
struct EntryOf {
    id: String,
    dir: PathBuf,
    report: PathBuf,
}

impl EntryOf {
    fn new(entry: &Entry) -> EntryOf {
        EntryOf { id: entry.saved.sandbox_id.clone(), dir: entry.sandbox_dir(), report: entry.report_path() }
    }
}
