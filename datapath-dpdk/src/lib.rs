//! The datapath on DPDK, in poll mode.
//!
//! | layer | modules | unsafe |
//! | --- | --- | --- |
//! | bindings | `dpdk-sys` | generated |
//! | DPDK, made safe | [`eal`], `log`, [`lcore`], [`mempool`], [`mbuf`], [`ring`], [`ethdev`] | all of it |
//! | the machine | `pages`, `prefetch` | hints, which change nothing |
//! | the switch's traits | [`datapath`], [`backend`], `kernel`, `ports` | none |
//! | tunnels on devices | `uplink` | none |
//! | decisions before the start | [`memory`], [`arguments`] | none |
//!
//! The invariants that the lower layer keeps: the EAL starts once; a pool stays until the process
//! ends, so it outlives its mbufs; a queue is used by one thread at a time; an mbuf given to a
//! driver is gone; the bytes that one frame writes are seen by no other.
#![deny(unsafe_op_in_unsafe_fn)]

#[forbid(unsafe_code)]
pub mod arguments;
#[forbid(unsafe_code)]
pub mod backend;
#[forbid(unsafe_code)]
pub mod datapath;
pub mod eal;
mod error;
pub mod ethdev;
#[forbid(unsafe_code)]
mod kernel;
pub mod lcore;
mod log;
pub mod mbuf;
#[forbid(unsafe_code)]
pub mod memory;
pub mod mempool;
mod pages;
#[forbid(unsafe_code)]
mod ports;
mod prefetch;
pub mod ring;
#[forbid(unsafe_code)]
mod uplink;

pub use backend::DpdkBackend;
pub use datapath::DpdkDatapath;
pub use eal::{Eal, EalConfig, Memory};
pub use error::DpdkError;
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolConfig};
