//! Answers about what is: status, bridges, ports, VLANs, configuration.

use std::collections::BTreeMap;

use switch_core::config::PortKind;
use switch_core::datapath::{Backend, BackendWarning, PoolUse, PortInfo};
use switch_core::{BridgeId, PortId};
use vswitch_api::ApiError;
use vswitch_api::config::{self, Change, Desired};
use vswitch_api::types::{
    BridgeConfig, BridgeStatus, ConfigReply, DeviceStatus, DiffReply, FdbUse, HistoryEntry, Limits,
    ObjectKind, Offloads, Origin, PoolStatus, PortConfig, PortState, PortStatus, PortsInState,
    StatusReply, VlanRow, Warning,
};

use super::mutate::{internal, no_such_revision};
use super::ports::Port;
use super::{Controller, Queue};
use crate::store::{ObjectId, Objects};

/// A table of learned entries counts as full from this share on: one port alone is refused a little
/// earlier than at the limit itself (see the FDB's fair sharing).
const FULL: (u64, u64) = (64, 65);

fn is_full(used: u64, max: u64) -> bool {
    used * FULL.1 >= max * FULL.0
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    pub(super) fn status(&self) -> StatusReply {
        let warnings = self.warnings();
        let fdb = self.switch.fdb();
        let mut ports = PortsInState::default();
        for port in self.ports.values() {
            match port_state(port) {
                PortState::Up => ports.up += 1,
                PortState::Down => ports.down += 1,
                PortState::Waiting => ports.waiting += 1,
                PortState::Failed => ports.failed += 1,
            }
        }
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            datapath: self.backend.name().to_owned(),
            uptime: self.clock.now().secs(),
            revision: self.store.revision(),
            confirm_within: self
                .confirm_by
                .map(|by| by.saturating_duration_since(std::time::Instant::now()).as_secs()),
            workers: u16::try_from(self.workers.count()).unwrap_or(u16::MAX),
            bridges: self.bridges.len() as u64,
            ports,
            fdb: FdbUse {
                used: fdb.len() as u64,
                max: self.started_as.0.max_fdb_total.into(),
                churn: self.churn,
            },
            pools: self.backend.pools().into_iter().map(pool_status).collect(),
            drops_per_second: self.rates.drops_per_second(),
            degraded: !warnings.is_empty(),
            warnings,
            limits: Limits {
                ports: PortId::MAX_PORTS as u64,
                bridges: BridgeId::MAX_BRIDGES as u64,
                fdb_bytes: fdb.capacity_bytes() as u64,
            },
        }
    }

    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut out: Vec<Warning> = self.backend.warnings().into_iter().map(told).collect();
        let now = self.clock.now();
        let fdb = self.switch.fdb();
        let warning = |subject: String, message: String, hint: Option<&str>| Warning {
            subject,
            message,
            hint: hint.map(str::to_owned),
        };
        for (name, port) in &self.ports {
            let subject = format!("port {name}");
            if let Some(trouble) = &port.trouble {
                let state = if trouble.waits { "waiting" } else { "failed" };
                let message = format!("{state}: {}", trouble.reason);
                out.push(warning(subject.clone(), message, trouble.hint.as_deref()));
            }
            if port.state.blocked(now) {
                let left = (port.state.blocked_until() - now).as_secs() + 1;
                let message = format!("blocked by the loop guard for another {left} s");
                let hint = "find the second way between this port and another, and remove it";
                out.push(warning(subject.clone(), message, Some(hint)));
            }
            let is_uplink = matches!(port.spec.kind, PortKind::Dpdk { .. });
            if port.spec.bridge.is_none() && !port.ends_mirror && !is_uplink {
                let message =
                    "it is in no bridge, and no mirror leads to it: its frames are dropped";
                let hint = format!("vswitch-ctl port set {name} --bridge BRIDGE");
                out.push(warning(subject.clone(), message.to_owned(), Some(&hint)));
            }
            let used = fdb.port_count(port.id);
            if let Some(max) = port.spec.max_fdb
                && used >= max
            {
                let message = format!("{used} learned entries are its limit");
                let hint = "frames to further addresses are flooded; raise max-fdb on the port";
                out.push(warning(subject, message, Some(hint)));
            }
        }
        for (name, vtep) in &self.vteps {
            let subject = format!("vtep {name}");
            if let Some(trouble) = &vtep.trouble {
                let state = if trouble.waits { "waiting" } else { "failed" };
                let message = format!("{state}: {}", trouble.reason);
                out.push(warning(subject, message, trouble.hint.as_deref()));
            }
        }
        if self.keeper.held() > 0 {
            let held = self.keeper.held();
            let message = format!("{held} addresses are held where they are: they keep moving");
            let hint = "find the second station of the address; vswitch-ctl event show names both \
                        places";
            out.push(warning("fdb".to_owned(), message, Some(hint)));
        }
        for (name, id) in &self.bridges {
            let Some(spec) = self.desired.bridges.get(name) else { continue };
            let used = fdb.bridge_count(*id);
            if is_full(used.into(), spec.max_fdb.into()) {
                let message = format!("{used} learned entries of at most {}", spec.max_fdb);
                let hint = "frames to further addresses are flooded; raise max-fdb on the bridge";
                out.push(warning(format!("bridge {name}"), message, Some(hint)));
            }
        }
        let (used, max) = (fdb.len() as u64, self.started_as.0.max_fdb_total.into());
        if is_full(used, max) {
            let message = format!("{used} entries of at most {max}");
            let hint = "raise max-fdb-total in [daemon] and start vswitchd again";
            out.push(warning("fdb".to_owned(), message, Some(hint)));
        }
        if self.needs_restart() {
            let message = "[daemon] or [dpdk] was changed, which takes effect at the next start";
            let hint = "systemctl restart vswitchd";
            out.push(warning("daemon".to_owned(), message.to_owned(), Some(hint)));
        }
        out
    }

    pub(super) fn bridges_status(&self) -> Vec<BridgeStatus> {
        let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for port in self.ports.values() {
            if let Some(bridge) = &port.spec.bridge {
                ports.entry(bridge).or_default().push(port.spec.name.clone());
            }
        }
        let status = |(name, spec): (&String, &switch_core::config::BridgeSpec)| {
            let id = self.bridges.get(name)?;
            let (origin, revision) = self.asked_by(ObjectKind::Bridge, name);
            Some(BridgeStatus {
                name: name.clone(),
                ageing: spec.ageing.as_secs(),
                learning: spec.learning,
                fdb: self.switch.fdb().bridge_count(*id).into(),
                max_fdb: spec.max_fdb.into(),
                ports: ports.remove(&**name).unwrap_or_default(),
                origin,
                revision,
                config: BridgeConfig(spec.clone()),
            })
        };
        self.desired.bridges.iter().filter_map(status).collect()
    }

    /// Who asked for an object, and since which revision.
    pub(super) fn asked_by(&self, kind: ObjectKind, name: &str) -> (Origin, u64) {
        let object = self.store.objects().get(&ObjectId::new(kind, name));
        object.map_or((Origin::File, 0), |object| (object.origin, object.revision))
    }

    pub(super) fn ports_status(&mut self) -> Vec<PortStatus> {
        let names: Vec<String> = self.ports.keys().cloned().collect();
        names.iter().filter_map(|name| self.port_status(name)).collect()
    }

    fn port_status(&mut self, name: &str) -> Option<PortStatus> {
        let (origin, revision) = self.asked_by(ObjectKind::Port, name);
        let counters = self.port_counters(name)?;
        let port = self.ports.get(name)?;
        let info = port.info.as_ref();
        let shown = |get: fn(&PortInfo) -> &String| {
            info.map(|info| get(info).clone()).filter(|text| !text.is_empty())
        };
        let caps = info.filter(|_| port.open.is_some()).map(|info| info.caps).unwrap_or_default();
        let mac = info.map(|info| switch_core::wire::MacAddr::new(info.mac));
        let state = port_state(port);
        let down = (state == PortState::Down).then(|| "its link is down".to_owned());
        let trouble = port.trouble.as_ref();
        Some(PortStatus {
            name: name.to_owned(),
            port_type: port.spec.kind.port_type().name().to_owned(),
            bridge: port.spec.bridge.clone(),
            state,
            reason: trouble.map(|t| t.reason.clone()).or(down),
            hint: trouble.and_then(|t| t.hint.clone()),
            link: port.is_up(),
            blocked: port.state.blocked(self.clock.now()),
            vlan: config::vlan_words(&port.spec.vlan),
            mtu: info.map(|info| info.mtu),
            mac: mac.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string()),
            netns: port.spec.kind.netns().map(ToString::to_string),
            device: shown(|info| &info.device)
                .or_else(|| port.spec.kind.device().map(str::to_owned)),
            driver: shown(|info| &info.driver),
            queues: info.map_or(0, |info| info.queues),
            details: info.filter(|_| port.open.is_some()).map(details).unwrap_or_default(),
            worker: port.open.as_ref().map(|open| open.owner.0),
            offloads: Offloads { csum: caps.csum, tso4: caps.tso4, tso6: caps.tso6, uso: caps.uso },
            lost: info.map(|info| info.lost.clone()).unwrap_or_default(),
            counters,
            origin,
            revision,
            config: PortConfig(port.spec.clone()),
        })
    }

    pub(super) fn vlans(&self) -> Vec<VlanRow> {
        let mut out = Vec::new();
        for (name, spec) in &self.desired.ports {
            let Some(bridge) = &spec.bridge else { continue };
            let mut row = |vlan: u16, last: u16, mode| {
                let (bridge, port) = (bridge.clone(), name.clone());
                out.push(VlanRow { bridge, vlan, last, port, mode });
            };
            for (first, last, mode) in config::vlan_memberships(&spec.vlan) {
                row(first, last, mode);
            }
        }
        out.sort_by(|a, b| (&a.bridge, a.vlan, &a.port).cmp(&(&b.bridge, b.vlan, &b.port)));
        out
    }

    pub(super) fn config(&self) -> ConfigReply {
        config_reply(self.store.revision(), &self.desired)
    }

    pub(super) fn config_at(&self, revision: u64) -> Result<ConfigReply, ApiError> {
        Ok(config_reply(revision, &self.desired_at(revision)?))
    }

    pub(super) fn changes_of(&self, revision: u64) -> Result<Vec<Change>, ApiError> {
        let before = revision.checked_sub(1).ok_or_else(|| no_such_revision(revision))?;
        Ok(config::diff(&self.desired_at(before)?, &self.desired_at(revision)?))
    }

    /// What applying a file would change; where it collides with another origin, as if it won.
    pub(super) fn diff(&self, toml: &str) -> Result<DiffReply, ApiError> {
        let objects = self.objects_with(config::from_toml(toml)?, true)?;
        let specs = objects.iter().map(|(id, object)| (id, &object.spec));
        let changes = config::diff(&self.desired, &crate::store::desired(specs)?);
        Ok(DiffReply { revision: self.store.revision(), changes })
    }

    fn desired_at(&self, revision: u64) -> Result<Desired, ApiError> {
        let objects: Objects = self
            .store
            .at(revision)
            .map_err(|error| internal(&error))?
            .ok_or_else(|| no_such_revision(revision))?;
        Ok(crate::store::desired(objects.iter().map(|(id, object)| (id, &object.spec)))?)
    }

    pub(super) fn history(&self) -> Result<Vec<HistoryEntry>, ApiError> {
        let present = self.store.revision();
        let entries = self.store.history().map_err(|error| internal(&error))?;
        let entry = |(revision, record): (u64, crate::store::Revision)| HistoryEntry {
            revision,
            time: record.time,
            origin: record.origin,
            what: record.what,
            changes: record.deltas.len() as u64,
            current: revision == present,
        };
        Ok(entries.into_iter().map(entry).collect())
    }
}

fn pool_status(pool: PoolUse) -> PoolStatus {
    let PoolUse { name, buffers, free, bytes, hugepages, numa_node } = pool;
    PoolStatus { name, buffers, free, bytes, hugepages, numa_node }
}

fn told(warning: BackendWarning) -> Warning {
    let BackendWarning { subject, message, hint } = warning;
    Warning { subject, message, hint }
}

fn details(info: &PortInfo) -> DeviceStatus {
    let details = info.details.clone();
    DeviceStatus {
        rx_queues: details.rx_queues,
        tx_queues: details.tx_queues,
        numa_node: details.numa_node,
        promiscuous: details.promiscuous,
        link_mbps: details.link_mbps,
        rx_offloads: details.rx_offloads,
        tx_offloads: details.tx_offloads,
    }
}

fn config_reply(revision: u64, desired: &Desired) -> ConfigReply {
    let (toml, config) = (config::to_toml(desired), config::to_json(desired));
    ConfigReply { revision, toml, config }
}

pub(super) fn port_state<S: Clone>(port: &Port<S>) -> PortState {
    match (&port.open, &port.trouble) {
        (None, Some(trouble)) if trouble.waits => PortState::Waiting,
        (_, Some(_)) | (None, None) => PortState::Failed,
        (Some(_), None) if port.is_up() => PortState::Up,
        (Some(_), None) => PortState::Down,
    }
}
