//! The control thread: the one place that changes anything.
//!
//! It owns the backend, the switch's housekeeping and the store, takes typed [`Action`]s from the
//! API, and looks around ten times a second: what devices tell, what workers saw, who waits for a
//! device, which change was not confirmed in time.
//!
//! - `action.rs`: what can be asked
//! - `mutate.rs`: changes of desired state: checked as a whole, stored, then realised
//! - `reconcile.rs`: from desired to actual
//! - `ports.rs`: one port's life: opened, watched, closed
//! - `overlay.rs`, `tunnels.rs`, `peers.rs`, `mtu.rs`: the same for VTEPs, tunnels and their peers
//! - `tick.rs`: what happens by itself
//! - `mirrors.rs`, `exports.rs`: whose frames are copied, and sampled
//! - `balance.rs`: ports that move between workers
//! - `watch.rs`: who wants to see frames
//! - `by_hand.rs`: a controller without a thread of its own, for replays
//! - `view.rs`, `counters.rs`, `fdb.rs`: answers

mod action;
mod balance;
mod by_hand;
mod counters;
mod exports;
mod fdb;
mod mirrors;
mod mtu;
mod mutate;
mod overlay;
mod overlay_peers;
mod overlay_view;
mod peers;
mod ports;
mod reconcile;
mod tick;
mod tunnels;
mod view;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use switch_core::bridge::LoopGuardConfig;
use switch_core::datapath::{Backend, BackendError, Datapath, UnderlaySpec};
use switch_core::fdb::{Fdb, FdbConfig, Key};
use switch_core::stats::PortTotals;
use switch_core::switch::{Housekeeper, Switch, WORKERS_MAX};
use switch_core::{BridgeId, Nanos, PortId, WorkerId};
use vswitch_api::config::{DaemonSpec, Desired, DpdkSpec};
use vswitch_api::types::FdbChurn;

pub use action::{Action, Author, Control, Mutation, Reply};
pub(crate) use by_hand::Place;
pub(crate) use counters::drop_row;
pub use fdb::FdbTable;
pub(crate) use mutate::{
    no_such_bridge, no_such_mirror, no_such_port, no_such_tunnel, no_such_vtep,
};
pub use overlay_view::TunnelFilter;

use crate::clock::Clock;
use crate::events::Events;
use crate::store::Store;
use crate::workers::{Died, WorkerError, WorkerPlan, Workers};
use balance::Balance;
use ports::Port;
use tick::Rates;
use tunnels::Tunnels;

/// How often the control thread looks around.
const TICK: Duration = Duration::from_millis(100);

/// A worker's queue of a backend's ports.
type Queue<B> = <<B as Backend>::Datapath as Datapath>::Queue;

/// Why the switch cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The backend cannot give a worker what it needs.
    #[error("set up worker {worker}: {cause}")]
    Backend {
        /// Which worker.
        worker: usize,
        /// Why.
        cause: BackendError,
    },
    /// A worker did not start, or hangs.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// What differs from one start of a switch to the next.
#[derive(Debug)]
pub(crate) struct Chance {
    /// What the time is.
    pub(crate) clock: Clock,
    /// What addresses are hashed with; random if absent, so that nobody outside can tell which share a
    /// place.
    pub(crate) fdb_seed: Option<u64>,
}

impl Default for Chance {
    fn default() -> Self {
        Self { clock: Clock::start(), fdb_seed: None }
    }
}

/// The control thread's state.
pub struct Controller<B: Backend> {
    backend: B,
    switch: Arc<Switch>,
    keeper: Housekeeper,
    workers: Workers<Queue<B>>,
    store: Store,
    /// The present desired state; what the store's objects make up.
    desired: Desired,
    /// How the daemon was started; a change of it waits for the next start.
    started_as: (DaemonSpec, DpdkSpec),
    clock: Clock,
    events: Events,
    bridges: BTreeMap<String, BridgeId>,
    ports: BTreeMap<String, Port>,
    vteps: BTreeMap<String, Port<UnderlaySpec>>,
    tunnels: Tunnels,
    mirrors: BTreeMap<String, mirrors::Counters>,
    exports: exports::Exports,
    /// When the peers were last asked about in a round, and when the seen ones were looked through.
    asked_at: Nanos,
    seen_at: Nanos,
    /// How often an address was held where it is.
    damped: u64,
    churn: FdbChurn,
    port_ids: Ids,
    bridge_ids: Ids,
    /// Ageing time of each bridge in seconds, by its number: asked for every entry of a sweep.
    ageing: Vec<u32>,
    /// Counts up with each port that is opened.
    opened: u64,
    /// Counters of ports that were deleted.
    retired: PortTotals,
    /// Who added which entry. Only for what was added: bounded by the FDB itself.
    owners: BTreeMap<(u32, [u8; 6]), String>,
    /// When the change that waits for its confirmation is taken back.
    confirm_by: Option<Instant>,
    rates: Rates,
    balance: Balance,
    actions: Receiver<Action>,
}

impl<B: Backend> std::fmt::Debug for Controller<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("ports", &self.ports.len()).finish_non_exhaustive()
    }
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Starts the workers and realises the desired state of `store`. Ports that cannot be opened
    /// do not stop it: they are `failed` or `waiting`. `died` hears of workers that panic.
    ///
    /// # Errors
    /// A worker cannot be set up, or hangs.
    pub fn start(
        backend: B,
        store: Store,
        desired: Desired,
        events: Events,
        died: &crossbeam::channel::Sender<Died>,
    ) -> Result<(Self, Control), ControlError> {
        Self::start_with(backend, store, desired, events, died, Chance::default())
    }

    /// The same without what differs from one start to the next, if `chance` says so.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_with(
        mut backend: B,
        store: Store,
        desired: Desired,
        events: Events,
        died: &crossbeam::channel::Sender<Died>,
        chance: Chance,
    ) -> Result<(Self, Control), ControlError> {
        let Chance { clock, fdb_seed } = chance;
        let spec = &desired.daemon;
        let plan = WorkerPlan {
            cpus: spec.cpus.as_ref().map(|list| list.cpus().to_vec()).unwrap_or_default(),
            idle: spec.idle,
        };
        if plan.count() > WORKERS_MAX {
            return Err(WorkerError::TooMany { asked: plan.count() }.into());
        }
        let fdb = FdbConfig {
            max_total: spec.max_fdb_total,
            max_per_bridge: FdbConfig::default().max_per_bridge,
        };
        let switch = match fdb_seed {
            Some(seed) => Switch::with_fdb(Fdb::with_seed(fdb, seed)),
            None => Switch::new(fdb),
        };
        backend.take_fdb(switch.fdb().memory());
        let mut datapaths = Vec::new();
        for worker in 0..plan.count() {
            let id = WorkerId(u16::try_from(worker).unwrap_or(u16::MAX));
            let datapath = backend.worker(id);
            datapaths.push(datapath.map_err(|cause| ControlError::Backend { worker, cause })?);
        }
        let workers = Workers::start(&plan, datapaths, &switch, &clock, died)?;
        let (sender, actions) = bounded(action::WAITING);
        let mut controller = Self {
            backend,
            keeper: Housekeeper::new(Arc::clone(&switch), LoopGuardConfig::default()),
            switch,
            workers,
            store,
            started_as: (desired.daemon.clone(), desired.dpdk.clone()),
            desired: Desired::default(),
            clock,
            events,
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            vteps: BTreeMap::new(),
            tunnels: Tunnels::new(plan.count()),
            mirrors: BTreeMap::new(),
            exports: exports::Exports::default(),
            asked_at: Nanos::default(),
            seen_at: Nanos::default(),
            damped: 0,
            churn: FdbChurn::default(),
            port_ids: Ids::new(PortId::MAX_PORTS),
            bridge_ids: Ids::new(BridgeId::MAX_BRIDGES),
            ageing: Vec::new(),
            opened: 0,
            retired: PortTotals::default(),
            owners: BTreeMap::new(),
            confirm_by: None,
            rates: Rates::default(),
            balance: Balance::default(),
            actions,
        };
        if let Err(error) = controller.reconcile(desired) {
            controller.workers.stop();
            return Err(error.into());
        }
        Ok((controller, Control(sender)))
    }

    /// Runs until [`Action::Stop`], then closes every port and stops the workers.
    ///
    /// # Errors
    /// A worker hangs: nothing can be closed safely any more, and the process has to end.
    pub fn run(mut self) -> Result<(), ControlError> {
        let mut next = Instant::now() + TICK;
        loop {
            match self.actions.recv_deadline(next) {
                Ok(Action::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(action) => self.act(action)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Also between actions: a stream of them must not keep devices waiting.
            if Instant::now() >= next {
                self.tick(Instant::now())?;
                next = Instant::now() + TICK;
            }
        }
        self.end()
    }

    /// Closes every port and stops the workers.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn end(mut self) -> Result<(), ControlError> {
        self.close_all()?;
        self.workers.stop();
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), WorkerError> {
        // Whoever asked may have gone meanwhile: nobody waits for the answer then.
        match action {
            Action::Status(reply) => drop(reply.send(Ok(self.status()))),
            Action::Bridges(reply) => drop(reply.send(Ok(self.bridges_status()))),
            Action::Ports(reply) => drop(reply.send(Ok(self.ports_status()))),
            Action::Vteps(reply) => drop(reply.send(Ok(self.vteps_status()))),
            Action::Tunnels(filter, reply) => drop(reply.send(self.tunnels_status(&filter))),
            Action::Mirrors(reply) => drop(reply.send(Ok(self.mirrors_status()))),
            Action::TunnelPeers(name, reply) => drop(reply.send(self.tunnel_peers(&name))),
            Action::PeersAdd(name, peers, reply) => {
                let answer = self.peers_add(&name, &peers)?;
                drop(reply.send(answer));
            }
            Action::PeersRemove(name, peers, reply) => {
                let answer = self.peers_remove(&name, &peers)?;
                drop(reply.send(answer));
            }
            Action::Mtu(tunnel, reply) => drop(reply.send(self.mtu(tunnel.as_deref()))),
            Action::PortStats(reply) => drop(reply.send(Ok(self.port_stats()))),
            Action::Vlans(reply) => drop(reply.send(Ok(self.vlans()))),
            Action::Fdb(filter, reply) => drop(reply.send(self.fdb_entries(&filter))),
            Action::FdbAdd(batch, reply) => drop(reply.send(self.fdb_add(batch))),
            Action::FdbRemove(entries, reply) => drop(reply.send(self.fdb_remove(&entries))),
            Action::FdbFlush(flush, reply) => drop(reply.send(self.fdb_flush(&flush))),
            Action::Drops(reply) => drop(reply.send(Ok(self.drops()))),
            Action::WatchAdd(wanted, reply) => {
                // Nobody would end a watch of somebody who is gone.
                if let Err(Ok(watching)) = reply.send(self.watch_add(*wanted)) {
                    self.watch_remove(&watching.watch);
                }
            }
            Action::WatchRemove(watch, reply) => {
                self.watch_remove(&watch);
                drop(reply.send(Ok(())));
            }
            Action::TraceFrame(port, bytes, reply) => {
                drop(reply.send(self.trace_frame(&port, &bytes)));
            }
            Action::Exports(reply) => drop(reply.send(Ok(self.exports_status()))),
            Action::Cpus(reply) => drop(reply.send(Ok(self.cpus()))),
            Action::Metrics(reply) => drop(reply.send(Ok(self.sample()))),
            Action::Config(reply) => drop(reply.send(Ok(self.config()))),
            Action::Diff(toml, reply) => drop(reply.send(self.diff(&toml))),
            Action::History(reply) => drop(reply.send(self.history())),
            Action::Revision(number, reply) => drop(reply.send(self.config_at(number))),
            Action::Changes(number, reply) => drop(reply.send(self.changes_of(number))),
            Action::Mutate { author, mutation, reply } => {
                let answer = self.mutate(&author, mutation)?;
                drop(reply.send(answer));
            }
            Action::Stop => {}
        }
        Ok(())
    }

    /// The name of a bridge, for what is shown.
    fn bridge_name(&self, id: BridgeId) -> String {
        let snapshot = self.switch.snapshot();
        snapshot.bridge(id).map_or_else(|| format!("{id:?}"), |bridge| bridge.name.to_string())
    }

    /// The name of a port, for what is shown; also of one that is closed.
    fn port_name(&self, id: PortId) -> String {
        if let Some(port) = self.switch.snapshot().port(id) {
            return port.name.to_string();
        }
        let ports = self.ports.iter().map(|(name, port)| (name, port.id));
        let vteps = self.vteps.iter().map(|(name, vtep)| (name, vtep.id));
        let named = ports.chain(vteps).find(|(_, port)| *port == id);
        named.map_or_else(|| format!("{id:?}"), |(name, _)| name.clone())
    }
}

/// The key of [`Controller::owners`].
fn owner_key(key: Key) -> (u32, [u8; 6]) {
    (key.domain().get(), key.mac().octets())
}

/// Hands out the smallest free number.
#[derive(Debug)]
struct Ids {
    used: Vec<bool>,
    /// None below it is free, so that who takes many does not look at the same ones again.
    lowest: usize,
}

impl Ids {
    fn new(most: usize) -> Self {
        Self { used: vec![false; most], lowest: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        let free = self.lowest + self.used.get(self.lowest..)?.iter().position(|used| !used)?;
        self.used[free] = true;
        self.lowest = free + 1;
        u32::try_from(free).ok()
    }

    /// The same for numbers that fit 16 bits.
    fn take_short(&mut self) -> Option<u16> {
        self.take().and_then(|id| u16::try_from(id).ok())
    }

    fn give_back(&mut self, id: usize) {
        if let Some(used) = self.used.get_mut(id) {
            *used = false;
            self.lowest = self.lowest.min(id);
        }
    }
}
