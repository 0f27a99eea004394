//! The virtual switch daemon: control thread, workers' lives, store and API server.
//!
//! Three kinds of threads. *Workers* move frames and know nothing of names, files or sockets.
//! The *control thread* ([`control`]) is the only one that changes anything: it owns the backend and
//! the store. The *API* ([`api`]) runs on tokio, turns requests into typed actions for the control
//! thread, and never touches the switch itself.
//!
//! What starts all this on real devices is part of the program (`start`), not of the library: whoever
//! links the library ([`replay`] in `vswitch-ctl`) gets no backend with it.
#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod clock;
pub mod control;
pub mod cpus;
pub mod events;
pub mod export;
pub mod metrics;
pub mod replay;
pub mod store;
pub mod watch;
pub mod workers;
