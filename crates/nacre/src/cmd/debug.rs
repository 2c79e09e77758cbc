//! `nacre debug`: a look inside from outside.

use std::io::Write;
use std::os::fd::AsFd;

use agent_api::{ClientError, SetStraceRequest, StacksRequest};
use clap::Args;
use runtime::state::Access;
use runtime::sys::SignalSet;

use super::{Failure, ps};
use crate::cli::Global;

/// Look into a running sandbox
#[derive(Debug, Args)]
pub struct Debug {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// What each task is doing
    #[arg(long)]
    stacks: bool,
    /// Print system calls until interrupted
    #[arg(long)]
    strace: bool,
    /// The processes inside
    #[arg(long)]
    ps: bool,
}

impl Debug {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        if self.what.ps {
            ps::print(&ps::processes(global, &self.id)?)?;
            return Ok(0);
        }
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        let agent = runtime::container::connect(&entry)?;
        if self.what.stacks {
            let stacks = agent.call(&StacksRequest { container_id: self.id.clone() })?;
            // Guests choose names in it.
            let text: String = stacks.text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(0);
        }
        let stop = SignalSet::new(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
        stop.block();
        let request = SetStraceRequest { container_id: self.id.clone(), output: Some(0) };
        agent.call_with(&request, &[std::io::stdout().as_fd()])?;
        std::thread::scope(|scope| {
            // The sandbox's end is an end too: the long poll fails.
            scope.spawn(|| {
                agent.follow(drop);
                std::process::exit(0);
            });
            stop.wait();
            match agent.call(&SetStraceRequest { container_id: self.id.clone(), output: None }) {
                Ok(_) | Err(ClientError::Closed) => std::process::exit(0),
                Err(error) => {
                    tracing::error!("{error}");
                    std::process::exit(1)
                }
            }
        })
    }
}
