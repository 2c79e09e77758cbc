//! Loop devices (loop(4)): block devices whose blocks are those of a file. [`LoopDevices`] is a container's set of them.
//!
//! They are the sentry's own objects: a loop device reaches nothing but the file that was given to it. What is not there: partitions,
//! and a device that is backed by another block device (`EINVAL`).
//!
//! Locks: `LoopDevices::all` before a device's `state`; both are leaves towards everything else.

mod control;
mod device;
mod info;
mod part;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{FileOps, OpenFlags};

pub use control::LoopControl;
pub use device::{LoopDevice, LoopFile};

/// Major number of the devices.
pub const MAJOR: u32 = 7;
/// Number of /dev/loop-control.
pub const CONTROL: (u32, u32) = (10, 237);

/// Devices at the beginning.
const FIRST: u32 = 8;
/// Most devices.
const MAX: u32 = 256;

/// A container's loop devices, by number.
pub struct LoopDevices {
    all: Mutex<BTreeMap<u32, Arc<LoopDevice>>>,
}

impl Default for LoopDevices {
    fn default() -> LoopDevices {
        LoopDevices { all: Mutex::new((0..FIRST).map(|index| (index, LoopDevice::new(index))).collect()) }
    }
}

impl LoopDevices {
    /// Opens a device.
    ///
    /// # Errors
    /// `ENXIO` when there is none of this number.
    pub fn open(&self, index: u32, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        let device = self.all.lock().get(&index).cloned().ok_or(Errno::ENXIO)?;
        Ok(Arc::new(LoopFile::open(device, flags)?))
    }

    /// `LOOP_CTL_GET_FREE`: the first device without a file, if need be a new one.
    fn free(&self) -> Result<u32, Errno> {
        let mut all = self.all.lock();
        if let Some(device) = all.values().find(|device| !device.bound()) {
            return Ok(device.index);
        }
        let index = (0..MAX).find(|index| !all.contains_key(index)).ok_or(Errno::ENOSPC)?;
        all.insert(index, LoopDevice::new(index));
        Ok(index)
    }

    /// `LOOP_CTL_ADD`.
    fn add(&self, index: u32) -> Result<u32, Errno> {
        if index >= MAX {
            return Err(Errno::ENOSPC);
        }
        let mut all = self.all.lock();
        if all.contains_key(&index) {
            return Err(Errno::EEXIST);
        }
        all.insert(index, LoopDevice::new(index));
        Ok(index)
    }

    /// `LOOP_CTL_REMOVE`.
    fn remove(&self, index: u32) -> Result<u32, Errno> {
        let mut all = self.all.lock();
        let device = all.get(&index).ok_or(Errno::ENODEV)?;
        if device.bound() || device.opened() {
            return Err(Errno::EBUSY);
        }
        all.remove(&index);
        Ok(index)
    }

    /// Lets all files go: the container has ended.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.all.lock());
        for device in all.values() {
            device.release_backing();
        }
    }
}
