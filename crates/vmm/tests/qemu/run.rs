//! Runs a command line as the runtime would, only unconfined.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use vmm::qemu::{Qemu, command_line};
use vmm::{Machine, Vmm};

pub struct Running {
    pub qemu: Qemu,
    child: Child,
}

/// Starts `machine` and attaches to it.
pub fn start(machine: &Machine) -> Running {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let theirs = OwnedFd::from(theirs);
    let line = command_line(machine, std::os::fd::AsFd::as_fd(&theirs)).expect("a command line");
    let mut command = Command::new(&line.program);
    command.args(&line.args).stdin(Stdio::null()).stderr(Stdio::piped());
    let inherited: Vec<(i32, i32)> = line.inherited.iter().map(|i| (i.fd.as_raw_fd(), i.number)).collect();
    // SAFETY: between fork and exec it makes the system calls dup2 and fcntl only, on descriptors that are open.
    unsafe {
        command.pre_exec(move || {
            // First out of the way of all numbers to be given.
            for (n, (from, _)) in inherited.iter().enumerate() {
                let high = 200 + n as i32;
                if libc::dup3(*from, high, libc::O_CLOEXEC) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            for (n, (_, number)) in inherited.iter().enumerate() {
                if libc::dup2(200 + n as i32, *number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let mut child = command.spawn().expect("QEMU");
    drop(command);
    drop(theirs);
    match Qemu::attach(ours, Duration::from_secs(30)) {
        Ok(qemu) => Running { qemu, child },
        Err(e) => {
            let _ = child.kill();
            let mut said = String::new();
            let _ = child.stderr.take().expect("stderr").read_to_string(&mut said);
            panic!("{e}; QEMU said: {said}");
        }
    }
}

impl Running {
    /// Waits for QEMU's own end: its exit status and what it said on stderr.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        (self.child.wait().expect("its status"), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.qemu.stop();
        let _ = self.child.kill();
        if std::thread::panicking() {
            eprintln!("QEMU: {:?}", self.wait());
        }
        let _ = self.child.wait();
    }
}
