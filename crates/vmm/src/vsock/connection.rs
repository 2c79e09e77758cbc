//! One connection: credit, half-closes, and bytes between a unix socket of the host and packets of the guest.
//!
//! The socket is watched edge by edge, so what it was found ready for is kept here until it says otherwise. The guest's side of the state is
//! nothing but its own word: it can lose its own data with a lie, and costs us no more than [`BUFFER`] bytes.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;

use vm_memory::{ReadVolatile, VolatileSlice};

use super::backlog::{Backlog, Room, io_error, write_slice};
use super::packet::{Header, Op, Ports, Shut};

/// Bytes that the guest may send before we have passed them on: four of Linux's largest packets.
pub const BUFFER: u32 = 256 << 10;
/// The most data in one packet to the guest.
const MAX_DATA: usize = 64 << 10;

bitflags::bitflags! {
    /// Packets that the guest is owed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Due: u8 {
        const REQUEST = 1;
        const RESPONSE = 2;
        const CREDIT = 4;
    }
}

/// The guest broke a rule; the connection must be reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach(pub &'static str);

pub struct Connection {
    pub ports: Ports,
    stream: UnixStream,
    /// The host asked for the connection and the guest has not said yes: where its answer goes.
    asking: Option<SyncSender<()>>,
    due: Due,
    backlog: Backlog,

    /// Bytes taken from the guest, and those of them passed on. Modulo 2^32, as all counts in packets.
    taken: u32,
    passed: u32,
    /// The last `passed` that the guest was told.
    passed_told: u32,

    /// Bytes sent to the guest, what it says it has consumed of them, and its room.
    sent: u32,
    guest_passed: u32,
    guest_room: u32,

    readable: bool,
    writable: bool,
    /// The host's side closed altogether.
    hung_up: bool,
    /// The host's side will send no more; it will receive no more.
    ended: Shut,
    /// How much of `ended` the guest was told.
    ended_told: Shut,
    /// What the guest said it will not do any more.
    guest_ended: Shut,
    /// Whether the socket was told that no more data comes. Once: each time is an edge, and would be answered with the next.
    shut: bool,

    /// Whether this is in the multiplexer's queue of those that may have a packet.
    pub queued: bool,
}

impl Connection {
    /// One that the guest asked for with `request`.
    pub fn accepted(request: &Header, stream: UnixStream) -> Connection {
        let mut connection = Connection::new(Ports::of(request), stream, Due::RESPONSE, None);
        connection.hear(request);
        connection
    }

    /// One that the host asks for; `answer` hears of it when the guest agrees, and is dropped if it does not.
    pub fn asked(ports: Ports, stream: UnixStream, answer: SyncSender<()>) -> Connection {
        Connection::new(ports, stream, Due::REQUEST, Some(answer))
    }

    fn new(ports: Ports, stream: UnixStream, due: Due, asking: Option<SyncSender<()>>) -> Connection {
        Connection {
            ports,
            stream,
            asking,
            due,
            backlog: Backlog::default(),
            taken: 0,
            passed: 0,
            passed_told: 0,
            sent: 0,
            guest_passed: 0,
            guest_room: 0,
            readable: true,
            writable: true,
            hung_up: false,
            ended: Shut::empty(),
            ended_told: Shut::empty(),
            guest_ended: Shut::empty(),
            shut: false,
            queued: false,
        }
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Bytes kept for the host's side.
    pub fn kept(&self) -> usize {
        self.backlog.len()
    }

    /// Whether the host still waits for the guest's answer.
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// The host's side closed, and the guest was told so: what is left waits for the guest to close.
    pub fn is_over(&self) -> bool {
        self.hung_up && self.ended_told == Shut::all()
    }

    /// Takes what every packet says of the guest's room.
    pub fn hear(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc.get();
        self.guest_passed = header.fwd_cnt.get();
    }

    pub fn agreed(&mut self) -> Result<(), Breach> {
        let answer = self.asking.take().ok_or(Breach("a response to no request"))?;
        let _ = answer.send(());
        Ok(())
    }

    /// The guest asks how much room there is.
    pub fn owe_credit(&mut self) {
        self.due |= Due::CREDIT;
    }

    /// Takes a data packet's payload, of which `keep` bytes may be kept here if the host's side is slow.
    pub fn take(&mut self, payload: &[VolatileSlice<'_>], keep: usize) -> Result<(), Breach> {
        let len: usize = payload.iter().map(VolatileSlice::len).sum();
        if self.asking.is_some() {
            return Err(Breach("data before the connection is made"));
        }
        if self.guest_ended.contains(Shut::SEND) {
            return Err(Breach("data after the end of data"));
        }
        let in_flight = self.taken.wrapping_sub(self.passed);
        if len > (BUFFER - in_flight.min(BUFFER)) as usize {
            return Err(Breach("more data than there is room for"));
        }
        self.taken = self.taken.wrapping_add(len as u32);
        let mut kept = 0;
        for slice in payload {
            let mut done = 0;
            if self.backlog.is_empty() && self.writable && !self.ended.contains(Shut::RECEIVE) {
                let (written, outcome) = write_slice(&self.stream, slice);
                done = written;
                self.passed_on(written, outcome);
            }
            let Ok(rest) = slice.offset(done) else { continue };
            if self.ended.contains(Shut::RECEIVE) {
                // Nobody will read it: it counts as passed on, so that the guest can get to know.
                self.passed = self.passed.wrapping_add(rest.len() as u32);
            } else if !rest.is_empty() {
                kept += rest.len();
                if kept > keep {
                    return Err(Breach("more connections with unread data than there is room for"));
                }
                self.backlog.push(&rest);
            }
        }
        self.consider_credit();
        Ok(())
    }

    /// What the host's socket said of itself.
    pub fn notice(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable | hung_up;
        self.hung_up |= hung_up;
        if writable {
            self.writable = true;
            self.flush();
        }
        if hung_up {
            self.give_up_writing();
        }
    }

    /// The guest will not send or receive any more.
    pub fn guest_ends(&mut self, what: Shut) {
        let new = what - self.guest_ended;
        self.guest_ended |= what;
        if new.contains(Shut::RECEIVE) {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.flush();
    }

    /// Whether the guest is through with it: it is to be answered with a reset, and closed when all is passed on.
    pub fn guest_closed(&self) -> bool {
        self.guest_ended == Shut::all()
    }

    fn flush(&mut self) {
        if !self.backlog.is_empty() && self.writable {
            let (written, outcome) = self.backlog.write_to(&self.stream);
            self.passed_on(written, outcome);
        }
        if self.backlog.is_empty() && self.guest_ended.contains(Shut::SEND) && !self.shut {
            self.shut = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn passed_on(&mut self, written: usize, outcome: std::io::Result<Room>) {
        self.passed = self.passed.wrapping_add(written as u32);
        match outcome {
            Ok(Room::Left) => {}
            Ok(Room::Full) => self.writable = false,
            Err(_) => self.give_up_writing(),
        }
        self.consider_credit();
    }

    /// The host's side reads no more.
    fn give_up_writing(&mut self) {
        self.passed = self.passed.wrapping_add(self.backlog.len() as u32);
        self.backlog = Backlog::default();
        self.ended |= Shut::RECEIVE;
    }

    /// Half of the room given back unbeknown to the guest: it may be waiting.
    fn consider_credit(&mut self) {
        if self.passed.wrapping_sub(self.passed_told) >= BUFFER / 2 {
            self.due |= Due::CREDIT;
        }
    }

    /// How much the guest can take. A guest that contradicts itself has no room.
    fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_passed);
        self.guest_room.saturating_sub(in_flight) as usize
    }

    /// The next packet for the guest, its data in `room`; None if there is none now.
    pub fn next(&mut self, guest: u64, room: &[VolatileSlice<'_>]) -> Option<Header> {
        if self.due.contains(Due::REQUEST) {
            return Some(self.packet(guest, Op::Request, Due::REQUEST));
        }
        if self.due.contains(Due::RESPONSE) {
            return Some(self.packet(guest, Op::Response, Due::RESPONSE));
        }
        // To a guest that closed it, it does not exist any more.
        if self.asking.is_some() || self.guest_closed() {
            return None;
        }
        let got = self.read(room);
        if got > 0 {
            let mut header = self.packet(guest, Op::Data, Due::CREDIT);
            header.len = (got as u32).into();
            return Some(header);
        }
        if self.ended_told != self.ended {
            let mut header = self.packet(guest, Op::Shutdown, Due::CREDIT);
            header.flags = self.ended.bits().into();
            self.ended_told = self.ended;
            return Some(header);
        }
        self.due.contains(Due::CREDIT).then(|| self.packet(guest, Op::CreditUpdate, Due::CREDIT))
    }

    /// A packet with the room told, and `due` no more owed.
    fn packet(&mut self, guest: u64, op: Op, due: Due) -> Header {
        self.due.remove(due);
        self.passed_told = self.passed;
        Header { buf_alloc: BUFFER.into(), fwd_cnt: self.passed.into(), ..self.ports.to_guest(guest, op) }
    }

    /// Reads into `room` what the host's side has and the guest can take.
    fn read(&mut self, room: &[VolatileSlice<'_>]) -> usize {
        let mut left = self.credit().min(MAX_DATA);
        let mut total = 0;
        for slice in room {
            let Ok(mut part) = slice.subslice(0, slice.len().min(left)) else { break };
            if part.is_empty() || !self.readable || self.ended.contains(Shut::SEND) || self.guest_ended.contains(Shut::RECEIVE)
            {
                break;
            }
            let got = loop {
                match (&self.stream).read_volatile(&mut part).map_err(io_error) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            match got {
                Ok(0) => self.ended |= Shut::SEND,
                Ok(got) => {
                    total += got;
                    left -= got;
                    // A packet's data has no gap. Whether there is more only the next read can tell.
                    if got < part.len() {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => self.ended |= Shut::SEND,
            }
        }
        self.sent = self.sent.wrapping_add(total as u32);
        total
    }
}
