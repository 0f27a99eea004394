//! What the hot and the control side of a port tell each other.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use switch_core::datapath::Caps;
use switch_core::stats::Counter;

/// Remotes that are told of at most.
const REMOTES_TOLD: usize = 8;

/// What the hot and the control side tell each other about a port. A `Counter` is that of a port with
/// one queue: only the worker that has it counts.
#[derive(Debug, Default)]
pub(crate) struct PortShared {
    /// The last error that was no full queue and no link that is down, and how many there were.
    pub(crate) last_error: AtomicI32,
    pub(crate) errors: AtomicU64,
    /// Frames the device itself had no room for: dropped here by name, and counted there as well.
    pub(crate) refused: Counter,
    /// The file says that its device was deleted.
    pub(crate) gone: AtomicBool,
    /// What the device itself finishes, as [`caps_bits`]. The rest is left to the kernel.
    pub(crate) native: AtomicU8,
    /// Runs of packets that the kernel did not take as one, so that they went one by one.
    pub(crate) one_by_one: Counter,
    /// To whom, and what the kernel said. The hot side writes it when it is told, and never waits.
    pub(crate) one_by_one_to: Mutex<ArrayVec<(IpAddr, Errno), REMOTES_TOLD>>,
    /// Which super-frames are made for it of single frames, as [`caps_bits`].
    pub(crate) joins: AtomicU8,
}

impl PortShared {
    /// The kernel took no run to this remote.
    #[cold]
    pub(crate) fn note_one_by_one(&self, remote: IpAddr, e: Errno) {
        // Whoever reads it holds it for a moment; then it is told the next time.
        let Ok(mut all) = self.one_by_one_to.try_lock() else { return };
        match all.iter_mut().find(|(ip, _)| *ip == remote) {
            Some((_, earlier)) => *earlier = e,
            None => {
                let _ = all.try_push((remote, e));
            }
        }
    }

    pub(crate) fn note(&self, e: Errno) {
        self.last_error.store(e as i32, Ordering::Relaxed);
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Caps in a byte.
pub(crate) fn caps_bits(caps: Caps) -> u8 {
    u8::from(caps.csum)
        | u8::from(caps.tso4) << 1
        | u8::from(caps.tso6) << 2
        | u8::from(caps.uso) << 3
}

/// The other way round.
pub(crate) fn caps_of(bits: u8) -> Caps {
    let bit = |n: u8| bits & 1 << n != 0;
    Caps { csum: bit(0), tso4: bit(1), tso6: bit(2), uso: bit(3) }
}

/// In [`PortShared::native`]: the device does the same for frames with any tags.
pub(crate) const NATIVE_TAGGED: u8 = 1 << 4;
