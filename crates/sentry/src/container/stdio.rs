//! The descriptors a process starts with.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_api::{Code, Process, Status, WindowSize, take_fd};

use crate::executor::Reactor;
use crate::fs::{FdEntry, FdTable, File, OpenFlags};
use crate::ipc::host_file::HostFile;

/// The table of a process without a terminal: stdin, stdout, stderr and the further descriptors of its request.
pub(super) fn table(reactor: &Arc<Reactor>, request: &Process, fds: &mut [Option<OwnedFd>]) -> Result<Arc<FdTable>, Status> {
    let table = FdTable::new();
    let stdio = request.stdio.unwrap_or_default();
    let names = ["stdin", "stdout", "stderr"];
    let named = [stdio.stdin, stdio.stdout, stdio.stderr].into_iter().zip(names).enumerate();
    let extra = request.extra_fds.iter().enumerate().map(|(n, index)| (n + names.len(), (Some(*index), "descriptor")));
    for (number, (index, name)) in named.chain(extra) {
        let Some(index) = index else { continue };
        let file = open(reactor, take_fd(fds, index, name)?, name)?;
        put(&table, number, file)?;
    }
    Ok(table)
}

/// The table of a process with a terminal: its slave as stdin, stdout and stderr.
pub(super) fn terminal_table(slave: &Arc<File>) -> Result<Arc<FdTable>, Status> {
    let table = FdTable::new();
    for number in 0..3 {
        put(&table, number, slave.clone())?;
    }
    Ok(table)
}

/// Rows and columns, as far as they fit a terminal's 16 bits.
pub(super) fn window(size: Option<&WindowSize>) -> (u16, u16) {
    let fit = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    size.map_or((0, 0), |size| (fit(size.rows), fit(size.columns)))
}

/// A host descriptor as a guest's file, with the access mode it has.
pub(super) fn open(reactor: &Arc<Reactor>, fd: OwnedFd, name: &str) -> Result<Arc<File>, Status> {
    hostcall::io::access_mode(&fd)
        .and_then(|mode| HostFile::open(reactor, fd, OpenFlags::from_bits_retain(mode)))
        .map_err(|errno| Status::new(Code::InvalidArgument, format!("cannot use {name}: {errno}")))
}

/// Puts a file at a number.
pub(super) fn put(table: &FdTable, number: usize, file: Arc<File>) -> Result<(), Status> {
    let entry = FdEntry { file, close_on_exec: false };
    let put = table.replace(number as i32, entry, FdTable::MAX);
    put.map(drop).map_err(|errno| Status::new(Code::Internal, format!("descriptor {number}: {errno}")))
}
