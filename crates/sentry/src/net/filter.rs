//! Socket filters (`SO_ATTACH_FILTER`, socket(7)): a classic BPF program that says of each packet how much of it comes into the socket.

use std::sync::Arc;

use parking_lot::Mutex;

use super::options::{OptionIn, SockFlags, SocketOptions, so};
use crate::Errno;
use crate::bpf::{Data, Dialect, Program, Size, fact};

/// Offsets from here on count from the link's header, and from the network's (`SKF_LL_OFF`, `SKF_NET_OFF`).
const LINK: u32 = (-0x20_0000i32) as u32;
const NETWORK: u32 = (-0x10_0000i32) as u32;

/// A packet as a filter sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct View<'a> {
    pub bytes: &'a [u8],
    /// Where the program's first byte stands in it. Link and network headers are there for packet sockets only.
    pub start: usize,
    pub link: Option<usize>,
    pub network: Option<usize>,
    /// `ETH_P_*`
    pub protocol: u16,
    /// `PACKET_*`
    pub packet_type: u8,
    pub device: i32,
    /// `ARPHRD_*`
    pub hardware: u16,
}

impl Data for View<'_> {
    fn load(&self, size: Size, offset: u32) -> Option<u32> {
        let from = |base: usize, offset: u32| size.of(self.bytes, base.checked_add(usize::try_from(offset).ok()?)?);
        match offset {
            fact::PROTOCOL => Some(self.protocol.into()),
            fact::PACKET_TYPE => Some(self.packet_type.into()),
            fact::INTERFACE => Some(self.device as u32),
            fact::HARDWARE => Some(self.hardware.into()),
            fact::MARK | fact::QUEUE | fact::HASH | fact::CPU | fact::VLAN | fact::HAS_VLAN | fact::VLAN_PROTOCOL => Some(0),
            NETWORK.. => from(self.network?, offset - NETWORK),
            LINK.. => from(self.link?, offset - LINK),
            _ => from(self.start, offset),
        }
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len().saturating_sub(self.start)).unwrap_or(u32::MAX)
    }
}

/// How many bytes, from the program's first on, come into the socket. None: it is dropped.
pub fn admits(filter: &Program, view: &View<'_>) -> Option<usize> {
    let kept = filter.run(view).filter(|&kept| kept > 0)?;
    Some((kept as usize).min(view.length() as usize))
}

/// Sets an option about filters; None: it is another. For sockets that ask their filter.
pub fn set(options: &Mutex<SocketOptions>, name: i32, value: OptionIn<'_>) -> Option<Result<(), Errno>> {
    match name {
        so::ATTACH_FILTER => Some(attach(options, value)),
        so::DETACH_FILTER => Some(value.int().and_then(|_| {
            let mut options = options.lock();
            if options.has(SockFlags::LOCK_FILTER) {
                return Err(Errno::EPERM);
            }
            options.filter.take().map(drop).ok_or(Errno::ENOENT)
        })),
        _ => None,
    }
}

fn attach(options: &Mutex<SocketOptions>, value: OptionIn<'_>) -> Result<(), Errno> {
    /// `sizeof(struct sock_fprog)`.
    const FPROG: usize = 16;
    if value.len != FPROG {
        return Err(Errno::EINVAL);
    }
    let unlocked = || if options.lock().has(SockFlags::LOCK_FILTER) { Err(Errno::EPERM) } else { Ok(()) };
    let program = Program::read(value.mm, value.addr, Dialect::Socket, unlocked)?;
    options.lock().filter = Some(Arc::new(program));
    Ok(())
}
