//! Time: the clocks, and the timers that wake tasks.

mod clock;
mod process_timers;
mod timers;
mod timespec;

pub use clock::{Clock, MonoTime};
pub use process_timers::ProcessTimers;
pub use timers::{Timer, Timers};
pub use timespec::Timespec;
