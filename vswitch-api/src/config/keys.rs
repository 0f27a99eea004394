//! Every key of the configuration, once.
//!
//! Reading, checking, writing, the JSON Schema, the manual page and the example file all follow
//! this table. A new key is a line here, a field in a spec, and a line each in the two functions of
//! `fields.rs` that connect them; tests fail for what was forgotten.

use switch_core::config::PortType;

use super::value::KeyType;

/// A table of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The top of the file.
    Top,
    /// `[daemon]`.
    Daemon,
    /// `[dpdk]`.
    Dpdk,
    /// `[[bridge]]`.
    Bridge,
    /// `[[port]]`.
    Port,
}

impl Section {
    /// All of them, in the order of the file.
    pub const ALL: [Self; 5] = [Self::Top, Self::Daemon, Self::Dpdk, Self::Bridge, Self::Port];

    /// Its key at the top of the file; empty for the top itself.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Daemon => "daemon",
            Self::Dpdk => "dpdk",
            Self::Bridge => "bridge",
            Self::Port => "port",
        }
    }

    /// As its head stands in a file.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Daemon => "[daemon]",
            Self::Dpdk => "[dpdk]",
            Self::Bridge => "[[bridge]]",
            Self::Port => "[[port]]",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Top => "The file itself.",
            Self::Daemon => "How vswitchd runs. A change takes effect when it is started again.",
            Self::Dpdk => "For the DPDK datapath only.",
            Self::Bridge => "A bridge: one layer-2 domain. May stand any number of times.",
            Self::Port => "A port of a bridge. May stand any number of times.",
        }
    }

    /// Its keys, in the order in which they are documented and written.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.section == self)
    }

    /// Its key of that name.
    #[must_use]
    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// What holds if a key is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It cannot be left out.
    Required,
    /// As if this was written, in TOML.
    Is(&'static str),
    /// What this says.
    Otherwise(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// The type of its value, with the range.
    pub value: KeyType,
    /// What holds without it.
    pub default: Fallback,
    /// The port types it is for; empty: all.
    pub applies: &'static [PortType],
    /// An example of a value, in TOML.
    pub example: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

impl Key {
    /// Whether a port of that type can have it.
    #[must_use]
    pub fn applies_to(&self, port_type: PortType) -> bool {
        self.applies.is_empty() || self.applies.contains(&port_type)
    }
}

/// Most bytes a configuration may have; 4096 ports with every key need about a quarter of it.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;

/// The one version of the format that there is.
pub const VERSION: u32 = 1;

const MAX_FDB: u32 = 16_777_216;
const TAP: &[PortType] = &[PortType::Tap];
const NETDEV: &[PortType] = &[PortType::Netdev];
const DPDK: &[PortType] = &[PortType::Dpdk];
const VHOST_USER: &[PortType] = &[PortType::VhostUser];
const WITH_DEVICE: &[PortType] = &[PortType::Tap, PortType::Netdev];

macro_rules! keys {
    ($($section:ident $name:literal: $value:expr, $default:expr, $applies:expr, $example:literal,
        $doc:literal;)*) => {
        &[$(Key {
            section: Section::$section,
            name: $name,
            value: $value,
            default: $default,
            applies: $applies,
            example: $example,
            doc: $doc,
        }),*]
    };
}

use Fallback::{Is, Otherwise, Required};

/// The table.
pub const KEYS: &[Key] = keys! {
    Top "version": KeyType::Int { min: VERSION, max: VERSION }, Required, &[], "1",
        "Version of the format.";

    Daemon "datapath": KeyType::Choice(&["tap", "dpdk"]), Is("\"tap\""), &[], "\"tap\"",
        "What moves the frames: the kernel's devices, or DPDK.";
    Daemon "cpus": KeyType::Cpus, Otherwise("one worker, not pinned"), &[], "\"0-1\"",
        "The CPUs that workers run on, one pinned worker each. A list, never a mask.";
    Daemon "idle": KeyType::Choice(&["adaptive", "poll"]), Is("\"adaptive\""), &[], "\"adaptive\"",
        "What a worker without frames does: sleep until there are some, or poll without end.";
    Daemon "metrics": KeyType::Address, Otherwise("not served over TCP"), &[], "\"127.0.0.1:9470\"",
        "Address and port on which Prometheus metrics are served over HTTP, to anyone who can \
         reach it. They are always served on the API's socket.";
    Daemon "max-fdb-total": KeyType::Int { min: 1_024, max: MAX_FDB }, Is("1048576"), &[],
        "1048576",
        "Most entries of the FDB in all. At most 32 bytes of memory are set aside for each.";
    Daemon "log": KeyType::Text, Is("\"info\""), &[], "\"info\"",
        "What is logged: error, warn, info, debug or trace, also by module as in \
         \"info,vswitchd::api=debug\".";

    Dpdk "hugepages": KeyType::Hugepages, Is("\"auto\""), &[], "\"auto\"",
        "Memory taken as hugepages: a size as \"512 MiB\", \"off\" for ordinary memory, or \
         \"auto\" for what is there.";
    Dpdk "eal": KeyType::Texts, Otherwise("no further arguments"), &[], "[\"--log-level=8\"]",
        "Further arguments for DPDK's EAL.";

    Bridge "name": KeyType::Name, Required, &[], "\"br0\"",
        "Its name, unique among bridges.";
    Bridge "ageing": KeyType::Duration { min: 10, max: 1_000_000 }, Is("\"300s\""), &[], "\"300s\"",
        "How long a learned entry lives that no frame refreshes.";
    Bridge "max-fdb": KeyType::Int { min: 1, max: MAX_FDB }, Is("65536"), &[], "65536",
        "Most learned entries. When it is reached, the port that holds most makes room.";
    Bridge "learning": KeyType::Bool, Is("true"), &[], "true",
        "Whether source addresses are learned. Without, only entries that were added are known.";

    Port "name": KeyType::Name, Required, &[], "\"web\"",
        "Its name, unique among ports.";
    Port "type": KeyType::Choice(&["tap", "netdev", "dpdk", "vhost-user"]), Required, &[],
        "\"tap\"",
        "What is behind it: a TAP device that the switch makes, a device that exists, a DPDK \
         device, or a VM's vhost-user socket. The last two need datapath = \"dpdk\".";
    Port "bridge": KeyType::Name, Otherwise("required, except for dpdk"), &[], "\"br0\"",
        "The bridge it is in.";
    Port "access": KeyType::Vlan, Otherwise("no VLANs: untagged frames are in none and tagged \
         ones pass as they are"), &[], "10",
        "The VLAN of its untagged frames. Other VLANs' tagged frames are dropped. Not together with trunk.";
    Port "trunk": KeyType::Vlans, Otherwise("see access"), &[], "[10, \"20-29\"]",
        "The VLANs whose tagged frames it carries, as a list of numbers and ranges, or \"all\".";
    Port "native": KeyType::Vlan, Otherwise("untagged frames are dropped"), &[], "1",
        "With trunk: the VLAN of its untagged frames.";
    Port "device": KeyType::Device, Otherwise("for tap the port's name; required for netdev"),
        WITH_DEVICE, "\"vnet7\"",
        "The kernel's name of the device. A netdev that does not exist yet leaves the port \
         waiting for it.";
    Port "netns": KeyType::Netns, Otherwise("it stays where vswitchd runs"), TAP, "\"web\"",
        "The network namespace that the TAP device is moved into: a name that `ip netns` knows, \
         or an absolute path.";
    Port "devargs": KeyType::Text, Otherwise("required for dpdk"), DPDK, "\"0000:3b:02.0\"",
        "The DPDK device: a PCI address or a vdev, with its arguments.";
    Port "socket": KeyType::Path, Otherwise("required for vhost-user"), VHOST_USER,
        "\"/run/vswitch/vm7.sock\"",
        "The Unix socket that the VM's monitor serves.";
    Port "mtu": KeyType::Int { min: 68, max: 65_521 }, Otherwise("the device's own"), &[], "1500",
        "Largest layer-3 packet, in bytes, that the device is set to.";
    Port "mac": KeyType::Mac, Otherwise("the device's own"), &[PortType::Tap, PortType::Dpdk],
        "\"52:54:00:00:00:01\"",
        "The address the device is given.";
    Port "persist": KeyType::Bool, Is("true"), TAP, "true",
        "Keep the TAP device, with its addresses, when vswitchd stops. It goes when the port is \
         deleted.";
    Port "take-over": KeyType::Bool, Is("false"), NETDEV, "false",
        "Attach the device even if it carries an address, a default route or a master. The host \
         cannot be reached over it while it is attached.";
    Port "max-fdb": KeyType::Limit { min: 1, max: MAX_FDB },
        Otherwise("1024 for tap and vhost-user, \"off\" for netdev and dpdk"), &[], "1024",
        "Most entries learned on the port. Frames from further addresses are forwarded and not \
         learned.";
    Port "storm-limit": KeyType::Rate { min: 1, max: 100_000_000 },
        Otherwise("\"1000 pps\" for tap, netdev and vhost-user, \"off\" for dpdk"), &[],
        "\"1000 pps\"",
        "Most broadcast, multicast and unknown unicast frames that it may send into the switch.";
    Port "isolated": KeyType::Bool, Is("false"), &[], "false",
        "Isolated ports do not talk to each other, only to the others.";
    Port "loop-guard": KeyType::Bool, Is("true"), &[], "true",
        "Block the port for 30 s when a MAC address moves more than 5 times in 3 s between it and \
         an older port.";
};
