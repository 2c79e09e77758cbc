//! The extended processor state: sizes on this host, and what makes hostile bytes safe to load.

use crate::XState;

/// Offsets in the legacy area and the header (Intel SDM vol. 1, 13.4; the software bytes: Linux's sigcontext.h).
const MXCSR: usize = 24;
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
const LEGACY_AND_HEADER: usize = 576;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// The AMX components. An application cannot get them: the permission is a host call.
const AMX: u64 = 0x6_0000;

/// What this host saves.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Components, as in XCR0.
    pub features: u64,
    /// Bytes of the standard layout with all of them.
    pub size: usize,
}

impl Format {
    /// Asks the processor. None without XSAVE.
    pub fn of_host() -> Option<Format> {
        use std::arch::x86_64::{__cpuid_count, _xgetbv};
        if !is_x86_feature_detected!("xsave") || !is_x86_feature_detected!("fxsr") {
            return None;
        }
        // SAFETY: the processor has XSAVE, and the kernel has switched it on (what the detection looks at).
        let features = unsafe { xcr0(_xgetbv as unsafe fn(u32) -> u64) } & !AMX;
        let mut size = LEGACY_AND_HEADER;
        for component in 2..63 {
            if features & (1 << component) != 0 {
                let leaf = __cpuid_count(0xd, component);
                size = size.max((leaf.eax + leaf.ebx) as usize);
            }
        }
        Some(Format { features, size })
    }

    /// Bytes with the end mark of a signal frame, in whole words.
    pub fn framed(&self) -> usize {
        (self.size + 4).next_multiple_of(8)
    }

    /// A signal frame's extended state with everything set up but the state itself (the stub's own XSAVE fills that in).
    pub fn empty_frame(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.framed()];
        self.put(&mut bytes, SOFTWARE, &MAGIC1.to_ne_bytes());
        self.put(&mut bytes, SOFTWARE + 4, &(self.size as u32 + 4).to_ne_bytes());
        self.put(&mut bytes, SOFTWARE + 8, &self.features.to_ne_bytes());
        self.put(&mut bytes, SOFTWARE + 16, &(self.size as u32).to_ne_bytes());
        self.put(&mut bytes, self.size, &MAGIC2.to_ne_bytes());
        bytes
    }

    /// A signal frame's extended state that is safe to load: only features of this host, a clean header, a legal `mxcsr`.
    pub fn frame(&self, state: &[u8]) -> Vec<u8> {
        let mut bytes = self.empty_frame();
        let len = state.len().min(self.size);
        let legacy = len.min(SOFTWARE);
        self.put(&mut bytes, 0, &state[..legacy]);
        if len >= LEGACY_AND_HEADER {
            self.put(&mut bytes, LEGACY_AND_HEADER, &state[LEGACY_AND_HEADER..len]);
            let present = u64::from_ne_bytes(state[HEADER..HEADER + 8].try_into().expect("eight bytes"));
            self.put(&mut bytes, HEADER, &(present & self.features).to_ne_bytes());
        } else {
            self.put(&mut bytes, HEADER, &3u64.to_ne_bytes());
        }
        let mxcsr = u32::from_ne_bytes(bytes[MXCSR..MXCSR + 4].try_into().expect("four bytes")) & 0xffff;
        self.put(&mut bytes, MXCSR, &mxcsr.to_ne_bytes());
        bytes
    }

    /// What a stub saved, without the software bytes.
    pub fn state(&self, saved: &[u8]) -> XState {
        let mut bytes = self.frame(saved);
        bytes.truncate(self.size);
        bytes[SOFTWARE..HEADER].fill(0);
        XState::Saved(bytes.into_boxed_slice())
    }

    fn put(&self, bytes: &mut [u8], at: usize, what: &[u8]) {
        bytes[at..at + what.len()].copy_from_slice(what);
    }
}

/// XCR0, by the function that needs a target feature.
unsafe fn xcr0(read: unsafe fn(u32) -> u64) -> u64 {
    // SAFETY: forwarded to the caller.
    unsafe { read(0) }
}
