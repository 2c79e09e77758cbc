//! A process that stands for a container of a pod, which has none of its own on the host: engines like conmon wait for the pid in the pid file, and take
//! its exit status for the container's.

use std::fs::File;
use std::os::fd::AsFd;

use agent_api::WaitProcessRequest;
use anyhow::Context;
use runtime::state::Entry;
use runtime::sys;

use crate::session;

/// Of one whose sandbox is gone.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// Leaves it behind; its pid.
///
/// # Errors
/// The host has no process to give.
pub fn leave(entry: &Entry) -> anyhow::Result<i32> {
    let child = sys::clone_process(0, None, || std::process::exit(wait(entry).into()));
    Ok(child.context("cannot leave a process that stands for the container")?.pid.as_raw_nonzero().get())
}

fn wait(entry: &Entry) -> u8 {
    let _ = rustix::thread::set_name(c"nacre-stand-in");
    // The container's lock and streams among them: they would stay held.
    sys::close_from(3);
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return KILLED };
    if (0..3).any(|number| sys::dup_to(null.as_fd(), number).is_err()) {
        return KILLED;
    }
    let request = WaitProcessRequest { container_id: entry.saved.id.clone(), exec_id: String::new() };
    match runtime::container::connect(entry).map(|agent| agent.call(&request)) {
        Ok(Ok(exit)) => session::exit_code(&exit),
        _ => KILLED,
    }
}
