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
    /// Not root, or there is not enough memory, or not in one piece.
    pub fn set(free: u64) -> Result<Self> {
        let file = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {LOCK}"))?;
        let before = number(TOTAL)?;
        let there = Self::free()?;
        let taken = before.saturating_sub(there);
        let missing = free.saturating_sub(there).saturating_mul(2);
        let available = available_mib()?;
        ensure!(
            missing < available,
            "{free} free hugepages take {missing} MiB more, and {available} MiB of memory are available"
        );
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

/// Memory that can be had without swapping (`MemAvailable`), MiB.
fn available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.context("no MemAvailable")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib >> 10)
}

fn write(total: u64) -> Result<()> {
    fs::write(TOTAL, total.to_string()).with_context(|| format!("cannot write {TOTAL}"))
}
