//! The first bytes of a sink or source: a device's end is not its file's.

use hostcall::WindowSlice;

use crate::Errno;
use crate::mm::{Sink, Source};

/// At most `left` bytes more go in or out.
pub struct Part<'a, T: ?Sized> {
    pub whole: &'a mut T,
    pub left: usize,
}

impl Sink for Part<'_, dyn Sink + '_> {
    fn remaining(&self) -> usize {
        self.whole.remaining().min(self.left)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let now = bytes.get(..bytes.len().min(self.left)).unwrap_or_default();
        let n = self.whole.put(now)?;
        self.left = self.left.saturating_sub(n);
        Ok(n)
    }

    fn put_direct(
        &mut self,
        max: usize,
        fill: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let result = self.whole.put_direct(max.min(self.left), fill)?;
        if let Ok(n) = result {
            self.left = self.left.saturating_sub(n);
        }
        Some(result)
    }
}

impl Source for Part<'_, dyn Source + '_> {
    fn remaining(&self) -> usize {
        self.whole.remaining().min(self.left)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let end = into.len().min(self.left);
        let n = self.whole.take(into.get_mut(..end).unwrap_or_default())?;
        self.left = self.left.saturating_sub(n);
        Ok(n)
    }

    fn take_direct(
        &mut self,
        max: usize,
        drain: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let result = self.whole.take_direct(max.min(self.left), drain)?;
        if let Ok(n) = result {
            self.left = self.left.saturating_sub(n);
        }
        Some(result)
    }
}
