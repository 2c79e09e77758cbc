//! Authentic answers of memory threads.
//!
//! The answer page is writable by the guest. An answer therefore carries AES-128 of (result, sequence) under a key that the
//! memory thread holds in vector registers only. Round keys are made here and handed over on the order page, which the sentry
//! wipes before any guest code runs.

use std::arch::x86_64::*;

use hostcall::Errno;

/// Round keys.
pub struct Key([[u8; 16]; 11]);

impl Key {
    /// Whether this processor has the instructions.
    pub fn supported() -> bool {
        is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2")
    }

    /// A random key. The processor must be [`supported`](Key::supported).
    pub fn random() -> Result<Key, Errno> {
        let mut key = [0; 16];
        hostcall::random::fill(&mut key)?;
        Ok(Key::expand(key))
    }

    fn expand(key: [u8; 16]) -> Key {
        assert!(Key::supported());
        // SAFETY: the processor has AES.
        unsafe { Key::expand_aes(key) }
    }

    #[target_feature(enable = "aes,sse2")]
    fn expand_aes(key: [u8; 16]) -> Key {
        let mut keys = [key; 11];
        macro_rules! round {
            ($($i:literal $rcon:literal),*) => {$(
                let last = load(&keys[$i - 1]);
                let assist = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(last, $rcon), 0xff);
                let mixed = _mm_xor_si128(last, _mm_slli_si128(last, 4));
                let mixed = _mm_xor_si128(mixed, _mm_slli_si128(mixed, 8));
                keys[$i] = store(_mm_xor_si128(mixed, assist));
            )*};
        }
        round!(1 1, 2 2, 3 4, 4 8, 5 16, 6 32, 7 64, 8 128, 9 0x1b, 10 0x36);
        Key(keys)
    }

    /// The bytes to hand to the stub.
    pub fn rounds(&self) -> &[u8] {
        self.0.as_flattened()
    }

    /// The tag of an answer.
    pub fn tag(&self, sequence: u64, result: u64) -> [u8; 16] {
        // SAFETY: a key exists only where AES does (`expand`).
        unsafe { self.tag_aes(sequence, result) }
    }

    #[target_feature(enable = "aes,sse2")]
    fn tag_aes(&self, sequence: u64, result: u64) -> [u8; 16] {
        let [first, middle @ .., last] = &self.0;
        let mut state = _mm_xor_si128(_mm_set_epi64x(sequence as i64, result as i64), load(first));
        for key in middle {
            state = _mm_aesenc_si128(state, load(key));
        }
        store(_mm_aesenclast_si128(state, load(last)))
    }
}

fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute(*bytes) }
}
fn store(value: __m128i) -> [u8; 16] {
    // SAFETY: both are 16 plain bytes.
    unsafe { std::mem::transmute(value) }
}

#[cfg(test)]
mod tests {
    use super::Key;

    /// FIPS 197, appendix B.
    #[test]
    fn aes_is_aes() {
        let key = Key::expand([0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c]);
        let input = [0x32, 0x43, 0xf6, 0xa8, 0x88, 0x5a, 0x30, 0x8d, 0x31, 0x31, 0x98, 0xa2, 0xe0, 0x37, 0x07, 0x34];
        let low = u64::from_le_bytes(input[..8].try_into().unwrap());
        let high = u64::from_le_bytes(input[8..].try_into().unwrap());
        let expected = [0x39, 0x25, 0x84, 0x1d, 0x02, 0xdc, 0x09, 0xfb, 0xdc, 0x11, 0x85, 0x97, 0x19, 0x6a, 0x0b, 0x32];
        assert_eq!(key.tag(high, low), expected);
    }
}
