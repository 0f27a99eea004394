//! What the benchmarks share: a datapath that costs nothing, workloads, a counting allocator, and
//! tables of interleaved pairs.
#![deny(unsafe_code)]

pub mod alloc;
pub mod pairs;
pub mod treadmill;
pub mod workload;
