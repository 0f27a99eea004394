//! What libdpdk refused, in words.

use std::ffi::CStr;

use switch_core::datapath::BackendError;

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

/// The cause when a driver gives none.
const DRIVER_REFUSES: &str = "the driver refuses, and does not say why";

impl DpdkError {
    /// The error of a call that answered a negative errno.
    pub(crate) fn from_code(attempted: impl Into<String>, code: i32) -> Self {
        // Drivers say -1 when they mean no errno in particular.
        if code == -1 {
            return Self::unfit(attempted, DRIVER_REFUSES);
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

    /// The same, with what DPDK had to say while it happened.
    #[must_use]
    pub(crate) fn with_words(mut self, words: &[String]) -> Self {
        if let (Self::Refused { cause, .. } | Self::Unfit { cause, .. }, false) =
            (&mut self, words.is_empty())
        {
            if cause == DRIVER_REFUSES {
                cause.clear();
            } else {
                cause.push_str("; ");
            }
            cause.push_str(&words.join("; "));
        }
        self
    }

    /// For the switch, with what mends it.
    pub(crate) fn into_backend(self, hint: Option<&str>) -> BackendError {
        let hint = hint.map(str::to_owned);
        let (attempted, cause) = match self {
            Self::Refused { attempted, cause, .. } | Self::Unfit { attempted, cause } => {
                (attempted, cause)
            }
            Self::AlreadyStarted => ("starting DPDK".into(), self.to_string()),
        };
        BackendError::Failed { attempted, cause, hint }
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
