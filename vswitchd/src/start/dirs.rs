//! The run directory, and that it is ours alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use vswitch_api::Code;

use super::StartError;

/// Makes the run directory if need be, and locks it for as long as the answer lives. The lock goes
/// with the process, however that ends.
pub(super) fn lock_run_dir(dir: &Path) -> Result<Flock<File>, StartError> {
    let fail = |attempted: &str, cause: std::io::Error| {
        let message = format!("{attempted} {}: {cause}", dir.display());
        StartError::new(Code::Local, message)
            .with_hint("run vswitchd as root, or name another --run-dir")
    };
    if !dir.exists() {
        fs::create_dir_all(dir)
            .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755)))
            .map_err(|cause| fail("make the run directory", cause))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("vswitchd.lock"))
        .map_err(|cause| fail("write to the run directory", cause))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => {
            let message = format!("another vswitchd runs in {}", dir.display());
            StartError::new(Code::Exists, message)
                .with_hint("stop it, or give this one its own --run-dir and --state-dir")
        }
        errno => fail("lock the run directory", errno.into()),
    })
}
