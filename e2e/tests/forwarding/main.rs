//! Forwarding, end to end: real devices at the ends and `vswitchd` between.

#![forbid(unsafe_code)]

mod isolation;
mod lab;
mod learning;
mod loops;
mod model;
mod monitor;
mod ovs;
