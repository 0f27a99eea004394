//! What an operator asks for: bridges and ports, typed and already validated.
//!
//! These are plain data. How they are spelt in a file or a request is `vswitch-api`'s business;
//! what the system made of them is in [`crate::datapath`].

use std::fmt;
use std::time::Duration;

use crate::wire::MacAddr;
use crate::wire::vlan::VlanId;

/// A bridge: one layer-2 domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: String,
    /// How long an entry lives that no frame refreshes: 10 s to 1,000,000 s, which is the range
    /// of IEEE 802.1Q table 8-8.
    pub ageing: Duration,
    /// Most learned entries at once.
    pub max_fdb: u32,
    /// Whether source addresses are learned.
    pub learning: bool,
}

impl BridgeSpec {
    /// Ageing time that IEEE 802.1Q recommends.
    pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);
    /// Most learned entries of a bridge that names no limit.
    pub const DEFAULT_MAX_FDB: u32 = 65_536;

    /// A bridge of that name with every default.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ageing: Self::DEFAULT_AGEING,
            max_fdb: Self::DEFAULT_MAX_FDB,
            learning: true,
        }
    }
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name, unique in the switch.
    pub name: String,
    /// What is behind it.
    pub kind: PortKind,
    /// The bridge it is in. Only a `dpdk` port may be in none: it is an uplink then.
    pub bridge: Option<String>,
    /// Its VLANs there.
    pub vlan: VlanSpec,
    /// Largest layer-3 packet in bytes; `None` leaves what the device has.
    pub mtu: Option<u16>,
    /// The device's own address; `None` leaves what it has.
    pub mac: Option<MacAddr>,
    /// For an uplink: the name of the exception TAP, by which the host's own stack uses the device.
    pub exception: Option<String>,
    /// Whether segments and datagrams are joined into super-frames where the device takes those.
    pub gro: bool,
    /// Most learned entries at once; `None` is no limit of its own.
    pub max_fdb: Option<u32>,
    /// Most BUM frames it may send into the switch; `None` is no limit.
    pub storm_limit: Option<Rate>,
    /// Isolated ports do not talk to each other, only to the others.
    pub isolated: bool,
    /// Whether a MAC that flaps between this port and another blocks the newer of the two.
    pub loop_guard: bool,
}

impl PortSpec {
    /// Storm limit of `tap`, `netdev` and `vhost-user` ports that name none. ARP, ND, DHCP and mDNS
    /// of one machine stay far below; a looped cable is a thousand times above.
    pub const DEFAULT_STORM_LIMIT: Rate = Rate { pps: 1_000 };
    /// Most learned entries of `tap` and `vhost-user` ports that name no limit.
    pub const DEFAULT_MAX_FDB: u32 = 1_024;

    /// A port with every default of its kind, transparent for VLANs.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: PortKind, bridge: Option<&str>) -> Self {
        let port_type = kind.port_type();
        Self {
            name: name.into(),
            kind,
            bridge: bridge.map(str::to_owned),
            vlan: VlanSpec::default(),
            mtu: None,
            mac: None,
            exception: None,
            gro: true,
            max_fdb: Self::default_max_fdb(port_type),
            storm_limit: Self::default_storm_limit(port_type),
            isolated: false,
            loop_guard: true,
        }
    }

    /// The limit of learned entries of a port of that type that names none. A guest or container
    /// has few addresses; behind a NIC there may be a whole network, and fair eviction keeps it
    /// from pushing out the others' entries.
    #[must_use]
    pub const fn default_max_fdb(port_type: PortType) -> Option<u32> {
        match port_type {
            PortType::Tap | PortType::VhostUser => Some(Self::DEFAULT_MAX_FDB),
            PortType::Netdev | PortType::Dpdk => None,
        }
    }

    /// The storm limit of a port of that type that names none.
    #[must_use]
    pub const fn default_storm_limit(port_type: PortType) -> Option<Rate> {
        match port_type {
            PortType::Tap | PortType::Netdev | PortType::VhostUser => {
                Some(Self::DEFAULT_STORM_LIMIT)
            }
            PortType::Dpdk => None,
        }
    }
}

/// What is behind a port, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A TAP device that the switch makes or takes over.
    Tap {
        /// The kernel's name for it, 1 to 15 bytes.
        device: String,
        /// The network namespace it is moved into when it is opened.
        netns: Option<Netns>,
        /// Whether it outlives the switch. A persistent one is deleted with its port.
        persist: bool,
        /// How many queues it has, at most one a worker; `None` is one a worker.
        queues: Option<u16>,
    },
    /// A device that exists, or will.
    Netdev {
        /// The kernel's name for it, 1 to 15 bytes.
        device: String,
        /// Attach it even if it carries an address, a default route or a master.
        take_over: bool,
    },
    /// A DPDK device.
    Dpdk {
        /// PCI address or vdev, with its arguments, as DPDK's `--allow` and `--vdev` take them.
        devargs: String,
    },
    /// A VM's virtio device over a Unix socket.
    VhostUser {
        /// Path of the socket.
        socket: String,
        /// Which side makes the socket.
        mode: VhostMode,
        /// Pairs of queues that the VM may use.
        queues: u16,
    },
}

/// Which part the switch plays on a vhost-user socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VhostMode {
    /// It connects to the socket that the VM's monitor serves, as often as it takes.
    #[default]
    Client,
    /// It serves the socket.
    Server,
}

impl VhostMode {
    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Client, Self::Server].into_iter().find(|mode| mode.name() == name)
    }
}

impl PortKind {
    /// Which kind it is.
    #[must_use]
    pub const fn port_type(&self) -> PortType {
        match self {
            Self::Tap { .. } => PortType::Tap,
            Self::Netdev { .. } => PortType::Netdev,
            Self::Dpdk { .. } => PortType::Dpdk,
            Self::VhostUser { .. } => PortType::VhostUser,
        }
    }

    /// The kernel device it has, if it is of a kind that has one.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Tap { device, .. } | Self::Netdev { device, .. } => Some(device),
            Self::Dpdk { .. } | Self::VhostUser { .. } => None,
        }
    }

    /// The network namespace its device is in, if that is not the switch's own.
    #[must_use]
    pub const fn netns(&self) -> Option<&Netns> {
        match self {
            Self::Tap { netns, .. } => netns.as_ref(),
            _ => None,
        }
    }
}

/// The kinds of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortType {
    /// [`PortKind::Tap`].
    Tap,
    /// [`PortKind::Netdev`].
    Netdev,
    /// [`PortKind::Dpdk`].
    Dpdk,
    /// [`PortKind::VhostUser`].
    VhostUser,
}

impl PortType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tap, Self::Netdev, Self::Dpdk, Self::VhostUser];

    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Netdev => "netdev",
            Self::Dpdk => "dpdk",
            Self::VhostUser => "vhost-user",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A network namespace: a name under `/run/netns` (`ip netns`), or the path of its file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netns(pub String);

impl Netns {
    /// Where its file is.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        if self.0.starts_with('/') {
            self.0.as_str().into()
        } else {
            std::path::Path::new("/run/netns").join(&self.0)
        }
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The VLANs of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VlanSpec {
    /// Knows no VLANs: untagged frames are in none, tagged ones pass as they are.
    #[default]
    Transparent,
    /// Untagged frames only, in this VLAN.
    Access(VlanId),
    /// Tagged frames of some VLANs.
    Trunk {
        /// Which, ascending and each once.
        vlans: Vec<VlanId>,
        /// Where untagged frames go, and whose frames leave untagged. Untagged frames are dropped
        /// without one.
        native: Option<VlanId>,
    },
}

/// A rate of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    /// Frames a second.
    pub pps: u32,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pps", self.pps)
    }
}
