//! What `vswitchd` and `vswitch-ctl` share: the configuration, the API's requests and replies, its
//! error codes, and the client.
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod types;

pub use error::{ApiError, Code, ErrorBody};
