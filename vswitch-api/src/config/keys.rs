//! Every key of the configuration, once.
//!
//! Reading, checking, writing, the JSON Schema, the manual page and the example file all follow
//! this table. A new key is a line here, a field in a spec, and a line each in the two functions of
//! `fields.rs` that connect them; tests fail for what was forgotten.

use switch_core::config::{PortType, TunnelType, VtepSpec};
use switch_core::wire::{ErspanHeader, Vni};

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
    /// `[sflow]`.
    Sflow,
    /// `[ipfix]`.
    Ipfix,
    /// `[[bridge]]`.
    Bridge,
    /// `[[port]]`.
    Port,
    /// `[[vtep]]`.
    Vtep,
    /// `[[tunnel]]`.
    Tunnel,
    /// `[[mirror]]`.
    Mirror,
}

impl Section {
    /// All of them, in the order of the file.
    pub const ALL: [Self; 10] = [
        Self::Top,
        Self::Daemon,
        Self::Dpdk,
        Self::Sflow,
        Self::Ipfix,
        Self::Bridge,
        Self::Port,
        Self::Vtep,
        Self::Tunnel,
        Self::Mirror,
    ];

    /// Those of which there is one: tables.
    pub const TABLES: [Self; 4] = [Self::Daemon, Self::Dpdk, Self::Sflow, Self::Ipfix];

    /// Those of objects: lists of tables that each have a name.
    pub const OBJECTS: [Self; 5] =
        [Self::Bridge, Self::Port, Self::Vtep, Self::Tunnel, Self::Mirror];

    /// Its key at the top of the file; empty for the top itself.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Daemon => "daemon",
            Self::Dpdk => "dpdk",
            Self::Sflow => "sflow",
            Self::Ipfix => "ipfix",
            Self::Bridge => "bridge",
            Self::Port => "port",
            Self::Vtep => "vtep",
            Self::Tunnel => "tunnel",
            Self::Mirror => "mirror",
        }
    }

    /// As its head stands in a file.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Daemon => "[daemon]",
            Self::Dpdk => "[dpdk]",
            Self::Sflow => "[sflow]",
            Self::Ipfix => "[ipfix]",
            Self::Bridge => "[[bridge]]",
            Self::Port => "[[port]]",
            Self::Vtep => "[[vtep]]",
            Self::Tunnel => "[[tunnel]]",
            Self::Mirror => "[[mirror]]",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Top => "The file itself.",
            Self::Daemon => "How vswitchd runs. A change takes effect when it is started again.",
            Self::Dpdk => "For the DPDK datapath only.",
            Self::Sflow => {
                "Samples of frames, and counters of ports, for a collector of sFlow version 5."
            }
            Self::Ipfix => "Flows of sampled frames, for a collector of IPFIX (RFC 7011).",
            Self::Bridge => "A bridge: one layer-2 domain. May stand any number of times.",
            Self::Port => "A port of a bridge. May stand any number of times.",
            Self::Vtep => {
                "A VTEP: an address of this host that tunnels end at. May stand any number of times."
            }
            Self::Tunnel => {
                "A tunnel: one tenant network that crosses hosts. May stand any number of times."
            }
            Self::Mirror => {
                "A mirror: copies of frames for whoever looks at traffic. May stand up to 64 times."
            }
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
    /// The types of port or tunnel it is for, by name; empty: all.
    pub applies: &'static [&'static str],
    /// An example of a value, in TOML.
    pub example: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

impl Key {
    /// Whether a port or tunnel of that type can have it.
    #[must_use]
    pub fn applies_to(&self, type_name: &str) -> bool {
        self.applies.is_empty() || self.applies.contains(&type_name)
    }

    /// The types it is for, as a sentence lists them: `a, b and c`.
    pub(super) fn applies_listed(&self) -> String {
        match self.applies {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        }
    }
}

/// Most bytes a configuration may have: twice what 65,536 bridges with a tunnel each need. Reading
/// one takes about forty times its size in memory, and a second for 16 MB.
pub const MAX_CONFIG_BYTES: usize = 32 << 20;

/// The one version of the format that there is.
pub const VERSION: u32 = 1;

const MAX_ONE_IN: u32 = 16_777_216;
const MAX_SNAP: u32 = switch_core::watch::SNAP_MAX as u32;
const MAX_FDB: u32 = 16_777_216;
/// What libdpdk has room for is more; a VM has no more CPUs to serve them with.
const MAX_QUEUES: u32 = 64;
const MAX_SESSION: u32 = ErspanHeader::MAX_SESSION as u32;
const MAX_ENTROPY_PORTS: u32 = VtepSpec::MAX_ENTROPY_PORTS as u32;

/// The types of ports or tunnels that a key is for.
type Applies = &'static [&'static str];
const TAP: Applies = &[PortType::Tap.name()];
const NETDEV: Applies = &[PortType::Netdev.name()];
const DPDK: Applies = &[PortType::Dpdk.name()];
const VHOST_USER: Applies = &[PortType::VhostUser.name()];
const WITH_DEVICE: Applies = &[PortType::Tap.name(), PortType::Netdev.name()];
const WITH_QUEUES: Applies = &[PortType::Tap.name(), PortType::VhostUser.name()];
const WITH_MAC: Applies = &[PortType::Tap.name(), PortType::Dpdk.name()];
const VXLAN: Applies = &[TunnelType::Vxlan.name()];
const GENEVE: Applies = &[TunnelType::Geneve.name()];
const GRE: Applies = &[TunnelType::Gre.name()];
const OVER_UDP: Applies = &[TunnelType::Vxlan.name(), TunnelType::Geneve.name()];
const ERSPAN: Applies = &[TunnelType::Erspan.name()];
/// All that frames of a bridge go through, and come out of.
const BRIDGED: Applies = &[
    TunnelType::Vxlan.name(),
    TunnelType::Geneve.name(),
    TunnelType::Gre.name(),
    TunnelType::Nvgre.name(),
];
const WITH_VNI: Applies =
    &[TunnelType::Vxlan.name(), TunnelType::Geneve.name(), TunnelType::Nvgre.name()];

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
        "The CPUs that workers run on, one pinned worker each. A list, never a mask; each CPU has to \
         exist, and to be one that vswitchd may use.";
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
        "Further arguments for DPDK's EAL. Those that contradict other keys are refused.";

    Sflow "collector": KeyType::Address, Otherwise("nothing is sent"), &[], "\"192.0.2.8:6343\"",
        "Address and UDP port of the collector.";
    Sflow "one-in": KeyType::Int { min: 1, max: MAX_ONE_IN }, Is("1000"), &[], "1000",
        "One frame in so many that come in, on average, is sampled.";
    Sflow "header": KeyType::Int { min: 64, max: 1024 }, Is("128"), &[], "128",
        "Most bytes of each sampled frame that are sent.";
    Sflow "polling": KeyType::Duration { min: 1, max: 86_400 }, Is("\"20s\""), &[], "\"20s\"",
        "How often the counters of all ports are sent.";
    Sflow "agent": KeyType::Ip, Otherwise("the one that datagrams leave from"), &[], "\"192.0.2.1\"",
        "The address that the collector knows this switch by.";
    Sflow "ports": KeyType::Names, Otherwise("all ports that are in a bridge, if bridges names none"), &[],
        "[\"web\"]", "Ports whose frames are sampled.";
    Sflow "bridges": KeyType::Names, Otherwise("all, if ports names none"), &[], "[\"br0\"]",
        "Bridges of whose ports frames are sampled.";

    Ipfix "collector": KeyType::Address, Otherwise("nothing is sent"), &[], "\"192.0.2.8:4739\"",
        "Address and UDP port of the collector.";
    Ipfix "one-in": KeyType::Int { min: 1, max: MAX_ONE_IN }, Is("100"), &[], "100",
        "One frame in so many that come in, on average, is sampled; the collector is told.";
    Ipfix "domain": KeyType::Int { min: 1, max: u32::MAX }, Is("1"), &[], "1",
        "The observation domain, by which the collector tells exporters of one host apart.";
    Ipfix "template-refresh": KeyType::Duration { min: 1, max: 86_400 }, Is("\"60s\""), &[], "\"60s\"",
        "How often templates are sent again, and with them the names of interfaces.";
    Ipfix "active": KeyType::Duration { min: 1, max: 3_600 }, Is("\"60s\""), &[], "\"60s\"",
        "After how long a flow that goes on is told of.";
    Ipfix "idle": KeyType::Duration { min: 1, max: 3_600 }, Is("\"15s\""), &[], "\"15s\"",
        "After how long without a sampled frame a flow is over.";
    Ipfix "max-flows": KeyType::Int { min: 16, max: 1_048_576 }, Is("8192"), &[], "8192",
        "Most flows at once. One more has all of them told of at once.";
    Ipfix "ports": KeyType::Names, Otherwise("all ports that are in a bridge, if bridges names none"), &[],
        "[\"web\"]", "Ports whose frames are sampled.";
    Ipfix "bridges": KeyType::Names, Otherwise("all, if ports names none"), &[], "[\"br0\"]",
        "Bridges of whose ports frames are sampled.";

    Bridge "name": KeyType::Name, Required, &[], "\"br0\"",
        "Its name, unique among bridges.";
    Bridge "ageing": KeyType::Duration { min: 10, max: 1_000_000 }, Is("\"300s\""), &[], "\"300s\"",
        "How long a learned entry lives that no frame refreshes.";
    Bridge "max-fdb": KeyType::Int { min: 1, max: MAX_FDB }, Is("65536"), &[], "65536",
        "Most learned entries. When it is reached, the port that holds most makes room.";
    Bridge "learning": KeyType::Bool, Is("true"), &[], "true",
        "Whether source addresses are learned. Without, only entries that were added are known.";

    Port "name": KeyType::Name, Required, &[], "\"web\"",
        "Its name, unique among ports, VTEPs and tunnels.";
    Port "type": KeyType::Choice(&["tap", "netdev", "dpdk", "vhost-user"]), Required, &[],
        "\"tap\"",
        "What is behind it: a TAP device that the switch makes, a device that exists, a DPDK \
         device, or a VM's vhost-user socket. The last two need datapath = \"dpdk\".";
    Port "bridge": KeyType::Name, Otherwise("none: it carries nothing but the copies of a mirror or, \
         for dpdk, is an uplink"), &[], "\"br0\"",
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
        "The Unix socket to the VM's monitor.";
    Port "mode": KeyType::Choice(&["client", "server"]), Is("\"client\""), VHOST_USER,
        "\"client\"",
        "Whether the switch connects to the socket that the VM's monitor serves (QEMU: \
         server=on), or serves it. Either side may come first, and come back.";
    Port "queues": KeyType::Int { min: 1, max: MAX_QUEUES },
        Otherwise("for tap one a worker, for vhost-user 1"), WITH_QUEUES, "2",
        "Queues of a TAP device: more than one a worker are not opened, and a device that was made \
         with one keeps it. Pairs of queues that a VM may use, given as its monitor's `queues` \
         too; one that uses fewer is served by those.";
    Port "mtu": KeyType::Int { min: 68, max: 65_521 }, Otherwise("the device's own"), &[], "1500",
        "Largest layer-3 packet, in bytes, that the device is set to.";
    Port "mac": KeyType::Mac, Otherwise("the device's own"), WITH_MAC,
        "\"52:54:00:00:00:01\"",
        "The address the device is given.";
    Port "exception": KeyType::Device, Otherwise("the port's name"), DPDK, "\"vf0\"",
        "For a port in no bridge, which is an uplink: the TAP device that carries its addresses \
         and everything on it that is no tunnel's, so that the host can use it as before.";
    Port "persist": KeyType::Bool, Is("true"), TAP, "true",
        "Keep the TAP device, with its addresses, when vswitchd stops. It goes when the port is \
         deleted.";
    Port "take-over": KeyType::Bool, Is("false"), NETDEV, "false",
        "Attach the device even if it carries an address, a default route or a master. The host \
         cannot be reached over it while it is attached.";
    Port "gro": KeyType::Bool, Is("true"), WITH_DEVICE, "true",
        "Join TCP segments or UDP datagrams that follow each other into one super-frame where the \
         device takes those, which costs it one system call in place of many. Cut again, they are \
         the same bytes. With `false` they stay apart, and super-frames that come out of a tunnel or are a mirror\'s \
         copies are cut.";
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

    Vtep "name": KeyType::Name, Required, &[], "\"v4\"",
        "Its name, unique among VTEPs and ports.";
    Vtep "local": KeyType::Ip, Required, &[], "\"192.0.2.1\"",
        "The address that outer packets are sent from and accepted at. IPv4 or IPv6; for both, add \
         two VTEPs.";
    Vtep "uplink": KeyType::Name, Otherwise("none"), &[], "\"vf0\"",
        "The port whose device carries the underlay. With datapath = \"dpdk\" only: otherwise the \
         kernel's routes say where packets leave.";
    Vtep "entropy-ports": KeyType::Int { min: 1, max: MAX_ENTROPY_PORTS }, Is("64"), &[], "64",
        "Over how many UDP source ports outer packets are spread, by inner flow, so that the \
         underlay can balance them.";
    Vtep "remotes": KeyType::Ips, Is("[]"), &[], "[\"192.0.2.7\"]",
        "The remotes of its tunnels that name none of their own.";

    Tunnel "name": KeyType::Name, Required, &[], "\"tenant-a\"",
        "Its name, unique among tunnels and ports.";
    Tunnel "type": KeyType::Choice(&["vxlan", "geneve", "gre", "nvgre", "erspan"]), Required, &[],
        "\"vxlan\"",
        "How frames are carried: VXLAN (RFC 7348), GENEVE (RFC 8926), GRE (RFC 2784, 2890) or \
         NVGRE (RFC 7637); or erspan, ERSPAN type II (draft-foschiano-erspan-03), which sends the \
         copies of a mirror and receives nothing.";
    Tunnel "vtep": KeyType::Name, Otherwise("the VTEP, if there is only one"), &[], "\"v4\"",
        "The VTEP it ends at.";
    Tunnel "vni": KeyType::Int { min: 0, max: Vni::MAX },
        Otherwise("required for vxlan, geneve and nvgre"), WITH_VNI, "10010",
        "The network's number. For nvgre (where it is called VSID) 4096 to 16777214.";
    Tunnel "key": KeyType::Int { min: 0, max: u32::MAX },
        Otherwise("packets carry no key, which is not the same as key 0"), GRE, "10010",
        "The key of its GRE packets.";
    Tunnel "session": KeyType::Int { min: 0, max: MAX_SESSION }, Otherwise("required for erspan"),
        ERSPAN, "7",
        "The number by which the remote tells this session from others.";
    Tunnel "index": KeyType::Int { min: 0, max: ErspanHeader::MAX_INDEX }, Is("0"), ERSPAN, "0",
        "The index that ERSPAN headers carry. Its meaning is up to the remote; a kernel's device \
         takes only its own.";
    Tunnel "udp-port": KeyType::Int { min: 1, max: 65_535 },
        Otherwise("4789 for vxlan, 6081 for geneve"), OVER_UDP, "4789",
        "The UDP port that packets are sent to and accepted at. On one VTEP a port is of one type.";
    Tunnel "bridge": KeyType::Name, Required, &[], "\"br0\"",
        "The bridge it is in. For erspan one without ports.";
    Tunnel "vlan": KeyType::Vlan, Otherwise("the bridge's untagged traffic or, with tags = \
         \"keep\", all of it"), BRIDGED, "10",
        "The one VLAN of the bridge that it carries.";
    Tunnel "remotes": KeyType::Ips, Otherwise("those of its VTEP"), &[], "[\"192.0.2.7\"]",
        "The VTEPs of other hosts: where broadcast, multicast and unknown unicast frames go, one \
         copy each, and whose packets are accepted.";
    Tunnel "group": KeyType::Ip, Otherwise("none"), VXLAN, "\"239.1.1.1\"",
        "The multicast group of the underlay that broadcast, multicast and unknown unicast frames \
         go to, and not a copy to each remote.";
    Tunnel "peers": KeyType::Choice(&["listed", "any"]), Is("\"listed\""), BRIDGED, "\"listed\"",
        "Whose packets are accepted: those of its remotes and of what a control plane adds, or \
         those of anybody who reaches the VTEP.";
    Tunnel "learning": KeyType::Bool, Is("true"), BRIDGED, "true",
        "Whether it is learned which remote an inner source address is behind, if the bridge \
         learns at all.";
    Tunnel "tags": KeyType::Choice(&["strip", "keep"]), Is("\"strip\""), BRIDGED, "\"strip\"",
        "What becomes of VLAN tags: frames leave without and arriving ones with one are dropped, \
         or frames keep them. Not \"keep\" for nvgre.";
    Tunnel "options": KeyType::GeneveOptions, Is("[]"), GENEVE, "[\"0x0102:0x80:00000001\"]",
        "Options sent with each packet, as \"CLASS:TYPE:DATA\" in hexadecimal. The data has up to \
         124 bytes, a multiple of 4; all together have up to 252, with 4 more for each option. A \
         type of 0x80 and above is critical: who does not know it drops the packet.";
    Tunnel "ttl": KeyType::OrCopy { min: 1, max: 255 }, Is("64"), &[], "64",
        "TTL or hop limit of outer packets, or \"copy\" for that of the inner packet.";
    Tunnel "dscp": KeyType::OrCopy { min: 0, max: 63 }, Is("0"), &[], "0",
        "DSCP of outer packets, or \"copy\" for that of the inner packet.";
    Tunnel "udp-checksum": KeyType::Bool, Otherwise("false over IPv4, true over IPv6"), OVER_UDP,
        "true",
        "Whether outer UDP carries a checksum. false over IPv6 also accepts packets without one.";
    Tunnel "df": KeyType::Bool, Is("true"), &[], "true",
        "Whether outer IPv4 packets carry the don't-fragment flag.";
    Tunnel "checksum": KeyType::Bool, Is("false"), GRE, "false",
        "Whether GRE packets carry a checksum.";
    Tunnel "sequence": KeyType::Bool, Is("false"), GRE, "false",
        "Whether GRE packets are numbered, and those that arrive late are dropped.";
    Tunnel "strict-reserved": KeyType::Bool, Is("false"), VXLAN, "false",
        "Whether packets with reserved bits set are dropped, as Linux does, and not accepted, as \
         the RFC says.";
    Tunnel "mss-clamp": KeyType::Bool, Is("false"), BRIDGED, "false",
        "Whether the MSS of TCP connections through the tunnel is lowered to what fits.";

    Mirror "name": KeyType::Name, Required, &[], "\"span\"",
        "Its name, unique among mirrors.";
    Mirror "ports": KeyType::Names, Is("[]"), &[], "[\"web\"]",
        "Ports whose frames are copied. Each is in a bridge.";
    Mirror "bridges": KeyType::Names, Is("[]"), &[], "[\"br0\"]",
        "Bridges of which the frames of all ports are copied. With direction \"in\" also what comes in \
         through their tunnels, so that each frame is copied once.";
    Mirror "direction": KeyType::Choice(&["in", "out", "both"]), Is("\"both\""), &[], "\"both\"",
        "Which frames: those that come in on these ports, as they were received; those that leave by \
         them, with the VLAN tag that they leave with; or all.";
    Mirror "vlans": KeyType::Vlans, Otherwise("frames of every VLAN and of none"), &[], "[10, \"20-29\"]",
        "Only frames in these VLANs, by their tag or by the VLAN of the port's untagged frames.";
    Mirror "filter": KeyType::Text, Otherwise("all frames"), &[], "\"tcp port 443\"",
        "Only frames that meet this, in the words of tcpdump as in `vswitch-ctl capture`.";
    Mirror "snap": KeyType::Int { min: 64, max: MAX_SNAP }, Otherwise("whole frames"), &[], "128",
        "Most bytes of each frame that are copied.";
    Mirror "one-in": KeyType::Int { min: 1, max: MAX_ONE_IN }, Is("1"), &[], "1",
        "Of the frames that meet all this, one in so many is copied.";
    Mirror "to": KeyType::Name, Required, &[], "\"probe\"",
        "Where copies go: a port that is in no bridge, or a tunnel whose bridge has no ports, which takes \
         them to each of its remotes. It carries nothing else, and belongs to one mirror.";
};
