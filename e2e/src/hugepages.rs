//! The machine's hugepages of 2 MiB: one program at a time changes how many there are.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

const TOTAL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const LOCK: &str = "/run/lock/vst-hugepages";

/// How many hugepages there are while this lives; then as many as before.
#[derive(Debug)]
pub struct Hugepages {
    before: u64,
    _lock: Flock<File>,
}

impl Hugepages {
    /// Sets `nr_hugepages` so that as many are free, beside those that other programs have, and waits
    /// for others that did.
    ///
    /// # Errors
    /// Not root, or the kernel finds not enough memory in one piece.
    pub fn set(free: u64) -> Result<Self> {
        let file = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {LOCK}"))?;
        let before = number(TOTAL)?;
        let taken = before.saturating_sub(Self::free()?);
        let set = Self { before, _lock: lock };
        write(if free == 0 { 0 } else { taken + free })?;
        let now = Self::free()?;
        ensure!(
            now >= free,
            "asked for {free} free hugepages, and there are {now}: memory is in pieces or in use; \
             try `sync; echo 3 > /proc/sys/vm/drop_caches`"
        );
        Ok(set)
    }

    /// How many are free.
    ///
    /// # Errors
    /// The kernel has none of that size.
    pub fn free() -> Result<u64> {
        number(FREE)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Err(error) = write(self.before) {
            eprintln!("nr_hugepages does not go back to {}: {error:#}", self.before);
        }
    }
}

fn number(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().parse()?)
}

fn write(total: u64) -> Result<()> {
    fs::write(TOTAL, total.to_string()).with_context(|| format!("cannot write {TOTAL}"))
}
