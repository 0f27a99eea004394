//! The kinds of ports, one file each.

mod below;
pub(crate) mod devargs;
pub(crate) mod device;
pub(crate) mod kernel;
pub(crate) mod keys;
pub(crate) mod vf;
pub(crate) mod vhost;
