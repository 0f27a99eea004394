//! What libdpdk refused, in words.

use std::ffi::CStr;

/// Why a DPDK call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DpdkError {
    /// libdpdk refused it.
    #[error("{attempted}: {cause} (errno {errno})")]
    Refused {
        /// What was attempted, on what.
        attempted: String,
        /// The positive errno value.
        errno: i32,
        /// Its text.
        cause: String,
    },
    /// What was asked for cannot be, whatever the system says.
    #[error("{attempted}: {cause}")]
    Unfit {
        /// What was attempted, on what.
        attempted: String,
        /// Why it cannot be.
        cause: String,
    },
    /// The EAL starts once in the life of a process, and it did.
    #[error("the DPDK environment (EAL) of this process was started already")]
    AlreadyStarted,
}

impl DpdkError {
    /// The error of a call that answered a negative errno.
    pub(crate) fn from_code(attempted: impl Into<String>, code: i32) -> Self {
        // Drivers say -1 when they mean no errno in particular.
        if code == -1 {
            return Self::unfit(attempted, "the driver refuses; its own message is in the log");
        }
        Self::refused(attempted, code.saturating_neg())
    }

    /// The error of a call that sets `rte_errno`.
    pub(crate) fn last(attempted: impl Into<String>) -> Self {
        // SAFETY: reads a variable of this thread.
        let errno = unsafe { dpdk_sys::vsw_errno() };
        Self::refused(attempted, errno)
    }

    fn refused(attempted: impl Into<String>, errno: i32) -> Self {
        Self::Refused { attempted: attempted.into(), errno, cause: text(errno) }
    }

    pub(crate) fn unfit(attempted: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Unfit { attempted: attempted.into(), cause: cause.into() }
    }

    /// The positive errno value, if libdpdk gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Unfit { .. } | Self::AlreadyStarted => None,
        }
    }
}

fn text(errno: i32) -> String {
    // SAFETY: no precondition; the answer is never null.
    let text = unsafe { dpdk_sys::rte_strerror(errno) };
    // SAFETY: a terminated string in a buffer of this thread, which nothing changes meanwhile.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}
