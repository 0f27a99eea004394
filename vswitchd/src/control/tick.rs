//! What happens by itself: devices come and go, entries age, loops are cut, changes that nobody
//! confirmed are taken back.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use switch_core::BridgeId;
use switch_core::bridge::Block;
use switch_core::datapath::{Backend, PortEvent, PortEventKind};
use switch_core::event::WorkerEvent;
use switch_core::fdb::{Dest, Gone, Key, Swept};
use switch_core::switch::Housekept;
use vswitch_api::types::{EventLevel, FdbEvent, FdbEventKind};

use super::{Author, Controller, Mutation, Queue};
use crate::store::timestamp;
use crate::workers::WorkerError;

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// One look around.
    ///
    /// # Errors
    /// A worker hangs.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), WorkerError> {
        for event in self.backend.events() {
            self.device_event(event)?;
        }
        self.retry()?;
        self.housekeep()?;
        self.look_after_peers()?;
        self.take_back_if_due(now)?;
        self.sample_rates(now);
        self.tell_exporters();
        self.balance(now)
    }

    fn device_event(&mut self, event: PortEvent) -> Result<(), WorkerError> {
        let named = self.ports.iter().find(|(_, port)| port.id == event.port);
        let Some(name) = named.map(|(name, _)| name.clone()) else {
            return self.underlay_event(event);
        };
        match event.kind {
            PortEventKind::LinkUp => self.link(&name, true),
            PortEventKind::LinkDown => self.link(&name, false),
            PortEventKind::Mtu(mtu) => {
                if let Some(info) = self.ports.get_mut(&name).and_then(|port| port.info.as_mut()) {
                    info.mtu = mtu;
                }
                let message = format!("MTU is {mtu} now");
                self.events.add(EventLevel::Info, "port-mtu", &format!("port {name}"), &message);
                self.publish();
            }
            PortEventKind::TxError(error) => {
                let subject = format!("port {name}");
                self.events.add(EventLevel::Warn, "port-tx-error", &subject, &error);
            }
            PortEventKind::Gone(reason) => self.gone(&name, reason)?,
            PortEventKind::Appeared => {
                if self.open(&name)? {
                    self.publish();
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &str, up: bool) {
        let Some(port) = self.ports.get_mut(name).filter(|port| port.open.is_some()) else {
            return;
        };
        let Some(info) = port.info.as_mut().filter(|info| info.link_up != up) else { return };
        let id = port.id;
        // What is behind it now may be another machine, which takes other frames unfinished.
        if let Some(now) = up.then(|| self.backend.port_info(id)).flatten() {
            *info = now;
        }
        info.link_up = up;
        let (event, words) = if up { ("port-up", "up") } else { ("port-down", "link down") };
        self.events.add(EventLevel::Info, event, &format!("port {name}"), words);
        self.publish();
        if !up {
            // Its stations may turn up behind another port.
            self.flush_learned(id);
        }
    }

    /// Tries ports again that could not be opened or adjusted, when it is time.
    fn retry(&mut self) -> Result<(), WorkerError> {
        let now = self.clock.now();
        let due: Vec<String> = self
            .ports
            .iter()
            .filter(|(_, port)| port.trouble.as_ref().is_some_and(|trouble| trouble.is_due(now)))
            .map(|(name, _)| name.clone())
            .collect();
        let changed = self.readjust(due)?;
        let due: Vec<String> = self
            .vteps
            .iter()
            .filter(|(_, vtep)| vtep.trouble.as_ref().is_some_and(|trouble| trouble.is_due(now)))
            .map(|(name, _)| name.clone())
            .collect();
        let mut opened = false;
        for name in due {
            self.readjust_vtep(&name)?;
            opened |= self.open_vtep(&name)?;
        }
        if changed || opened {
            self.publish();
        }
        if opened {
            self.ask_all_paths();
        }
        Ok(())
    }

    /// Brings ports to what is asked for, closing and opening them again where it takes that.
    /// Whether one is open that is to be published.
    pub(super) fn readjust(&mut self, names: Vec<String>) -> Result<bool, WorkerError> {
        let mut changed = false;
        for name in names {
            if let Some(remove) = self.adjust(&name)
                && let Some(id) = self.ports.get(&name).map(|port| port.id)
            {
                self.uplink_gone(&name)?;
                let revision = self.publish_without(&[id]);
                self.workers.wait_observed(&self.switch, revision)?;
                self.close(&name, remove)?;
            }
            changed |= self.open(&name)?;
        }
        Ok(changed)
    }

    fn count_churn(&mut self, events: &[WorkerEvent], swept: Option<&Swept>) {
        for event in events {
            match event {
                WorkerEvent::Learned { .. } => self.churn.learned += 1,
                WorkerEvent::Moved { .. } => self.churn.moved += 1,
                WorkerEvent::PeerSeen { .. } => {}
            }
        }
        if let Some(swept) = swept {
            self.churn.aged += swept.aged as u64;
            self.churn.evicted += swept.evicted as u64;
        }
    }

    fn housekeep(&mut self) -> Result<(), WorkerError> {
        let of = |id: BridgeId| self.ageing.get(id.index()).copied().unwrap_or(0);
        let Housekept { events, blocked, held, released, swept } =
            self.keeper.run(self.clock.now(), of);
        for block in blocked {
            self.blocked(block);
        }
        self.damped(&held, &released);
        self.hear(&events)?;
        self.count_churn(&events, swept.as_ref());
        if self.events.is_monitored() {
            for event in events {
                match event {
                    WorkerEvent::Learned { key, at } => {
                        self.tell(FdbEventKind::Learned, key, at, None);
                    }
                    WorkerEvent::Moved { key, from, to } => {
                        self.tell(FdbEventKind::Moved, key, to, Some(from));
                    }
                    WorkerEvent::PeerSeen { .. } => {}
                }
            }
            for (entry, why) in swept.into_iter().flat_map(|swept| swept.removed) {
                let kind = match why {
                    Gone::Aged => FdbEventKind::Aged,
                    Gone::Evicted => FdbEventKind::Evicted,
                };
                self.tell(kind, entry.key, entry.dest, None);
            }
        }
        Ok(())
    }

    fn blocked(&self, block: Block) {
        // What was learned on it is wrong by half, and would lead frames to a blocked port.
        self.flush_learned(block.port);
        let (port, other) = (self.port_name(block.port), self.port_name(block.other));
        let seconds = (block.until - self.clock.now()).as_secs() + 1;
        let message = format!(
            "blocked for {seconds} s: {} keeps moving between it and port {other}, as in a loop",
            block.key.mac()
        );
        self.events.add(EventLevel::Warn, "loop-guard", &format!("port {port}"), &message);
    }

    /// Tells whoever monitors the FDB of a change.
    pub(super) fn tell(&self, event: FdbEventKind, key: Key, dest: Dest, from: Option<Dest>) {
        let domain = key.domain();
        let (port, remote) = self.dest_names(domain, dest);
        let from = from.map(|from| self.dest_names(domain, from));
        let from_remote = from.as_ref().and_then(|(_, remote)| *remote);
        self.events.fdb_changed(FdbEvent {
            time: timestamp(SystemTime::now()),
            event,
            bridge: self.bridge_name(domain.bridge()),
            vlan: domain.vid(),
            mac: key.mac().to_string(),
            port,
            remote,
            from: from.map(|(port, _)| port),
            from_remote,
            lost: None,
        });
    }

    /// Takes a change back that was not confirmed in time.
    fn take_back_if_due(&mut self, now: Instant) -> Result<(), WorkerError> {
        if self.confirm_by.is_none_or(|by| now < by) {
            return Ok(());
        }
        self.confirm_by = None;
        let Some(pending) = self.store.pending() else { return Ok(()) };
        let author = Author("vswitchd: not confirmed in time".to_owned());
        let result = self.mutate(&author, Mutation::Rollback(Some(pending.back_to)))?;
        if let Err(error) = result {
            // A disk that is full for a moment must not make the change one that stays.
            self.confirm_by = Some(now + TAKE_BACK_AGAIN);
            self.events.add(EventLevel::Error, "config-rollback", "", &error.message);
        }
        Ok(())
    }

    fn sample_rates(&mut self, now: Instant) {
        if self.rates.samples.back().is_some_and(|s| (now - s.at).as_millis() < 1000) {
            return;
        }
        let mut drops = self.retired.dropped();
        for port in self.ports.values() {
            drops += port.totals().dropped();
        }
        let busy = self.workers.each().map(|(.., counters)| counters.busy_ns.get()).collect();
        self.rates.samples.push_back(RateSample { at: now, drops, busy });
        if self.rates.samples.len() > RATE_SAMPLES {
            self.rates.samples.pop_front();
        }
    }
}

/// How soon a change is taken back again that could not be.
const TAKE_BACK_AGAIN: Duration = Duration::from_secs(10);
/// Over how many seconds rates are taken.
const RATE_SAMPLES: usize = 6;

/// What rates are made from: counters of the last few seconds.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: VecDeque<RateSample>,
}

#[derive(Debug)]
struct RateSample {
    at: Instant,
    drops: u64,
    /// Nanoseconds each worker was busy.
    busy: Vec<u64>,
}

impl Rates {
    fn ends(&self) -> Option<(&RateSample, &RateSample, f64)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = (last.at - first.at).as_secs_f64();
        (seconds > 0.0).then_some((first, last, seconds))
    }

    /// Frames dropped a second.
    pub(super) fn drops_per_second(&self) -> f64 {
        self.ends().map_or(0.0, |(first, last, seconds)| {
            last.drops.saturating_sub(first.drops) as f64 / seconds
        })
    }

    /// Share of the time that a worker spent on frames, 0 to 100.
    pub(super) fn busy_percent(&self, worker: usize) -> f64 {
        let busy = |(first, last, seconds): (&RateSample, &RateSample, f64)| {
            let spent = last.busy.get(worker)?.saturating_sub(*first.busy.get(worker)?);
            Some((spent as f64 / 1e9 / seconds * 100.0).min(100.0))
        };
        self.ends().and_then(busy).unwrap_or(0.0)
    }
}
