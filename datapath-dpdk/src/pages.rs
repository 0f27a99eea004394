//! The pages that memory of ours is made of.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MmapAdvise, madvise};

/// Size of a transparent hugepage on the machines that DPDK is used on.
const HUGE: usize = 2 << 20;

/// `MADV_COLLAPSE` (Linux 6.1, `include/uapi/asm-generic/mman-common.h`), which the libc crate lacks.
const MADV_COLLAPSE: libc::c_int = 25;

/// Asks the kernel to make `memory` of hugepages: with addresses at random each look-up would else
/// miss the TLB, too. Where it does not, nothing is lost.
///
/// Memory that is aligned and zeroed was touched when it was allocated, so its pages are small ones
/// already: the kernel is asked to make them huge at once. Before Linux 6.1 it does that on its own,
/// some time later.
pub(crate) fn prefer_huge<T>(memory: &[T]) {
    let bytes = size_of_val(memory);
    let start: NonNull<c_void> = NonNull::from(memory).cast();
    // The kernel takes whole pages.
    let skip = start.align_offset(HUGE).min(bytes);
    let whole = (bytes - skip) / HUGE * HUGE;
    if whole == 0 {
        return;
    }
    // SAFETY: not beyond the end of `memory`.
    let start = unsafe { start.byte_add(skip) };
    // SAFETY: a hint about pages that lie in `memory` and in nothing else; contents stay.
    if let Err(error) = unsafe { madvise(start, whole, MmapAdvise::MADV_HUGEPAGE) } {
        tracing::debug!(%error, whole, "the FDB stays on ordinary pages");
        return;
    }
    // SAFETY: the same pages, whose contents stay.
    if unsafe { libc::madvise(start.as_ptr(), whole, MADV_COLLAPSE) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, whole, "the FDB gets hugepages later, if at all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::fdb::{Fdb, FdbConfig};

    /// KiB of the mapping that `address` lies in which are hugepages.
    fn huge_kib(address: usize) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut inside = false;
        for line in maps.lines() {
            let word = line.split_whitespace().next().unwrap_or_default();
            if let Some((from, to)) = word.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                inside = (number(from)..number(to)).contains(&address);
            } else if inside && word == "AnonHugePages:" {
                return line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            }
        }
        0
    }

    /// That the memory was not touched before is what this once believed, and got one page of fourteen.
    #[test]
    fn an_fdb_is_made_of_hugepages() {
        let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        if enabled.is_ok_and(|modes| modes.contains("[never]")) {
            eprintln!("skipped: this kernel has no transparent hugepages");
            return;
        }
        let fdb = Fdb::new(FdbConfig::default());
        let memory = fdb.memory();
        prefer_huge(memory);
        // Far from both ends, which may lie in other mappings.
        let middle = &raw const memory[memory.len() / 2];
        let (huge, all) = (huge_kib(middle.addr()), size_of_val(memory) as u64 / 1024);
        assert!(huge >= all - 2 * HUGE as u64 / 1024, "{huge} of {all} KiB");
    }
}
