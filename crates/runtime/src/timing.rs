//! Where start-up time goes: with `NACRE_TIMING` set, each mark is a line on standard error with monotonic microseconds.

/// Notes that a step is done.
pub fn mark(what: &str) {
    static ON: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if *ON.get_or_init(|| std::env::var_os("NACRE_TIMING").is_some()) {
        eprintln!("{:>10} {what}", hostcall::time::monotonic_ns() / 1000 % 100_000_000);
    }
}
