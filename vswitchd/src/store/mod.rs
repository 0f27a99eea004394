//! Desired state on disk: the objects, the last revisions, and the file that was loaded last.
//!
//! One `redb` file in the state directory. Every change is one transaction that is on the disk
//! before its caller is answered, so that after a crash at any moment an acknowledged change is
//! there and no change is there by half. Revisions are kept as what they changed, newest 100; an
//! older state is the present one with the changes since taken back.

mod error;
mod load;
mod state;
#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use vswitch_api::config::{Desired, Problems};
use vswitch_api::types::Origin;

pub use error::StoreError;
pub use load::{LoadError, Loaded, load};
pub use state::{
    Delta, Misfit, Object, ObjectId, Objects, Specs, deltas, desired, edited, specs, with_file,
};

use crate::workers::panic_text;

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Number of the present revision, as JSON.
const REVISION: &str = "revision";
/// The configuration file as it was when it was last loaded. The text itself and not a digest: it
/// is small, and nothing can collide.
const FILE: &str = "file";
/// The change that waits for its confirmation, as JSON.
const PENDING: &str = "pending";

/// How many revisions are kept.
pub const HISTORY: usize = 100;
/// Pages the database may keep in memory, bytes. Desired state is small.
const CACHE: usize = 4 << 20;

/// One revision, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// When it was made, in UTC.
    pub time: String,
    /// Who made it.
    pub origin: Origin,
    /// What was done, and by whom.
    pub what: String,
    /// What it changed.
    pub deltas: Vec<Delta>,
}

/// A change that is taken back unless it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The revision to go back to.
    pub back_to: u64,
}

/// A change to be made.
#[derive(Debug)]
pub struct Commit<'a> {
    /// Who makes it.
    pub origin: Origin,
    /// What is done, and by whom.
    pub what: String,
    /// The objects as they are to be.
    pub objects: Objects,
    /// The file that was loaded, if this is about one.
    pub file: Option<&'a [u8]>,
    /// What waits for its confirmation from now on.
    pub pending: Option<Pending>,
}

/// The store, open.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
    revision: u64,
    objects: Objects,
    pending: Option<Pending>,
}

impl Store {
    /// Opens the store in `dir`, or makes it. The directory is made if need be.
    ///
    /// # Errors
    /// It cannot be read or written, is in use by another process, or is damaged; each says what to
    /// do.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        if !dir.exists() {
            fs::create_dir_all(dir)
                .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o750)))
                .map_err(|cause| StoreError::io("make the directory", dir, cause))?;
        }
        let path = dir.join("desired.redb");
        // The library checks every page it reads, but promises no more than that it tries: a panic
        // over a damaged file must not be what the operator gets to see.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_file(&path)));
        opened.unwrap_or_else(|panic| Err(StoreError::Damaged { path, cause: panic_text(&*panic) }))
    }

    fn open_file(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            make(path)?;
        }
        let fail = |cause| StoreError::database("open the store", path, cause);
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let database = builder.open(path).map_err(|cause| fail(cause.into()))?;
        Self::of(database, path.to_owned())
    }

    /// A store that is nowhere but in memory, and goes with it.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from("in memory");
        let make = || -> Result<Database, redb::Error> {
            with_tables(Builder::new().create_with_backend(InMemoryBackend::new())?)
        };
        let made = make().map_err(|cause| StoreError::database("make the store", &path, cause));
        Self::of(made?, path)
    }

    fn of(database: Database, path: PathBuf) -> Result<Self, StoreError> {
        let (revision, objects, pending) = (0, Objects::new(), None);
        let mut store = Self { database, path, revision, objects, pending };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let revision = meta.get(REVISION)?.map(|value| value.value().to_vec());
            let pending = meta.get(PENDING)?.map(|value| value.value().to_vec());
            let mut objects = Vec::new();
            for row in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = row?;
                objects.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok((revision, pending, objects))
        };
        let (revision, pending, objects) =
            read().map_err(|cause| StoreError::database("read the store", &self.path, cause))?;
        let revision = revision.map(|bytes| self.decode(REVISION, &bytes)).transpose()?;
        let pending = pending.map(|bytes| self.decode(PENDING, &bytes)).transpose()?;
        let mut all = Objects::new();
        for (key, bytes) in objects {
            let row: Row = self.decode(&key, &bytes)?;
            all.insert(row.id, row.object);
        }
        (self.revision, self.pending, self.objects) = (revision.unwrap_or(0), pending, all);
        Ok(())
    }

    /// The present revision; 0 before the first change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What waits for its confirmation.
    pub fn pending(&self) -> Option<Pending> {
        self.pending
    }

    /// The configuration that the objects make up.
    ///
    /// # Errors
    /// It does not fit together: it was written by another version.
    pub fn desired(&self) -> Result<Desired, Problems> {
        desired(self.objects.iter().map(|(id, object)| (id, &object.spec)))
    }

    /// The configuration file as it was when it was last loaded.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn file(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let meta = self.database.begin_read()?.open_table(META)?;
            Ok(meta.get(FILE)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|cause| StoreError::database("read the store", &self.path, cause))
    }

    /// Makes a change and waits until it is on the disk. Answers with what it changed; if that is
    /// nothing, there is no new revision.
    ///
    /// # Errors
    /// It could not be written: nothing has changed.
    pub fn commit(&mut self, commit: Commit<'_>) -> Result<Vec<Delta>, StoreError> {
        let deltas = deltas(&self.objects, &commit.objects);
        let revision = self.revision + u64::from(!deltas.is_empty());
        let record = Revision {
            time: timestamp(SystemTime::now()),
            origin: commit.origin,
            what: commit.what,
            deltas,
        };
        self.write(revision, &record, commit.file, commit.pending)?;
        self.revision = revision;
        self.pending = commit.pending;
        if !record.deltas.is_empty() {
            self.objects = commit.objects;
        }
        Ok(record.deltas)
    }

    fn write(
        &self,
        revision: u64,
        record: &Revision,
        file: Option<&[u8]>,
        pending: Option<Pending>,
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            // Each commit is made durable with one sync: the default of the library.
            let transaction = self.database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert(REVISION, encode(&revision).as_slice())?;
                match pending {
                    Some(pending) => meta.insert(PENDING, encode(&pending).as_slice())?,
                    None => meta.remove(PENDING)?,
                };
                if let Some(file) = file {
                    meta.insert(FILE, file)?;
                }
                let mut objects = transaction.open_table(OBJECTS)?;
                for delta in &record.deltas {
                    let key = delta.id.key();
                    match &delta.after {
                        Some(object) => {
                            let row = Row { id: delta.id.clone(), object: object.clone() };
                            objects.insert(key.as_str(), encode(&row).as_slice())?
                        }
                        None => objects.remove(key.as_str())?,
                    };
                }
                if !record.deltas.is_empty() {
                    let mut revisions = transaction.open_table(REVISIONS)?;
                    revisions.insert(revision, encode(record).as_slice())?;
                    let oldest = (revision + 1).saturating_sub(HISTORY as u64);
                    revisions.retain(|number, _| number >= oldest)?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|cause| StoreError::database("write the store", &self.path, cause))
    }

    /// The revisions that are kept, newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn history(&self) -> Result<Vec<(u64, Revision)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let mut rows = Vec::new();
            for row in self.database.begin_read()?.open_table(REVISIONS)?.iter()?.rev() {
                let (number, value) = row?;
                rows.push((number.value(), value.value().to_vec()));
            }
            Ok(rows)
        };
        let rows =
            read().map_err(|cause| StoreError::database("read the store", &self.path, cause))?;
        rows.into_iter()
            .map(|(number, bytes)| {
                Ok((number, self.decode(&format!("revision {number}"), &bytes)?))
            })
            .collect()
    }

    /// The objects as they were at `revision`; `None` if that was never there or is forgotten.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn at(&self, revision: u64) -> Result<Option<Objects>, StoreError> {
        if revision > self.revision {
            return Ok(None);
        }
        let mut objects = self.objects.clone();
        let mut next = self.revision;
        for (number, record) in self.history()? {
            if number <= revision {
                break;
            }
            for delta in record.deltas {
                match delta.before {
                    Some(before) => objects.insert(delta.id, before),
                    None => objects.remove(&delta.id),
                };
            }
            next = number - 1;
        }
        Ok((next <= revision).then_some(objects))
    }

    fn decode<T: for<'de> Deserialize<'de>>(
        &self,
        what: &str,
        bytes: &[u8],
    ) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|cause| StoreError::Damaged {
            path: self.path.clone(),
            cause: format!("{what}: {cause}"),
        })
    }
}

/// An object with its name, as it is kept.
#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    id: ObjectId,
    #[serde(flatten)]
    object: Object,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Our own types, with string keys: this cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Makes an empty store under another name and moves it into place, so that a crash leaves either
/// none or a whole one.
fn make(path: &Path) -> Result<(), StoreError> {
    let new = path.with_extension("new");
    if new.exists() {
        fs::remove_file(&new).map_err(|cause| StoreError::io("remove", &new, cause))?;
    }
    let create = || -> Result<(), redb::Error> {
        with_tables(Builder::new().set_cache_size(CACHE).create(&new)?).map(drop)
    };
    create().map_err(|cause| StoreError::database("make the store", &new, cause))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all()))
        .map_err(|cause| StoreError::io("make the store", path, cause))
}

/// Makes the tables that a store has.
fn with_tables(database: Database) -> Result<Database, redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(REVISIONS)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(database)
}

/// A moment as the API shows it.
pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
