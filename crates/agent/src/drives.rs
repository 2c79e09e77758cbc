//! Images and disks by the host's numbers for them (`agent_api::vm`).

use std::fs;
use std::path::Path;

use agent_api::vm::{DISK, disk_serial};

/// The device of this number, once its driver has made it.
pub fn device(number: u32) -> Option<String> {
    if number & DISK == 0 {
        let pmem = format!("/dev/pmem{number}");
        return Path::new(&pmem).exists().then_some(pmem);
    }
    let serial = disk_serial(number & !DISK);
    let is_it = |entry: &fs::DirEntry| {
        let own = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        own.trim_end_matches('\0').trim() == serial
    };
    let disk = fs::read_dir("/sys/block").ok()?.flatten().find(is_it)?;
    let device = Path::new("/dev").join(disk.file_name());
    device.exists().then(|| device.to_string_lossy().into_owned())
}
