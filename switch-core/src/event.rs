//! What workers tell the control side. Bounded and lossy: a worker never waits for a reader.

use crate::fdb::{Dest, Key};
use crate::ids::PortId;

/// Something a worker saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// An address was learned.
    Learned {
        /// Address and domain.
        key: Key,
        /// Where it is.
        port: PortId,
    },
    /// An address moved.
    Moved {
        /// Address and domain.
        key: Key,
        /// Where it was.
        from: Dest,
        /// Where it is.
        port: PortId,
    },
}

/// How many events wait for the control side at most.
pub const EVENTS_MAX: usize = 8192;
