//! Mirrors: from desired to what workers see, and how they are.

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use switch_core::DropReason;
use switch_core::PortId;
use switch_core::config::{MirrorSpec, Snapshot, VlanSet};
use switch_core::datapath::Backend;
use switch_core::drop::Side;
use switch_core::mirror::{MirrorConf, MirrorCounters, MirrorTo};
use vswitch_api::types::{
    DropCount, MirrorConfig, MirrorStatus, ObjectKind, PortState, TunnelStatus,
};

use super::view::port_state;
use super::{Controller, Queue, TunnelFilter};
use crate::metrics::MirrorSample;

/// What each worker counted about a mirror.
pub(super) type Counters = Arc<[CachePadded<MirrorCounters>]>;

/// How that is which copies leave by.
struct End {
    state: PortState,
    reason: Option<String>,
    drops: Vec<DropCount>,
}

/// What all workers counted about a mirror together.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    frames: u64,
    bytes: u64,
    failed: u64,
}

fn totals(counters: &Counters) -> Totals {
    counters.iter().fold(Totals::default(), |sum, counters| Totals {
        frames: sum.frames + counters.frames.get(),
        bytes: sum.bytes + counters.bytes.get(),
        failed: sum.failed + counters.failed.get(),
    })
}

/// Whether workers would do the same for both.
fn same(a: &MirrorConf, b: &MirrorConf) -> bool {
    // By field, so that a new one cannot be forgotten.
    let MirrorConf { name, ports, bridges, direction, vlans, filter, snap, one_in, to, counters } =
        a;
    *name == b.name
        && *ports == b.ports
        && *bridges == b.bridges
        && *direction == b.direction
        && *vlans == b.vlans
        && *filter == b.filter
        && *snap == b.snap
        && *one_in == b.one_in
        && *to == b.to
        && Arc::ptr_eq(counters, &b.counters)
}

/// Whether the mirrors of a snapshot are others.
pub(super) fn differ(present: &Snapshot, mirrors: &[Arc<MirrorConf>]) -> bool {
    let present = present.mirrors();
    present.len() != mirrors.len() || !present.iter().zip(mirrors).all(|(a, b)| same(a, b))
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// The mirrors that are desired now, as workers see them.
    pub(super) fn mirror_confs(&mut self) -> Vec<Arc<MirrorConf>> {
        let workers = self.workers.count();
        self.mirrors.retain(|name, _| self.desired.mirrors.contains_key(name));
        let confs = self.desired.mirrors.values().filter_map(|spec| {
            let counters = self.mirrors.entry(spec.name.clone());
            let counters = Arc::clone(counters.or_insert_with(|| MirrorCounters::each(workers)));
            let port = |name: &String| self.ports.get(name).map(|port| port.id);
            let mut ports: Vec<PortId> = spec.ports.iter().filter_map(port).collect();
            let bridges = spec.bridges.iter().filter_map(|name| self.bridges.get(name));
            let mut bridges: Vec<_> = bridges.copied().collect();
            ports.sort_unstable();
            bridges.sort_unstable();
            Some(Arc::new(MirrorConf {
                name: spec.name.as_str().into(),
                ports,
                bridges,
                direction: spec.direction,
                vlans: spec.vlans.as_ref().map(|v| VlanSet::some(v.iter().map(|vlan| vlan.get()))),
                // It was read when it was checked.
                filter: spec.filter.as_deref().unwrap_or_default().parse().ok()?,
                snap: spec.snap.map(|snap| snap as usize),
                one_in: spec.one_in,
                to: match self.tunnels.by_name.get(&spec.to) {
                    Some(tunnel) => MirrorTo::Tunnel(tunnel.id),
                    None => MirrorTo::Port(port(&spec.to)?),
                },
                counters,
            }))
        });
        confs.collect()
    }

    pub(super) fn mirrors_status(&self) -> Vec<MirrorStatus> {
        self.desired.mirrors.values().filter_map(|spec| self.mirror_status(spec)).collect()
    }

    fn mirror_status(&self, spec: &MirrorSpec) -> Option<MirrorStatus> {
        let (origin, revision) = self.asked_by(ObjectKind::Mirror, &spec.name);
        let Totals { frames, bytes, failed } = totals(self.mirrors.get(&spec.name)?);
        let end = self.mirror_end(&spec.to)?;
        let failed = (failed > 0).then(|| DropCount {
            reason: DropReason::CopyFailed.name().to_owned(),
            frames: failed,
        });
        Some(MirrorStatus {
            name: spec.name.clone(),
            ports: spec.ports.clone(),
            bridges: spec.bridges.clone(),
            direction: spec.direction.name().to_owned(),
            to: spec.to.clone(),
            state: end.state,
            reason: end.reason,
            frames,
            bytes,
            drops: failed.into_iter().chain(end.drops).collect(),
            origin,
            revision,
            config: MirrorConfig(spec.clone()),
        })
    }

    /// How the port or tunnel is that copies leave by, and what was dropped there.
    fn mirror_end(&self, name: &str) -> Option<End> {
        if self.desired.tunnels.contains_key(name) {
            let filter = TunnelFilter { name: Some(name.to_owned()), ..TunnelFilter::default() };
            let status = self.tunnels_status(&filter).ok()?.pop()?;
            let TunnelStatus { state, reason, drops, .. } = status;
            return Some(End { state, reason, drops });
        }
        let port = self.ports.get(name)?;
        let totals = port.totals();
        let outward = DropReason::ALL.into_iter().filter(|reason| reason.side() == Side::Out);
        let drops = outward.map(|reason| (reason, totals.dropped_for(reason)));
        let reason = port.trouble.as_ref().map(|trouble| trouble.reason.clone());
        Some(End {
            state: port_state(port),
            reason: reason.or_else(|| (!port.is_up()).then(|| format!("port {name} is down"))),
            drops: drops
                .filter(|(_, frames)| *frames > 0)
                .map(|(reason, frames)| DropCount { reason: reason.name().to_owned(), frames })
                .collect(),
        })
    }

    pub(super) fn mirror_samples(&self) -> Vec<MirrorSample> {
        let sample = |(name, counters): (&String, &Counters)| {
            let Totals { frames, bytes, failed } = totals(counters);
            MirrorSample { name: name.clone(), frames, bytes, failed }
        };
        self.mirrors.iter().map(sample).collect()
    }
}
