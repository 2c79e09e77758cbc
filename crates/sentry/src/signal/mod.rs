//! Signals: numbers and sets, `siginfo`, dispositions, pending queues, sending, delivery, and the frame on the user's stack.
//!
//! A signal is *sent* to a thread or a thread group from anywhere (`send`): it is dropped, ends a stop, kills, or is queued and
//! some thread is told. It is *delivered* by the receiving task itself on its way back to user mode (`deliver`), which acts
//! on the default or pushes a frame (`frame`).
//!
//! Locking: a group's lock, then its dispositions ([`SigHand`]), then a task's own [`TaskSignals`]. All are short and never held
//! across an await. See docs/locks-and-waits.md.

mod action;
mod deliver;
mod frame;
mod info;
mod number;
mod queue;
mod send;
mod state;

pub use action::{DefaultAction, Handling, SigAction, SigFlags, SigHand};
pub(crate) use deliver::{Caught, Delivery};
pub use frame::{LastFault, StackT};
pub use info::{SigInfo, cld};
pub use number::{SigSet, Signal};
pub use queue::{Charge, Pending, QueuedSignals};
pub(crate) use send::After;
pub use send::{Background, Origin};
pub use state::{AltStack, TaskSignals};
