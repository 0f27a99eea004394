//! What an operator asks for of overlays: VTEPs and tunnels, typed and already validated.

use std::fmt;
use std::net::IpAddr;

use crate::wire::geneve::OwnedOption;
use crate::wire::vlan::VlanId;
use crate::wire::{GeneveHeader, Vni, VxlanHeader};

/// A VTEP: an address of this host that tunnels end at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VtepSpec {
    /// Its name, unique among VTEPs.
    pub name: String,
    /// The address that outer packets are sent from and accepted at.
    pub local: IpAddr,
    /// The port whose device carries the underlay; the DPDK datapath only.
    pub uplink: Option<String>,
    /// How many UDP source ports outer packets are spread over, 1 to [`Self::MAX_ENTROPY_PORTS`].
    pub entropy_ports: u16,
    /// The remotes of its tunnels that name none of their own.
    pub remotes: Vec<IpAddr>,
}

impl VtepSpec {
    /// Source ports of a VTEP that names no number.
    pub const DEFAULT_ENTROPY_PORTS: u16 = 64;
    /// Most source ports of one VTEP.
    pub const MAX_ENTROPY_PORTS: u16 = 1_024;

    /// A VTEP with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, local: IpAddr) -> Self {
        Self {
            name: name.into(),
            local,
            uplink: None,
            entropy_ports: Self::DEFAULT_ENTROPY_PORTS,
            remotes: Vec::new(),
        }
    }
}

/// A tunnel: one tenant network that crosses hosts, and the bridge or VLAN it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Its name, unique among tunnels and ports.
    pub name: String,
    /// Protocol, and what names the network in it.
    pub kind: TunnelKind,
    /// The VTEP it ends at. `None` only where there is exactly one.
    pub vtep: Option<String>,
    /// The bridge it is in.
    pub bridge: String,
    /// The one VLAN of the bridge that it carries; `None` is the bridge's untagged traffic or, with
    /// [`InnerTags::Keep`], all of it.
    pub vlan: Option<VlanId>,
    /// Where BUM frames go, one copy each, and whose packets are accepted. `None` is the VTEP's
    /// list.
    pub remotes: Option<Vec<IpAddr>>,
    /// A multicast group of the underlay that BUM frames go to instead (VXLAN only).
    pub group: Option<IpAddr>,
    /// Whose packets are accepted.
    pub peers: PeerPolicy,
    /// Whether the source addresses of inner frames are learned.
    pub learning: bool,
    /// What becomes of VLAN tags of inner frames.
    pub tags: InnerTags,
    /// TTL or hop limit of outer packets.
    pub ttl: Ttl,
    /// DSCP of outer packets.
    pub dscp: Dscp,
    /// Whether outer UDP carries a checksum. `None`: not over IPv4, as the RFCs say, and over IPv6
    /// yes. `Some(false)` over IPv6 also accepts packets without one (RFC 6935, 6936).
    pub udp_checksum: Option<bool>,
    /// Whether the don't-fragment flag is set on outer IPv4 packets.
    pub df: bool,
    /// Whether packets with reserved bits set are dropped, as Linux does, and not taken, as the RFCs
    /// say.
    pub strict_reserved: bool,
    /// Whether the MSS of TCP connections through the tunnel is lowered to what fits.
    pub mss_clamp: bool,
}

impl TunnelSpec {
    /// A tunnel with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: TunnelKind, bridge: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            vtep: None,
            bridge: bridge.into(),
            vlan: None,
            remotes: None,
            group: None,
            peers: PeerPolicy::Listed,
            learning: true,
            tags: InnerTags::Strip,
            ttl: Ttl::Set(64),
            dscp: Dscp::Set(0),
            udp_checksum: None,
            df: true,
            strict_reserved: false,
            mss_clamp: false,
        }
    }
}

/// The protocol of a tunnel, with what only that protocol has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// The network.
        vni: Vni,
        /// UDP destination port, sent and listened to; [`TunnelKind::VXLAN_PORT`] by default.
        udp_port: u16,
    },
    /// GENEVE (RFC 8926).
    Geneve {
        /// The network.
        vni: Vni,
        /// UDP destination port, sent and listened to; [`TunnelKind::GENEVE_PORT`] by default.
        udp_port: u16,
        /// Options sent with each packet, at most 252 bytes in all.
        options: Vec<OwnedOption>,
    },
    /// Ethernet in GRE (RFC 2784, 2890).
    Gre {
        /// The key; `None` is a tunnel without one, which is not the same as key 0.
        key: Option<u32>,
        /// Whether packets carry a checksum.
        checksum: bool,
        /// Whether packets are numbered, and those that arrive late are dropped.
        sequence: bool,
    },
    /// NVGRE (RFC 7637).
    Nvgre {
        /// The network, 0x1000 to 0xfffffe.
        vsid: Vni,
    },
    /// ERSPAN type II (draft-foschiano-erspan-03): the copies of a mirror. Nothing is received.
    Erspan {
        /// The session, 0 to [`ErspanHeader::MAX_SESSION`](crate::wire::ErspanHeader::MAX_SESSION).
        session: u16,
        /// The index, 0 to [`ErspanHeader::MAX_INDEX`](crate::wire::ErspanHeader::MAX_INDEX).
        index: u32,
    },
}

impl TunnelKind {
    /// UDP port of VXLAN (IANA).
    pub const VXLAN_PORT: u16 = VxlanHeader::UDP_PORT;
    /// UDP port of GENEVE (IANA).
    pub const GENEVE_PORT: u16 = GeneveHeader::UDP_PORT;

    /// Which protocol it is.
    #[must_use]
    pub const fn tunnel_type(&self) -> TunnelType {
        match self {
            Self::Vxlan { .. } => TunnelType::Vxlan,
            Self::Geneve { .. } => TunnelType::Geneve,
            Self::Gre { .. } => TunnelType::Gre,
            Self::Nvgre { .. } => TunnelType::Nvgre,
            Self::Erspan { .. } => TunnelType::Erspan,
        }
    }

    /// Whether packets carry a sequence number, one row of them for each remote.
    #[must_use]
    pub const fn is_numbered(&self) -> bool {
        matches!(self, Self::Gre { sequence: true, .. } | Self::Erspan { .. })
    }
}

/// The protocols of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelType {
    /// [`TunnelKind::Vxlan`].
    Vxlan,
    /// [`TunnelKind::Geneve`].
    Geneve,
    /// [`TunnelKind::Gre`].
    Gre,
    /// [`TunnelKind::Nvgre`].
    Nvgre,
    /// [`TunnelKind::Erspan`].
    Erspan,
}

impl TunnelType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Vxlan, Self::Geneve, Self::Gre, Self::Nvgre, Self::Erspan];

    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::Nvgre => "nvgre",
            Self::Erspan => "erspan",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for TunnelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whose packets a tunnel accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerPolicy {
    /// Those of its remotes, and of peers that a control plane added.
    #[default]
    Listed,
    /// Anybody's who reaches the VTEP.
    Any,
}

/// What becomes of the VLAN tags of inner frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InnerTags {
    /// Frames leave without the tag of the tunnel's VLAN, and arriving ones that carry a tag are
    /// dropped (RFC 7348 §6.1).
    #[default]
    Strip,
    /// Frames keep the tag of their VLAN.
    Keep,
}

/// TTL or hop limit of outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// This, 1 to 255.
    Set(u8),
    /// That of the inner packet; 64 where it is not IP.
    Copy,
}

/// DSCP of outer packets (RFC 2983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// This, 0 to 63.
    Set(u8),
    /// That of the inner packet; 0 where it is not IP.
    Copy,
}
