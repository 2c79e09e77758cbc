//! Terminals for containers whose engine holds the other end: a pty of the host as the wire, its master sent to the console socket.
//!
//! The container's own terminal is the sentry's. The host's pty only carries bytes, so it is raw; its size is what the engine sets on it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use agent_api::WindowSize;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::error::{Doing, Result};
use crate::sandbox::HostStdio;

/// A pty of the host.
#[derive(Debug)]
pub struct Console {
    master: OwnedFd,
    name: CString,
    /// The end for the sandbox.
    wire: File,
}

impl Console {
    /// Opens a raw pty of that size (the host's default if it is zero).
    ///
    /// # Errors
    /// The host's.
    pub fn open(size: WindowSize) -> Result<Console> {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).doing(|| "cannot open a terminal")?;
        unlockpt(&master).doing(|| "cannot unlock the terminal")?;
        let name = ptsname(&master, Vec::new()).doing(|| "cannot name the terminal")?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let wire = rustix::fs::open(&name, flags, Mode::empty()).doing(|| "cannot open the terminal's other end")?;
        let mut settings = tcgetattr(&wire).doing(|| "cannot read the terminal's settings")?;
        settings.make_raw();
        tcsetattr(&wire, OptionalActions::Now, &settings).doing(|| "cannot make the terminal raw")?;
        if size.rows != 0 && size.columns != 0 {
            let size = Winsize { ws_row: size.rows as u16, ws_col: size.columns as u16, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&wire, size).doing(|| "cannot set the terminal's size")?;
        }
        Ok(Console { master, name, wire: wire.into() })
    }

    /// Its end for the sandbox, as a process's standard streams.
    pub fn as_host(&self) -> HostStdio<'_> {
        let wire = Some(self.wire.as_fd());
        HostStdio { stdin: wire, stdout: wire, stderr: None }
    }

    /// The engine's end.
    pub fn into_master(self) -> OwnedFd {
        self.master
    }

    /// Sends the master, with the terminal's name, to whoever listens on `socket`.
    ///
    /// # Errors
    /// The host's.
    pub fn send_master(&self, socket: &Path) -> Result<()> {
        let connection =
            UnixStream::connect(socket).doing(|| format!("cannot connect to the console socket {}", socket.display()))?;
        agent_api::fds::send(connection.as_fd(), self.name.as_bytes(), &[self.master.as_fd()])
            .map(drop)
            .doing(|| "cannot send the terminal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_master_arrives() {
        let path = std::env::temp_dir().join(format!("nacre-console-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bind");
        let console = Console::open(WindowSize { rows: 24, columns: 80, ..Default::default() }).expect("pty");
        console.send_master(&path).expect("send");
        let (connection, _) = listener.accept().expect("accept");
        let (mut name, mut fds) = ([0; 64], Vec::new());
        let n = agent_api::fds::receive(connection.as_fd(), &mut name, &mut fds).expect("receive");
        assert!(name[..n].starts_with(b"/dev/pts/"));
        let size = rustix::termios::tcgetwinsize(fds.first().expect("master")).expect("size");
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        std::fs::remove_file(&path).expect("clean up");
    }
}
