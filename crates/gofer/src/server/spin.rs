//! Waiting for the next request: looking for a while first, as long as that pays.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use crate::{
    Errno,
    socket::{self, Wait},
};

/// How many times in a row looking may be in vain.
const PATIENCE: u32 = 4;

#[derive(Debug)]
pub(super) struct Spin {
    time: Duration,
    patience: u32,
}

impl Spin {
    pub(super) fn new(time: Duration) -> Spin {
        Spin { time, patience: 0 }
    }

    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, packet: &mut [u8]) -> Result<usize, Errno> {
        if self.time.is_zero() {
            return socket::receive(socket, packet, None, Wait::Allowed);
        }
        let start = Instant::now();
        if self.patience > 0 {
            loop {
                match socket::receive(socket, packet, None, Wait::Never) {
                    Err(Errno::EAGAIN) if start.elapsed() < self.time => std::hint::spin_loop(),
                    Err(Errno::EAGAIN) => break,
                    other => {
                        self.patience = PATIENCE;
                        return other;
                    }
                }
            }
            self.patience -= 1;
        }
        let result = socket::receive(socket, packet, None, Wait::Allowed);
        // It would have paid: requests come close together again.
        if start.elapsed() < self.time {
            self.patience = PATIENCE;
        }
        result
    }
}
