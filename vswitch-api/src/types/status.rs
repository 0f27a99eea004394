//! How the switch is, as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The whole in one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StatusReply {
    /// Version of the daemon.
    pub version: String,
    /// `tap` or `dpdk`.
    pub datapath: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Revision of the desired state.
    pub revision: u64,
    /// Seconds in which a change has to be confirmed, if one waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<u64>,
    /// How many workers there are.
    pub workers: u16,
    /// How many bridges there are.
    pub bridges: u64,
    /// How many ports are in which state.
    pub ports: PortsInState,
    /// How full the FDB is.
    pub fdb: FdbUse,
    /// The pools that frames are made from; absent where they are made on the heap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolStatus>,
    /// Frames dropped a second, over the last few seconds.
    pub drops_per_second: f64,
    /// Whether something is not as it should be.
    pub degraded: bool,
    /// What is not, with advice.
    pub warnings: Vec<Warning>,
    /// What bounds this switch's memory.
    pub limits: Limits,
}

/// How many ports are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortsInState {
    /// Open, link up.
    pub up: u64,
    /// Open, link down.
    pub down: u64,
    /// Their device is not there yet.
    pub waiting: u64,
    /// They could not be opened.
    pub failed: u64,
}

/// How full the FDB is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbUse {
    /// Entries.
    pub used: u64,
    /// Most entries.
    pub max: u64,
    /// What happened to entries since the start.
    #[serde(default)]
    pub churn: FdbChurn,
}

/// What happened to entries of the FDB since vswitchd started. A worker whose events found the queue
/// full (`vswitch_worker_events_lost_total`) has learned and moved more than this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdbChurn {
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that moved to another port or remote.
    pub moved: u64,
    /// Entries that aged.
    pub aged: u64,
    /// Entries that made room for others.
    pub evicted: u64,
}

/// A pool that frames are made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// How many buffers it has.
    pub buffers: u32,
    /// How many of them are free. Devices hold some for what they are about to receive.
    pub free: u32,
    /// Bytes of memory it takes.
    pub bytes: u64,
    /// Whether these are hugepages.
    pub hugepages: bool,
    /// The NUMA node it is on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u16>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Warning {
    /// What it is about, for example `port vm7`.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What bounds the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Most ports.
    pub ports: u64,
    /// Most bridges.
    pub bridges: u64,
    /// Bytes set aside for the FDB.
    pub fdb_bytes: u64,
}

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VersionReply {
    /// Version of the daemon.
    pub version: String,
    /// Version of the API: the `v1` of its paths.
    pub api: String,
}

/// Frames dropped on one port for one reason, since vswitchd started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DropRow {
    /// The port.
    pub port: String,
    /// The bridge that the port is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The tunnel, where those of one were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Name of the reason.
    pub reason: String,
    /// `in`: on the port the frames came from; `out`: on the port they were to leave by.
    pub side: String,
    /// How many.
    pub frames: u64,
    /// What happened.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CpuStatus {
    /// Its number, from 0.
    pub worker: u16,
    /// The CPU it is pinned to; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u16>,
    /// `adaptive` or `poll`.
    pub idle: String,
    /// The ports it receives from.
    pub ports: Vec<String>,
    /// The receive queues it polls.
    #[serde(default)]
    pub rx_queues: Vec<RxQueue>,
    /// Share of the time that it spent on frames, over the last few seconds, 0 to 100.
    pub busy_percent: f64,
    /// Frames since it started.
    pub frames: u64,
    /// Nanoseconds a frame took, on average since it started; 0 without frames.
    pub ns_per_frame: f64,
    /// Processor cycles a frame took: its nanoseconds times `mhz`. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles_per_frame: Option<f64>,
    /// The clock that cycles are counted by, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mhz: Option<f64>,
    /// Which clock that is: `tsc` is the time stamp counter, `cpu` what the kernel says of the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// Frames a burst had, on average since it started; 0 without frames.
    pub frames_per_burst: f64,
}

/// A receive queue of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RxQueue {
    /// The port.
    pub port: String,
    /// Its number on the port, from 0.
    pub queue: u16,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventLevel {
    /// Worth knowing.
    Info,
    /// Worth looking at.
    Warn,
    /// Something failed.
    Error,
}

impl EventLevel {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Something that happened. One line of the event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// Counts up by one with each event since vswitchd started; a gap is what the reader missed.
    pub number: u64,
    /// When, in UTC, as `2026-01-31T12:00:00.000Z`.
    pub time: String,
    /// How much it matters.
    pub level: EventLevel,
    /// What kind, for example `port-up`, `port-down`, `loop-guard`, `config-applied`.
    pub event: String,
    /// What it is about, for example `port vm7`; empty for the switch itself.
    pub subject: String,
    /// In words.
    pub message: String,
}
