//! Doing things inside another network namespace.
//!
//! A thread's namespace decides where a socket or a TAP file belongs, for as long as that file
//! lives. So only the opening has to run in there: a short-lived thread enters, opens and ends,
//! and the switch's own threads never leave theirs.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use switch_core::config::Netns;
use switch_core::datapath::BackendError;

use crate::error::{errno, failed, failed_hint};

/// Which namespace a path stood for: a name can be deleted and made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetnsId {
    dev: u64,
    ino: u64,
}

/// Which namespace the path stands for now; `None` if there is none.
pub(crate) fn identify(netns: &Netns) -> Option<NetnsId> {
    let meta = std::fs::metadata(netns.path()).ok()?;
    Some(NetnsId { dev: meta.dev(), ino: meta.ino() })
}

/// Runs `f` inside `netns`, or where we are if there is none.
///
/// # Errors
/// [`BackendError::NotThere`] if the namespace does not exist, and what `f` answers.
pub(crate) fn run_in<T: Send>(
    netns: Option<&Netns>,
    f: impl FnOnce() -> Result<T, BackendError> + Send,
) -> Result<T, BackendError> {
    let Some(netns) = netns else { return f() };
    let path = netns.path();
    let attempted = || format!("enter network namespace {netns} ({})", path.display());
    let file = File::open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => BackendError::NotThere { what: format!("netns {netns}") },
        _ => failed(attempted(), e),
    })?;
    let enter = || {
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| match e {
            // `ip netns add` makes an ordinary file first and mounts the namespace over it.
            Errno::EINVAL => BackendError::NotThere { what: format!("netns {netns}") },
            Errno::EPERM => failed_hint(
                attempted(),
                e,
                "entering a namespace needs CAP_SYS_ADMIN: run vswitchd as root or grant it",
            ),
            _ => failed(attempted(), e),
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || enter().and_then(|()| f()))
            .map_err(|e| failed(format!("start a thread ({})", errno(&e)), e))?;
        thread.join().unwrap_or_else(|_| Err(failed(attempted(), "the thread panicked")))
    })
}
