//! Several frames in one call: received and dealt out one by one, and sent until one is refused.

use std::fmt;
use std::io;
use std::ops::Range;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use switch_core::frame::{FramePool, HeapFrame};

use crate::sys::MANY;

/// Bytes that one call is to bring at most, as far as what came before tells: more of them leave the
/// caches before they are sent.
const BYTES: usize = 256 << 10;

/// What one call received: frames, and what was told of each.
pub(crate) struct Many<R> {
    pool: FramePool,
    /// To receive into; none while nothing comes.
    spares: ArrayVec<HeapFrame, MANY>,
    /// Received and not yet asked for, the last one first.
    received: ArrayVec<(HeapFrame, R), MANY>,
    /// How many to ask for.
    want: usize,
}

impl<R> fmt::Debug for Many<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Many").field("received", &self.received.len()).finish_non_exhaustive()
    }
}

impl<R> Many<R> {
    /// Nothing yet; frames come from the pool.
    pub(crate) fn new(pool: FramePool) -> Self {
        Self { pool, spares: ArrayVec::new(), received: ArrayVec::new(), want: 1 }
    }

    /// Whether all were dealt out.
    pub(crate) fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// The next one: its frame is exchanged for the one that is given. `None` if all were dealt out.
    pub(crate) fn deal(&mut self, frame: &mut HeapFrame) -> Option<R> {
        let (mut next, about) = self.received.pop()?;
        std::mem::swap(frame, &mut next);
        // There is room: it had a place before.
        let _ = self.spares.try_push(next);
        Some(about)
    }

    /// Receives anew, when all were dealt out. `receive` fills frames from the first one on, and tells
    /// of each, and its length; with a dry pool it has none to fill.
    pub(crate) fn receive(
        &mut self,
        receive: impl FnOnce(&mut [HeapFrame]) -> io::Result<ArrayVec<R, MANY>>,
        len: impl Fn(&R) -> usize,
    ) -> io::Result<()> {
        while self.spares.len() < self.want {
            let Some(frame) = self.pool.alloc() else { break };
            self.spares.push(frame);
        }
        self.spares.truncate(self.want);
        if self.spares.is_empty() {
            return Ok(());
        }
        let got = match receive(&mut self.spares) {
            Ok(got) => got,
            Err(e) => {
                // Nothing is held back while nothing comes.
                self.spares.clear();
                self.want = 1;
                return Err(e);
            }
        };
        let bytes: usize = got.iter().map(len).sum();
        // Twice as many where all were filled, unless they are long.
        let more = if got.len() == self.want { 2 * self.want } else { got.len() + 1 };
        let fit = BYTES / (bytes / got.len().max(1)).max(1);
        self.want = more.min(fit).clamp(1, MANY);
        let frames = self.spares.drain(..got.len());
        self.received = frames.zip(got).collect();
        self.received.reverse();
        Ok(())
    }
}

/// Sends `n` messages in order. `send` does so from the one of that number on, and says how many were
/// taken, or why the first was not; `told` is told of all.
pub(crate) fn send_all(
    n: usize,
    send: impl Fn(usize) -> Result<usize, Errno>,
    mut told: impl FnMut(Result<(), Errno>, Range<usize>),
) {
    let mut at = 0;
    while at < n {
        // Each turn has at least one behind it: sent, or refused.
        let sent = send(at);
        let end = at.saturating_add(sent.unwrap_or(1).max(1)).min(n);
        told(sent.map(|_| ()), at..end);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::frame::{Frame, PoolConfig};

    #[test]
    fn what_one_call_received_is_dealt_out_in_order_and_nothing_is_held_back() {
        let pool = FramePool::new(PoolConfig::default());
        let mut many = Many::<u8>::new(pool.clone());
        let mut frame = pool.alloc().unwrap();
        let (mut at, mut asked) = (0_u8, Vec::new());
        while at < 200 {
            let first = at;
            let receive = |frames: &mut [HeapFrame]| {
                asked.push(frames.len());
                let numbered = |(frame, n): (&mut HeapFrame, u8)| {
                    assert!(frame.fill(&[n; 100]));
                    n
                };
                Ok(frames.iter_mut().zip(first..).map(numbered).collect())
            };
            at += u8::try_from(many.want).unwrap();
            many.receive(receive, |_| 100).unwrap();
            for n in first..at {
                assert_eq!((many.deal(&mut frame), frame.head()), (Some(n), &[n; 100][..]));
            }
            assert_eq!(many.deal(&mut frame), None);
        }
        assert_eq!(asked, [1, 2, 4, 8, 16, 32, 32, 32, 32, 32, 32]);
        let none = |_: &mut [HeapFrame]| Err(io::ErrorKind::WouldBlock.into());
        many.receive(none, |_| 0).unwrap_err();
        assert_eq!(pool.in_use(), 1, "only ours");
    }

    #[test]
    fn long_frames_are_asked_for_by_the_few_and_a_dry_pool_gives_none() {
        let pool = FramePool::new(PoolConfig { max_heads: 40, ..PoolConfig::default() });
        let mut many = Many::<()>::new(pool.clone());
        let mut frame = pool.alloc().unwrap();
        let mut last = 0;
        for _ in 0..10 {
            let receive = |frames: &mut [HeapFrame]| {
                last = frames.len();
                Ok(frames.iter().map(|_| ()).collect())
            };
            many.receive(receive, |()| 64 << 10).unwrap();
            while many.deal(&mut frame).is_some() {}
        }
        assert_eq!(last, BYTES / (64 << 10));
        let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        many.spares.clear();
        let _rest: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        many.receive(|_| panic!("there is no frame to fill"), |()| 0).unwrap();
        assert_eq!(many.deal(&mut frame), None);
        drop(held);
    }

    #[test]
    fn one_that_is_refused_does_not_keep_others_from_being_sent() {
        let mut told = Vec::new();
        let send = |at: usize| match at {
            3 | 4 => Err(Errno::EMSGSIZE),
            0..3 => Ok(3 - at),
            _ => Ok(9),
        };
        send_all(8, send, |sent, range| told.push((sent.is_ok(), range)));
        assert_eq!(told, [(true, 0..3), (false, 3..4), (false, 4..5), (true, 5..8)]);
    }
}
