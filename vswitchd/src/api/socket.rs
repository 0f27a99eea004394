//! The API's Unix socket: where it is, who may connect, and what becomes of an old one.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, chown};

/// The group whose members may connect.
const GROUP: &str = "vswitch";
/// Read and write for owner and group.
const MODE: u32 = 0o660;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon answers on it.
    #[error("{} is in use by another vswitchd", .0.display())]
    Live(PathBuf),
    /// Something else is in its place.
    #[error("{} exists and is not a socket", .0.display())]
    Taken(PathBuf),
    /// The system refused.
    #[error("{attempted} {}: {cause}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

/// Makes the socket. One that a killed daemon left is replaced.
///
/// # Errors
/// It is in use, something else has its name, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |attempted| {
        move |cause: io::Error| SocketError::Io { attempted, path: path.to_owned(), cause }
    };
    // Not followed: a link that somebody left here must not lead elsewhere.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::Taken(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(SocketError::Live(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(fail("remove the old socket"))?,
    }
    // Nobody may connect before the permissions are as they are to be.
    let earlier = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(earlier);
    let listener = bound.map_err(fail("make the socket"))?;
    match Group::from_name(GROUP) {
        Ok(Some(group)) => {
            chown(path, None, Some(group.gid))
                .map_err(|errno| fail("give the group `vswitch`")(errno.into()))?;
        }
        _ => tracing::info!("there is no group `{GROUP}`: only root may use the API"),
    }
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(fail("set the mode of"))?;
    listener.set_nonblocking(true).map_err(fail("set up"))?;
    Ok(listener)
}
