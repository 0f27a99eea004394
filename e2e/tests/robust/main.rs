//! What a switch must bear: ports that flap, floods, crashes, stopped readers, devices that vanish,
//! a misused API, and configurations that are wrong. Real Linux stacks and a real guest at the ends.
//!
//! Sizes are small by default; `VSWITCH_TEST_FULL=1` runs the same code at the sizes that count.
#![forbid(unsafe_code)]

mod abuse;
mod config;
mod exit_codes;
mod flaps;
mod flood;
mod held;
mod kill;
mod order;
mod rig;
mod stop;
mod vanish;
