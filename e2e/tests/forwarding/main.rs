//! Forwarding, end to end: real devices at the ends and `vswitchd` between.

#![forbid(unsafe_code)]

mod bad_frames;
mod exports;
mod held;
mod isolation;
mod lab;
mod learning;
mod loops;
mod mirror;
mod model;
mod monitor;
mod ovs;
mod reasons;
mod replay;
mod seeing;
mod tcp;
