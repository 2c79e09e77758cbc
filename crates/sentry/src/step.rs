//! [`Step`]: the result of an operation that is nearly always there at once, and sometimes must wait for the host.

use std::future::{Future, IntoFuture, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A boxed future, for the slow paths.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A result that is ready, or a future of it.
pub enum Step<'a, T> {
    Ready(T),
    Wait(BoxFuture<'a, T>),
}

impl<'a, T> Step<'a, T> {
    /// A step that waits.
    pub fn wait(future: impl Future<Output = T> + Send + 'a) -> Step<'a, T> {
        Step::Wait(Box::pin(future))
    }
}

impl<T, E> Step<'_, Result<T, E>> {
    /// An error at once.
    pub fn err(error: E) -> Self {
        Step::Ready(Err(error))
    }

    /// A value at once.
    pub fn ok(value: T) -> Self {
        Step::Ready(Ok(value))
    }
}

impl<'a, T: Unpin> IntoFuture for Step<'a, T> {
    type Output = T;
    type IntoFuture = StepFuture<'a, T>;

    fn into_future(self) -> StepFuture<'a, T> {
        match self {
            Step::Ready(value) => StepFuture::Ready(ready(value)),
            Step::Wait(future) => StepFuture::Wait(future),
        }
    }
}

/// The future behind `step.await`.
pub enum StepFuture<'a, T> {
    Ready(Ready<T>),
    Wait(BoxFuture<'a, T>),
}

impl<T: Unpin> Future for StepFuture<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            StepFuture::Ready(ready) => Pin::new(ready).poll(cx),
            StepFuture::Wait(future) => future.as_mut().poll(cx),
        }
    }
}
