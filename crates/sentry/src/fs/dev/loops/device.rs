//! [`LoopDevice`]: one device and its file; [`LoopFile`]: the device opened.

use std::any::Any;
use std::sync::Arc;

use linux_raw_sys::ioctl as codes;
use parking_lot::Mutex;

use super::info::{AUTOCLEAR, Config, DIRECT_IO, Info, Info64, NAME, PARTSCAN, READ_ONLY};
use super::part::Part;
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::fs::{File, FileKind, FileOps, Metadata, OpenFlags, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::{Capability, Cx};

const LOOP_SET_FD: u32 = 0x4c00;
const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_SET_STATUS: u32 = 0x4c02;
const LOOP_GET_STATUS: u32 = 0x4c03;
const LOOP_SET_STATUS64: u32 = 0x4c04;
const LOOP_GET_STATUS64: u32 = 0x4c05;
const LOOP_CHANGE_FD: u32 = 0x4c06;
const LOOP_SET_CAPACITY: u32 = 0x4c07;
const LOOP_SET_DIRECT_IO: u32 = 0x4c08;
const LOOP_SET_BLOCK_SIZE: u32 = 0x4c09;
const LOOP_CONFIGURE: u32 = 0x4c0a;

const SECTOR: u64 = 512;

/// A loop device.
pub struct LoopDevice {
    pub index: u32,
    state: Mutex<State>,
}

struct State {
    openers: u32,
    /// In sectors; only a number to set and read.
    read_ahead: u64,
    /// To be detached when the last opener is gone (`LOOP_CLR_FD` while others have it open).
    going: bool,
    read_only: bool,
    backing: Option<Backing>,
}

impl Default for State {
    fn default() -> State {
        State { openers: 0, read_ahead: 256, going: false, read_only: false, backing: None }
    }
}

/// The file behind a device.
#[derive(Clone)]
struct Backing {
    file: Arc<File>,
    /// The file's size when it was last looked at, in bytes.
    file_size: u64,
    dev: u64,
    ino: u64,
    offset: u64,
    /// 0: none.
    limit: u64,
    flags: u32,
    block_size: u32,
    file_name: [u8; NAME],
    crypt_name: [u8; NAME],
}

impl Backing {
    fn new(file: Arc<File>, metadata: &Metadata, device: OpenFlags) -> Result<Backing, Errno> {
        if metadata.kind != FileKind::Regular || !file.ops.seekable() || !file.flags().readable() {
            return Err(Errno::EINVAL);
        }
        let flags = if file.flags().writable() && device.writable() { 0 } else { READ_ONLY };
        Ok(Backing {
            file,
            file_size: metadata.size,
            dev: metadata.dev,
            ino: metadata.ino,
            offset: 0,
            limit: 0,
            flags,
            block_size: SECTOR as u32,
            file_name: [0; NAME],
            crypt_name: [0; NAME],
        })
    }

    /// The device's size in bytes, whole sectors.
    fn size(&self) -> u64 {
        let size = self.file_size.saturating_sub(self.offset);
        let size = if self.limit > 0 { size.min(self.limit) } else { size };
        size & !(SECTOR - 1)
    }

    /// Bytes from `at` to the end, and where `at` is in the file.
    fn part(&self, at: u64) -> Option<(usize, u64)> {
        let left = self.size().checked_sub(at).filter(|left| *left > 0)?;
        Some((usize::try_from(left).unwrap_or(usize::MAX), self.offset.checked_add(at)?))
    }

    /// Takes in what `LOOP_SET_STATUS` may change. `settable` and `clearable` are flags.
    fn set(&mut self, info: &Info64, settable: u32, clearable: u32) -> Result<(), Errno> {
        if info.encrypt_key_size > 32 || info.encrypt_type != 0 {
            return Err(Errno::EINVAL);
        }
        if i64::try_from(info.offset).is_err() || i64::try_from(info.size_limit).is_err() {
            return Err(Errno::EOVERFLOW);
        }
        (self.offset, self.limit) = (info.offset, info.size_limit);
        (self.file_name, self.crypt_name) = (info.file_name, info.crypt_name);
        for name in [&mut self.file_name, &mut self.crypt_name] {
            if let Some(last) = name.last_mut() {
                *last = 0;
            }
        }
        self.flags = self.flags & !clearable | self.flags & clearable & info.flags | info.flags & settable;
        Ok(())
    }

    fn info(&self, index: u32) -> Info64 {
        Info64 {
            device: self.dev,
            inode: self.ino,
            rdevice: 0,
            offset: self.offset,
            size_limit: self.limit,
            number: index,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: self.flags,
            file_name: self.file_name,
            crypt_name: self.crypt_name,
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

impl LoopDevice {
    pub fn new(index: u32) -> Arc<LoopDevice> {
        Arc::new(LoopDevice { index, state: Mutex::default() })
    }

    pub fn bound(&self) -> bool {
        self.state.lock().backing.is_some()
    }

    pub fn opened(&self) -> bool {
        self.state.lock().openers > 0
    }

    pub fn release_backing(&self) {
        // The file is dropped outside the lock.
        let backing = self.state.lock().backing.take();
        drop(backing);
    }

    fn backing(&self) -> Result<Backing, Errno> {
        self.state.lock().backing.clone().ok_or(Errno::ENXIO)
    }

    /// Gives a device without a file its file.
    fn bind(&self, backing: Backing) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.backing.is_some() {
            return Err(Errno::EBUSY);
        }
        state.going = false;
        state.read_only = backing.flags & READ_ONLY != 0;
        state.backing = Some(backing);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Backing) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let mut new = state.backing.clone().ok_or(Errno::ENXIO)?;
        change(&mut new)?;
        state.backing = Some(new);
        Ok(())
    }

    /// `LOOP_CLR_FD`: with the last opener, if there are others.
    fn detach(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.backing.is_none() {
            return Err(Errno::ENXIO);
        }
        if state.openers > 1 {
            state.going = true;
            return Ok(());
        }
        let backing = state.backing.take();
        drop(state);
        drop(backing);
        Ok(())
    }
}

/// An open loop device.
pub struct LoopFile {
    device: Arc<LoopDevice>,
    flags: OpenFlags,
}

impl LoopFile {
    /// # Errors
    /// `EACCES`: a read-only device is opened for writing.
    pub fn open(device: Arc<LoopDevice>, flags: OpenFlags) -> Result<LoopFile, Errno> {
        let mut state = device.state.lock();
        if flags.writable() && state.read_only && state.backing.is_some() {
            return Err(Errno::EACCES);
        }
        state.openers = state.openers.saturating_add(1);
        drop(state);
        Ok(LoopFile { device, flags })
    }

    /// The device's size in bytes (`SEEK_END`).
    pub fn size(&self) -> u64 {
        self.device.backing().map_or(0, |backing| backing.size())
    }

    /// Who changes a device: whoever may write to it.
    fn may_change(&self, cx: &Cx) -> Result<(), Errno> {
        if self.flags.writable() || cx.creds().has(Capability::SysAdmin) { Ok(()) } else { Err(Errno::EPERM) }
    }

    async fn set_file(&self, cx: &Cx, fd: u32, config: Option<&Config>) -> Result<u64, Errno> {
        let file = cx.file(fd as i32)?;
        let metadata = file.inode().metadata().await?;
        let mut backing = Backing::new(file, &metadata, self.flags)?;
        if let Some(config) = config {
            if config.info.flags & !(READ_ONLY | AUTOCLEAR | PARTSCAN | DIRECT_IO) != 0 {
                return Err(Errno::EINVAL);
            }
            if config.block_size != 0 {
                backing.block_size = block_size(u64::from(config.block_size))?;
            }
            backing.set(&config.info, READ_ONLY | AUTOCLEAR | PARTSCAN | DIRECT_IO, 0)?;
        }
        self.device.bind(backing).map(|()| 0)
    }

    /// `LOOP_CHANGE_FD`: another file of the same size, read-only as the first.
    async fn change_file(&self, cx: &Cx, fd: u32) -> Result<u64, Errno> {
        let old = self.device.backing()?;
        if old.flags & READ_ONLY == 0 {
            return Err(Errno::EINVAL);
        }
        let file = cx.file(fd as i32)?;
        let metadata = file.inode().metadata().await?;
        let new = Backing::new(file, &metadata, OpenFlags::empty())?;
        let new = Backing { offset: old.offset, limit: old.limit, flags: old.flags, ..new };
        if new.size() != old.size() {
            return Err(Errno::EINVAL);
        }
        self.device.change(|backing| {
            (backing.file, backing.file_size) = (new.file, new.file_size);
            (backing.dev, backing.ino) = (new.dev, new.ino);
            Ok(())
        })?;
        Ok(0)
    }

    /// Looks at the file's size again.
    async fn refresh(&self) -> Result<u64, Errno> {
        let size = self.device.backing()?.file.inode().metadata().await?.size;
        self.device.change(|backing| {
            backing.file_size = size;
            Ok(())
        })?;
        Ok(0)
    }

    /// What needs no waiting.
    fn control(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        match command {
            LOOP_CLR_FD => self.may_change(cx).and_then(|()| self.device.detach())?,
            LOOP_GET_STATUS => {
                let old = self.device.backing()?.info(self.device.index).old().ok_or(Errno::EOVERFLOW)?;
                cx.mm.write_val(argument, &old)?;
            }
            LOOP_GET_STATUS64 => cx.mm.write_val(argument, &self.device.backing()?.info(self.device.index))?,
            LOOP_SET_DIRECT_IO => self.device.change(|backing| {
                if argument != 0 && backing.file.ops.mappable().is_err() {
                    return Err(Errno::EINVAL);
                }
                backing.flags = if argument != 0 { backing.flags | DIRECT_IO } else { backing.flags & !DIRECT_IO };
                Ok(())
            })?,
            LOOP_SET_BLOCK_SIZE => {
                self.may_change(cx)?;
                self.device.change(|backing| {
                    backing.block_size = block_size(argument)?;
                    Ok(())
                })?;
            }
            codes::BLKGETSIZE64 => cx.mm.write_val(argument, &self.size())?,
            codes::BLKGETSIZE => cx.mm.write_val(argument, &(self.size() / SECTOR))?,
            codes::BLKSSZGET | codes::BLKPBSZGET | codes::BLKIOMIN => {
                let size = self.device.backing().map_or(SECTOR as u32, |backing| backing.block_size);
                cx.mm.write_val(argument, &size)?;
            }
            codes::BLKBSZGET => cx.mm.write_val(argument, &(PAGE_SIZE as u32))?,
            codes::BLKIOOPT | codes::BLKALIGNOFF => cx.mm.write_val(argument, &0_u32)?,
            codes::BLKROTATIONAL => cx.mm.write_val(argument, &0_u16)?,
            codes::BLKRAGET | codes::BLKFRAGET => cx.mm.write_val(argument, &self.device.state.lock().read_ahead)?,
            codes::BLKRASET | codes::BLKFRASET => {
                if !cx.creds().has(Capability::SysAdmin) {
                    return Err(Errno::EACCES);
                }
                self.device.state.lock().read_ahead = argument;
            }
            codes::BLKROGET => cx.mm.write_val(argument, &i32::from(self.device.state.lock().read_only))?,
            codes::BLKROSET => {
                if !cx.creds().has(Capability::SysAdmin) {
                    return Err(Errno::EACCES);
                }
                self.device.state.lock().read_only = cx.mm.read_val::<i32>(argument)? != 0;
            }
            // Nothing is kept beside the file's own pages.
            codes::BLKFLSBUF if cx.creds().has(Capability::SysAdmin) => {}
            codes::BLKFLSBUF => return Err(Errno::EACCES),
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

fn block_size(size: u64) -> Result<u32, Errno> {
    if (SECTOR..=PAGE_SIZE).contains(&size) && size.is_power_of_two() { Ok(size as u32) } else { Err(Errno::EINVAL) }
}

impl FileOps for LoopFile {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let Ok(backing) = self.device.backing() else { return Step::ok(0) };
        let Some((left, at)) = backing.part(offset) else { return Step::ok(0) };
        if let Step::Ready(result) = backing.file.ops.read(&backing.file, at, &mut Part { whole: &mut *into, left }) {
            return Step::Ready(result);
        }
        Step::wait(async move { backing.file.ops.read(&backing.file, at, &mut Part { whole: into, left }).await })
    }

    fn write<'a>(&'a self, _file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let Ok(backing) = self.device.backing() else { return Step::err(Errno::ENOSPC) };
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => backing.size(),
        };
        if from.remaining() == 0 {
            return Step::ok(Written { bytes: 0, end: offset });
        }
        let Some((left, at)) = backing.part(offset) else { return Step::err(Errno::ENOSPC) };
        if self.device.state.lock().read_only {
            return Step::err(Errno::EPERM);
        }
        let written =
            move |result: Result<Written, Errno>| result.map(|written| Written { end: written.end + offset - at, ..written });
        let target = WriteAt::Offset(at);
        if let Step::Ready(result) = backing.file.ops.write(&backing.file, target, &mut Part { whole: &mut *from, left }) {
            return Step::Ready(written(result));
        }
        Step::wait(async move { written(backing.file.ops.write(&backing.file, target, &mut Part { whole: from, left }).await) })
    }

    fn seekable(&self) -> bool {
        true
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        let Ok(backing) = self.device.backing() else { return Step::ok(()) };
        Step::wait(async move { backing.file.ops.sync().await })
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        match command {
            LOOP_SET_FD => Step::wait(self.set_file(cx, argument as u32, None)),
            LOOP_CONFIGURE => Step::wait(async move {
                let config: Config = cx.mm.read_val(argument)?;
                self.set_file(cx, config.fd, Some(&config)).await
            }),
            LOOP_CHANGE_FD => Step::wait(self.change_file(cx, argument as u32)),
            LOOP_SET_CAPACITY => Step::wait(async move {
                self.may_change(cx)?;
                self.refresh().await
            }),
            LOOP_SET_STATUS | LOOP_SET_STATUS64 => Step::wait(async move {
                let info = match command {
                    LOOP_SET_STATUS => cx.mm.read_val::<Info>(argument)?.into(),
                    _ => cx.mm.read_val::<Info64>(argument)?,
                };
                self.may_change(cx)?;
                self.device.change(|backing| backing.set(&info, AUTOCLEAR | PARTSCAN, AUTOCLEAR))?;
                self.refresh().await
            }),
            _ => Step::Ready(self.control(cx, command, argument)),
        }
    }

    fn release(&self, _file: &File) {
        let mut state = self.device.state.lock();
        state.openers = state.openers.saturating_sub(1);
        let autoclear = state.backing.as_ref().is_some_and(|backing| backing.flags & AUTOCLEAR != 0);
        let gone = if state.openers == 0 && (state.going || autoclear) { state.backing.take() } else { None };
        drop(state);
        drop(gone);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
