//! One request's future.

use std::{
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Client, Interest, state::Answer};

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
            self.client.sleep(None);
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
        let Some(end) = Some(std::mem::take(&mut self.inline)).filter(|t| !t.is_zero()).map(|t| Instant::now() + t) else {
            return Poll::Pending;
        };
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Pending;
            }
            self.client.sleep(Some(left));
            if let Poll::Ready(answer) = self.look() {
                return Poll::Ready(answer);
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
            let known = interest == state.armed || (state.armed == Interest::ReadableOrWritable && interest == Interest::Readable);
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
