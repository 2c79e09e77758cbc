//! Images and disks of containers, as devices of the VM.
//!
//! An EROFS image whose size a memory device can have, and which the VMM's user may open again, is one: pods share the host's page cache and the guest
//! keeps no copy. Everything else is a disk, and so is an image that the VM has no room for any more. An image is plugged in once however many containers
//! have it.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agent_api::{Code, Status, vm};
use rustix::fs::{FileType, Mode, Stat, fstat};
use serde::{Deserialize, Serialize};
use vmm::{Access, Device, Vmm};

/// How long the guest may take to let a disk go.
const UNPLUG: Duration = Duration::from_secs(5);

/// What containers do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    Read,
    /// A file system on it is written to: one container's only.
    Write,
    /// It is written to as a block device: the containers that have it know what they do.
    WriteTogether,
}

impl Hold {
    fn access(self) -> Access {
        match self {
            Hold::Read => Access::Read,
            Hold::Write | Hold::WriteTogether => Access::Write,
        }
    }
}

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    /// Device and inode.
    Regular(u64, u64),
    /// Its own number, whichever node it was opened by.
    BlockDevice(u64),
}

/// What the VM has.
#[derive(Debug, Default)]
pub struct Drives {
    list: Vec<Drive>,
    pmems: u32,
    disks: u32,
}

#[derive(Debug)]
struct Drive {
    file: File,
    hold: Hold,
    /// As the agent knows it.
    number: u32,
    id: String,
    /// Those that have it.
    containers: Vec<String>,
}

impl File {
    fn of(stat: &Stat) -> File {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => File::BlockDevice(stat.st_rdev),
            _ => File::Regular(stat.st_dev, stat.st_ino),
        }
    }
}

impl Drive {
    /// Whether nobody has it and it can leave. (A memory device cannot.)
    fn is_free(&self) -> bool {
        self.containers.is_empty() && self.number & vm::DISK != 0
    }
}

fn status_of(file: &OwnedFd) -> Result<Stat, Status> {
    fstat(file).map_err(|errno| Status::new(Code::Internal, format!("an image's fstat: {errno}")))
}

/// A device that is not there yet.
#[derive(Debug)]
pub struct NewDevice {
    pub id: String,
    pub device: Device,
}

impl Drives {
    /// A container is to have a file: its number, and the device that has to be plugged in for it.
    ///
    /// # Errors
    /// It is no file that a VM could have; it is to be written to and is another container's already.
    pub fn take(&mut self, container: &str, file: OwnedFd, hold: Hold) -> Result<(u32, Option<NewDevice>), Status> {
        let stat = status_of(&file)?;
        let (kind, key) = (FileType::from_raw_mode(stat.st_mode), File::of(&stat));
        if self.leaving(key).is_some() {
            return Err(Status::new(Code::FailedPrecondition, "a disk that nobody has any more is in the VM still"));
        }
        if let Some(drive) = self.list.iter_mut().find(|drive| drive.file == key) {
            let is_theirs = drive.containers.iter().any(|other| other == container);
            if hold != drive.hold || (hold == Hold::Write && !is_theirs) {
                let why = "a disk that is written to can be one container's only, or a block device of all that have it";
                return Err(Status::new(Code::FailedPrecondition, why));
            }
            if !is_theirs {
                drive.containers.push(container.into());
            }
            return Ok((drive.number, None));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let readable = Mode::from_raw_mode(stat.st_mode).contains(Mode::ROTH);
        let mappable = kind.is_file() && readable && size > 0 && size.is_multiple_of(vmm::qemu::PMEM_ALIGN);
        let access = hold.access();
        let (number, new) = match access {
            Access::Read if mappable => {
                self.pmems += 1;
                let number = self.pmems - 1;
                (number, NewDevice { id: format!("image-{number}"), device: Device::Pmem { image: file, size, access } })
            }
            _ => self.disk(file, access),
        };
        self.list.push(Drive { file: key, hold, number, id: new.id.clone(), containers: vec![container.into()] });
        Ok((number, Some(new)))
    }

    /// The device of a file that no container has any more, if it can leave.
    fn leaving(&self, file: File) -> Option<String> {
        self.list.iter().find(|drive| drive.file == file && drive.is_free()).map(|drive| drive.id.clone())
    }

    fn disk(&mut self, image: OwnedFd, access: Access) -> (u32, NewDevice) {
        self.disks += 1;
        let number = self.disks - 1;
        (number | vm::DISK, NewDevice { id: vm::disk_serial(number), device: Device::Block { image, access } })
    }

    /// The VM does not take the memory device that was taken last: the image becomes a disk.
    fn as_disk(&mut self, id: &str, image: OwnedFd) -> (u32, NewDevice) {
        // The guest counts its memory devices too.
        self.pmems -= 1;
        let (number, new) = self.disk(image, Access::Read);
        if let Some(drive) = self.list.iter_mut().find(|drive| drive.id == id) {
            (drive.number, drive.id) = (number, new.id.clone());
        }
        (number, new)
    }

    /// A container has gone: the disks that nobody has now, to be taken out.
    fn release(&mut self, container: &str) -> Vec<String> {
        for drive in &mut self.list {
            drive.containers.retain(|other| other != container);
        }
        self.list.iter().filter(|drive| drive.is_free()).map(|drive| drive.id.clone()).collect()
    }

    /// It never was in the VM.
    fn take_back(&mut self, id: &str, number: u32) {
        self.forget(id);
        if number & vm::DISK == 0 {
            self.pmems -= 1;
        }
    }

    /// It is out of the VM.
    fn forget(&mut self, id: &str) {
        self.list.retain(|drive| drive.id != id);
    }
}

/// Plugs in what containers bring.
pub struct Plugs {
    vmm: std::sync::Arc<dyn Vmm>,
    drives: Mutex<Drives>,
}

impl Plugs {
    /// `drives` are there already.
    pub fn new(vmm: std::sync::Arc<dyn Vmm>, drives: Drives) -> Plugs {
        Plugs { vmm, drives: Mutex::new(drives) }
    }

    /// The numbers of a container's files, which are in the VM then.
    ///
    /// # Errors
    /// One cannot be plugged in.
    pub fn plug(&self, container: &str, files: Vec<(OwnedFd, Hold)>) -> Result<Vec<u32>, Status> {
        let mut drives = self.drives.lock().unwrap_or_else(PoisonError::into_inner);
        files.into_iter().map(|(file, hold)| self.plug_one(&mut drives, container, file, hold)).collect()
    }

    fn plug_one(&self, drives: &mut Drives, container: &str, file: OwnedFd, hold: Hold) -> Result<u32, Status> {
        if let Some(id) = drives.leaving(File::of(&status_of(&file)?)) {
            // The guest did not let it go in time when its last container went: it has its old number and its old access.
            self.vmm.remove_device(&id, UNPLUG).map_err(|error| {
                Status::new(Code::FailedPrecondition, format!("a disk that nobody has any more does not leave the VM: {error}"))
            })?;
            drives.forget(&id);
        }
        let (mut number, new) = drives.take(container, file, hold)?;
        let Some(NewDevice { mut id, device }) = new else { return Ok(number) };
        let spare = match &device {
            Device::Pmem { image, .. } => rustix::io::fcntl_dupfd_cloexec(image, 0).ok(),
            _ => None,
        };
        let mut added = self.vmm.add_device(&id, device);
        let mut before = String::new();
        if let (Err(error @ vmm::Error::Refused { .. }), Some(image)) = (&added, spare) {
            // For want of room, most likely; whatever it is, as a disk it may go.
            tracing::warn!(%error, "the VM does not take an image as memory: it becomes a disk");
            before = format!(" (and not as memory: {error})");
            let new = drives.as_disk(&id, image);
            (number, id) = (new.0, new.1.id);
            added = self.vmm.add_device(&id, new.1.device);
        }
        match added {
            Ok(()) => Ok(number),
            Err(error) => {
                drives.take_back(&id, number);
                let what = format!("the VM cannot be given an image or disk: {error}{before}");
                Err(Status::new(Code::ResourceExhausted, what))
            }
        }
    }

    /// Takes out what only this container had.
    pub fn release(&self, container: &str) {
        let mut drives = self.drives.lock().unwrap_or_else(PoisonError::into_inner);
        for id in drives.release(container) {
            match self.vmm.remove_device(&id, UNPLUG) {
                Ok(()) => drives.forget(&id),
                // Nobody else may write to it; the next time it is tried again.
                Err(error) => tracing::warn!(%error, id, "a disk stays in the VM"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file(size: u64) -> OwnedFd {
        let file = memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        file
    }

    #[test]
    fn an_image_is_one_device_for_all() {
        let mut drives = Drives::default();
        let image = file(vmm::qemu::PMEM_ALIGN);
        let copy = || rustix::io::fcntl_dupfd_cloexec(&image, 0).unwrap();
        let (first, new) = drives.take("a", copy(), Hold::Read).unwrap();
        assert!(matches!(new, Some(NewDevice { device: Device::Pmem { .. }, .. })), "{new:?}");
        assert!(matches!(drives.take("b", copy(), Hold::Read).unwrap(), (number, None) if number == first));
        let (odd, new) = drives.take("b", file(4096), Hold::Read).unwrap();
        assert!(matches!(new, Some(NewDevice { device: Device::Block { .. }, .. })), "{new:?}");
        assert_eq!((first, odd), (0, vm::DISK));
        assert_eq!(drives.release("a"), Vec::<String>::new());
        assert_eq!(drives.release("b"), ["disk-0"]);
    }

    #[test]
    fn what_is_written_to_is_nobody_elses() {
        let mut drives = Drives::default();
        let disk = file(1 << 20);
        let copy = || rustix::io::fcntl_dupfd_cloexec(&disk, 0).unwrap();
        drives.take("a", copy(), Hold::Write).unwrap();
        assert!(drives.take("b", copy(), Hold::Read).is_err());
        let free = drives.release("a");
        assert!(drives.take("b", copy(), Hold::Read).is_err(), "it is in the VM still");
        free.iter().for_each(|id| drives.forget(id));
        // A number is not used again: the guest may still know the old one.
        assert_eq!(drives.take("b", copy(), Hold::Read).unwrap().0, vm::DISK | 1);
    }

    #[test]
    fn a_block_device_is_of_all_that_have_it_alike() {
        let mut drives = Drives::default();
        let disk = file(1 << 20);
        let copy = || rustix::io::fcntl_dupfd_cloexec(&disk, 0).unwrap();
        let (number, new) = drives.take("a", copy(), Hold::WriteTogether).unwrap();
        assert!(matches!(new, Some(NewDevice { device: Device::Block { access: Access::Write, .. }, .. })), "{new:?}");
        assert!(matches!(drives.take("b", copy(), Hold::WriteTogether).unwrap(), (same, None) if same == number));
        for other in [Hold::Read, Hold::Write] {
            assert!(drives.take("c", copy(), other).is_err(), "{other:?}");
        }
        assert_eq!(drives.release("a"), Vec::<String>::new());
        assert_eq!(drives.release("b"), ["disk-0"]);
    }
}
