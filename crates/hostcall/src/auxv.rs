//! What the host says about the processor in our auxiliary vector.

/// `AT_HWCAP` and `AT_HWCAP2`.
pub fn hardware_capabilities() -> (u64, u64) {
    let (first, second) = rustix::param::linux_hwcap();
    (first as u64, second as u64)
}

/// `AT_MINSIGSTKSZ`: bytes of a signal frame on this processor, at least.
pub fn min_signal_stack() -> u64 {
    rustix::param::linux_minsigstksz() as u64
}
