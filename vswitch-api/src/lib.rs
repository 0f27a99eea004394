//! What `vswitchd` and `vswitch-ctl` share: the configuration, the API's requests and replies, its
//! error codes, and the client.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
mod counted;
pub mod error;
pub mod hex;
mod openapi;
pub mod routes;
pub mod types;

pub use counted::counted;
pub use error::{ApiError, Code, ErrorBody};
pub use openapi::openapi;
