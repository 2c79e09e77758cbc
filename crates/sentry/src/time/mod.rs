//! Time: the clocks, and the timers that wake tasks.

mod clock;
mod lazy;
mod process_timers;
mod timers;
mod timespec;

#[cfg(test)]
mod tests;

pub use clock::{Clock, MonoTime};
pub use lazy::LazyTimer;
pub use process_timers::{CpuClock, CpuFirst, Interval, Notify, ProcessTimers, Setting};
pub use timers::{Timer, Timers};
pub use timespec::Timespec;
