//! One request's future.

use std::{
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Client, Interest, state::Answer};

/// How long [`Call::wait`] sleeps at most before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A request that was sent; the answer is its output. Dropping it gives the answer up, not the operation.
#[derive(Debug)]
#[must_use = "an answer nobody awaits is thrown away"]
pub struct Call {
    client: Arc<Client>,
    tag: u64,
    /// How long the next poll may wait itself; spent by the first.
    inline: Duration,
}

impl Call {
    pub(super) fn new(client: &Arc<Client>, tag: u64, inline: Duration) -> Call {
        Call { client: Arc::clone(client), tag, inline }
    }

    /// Blocks the calling thread until the answer is there: for start-up and tests.
    ///
    /// # Errors
    /// The operation's; `EIO` if the gofer is gone.
    pub fn wait(mut self) -> Answer {
        loop {
            if let Poll::Ready(answer) = self.look() {
                return answer;
            }
            // Not for good: another thread may take our answer in between our look and the sleep.
            self.client.sleep(LOOK_AGAIN);
        }
    }

    /// Takes in what has come and looks for the answer in it.
    fn look(&mut self) -> Poll<Answer> {
        self.client.exchange();
        self.take(None)
    }

    fn take(&mut self, waker: Option<&std::task::Waker>) -> Poll<Answer> {
        let answer = self.client.state.lock().poll(self.tag, waker);
        if answer.is_ready() {
            self.tag = 0;
        }
        answer
    }

    /// The fast path. Others may read our answer meanwhile; then a poll of the socket wakes with theirs, or at worst runs out.
    fn wait_inline(&mut self) -> Poll<Answer> {
        let inline = std::mem::take(&mut self.inline);
        if inline.is_zero() {
            return Poll::Pending;
        }
        let spin = self.client.spin();
        let start = Instant::now();
        let mut slept = false;
        loop {
            if let Poll::Ready(answer) = self.look() {
                self.client.spun(spin, !slept);
                return Poll::Ready(answer);
            }
            let waited = start.elapsed();
            if waited >= inline {
                self.client.spun(spin, false);
                return Poll::Pending;
            }
            if waited < spin {
                std::hint::spin_loop();
            } else {
                slept = true;
                self.client.sleep(inline - waited);
            }
        }
    }
}

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Poll::Ready(answer) = self.take(None) {
            return Poll::Ready(answer);
        }
        if let Poll::Ready(answer) = self.wait_inline() {
            return Poll::Ready(answer);
        }
        if let Poll::Ready(answer) = self.take(Some(cx.waker())) {
            return Poll::Ready(answer);
        }
        let interest = {
            let mut state = self.client.state.lock();
            let interest = state.interest();
            // Nothing new to ask if the socket is watched for as much already.
            let known =
                interest == state.armed || (state.armed == Interest::ReadableOrWritable && interest == Interest::Readable);
            state.armed = if known { state.armed } else { interest };
            if known { Interest::None } else { interest }
        };
        if interest != Interest::None {
            (self.client.config.notify)(interest);
        }
        Poll::Pending
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.tag != 0 {
            self.client.state.lock().abandon(self.client.as_fd(), self.tag);
        }
    }
}
