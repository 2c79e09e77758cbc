//! [`Pace`]: when a writer that has filled a host pipe is told of room again.
//!
//! A pipe says that there is room as soon as its reader has taken one page. By way of the reactor, an executor and the program's thread that is three wake-ups for a
//! page; a reader that is slow anyway has to share its CPU with them. So the reactor waits a while, as long as the writer would find little room: it is left alone for 1 ms, then
//! twice that, up to 4. A reader that is fast has made much room by the time the writer comes, and is not kept waiting.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const LONGEST_MS: u64 = 4;

/// See the module.
#[derive(Debug)]
pub struct Pace {
    /// Bytes that the pipe holds: a quarter between two times that it was full is little, three quarters are much.
    capacity: usize,
    pause_ms: AtomicU64,
    /// Bytes written since there was last said to be room.
    written: AtomicUsize,
}

impl Pace {
    pub fn new(capacity: usize) -> Pace {
        Pace { capacity, pause_ms: AtomicU64::new(0), written: AtomicUsize::new(0) }
    }

    /// The writer has written so much.
    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// There is room: how long the writer need not know.
    pub fn pause(&self) -> Duration {
        let (written, pause) = (self.written.swap(0, Ordering::Relaxed), self.pause_ms.load(Ordering::Relaxed));
        let quarter = self.capacity / 4;
        let pause = match written {
            _ if written < quarter => (pause * 2).clamp(1, LONGEST_MS),
            _ if written <= quarter * 3 => pause,
            _ => pause / 2,
        };
        self.pause_ms.store(pause, Ordering::Relaxed);
        Duration::from_millis(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_left_alone_and_a_fast_one_is_not() {
        let pace = Pace::new(64 << 10);
        let after = |bytes| {
            pace.wrote(bytes);
            pace.pause().as_millis()
        };
        assert_eq!([4096, 4096, 4096, 4096].map(after), [1, 2, 4, 4]);
        assert_eq!([32 << 10, 60 << 10, 60 << 10, 60 << 10, 60 << 10].map(after), [4, 2, 1, 0, 0]);
        assert_eq!([32 << 10, 0].map(after), [0, 1]);
    }

    /// One page is all the room there ever is.
    #[test]
    fn a_pipe_of_a_page_is_never_waited_for() {
        let pace = Pace::new(4096);
        for _ in 0..5 {
            pace.wrote(4096);
            assert_eq!(pace.pause(), Duration::ZERO);
        }
    }
}
