//! The kinds of ports, one file each.

pub(crate) mod kernel;
pub(crate) mod keys;
