//! The running QEMU: [`Vmm`] over QMP. Nothing about the machine is remembered here; QEMU is asked, so that a new process can attach to an old machine.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::qmp::{Client, QmpEvent};
use super::{DRIVER, refused};
use crate::{Device, Error, Event, Features, Result, Status, Vmm};

/// How long QEMU may take to answer a command. Its main loop is shared with its emulation of devices.
const ANSWER: Duration = Duration::from_secs(10);

/// A QEMU that was started with [`command_line`](super::command_line).
pub struct Qemu {
    pub(super) qmp: Client,
    /// How far [`Vmm::next_event`] has read. Not held together with a lock of `qmp`'s by anyone else.
    seen: Mutex<u64>,
    /// Plugging and resizing are several commands each: one at a time.
    pub(super) plugging: Mutex<()>,
    features: Features,
}

impl Qemu {
    /// Takes over the QEMU at the other end of `qmp`.
    ///
    /// # Errors
    /// [`Error::Ended`] if it has ended (its stderr says why), [`Error::Timeout`], [`Error::Protocol`].
    pub fn attach(qmp: UnixStream, timeout: Duration) -> Result<Qemu> {
        let qmp = Client::new(qmp, timeout)?;
        let kvm = qmp.command("query-kvm", json!({}), timeout)?;
        let mut features = Features::all();
        // An emulated CPU that is taken away leaves QEMU 7.2's heap corrupt: it aborts a little later.
        features.set(Features::CPU_UNPLUG, kvm.get("enabled") == Some(&Value::Bool(true)));
        Ok(Qemu { qmp, seen: Mutex::new(0), plugging: Mutex::new(()), features })
    }

    pub(super) fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        self.qmp.command(name, arguments, ANSWER)
    }
}

impl Vmm for Qemu {
    fn features(&self) -> Features {
        self.features
    }

    fn boot(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut cursor = self.qmp.events_end();
        loop {
            if self.status()? == Status::Running {
                return Ok(());
            }
            if self.qmp.event(&mut cursor, deadline, |event| (event.name == "RESUME").then_some(()))?.is_none() {
                return Err(Error::Timeout { what: "the machine's start".into(), waited: timeout });
            }
        }
    }

    fn add_device(&self, id: &str, device: Device) -> Result<()> {
        let _one = self.plugging.lock();
        self.plug(id, &device)
    }

    fn remove_device(&self, id: &str, timeout: Duration) -> Result<()> {
        let _one = self.plugging.lock();
        self.unplug(id, timeout)
    }

    fn resize_cpus(&self, count: u32, timeout: Duration) -> Result<u32> {
        let _one = self.plugging.lock();
        self.set_cpus(count, timeout)
    }

    fn resize_memory(&self, bytes: u64, timeout: Duration) -> Result<u64> {
        let _one = self.plugging.lock();
        self.set_memory(bytes, timeout)
    }

    fn pause(&self) -> Result<()> {
        self.command("stop", json!({})).map(drop)
    }

    fn resume(&self) -> Result<()> {
        self.command("cont", json!({})).map(drop)
    }

    fn stop(&self) -> Result<()> {
        match self.command("quit", json!({})) {
            Ok(_) => self.qmp.wait_ended(ANSWER),
            Err(Error::Ended) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn status(&self) -> Result<Status> {
        let answer = self.command("query-status", json!({}))?;
        let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
        Ok(match status {
            "running" => Status::Running,
            "paused" | "prelaunch" | "suspended" | "debug" | "save-vm" | "restore-vm" | "inmigrate" | "postmigrate"
            | "finish-migrate" | "colo" => Status::Paused,
            "shutdown" => Status::Shutdown,
            "guest-panicked" => Status::Panicked,
            "internal-error" | "io-error" | "watchdog" => Status::Failed,
            other => return Err(Error::Protocol { driver: DRIVER, what: format!("an unknown state {other:?}") }),
        })
    }

    fn next_event(&self, timeout: Duration) -> Option<Event> {
        let mut seen = self.seen.lock();
        self.qmp.event(&mut seen, Instant::now() + timeout, event).unwrap_or(Some(Event::Ended))
    }
}

/// Ours for one of QEMU's; None for what is none of anybody's business.
fn event(event: &QmpEvent) -> Option<Event> {
    Some(match event.name.as_str() {
        "SHUTDOWN" => match event.text("reason") {
            "guest-reset" => Event::Reset,
            "guest-panic" => Event::Panicked,
            "guest-shutdown" => Event::Shutdown,
            _ => return None, // asked for by us
        },
        "RESET" => Event::Reset,
        "GUEST_PANICKED" => Event::Panicked,
        // Parts of devices have no name; a CPU has, but is none of those that were added by one.
        "DEVICE_DELETED" => match event.text("device") {
            "" => return None,
            cpu if cpu.starts_with("cpu-") => return None,
            device => Event::DeviceRemoved(device.into()),
        },
        "BLOCK_IO_ERROR" => {
            let node = event.text("node-name");
            Event::DeviceFailed(node.strip_prefix("b-").unwrap_or(node).into())
        }
        _ => return None,
    })
}

/// What [`Vmm`]'s methods find missing in an answer.
pub(super) fn malformed(command: &str, answer: &Value) -> Error {
    let mut text = answer.to_string();
    text.truncate(text.floor_char_boundary(200));
    Error::Protocol { driver: DRIVER, what: format!("{command} answered {text}") }
}

impl Qemu {
    /// Gives QEMU descriptors under names, for a command that takes them over; one that fails leaves none there.
    pub(super) fn give_fds<T>(&self, fds: &[(String, BorrowedFd<'_>)], then: impl FnOnce() -> Result<T>) -> Result<T> {
        let give = |(name, fd): &(String, BorrowedFd<'_>)| {
            self.qmp.command_with("getfd", json!({"fdname": name}), &[*fd], ANSWER).map(drop)
        };
        let outcome = fds.iter().try_for_each(give).and_then(|()| then());
        if outcome.is_err() {
            for (name, _) in fds {
                let _ = self.command("closefd", json!({"fdname": name}));
            }
        }
        outcome
    }

    /// A descriptor as an fd set marked with `owner`: the set's number and the descriptor's in QEMU.
    pub(super) fn add_fd(&self, owner: &str, fd: impl AsFd) -> Result<(i64, i64)> {
        let answer = self.qmp.command_with("add-fd", json!({"opaque": owner}), &[fd.as_fd()], ANSWER)?;
        let number = |key| answer.get(key).and_then(Value::as_i64);
        match (number("fdset-id"), number("fd")) {
            (Some(set), Some(fd)) => Ok((set, fd)),
            _ => Err(malformed("add-fd", &answer)),
        }
    }

    /// Closes the fd sets marked with `owner`.
    pub(super) fn remove_fds(&self, owner: &str) -> Result<()> {
        let sets = self.command("query-fdsets", json!({}))?;
        for set in sets.as_array().ok_or_else(|| malformed("query-fdsets", &sets))? {
            let mut fds = set.get("fds").and_then(Value::as_array).into_iter().flatten();
            if fds.any(|fd| fd.get("opaque").and_then(Value::as_str) == Some(owner)) {
                self.command("remove-fd", json!({"fdset-id": set["fdset-id"]}))?;
            }
        }
        Ok(())
    }

    pub(super) fn qom_get(&self, path: &str, property: &str) -> Result<Value> {
        self.command("qom-get", json!({"path": path, "property": property}))
    }

    /// Waits until the guest let the device `id` go.
    pub(super) fn wait_deleted(&self, id: &str, mut cursor: u64, timeout: Duration) -> Result<()> {
        let gone = self.qmp.event(&mut cursor, Instant::now() + timeout, |event| match event.name.as_str() {
            "DEVICE_DELETED" if event.text("device") == id => Some(true),
            "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR" if event.text("device") == id => Some(false),
            _ => None,
        })?;
        match gone {
            Some(true) => Ok(()),
            Some(false) => Err(refused("device_del", format!("the guest keeps {id}"))),
            None => Err(Error::Timeout { what: format!("the guest's leave for {id} to go"), waited: timeout }),
        }
    }
}
