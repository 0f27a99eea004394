//! What workers tell the control side. Bounded and lossy: a worker never waits for a reader.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::fdb::{Dest, Key};
use crate::ids::{PeerId, PortId, TunnelId};
use crate::tunnel::Proto;

/// Something a worker saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// An address was learned.
    Learned {
        /// Address and domain.
        key: Key,
        /// Where it is.
        at: Dest,
    },
    /// An address moved.
    Moved {
        /// Address and domain.
        key: Key,
        /// Where it was.
        from: Dest,
        /// Where it is.
        to: Dest,
    },
    /// A VTEP that is no peer yet sent to a tunnel that accepts anybody's packets.
    PeerSeen {
        /// The VTEP it sent to.
        vtep: PortId,
        /// In which protocol.
        proto: Proto,
        /// Its address.
        addr: IpAddr,
    },
}

/// GENEVE options that a tunnel received, when they differ from the last ones reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionsSeen {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Who sent them.
    pub peer: Option<PeerId>,
    /// The option region of the header, lengths checked.
    pub options: ArrayVec<u8, 252>,
}

/// How many reports of options wait for the control side at most.
pub const OPTIONS_MAX: usize = 64;

/// How many events wait for the control side at most.
pub const EVENTS_MAX: usize = 8192;
