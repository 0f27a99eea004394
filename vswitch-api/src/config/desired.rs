//! The whole of what an operator asks for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use switch_core::config::{BridgeSpec, MirrorSpec, PortSpec, TunnelSpec, VtepSpec};

use super::cpus::CpuList;
use super::keys::VERSION;
use super::value::Hugepages;

/// Desired state: what a file says, checked as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Version of the format; always 1 so far.
    pub version: u32,
    /// How the daemon runs.
    pub daemon: DaemonSpec,
    /// For the DPDK datapath.
    pub dpdk: DpdkSpec,
    /// Samples for a collector of sFlow.
    pub sflow: SflowSpec,
    /// Flows for a collector of IPFIX.
    pub ipfix: IpfixSpec,
    /// Bridges by name.
    pub bridges: BTreeMap<String, BridgeSpec>,
    /// Ports by name.
    pub ports: BTreeMap<String, PortSpec>,
    /// VTEPs by name.
    pub vteps: BTreeMap<String, VtepSpec>,
    /// Tunnels by name.
    pub tunnels: BTreeMap<String, TunnelSpec>,
    /// Mirrors by name.
    pub mirrors: BTreeMap<String, MirrorSpec>,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            version: VERSION,
            daemon: DaemonSpec::default(),
            dpdk: DpdkSpec::default(),
            sflow: SflowSpec::default(),
            ipfix: IpfixSpec::default(),
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            vteps: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            mirrors: BTreeMap::new(),
        }
    }
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSpec {
    /// What moves the frames.
    pub datapath: Datapath,
    /// Where workers are pinned, one each; `None` is one worker that is not pinned.
    pub cpus: Option<CpuList>,
    /// What a worker without frames does.
    pub idle: Idle,
    /// Where metrics are served over TCP.
    pub metrics: Option<SocketAddr>,
    /// Most FDB entries in all.
    pub max_fdb_total: u32,
    /// What is logged, in the syntax of `tracing`'s `EnvFilter`.
    pub log: String,
}

impl Default for DaemonSpec {
    fn default() -> Self {
        Self {
            datapath: Datapath::default(),
            cpus: None,
            idle: Idle::default(),
            metrics: None,
            max_fdb_total: 1_048_576,
            log: "info".into(),
        }
    }
}

/// What moves the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// The kernel's devices.
    #[default]
    Tap,
    /// DPDK.
    Dpdk,
}

impl Datapath {
    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Dpdk => "dpdk",
        }
    }
}

/// What a worker without frames does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps until there are frames.
    #[default]
    Adaptive,
    /// Polls without end.
    Poll,
}

impl Idle {
    /// Its name in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Poll => "poll",
        }
    }
}

/// `[dpdk]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DpdkSpec {
    /// Memory taken as hugepages.
    pub hugepages: Hugepages,
    /// Further arguments for the EAL.
    pub eal: Vec<String>,
}

/// Whose frames are sampled: all that are in a bridge if nothing is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampledSpec {
    /// These ports.
    pub ports: Vec<String>,
    /// All ports of these bridges.
    pub bridges: Vec<String>,
}

/// `[sflow]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SflowSpec {
    /// Where samples are sent; nowhere by default.
    pub collector: Option<SocketAddr>,
    /// One frame in so many is sampled.
    pub one_in: u32,
    /// Most bytes of each sampled frame that are sent.
    pub header: u32,
    /// How often counters are sent.
    pub polling: Duration,
    /// The address that the collector knows the switch by.
    pub agent: Option<IpAddr>,
    /// Whose frames are sampled.
    pub of: SampledSpec,
}

impl Default for SflowSpec {
    fn default() -> Self {
        Self {
            collector: None,
            one_in: 1000,
            header: 128,
            polling: Duration::from_secs(20),
            agent: None,
            of: SampledSpec::default(),
        }
    }
}

/// `[ipfix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpfixSpec {
    /// Where flows are sent; nowhere by default.
    pub collector: Option<SocketAddr>,
    /// One frame in so many is sampled.
    pub one_in: u32,
    /// The observation domain.
    pub domain: u32,
    /// How often templates are sent again.
    pub template_refresh: Duration,
    /// After how long a flow that goes on is told of.
    pub active: Duration,
    /// After how long without frames a flow is over.
    pub idle: Duration,
    /// Most flows at once.
    pub max_flows: u32,
    /// Whose frames are sampled.
    pub of: SampledSpec,
}

impl Default for IpfixSpec {
    fn default() -> Self {
        Self {
            collector: None,
            one_in: 100,
            domain: 1,
            template_refresh: Duration::from_secs(60),
            active: Duration::from_secs(60),
            idle: Duration::from_secs(15),
            max_flows: 8192,
            of: SampledSpec::default(),
        }
    }
}
