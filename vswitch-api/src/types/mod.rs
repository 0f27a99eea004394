//! What the API takes and gives. Field names are the field's words; keys of desired state are those
//! of the file.

mod config;
mod export;
mod fdb;
mod keyed;
mod mirror;
mod port;
mod reply;
mod status;
mod trace;
mod tunnel;
mod vlan;

pub use config::{
    ApplyRequest, ConfigReply, ConfigText, DiffReply, HistoryEntry, RollbackRequest, ValidateReply,
};
pub use export::ExportStatus;
pub use fdb::{
    FdbBatch, FdbBatchReply, FdbEntry, FdbEvent, FdbEventKind, FdbFilter, FdbFlush, FdbKey,
    FdbKind, FdbRefused, FdbSelector,
};
pub use keyed::{BridgeConfig, MirrorConfig, PortConfig, TunnelConfig, VtepConfig};
pub use mirror::MirrorStatus;
pub use port::{
    BridgeStatus, CopyCounters, DeviceCounter, DeviceStatus, DropCount, Offloads, PortCounters,
    PortState, PortStats, PortStatus,
};
pub use reply::{Action, List, MutationReply, ObjectKind, ObjectResult, Origin};
pub use status::{
    CpuStatus, DropRow, Event, EventLevel, FdbChurn, FdbUse, Limits, PoolStatus, PortsInState,
    RxQueue, StatusReply, VersionReply, Warning,
};
pub use trace::{Fate, Hop, Step, Trace, TraceEnd, TraceRequest};
pub use tunnel::{
    MtuReply, Overhead, PeersReply, PeersRequest, PortMtu, ReceivedOption, TunnelCounters,
    TunnelMtu, TunnelPeer, TunnelStatus, VtepStatus,
};
pub use vlan::{VlanMode, VlanRequest, VlanRow};
