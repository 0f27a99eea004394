//! Mirrors: from desired to what workers see, and how they are.

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use switch_core::DropReason;
use switch_core::PortId;
use switch_core::config::{MirrorSpec, Snapshot, VlanSet};
use switch_core::datapath::Backend;
use switch_core::drop::Side;
use switch_core::mirror::{MirrorConf, MirrorCounters};
use vswitch_api::types::{DropCount, MirrorConfig, MirrorStatus, ObjectKind};

use super::view::port_state;
use super::{Controller, Queue};
use crate::metrics::MirrorSample;

/// What each worker counted about a mirror.
pub(super) type Counters = Arc<[CachePadded<MirrorCounters>]>;

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
                to: port(&spec.to)?,
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
        let port = self.ports.get(&spec.to)?;
        let Totals { frames, bytes, failed } = totals(self.mirrors.get(&spec.name)?);
        let (sent, failed) = (port.totals(), (DropReason::CopyFailed, failed));
        let of_port = DropReason::ALL.into_iter().filter(|reason| reason.side() == Side::Out);
        let of_port = of_port.map(|reason| (reason, sent.dropped_for(reason)));
        let drops = std::iter::once(failed).chain(of_port).filter(|(_, frames)| *frames > 0);
        let reason = port.trouble.as_ref().map(|trouble| trouble.reason.clone());
        let down = || {
            let message = format!("port {} is down", spec.to);
            (!port.is_up()).then_some(message)
        };
        Some(MirrorStatus {
            name: spec.name.clone(),
            ports: spec.ports.clone(),
            bridges: spec.bridges.clone(),
            direction: spec.direction.name().to_owned(),
            to: spec.to.clone(),
            state: port_state(port),
            reason: reason.or_else(down),
            frames,
            bytes,
            drops: drops
                .map(|(reason, frames)| DropCount { reason: reason.name().to_owned(), frames })
                .collect(),
            origin,
            revision,
            config: MirrorConfig(spec.clone()),
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
