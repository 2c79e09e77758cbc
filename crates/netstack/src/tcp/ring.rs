//! [`Ring`]: the bytes a connection has to send, from the first that is not acknowledged on.

/// First allocation in bytes.
const SMALL: usize = 4096;

#[derive(Debug, Default)]
pub struct Ring {
    bytes: Vec<u8>,
    head: usize,
    len: usize,
}

impl Ring {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A place for at most `most` bytes after the last, to be made part of the ring by [`Ring::commit`]. It may be shorter.
    pub fn spare(&mut self, most: usize) -> &mut [u8] {
        self.reserve(most);
        let size = self.bytes.len().max(1);
        let at = (self.head + self.len) % size;
        let run = (size - at).min(size - self.len).min(most);
        self.bytes.get_mut(at..at + run).unwrap_or_default()
    }

    /// So many bytes of the last spare place were filled.
    pub fn commit(&mut self, bytes: usize) {
        self.len = (self.len + bytes).min(self.bytes.len());
    }

    /// `len` bytes from position `at` on, in at most two runs.
    pub fn get(&self, at: usize, len: usize) -> [&[u8]; 2] {
        let len = len.min(self.len.saturating_sub(at));
        let size = self.bytes.len().max(1);
        let start = (self.head + at) % size;
        let first = len.min(size - start);
        let run = |from: usize, len: usize| self.bytes.get(from..from + len).unwrap_or_default();
        [run(start, first), run(0, len - first)]
    }

    /// Drops the first `bytes`.
    pub fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len);
        self.len -= bytes;
        self.head = if self.len == 0 { 0 } else { (self.head + bytes) % self.bytes.len().max(1) };
    }

    /// Bytes of its memory.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Gives the memory of an empty ring back.
    pub fn trim(&mut self) {
        if self.len == 0 {
            self.bytes = Vec::new();
            self.head = 0;
        }
    }

    fn reserve(&mut self, more: usize) {
        let need = self.len + more;
        if need <= self.bytes.len() {
            return;
        }
        let mut bytes = Vec::with_capacity(need.next_power_of_two().max(SMALL));
        for run in self.get(0, self.len) {
            bytes.extend_from_slice(run);
        }
        bytes.resize(bytes.capacity(), 0);
        self.bytes = bytes;
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_across_the_wrap() {
        let mut ring = Ring::default();
        let (mut put, mut got) = (0u32, 0u32);
        for round in 0usize..400 {
            let mut left = round % 1301;
            while left > 0 {
                let place = ring.spare(left);
                let n = place.len();
                assert!(n > 0);
                for byte in place {
                    *byte = put as u8;
                    put += 1;
                }
                ring.commit(n);
                left -= n;
            }
            let out = round * 7 % 1299;
            for byte in ring.get(0, out).concat() {
                assert_eq!(byte, got as u8);
                got += 1;
            }
            ring.skip(out);
            assert_eq!(ring.len() as u32, put - got);
        }
        assert!(got > 50_000);
    }
}
