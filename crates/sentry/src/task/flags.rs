//! [`TaskFlags`]: what a task has to look at before it returns to user mode.

bitflags::bitflags! {
    /// Work for a task, set by others (or itself) and looked at before each return to user mode and after each wake-up. Zero in the
    /// usual case, so that the way back is one load.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TaskFlags: u32 {
        /// A signal is pending that is not blocked.
        const SIGNAL = 1;
        /// The task must end: its process is ending, or a sibling runs exec. Never cleared.
        const KILLED = 2;
        /// Its process, or its container, is to stop.
        const STOP = 4;
        /// What the stub may answer alone has changed (a new parent).
        const IDENTITY = 8;
        /// A temporary signal mask is to be taken back.
        const RESTORE_MASK = 16;
        /// `membarrier`: being out of user mode is all that is asked.
        const BARRIER = 32;
        /// Memory was short: some is found before it goes on.
        const MEMORY = 64;
        /// The container's CPU time is to be looked at.
        const THROTTLE = 128;
        /// What ends an interruptible wait.
        const INTERRUPTS = Self::SIGNAL.bits() | Self::KILLED.bits() | Self::STOP.bits();
    }
}
