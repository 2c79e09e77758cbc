//! Landlock for a sandbox's processes.

use std::os::fd::BorrowedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Network;

/// What may still be done with the files below a directory.
pub type Allowed<'a> = (BorrowedFd<'a>, BitFlags<AccessFs>);

/// No file of the host may be opened or made any more by this process and its children to come, but what is `allowed`; no TCP port used (unless the
/// network is the host's), no abstract socket outside reached. As far as the kernel knows of it: of files what is cut since Linux 6.2 and devices' ioctls
/// since 6.10, of TCP since 6.7, of abstract sockets since 6.12.
///
/// # Errors
/// The host has no Landlock.
pub fn landlock(network: &Network, allowed: &[Allowed<'_>]) -> Result<(), String> {
    enforce(|| {
        let files = Ruleset::default().handle_access(AccessFs::from_all(ABI::V6))?;
        let handled = match network {
            Network::Host => files,
            Network::None | Network::Namespace(_) => files.handle_access(AccessNet::from_all(ABI::V6))?,
        };
        // Not Scope::Signal: children were made before, and must be killed.
        let mut rules = handled.scope(Scope::AbstractUnixSocket)?.create()?;
        for (directory, rights) in allowed {
            rules = rules.add_rule(PathBeneath::new(directory, *rights))?;
        }
        Ok(rules)
    })
}

/// For the calling thread and those it makes: no TCP (since Linux 6.7), no abstract socket and no signal outside (6.12). Files are as before: of a process
/// whose trees change, a ruleset would have to be made anew, which Landlock has not. An older kernel knows none of this and does nothing; the others'
/// rulesets are what fails where there is no Landlock at all. What is missing is told, for the log.
///
/// # Errors
/// The host's.
pub fn landlock_but_files() -> Result<Option<&'static str>, String> {
    let confine = || {
        Ruleset::default()
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .restrict_self()
    };
    match confine().map_err(|e: RulesetError| not_set_up(&e))?.ruleset {
        RulesetStatus::FullyEnforced => Ok(None),
        RulesetStatus::PartiallyEnforced => {
            Ok(Some("the host's kernel has no Landlock for signals and abstract sockets (Linux 6.12)"))
        }
        RulesetStatus::NotEnforced => {
            Ok(Some("the host's kernel has no Landlock for TCP (Linux 6.7), signals and abstract sockets (6.12)"))
        }
    }
}

/// For a VMM, from before it is executed: it may execute what is below `programs`, and list the directories there and in /proc; `device` is all that it may
/// open to write. Nothing is made, removed, renamed or cut (since Linux 6.2); no TCP (6.7), no ioctl of another device (6.10), no abstract socket and no signal outside
/// (6.12).
///
/// Opening files to read is not handled. A VMM opens the kernel, and images that it is given while it runs, by the names of their descriptors in /proc,
/// and Landlock judges what such a name leads to: a file that is below no directory of this process, and later ones that no rule can know. What there is
/// to be read is bounded by its root.
///
/// # Errors
/// The host has no Landlock; a directory cannot be opened.
pub fn landlock_vmm(programs: &[impl AsRef<Path>], device: Option<&Path>) -> Result<(), String> {
    enforce(|| {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6) & !BitFlags::from(AccessFs::ReadFile))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?;
        for directory in programs {
            rules = rules.add_rule(PathBeneath::new(PathFd::new(directory)?, AccessFs::Execute | AccessFs::ReadDir))?;
        }
        rules = rules.add_rule(PathBeneath::new(PathFd::new("/proc")?, AccessFs::ReadDir))?;
        if let Some(device) = device {
            rules = rules.add_rule(PathBeneath::new(PathFd::new(device)?, AccessFs::WriteFile | AccessFs::IoctlDev))?;
        }
        Ok(rules)
    })
}

/// What may be wrong with rules.
#[derive(Debug, thiserror::Error)]
enum RulesError {
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    #[error(transparent)]
    Path(#[from] PathFdError),
}

fn enforce(rules: impl FnOnce() -> Result<RulesetCreated, RulesError>) -> Result<(), String> {
    let confine = || Ok::<_, RulesError>(rules()?.restrict_self()?);
    match confine() {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the host kernel has no Landlock, or it is off (boot parameter lsm=)".into())
        }
        Ok(_) => Ok(()),
        Err(e) => Err(not_set_up(&e)),
    }
}

fn not_set_up(error: &dyn std::fmt::Display) -> String {
    format!("cannot set up Landlock: {error}")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::{Child, Command};

    use landlock::LandlockStatus;
    use rustix::process::{Pid, test_kill_process};

    use super::*;

    /// What is outside of a ruleset.
    struct Outside {
        tcp: TcpListener,
        name: SocketAddr,
        _abstract: UnixListener,
        child: Child,
    }

    impl Outside {
        fn new(name: &str) -> Outside {
            let name = SocketAddr::from_abstract_name(format!("nacre-{name}-{}", std::process::id())).unwrap();
            Outside {
                tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
                _abstract: UnixListener::bind_addr(&name).unwrap(),
                name,
                child: Command::new("/bin/sleep").arg("100").spawn().unwrap(),
            }
        }

        /// Whether each can be reached: TCP, the abstract socket, the process.
        fn reached(&self) -> [bool; 3] {
            let pid = Pid::from_child(&self.child);
            [
                TcpStream::connect(self.tcp.local_addr().unwrap()).is_ok(),
                UnixStream::connect_addr(&self.name).is_ok(),
                test_kill_process(pid).is_ok(),
            ]
        }
    }

    impl Drop for Outside {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// What of [`Outside`] can still be reached by those who must not: older kernels know less.
    fn left() -> [bool; 3] {
        let mut abi = ABI::Unsupported;
        std::thread::scope(|scope| {
            let looks =
                || Ruleset::default().handle_access(AccessFs::MakeBlock).unwrap().create().unwrap().restrict_self().unwrap();
            if let LandlockStatus::Available { effective_abi, .. } = scope.spawn(looks).join().unwrap().landlock {
                abi = effective_abi;
            }
        });
        [abi < ABI::V4, abi < ABI::V6, abi < ABI::V6]
    }

    /// A ruleset holds for its thread alone.
    fn in_a_thread(run: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    }

    fn refused<T>(outcome: io::Result<T>) -> bool {
        matches!(outcome, Err(error) if error.kind() == ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_vmm_reads_and_executes_programs_and_no_more() {
        let (outside, left) = (Outside::new("vmm"), left());
        assert_eq!(outside.reached(), [true; 3]);
        let dir = std::env::temp_dir().join(format!("nacre-confine-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (image, device, copy) = (dir.join("image"), dir.join("device"), dir.join("program"));
        fs::write(&image, "of the image").unwrap();
        fs::write(&device, "").unwrap();
        fs::copy("/bin/true", &copy).unwrap();
        let given = File::open(&image).unwrap();
        in_a_thread(|| {
            landlock_vmm(&["/usr"], Some(&device)).unwrap();
            // An image is opened by its descriptor's name, to be read only.
            let name = format!("/proc/self/fd/{}", given.as_raw_fd());
            assert_eq!(fs::read_to_string(&name).unwrap(), "of the image");
            assert!(refused(File::options().write(true).open(&name)));
            assert!(File::options().write(true).open(&device).is_ok());
            assert!(Command::new("/usr/bin/true").status().unwrap().success() && refused(Command::new(&copy).status()));
            assert!(fs::read_dir("/usr/bin").is_ok() && refused(fs::read_dir(&dir)));
            assert!(refused(File::create(dir.join("new"))) && refused(fs::remove_file(&image)));
            assert!(refused(fs::rename(&image, dir.join("other"))) && refused(fs::create_dir(dir.join("sub"))));
            assert_eq!(outside.reached(), left);
        });
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn files_can_be_left_out() {
        let (outside, left) = (Outside::new("files"), left());
        in_a_thread(|| {
            assert_eq!(landlock_but_files().unwrap().is_none(), left == [false; 3]);
            assert!(fs::read_dir("/").is_ok() && File::options().write(true).open("/dev/null").is_ok());
            assert_eq!(outside.reached(), left);
        });
    }
}
