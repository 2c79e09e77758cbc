//! A process that stands for one inside a sandbox: a container of a pod, which has none of its own on the host, or a detached exec. Engines like conmon
//! wait for the pid in the pid file, and take its exit status for that of what runs inside.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use agent_api::WaitProcessRequest;
use anyhow::Context;
use runtime::container::Container;
use runtime::state::Entry;
use runtime::sys;

/// Of one whose sandbox is gone.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// If a container just made has joined another's sandbox, leaves one for it behind, whose pid the pid file gets, if there is to be one.
///
/// # Errors
/// The host's; then the container is destroyed.
pub fn for_member(container: &mut Container, pid_file: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = pid_file.filter(|_| container.entry.saved.is_member()) else { return Ok(()) };
    let left = leave(&container.entry, "").and_then(|pid| Ok(container.stands_in(pid, path)?));
    if left.is_err() {
        container.destroy();
    }
    left
}

/// Leaves one behind for a process of a container, which is its own if `exec_id` is empty; the pid.
///
/// # Errors
/// The host has no process to give.
pub fn leave(entry: &Entry, exec_id: &str) -> anyhow::Result<i32> {
    let child = sys::clone_process(0, None, || std::process::exit(wait(entry, exec_id).into()));
    Ok(child.context("cannot leave a process that waits")?.pid.as_raw_nonzero().get())
}

fn wait(entry: &Entry, exec_id: &str) -> u8 {
    let _ = rustix::thread::set_name(c"nacre-stand-in");
    // The container's lock and streams among them: they would stay held.
    sys::close_from(3);
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return KILLED };
    if (0..3).any(|number| sys::dup_to(null.as_fd(), number).is_err()) {
        return KILLED;
    }
    let request = WaitProcessRequest { container_id: entry.saved.id.clone(), exec_id: exec_id.into() };
    match runtime::container::connect(entry).map(|agent| agent.call(&request)) {
        Ok(Ok(exit)) => exit.shell_status(),
        _ => KILLED,
    }
}
