//! Devices that come and go while the machine runs, each in a PCIe root port of its own.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::devices::{self, Back};
use super::driver::{Qemu, malformed};
use super::refused;
use crate::{Device, Error, Result};

/// Where QEMU keeps what has a name.
const NAMED: &str = "/machine/peripheral";

/// What stands behind front ends of some drivers, and how it is taken away: a command, its argument, and what its name has before the front end's.
struct Taken {
    drivers: &'static [&'static str],
    command: &'static str,
    argument: &'static str,
    prefix: &'static str,
}

const BACKS: [Taken; 4] = [
    Taken { drivers: &["virtio-blk-pci"], command: "blockdev-del", argument: "node-name", prefix: "b-" },
    Taken { drivers: &["virtio-net-pci"], command: "netdev_del", argument: "id", prefix: "n-" },
    Taken { drivers: &["vhost-user-fs-pci", "vhost-user-vsock-pci"], command: "chardev-remove", argument: "id", prefix: "c-" },
    Taken { drivers: &["virtio-pmem-pci"], command: "object-del", argument: "id", prefix: "m-" },
];

impl Qemu {
    pub(super) fn plug(&self, id: &str, device: &Device) -> Result<()> {
        let parts = devices::parts(id, device)?;
        let port = self.free_port(id)?;
        if let Some(back) = &parts.back {
            self.add_back(id, back)?;
        }
        let mut front = parts.front;
        let driver = front.get("driver").and_then(Value::as_str).unwrap_or_default().to_string();
        front.insert("bus".into(), json!(port));
        self.command("device_add", Value::Object(front)).inspect_err(|_| {
            let _ = self.remove_back(id, &driver);
        })?;
        Ok(())
    }

    pub(super) fn unplug(&self, id: &str, timeout: Duration) -> Result<()> {
        let Some((_, driver)) = self.named()?.into_iter().find(|(name, _)| name == id) else {
            return self.finish_unplug(id);
        };
        let cursor = self.qmp.events_end();
        match self.command("device_del", json!({"id": id})) {
            // "Device %s is already in the process of unplug": an earlier call gave up waiting; this one waits on.
            Err(Error::Refused { message, .. }) if message.contains("already in the process of unplug") => {}
            other => drop(other?),
        }
        self.wait_deleted(id, cursor, timeout)?;
        self.remove_back(id, &driver)
    }

    /// The guest has let a device go after somebody gave up waiting: what stood behind it is there still.
    fn finish_unplug(&self, id: &str) -> Result<()> {
        for back in &BACKS {
            match self.take_away(id, back) {
                // There is no such thing of this name.
                Err(Error::Refused { .. }) => {}
                other => return other,
            }
        }
        Err(refused("device_del", format!("there is no device {id}")))
    }

    fn add_back(&self, id: &str, back: &Back<'_>) -> Result<()> {
        match back {
            Back::Chardev { id, fd } => self.give_fds(&[(id.clone(), *fd)], || {
                let socket = json!({"addr": {"type": "fd", "data": {"str": id}}, "server": false});
                self.command("chardev-add", json!({"id": id, "backend": {"type": "socket", "data": socket}}))
            }),
            Back::Net { id, taps, vhost } => {
                let named = |fds: &[BorrowedFd<'_>], letter| -> Vec<String> {
                    (0..fds.len()).map(|queue| format!("{id}-{letter}{queue}")).collect()
                };
                let (tap_names, vhost_names) = (named(taps, 't'), named(vhost, 'v'));
                let netdev = devices::netdev(id, &tap_names, &vhost_names);
                let names = tap_names.into_iter().chain(vhost_names);
                let fds: Vec<_> = names.zip(taps.iter().chain(vhost).copied()).collect();
                self.give_fds(&fds, || self.command("netdev_add", netdev))
            }
            Back::Block { id: node, fd, access, driver } => {
                let (set, _) = self.add_fd(id, fd)?;
                self.command("blockdev-add", devices::block_node(node, driver, *access, set))
                    .inspect_err(|_| drop(self.remove_fds(id)))
            }
            Back::Memory { id: object, fd, size, access } => {
                let (_, number) = self.add_fd(id, fd)?;
                self.command("object-add", devices::memory_file(object, number, *size, *access))
                    .inspect_err(|_| drop(self.remove_fds(id)))
            }
        }
        .map(drop)
    }

    /// Takes away what stood behind the device `id`, whose front end was of the kind `driver`.
    fn remove_back(&self, id: &str, driver: &str) -> Result<()> {
        BACKS.iter().find(|back| back.drivers.contains(&driver)).map_or(Ok(()), |back| self.take_away(id, back))
    }

    fn take_away(&self, id: &str, back: &Taken) -> Result<()> {
        self.command(back.command, json!({back.argument: format!("{}{id}", back.prefix)}))?;
        self.remove_fds(id)
    }

    /// All devices with a name, and their drivers.
    fn named(&self) -> Result<Vec<(String, String)>> {
        let list = self.command("qom-list", json!({"path": NAMED}))?;
        let entry = |entry: &Value| {
            let name = entry.get("name")?.as_str()?;
            let driver = entry.get("type")?.as_str()?.strip_prefix("child<")?.strip_suffix('>')?;
            Some((name.to_string(), driver.to_string()))
        };
        Ok(list.as_array().ok_or_else(|| malformed("qom-list", &list))?.iter().filter_map(entry).collect())
    }

    fn free_port(&self, id: &str) -> Result<String> {
        let named = self.named()?;
        if named.iter().any(|(name, _)| name == id) {
            return Err(refused("device_add", format!("there is a device {id} already")));
        }
        let (ports, others): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, driver)| driver == "pcie-root-port");
        let mut taken = Vec::new();
        for (name, _) in others {
            // As /machine/peripheral/port0/port0: a port's bus has the port's name.
            let bus = self.qom_get(&format!("{NAMED}/{name}"), "parent_bus")?;
            taken.extend(bus.as_str().and_then(|path| path.rsplit('/').next()).map(str::to_string));
        }
        let slots = ports.len();
        let mut free = ports.into_iter().map(|(name, _)| name).filter(|name| !taken.contains(name));
        free.next().ok_or_else(|| Error::NoSlot { id: id.into(), slots })
    }
}
