//! DPDK's log lines, in the log of the switch.
//!
//! libdpdk writes each line to a `FILE`. Ours is one whose writes come back here, in the thread that
//! logs, where libdpdk also tells the level of the line.

use std::cell::RefCell;
use std::ffi::{c_char, c_long, c_void};
use std::ptr;

use tracing::Level;

use crate::error::DpdkError;

/// Lines about what the switch looks at and tells of itself, and what `net_tap` goes without for
/// functions that the switch does not use: flow rules and secondary processes.
const QUIET: &[&str] = &[
    "hugepages reported",
    "tap_nl_dump_ext_ack",
    "multiq qdisc",
    "Disabling rte flow support",
    "start req to secondary",
    // What the far end of a vhost-user socket makes it say, as often as it likes.
    "VHOST_",
];

/// Sends DPDK's lines to `tracing`, from now to the end of the process.
pub(crate) fn start() -> Result<(), DpdkError> {
    let attempted = "taking over DPDK's log";
    let functions =
        dpdk_sys::cookie_io_functions_t { read: None, write: Some(write), seek: None, close: None };
    // SAFETY: the mode is a terminated string; `write` needs no cookie.
    let file = unsafe { dpdk_sys::fopencookie(ptr::null_mut(), c"w".as_ptr(), functions) };
    if file.is_null() {
        return Err(DpdkError::unfit(attempted, std::io::Error::last_os_error().to_string()));
    }
    // SAFETY: an open stream, which is never closed.
    match unsafe { dpdk_sys::rte_openlog_stream(file) } {
        0 => Ok(()),
        _ => Err(DpdkError::last(attempted)),
    }
}

/// The argument that says which lines libdpdk makes at all: those that somebody would see.
pub(crate) fn argument() -> &'static str {
    if tracing::enabled!(target: "dpdk", Level::DEBUG) {
        "--log-level=*:debug"
    } else if tracing::enabled!(target: "dpdk", Level::INFO) {
        "--log-level=*:notice"
    } else {
        "--log-level=*:warning"
    }
}

thread_local! {
    /// What is said in this thread while somebody listens.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Does it, and answers what DPDK had to say of it, for an error message rather than the log.
pub(crate) fn hear<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    HEARD.set(Some(Vec::new()));
    let done = f();
    (done, HEARD.take().unwrap_or_default())
}

/// What the stream is written with: whole lines as a rule, as libdpdk flushes after each.
unsafe extern "C" fn write(_: *mut c_void, text: *const c_char, len: usize) -> c_long {
    // SAFETY: the stream's own buffer of that length.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    // SAFETY: reads a variable of this thread.
    let level = unsafe { dpdk_sys::rte_log_cur_msg_loglevel() };
    let heard = |line: &str| {
        HEARD.with_borrow_mut(|heard| heard.as_mut().map(|lines| lines.push(line.to_owned())))
    };
    for line in String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim().is_empty()) {
        if heard(line.trim()).is_some() {
            tracing::debug!(target: "dpdk", "{line}");
        } else {
            emit(level, line.trim_end());
        }
    }
    // That all of it was taken.
    c_long::try_from(len).unwrap_or(c_long::MAX)
}

/// An error of the library is a warning here: what it means for the switch is said by whoever
/// called, and by nobody where it means nothing.
fn emit(level: i32, line: &str) {
    match u32::try_from(level).unwrap_or(dpdk_sys::RTE_LOG_WARNING) {
        _ if QUIET.iter().any(|quiet| line.contains(quiet)) => {
            tracing::debug!(target: "dpdk", "{line}");
        }
        0..=dpdk_sys::RTE_LOG_WARNING => tracing::warn!(target: "dpdk", "{line}"),
        dpdk_sys::RTE_LOG_NOTICE => tracing::info!(target: "dpdk", "{line}"),
        _ => tracing::debug!(target: "dpdk", "{line}"),
    }
}
