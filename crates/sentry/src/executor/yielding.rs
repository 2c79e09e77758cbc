//! Giving other tasks of the executor a turn.

use std::future::poll_fn;
use std::task::Poll;

/// Goes to the end of the run queue once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
