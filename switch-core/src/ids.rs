//! Small numbers that name things on the fast path. Names (strings) stay on the control side.

use std::fmt;

/// A port of the switch: an index into the snapshot's port table, below [`PortId::MAX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

impl PortId {
    /// How many ports one switch can have at once.
    pub const MAX_PORTS: usize = 4096;
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// The port with this index, or `None` at [`Self::MAX_PORTS`] and above.
    pub const fn new(index: u16) -> Option<Self> {
        if (index as usize) < Self::MAX_PORTS { Some(Self(index)) } else { None }
    }

    /// Index into per-port tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The raw number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port#{}", self.0)
    }
}

/// A bridge: one layer-2 domain family (each VLAN in it is a [`Domain`] of its own).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(u16);

impl BridgeId {
    /// How many bridges one switch can have at once (16 bits of a [`Domain`]).
    pub const MAX_BRIDGES: usize = 65_536;

    /// The bridge with this index. There is one for every number.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Index into per-bridge tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for BridgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bridge#{}", self.0)
    }
}

/// Where a MAC address is unique: 16 bits of bridge and 12 bits of VLAN (0: untagged).
///
/// Learning is independent per VLAN (IEEE 802.1Q IVL), so the same address may be in two domains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(u32);

impl Domain {
    /// The domain of VLAN `vid` (only its low 12 bits count) in `bridge`.
    pub const fn new(bridge: BridgeId, vid: u16) -> Self {
        Self((bridge.0 as u32) << 12 | (vid & 0xfff) as u32)
    }

    /// The domain with this 28-bit number (only the low 28 bits count).
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw & 0xfff_ffff)
    }

    /// The 28-bit number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The bridge it belongs to.
    pub const fn bridge(self) -> BridgeId {
        BridgeId((self.0 >> 12) as u16)
    }

    /// The VLAN; 0 stands for untagged traffic of ports without a native VLAN.
    pub const fn vid(self) -> u16 {
        (self.0 & 0xfff) as u16
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bridge#{}/vlan{}", self.0 >> 12, self.0 & 0xfff)
    }
}

/// A worker: one thread that polls queues and runs frames to completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// Index into per-worker tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tunnel: an index into the snapshot's table of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(u32);

impl TunnelId {
    /// How many tunnels one switch can have at once.
    pub const MAX_TUNNELS: usize = 1 << 17;

    /// The tunnel with this index, or `None` at [`Self::MAX_TUNNELS`] and above.
    pub const fn new(index: u32) -> Option<Self> {
        if (index as usize) < Self::MAX_TUNNELS { Some(Self(index)) } else { None }
    }

    /// Index into per-tunnel tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A remote VTEP in one protocol: an index into the snapshot's table of peers, and what an FDB
/// entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u32);

impl PeerId {
    /// How many peers one switch can have at once: what fits an FDB entry.
    pub const MAX_PEERS: usize = crate::fdb::Dest::REMOTES as usize;

    /// The peer with this index, or `None` at [`Self::MAX_PEERS`] and above.
    pub const fn new(index: u32) -> Option<Self> {
        if (index as usize) < Self::MAX_PEERS { Some(Self(index)) } else { None }
    }

    /// Index into per-peer tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}
