//! QEMU's parts for each of our devices: a front end, the same on the command line and over QMP, and what stands behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, fstat, ioctl_blksszget};
use serde_json::{Map, Value, json};

use super::DRIVER;
use crate::{Access, Device, Error, Result, VIRTIO_FS_QUEUE};

/// The host's side of a device. Each is named after its device, with a letter before it.
pub(super) enum Back<'a> {
    /// A chardev on a connected socket, for vhost-user.
    Chardev {
        id: String,
        fd: BorrowedFd<'a>,
    },
    /// A block node without format; `driver` is QEMU's for the descriptor's kind of file.
    Block {
        id: String,
        fd: BorrowedFd<'a>,
        access: Access,
        driver: &'static str,
    },
    /// A memory object on a file.
    Memory {
        id: String,
        fd: BorrowedFd<'a>,
        size: u64,
        access: Access,
    },
    Net {
        id: String,
        taps: Vec<BorrowedFd<'a>>,
        vhost: Vec<BorrowedFd<'a>>,
    },
}

pub(super) struct Parts<'a> {
    pub back: Option<Back<'a>>,
    /// `device_add`'s arguments, but for the bus.
    pub front: Map<String, Value>,
}

/// A device's parts.
///
/// # Errors
/// [`Error::BadName`]; [`Error::Refused`] for a size or a kind of file that QEMU would refuse late or without a reason.
pub(super) fn parts<'a>(id: &str, device: &'a Device) -> Result<Parts<'a>> {
    check_name(id)?;
    let (driver, back, more) = match device {
        Device::VirtioFs { tag, socket } => {
            let back = chardev(id, socket.as_fd());
            ("vhost-user-fs-pci", Some(back), json!({"chardev": format!("c-{id}"), "tag": tag, "queue-size": VIRTIO_FS_QUEUE}))
        }
        Device::Vsock { socket } => {
            ("vhost-user-vsock-pci", Some(chardev(id, socket.as_fd())), json!({"chardev": format!("c-{id}")}))
        }
        Device::Pmem { image, size, access } => {
            if *size == 0 || !size.is_multiple_of(super::PMEM_ALIGN) {
                let message = format!("{id}: a pmem image of {size} bytes is not a multiple of {}", super::PMEM_ALIGN);
                return Err(refused("virtio-pmem-pci", message));
            }
            let back = Back::Memory { id: format!("m-{id}"), fd: image.as_fd(), size: *size, access: *access };
            ("virtio-pmem-pci", Some(back), json!({"memdev": format!("m-{id}")}))
        }
        Device::Block { image, access } => {
            let driver = block_driver(id, image.as_fd())?;
            let back = Back::Block { id: format!("b-{id}"), fd: image.as_fd(), access: *access, driver };
            let serial = id.get(..20).unwrap_or(id);
            // A host that has no room left is the guest's disk that has none: QEMU would stop the whole machine, and nobody would start it again.
            let mut front = json!({"drive": format!("b-{id}"), "serial": serial, "werror": "report", "rerror": "report"});
            if let (Value::Object(front), Some(bytes)) = (&mut front, sector(image.as_fd())) {
                front.extend(["logical_block_size", "physical_block_size"].map(|key| (key.into(), json!(bytes))));
            }
            ("virtio-blk-pci", Some(back), front)
        }
        Device::Net { taps, vhost, mac } => {
            let (queues, fds) = (taps.len(), |list: &'a [OwnedFd]| list.iter().map(AsFd::as_fd).collect());
            if queues == 0 || !(vhost.is_empty() || vhost.len() == queues) {
                let message = format!("{id}: {queues} queues of a tap, and {} of vhost-net", vhost.len());
                return Err(refused("netdev_add", message));
            }
            let back = Back::Net { id: format!("n-{id}"), taps: fds(taps), vhost: fds(vhost) };
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            // No ROM to boot from: it would be looked for in a file.
            let mut front = json!({"netdev": format!("n-{id}"), "mac": mac, "romfile": ""});
            if let (Value::Object(front), true) = (&mut front, queues > 1) {
                // An interrupt for each queue, for the control queue, and for changes of the configuration.
                front.extend([("mq".into(), json!(true)), ("vectors".into(), json!(2 * queues + 2))]);
            }
            ("virtio-net-pci", Some(back), front)
        }
        Device::Balloon => ("virtio-balloon-pci", None, json!({"free-page-reporting": true})),
        Device::Rng => ("virtio-rng-pci", None, json!({})),
    };
    let mut front = Map::from_iter([("driver".into(), json!(driver)), ("id".into(), json!(id))]);
    if let Value::Object(more) = more {
        front.extend(more);
    }
    Ok(Parts { back, front })
}

fn chardev<'a>(id: &str, fd: BorrowedFd<'a>) -> Back<'a> {
    Back::Chardev { id: format!("c-{id}"), fd }
}

pub(super) fn refused(command: &str, message: String) -> Error {
    Error::Refused { driver: DRIVER, command: command.into(), message }
}

fn check_name(id: &str) -> Result<()> {
    let letters = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let reserved = id.starts_with("port") || id.starts_with("cpu-") || id == super::RESIZABLE;
    if !letters || reserved || id.len() > 32 || !id.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(Error::BadName(id.into()));
    }
    Ok(())
}

/// QEMU's `file` takes regular files only, `host_device` block devices only.
fn block_driver(id: &str, fd: BorrowedFd<'_>) -> Result<&'static str> {
    let stat = fstat(fd).map_err(|e| Error::Io { what: "a disk's fstat", source: e.into() })?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok("file"),
        FileType::BlockDevice => Ok("host_device"),
        other => Err(refused("blockdev-add", format!("{id} is neither a file nor a block device: {other:?}"))),
    }
}

/// Bytes of a block device's sectors, if they are not the 512 that a disk has if nothing is said: what counts in sectors on it (a partition table) is wrong otherwise.
fn sector(fd: BorrowedFd<'_>) -> Option<u32> {
    ioctl_blksszget(fd).ok().filter(|bytes| *bytes > 512)
}

/// `blockdev-add`'s arguments for a node on the fd set `set`.
pub(super) fn block_node(id: &str, driver: &str, access: Access, set: i64) -> Value {
    let read_only = access == Access::Read;
    json!({
        "driver": "raw", "node-name": id, "read-only": read_only, "discard": "unmap",
        "file": {"driver": driver, "filename": format!("/dev/fdset/{set}"), "read-only": read_only, "discard": "unmap"},
    })
}

/// `object-add`'s arguments for memory on the file that is descriptor `number` of QEMU's. Memory backends open a path, and know no fd set.
pub(super) fn memory_file(id: &str, number: i64, size: u64, access: Access) -> Value {
    json!({
        "qom-type": "memory-backend-file", "id": id, "mem-path": format!("/proc/self/fd/{number}"), "size": size, "share": true,
        "readonly": access == Access::Read,
    })
}

/// `object-add`'s arguments for memory of QEMU's own, which vhost-user backends can map.
pub(super) fn memory_own(id: &str, size: u64) -> Value {
    json!({"qom-type": "memory-backend-memfd", "id": id, "size": size, "share": true})
}

/// `netdev_add`'s arguments; descriptors are numbers or names given to `getfd`.
pub(super) fn netdev(id: &str, taps: &[String], vhost: &[String]) -> Value {
    let mut netdev = json!({"type": "tap", "id": id, "vhost": !vhost.is_empty()});
    if let Value::Object(netdev) = &mut netdev {
        for (fds, one, several) in [(taps, "fd", "fds"), (vhost, "vhostfd", "vhostfds")] {
            match fds {
                [] => None,
                [fd] => netdev.insert(one.into(), json!(fd)),
                fds => netdev.insert(several.into(), json!(fds.join(":"))),
            };
        }
    }
    netdev
}
