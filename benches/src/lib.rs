//! What the benchmarks share: datapaths that cost nothing, workloads, a counting allocator, and
//! tables of interleaved pairs.
#![deny(unsafe_code)]

pub mod alloc;
pub mod choice;
pub mod dpdk;
pub mod kernel;
pub mod machine;
pub mod overlay;
pub mod pairs;
pub mod rate;
pub mod treadmill;
pub mod workload;
