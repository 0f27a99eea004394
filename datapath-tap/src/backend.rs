//! The control side: opens, closes and watches ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use switch_core::config::{Netns, PortKind, PortSpec};
use switch_core::datapath::{
    Backend, BackendError, OpenPort, OutsideLoss, PortEvent, PortEventKind, PortInfo, UnderlaySpec,
    Wake,
};
use switch_core::frame::{FramePool, PoolConfig};
use switch_core::handover::{HandoverRing, RING_FRAMES};
use switch_core::{PortId, WorkerId};

use crate::away::{Away, AwayNews};
use crate::datapath::{Kind, OwnQueue, TapDatapath, TapQueue};
use crate::error::{failed, refused};
use crate::io::Io;
use crate::link::{LinkNews, LinkState, Links};
use crate::many::Many;
use crate::netdev;
use crate::netns;
use crate::note::Note;
use crate::port::{Device, Place, Port, Waiting};
use crate::sys::{packet, tun};
use crate::tap;
use crate::vtep::{self, Vtep};

/// What the host's stack is kept off an attached netdev with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SilenceBy {
    /// tcx where the kernel has it (Linux 6.6) and permits it, else nftables.
    #[default]
    Auto,
    /// tcx alone.
    Tcx,
    /// nftables alone.
    Nftables,
    /// nftables as it is used where it has no egress hook (before Linux 5.16): IPv6 is off on the
    /// device meanwhile.
    NftablesIngress,
}

/// How a [`TapBackend`] works.
#[derive(Clone, Debug, Default)]
pub struct TapOptions {
    /// Sizes of the frame pool that all ports share.
    pub pool: PoolConfig,
    /// Opens TAPs without offloads even if the kernel has them.
    pub plain_tap: bool,
    /// What the host's stack is kept off netdevs with.
    pub silence: SilenceBy,
    /// Directory in which is noted what has to be restored on a netdev that was attached when the
    /// process was killed. Without one, only a clean detach restores it.
    pub run_dir: Option<PathBuf>,
}

/// Opens, closes and watches ports on kernel devices.
pub struct TapBackend {
    options: TapOptions,
    pool: FramePool,
    wakers: Vec<Arc<dyn Wake>>,
    /// Own queues per worker.
    load: Vec<usize>,
    ports: HashMap<PortId, Port>,
    /// Ports that could not be opened, and what they wait for.
    waiting: HashMap<PortId, Waiting>,
    /// In the switch's own namespace; opened with the first port.
    links: Option<Links>,
    /// News of devices there that were read and not told of so far.
    unread: Vec<LinkNews>,
    /// Of devices elsewhere; opened with the first port that is.
    away: Option<AwayNews>,
    /// What an earlier life left on netdevs that were not attached again so far.
    leftovers: HashMap<String, Note>,
}

impl std::fmt::Debug for TapBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapBackend")
            .field("options", &self.options)
            .field("workers", &self.wakers.len())
            .field("ports", &self.ports.len())
            .finish_non_exhaustive()
    }
}

impl TapBackend {
    /// A backend without ports.
    #[must_use]
    pub fn new(options: TapOptions) -> Self {
        let leftovers = options.run_dir.as_deref().map(Note::leftovers).unwrap_or_default();
        Self {
            leftovers: leftovers.into_iter().collect(),
            pool: FramePool::new(options.pool),
            options,
            wakers: Vec::new(),
            load: Vec::new(),
            ports: HashMap::new(),
            waiting: HashMap::new(),
            links: None,
            unread: Vec::new(),
            away: None,
        }
    }

    /// Frames in existence, of all its workers.
    #[must_use]
    pub fn frames_in_use(&self) -> usize {
        self.pool.in_use()
    }

    fn links(&mut self) -> Result<&mut Links, BackendError> {
        if self.links.is_none() {
            self.links = Some(Links::open().map_err(|e| refused("open an rtnetlink socket", &e))?);
        }
        self.links.as_mut().ok_or_else(|| failed("open an rtnetlink socket", "it is not there"))
    }

    /// Undoes what an earlier life left on netdevs that the configuration does not name any more:
    /// by the time of the first call, all configured ports were opened.
    fn undo_leftovers(&mut self) {
        for (device, note) in std::mem::take(&mut self.leftovers) {
            let Ok(links) = self.links() else { return };
            if let Ok(Some(link)) = links.by_name(&device)
                && let Err(e) = note.undo(links, link.index, &device)
            {
                tracing::warn!(%device, error = %e, "cannot restore what a killed switch left");
            }
            Note::forget(self.options.run_dir.as_deref(), &device);
        }
    }

    /// Watches a device that was just opened, from now on: what opening did to it (down, up, another
    /// MTU) is no news, and a port that seemed to lose its link would lose its addresses, too.
    fn watch(&mut self, port: PortId, record: &mut Port) -> Result<(), BackendError> {
        if let Device::Tap { away: Some(away), .. } = &mut record.device {
            let netns = &away.netns;
            let listening = match &mut self.away {
                Some(news) => Ok(news),
                none => AwayNews::new().map(|news| none.insert(news)),
            };
            listening
                .and_then(|news| news.listen(port, &away.links))
                .map_err(|e| refused(format!("listen for news of devices in netns {netns}"), &e))?;
            away.links.news();
        } else if let Some(links) = &mut self.links {
            let own = |item: &LinkNews| matches!(item, LinkNews::Is(link) if link.index == record.link.index);
            self.unread.extend(links.news().into_iter().filter(|item| !own(item)));
        }
        if let Some(now) = record.ask(&mut self.links) {
            record.link = now;
        }
        Ok(())
    }

    fn open_tap(
        &mut self,
        spec: &PortSpec,
        device: &str,
        netns: Option<&Netns>,
        persist: bool,
        queues: Option<u16>,
    ) -> Result<(Vec<Io>, Port), BackendError> {
        let plain = self.options.plain_tap;
        // More would have nobody to read them.
        let workers = u16::try_from(self.wakers.len()).unwrap_or(u16::MAX);
        let wanted = queues.unwrap_or(workers).min(workers);
        if let Some(netns) = netns {
            tap::move_into(self.links()?, device, netns)?;
        }
        let id = netns.and_then(netns::identify);
        let tap = netns::run_in(netns, || tap::open(device, netns, persist, spec, plain, wanted))?;
        let mut lost = tap.lost;
        if let Some(asked) = queues.filter(|asked| *asked > workers) {
            lost.push(format!("{asked} queues: at most one a worker, {workers}"));
        }
        let file = packet::duplicate(&tap.files[0])
            .map_err(|e| refused(format!("open TAP device {device}"), &e))?;
        let away = netns.map(|netns| Away { netns: netns.clone(), id, links: tap.links });
        let driver = if tap.vnet_hdr { "tun" } else { "tun (plain)" };
        let port = Port::new(Device::Tap { file, away }, tap.link, driver, tap.caps, lost);
        let io = |file| Io::Tap { file, vnet_hdr: tap.vnet_hdr };
        Ok((tap.files.into_iter().map(io).collect(), port))
    }

    fn open_netdev(
        &mut self,
        spec: &PortSpec,
        device: &str,
        take_over: bool,
    ) -> Result<(Vec<Io>, Port), BackendError> {
        let options = self.options.clone();
        let note = self.leftovers.get(device).copied().unwrap_or_default();
        let opened = netdev::open(self.links()?, device, take_over, spec, &options, note)?;
        self.leftovers.remove(device);
        let native = opened.netdev.native(&opened.link);
        let device = Device::Netdev(opened.netdev);
        let port = Port::new(device, opened.link, "af_packet", opened.caps, opened.lost);
        port.shared.native.store(native, Ordering::Relaxed);
        let netdev::Sockets { socket, finishing } = opened.sockets;
        let many = Box::new(Many::new(self.pool.clone()));
        Ok((vec![Io::Packet { socket, finishing, many }], port))
    }

    /// Gives the queues of a port that was opened to the workers with the fewest, and the others the
    /// way to those.
    fn hand_out(
        &mut self,
        port: PortId,
        ios: Vec<Io>,
        mut record: Port,
    ) -> Result<OpenPort<TapQueue>, BackendError> {
        self.waiting.remove(&port);
        let mut workers: Vec<usize> = (0..self.load.len()).collect();
        // The first of several with as many.
        workers.sort_by_key(|worker| self.load[*worker]);
        workers.truncate(ios.len());
        workers.sort_unstable();
        let Some(first) = workers.first() else {
            return Err(failed(format!("open {}", record.link.name), "there are no workers"));
        };
        let owner = WorkerId(*first as u16);
        // Where each worker has one, nobody hands over.
        let frames = if workers.len() == self.wakers.len() { 1 } else { RING_FRAMES };
        for worker in workers {
            let ring = HandoverRing::new(frames, Arc::clone(&self.wakers[worker]));
            record.places.push(Place { worker: WorkerId(worker as u16), ring });
        }
        self.count_queues(&record.places, 1);
        let queues = queues(self.wakers.len(), ios, &record);
        let opened = OpenPort { info: record.info(), queues, owner };
        self.ports.insert(port, record);
        Ok(opened)
    }

    fn count_queues(&mut self, places: &[Place], by: isize) {
        for place in places {
            if let Some(load) = self.load.get_mut(place.worker.index()) {
                *load = load.saturating_add_signed(by);
            }
        }
    }
}

/// A queue for each worker: its own, or the way to one that has its own.
fn queues(workers: usize, ios: Vec<Io>, record: &Port) -> Vec<TapQueue> {
    let places = &record.places;
    let remote = places.iter().cycle().map(|place| Kind::Remote(place.ring.clone()));
    let mut queues: Vec<_> = remote.take(workers).map(TapQueue).collect();
    for (io, Place { worker, ring }) in ios.into_iter().zip(places) {
        let own =
            OwnQueue { io, ring: ring.clone(), earlier: None, shared: Arc::clone(&record.shared) };
        queues[worker.index()] = TapQueue(Kind::Own(own));
    }
    queues
}

impl Backend for TapBackend {
    type Datapath = TapDatapath;

    fn name(&self) -> &'static str {
        "tap"
    }

    fn worker(&mut self, _id: WorkerId) -> Result<TapDatapath, BackendError> {
        use switch_core::datapath::Datapath as _;
        let worker = TapDatapath::new(self.pool.clone())?;
        self.wakers.push(worker.waker());
        self.load.push(0);
        Ok(worker)
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<TapQueue>, BackendError> {
        // Listening begins before the device is looked for, so that its arrival is not missed.
        self.links()?;
        let opened = match &spec.kind {
            PortKind::Tap { device, netns, persist, queues } => {
                self.open_tap(spec, device, netns.as_ref(), *persist, *queues)
            }
            PortKind::Netdev { device, take_over } => self.open_netdev(spec, device, *take_over),
            kind => {
                let kind = kind.port_type().name();
                return Err(BackendError::Unsupported { backend: "tap", kind });
            }
        };
        let (ios, mut record) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                if let Some(device) = spec.kind.device() {
                    let netns = spec.kind.netns().cloned();
                    let netns_missing =
                        netns.is_some() && matches!(e, BackendError::NotThere { .. });
                    let device = device.to_owned();
                    let waiting = Waiting::Device { name: device, netns, netns_missing };
                    self.waiting.insert(port, waiting);
                }
                return Err(e);
            }
        };
        self.watch(port, &mut record)?;
        record.set_gro(spec.gro);
        self.hand_out(port, ios, record)
    }

    fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
    ) -> Result<OpenPort<TapQueue>, BackendError> {
        let pool = self.pool.clone();
        let (vtep, underlay) = match vtep::open(self.links()?, spec, pool) {
            Ok(opened) => opened,
            Err(e) => {
                if let BackendError::NotThere { .. } = e {
                    self.waiting.insert(port, Waiting::Address(spec.local));
                }
                return Err(e);
            }
        };
        let link = LinkState {
            name: format!("underlay {}", spec.local),
            mtu: Vtep::MTU,
            up: true,
            ..LinkState::default()
        };
        let lost = vtep.lost();
        let record = Port::new(Device::Vtep(vtep), link, Vtep::DRIVER, Vtep::CAPS, lost);
        self.hand_out(port, vec![Io::Underlay(Box::new(underlay))], record)
    }

    fn adjust_vtep(
        &mut self,
        port: PortId,
        new: &UnderlaySpec,
    ) -> Result<Option<Vec<TapQueue>>, BackendError> {
        let record = self.ports.get_mut(&port).filter(|record| !record.gone);
        let Some(record) = record else { return Ok(None) };
        let Device::Vtep(vtep) = &mut record.device else { return Ok(None) };
        let Some(underlay) = vtep.adjust(new, self.pool.clone())? else { return Ok(None) };
        record.lost = vtep.lost();
        let ios = vec![Io::Underlay(Box::new(underlay))];
        Ok(Some(queues(self.wakers.len(), ios, record)))
    }

    fn begin_move(&mut self, port: PortId, to: WorkerId) -> Option<Vec<TapQueue>> {
        let ring = HandoverRing::new(RING_FRAMES, Arc::clone(self.wakers.get(to.index())?));
        let [place] = &mut self.ports.get_mut(&port)?.places[..] else { return None };
        let from = std::mem::replace(&mut place.worker, to);
        if from == to {
            return None;
        }
        place.ring = ring.clone();
        self.load[from.index()] = self.load[from.index()].saturating_sub(1);
        self.load[to.index()] += 1;
        Some(self.wakers.iter().map(|_| TapQueue(Kind::Remote(ring.clone()))).collect())
    }

    fn finish_move(&mut self, port: PortId, earlier: Vec<TapQueue>) -> Option<TapQueue> {
        let ring = self.ports.get(&port)?.places.first()?.ring.clone();
        let mut own = earlier.into_iter().find_map(|queue| match queue.0 {
            Kind::Own(own) => Some(own),
            Kind::Remote(_) => None,
        })?;
        own.earlier = Some(std::mem::replace(&mut own.ring, ring));
        Some(TapQueue(Kind::Own(own)))
    }

    fn path_mtu(&mut self, vtep: PortId, remote: IpAddr) -> Option<u32> {
        match &self.ports.get(&vtep)?.device {
            Device::Vtep(vtep) => vtep.path_mtu(remote),
            _ => None,
        }
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<TapQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        self.waiting.remove(&port);
        drop(queues);
        let Some(record) = self.ports.remove(&port) else { return Ok(()) };
        self.count_queues(&record.places, -1);
        match record.device {
            Device::Tap { file, .. } if remove && !record.gone => {
                // It goes with this file, the last one.
                tun::set_persist(&file, false)
                    .map_err(|e| refused(format!("delete TAP device {}", record.link.name), &e))
            }
            Device::Tap { .. } | Device::Vtep(_) => Ok(()),
            Device::Netdev(netdev) => netdev.close(self.links.as_mut(), record.gone),
        }
    }

    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        let Some(record) = self.ports.get_mut(&port) else { return Ok(false) };
        let attempted = format!("adjust device {}", record.link.name);
        let same = match (&old.kind, &new.kind) {
            (
                PortKind::Tap { device: a, netns: m, persist: p, queues: x },
                PortKind::Tap { device: b, netns: n, persist: q, queues: y },
            ) if a == b && m == n && x == y => {
                if p != q
                    && let Device::Tap { file, .. } = &record.device
                {
                    tun::set_persist(file, *q).map_err(|e| refused(&attempted, &e))?;
                }
                true
            }
            // Whether it was permitted to take the device over matters only while it is opened.
            (PortKind::Netdev { device: a, .. }, PortKind::Netdev { device: b, .. }) => a == b,
            _ => false,
        };
        if !same || record.gone || record.moved {
            return Ok(false);
        }
        record.set_gro(new.gro);
        let mut change = tap::wanted(&record.link, new);
        change.up = None;
        let index = record.link.index;
        let links = match &mut record.device {
            Device::Tap { away: Some(away), .. } => &mut away.links,
            _ => self.links.as_mut().ok_or_else(|| failed(&attempted, "no rtnetlink socket"))?,
        };
        let now = links.change(index, &change).and_then(|()| links.by_index(index));
        if let Some(now) = now.map_err(|e| tap::explain_change(&attempted, new, &e))? {
            record.link = now;
        }
        Ok(true)
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        let record = self.ports.get_mut(&port)?;
        if let Some(now) = record.ask(&mut self.links) {
            // Changes of the link's state are left for `events` to tell.
            let (up, mtu) = (record.link.up, record.link.mtu);
            record.link = LinkState { up, mtu, ..now.clone() };
            let info = PortInfo { link_up: now.up && !record.gone, mtu: now.mtu, ..record.info() };
            return Some(info);
        }
        Some(PortInfo { link_up: record.moved && !record.gone, ..record.info() })
    }

    fn rx_workers(&self, port: PortId) -> Vec<WorkerId> {
        let places = self.ports.get(&port).map_or(&[][..], |record| &record.places);
        // Of one queue the owner tells.
        if places.len() < 2 { Vec::new() } else { places.iter().map(|p| p.worker).collect() }
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        let Some(record) = self.ports.get_mut(&port) else { return OutsideLoss::default() };
        let now = record.ask(&mut self.links).unwrap_or_else(|| record.link.clone());
        let rx = now.rx_dropped.saturating_sub(record.base.rx_dropped);
        let tx = now.tx_dropped.saturating_sub(record.base.tx_dropped);
        match &mut record.device {
            // What the host sends through a TAP is what the switch receives.
            Device::Tap { .. } => OutsideLoss { missed_rx: tx, lost_after_tx: rx },
            Device::Netdev(netdev) => {
                // A TAP counts among its losses what it refused, which was dropped here by name.
                let refused = record.shared.refused.get();
                let ours = if now.kind == "tun" { refused } else { 0 };
                let lost_after_tx = tx.saturating_sub(ours);
                OutsideLoss { missed_rx: netdev.socket_drops(), lost_after_tx }
            }
            Device::Vtep(vtep) => OutsideLoss { missed_rx: vtep.drops(), lost_after_tx: 0 },
        }
    }

    fn events(&mut self) -> Vec<PortEvent> {
        self.undo_leftovers();
        let mut events = Vec::new();
        let mut news = std::mem::take(&mut self.unread);
        news.extend(self.links.as_mut().map(Links::news).unwrap_or_default());
        let look = self.away.as_mut().is_some_and(AwayNews::begin_round);
        for (id, record) in &mut self.ports {
            let mut told = Vec::new();
            let (mut lost, mut changed) = (false, false);
            let away_news = match (&mut record.device, &mut self.away) {
                (Device::Tap { away: Some(away), .. }, Some(news)) => {
                    Some(news.news(*id, &mut away.links))
                }
                _ => None,
            };
            for item in away_news.as_deref().unwrap_or(&news) {
                match item {
                    LinkNews::Is(now) if now.index == record.link.index && !record.moved => {
                        changed = true;
                    }
                    LinkNews::Gone { index } if *index == record.link.index => {
                        told.extend(record.left());
                    }
                    LinkNews::Lost => lost = true,
                    _ => {}
                }
            }
            // News may be older than what was seen when the port was opened: its making and its
            // coming up. Only what holds now counts, or each port would go down once. That it is
            // gone has news of its own.
            if changed && let Some(now) = record.ask(&mut self.links) {
                told.extend(record.update(&now));
            }
            if lost {
                match record.ask(&mut self.links) {
                    Some(now) => told.extend(record.update(&now)),
                    None => told.extend(record.left()),
                }
            }
            if record.shared.gone.load(Ordering::Acquire) {
                let why = format!("device {} was deleted", record.link.name);
                told.extend(record.set_gone(why));
            }
            if let Device::Tap { away: Some(away), .. } = &record.device
                && look
                && away.has_left()
            {
                // The file keeps the namespace alive, but nobody can get there by name any more.
                let why = format!("network namespace {} was deleted", away.netns);
                told.extend(record.set_gone(why));
            }
            if let Device::Vtep(vtep) = &record.device
                && let Some(why) = vtep.left()
            {
                told.extend(record.set_gone(why));
            }
            told.extend(record.tx_error());
            events.extend(told.into_iter().map(|kind| PortEvent { port: *id, kind }));
        }
        for (id, waiting) in &mut self.waiting {
            if waiting.appeared(&news, &mut self.links) {
                events.push(PortEvent { port: *id, kind: PortEventKind::Appeared });
            }
        }
        events
    }
}
