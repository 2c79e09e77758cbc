//! Time: the clocks, and the timers that wake tasks.

mod clock;
mod timers;

pub use clock::{Clock, MonoTime};
pub use timers::{Timer, Timers};
