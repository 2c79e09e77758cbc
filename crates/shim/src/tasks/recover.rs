//! What a shim needs to know of containers that an earlier one has made.

use std::path::Path;
use std::sync::Arc;

use agent_api::ListContainersRequest;
use runtime::state::{Entry, Status, write_whole};

use super::{Container, Exit, Process, Stage, Tasks};
use crate::stdio::Io;

/// In the bundle: where the process's streams are.
const FILE: &str = "nacre-shim.json";

pub(super) fn remember(bundle: &Path, io: &Io) -> Result<(), String> {
    let text = serde_json::to_vec(io).map_err(|error| error.to_string())?;
    write_whole(&bundle.join(FILE), &text).map_err(|error| error.to_string())
}

impl Tasks {
    /// Takes up the containers of pod `group` that are there already. Processes that were added to them are forgotten: nobody can wait for them.
    pub fn recover(self: &Arc<Tasks>, group: &str) {
        // A new pod, as most are: no need to read all others' states.
        if !self.runtime.store.root().join(group).is_dir() {
            return;
        }
        let entries = match self.runtime.store.list() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("containers of an earlier shim cannot be found: {error}");
                return;
            }
        };
        // The first container first: through its agent all others are seen.
        let (first, members): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().filter(|entry| entry.saved.sandbox_id == group).partition(|entry| !entry.saved.is_member());
        let found: Vec<Entry> =
            first.into_iter().chain(members).filter(|entry| entry.saved.phase != Status::Creating).collect();
        for entry in &found {
            let io = std::fs::read(entry.saved.bundle.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
            let io: Io = io.unwrap_or_default();
            // Kept alive again, if they are still there.
            let kept = io.open().map(|(_, kept)| kept).unwrap_or_default();
            let status = runtime::pod::status(entry);
            let stage = match status {
                Status::Created | Status::Creating => Stage::Created,
                Status::Running | Status::Paused => Stage::Running,
                Status::Stopped => Stage::Exited(self.exit_of(entry)),
            };
            let paused = status == Status::Paused;
            let process = Process { stage, ..Process::new(io, kept) };
            let pid = entry.saved.pid() as u32;
            let container =
                Container { bundle: entry.saved.bundle.clone(), pid, paused, processes: [(String::new(), process)].into() };
            let mut state = self.lock();
            state.containers.insert(entry.saved.id.clone(), container);
            state.plugged = None;
        }
        if let Some(entry) = found.iter().find(|entry| entry.saved.status() != Status::Stopped) {
            self.watch(entry);
        }
    }

    /// As the agent remembers it, or the report; else as if killed.
    fn exit_of(&self, entry: &Entry) -> Exit {
        use runtime::process::report::{Report, read};
        let listed = runtime::container::connect(entry).ok().and_then(|agent| agent.call(&ListContainersRequest {}).ok());
        let exit = listed.and_then(|list| list.containers.into_iter().find(|c| c.id == entry.saved.id)).and_then(|c| c.exit);
        if let Some(exit) = exit {
            return exit.into();
        }
        match std::fs::File::open(entry.report_path()).ok().and_then(read) {
            Some(Report::Exited(status)) if !entry.saved.is_member() => Exit { status: status.into(), ..Exit::killed() },
            _ => Exit::killed(),
        }
    }
}
