//! The virtual switch daemon: control thread, workers' lives, store and API server.
//!
//! Three kinds of threads. *Workers* move frames and know nothing of names, files or sockets.
//! The *control thread* ([`control`]) is the only one that changes anything: it owns the backend and
//! the store. The *API* ([`api`]) runs on tokio, turns requests into typed actions for the control
//! thread, and never touches the switch itself.
#![forbid(unsafe_code)]

pub mod api;
pub mod control;
pub mod cpus;
pub mod events;
pub mod export;
pub mod metrics;
pub mod start;
pub mod store;
pub mod watch;
pub mod workers;
