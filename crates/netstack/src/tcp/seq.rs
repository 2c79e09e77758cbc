//! Sequence numbers: positions on a circle of 2^32 bytes (RFC 9293, 3.4).

/// Whether `a` comes before `b`.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` comes before `b` or is `b`.
pub fn until(a: u32, b: u32) -> bool {
    !before(b, a)
}

/// The later of two.
pub fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Bytes from `from` up to `to`, which is not before it; 0 if it is.
pub fn distance(from: u32, to: u32) -> u32 {
    if before(to, from) { 0 } else { to.wrapping_sub(from) }
}
