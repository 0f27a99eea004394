//! How this crate words what the kernel refused.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;
use switch_core::datapath::BackendError;

/// An error that says what was attempted and why it failed.
pub(crate) fn failed(attempted: impl Into<String>, cause: impl Display) -> BackendError {
    BackendError::Failed { attempted: attempted.into(), cause: cause.to_string(), hint: None }
}

/// The same with the command or setting that mends it.
pub(crate) fn failed_hint(
    attempted: impl Into<String>,
    cause: impl Display,
    hint: impl Into<String>,
) -> BackendError {
    BackendError::Failed {
        attempted: attempted.into(),
        cause: cause.to_string(),
        hint: Some(hint.into()),
    }
}

/// What a missing permission is mended by.
pub(crate) const NEEDS_NET_ADMIN: &str =
    "run vswitchd as root or give it the capability: setcap cap_net_admin,cap_net_raw+ep vswitchd";

/// A system call's error, with the hint that fits a missing permission.
pub(crate) fn refused(attempted: impl Into<String>, err: &io::Error) -> BackendError {
    match errno(err) {
        Errno::EPERM | Errno::EACCES => failed_hint(attempted, err, NEEDS_NET_ADMIN),
        _ => failed(attempted, err),
    }
}

/// The errno of an I/O error; `UnknownErrno` if it has none.
pub(crate) fn errno(err: &io::Error) -> Errno {
    Errno::from_raw(err.raw_os_error().unwrap_or(0))
}
