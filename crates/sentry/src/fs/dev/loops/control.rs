//! /dev/loop-control: which device is free, new and removed ones.

use std::any::Any;

use super::LoopDevices;
use crate::Errno;
use crate::fs::{File, FileOps};
use crate::step::Step;
use crate::task::Cx;

const LOOP_CTL_ADD: u32 = 0x4c80;
const LOOP_CTL_REMOVE: u32 = 0x4c81;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;

/// An open /dev/loop-control.
pub struct LoopControl;

impl FileOps for LoopControl {
    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(control(&cx.task.container.loops, command, argument).map(u64::from))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn control(devices: &LoopDevices, command: u32, argument: u64) -> Result<u32, Errno> {
    let index = argument as i32;
    match command {
        // As Linux: a negative number asks for any.
        LOOP_CTL_ADD if index < 0 => devices.free(),
        LOOP_CTL_ADD => devices.add(index as u32),
        LOOP_CTL_REMOVE => devices.remove(u32::try_from(index).map_err(|_| Errno::EINVAL)?),
        LOOP_CTL_GET_FREE => devices.free(),
        _ => Err(Errno::ENOSYS),
    }
}
