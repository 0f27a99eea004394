//! Enough free hugepages while the benchmark runs.

use std::fs;

use anyhow::{Context, Result, ensure};

const DIR: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// What was reserved in addition; given back when dropped.
#[derive(Debug)]
pub struct Hugepages {
    before: Option<u64>,
}

fn read(name: &str) -> Result<u64> {
    let path = format!("{DIR}/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().parse()?)
}

/// How many pages of 2 MiB are free; 0 where the kernel has none of that size.
pub fn free() -> u64 {
    read("free_hugepages").unwrap_or(0)
}

impl Hugepages {
    /// Has at least `needed` free pages of 2 MiB, and says so if it has to reserve some.
    ///
    /// # Errors
    /// The kernel does not find that much memory in one piece, or this is not root.
    pub fn ensure(needed: u64) -> Result<Self> {
        let (all, free) = (read("nr_hugepages")?, read("free_hugepages")?);
        if free >= needed {
            return Ok(Self { before: None });
        }
        let (wanted, path) = (all + needed - free, format!("{DIR}/nr_hugepages"));
        println!("{free} hugepages are free, {needed} are needed: reserving {wanted} ({path}).");
        fs::write(&path, wanted.to_string()).with_context(|| format!("cannot write {path}"))?;
        // From here on dropping it gives the pages back.
        let reserved = Self { before: Some(all) };
        let got = read("free_hugepages")?;
        ensure!(
            got >= needed,
            "the kernel reserved only {got} of {needed} hugepages: memory is in pieces or in use; \
             try `sync; echo 3 > /proc/sys/vm/drop_caches`"
        );
        Ok(reserved)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            match fs::write(format!("{DIR}/nr_hugepages"), before.to_string()) {
                Ok(()) => println!("{before} hugepages are reserved again, as before."),
                Err(error) => eprintln!("cannot give hugepages back: {error}"),
            }
        }
    }
}
