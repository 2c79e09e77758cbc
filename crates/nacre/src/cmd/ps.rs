//! `nacre ps`.

use agent_api::{ListProcessesRequest, ProcessInfo};
use clap::Args;
use runtime::state::{Access, Status};

use super::Failure;
use super::list::Format;
use crate::cli::Global;

/// Show the processes of a container, with the pids they have inside
#[derive(Debug, Args)]
pub struct Ps {
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// (no effect: there is no host ps that could see inside)
    #[arg(value_name = "PS-OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Ps {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let processes = processes(global, &self.id)?;
        if self.format == Format::Json {
            let pids: Vec<i32> = processes.iter().map(|process| process.pid).collect();
            super::print(&serde_json::to_string(&pids)?)?;
            return Ok(0);
        }
        print(&processes)?;
        Ok(0)
    }
}

/// All processes of a running container.
pub fn processes(global: &Global, id: &str) -> anyhow::Result<Vec<ProcessInfo>> {
    let entry = global.runtime().store.open(id, Access::Look)?;
    if runtime::pod::status(&entry) == Status::Stopped {
        return Ok(Vec::new());
    }
    let agent = runtime::container::connect(&entry)?;
    Ok(agent.call(&ListProcessesRequest { container_id: id.into() })?.processes)
}

/// As a table.
pub fn print(processes: &[ProcessInfo]) -> anyhow::Result<()> {
    let heading = ["UID", "PID", "PPID", "THREADS", "STATE", "TTY", "TIME", "CMD"].map(String::from);
    let row = |process: &ProcessInfo| {
        let seconds = process.cpu_time_ns / 1_000_000_000;
        let args: Vec<_> = process.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        [
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent_pid.to_string(),
            process.threads.to_string(),
            process.state.clone(),
            if process.terminal.is_empty() { "?".into() } else { process.terminal.clone() },
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            super::printable(&args.join(" ")),
        ]
    };
    super::table(&[vec![heading], processes.iter().map(row).collect()].concat())
}
