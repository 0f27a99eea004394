//! Devices and their queues.
//!
//! A queue is used by one thread at a time (its methods take `&mut self`) and keeps its device
//! open: the device stops and closes when the last queue and the last handle are gone.

mod details;
mod notices;
mod queue;

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info, rte_ring};

use crate::eal::{Eal, c_string};
use crate::error::DpdkError;
use crate::log;
use crate::mempool::Mempool;
use crate::ports::devargs;
use crate::ring::Ring;
pub(crate) use details::SETTING_MAC;
pub use queue::{Refused, RxQueue, Sent, TxQueue};

/// How the error of a device that refuses its MTU begins.
pub(crate) const SETTING_MTU: &str = "setting the MTU of";

/// Where a device comes from.
#[derive(Clone, Debug)]
pub enum Attach {
    /// A PCI address or a vdev with its arguments, for example `net_tap0,iface=web`.
    Devargs(String),
    /// A `net_ring` device over rings whose other ends somebody else holds.
    Rings {
        /// Its name, unique in the process.
        name: String,
        /// What it receives from, one a queue.
        rx: Vec<Ring>,
        /// What it sends to, one a queue.
        tx: Vec<Ring>,
    },
}

/// How a device is set up.
#[derive(Clone, Copy, Debug)]
pub struct DeviceConfig {
    /// Receive queues wanted; a device that has fewer gets what it has.
    pub rx_queues: u16,
    /// Send queues wanted; a device that has fewer gets what it has.
    pub tx_queues: u16,
    /// Descriptors of each queue, adjusted to what the driver allows.
    pub descriptors: u16,
    /// Largest layer-3 packet in bytes; `None` leaves what the driver has.
    pub mtu: Option<u16>,
    /// A virtual function is not asked for other frames than those for its own address and groups
    /// ([`Device::set_groups`]). Any other device is promiscuous.
    pub own_frames: bool,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self { rx_queues: 1, tx_queues: 1, descriptors: 1024, mtu: None, own_frames: false }
    }
}

/// An open device. Clones are the same device.
#[derive(Clone, Debug)]
pub struct Device {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    port: u16,
    name: String,
    driver: String,
    quirks: Quirks,
    /// The driver's own pool, and where what it receives is copied to, see [`Quirks::hoards`].
    own_pool: Option<Mempool>,
    copy_into: Option<Mempool>,
    /// What the device refused and goes without, in words.
    refused: Option<String>,
    /// The MTU that a driver without the notion was told; 0 is the driver's own.
    told_mtu: AtomicU16,
    tx_offloads: u64,
    rx_queues: u16,
    tx_queues: u16,
    /// The far ends, which the device uses until it is closed.
    _rings: Vec<Ring>,
}

/// In what a driver differs from others.
#[derive(Clone, Copy, Debug, Default)]
struct Quirks {
    /// Frames come in unfinished, by the word of a sender that is not trusted.
    claims: bool,
    /// There is a guest behind it, which comes and goes, and enables queues one by one.
    guest: bool,
    /// A frame that it does not take is at fault itself, and no full queue.
    refuses_frames: bool,
    /// It keeps the buffers that it holds when it is closed (`net_af_xdp`: those in the rings that it
    /// shares with the kernel), so it gets a pool of its own. It says nothing of checksums that
    /// another stack of this host left unfinished either.
    hoards: bool,
    /// Its checksums of frames in several odd pieces are wrong (`tap_tx_l4_add_rcksum`).
    bad_checksums: bool,
}

impl Quirks {
    fn of(driver: &str) -> Self {
        let none = Self::default();
        match driver {
            "net_vhost" => Self { claims: true, guest: true, ..none },
            "net_af_xdp" => Self { hoards: true, ..none },
            "net_virtio_user" => Self { claims: true, ..none },
            "net_tap" => Self { refuses_frames: true, bad_checksums: true, ..none },
            _ => none,
        }
    }
}

/// What a device counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames that found no free descriptor or mbuf.
    pub missed: u64,
    /// Frames the device could not send.
    pub tx_errors: u64,
}

impl Device {
    /// Probes, configures and starts a device. Answers it with its receive and send queues.
    ///
    /// # Errors
    /// What the driver refuses. Nothing is left then.
    pub fn open(
        _eal: Eal,
        attach: &Attach,
        config: &DeviceConfig,
        pool: Mempool,
    ) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), DpdkError> {
        let (opened, words) = log::hear(|| Self::open_one(attach, config, pool));
        opened.map_err(|error| error.with_words(&words))
    }

    fn open_one(
        attach: &Attach,
        config: &DeviceConfig,
        pool: Mempool,
    ) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), DpdkError> {
        let (port, name, rings) = match attach {
            Attach::Devargs(devargs) => {
                let (port, name) = probe(devargs)?;
                (port, name, Vec::new())
            }
            Attach::Rings { name, rx, tx } => {
                let port = from_rings(name, rx, tx)?;
                (port, name.clone(), rx.iter().chain(tx).cloned().collect())
            }
        };
        // From here on a return closes the device.
        let mut open = Open {
            port,
            name,
            driver: String::new(),
            quirks: Quirks::default(),
            own_pool: None,
            copy_into: None,
            refused: None,
            told_mtu: AtomicU16::new(0),
            tx_offloads: 0,
            rx_queues: 0,
            tx_queues: 0,
            _rings: rings,
        };
        open.start(config, pool)?;
        let (rx_queues, tx_queues) = (open.rx_queues, open.tx_queues);
        let device = Self { open: Arc::new(open) };
        let rx = (0..rx_queues).map(|queue| RxQueue::new(device.clone(), queue)).collect();
        let tx = (0..tx_queues).map(|queue| TxQueue::new(device.clone(), queue)).collect();
        Ok((device, rx, tx))
    }

    /// The name DPDK knows it by.
    pub fn name(&self) -> &str {
        &self.open.name
    }

    /// Its driver, for example `net_ring`.
    pub fn driver(&self) -> &str {
        &self.open.driver
    }

    /// Whether it finishes TCP and UDP checksums on the way out.
    pub fn finishes_checksums(&self) -> bool {
        self.open.has(dpdk_sys::VSW_TX_OFFLOAD_TCP_CKSUM | dpdk_sys::VSW_TX_OFFLOAD_UDP_CKSUM)
    }

    /// How many queues it was set up with, to receive and to send.
    pub fn queues(&self) -> (u16, u16) {
        (self.open.rx_queues, self.open.tx_queues)
    }

    /// What it refused when it was opened, and goes without.
    pub(crate) fn refused(&self) -> Option<&String> {
        self.open.refused.as_ref()
    }

    /// Whether there is a guest behind it, which comes and goes.
    pub fn has_guest(&self) -> bool {
        self.open.quirks.guest
    }

    /// What the guest behind it offered to finish, as virtio's feature bits; 0 while there is none.
    pub fn guest_features(&self) -> u64 {
        // SAFETY: an open port; one of another driver has no vhost device, -1.
        let vid = unsafe { dpdk_sys::rte_eth_vhost_get_vid_from_port_id(self.open.port) };
        let mut features = 0;
        // SAFETY: an unknown device is an error; the number is written.
        unsafe { dpdk_sys::rte_vhost_get_negotiated_features(vid, &mut features) };
        features
    }

    /// How often the link changed since the device was opened, as far as its driver tells.
    pub fn link_changes(&self) -> u32 {
        notices::of(self.open.port).changes.load(Ordering::Acquire)
    }

    /// Permits to send to the guest that was there after that many changes: what it offered to
    /// finish is known to all who send. Others get nothing until then.
    pub fn know_guest(&self, changes: u32) {
        notices::of(self.open.port).known.store(changes, Ordering::Release);
    }

    /// Whether the device was removed, in words, or has to be opened again.
    pub fn trouble(&self) -> Option<&'static str> {
        let notices = notices::of(self.open.port);
        if notices.removed.load(Ordering::Acquire) {
            return Some("the device was removed");
        }
        notices.reset.load(Ordering::Acquire).then_some("the device was reset")
    }

    /// Closes the device.
    ///
    /// # Errors
    /// When a queue of it is still held somewhere; the device then closes with the last one.
    pub fn close(self) -> Result<(), DpdkError> {
        let attempted = format!("closing the device {}", self.name());
        match Arc::try_unwrap(self.open) {
            Ok(_) => Ok(()),
            Err(_) => Err(DpdkError::unfit(attempted, "a worker still has a queue of it")),
        }
    }

    /// Its address, or zeroes if it has none.
    pub fn mac(&self) -> [u8; 6] {
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: an open port; the address is written.
        unsafe { dpdk_sys::rte_eth_macaddr_get(self.open.port, &mut mac) };
        mac.addr_bytes
    }

    /// Largest layer-3 packet in bytes.
    pub fn mtu(&self) -> u16 {
        let told = self.open.told_mtu.load(Ordering::Relaxed);
        if told != 0 {
            return told;
        }
        let mut mtu = 0;
        // SAFETY: an open port; the MTU is written.
        unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.open.port, &mut mtu) };
        mtu
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DpdkError> {
        self.open.set_mtu(mtu)
    }

    /// Whether the link is up, as last reported by the driver.
    pub fn link_up(&self) -> bool {
        // SAFETY: an open port.
        unsafe { dpdk_sys::vsw_eth_link_up(self.open.port) != 0 }
    }

    /// What the device counts.
    pub fn stats(&self) -> DeviceStats {
        let mut stats = MaybeUninit::<dpdk_sys::rte_eth_stats>::zeroed();
        // SAFETY: an open port; the structure is written.
        unsafe { dpdk_sys::rte_eth_stats_get(self.open.port, stats.as_mut_ptr()) };
        // SAFETY: integers only, zeroed before.
        let stats = unsafe { stats.assume_init() };
        DeviceStats { missed: stats.imissed + stats.rx_nombuf, tx_errors: stats.oerrors }
    }
}

fn probe(devargs: &str) -> Result<(u16, String), DpdkError> {
    let attempted = format!("attaching the device {}", devargs.escape_debug());
    let c_devargs = c_string(&attempted, devargs)?;
    // SAFETY: the EAL runs; a terminated string.
    let code = unsafe { dpdk_sys::rte_dev_probe(c_devargs.as_ptr()) };
    if code == -EFAULT {
        let cause = "no bus and no driver knows such a device; a PCI address or, for example, \
                     net_tap0,iface=web is wanted";
        return Err(DpdkError::unfit(attempted, cause));
    }
    if code < 0 {
        return Err(DpdkError::from_code(attempted, code));
    }
    let name = devargs::name(devargs);
    let c_name = c_string(&attempted, &name)?;
    let mut port = 0;
    // SAFETY: a terminated string; the number is written.
    let code = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut port) };
    if code >= 0 {
        return Ok((port, name));
    }
    // A function with several ports, none of which has the function's own name.
    if let Some(first) = first_port(&c_devargs) {
        return Ok((first, name));
    }
    // A vdev of another class, say crypto, is there now only because we asked for it.
    // SAFETY: a terminated string; nobody uses the device.
    unsafe { dpdk_sys::rte_vdev_uninit(c_name.as_ptr()) };
    Err(DpdkError::unfit(attempted, "it is there, but is no network device"))
}

/// The first port of a device.
fn first_port(devargs: &CStr) -> Option<u16> {
    let mut iterator = MaybeUninit::<dpdk_sys::rte_dev_iterator>::zeroed();
    // SAFETY: the structure is written; a terminated string.
    let code = unsafe { dpdk_sys::rte_eth_iterator_init(iterator.as_mut_ptr(), devargs.as_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: written by the call above.
    let port = unsafe { dpdk_sys::rte_eth_iterator_next(iterator.as_mut_ptr()) };
    // SAFETY: as above; it may be called at any time, also after the end.
    unsafe { dpdk_sys::rte_eth_iterator_cleanup(iterator.as_mut_ptr()) };
    (u32::from(port) < dpdk_sys::RTE_MAX_ETHPORTS).then_some(port)
}

fn from_rings(name: &str, rx: &[Ring], tx: &[Ring]) -> Result<u16, DpdkError> {
    let attempted = format!("making the net_ring device {name}");
    let c_name = c_string(&attempted, name)?;
    let rx: Vec<*mut rte_ring> = rx.iter().map(Ring::as_ptr).collect();
    let tx: Vec<*mut rte_ring> = tx.iter().map(Ring::as_ptr).collect();
    // SAFETY: the EAL runs; the arrays have as many live rings as is said, and the driver copies
    // them.
    let port = unsafe {
        dpdk_sys::rte_eth_from_rings(
            c_name.as_ptr(),
            rx.as_ptr(),
            rx.len() as u32,
            tx.as_ptr(),
            tx.len() as u32,
            0,
        )
    };
    u16::try_from(port).map_err(|_| DpdkError::last(attempted))
}

impl Open {
    fn start(&mut self, config: &DeviceConfig, pool: Mempool) -> Result<(), DpdkError> {
        let info = self.info()?;
        if !info.driver_name.is_null() {
            // SAFETY: a terminated string that the driver keeps.
            let driver = unsafe { CStr::from_ptr(info.driver_name) };
            self.driver = driver.to_string_lossy().into_owned();
        }
        self.quirks = Quirks::of(&self.driver);
        let rx_queues = config.rx_queues.min(info.max_rx_queues);
        let tx_queues = config.tx_queues.min(info.max_tx_queues);
        let eth_conf = self.eth_conf(&info, rx_queues);
        self.tx_offloads = eth_conf.txmode.offloads;
        notices::listen(self.port);
        // SAFETY: an own port that is stopped; the structure is complete.
        self.check("configuring", unsafe {
            dpdk_sys::rte_eth_dev_configure(self.port, rx_queues, tx_queues, &eth_conf)
        })?;
        if self.quirks.hoards {
            let name = format!("own-{}", self.port);
            let mbufs = HOARDED * u32::from(rx_queues.max(1));
            self.own_pool = Some(Mempool::for_driver(&name, mbufs, HOARD_ROOM)?);
            self.copy_into = Some(pool);
        }
        let (mut rx_desc, mut tx_desc) = (config.descriptors, config.descriptors);
        // SAFETY: a configured port; both numbers are read and written.
        self.check("sizing the queues of", unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.port, &mut rx_desc, &mut tx_desc)
        })?;
        // SAFETY: an own port. What the driver does not know is SOCKET_ID_ANY, -1.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(self.port) } as u32;
        for queue in 0..rx_queues {
            let mut conf = info.default_rxconf;
            conf.offloads = eth_conf.rxmode.offloads & info.rx_queue_offload_capa;
            let pool = self.own_pool.unwrap_or(pool).as_ptr();
            // SAFETY: a configured port with that queue; a live pool, which outlives the device.
            self.check("setting up a receive queue of", unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(self.port, queue, rx_desc, socket, &conf, pool)
            })?;
        }
        for queue in 0..tx_queues {
            let mut conf = info.default_txconf;
            conf.offloads = eth_conf.txmode.offloads & info.tx_queue_offload_capa;
            // SAFETY: a configured port with that queue.
            self.check("setting up a send queue of", unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(self.port, queue, tx_desc, socket, &conf)
            })?;
        }
        if let Some(mtu) = config.mtu {
            self.set_mtu(mtu)?;
        }
        // SAFETY: a configured port.
        self.check("starting", unsafe { dpdk_sys::rte_eth_dev_start(self.port) })?;
        // Most NICs grant a virtual function more, and give it less: groups they know of.
        if !(config.own_frames && details::is_virtual_function(&self.driver)) {
            self.take_everything();
        }
        (self.rx_queues, self.tx_queues) = (rx_queues, tx_queues);
        Ok(())
    }

    /// A switch takes everything. Drivers without the notion are promiscuous anyway.
    fn take_everything(&mut self) {
        // SAFETY: a started port.
        let code = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.port) };
        if code < 0 && code != -ENOTSUP {
            let error = DpdkError::from_code("promiscuous mode", code);
            self.refused = Some(format!(
                "{error}: frames for others do not come in; a VF has to be trusted by its PF \
                 (ip link set PF vf N trust on)"
            ));
        }
    }

    fn eth_conf(&self, info: &rte_eth_dev_info, rx_queues: u16) -> rte_eth_conf {
        // SAFETY: C integers, enums with a zero value and null pointers; all-zero is the default.
        let mut conf = unsafe { MaybeUninit::<rte_eth_conf>::zeroed().assume_init() };
        let rss = details::hash_of(info.flow_type_rss_offloads);
        if rx_queues > 1 && rss != 0 {
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = rss;
        }
        conf.rxmode.offloads = info.rx_offload_capa & dpdk_sys::VSW_RX_OFFLOAD_SCATTER;
        if self.quirks.claims {
            // Otherwise the driver finishes in software what it receives.
            conf.rxmode.offloads |= info.rx_offload_capa
                & (dpdk_sys::VSW_RX_OFFLOAD_TCP_CKSUM | dpdk_sys::VSW_RX_OFFLOAD_UDP_CKSUM);
        }
        let mut wanted = dpdk_sys::VSW_TX_OFFLOAD_MULTI_SEGS;
        if !self.quirks.bad_checksums {
            wanted |= dpdk_sys::VSW_TX_OFFLOAD_TCP_CKSUM | dpdk_sys::VSW_TX_OFFLOAD_UDP_CKSUM;
        }
        conf.txmode.offloads = info.tx_offload_capa & wanted;
        // SAFETY: a list of the driver's that stays as long as the port.
        let flags = if info.dev_flags.is_null() { 0 } else { unsafe { *info.dev_flags } };
        let tells_removal = flags & dpdk_sys::VSW_DEV_INTR_RMV != 0;
        // SAFETY: the structure is complete.
        unsafe { dpdk_sys::vsw_eth_conf_intr(&mut conf, tells_removal.into()) };
        conf
    }

    fn info(&self) -> Result<rte_eth_dev_info, DpdkError> {
        let mut info = MaybeUninit::<rte_eth_dev_info>::zeroed();
        // SAFETY: an own port; the structure is written.
        let code = unsafe { dpdk_sys::rte_eth_dev_info_get(self.port, info.as_mut_ptr()) };
        self.check("asking for the abilities of", code)?;
        // SAFETY: zeroed before, filled in now.
        Ok(unsafe { info.assume_init() })
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), DpdkError> {
        // SAFETY: an own port.
        let code = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.port, mtu) };
        // Drivers without the notion (`net_memif`, `net_ring`) carry any size, and DPDK goes on saying
        // 1,500: what is sent is held to what was asked for.
        if code == -ENOTSUP {
            self.told_mtu.store(mtu, Ordering::Relaxed);
            return Ok(());
        }
        self.check(SETTING_MTU, code)
    }

    fn has(&self, offloads: u64) -> bool {
        self.tx_offloads & offloads == offloads
    }

    fn check(&self, doing: &str, code: c_int) -> Result<(), DpdkError> {
        if code < 0 {
            return Err(DpdkError::from_code(format!("{doing} the device {}", self.name), code));
        }
        Ok(())
    }
}

/// Buffers that a queue of `net_af_xdp` holds: 2,048 in each direction, and those in hand.
const HOARDED: u32 = 4608;
/// Their data bytes: with all that is in front, what fits into a page, as the kernel wants it.
const HOARD_ROOM: u16 = 3648;

/// Linux's numbers for "operation not supported", and for what libdpdk says to unknown names.
const ENOTSUP: c_int = 95;
const EFAULT: c_int = 14;

impl Drop for Open {
    fn drop(&mut self) {
        let device = self.info().map_or(ptr::null_mut(), |info| info.device);
        notices::unlisten(self.port);
        // SAFETY: an own port; no queue of it is left, as each holds a handle.
        unsafe { dpdk_sys::rte_eth_dev_stop(self.port) };
        // SAFETY: a stopped port.
        unsafe { dpdk_sys::rte_eth_dev_close(self.port) };
        if !device.is_null() {
            // SAFETY: the device of the port, which nobody uses any more.
            unsafe { dpdk_sys::rte_dev_remove(device) };
        }
        if let Some(pool) = self.own_pool {
            // SAFETY: the driver is gone, and with it the kernel's rings; nobody else ever had an mbuf
            // of it for longer than a copy takes.
            unsafe { pool.free() };
        }
    }
}
