//! One port's life: opened, watched, closed.

use std::sync::Arc;
use std::time::Duration;

use switch_core::config::{PortConf, PortKind, PortVlans};
use switch_core::config::{PortSpec, PortState, VlanSpec};
use switch_core::datapath::{Backend, BackendError, OpenPort, OutsideLoss, PortInfo, UnderlaySpec};
use switch_core::fdb::Flush;
use switch_core::stats::{PortCounters, PortTotals};
use switch_core::{BridgeId, Nanos, PortId, WorkerId};
use vswitch_api::types::EventLevel;

use super::{Controller, Queue};
use crate::events::Events;
use crate::workers::WorkerError;

/// How soon a port that could not be opened is tried again at first …
const RETRY: Duration = Duration::from_secs(1);
/// … and at last. The time doubles in between.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What is to be done about a VTEP that waits.
const VTEP_WAITS: &str = "the VTEP comes up by itself when this host has the address";

/// A port, as the control thread knows it. The port of a VTEP is asked for in other words, and lives
/// the same life.
#[derive(Debug)]
pub(super) struct Port<S = PortSpec> {
    pub(super) id: PortId,
    /// As it is asked for.
    pub(super) spec: S,
    /// The MTU of the tunnels it shares VLANs with, told to a device that names none.
    pub(super) told_mtu: Option<u16>,
    /// Whether the copies of a mirror leave by it.
    pub(super) ends_mirror: bool,
    /// As its device was opened and adjusted last.
    pub(super) applied: S,
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

    /// Has it tried again at once.
    fn hurry(&mut self) {
        self.retry_at = Nanos::default();
    }

    pub(super) fn is_due(&self, now: Nanos) -> bool {
        now >= self.retry_at
    }
}

impl<S: Clone> Port<S> {
    pub(super) fn new(id: PortId, spec: S, workers: usize) -> Self {
        Self {
            id,
            told_mtu: None,
            ends_mirror: false,
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

    /// Its device is open now, after `opened` ports before. The event that tells so, in words.
    fn is_open_as(
        &mut self,
        info: PortInfo,
        owner: WorkerId,
        applied: S,
        opened: u64,
    ) -> (&'static str, String) {
        self.open = Some(Open { owner, number: opened });
        self.applied = applied;
        self.trouble = None;
        self.state.block(Nanos::default());
        let (event, words) = if info.link_up { ("up", "up") } else { ("down", "link down") };
        let mut message = format!("{words}: {} ({})", info.device, info.driver);
        if !info.lost.is_empty() {
            message = format!("{message}, without {}", info.lost.join(", "));
        }
        self.info = Some(info);
        (event, message)
    }

    /// Its device could not be opened. The event that tells so: once for each reason, not at each
    /// attempt.
    fn is_refused(
        &mut self,
        error: &BackendError,
        now: Nanos,
    ) -> Option<(EventLevel, &'static str)> {
        let earlier = self.trouble.take();
        let trouble = self.trouble.insert(Trouble::of(error, earlier.as_ref(), now));
        let told = earlier.is_some_and(|earlier| earlier.reason == trouble.reason);
        let event = match trouble.waits {
            true => (EventLevel::Info, "waiting"),
            false => (EventLevel::Warn, "failed"),
        };
        (!told).then_some(event)
    }

    /// It is open, and could not be adjusted to what is asked for. Whether that is to be told: once
    /// for each reason, as above.
    pub(super) fn is_not_adjusted(&mut self, error: &BackendError, now: Nanos) -> bool {
        let earlier = self.trouble.take();
        let trouble = Trouble { waits: false, ..Trouble::of(error, earlier.as_ref(), now) };
        let trouble = self.trouble.insert(trouble);
        earlier.is_none_or(|earlier| earlier.reason != trouble.reason)
    }

    /// Its device is gone: it waits for it to come back.
    fn waits(&mut self, reason: String, hint: &str, now: Nanos) {
        let (retry_at, hint) = (now + RETRY, Some(hint.to_owned()));
        self.trouble = Some(Trouble { waits: true, reason, hint, retry_at, pause: RETRY });
        if let Some(info) = &mut self.info {
            info.link_up = false;
        }
    }

    /// What was lost outside while it was open, which it is no longer.
    fn is_closed_after(&mut self, lost: OutsideLoss) {
        self.lost_before.missed_rx += lost.missed_rx;
        self.lost_before.lost_after_tx += lost.lost_after_tx;
    }
}

impl Port {
    /// What is asked of its device.
    pub(super) fn device_spec(&self) -> PortSpec {
        let exception = self.spec.exception.as_ref().unwrap_or(&self.spec.name);
        PortSpec {
            mtu: self.spec.mtu.or(self.told_mtu),
            exception: self.is_uplink().then(|| exception.clone()),
            ..self.spec.clone()
        }
    }

    /// A DPDK device in no bridge is an uplink, whether a VTEP uses it yet or not: so its addresses can
    /// be there before, and VTEPs come and go without opening it again.
    pub(super) fn is_uplink(&self) -> bool {
        self.spec.bridge.is_none()
            && !self.ends_mirror
            && matches!(self.spec.kind, PortKind::Dpdk { .. })
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
            gro: self.spec.gro,
            up: info.link_up,
            opened: open.number,
            state: Arc::clone(&self.state),
        })
    }
}

impl Port<UnderlaySpec> {
    /// As workers see the port of a VTEP; `None` while it is closed.
    pub(super) fn underlay_conf(&self) -> Option<PortConf> {
        let (open, info) = (self.open.as_ref()?, self.info.as_ref()?);
        Some(PortConf {
            id: self.id,
            name: self.spec.name.as_str().into(),
            bridge: None,
            vlans: PortVlans::transparent(),
            isolated: false,
            loop_guard: false,
            storm: None,
            // How much fits is a matter of each peer's path.
            mtu: u32::from(u16::MAX),
            caps: info.caps,
            gro: true,
            up: info.link_up,
            opened: open.number,
            state: Arc::clone(&self.state),
        })
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
        let Some(port) = self.ports.get_mut(name) else { return Ok(false) };
        if port.open.is_some() {
            return Ok(true);
        }
        let spec = port.device_spec();
        let opened = match self.backend.open_port(port.id, &spec) {
            Ok(OpenPort { info, queues, owner }) => {
                self.workers.attach(port.id, queues, &port.counters)?;
                self.opened += 1;
                Ok(port.is_open_as(info, owner, spec, self.opened))
            }
            Err(error) => Err(port.is_refused(&error, self.clock.now())),
        };
        let trouble = port.trouble.as_ref().map(|trouble| &*trouble.reason);
        let is_open = tell_opened(&self.events, "port", name, opened, trouble);
        if is_open {
            let its = self.vteps.values_mut().filter(|v| v.spec.uplink.as_deref() == Some(name));
            its.filter_map(|vtep| vtep.trouble.as_mut()).for_each(Trouble::hurry);
        }
        Ok(is_open)
    }

    /// Closes the VTEPs on a port that is about to be closed. They wait until it is open again.
    pub(super) fn uplink_gone(&mut self, name: &str) -> Result<(), WorkerError> {
        let its = self.vteps.iter().filter(|(_, v)| v.applied.uplink.as_deref() == Some(name));
        let its: Vec<String> = its.map(|(vtep, _)| vtep.clone()).collect();
        its.iter().try_for_each(|vtep| self.vtep_gone(vtep, format!("uplink {name} is closed")))
    }

    /// The same for the port of a VTEP.
    pub(super) fn open_vtep(&mut self, name: &str) -> Result<bool, WorkerError> {
        let Some(vtep) = self.vteps.get_mut(name) else { return Ok(false) };
        if vtep.open.is_some() {
            return Ok(true);
        }
        let spec = vtep.spec.clone();
        let opened = match self.backend.open_vtep(vtep.id, &spec) {
            Ok(OpenPort { info, queues, owner }) => {
                self.workers.attach(vtep.id, queues, &vtep.counters)?;
                self.opened += 1;
                Ok(vtep.is_open_as(info, owner, spec, self.opened))
            }
            Err(error) => {
                let news = vtep.is_refused(&error, self.clock.now());
                if let Some(trouble) = vtep.trouble.as_mut().filter(|trouble| trouble.waits) {
                    trouble.hint = Some(VTEP_WAITS.to_owned());
                }
                Err(news)
            }
        };
        let trouble = vtep.trouble.as_ref().map(|trouble| &*trouble.reason);
        Ok(tell_opened(&self.events, "vtep", name, opened, trouble))
    }

    /// Closes a port that no snapshot has any more: taken from every worker first, then closed, and
    /// what was learned on it forgotten. `remove` also deletes the device, if the switch made it.
    pub(super) fn close(&mut self, name: &str, remove: bool) -> Result<(), WorkerError> {
        let Some(port) = self.ports.get_mut(name) else { return Ok(()) };
        if port.open.take().is_none() {
            return Ok(());
        }
        let id = port.id;
        let lost = self.close_device(id, &format!("port {name}"), remove)?;
        if let Some(port) = self.ports.get_mut(name) {
            port.is_closed_after(lost);
        }
        self.flush_learned(id);
        Ok(())
    }

    /// The same for the port of a VTEP.
    pub(super) fn close_vtep(&mut self, name: &str) -> Result<(), WorkerError> {
        let Some(vtep) = self.vteps.get_mut(name) else { return Ok(()) };
        if vtep.open.take().is_none() {
            return Ok(());
        }
        let id = vtep.id;
        let lost = self.close_device(id, &format!("vtep {name}"), true)?;
        if let Some(vtep) = self.vteps.get_mut(name) {
            vtep.is_closed_after(lost);
        }
        Ok(())
    }

    fn close_device(
        &mut self,
        id: PortId,
        subject: &str,
        remove: bool,
    ) -> Result<OutsideLoss, WorkerError> {
        let queues = self.workers.detach(id)?;
        let lost = self.backend.outside_loss(id);
        if let Err(error) = self.backend.close_port(id, queues, remove) {
            self.events.add(EventLevel::Warn, "port-close", subject, &error.to_string());
        }
        self.keeper.forget(id);
        Ok(lost)
    }

    /// The device of an open port is gone: the port waits for it to come back.
    pub(super) fn gone(&mut self, name: &str, reason: String) -> Result<(), WorkerError> {
        if self.ports.get(name).is_none_or(|port| port.open.is_none()) {
            return Ok(());
        }
        self.uplink_gone(name)?;
        let Some(port) = self.ports.get_mut(name) else { return Ok(()) };
        self.events.add(EventLevel::Info, "port-waiting", &format!("port {name}"), &reason);
        let hint = "the port comes up by itself when the device appears";
        port.waits(reason, hint, self.clock.now());
        let id = port.id;
        let revision = self.publish_without(&[id]);
        self.workers.wait_observed(&self.switch, revision)?;
        self.close(name, false)
    }

    /// The same for the port of a VTEP, whose address or sockets are gone.
    pub(super) fn vtep_gone(&mut self, name: &str, reason: String) -> Result<(), WorkerError> {
        let Some(vtep) = self.vteps.get_mut(name).filter(|vtep| vtep.open.is_some()) else {
            return Ok(());
        };
        self.events.add(EventLevel::Info, "vtep-waiting", &format!("vtep {name}"), &reason);
        vtep.waits(reason, VTEP_WAITS, self.clock.now());
        let id = vtep.id;
        let revision = self.publish_without(&[id]);
        self.workers.wait_observed(&self.switch, revision)?;
        self.close_vtep(name)
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
        if port.is_not_adjusted(error, now) {
            let subject = format!("port {name}");
            self.events.add(EventLevel::Warn, "port-failed", &subject, &error.to_string());
        }
    }
}

/// Tells what became of an attempt to open a port or VTEP, if that is news. Whether it is open.
fn tell_opened(
    events: &Events,
    what: &str,
    name: &str,
    opened: Result<(&'static str, String), Option<(EventLevel, &'static str)>>,
    trouble: Option<&str>,
) -> bool {
    let subject = format!("{what} {name}");
    match opened {
        Ok((event, message)) => {
            events.add(EventLevel::Info, &format!("{what}-{event}"), &subject, &message);
            true
        }
        Err(news) => {
            if let Some((level, event)) = news {
                let reason = trouble.unwrap_or_default();
                events.add(level, &format!("{what}-{event}"), &subject, reason);
            }
            false
        }
    }
}
