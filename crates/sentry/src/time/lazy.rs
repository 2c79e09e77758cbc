//! [`LazyTimer`]: a timer for a deadline that moves often, and mostly back.

use std::sync::Arc;

use parking_lot::Mutex;

use super::timers::Fire;
use super::{MonoTime, Timer, Timers};

/// It fires at the deadline or before, so that moving the deadline back costs nothing: who is called too early arms it again.
#[derive(Default)]
pub struct LazyTimer(Mutex<Option<(MonoTime, Timer)>>);

impl LazyTimer {
    /// Makes sure that the action is done by `at`. It is made only when it is needed, and must begin with [`LazyTimer::fired`].
    pub fn arm(&self, timers: &Arc<Timers>, at: MonoTime, action: impl FnOnce() -> Fire) {
        let mut timer = self.0.lock();
        if timer.as_ref().is_none_or(|(armed, _)| at < *armed) {
            *timer = Some((at, timers.arm(at, action())));
        }
    }

    /// The timer has fired: it may be armed again.
    pub fn fired(&self) {
        *self.0.lock() = None;
    }
}
