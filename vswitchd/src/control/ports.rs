//! One port's life: opened, watched, closed.

use std::sync::Arc;
use std::time::Duration;

use switch_core::config::{PortConf, PortVlans};
use switch_core::config::{PortSpec, PortState, VlanSpec};
use switch_core::datapath::{Backend, BackendError, OpenPort, OutsideLoss, PortInfo};
use switch_core::fdb::Flush;
use switch_core::stats::{PortCounters, PortTotals};
use switch_core::{BridgeId, Nanos, PortId, WorkerId};
use vswitch_api::types::EventLevel;

use super::{Controller, Queue};
use crate::workers::WorkerError;

/// How soon a port that could not be opened is tried again at first …
const RETRY: Duration = Duration::from_secs(1);
/// … and at last. The time doubles in between.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// A port, as the control thread knows it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) id: PortId,
    /// As it is asked for.
    pub(super) spec: PortSpec,
    /// As its device was opened and adjusted last.
    pub(super) applied: PortSpec,
    /// Set while it is attached to the workers.
    pub(super) open: Option<Open>,
    /// What the system told of it last.
    pub(super) info: Option<PortInfo>,
    /// One for each worker, kept while the device comes and goes.
    pub(super) counters: Vec<Arc<PortCounters>>,
    /// Loss outside, of the times it was open before.
    pub(super) lost_before: OutsideLoss,
    pub(super) trouble: Option<Trouble>,
    pub(super) state: Arc<PortState>,
}

/// What only an open port has.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) owner: WorkerId,
    /// Which port is newer.
    pub(super) number: u64,
}

/// Why a port is not as it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// Its device is not there, so that it waits; otherwise something failed.
    pub(super) waits: bool,
    pub(super) reason: String,
    pub(super) hint: Option<String>,
    /// When it is tried again, and how long it waits after that.
    retry_at: Nanos,
    pause: Duration,
}

impl Trouble {
    fn of(error: &BackendError, earlier: Option<&Self>, now: Nanos) -> Self {
        let waits = matches!(error, BackendError::NotThere { .. });
        let pause = match earlier {
            Some(earlier) if !waits && !earlier.waits => (earlier.pause * 2).min(RETRY_LAST),
            _ => RETRY,
        };
        Self {
            waits,
            reason: error.to_string(),
            hint: error.hint().map(str::to_owned),
            retry_at: now + pause,
            pause,
        }
    }

    pub(super) fn is_due(&self, now: Nanos) -> bool {
        now >= self.retry_at
    }
}

impl Port {
    pub(super) fn new(id: PortId, spec: PortSpec, workers: usize) -> Self {
        Self {
            id,
            applied: spec.clone(),
            spec,
            open: None,
            info: None,
            counters: std::iter::repeat_with(Arc::default).take(workers).collect(),
            lost_before: OutsideLoss::default(),
            trouble: None,
            state: Arc::default(),
        }
    }

    /// As workers see it; `None` while it is closed.
    pub(super) fn conf(&self, bridge: Option<BridgeId>) -> Option<PortConf> {
        let (open, info) = (self.open.as_ref()?, self.info.as_ref()?);
        Some(PortConf {
            id: self.id,
            name: self.spec.name.as_str().into(),
            bridge,
            vlans: vlans(&self.spec.vlan),
            isolated: self.spec.isolated,
            loop_guard: self.spec.loop_guard,
            storm: self.spec.storm_limit.map(|rate| rate.pps),
            mtu: info.mtu,
            caps: info.caps,
            up: info.link_up,
            opened: open.number,
            state: Arc::clone(&self.state),
        })
    }

    /// What all workers counted together.
    pub(super) fn totals(&self) -> PortTotals {
        let mut sum = PortTotals::default();
        for counters in &self.counters {
            sum.add(&counters.totals());
        }
        sum
    }

    pub(super) fn is_up(&self) -> bool {
        self.open.is_some() && self.info.as_ref().is_some_and(|info| info.link_up)
    }
}

/// The VLANs of a port, as workers look them up.
pub(super) fn vlans(spec: &VlanSpec) -> PortVlans {
    match spec {
        VlanSpec::Transparent => PortVlans::transparent(),
        VlanSpec::Access(vlan) => PortVlans::access(vlan.get()),
        VlanSpec::Trunk { vlans, native } => {
            PortVlans::trunk(vlans.iter().map(|vlan| vlan.get()), native.map(|vlan| vlan.get()))
        }
    }
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Opens a port's device and hands it to the workers. Frames flow once it is published. Whether
    /// it is open now; if not, it has its `trouble`.
    pub(super) fn open(&mut self, name: &str) -> Result<bool, WorkerError> {
        let now = self.clock.now();
        let Some(port) = self.ports.get_mut(name) else { return Ok(false) };
        if port.open.is_some() {
            return Ok(true);
        }
        let subject = format!("port {name}");
        match self.backend.open_port(port.id, &port.spec) {
            Ok(OpenPort { info, queues, owner }) => {
                self.workers.attach(port.id, queues, &port.counters)?;
                self.opened += 1;
                port.open = Some(Open { owner, number: self.opened });
                port.applied = port.spec.clone();
                port.trouble = None;
                port.state.block(Nanos::default());
                let (event, words) =
                    if info.link_up { ("port-up", "up") } else { ("port-down", "link down") };
                let mut message = format!("{words}: {} ({})", info.device, info.driver);
                if !info.lost.is_empty() {
                    message = format!("{message}, without {}", info.lost.join(", "));
                }
                port.info = Some(info);
                self.events.add(EventLevel::Info, event, &subject, &message);
                Ok(true)
            }
            Err(error) => {
                let earlier = port.trouble.take();
                let trouble = Trouble::of(&error, earlier.as_ref(), now);
                // Told once for each reason, not at each attempt.
                if earlier.is_none_or(|earlier| earlier.reason != trouble.reason) {
                    let (level, event) = match trouble.waits {
                        true => (EventLevel::Info, "port-waiting"),
                        false => (EventLevel::Warn, "port-failed"),
                    };
                    self.events.add(level, event, &subject, &trouble.reason);
                }
                port.trouble = Some(trouble);
                Ok(false)
            }
        }
    }

    /// Closes a port that no snapshot has any more: taken from every worker first, then closed, and
    /// what was learned on it forgotten. `remove` also deletes the device, if the switch made it.
    pub(super) fn close(&mut self, name: &str, remove: bool) -> Result<(), WorkerError> {
        let Some(port) = self.ports.get_mut(name) else { return Ok(()) };
        if port.open.take().is_none() {
            return Ok(());
        }
        let id = port.id;
        let queues = self.workers.detach(id)?;
        let lost = self.backend.outside_loss(id);
        port.lost_before.missed_rx += lost.missed_rx;
        port.lost_before.lost_after_tx += lost.lost_after_tx;
        if let Err(error) = self.backend.close_port(id, queues, remove) {
            let message = error.to_string();
            self.events.add(EventLevel::Warn, "port-close", &format!("port {name}"), &message);
        }
        self.keeper.forget(id);
        self.flush_learned(id);
        Ok(())
    }

    /// The device of an open port is gone: the port waits for it to come back.
    pub(super) fn gone(&mut self, name: &str, reason: String) -> Result<(), WorkerError> {
        let Some(port) = self.ports.get_mut(name).filter(|port| port.open.is_some()) else {
            return Ok(());
        };
        port.trouble = Some(Trouble {
            waits: true,
            hint: Some("the port comes up by itself when the device appears".into()),
            retry_at: self.clock.now() + RETRY,
            pause: RETRY,
            reason,
        });
        let message = port.trouble.as_ref().map(|t| t.reason.clone()).unwrap_or_default();
        if let Some(info) = &mut port.info {
            info.link_up = false;
        }
        self.events.add(EventLevel::Info, "port-waiting", &format!("port {name}"), &message);
        let revision = self.publish_without(&[name]);
        self.workers.wait_observed(&self.switch, revision)?;
        self.close(name, false)
    }

    /// Forgets what was learned on a port. A flush looks at the whole table, so only if there is
    /// something.
    pub(super) fn flush_learned(&self, id: PortId) {
        if self.switch.fdb().port_count(id) > 0 {
            self.switch.fdb().flush(&Flush::all().port(id));
        }
    }

    /// Notes that an open port could not be adjusted to what is asked for.
    pub(super) fn not_adjusted(&mut self, name: &str, error: &BackendError) {
        let now = self.clock.now();
        let Some(port) = self.ports.get_mut(name) else { return };
        let earlier = port.trouble.take();
        let trouble = Trouble { waits: false, ..Trouble::of(error, earlier.as_ref(), now) };
        // Told once for each reason, as in `open`.
        if earlier.is_none_or(|earlier| earlier.reason != trouble.reason) {
            let subject = format!("port {name}");
            self.events.add(EventLevel::Warn, "port-failed", &subject, &trouble.reason);
        }
        port.trouble = Some(trouble);
    }
}
