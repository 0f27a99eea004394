//! Enough free hugepages while the benchmark runs.

use anyhow::Result;
use vswitch_e2e::Hugepages;

/// Has at least `needed` free pages of 2 MiB, and says so if it has to reserve some. Those are given
/// back when the answer is dropped.
///
/// # Errors
/// The kernel does not find that much memory in one piece, or this is not root.
pub fn ensure(needed: u64) -> Result<Option<Hugepages>> {
    let free = Hugepages::free()?;
    if free >= needed {
        return Ok(None);
    }
    println!("{free} hugepages are free, {needed} are needed: reserving the rest until the end.");
    Hugepages::set(needed).map(Some)
}
