//! The whole of what an operator asks for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

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
