//! Switches on DPDK side by side: ours, Open vSwitch and testpmd get the same frames from the same
//! sources at the same cost, and are counted by the same code outside them.
//!
//! One worker core (CPU 1; control is on CPU 0), and ports that cost little (see `port.c`): what is
//! compared is the switches' own work. Mbufs go round in the pool's cache and are warm, so that the
//! figures are above what a NIC would give; the ratios are what counts. Rates are by CPU time of
//! the worker: what others take of its CPU meanwhile does not count.

pub mod control;
pub mod frames;
pub mod hugepages;
pub mod port;
pub mod report;
pub mod rows;
pub mod run;
pub mod scene;
pub mod side;
pub mod worker;
