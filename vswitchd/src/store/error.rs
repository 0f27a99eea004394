//! What can be wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// Another process has it.
    #[error("the store {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was once written.
    #[error("the store {} is damaged: {cause}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        cause: String,
    },
}

impl StoreError {
    pub(super) fn io(attempted: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { attempted, path: path.to_owned(), cause }
    }

    pub(super) fn database(attempted: &'static str, path: &Path, cause: redb::Error) -> Self {
        let path = path.to_owned();
        match cause {
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path },
            // What the library says of a file that is not one of its own, or not a whole one.
            redb::Error::Io(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged { path, cause: cause.to_string() }
            }
            redb::Error::Io(cause) => Self::Io { attempted, path, cause },
            other => Self::Damaged { path, cause: other.to_string() },
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { cause, path, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                format!(
                    "run vswitchd as the owner of {}, or name another --state-dir",
                    path.display()
                )
            }
            Self::Io { .. } => {
                "look at the disk and the permissions, or name another --state-dir".into()
            }
            Self::InUse { .. } => {
                "stop the vswitchd that runs, or give this one its own --run-dir and --state-dir"
                    .into()
            }
            Self::Damaged { path, .. } => format!(
                "restore it from a backup, or move it away (mv {0} {0}.damaged): vswitchd then starts \
                 from the configuration file alone, without what was made through the API",
                path.display()
            ),
        }
    }
}
