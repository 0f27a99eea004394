//! Sums over frames in several pieces, and finishing a checksum its sender left to hardware.

use std::ops::Range;

use crate::frame::{Csum, Frame};
use crate::wire::Checksum;

/// What the offload metadata points at is not in the frame's head. Validated metadata is never so,
/// and stays so under pushing and pulling; a frame that is so all the same must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offload metadata points behind the frame's head")]
pub struct BeyondHead;

/// The sum over a range of a frame's bytes, which may lie in several pieces. What of the range is
/// behind the frame's end counts for nothing.
///
/// A checksum in the range must be finished before one that encloses it, as GRE's may.
#[inline]
#[must_use]
pub fn sum_range<F: Frame>(frame: &F, range: Range<usize>) -> Checksum {
    let mut sum = Checksum::new();
    let mut start = 0usize;
    frame.for_each_segment(&mut |piece| {
        let [from, to] =
            [range.start, range.end].map(|at| at.saturating_sub(start).min(piece.len()));
        sum.add_bytes(piece.get(from..to).unwrap_or_default());
        start = start.saturating_add(piece.len());
    });
    sum
}

/// Finishes the checksum of a frame, if it is unfinished.
///
/// Like the kernel and NICs, this takes the pseudo-header's part from the field itself: a sender
/// that wrote nonsense there sent a packet with a wrong checksum, and nothing worse. Not for
/// super-frames, whose checksums [`super::segment`] finishes.
///
/// # Errors
/// [`BeyondHead`], with the frame unchanged.
pub fn finish_checksum<F: Frame>(frame: &mut F) -> Result<(), BeyondHead> {
    let mut offload = frame.offload();
    let Csum::Partial { start, offset } = offload.csum else { return Ok(()) };
    let sum = sum_range(frame, start.into()..usize::MAX);
    let at = usize::from(start).saturating_add(offset.into());
    let field = frame.head_mut().get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    // A sum of zero is written as 0xffff, which UDP needs and TCP does not mind.
    *field.ok_or(BeyondHead)? = sum.finish_udp().to_be_bytes();
    offload.csum = Csum::Unknown;
    frame.set_offload(offload);
    Ok(())
}
