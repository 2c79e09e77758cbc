//! Disks of containers: what is opened on the host for a VM to have.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use keeper::Hold;
use rustix::fs::{FileType, Mode, OFlags, major, makedev, minor};

use crate::error::{Doing, Error, Result};

/// The kernel's list of block devices, by their numbers.
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// A disk of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where the configuration says so.
    pub key: String,
    pub source: DiskSource,
    pub wanted: Hold,
}

/// What of the host is a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A block device's node, or a file with the content of one.
    Path(PathBuf),
    /// The block device of this number, as a configuration names what a container is given.
    Device { major: u32, minor: u32 },
}

impl fmt::Display for DiskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskSource::Path(path) => write!(f, "the disk {}", path.display()),
            DiskSource::Device { major, minor } => write!(f, "the block device {major}:{minor}"),
        }
    }
}

impl Disk {
    /// Opens it for just what is done with it. A block device is opened by the host's own node for its number, whatever names it: QEMU's locks, which keep two
    /// VMs from writing to it at a time, are the node's.
    ///
    /// # Errors
    /// It is not there, or nothing that can be a disk; the host's.
    pub fn open(&self) -> Result<OwnedFd> {
        let (path, about) = match &self.source {
            DiskSource::Path(path) => (path.clone(), format!("cannot open {}", self.source)),
            DiskSource::Device { major, minor } => {
                let path = node(Path::new(BLOCK_DEVICES), *major, *minor)?;
                let about = format!("cannot open {} ({})", self.source, path.display());
                (path, about)
            }
        };
        let access = if self.wanted == Hold::Read { OFlags::RDONLY } else { OFlags::RDWR };
        let file = rustix::fs::open(&path, access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
        let file = file.doing(|| about.clone())?;
        let stat = rustix::fs::fstat(&file).doing(|| about.clone())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let problem = match self.source {
            DiskSource::Path(_) if kind.is_file() => return Ok(file),
            DiskSource::Path(_) if kind == FileType::BlockDevice => {
                let source = DiskSource::Device { major: major(stat.st_rdev), minor: minor(stat.st_rdev) };
                return Disk { key: self.key.clone(), source, wanted: self.wanted }.open();
            }
            DiskSource::Path(_) => format!("{} is neither a block device nor a regular file", self.source),
            DiskSource::Device { major, minor } if kind == FileType::BlockDevice && stat.st_rdev == makedev(major, minor) => {
                return Ok(file);
            }
            DiskSource::Device { .. } => format!("{about}: it is another device's node"),
        };
        Err(Error::Other(problem))
    }
}

/// Whether the host lets nobody write to this block device.
pub fn is_read_only(major: u32, minor: u32) -> bool {
    is_read_only_in(Path::new(BLOCK_DEVICES), major, minor)
}

fn is_read_only_in(list: &Path, major: u32, minor: u32) -> bool {
    // One that is not there is missed when it is opened.
    fs::read_to_string(list.join(format!("{major}:{minor}/ro"))).is_ok_and(|text| text.trim() == "1")
}

/// The node that the host's kernel has made for a block device. (What a configuration calls `path` is the container's.)
fn node(list: &Path, major: u32, minor: u32) -> Result<PathBuf> {
    let file = list.join(format!("{major}:{minor}/uevent"));
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::Other(format!("the host has no block device {major}:{minor}")));
        }
        text => text.doing(|| format!("cannot read {}", file.display()))?,
    };
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or_else(|| Error::Other(format!("the host's block device {major}:{minor} has no name in /dev")))?;
    Ok(Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(source: DiskSource) -> String {
        let disk = Disk { key: String::new(), source, wanted: Hold::Read };
        disk.open().expect_err("no disk").to_string()
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let why = problem(DiskSource::Path("/dev/null".into()));
        assert_eq!(why, "the disk /dev/null is neither a block device nor a regular file");
        let why = problem(DiskSource::Path("/nonexistent/disk".into()));
        assert!(why.starts_with("cannot open the disk /nonexistent/disk: "), "{why}");
        // 0 is nobody's major number.
        let why = problem(DiskSource::Device { major: 0, minor: 77 });
        assert_eq!(why, "the host has no block device 0:77");
    }

    #[test]
    fn a_device_is_found_by_its_number() {
        let dir = std::env::temp_dir().join(format!("nacre-disk-{}", std::process::id()));
        for (number, text) in [("7:1", "MAJOR=7\nMINOR=1\nDEVNAME=loop1\nDEVTYPE=disk\n"), ("7:2", "MAJOR=7\n")] {
            fs::create_dir_all(dir.join(number)).expect("a directory");
            fs::write(dir.join(number).join("uevent"), text).expect("a file");
        }
        for (number, text) in [("7:1", "0\n"), ("7:2", "1\n")] {
            fs::write(dir.join(number).join("ro"), text).expect("a file");
        }
        let read_only = [1, 2, 3].map(|minor| is_read_only_in(&dir, 7, minor));
        let (found, nameless) = (node(&dir, 7, 1), node(&dir, 7, 2));
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(found.expect("found"), Path::new("/dev/loop1"));
        assert_eq!(read_only, [false, true, false]);
        assert!(nameless.expect_err("no name").to_string().contains("no name in /dev"));
    }
}
