//! The control side: DPDK devices as ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use datapath_tap::TapOptions;
use switch_core::config::{PortKind, PortSpec, VhostMode};
use switch_core::datapath::{
    Backend, BackendError, BackendWarning, Datapath, OpenPort, OutsideLoss, PoolUse, PortEvent,
    PortInfo, UnderlaySpec, Wake,
};
use switch_core::fdb::Bucket;
use switch_core::handover::{HandoverRing, RING_FRAMES};
use switch_core::ids::{PortId, WorkerId};

use crate::datapath::{DpdkDatapath, PortQueue, Tx};
use crate::eal::Eal;
use crate::error::DpdkError;
use crate::ethdev::{Attach, Device, DeviceConfig};
use crate::mempool::Mempool;
use crate::pages::prefer_huge;
use crate::ports::devargs;
use crate::ports::device::DevicePort;
use crate::ports::kernel::KernelPorts;
use crate::ports::keys;
use crate::ports::{vf, vhost};
use crate::uplink::{UplinkDevice, Uplinks};

/// DPDK's devices, on one pool.
#[derive(Debug)]
pub struct DpdkBackend {
    eal: Eal,
    pool: Mempool,
    /// One a worker.
    wakers: Vec<Arc<dyn Wake>>,
    ports: BTreeMap<PortId, DevicePort>,
    most_queues: u16,
    /// What DPDK as a whole goes without.
    warnings: Vec<BackendWarning>,
    /// Ports of type `tap` and `netdev`, which are not in `ports`.
    kernel: KernelPorts,
    uplinks: Uplinks,
}

/// Linux's number for "device busy".
const EBUSY: i32 = 16;

impl DpdkBackend {
    /// A backend without workers and ports. All its ports receive into `pool`.
    #[must_use]
    pub fn new(eal: Eal, pool: Mempool) -> Self {
        let kernel = KernelPorts::new(TapOptions::default());
        let (wakers, warnings) = (Vec::new(), Vec::new());
        let (ports, uplinks) = (BTreeMap::new(), Uplinks::default());
        let most_queues = u16::MAX;
        Self { eal, pool, wakers, ports, most_queues, warnings, kernel, uplinks }
    }

    /// The same, with what the switch is to say of DPDK as a whole.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<BackendWarning>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The same, with options for its `tap` and `netdev` ports.
    #[must_use]
    pub fn with_kernel_options(mut self, options: TapOptions) -> Self {
        self.kernel = KernelPorts::new(options);
        self
    }

    /// The same, with at most that many queues a device: more of them change the order of frames
    /// where the driver does not keep flows together (`net_tap`).
    #[must_use]
    pub fn with_most_queues(mut self, most: u16) -> Self {
        self.most_queues = most;
        self
    }

    /// The pool all ports receive into.
    pub fn pool(&self) -> Mempool {
        self.pool
    }

    /// Opens any device as a port, also one that has no devargs.
    ///
    /// Queues are dealt out to the workers in turn, beginning with another one for each port. A
    /// worker for which no send queue is left hands its frames over.
    ///
    /// # Errors
    /// What the driver refuses; nothing is left then.
    pub fn open_device(
        &mut self,
        port: PortId,
        attach: &Attach,
        mtu: Option<u16>,
    ) -> Result<OpenPort<PortQueue>, DpdkError> {
        let config = self.config(port, mtu)?;
        self.open_configured(port, attach, &config)
    }

    /// A queue for each worker in both directions.
    fn config(&self, port: PortId, mtu: Option<u16>) -> Result<DeviceConfig, DpdkError> {
        let most = u16::try_from(self.workers(port)?).unwrap_or(u16::MAX).min(self.most_queues);
        Ok(DeviceConfig { rx_queues: most, tx_queues: most, mtu, ..DeviceConfig::default() })
    }

    fn open_configured(
        &mut self,
        port: PortId,
        attach: &Attach,
        config: &DeviceConfig,
    ) -> Result<OpenPort<PortQueue>, DpdkError> {
        let workers = self.workers(port)?;
        let (device, rx, tx) = Device::open(self.eal, attach, config, self.pool)?;
        let owner = port.index() % workers;
        let worker_of = |queue: usize| (owner + queue) % workers;
        let rx_workers = (0..rx.len()).map(|queue| WorkerId(worker_of(queue) as u16)).collect();
        let rings: Vec<_> = (0..tx.len())
            .map(|queue| HandoverRing::new(RING_FRAMES, Arc::clone(&self.wakers[worker_of(queue)])))
            .collect();
        // In the order of the queues: first the worker that owns queue 0.
        let mut rx_of: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        rx.into_iter().enumerate().for_each(|(n, queue)| rx_of[n % workers].push(queue));
        let (mut rx, mut tx) = (rx_of.into_iter(), tx.into_iter());
        // A guest may enable fewer queues than there are, and the first one always.
        let first = rings.first().filter(|_| device.has_guest());
        let mut queues: Vec<_> = (0..workers)
            .map(|i| {
                let tx = match (tx.next(), rings.get(i % rings.len().max(1))) {
                    (Some(tx), Some(ring)) => {
                        Tx::Own(tx, ring.clone(), first.filter(|_| i > 0).cloned())
                    }
                    (None, Some(ring)) => Tx::Other(ring.clone()),
                    (_, None) => Tx::None,
                };
                PortQueue::new(rx.next().unwrap_or_default(), tx)
            })
            .collect();
        // Now in the order of the workers.
        queues.rotate_right(owner);
        let opened = DevicePort::new(device, attach, rx_workers);
        let info = opened.info();
        self.ports.insert(port, opened);
        Ok(OpenPort { info, queues, owner: WorkerId(owner as u16) })
    }

    /// How many workers there are to deal queues out to.
    fn workers(&self, port: PortId) -> Result<usize, DpdkError> {
        match self.wakers.len() {
            0 => Err(DpdkError::unfit(format!("opening {port:?}"), "there is no worker")),
            workers => Ok(workers),
        }
    }

    fn open_vhost(
        &mut self,
        port: PortId,
        spec: &PortSpec,
        socket: &str,
        mode: VhostMode,
        queues: u16,
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        let devargs = vhost::devargs(port, socket, mode, queues)?;
        let workers = u16::try_from(self.workers(port).map_err(failed)?).unwrap_or(u16::MAX);
        let config = DeviceConfig {
            // Whatever the guest sends on is received, also with fewer workers.
            rx_queues: queues,
            tx_queues: queues.min(workers),
            ..DeviceConfig::default()
        };
        let mut open = self
            .open_configured(port, &Attach::Devargs(devargs), &config)
            .map_err(|error| self.explained(error, spec, failed))?;
        if let Some(opened) = self.ports.get_mut(&port) {
            opened.mtu = spec.mtu;
            open.info = opened.info();
        }
        Ok(open)
    }

    fn open_kernel(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        let owner = port.index() % self.workers(port).map_err(failed)?;
        let (info, kernel) = self.kernel.open(port, spec, self.pool)?;
        let ring = HandoverRing::new(RING_FRAMES, Arc::clone(&self.wakers[owner]));
        let mut own = Some(PortQueue::kernel(kernel, ring.clone()));
        let queue = |worker| {
            own.take_if(|_| worker == owner)
                .unwrap_or_else(|| PortQueue::new(Vec::new(), Tx::Other(ring.clone())))
        };
        let queues = (0..self.wakers.len()).map(queue).collect();
        Ok(OpenPort { info, queues, owner: WorkerId(owner as u16) })
    }
}

impl DpdkBackend {
    /// Makes a port that was just opened the uplink `name`, whose exception TAP is called
    /// `exception`.
    ///
    /// # Errors
    /// What the kernel refuses; the port is closed again then.
    pub fn make_uplink(
        &mut self,
        port: PortId,
        name: &str,
        exception: &str,
        open: &mut OpenPort<PortQueue>,
    ) -> Result<(), BackendError> {
        let Some(opened) = self.ports.get(&port) else { return Ok(()) };
        let device = UplinkDevice {
            name: name.to_owned(),
            mac: opened.device.mac(),
            mtu: opened.device.mtu(),
            csum: open.info.caps.csum,
            tx_queues: opened.device.queues().1.into(),
            owner: open.owner.index(),
            link_up: opened.link_up(),
        };
        let (wakers, queues) = (&self.wakers, &mut open.queues);
        let made = self.uplinks.open(port, exception, device, queues, wakers, self.pool);
        if made.is_err() {
            open.queues.clear();
            self.ports.remove(&port);
        }
        made
    }
}

impl DpdkBackend {
    /// Gives a device the address that the port asks for, if it does.
    fn set_mac(&self, port: PortId, spec: &PortSpec) -> Result<(), BackendError> {
        let (Some(opened), Some(mac)) = (self.ports.get(&port), spec.mac) else { return Ok(()) };
        let set = opened.device.set_mac(mac.octets());
        set.map_err(|error| self.explained(error, spec, failed))
    }

    /// What a device refused, by the port's key where it is one.
    fn explained(
        &self,
        error: DpdkError,
        spec: &PortSpec,
        words: impl FnOnce(DpdkError) -> BackendError,
    ) -> BackendError {
        let errno = error.errno();
        keys::explain(words(error), errno, spec, self.pool)
    }
}

impl Backend for DpdkBackend {
    type Datapath = DpdkDatapath;

    fn name(&self) -> &'static str {
        "dpdk"
    }

    fn worker(&mut self, id: WorkerId) -> Result<DpdkDatapath, BackendError> {
        if id.index() != self.wakers.len() {
            return Err(BackendError::Failed {
                attempted: format!("making worker {}", id.0),
                cause: format!("the next one is worker {}", self.wakers.len()),
                hint: None,
            });
        }
        let datapath = DpdkDatapath::new(self.pool);
        self.wakers.push(datapath.waker());
        Ok(datapath)
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        // It may have waited as a port of another kind before.
        let _ = self.kernel.close(port, false);
        let devargs = match &spec.kind {
            PortKind::Dpdk { devargs } => devargs,
            PortKind::Tap { .. } | PortKind::Netdev { .. } => return self.open_kernel(port, spec),
            PortKind::VhostUser { socket, mode, queues } => {
                return self.open_vhost(port, spec, socket, *mode, *queues);
            }
        };
        let name = devargs::name(devargs);
        if self.ports.values().any(|opened| opened.device.name() == name) {
            return Err(devargs::taken(&name));
        }
        devargs::check(devargs)?;
        let unsure = match spec.bridge {
            Some(_) => vf::in_bridge(devargs)?,
            None => None,
        };
        let mut config = self.config(port, spec.mtu).map_err(failed)?;
        config.own_frames = spec.exception.is_some();
        if devargs::has_one_queue(devargs) {
            (config.rx_queues, config.tx_queues) = (1, 1);
        }
        let mut open =
            self.open_configured(port, &Attach::Devargs(devargs.clone()), &config).map_err(
                |error| self.explained(error, spec, |error| devargs::refused(error, devargs)),
            )?;
        if let (Some(opened), Some(unsure)) = (self.ports.get_mut(&port), unsure) {
            opened.lost.push(unsure);
            open.info = opened.info();
        }
        if spec.mac.is_some_and(|mac| mac.octets() != open.info.mac) {
            if let Err(error) = self.set_mac(port, spec) {
                let _ = self.close_port(port, open.queues, false);
                return Err(error);
            }
            open.info = self.port_info(port).unwrap_or(open.info);
        }
        if let Some(exception) = &spec.exception {
            self.make_uplink(port, &spec.name, exception, &mut open)?;
        }
        Ok(open)
    }

    fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        self.uplinks.open_vtep(port, spec, &self.wakers)
    }

    fn adjust_vtep(
        &mut self,
        port: PortId,
        new: &UnderlaySpec,
    ) -> Result<Option<Vec<PortQueue>>, BackendError> {
        self.uplinks.adjust_vtep(port, new, self.wakers.len())
    }

    fn path_mtu(&mut self, vtep: PortId, remote: IpAddr) -> Option<u32> {
        self.uplinks.path_mtu(vtep, remote)
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<PortQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        drop(queues);
        self.uplinks.close_vtep(port);
        let exception = self.uplinks.close(port, remove);
        let Some(opened) = self.ports.remove(&port) else {
            return self.kernel.close(port, remove);
        };
        opened.device.close().map_err(failed)?;
        exception
    }

    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        if !self.ports.contains_key(&port) {
            return self.kernel.adjust(port, old, new);
        }
        if old.kind != new.kind || old.exception != new.exception {
            return Ok(false);
        }
        // What an uplink answers to is more than the device.
        if old.mac != new.mac && (new.mac.is_none() || new.exception.is_some()) {
            return Ok(false);
        }
        if old.mac != new.mac {
            self.set_mac(port, new)?;
        }
        let (Some(opened), true) = (self.ports.get_mut(&port), old.mtu != new.mtu) else {
            return Ok(true);
        };
        if opened.device.has_guest() {
            opened.mtu = new.mtu;
            return Ok(true);
        }
        let Some(mtu) = new.mtu else { return Ok(false) };
        match opened.device.set_mtu(mtu) {
            Ok(()) => {
                self.uplinks.set_mtu(port, mtu)?;
                Ok(true)
            }
            // Most drivers take a new MTU only while they are stopped.
            Err(error) if error.errno() == Some(EBUSY) => Ok(false),
            Err(error) => Err(self.explained(error, new, failed)),
        }
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        self.ports.get(&port).map(DevicePort::info).or_else(|| self.kernel.info(port))
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        let Some(opened) = self.ports.get(&port) else { return self.kernel.outside_loss(port) };
        let stats = opened.device.stats();
        let missed_rx = stats.missed + self.uplinks.lost(port);
        OutsideLoss { missed_rx, lost_after_tx: stats.tx_errors }
    }

    fn rx_workers(&self, port: PortId) -> Vec<WorkerId> {
        self.ports.get(&port).map(|opened| opened.rx_workers.clone()).unwrap_or_default()
    }

    fn device_counters(&mut self, port: PortId) -> Vec<(String, u64)> {
        self.ports.get(&port).map(|opened| opened.device.counters()).unwrap_or_default()
    }

    fn take_fdb(&mut self, memory: &[Bucket]) {
        prefer_huge(memory);
    }

    fn warnings(&self) -> Vec<BackendWarning> {
        self.warnings.clone()
    }

    fn pools(&self) -> Vec<PoolUse> {
        let size = self.pool.size();
        vec![PoolUse {
            name: self.pool.name(),
            buffers: size.mbufs,
            free: self.pool.available(),
            bytes: u64::from(size.mbufs) * u64::from(size.mbuf_bytes),
            hugepages: self.eal.has_hugepages(),
            numa_node: size.numa_node,
        }]
    }

    fn tsc_hz(&self) -> Option<u64> {
        Some(self.eal.tsc_hz())
    }

    fn events(&mut self) -> Vec<PortEvent> {
        let mut events = self.kernel.events();
        for (port, opened) in &mut self.ports {
            let told = opened.events().into_iter();
            events.extend(told.map(|kind| PortEvent { port: *port, kind }));
        }
        let ports = &self.ports;
        events.extend(self.uplinks.events(|port| ports.get(&port).map(DevicePort::link_up)));
        for (port, groups) in self.uplinks.new_groups(Instant::now()) {
            let Some(opened) = self.ports.get_mut(&port) else { continue };
            opened.let_in(&groups);
        }
        events
    }
}

/// When all ports are closed and all workers gone, every buffer is free. A daemon's end is where a
/// leak would show that nobody looked for.
impl Drop for DpdkBackend {
    fn drop(&mut self) {
        if !self.ports.is_empty() {
            return;
        }
        let missing = self.pool.size().mbufs.saturating_sub(self.pool.available());
        if missing > 0 {
            tracing::warn!(missing, "buffers did not come back to the pool");
        }
    }
}

fn failed(error: DpdkError) -> BackendError {
    error.into_backend(None)
}
