//! Bytes from the guest that the host's side of a connection has not taken yet.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;

use vm_memory::{VolatileMemoryError, VolatileSlice, WriteVolatile};

/// A queue of bytes whose room is given back when it is empty: most connections never need one.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes`, from the front, are gone.
    start: usize,
}

impl Backlog {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, slice: &VolatileSlice<'_>) {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let end = self.bytes.len();
        self.bytes.resize(end + slice.len(), 0);
        if let Some(room) = self.bytes.get_mut(end..) {
            slice.copy_to(room);
        }
    }

    /// Writes what `stream` takes; how much it was, and whether it would have taken more.
    pub fn write_to(&mut self, stream: &UnixStream) -> (usize, io::Result<Room>) {
        let mut total = 0;
        while !self.is_empty() {
            match rustix::io::write(stream, self.bytes.get(self.start..).unwrap_or_default()) {
                Ok(n) => {
                    self.start += n;
                    total += n;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return (total, Ok(Room::Full)),
                Err(e) => return (total, Err(e.into())),
            }
        }
        *self = Backlog::default();
        (total, Ok(Room::Left))
    }
}

/// Whether a socket takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Left,
    Full,
}

/// Writes what `stream` takes of `slice`, without another copy on the way.
pub fn write_slice(mut stream: &UnixStream, slice: &VolatileSlice<'_>) -> (usize, io::Result<Room>) {
    let mut done = 0;
    while let Ok(rest) = slice.offset(done)
        && !rest.is_empty()
    {
        match stream.write_volatile(&rest).map_err(io_error) {
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return (done, Ok(Room::Full)),
            Err(e) => return (done, Err(e)),
        }
    }
    (done, Ok(Room::Left))
}

pub fn io_error(e: VolatileMemoryError) -> io::Error {
    match e {
        VolatileMemoryError::IOError(e) => e,
        other => io::Error::other(other),
    }
}
