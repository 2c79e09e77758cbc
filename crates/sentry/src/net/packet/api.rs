//! A packet socket as the system calls see it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netstack::ip::frame::{self, ETHERNET};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::ring::{self, Request, Ring};
use super::{Frame, Link, OVERHEAD, PacketSocket};
use crate::Errno;
use crate::mm::{Mappable, Sink, Source};
use crate::net::address::{array, family_of};
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SocketOptions, int, so};
use crate::net::socket::{
    AddressBytes, Control, End, Kind, MsgFlags, OptionBytes, Outgoing, Received, SOCK_RAW, Shutdown, Socket, Target, Waiting,
    timestamp,
};
use crate::net::{AF_PACKET, LOOPBACK, filter, ifreq};
use crate::step::Step;
use crate::syscalls::{Fail, Flow};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

const SOL_PACKET: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const RX_RING: i32 = 5;
const STATISTICS: i32 = 6;
const AUXDATA: i32 = 8;
const PACKET_VERSION: i32 = 10;
const HDRLEN: i32 = 11;
const RESERVE: i32 = 12;
const IGNORE_OUTGOING: i32 = 23;
/// `sizeof(struct sockaddr_ll)`, and what it has before the address.
const ADDRESS: usize = 20;
const BEFORE_ADDRESS: usize = 12;
/// `TP_STATUS_*` of the auxiliary data.
const FOR_USER: u32 = 1;
const UNFINISHED: u32 = 8;

/// Who a frame is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To {
    protocol: u16,
    device: i32,
    mac: [u8; 6],
}

/// A `sockaddr_ll`, whose family only bind looks at.
fn decode(bytes: &[u8]) -> Result<To, Errno> {
    if bytes.len() < ADDRESS {
        return Err(Errno::EINVAL);
    }
    let protocol = u16::from_be_bytes(array(bytes, 2).ok_or(Errno::EINVAL)?);
    let device = i32::from_le_bytes(array(bytes, 4).ok_or(Errno::EINVAL)?);
    Ok(To { protocol, device, mac: array(bytes, BEFORE_ADDRESS).ok_or(Errno::EINVAL)? })
}

impl PacketSocket {
    fn set(&self, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        match name {
            // The interfaces take all groups as it is, and are asked for nothing more.
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                if value.len < 16 {
                    return Err(Errno::EINVAL);
                }
                let bytes = value.bytes(16)?;
                let device = array(&bytes, 0).map_or(0, i32::from_le_bytes);
                let kind = array(&bytes, 4).map_or(0, u16::from_le_bytes);
                match kind {
                    _ if name == DROP_MEMBERSHIP => Ok(()),
                    _ if !self.net.has_device(device) => Err(Errno::ENODEV),
                    0..=3 => Ok(()),
                    _ => Err(Errno::EINVAL),
                }
            }
            AUXDATA => {
                self.state.lock().auxiliary = value.int()? != 0;
                Ok(())
            }
            IGNORE_OUTGOING => match value.int()? {
                on @ (0 | 1) => {
                    self.state.lock().ignores_outgoing = on != 0;
                    Ok(())
                }
                _ => Err(Errno::EINVAL),
            },
            // Of rings there are those of version 2.
            PACKET_VERSION => match value.int()? {
                _ if self.state.lock().ring.is_some() => Err(Errno::EBUSY),
                version @ (0 | ring::VERSION) => {
                    self.state.lock().version = version;
                    Ok(())
                }
                _ => Err(Errno::EINVAL),
            },
            RESERVE => match u32::try_from(value.int()?) {
                _ if self.state.lock().ring.is_some() => Err(Errno::EBUSY),
                Ok(bytes) if bytes <= ring::RESERVE => {
                    self.state.lock().reserve = bytes;
                    Ok(())
                }
                _ => Err(Errno::EINVAL),
            },
            RX_RING => self.set_ring(value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_ring(&self, value: OptionIn<'_>) -> Result<(), Errno> {
        let [block, blocks, slot, slots] = value.val::<[u32; 4]>()?;
        let mut state = self.state.lock();
        if (block, blocks, slot, slots) == (0, 0, 0, 0) {
            state.ring = None;
            return Ok(());
        }
        if state.ring.is_some() {
            return Err(Errno::EBUSY);
        }
        if state.version != ring::VERSION {
            return Err(Errno::EINVAL);
        }
        let request = Request { block, blocks, slot, slots, reserve: state.reserve };
        state.ring = Some(Ring::new(value.mm.memory(), request)?);
        Ok(())
    }

    /// The frame, the Ethernet header before it if the program has not made it, and the interface's position.
    fn outgoing_frame(&self, to: Option<To>, bytes: Vec<u8>) -> Result<(i32, Vec<u8>), Errno> {
        let (protocol, device) = {
            let state = self.state.lock();
            (state.protocol, state.device)
        };
        let to = to.unwrap_or(To { protocol, device, mac: [0; 6] });
        if !self.net.has_device(to.device) {
            return Err(Errno::ENXIO);
        }
        if to.device == LOOPBACK {
            // There are no frames there that anybody else could take.
            return Err(Errno::EOPNOTSUPP);
        }
        let (own, mtu) = self.net.device(to.device).map(|device| (device.mac, device.mtu())).ok_or(Errno::ENXIO)?;
        let frame =
            if self.kind == SOCK_RAW { bytes } else { [&frame::ethernet(to.mac, own, to.protocol)[..], &bytes].concat() };
        if frame.len() < ETHERNET {
            return Err(Errno::EINVAL);
        }
        if frame.len() > ETHERNET + mtu as usize {
            return Err(Errno::EMSGSIZE);
        }
        Ok((to.device, frame))
    }

    fn auxiliary(&self, frame: &Frame) -> Control {
        let network = if self.kind == SOCK_RAW { ETHERNET as u16 } else { 0 };
        let status = FOR_USER | if frame.unfinished { UNFINISHED } else { 0 };
        let mut data = SmallVec::<[u8; 32]>::new();
        for word in [status, frame.length as u32, frame.bytes.len() as u32] {
            data.extend_from_slice(&word.to_le_bytes());
        }
        for half in [0, network, 0, 0] {
            data.extend_from_slice(&half.to_le_bytes());
        }
        Control { level: SOL_PACKET, kind: AUXDATA, data }
    }
}

impl Socket for PacketSocket {
    fn kind(&self) -> Kind {
        Kind { family: AF_PACKET, kind: self.kind, protocol: 0 }
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.options
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn poll(&self) -> PollEvents {
        let (ring, waiting) = {
            let state = self.state.lock();
            (state.ring.clone(), !state.inbox.is_empty())
        };
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        let readable = waiting || ring.is_some_and(|ring| ring.is_readable());
        events.set(PollEvents::IN | PollEvents::RDNORM, readable);
        events
    }

    fn bind<'a>(self: Arc<Self>, _cx: &'a mut Cx, bytes: Vec<u8>) -> Flow<'a> {
        Flow::done(decode(&bytes).and_then(|to| {
            if family_of(&bytes)? != AF_PACKET as u16 {
                return Err(Errno::EINVAL);
            }
            if to.device != 0 && !self.net.has_device(to.device) {
                return Err(Errno::ENODEV);
            }
            let mut state = self.state.lock();
            state.device = to.device;
            state.protocol = if to.protocol == 0 { state.protocol } else { to.protocol };
            Ok(0)
        }))
    }

    fn connect<'a>(self: Arc<Self>, _cx: &'a mut Cx, _address: Vec<u8>, _waiting: Waiting) -> Flow<'a> {
        Flow::done(Err(Errno::EOPNOTSUPP))
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        if end == End::Peer {
            return Err(Errno::EOPNOTSUPP);
        }
        let (protocol, device) = {
            let state = self.state.lock();
            (state.protocol, state.device)
        };
        let shown = self.net.devices().into_iter().find(|shown| shown.index == device);
        let (hardware, mac, halen) = shown.map_or((0, [0; 6], 0), |shown| (shown.kind, shown.mac, 6u8));
        let mut bytes = PacketSocket::address(&Link { protocol, device, hardware, whose: 0, mac }, halen);
        bytes.truncate(BEFORE_ADDRESS + usize::from(halen));
        Ok(bytes)
    }

    fn shut_down(&self, _what: Shutdown) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        match level {
            SOL_SOCKET => filter::set(&self.options, name, value)
                .unwrap_or_else(|| options::set(cx, &self.net, &self.options, self.kind(), name, value)),
            SOL_PACKET => self.set(name, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option(&self, _cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        let mut state = self.state.lock();
        match (level, name) {
            (SOL_SOCKET, so::ERROR) => Ok(int(0)),
            (SOL_SOCKET, _) => {
                drop(state);
                let facts = Facts { kind: self.kind(), listening: false, cookie: self.id };
                options::get(&self.net, &self.options.lock(), &facts, name)
            }
            (SOL_PACKET, STATISTICS) => {
                let (packets, drops) = (std::mem::take(&mut state.packets), std::mem::take(&mut state.drops));
                let mut bytes = int(packets as i32);
                bytes.extend_from_slice(&drops.to_le_bytes());
                Ok(bytes)
            }
            (SOL_PACKET, AUXDATA) => Ok(int(i32::from(state.auxiliary))),
            (SOL_PACKET, PACKET_VERSION) => Ok(int(state.version)),
            (SOL_PACKET, RESERVE) => Ok(int(state.reserve as i32)),
            (SOL_PACKET, IGNORE_OUTGOING) => Ok(int(i32::from(state.ignores_outgoing))),
            // Asked for a version, it tells the bytes of that one's header.
            (SOL_PACKET, HDRLEN) => match given.int()? {
                ring::VERSION => Ok(int(ring::HEADER as i32)),
                _ => Err(Errno::EINVAL),
            },
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn target<'a>(&'a self, _cx: &'a Cx, address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        Step::Ready(decode(&address).map(|to| Some(Target::Packet(to))).map_err(Fail::Errno))
    }

    fn take_control(&self, _cx: &Cx, control: Control, _out: &mut Outgoing) -> Result<(), Errno> {
        if control.level == SOL_SOCKET { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        let length = from.remaining();
        if length > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = vec![0; length];
        if length > 0 && from.take(&mut bytes)? < length {
            return Err(Errno::EFAULT);
        }
        let to = match out.to {
            Some(Target::Packet(to)) => Some(to),
            _ => None,
        };
        let (device, frame) = self.outgoing_frame(to, bytes)?;
        let stack = self.net.stack().ok_or(Errno::ENXIO)?;
        stack.network.send_frame(device, &frame).then_some(length).ok_or(Errno::ENOBUFS)
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        if flags.contains(MsgFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let (frame, auxiliary) = {
            let mut state = self.state.lock();
            let frame = if peek { state.inbox.front().cloned() } else { state.inbox.pop_front() };
            let frame = frame.ok_or(Errno::EAGAIN)?;
            if !peek {
                let cost = frame.bytes.len() + OVERHEAD;
                state.queued = state.queued.saturating_sub(cost);
                self.net.discharge(cost);
            }
            (frame, state.auxiliary)
        };
        let fits = into.remaining().min(frame.bytes.len());
        let n = if fits == 0 { 0 } else { into.put(frame.bytes.get(..fits).unwrap_or_default())? };
        let mut received = Received { bytes: n, length: frame.bytes.len(), ..Received::default() };
        received.flags.set(MsgFlags::TRUNC, n < frame.bytes.len());
        received.from = Some(PacketSocket::address(&frame.from, 6));
        received.controls.extend(timestamp(&self.options.lock(), frame.at_ns));
        if auxiliary {
            received.controls.push(self.auxiliary(&frame));
        }
        Ok(received)
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        use linux_raw_sys::ioctl::{FIONREAD, TIOCOUTQ};
        let value = match command {
            FIONREAD => self.state.lock().inbox.front().map_or(0, |frame| frame.bytes.len() as i32),
            TIOCOUTQ => 0,
            _ => return ifreq::ioctl(cx, &self.net, command, argument),
        };
        cx.mm.write_val(argument, &value).map(|()| 0)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        match self.state.lock().ring.clone() {
            Some(ring) => Ok(ring),
            None => Err(Errno::EINVAL),
        }
    }

    fn close(self: Arc<Self>) {
        self.net.packets.remove(&self);
        let mut state = self.state.lock();
        state.closed = true;
        state.inbox.clear();
        let queued = std::mem::take(&mut state.queued);
        drop(state);
        self.net.discharge(queued);
    }

    fn set_inode(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
