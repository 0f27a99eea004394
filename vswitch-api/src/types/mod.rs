//! What the API takes and gives. Field names are the field's words; keys of desired state are those
//! of the file.

mod config;
mod fdb;
mod port;
mod reply;
mod status;
mod vlan;

pub use config::{
    ApplyRequest, ConfigReply, ConfigText, DiffReply, HistoryEntry, RollbackRequest, ValidateReply,
};
pub use fdb::{
    FdbBatch, FdbBatchReply, FdbEntry, FdbEvent, FdbEventKind, FdbFilter, FdbFlush, FdbKey,
    FdbKind, FdbRefused, FdbSelector,
};
pub use port::{
    BridgeConfig, BridgeStatus, CopyCounters, DropCount, Offloads, PortConfig, PortCounters,
    PortState, PortStats, PortStatus,
};
pub use reply::{Action, List, MutationReply, ObjectKind, ObjectResult, Origin};
pub use status::{
    CpuStatus, DropRow, Event, EventLevel, FdbUse, Limits, PortsInState, StatusReply, VersionReply,
    Warning,
};
pub use vlan::{VlanMode, VlanRequest, VlanRow};
