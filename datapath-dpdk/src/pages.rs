//! The pages that memory of ours is made of.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Size of a transparent hugepage on the machines that DPDK is used on.
const HUGE: usize = 2 << 20;

/// Asks the kernel to make `memory`, which nobody touched yet, of hugepages: with addresses at random
/// each look-up would else miss the TLB, too. Where it does not, nothing is lost.
pub(crate) fn prefer_huge<T>(memory: &[T]) {
    let bytes = size_of_val(memory);
    let start: NonNull<c_void> = NonNull::from(memory).cast();
    // The kernel takes whole pages.
    let skip = start.align_offset(HUGE).min(bytes);
    let whole = (bytes - skip) / HUGE * HUGE;
    if whole == 0 {
        return;
    }
    // SAFETY: not beyond the end of `memory`.
    let start = unsafe { start.byte_add(skip) };
    // SAFETY: a hint about pages that lie in `memory` and in nothing else; contents stay.
    if let Err(error) = unsafe { madvise(start, whole, MmapAdvise::MADV_HUGEPAGE) } {
        tracing::debug!(%error, whole, "the FDB stays on ordinary pages");
    }
}
