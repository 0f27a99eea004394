//! What one burst holds: inline, no allocation.

use std::fmt;

use arrayvec::ArrayVec;

/// Most frames in one burst.
pub const BURST_MAX: usize = 64;
/// Frames in one burst unless the worker is told otherwise.
pub const BURST: usize = 32;

/// Up to [`BURST_MAX`] frames, owned, in order. A lower limit can be set; `room` obeys it.
pub struct Batch<F> {
    frames: ArrayVec<F, BURST_MAX>,
    limit: usize,
}

impl<F> Batch<F> {
    /// An empty batch with the default limit, [`BURST`].
    pub fn new() -> Self {
        Self::with_limit(BURST)
    }

    /// An empty batch that takes at most `limit` frames (clamped to 1..=[`BURST_MAX`]).
    pub fn with_limit(limit: usize) -> Self {
        Self { frames: ArrayVec::new(), limit: limit.clamp(1, BURST_MAX) }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.frames.len())
    }

    /// Whether none fits any more.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Appends a frame, or hands it back when the batch is full.
    pub fn push(&mut self, frame: F) -> Result<(), F> {
        if self.is_full() {
            return Err(frame);
        }
        self.frames.try_push(frame).map_err(|e| e.element())
    }

    /// Appends frames as long as there is room; what is beyond is dropped.
    #[inline]
    pub fn extend(&mut self, frames: impl Iterator<Item = F>) {
        let room = self.room();
        self.frames.extend(frames.take(room.min(self.frames.remaining_capacity())));
    }

    /// Takes over all frames of `other`, for nothing if this batch is empty and they fit; else as
    /// many as there is room for.
    #[inline]
    pub fn take_from(&mut self, other: &mut Self) {
        if self.frames.is_empty() && other.frames.len() <= self.limit {
            std::mem::swap(&mut self.frames, &mut other.frames);
        } else {
            let room = self.room();
            self.extend(other.drain_front(room));
        }
    }

    /// Takes the last frame out.
    pub fn pop(&mut self) -> Option<F> {
        self.frames.pop()
    }

    /// Takes the first `n` frames (at most all) out, in order.
    pub fn drain_front(&mut self, n: usize) -> impl Iterator<Item = F> + '_ {
        let n = n.min(self.frames.len());
        self.frames.drain(..n)
    }

    /// Takes all frames out, in order.
    pub fn drain(&mut self) -> impl DoubleEndedIterator<Item = F> + '_ {
        self.frames.drain(..)
    }

    /// Drops every frame.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    /// The frames, in order.
    pub fn as_slice(&self) -> &[F] {
        &self.frames
    }

    /// The frames, in order. A backend whose frame is a bare pointer lends this to its driver.
    pub fn as_mut_slice(&mut self) -> &mut [F] {
        &mut self.frames
    }
}

impl<F> Default for Batch<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> fmt::Debug for Batch<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).field("limit", &self.limit).finish()
    }
}
