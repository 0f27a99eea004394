//! Uplinks: devices that carry tunnels, and beside them the host's own traffic.
//!
//! ```text
//!            tunnel packets            +-> VTEP's port (IP packet, Ethernet header cut off)
//! device ----------------------> split |
//!            everything else           +-> exception TAP -> the host's stack
//! ```
//!
//! The exception TAP holds the uplink's addresses. What the host sends on it leaves by the device;
//! its routes and neighbours say where tunnel packets go. A thread of each uplink moves frames
//! between both and asks the kernel, so that workers do neither.

mod groups;
mod held;
mod hops;
mod icmp;
mod resolve;
mod side;
mod split;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use datapath_tap::HostTap;
use datapath_tap::routes::{Membership, Routes};
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::datapath::{
    BackendError, Caps, OpenPort, PortEvent, PortEventKind, PortInfo, UnderlaySpec, Wake,
};
use switch_core::handover::{HandoverRing, RING_FRAMES};
use switch_core::ids::{PortId, WorkerId};

use crate::datapath::PortQueue;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use groups::Groups;
use hops::Hops;
use side::Asks;
pub(crate) use side::{Exception, Underlay, VtepQueue, serve_host};
use split::Filter;
use thread::{Doorbell, Sends, Shared, Thread};

/// What is known of the device of an uplink.
#[derive(Clone, Debug)]
pub(crate) struct UplinkDevice {
    /// The port's name.
    pub(crate) name: String,
    /// Its address; zeroes if it has none.
    pub(crate) mac: [u8; 6],
    /// Largest packet in bytes.
    pub(crate) mtu: u16,
    /// What it finishes on the way out.
    pub(crate) csum: bool,
    /// How many send queues it has.
    pub(crate) tx_queues: usize,
    /// The worker that owns the first of them.
    pub(crate) owner: usize,
    pub(crate) link_up: bool,
}

/// An open uplink.
#[derive(Debug)]
struct Uplink {
    device: UplinkDevice,
    /// The uplink's address, which the TAP has, too.
    mac: [u8; 6],
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    groups: Groups,
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.doorbell.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An open VTEP.
#[derive(Debug)]
struct Vtep {
    uplink: PortId,
    spec: UnderlaySpec,
    /// One for each send queue of the uplink.
    rings: Vec<HandoverRing<Mbuf>>,
    groups: BTreeMap<IpAddr, Membership>,
    link_up: bool,
    gone: bool,
}

/// A VTEP that could not be opened.
#[derive(Debug)]
struct WaitingVtep {
    uplink: String,
    local: IpAddr,
}

/// All uplinks and the VTEPs on them. Control side.
#[derive(Debug, Default)]
pub(crate) struct Uplinks {
    uplinks: BTreeMap<PortId, Uplink>,
    vteps: BTreeMap<PortId, Vtep>,
    waiting: BTreeMap<PortId, WaitingVtep>,
    routes: Option<Routes>,
}

impl Uplinks {
    /// Makes the port an uplink: opens its exception TAP, and gives the queues of all workers the way
    /// to it.
    ///
    /// # Errors
    /// What the kernel refuses; nothing is left then but the TAP.
    pub(crate) fn open(
        &mut self,
        port: PortId,
        exception: &str,
        device: UplinkDevice,
        queues: &mut [PortQueue],
        wakers: &[Arc<dyn Wake>],
        pool: Mempool,
    ) -> Result<(), BackendError> {
        let attempted = format!("make {} an uplink", device.name);
        let failed = |cause: String| BackendError::Failed {
            attempted: attempted.clone(),
            cause,
            hint: None,
        };
        let mac = (device.mac != [0; 6]).then_some(device.mac);
        let tap = HostTap::open(exception, mac, device.mtu)?;
        let mac = tap.mac();
        let doorbell = Doorbell::new().map_err(|e| failed(e.to_string()))?;
        let worker = wakers.get(device.owner).map(Arc::clone);
        let worker = worker.ok_or_else(|| failed("there is no worker".into()))?;
        let shared = Arc::new(Shared::new(tap, Arc::new(doorbell), worker));
        let thread = Thread::new(Arc::clone(&shared), pool)
            .map_err(|e| failed(format!("rtnetlink: {e}")))?;
        let thread = std::thread::Builder::new()
            .name(format!("up-{}", device.name))
            .spawn(move || thread.run())
            .map_err(|e| failed(format!("start a thread: {e}")))?;
        for (worker, queue) in queues.iter_mut().enumerate() {
            let from_host = (worker == device.owner).then(|| shared.from_host.clone());
            queue.set_exception(Exception::new(shared.to_host.clone(), from_host));
        }
        let (thread, groups) = (Some(thread), Groups::default());
        self.uplinks.insert(port, Uplink { device, mac, shared, thread, groups });
        Ok(())
    }

    /// Closes an uplink, whose VTEPs are closed. `remove` deletes its exception TAP.
    ///
    /// # Errors
    /// The TAP could not be deleted.
    pub(crate) fn close(&mut self, port: PortId, remove: bool) -> Result<(), BackendError> {
        let Some(uplink) = self.uplinks.remove(&port) else { return Ok(()) };
        if remove { uplink.shared.tap.remove() } else { Ok(()) }
    }

    /// Tells of the MTU of an uplink's device.
    pub(crate) fn set_mtu(&mut self, port: PortId, mtu: u16) -> Result<(), BackendError> {
        let Some(uplink) = self.uplinks.get_mut(&port) else { return Ok(()) };
        uplink.device.mtu = mtu;
        uplink.shared.tap.set_mtu(mtu)
    }

    /// Frames of the host that found no buffer.
    pub(crate) fn lost(&self, port: PortId) -> u64 {
        self.uplinks.get(&port).map_or(0, |uplink| uplink.shared.lost.load(Ordering::Relaxed))
    }

    fn by_name(&self, name: &str) -> Option<(PortId, &Uplink)> {
        let found = self.uplinks.iter().find(|(_, uplink)| uplink.device.name == name);
        found.map(|(port, uplink)| (*port, uplink))
    }

    /// Opens a VTEP on its uplink, with a queue for each of so many workers.
    pub(crate) fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
        wakers: &[Arc<dyn Wake>],
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        let Some(name) = &spec.uplink else {
            return Err(BackendError::Failed {
                attempted: format!("open VTEP {}", spec.name),
                cause: "it names no uplink".into(),
                hint: Some("set uplink to the name of a port that is in no bridge".into()),
            });
        };
        match self.try_open_vtep(port, name, spec, wakers) {
            Ok(open) => {
                self.waiting.remove(&port);
                Ok(open)
            }
            Err(error) => {
                if let BackendError::NotThere { .. } = error {
                    let waiting = WaitingVtep { uplink: name.clone(), local: spec.local };
                    self.waiting.insert(port, waiting);
                }
                Err(error)
            }
        }
    }

    fn try_open_vtep(
        &mut self,
        port: PortId,
        name: &str,
        spec: &UnderlaySpec,
        wakers: &[Arc<dyn Wake>],
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        let Some((id, uplink)) = self.by_name(name) else {
            return Err(BackendError::NotThere { what: format!("uplink {name}") });
        };
        let tap = uplink.shared.tap.name();
        if !has_address(&uplink.shared, spec.local) {
            return Err(BackendError::NotThere {
                what: format!("address {} on the uplink's TAP {tap}", spec.local),
            });
        }
        let owner = uplink.device.owner;
        let workers = wakers.len();
        let rings: Vec<_> = (0..uplink.device.tx_queues.min(workers))
            .filter_map(|queue| wakers.get((owner + queue) % workers))
            .map(|waker| HandoverRing::new(RING_FRAMES, Arc::clone(waker)))
            .collect();
        if rings.is_empty() {
            return Err(BackendError::Failed {
                attempted: format!("open VTEP {} on {name}", spec.name),
                cause: "the device cannot send".into(),
                hint: None,
            });
        }
        let groups = join(spec, &BTreeMap::new(), uplink)?;
        let link_up = uplink.device.link_up;
        let info = PortInfo {
            device: tap.to_owned(),
            driver: "uplink".into(),
            mtu: uplink.device.mtu.into(),
            mac: uplink.mac,
            caps: Caps { csum: uplink.device.csum, ..Caps::default() },
            queues: spec.entropy_ports,
            link_up,
            ..PortInfo::default()
        };
        let vtep = Vtep { uplink: id, spec: spec.clone(), rings, groups, link_up, gone: false };
        let queues = queues(&vtep, uplink, workers);
        self.vteps.insert(port, vtep);
        self.tell_sends(id);
        Ok(OpenPort { info, queues, owner: WorkerId(owner as u16) })
    }

    /// Changes what a VTEP sends and receives. `None` if it has to be opened again.
    pub(crate) fn adjust_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
        workers: usize,
    ) -> Result<Option<Vec<PortQueue>>, BackendError> {
        let Some(vtep) = self.vteps.get_mut(&port).filter(|vtep| !vtep.gone) else {
            return Ok(None);
        };
        let Some(uplink) = self.uplinks.get(&vtep.uplink) else { return Ok(None) };
        if spec.local != vtep.spec.local || spec.uplink != vtep.spec.uplink {
            return Ok(None);
        }
        let joined = join(spec, &vtep.groups, uplink)?;
        let wanted = groups(spec);
        vtep.groups.retain(|group, _| wanted.contains(group));
        vtep.groups.extend(joined);
        vtep.spec = spec.clone();
        let (id, queues) = (vtep.uplink, queues(vtep, uplink, workers));
        self.tell_sends(id);
        Ok(Some(queues))
    }

    /// Closes a VTEP, whose queues are gone.
    pub(crate) fn close_vtep(&mut self, port: PortId) {
        self.waiting.remove(&port);
        if let Some(vtep) = self.vteps.remove(&port) {
            self.tell_sends(vtep.uplink);
        }
    }

    /// Tells the thread of an uplink what packets its VTEPs send.
    fn tell_sends(&self, uplink: PortId) {
        let its = self.vteps.values().filter(|vtep| vtep.uplink == uplink);
        let sends = its
            .map(|vtep| Sends {
                local: vtep.spec.local,
                udp: vtep.spec.udp.iter().map(|listen| listen.port).collect(),
                gre: vtep.spec.gre,
            })
            .collect();
        if let Some(uplink) = self.uplinks.get(&uplink) {
            *uplink.shared.sends.lock().unwrap_or_else(PoisonError::into_inner) = sends;
        }
    }

    /// The largest packet that reaches `remote`.
    pub(crate) fn path_mtu(&mut self, vtep: PortId, remote: IpAddr) -> Option<u32> {
        let vtep = self.vteps.get(&vtep)?;
        let uplink = self.uplinks.get(&vtep.uplink)?;
        let mtu = u32::from(uplink.device.mtu);
        if remote.is_multicast() {
            return Some(mtu);
        }
        if remote.is_ipv4() != vtep.spec.local.is_ipv4() {
            return None;
        }
        let device = uplink.shared.tap.index();
        if self.routes.is_none() {
            self.routes = Routes::open().ok();
        }
        let route = self.routes.as_mut()?.route(remote, vtep.spec.local, device).ok()??;
        if route.device != device {
            return None;
        }
        let told = uplink.shared.told_path(remote, Instant::now());
        [route.mtu, told].into_iter().flatten().chain([mtu]).min()
    }

    /// Uplinks whose hosts have joined or left multicast groups, with all of their groups.
    pub(crate) fn new_groups(&mut self, now: Instant) -> Vec<(PortId, Vec<[u8; 6]>)> {
        let changed = |(port, uplink): (&PortId, &mut Uplink)| {
            Some((*port, uplink.groups.changed(uplink.shared.tap.name(), now)?))
        };
        self.uplinks.iter_mut().filter_map(changed).collect()
    }

    /// What happened to VTEPs; `link_up` says how the links of uplinks are now.
    pub(crate) fn events(&mut self, link_up: impl Fn(PortId) -> Option<bool>) -> Vec<PortEvent> {
        let mut events = Vec::new();
        let mut changed = BTreeSet::new();
        for (port, uplink) in &mut self.uplinks {
            uplink.device.link_up = link_up(*port).unwrap_or(uplink.device.link_up);
            if uplink.shared.changed.swap(false, Ordering::AcqRel) {
                changed.insert(*port);
            }
        }
        for (port, vtep) in &mut self.vteps {
            let Some(uplink) = self.uplinks.get(&vtep.uplink).filter(|_| !vtep.gone) else {
                continue;
            };
            let up = uplink.device.link_up;
            if std::mem::replace(&mut vtep.link_up, up) != up {
                let kind = if up { PortEventKind::LinkUp } else { PortEventKind::LinkDown };
                events.push(PortEvent { port: *port, kind });
            }
            if changed.contains(&vtep.uplink) && !has_address(&uplink.shared, vtep.spec.local) {
                vtep.gone = true;
                let (local, tap) = (vtep.spec.local, uplink.shared.tap.name());
                let why = format!("{tap} has the address {local} no more");
                events.push(PortEvent { port: *port, kind: PortEventKind::Gone(why) });
            }
        }
        for (port, waiting) in &self.waiting {
            let Some((id, uplink)) = self.by_name(&waiting.uplink) else { continue };
            if changed.contains(&id) && has_address(&uplink.shared, waiting.local) {
                events.push(PortEvent { port: *port, kind: PortEventKind::Appeared });
            }
        }
        events
    }
}

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;

/// Whether a VTEP can have the address: the TAP does, or the loopback device, where addresses are
/// that routing daemons announce by several links.
fn has_address(shared: &Shared, local: IpAddr) -> bool {
    let devices = Routes::devices_with(local).unwrap_or_default();
    devices.contains(&shared.tap.index()) || (devices.contains(&LOOPBACK) && !local.is_loopback())
}

fn groups(spec: &UnderlaySpec) -> BTreeSet<IpAddr> {
    spec.udp.iter().flat_map(|listen| listen.groups.iter().copied()).collect()
}

/// Joins the groups that are not joined yet.
fn join(
    spec: &UnderlaySpec,
    joined: &BTreeMap<IpAddr, Membership>,
    uplink: &Uplink,
) -> Result<BTreeMap<IpAddr, Membership>, BackendError> {
    let index = uplink.shared.tap.index();
    let missing = groups(spec).into_iter().filter(|group| !joined.contains_key(group));
    missing.map(|group| Ok((group, Membership::join(group, spec.local, index)?))).collect()
}

/// A queue for each worker.
fn queues(vtep: &Vtep, uplink: &Uplink, workers: usize) -> Vec<PortQueue> {
    let shared = &uplink.shared;
    let thread: Arc<dyn Wake> = Arc::<Doorbell>::clone(&shared.doorbell);
    let queue = |worker: usize| {
        // As the uplink's own queues are dealt out.
        let place = (worker + workers - uplink.device.owner) % workers;
        let ring = vtep.rings.get(place % vtep.rings.len().max(1))?;
        Some(PortQueue::vtep(VtepQueue {
            uplink: vtep.uplink,
            filter: Filter::new(uplink.mac, &vtep.spec),
            ring: ring.clone(),
            sends: place < vtep.rings.len(),
            local: vtep.spec.local,
            asks: Asks { queue: Arc::clone(&shared.asks), thread: Arc::clone(&thread) },
            hops: Hops::new(Arc::clone(&shared.table), uplink.mac),
            waiting: held::Waiting::new(),
            stash: Batch::with_limit(BURST_MAX),
        }))
    };
    (0..workers).filter_map(queue).collect()
}
