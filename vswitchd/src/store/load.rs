//! The configuration file against the store, at start and when it was written anew.

use vswitch_api::config::{self, Desired, Problems};
use vswitch_api::types::Origin;

use super::{Commit, Misfit, Store, StoreError, with_file};

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It is as it was when it was loaded last: the store is used.
    Unchanged,
    /// It replaced the objects of origin `file`; so many objects changed.
    Replaced(usize),
}

/// Why there is no desired state.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not valid.
    #[error("the configuration file is not valid:\n{0}")]
    File(Problems),
    /// The file is valid, and does not fit what other origins have made.
    #[error("the configuration file does not fit what is in the store:\n{0}")]
    Misfit(Misfit),
    /// What is in the store does not make up a configuration.
    #[error("the store holds what this version does not accept:\n{0}")]
    Stored(Problems),
}

/// Settles the file against the store, as a new revision if that changes anything.
///
/// The store is used, unless the file changed since it was last loaded: then it replaces the
/// objects of origin `file` and leaves the others. A change that was still waiting for its
/// confirmation when the daemon ended is taken back first.
///
/// # Errors
/// Each cause by itself; the store is as it was.
pub fn load(
    store: &mut Store,
    file: &[u8],
    config_wins: bool,
) -> Result<(Desired, Loaded), LoadError> {
    if let Some(pending) = store.pending() {
        let back = store.at(pending.back_to)?.unwrap_or_else(|| store.objects().clone());
        store.commit(Commit {
            origin: Origin::Api,
            what: format!("rollback to {}: ended before it was confirmed", pending.back_to),
            objects: back,
            file: None,
            pending: None,
        })?;
    }
    if store.file()?.as_deref() == Some(file) {
        return Ok((store.desired().map_err(LoadError::Stored)?, Loaded::Unchanged));
    }
    let desired = config::from_toml_bytes(file).map_err(LoadError::File)?;
    let next = store.revision() + 1;
    let (objects, desired) =
        with_file(store.objects(), desired, config_wins, next).map_err(LoadError::Misfit)?;
    let deltas = store.commit(Commit {
        origin: Origin::File,
        what: "load the configuration file".to_owned(),
        objects,
        file: Some(file),
        pending: None,
    })?;
    Ok((desired, Loaded::Replaced(deltas.len())))
}
