//! The atomics that shared tables are built from: the standard library's, or loom's under
//! `--cfg loom`, where a model checker runs every interleaving and every allowed reordering.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
