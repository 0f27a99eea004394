//! What the control thread can be asked: each action with the way its answer goes back.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError};
use serde_json::Value as Json;
use switch_core::config::{BridgeSpec, MirrorSpec, PortSpec, TunnelSpec, VtepSpec};
use switch_core::watch::Watch;
use tokio::sync::oneshot;
use vswitch_api::config::Change;
use vswitch_api::types::{
    BridgeStatus, ConfigReply, CpuStatus, DiffReply, DropRow, ExportStatus, FdbBatch,
    FdbBatchReply, FdbFilter, FdbFlush, FdbSelector, HistoryEntry, MirrorStatus, MtuReply,
    MutationReply, PeersReply, PeersRequest, PortStats, PortStatus, StatusReply, Trace, TunnelPeer,
    TunnelStatus, VlanRequest, VlanRow, VtepStatus,
};
use vswitch_api::{ApiError, Code};

use super::fdb::FdbTable;
use super::overlay_view::TunnelFilter;
use crate::metrics::Sample;
use crate::watch::{Wanted, Watching};

/// Where an answer goes. Whoever asked may have gone meanwhile.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// Who asks for a change.
#[derive(Clone, Debug)]
pub struct Author(pub String);

/// A change of desired state.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// A new bridge.
    AddBridge(BridgeSpec),
    /// Other values for some keys of a bridge; `null` is the default.
    SetBridge(String, Json),
    /// A bridge goes. No port may be in it.
    RemoveBridge(String),
    /// A new port.
    AddPort(PortSpec),
    /// Other values for some keys of a port; `null` is the default.
    SetPort(String, Json),
    /// A port goes, and its device if the switch made it.
    RemovePort(String),
    /// A new VTEP.
    AddVtep(VtepSpec),
    /// Other values for some keys of a VTEP; `null` is the default.
    SetVtep(String, Json),
    /// A VTEP goes. No tunnel may end at it.
    RemoveVtep(String),
    /// A new tunnel.
    AddTunnel(TunnelSpec),
    /// Other values for some keys of a tunnel; `null` is the default.
    SetTunnel(String, Json),
    /// A tunnel goes.
    RemoveTunnel(String),
    /// A new mirror.
    AddMirror(MirrorSpec),
    /// Other values for some keys of a mirror; `null` is the default.
    SetMirror(String, Json),
    /// A mirror goes.
    RemoveMirror(String),
    /// A port joins a VLAN.
    AddVlan(VlanRequest),
    /// A port leaves a VLAN.
    RemoveVlan {
        /// The port.
        port: String,
        /// The VLAN.
        vlan: u16,
    },
    /// A file's text becomes the desired state of origin `file`.
    Apply {
        /// TOML.
        toml: String,
        /// Seconds after which it is taken back unless confirmed.
        confirm: Option<u64>,
    },
    /// The change that waits stays.
    Confirm,
    /// An earlier state becomes the present one; the one before if none is named.
    Rollback(Option<u64>),
    /// The configuration file has been written anew.
    Reload(Vec<u8>),
}

/// What the control thread is asked.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is named after the resource that answers it")]
pub enum Action {
    Status(Reply<StatusReply>),
    Bridges(Reply<Vec<BridgeStatus>>),
    Ports(Reply<Vec<PortStatus>>),
    PortStats(Reply<Vec<PortStats>>),
    Vteps(Reply<Vec<VtepStatus>>),
    Tunnels(TunnelFilter, Reply<Vec<TunnelStatus>>),
    Mirrors(Reply<Vec<MirrorStatus>>),
    TunnelPeers(String, Reply<Vec<TunnelPeer>>),
    PeersAdd(String, PeersRequest, Reply<PeersReply>),
    PeersRemove(String, PeersRequest, Reply<PeersReply>),
    Mtu(Option<String>, Reply<MtuReply>),
    Vlans(Reply<Vec<VlanRow>>),
    Fdb(FdbFilter, Reply<FdbTable>),
    FdbAdd(FdbBatch, Reply<FdbBatchReply>),
    FdbRemove(FdbSelector, Reply<FdbBatchReply>),
    FdbFlush(FdbFlush, Reply<FdbBatchReply>),
    Drops(Reply<Vec<DropRow>>),
    WatchAdd(Box<Wanted>, Reply<Watching>),
    WatchRemove(Arc<Watch>, Reply<()>),
    TraceFrame(String, Vec<u8>, Reply<Trace>),
    Exports(Reply<Vec<ExportStatus>>),
    Cpus(Reply<Vec<CpuStatus>>),
    Metrics(Reply<Sample>),
    Config(Reply<ConfigReply>),
    Diff(String, Reply<DiffReply>),
    History(Reply<Vec<HistoryEntry>>),
    Revision(u64, Reply<ConfigReply>),
    Changes(u64, Reply<Vec<Change>>),
    Mutate {
        author: Author,
        mutation: Mutation,
        reply: Reply<MutationReply>,
    },
    /// Close everything and end.
    Stop,
}

/// The way to the control thread.
#[derive(Clone, Debug)]
pub struct Control(pub(super) Sender<Action>);

/// How many actions may wait. More are refused: a queue that grows helps nobody.
pub(super) const WAITING: usize = 256;
/// How long the word to stop may wait behind them.
const STOP_TAKEN_WITHIN: Duration = Duration::from_secs(5);

impl Control {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the control thread answers; [`Code::Busy`] if it does not take the question.
    pub async fn ask<T>(&self, action: impl FnOnce(Reply<T>) -> Action) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(action(reply))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// The same for a caller outside of the runtime.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_blocking<T>(&self, action: impl FnOnce(Reply<T>) -> Action) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(action(reply))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopping()))
    }

    /// Tells it to close everything and end. One that takes no questions any more is left to
    /// itself after a few seconds.
    pub fn stop(&self) {
        // It may have ended by itself.
        let _ = self.0.send_timeout(Action::Stop, STOP_TAKEN_WITHIN);
    }

    /// The way to a control thread that never answers, and what it is asked.
    #[cfg(test)]
    pub(crate) fn unanswered() -> (Self, crossbeam::channel::Receiver<Action>) {
        let (sender, asked) = crossbeam::channel::bounded(WAITING);
        (Self(sender), asked)
    }

    fn send(&self, action: Action) -> Result<(), ApiError> {
        self.0.try_send(action).map_err(|error| match error {
            TrySendError::Full(_) => {
                let message = format!("{WAITING} requests wait already");
                ApiError::new(Code::Busy, message).with_hint("try again in a moment")
            }
            TrySendError::Disconnected(_) => stopping(),
        })
    }
}

fn stopping() -> ApiError {
    ApiError::new(Code::Busy, "the daemon is stopping")
}
