//! Offload metadata: checked where it comes in, and carried out in software where a port cannot.
//!
//! A sender may leave the layer-4 checksum unfinished, or hand over a *super-frame* that stands for
//! many. What it says about that is a claim: [`validate`] checks it against the frame itself and
//! makes the [`Offload`] the core relies on. Before a port that lacks the capability,
//! [`finish_checksum`] and [`segment`] do the work here.
//!
//! The other way round, [`join`] makes super-frames of what somebody cut.
//!
//! This is the plain path: correct for every frame, and one pass over the payload.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod cut;
mod finish;
mod join;
mod validate;
pub mod vnet;

pub use cut::{CutError, CutFailed, segment};
pub use finish::{BeyondHead, finish_checksum, sum_range};
pub use join::{InBytes, Joined, PIECES_MAX, join};
pub use validate::{BadOffload, MAX_SEGMENTS, validate};
pub use vnet::{VnetHeader, VnetLayout};

use crate::frame::{Csum, GsoKind, Offload};
use crate::wire::{Header, TcpHeader, UdpHeader};

/// Bytes in front of a super-frame's payload, all of which each of its segments repeats.
///
/// None if `offload` is not that of a super-frame, or if `head` does not hold its layer-4 header,
/// which validated metadata rules out.
#[inline]
#[must_use]
pub fn header_len(head: &[u8], offload: &Offload) -> Option<usize> {
    let (Some(gso), Csum::Partial { start, .. }) = (offload.gso, offload.csum) else {
        return None;
    };
    let l4 = usize::from(start);
    let l4_len = match gso.kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => TcpHeader::at(head, l4).ok()?.header_len(),
        GsoKind::Udp => UdpHeader::LEN,
    };
    l4.checked_add(l4_len).filter(|len| *len <= head.len())
}

#[cfg(test)]
mod tests;
