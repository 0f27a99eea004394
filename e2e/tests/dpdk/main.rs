//! The daemon on DPDK: how it starts, what it tells, and what it leaves behind.
#![forbid(unsafe_code)]

mod start;
mod tells;
mod vdevs;
mod vhost;
