//! Any switch from outside: frames from a generator through two or more of its ports to a sink, by
//! the practice of RFC 2544 and RFC 8219.
//!
//! | part | modules | needs DPDK |
//! | --- | --- | --- |
//! | method | [`trial`], [`search`], [`tally`] | no |
//! | rows and frames | [`row`], [`traffic`] | no |
//! | tables of addresses | [`fdb`] | no |
//! | changes to a switch | [`reconfigure`] | no |
//! | results | [`result`], [`table`], [`plot`], [`html`] | no |
//! | switches and what lies before them | [`sut`], [`wiring`] | no |
//! | generator and sink | `generator`, `lane`, `taken` | yes |
//! | a run | `session`; `inproc` without a generator | yes |

pub mod fdb;
#[cfg(feature = "dpdk")]
pub mod generator;
pub mod html;
#[cfg(feature = "dpdk")]
pub mod inproc;
#[cfg(feature = "dpdk")]
mod lane;
pub mod plot;
pub mod reconfigure;
pub mod result;
pub mod row;
pub mod search;
#[cfg(feature = "dpdk")]
pub mod session;
#[cfg(test)]
mod simulated;
pub mod sut;
pub mod table;
#[cfg(feature = "dpdk")]
mod taken;
pub mod tally;
pub mod traffic;
pub mod trial;
pub mod wiring;
