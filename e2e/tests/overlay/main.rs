//! Overlays, end to end: tenants of one network on different hosts, behind different switches.

#![forbid(unsafe_code)]

mod adjust;
mod dpdk;
mod guest;
mod hostile;
mod kernel;
mod lab;
mod mirror;
mod ovs;
mod packets;
mod peers;
mod pmtu;
mod replay;
mod rig;
mod switch;
mod switches;
mod trouble;
mod vlans;
