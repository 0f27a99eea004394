//! Overlays, end to end: tenants of one network on different hosts, behind different switches.

#![forbid(unsafe_code)]

mod kernel;
mod lab;
mod peers;
mod rig;
mod switch;
