//! The thread of an uplink: frames between it and the host's stack, and next hops from the kernel.
//!
//! Neither is the workers' business: a frame for the host costs a system call, and a neighbour may
//! take seconds to answer.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use datapath_tap::HostTap;
use datapath_tap::routes::{News, Route, RouteNews, Routes};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::datapath::Wake;
use switch_core::frame::Frame;
use switch_core::handover::{HandoverRing, RING_FRAMES};
use switch_core::tunnel::ENTROPY_FIRST;

use super::hops::Published;
use super::icmp::{self, TooBig};
use super::resolve::{Kernel, Resolver};
use super::side::Ask;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;

/// How long what a router told of a path holds (RFC 1191 6.3).
const PATH_HOLDS: Duration = Duration::from_secs(600);
/// Most paths that routers told of.
const PATHS_MAX: usize = 4096;
/// How soon routes are looked up again that changed just after they were looked up: a routing
/// daemon changes many in a row.
const ROUTES_SETTLE: Duration = Duration::from_millis(50);
/// How long the thread waits for a ring to the workers that is full.
const RING_FULL: Duration = Duration::from_millis(1);
/// Longest frame that a TAP hands out.
const FRAME: usize = 65_536;

/// Ends the thread's wait.
#[derive(Debug)]
pub(super) struct Doorbell(EventFd);

impl Doorbell {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        EventFd::from_value_and_flags(0, flags).map(Self)
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        // It fails only if it was rung 2^64 times.
        let _ = self.0.write(1);
    }
}

/// A path that a router told of.
#[derive(Clone, Copy, Debug)]
struct Path {
    mtu: u32,
    until: Instant,
}

/// What a VTEP sends, for telling whether a packet can be one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sends {
    pub(super) local: IpAddr,
    pub(super) udp: Vec<u16>,
    pub(super) gre: bool,
}

/// What the thread shares with the control side.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tap: HostTap,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) stop: AtomicBool,
    /// Whether addresses or routes changed since the control side looked.
    pub(super) changed: AtomicBool,
    /// Frames of the host for which there was no mbuf.
    pub(super) lost: AtomicU64,
    pub(super) asks: Arc<ArrayQueue<Ask>>,
    pub(super) table: Published,
    /// From workers.
    pub(super) to_host: HandoverRing<Mbuf>,
    /// To the worker that owns the first send queue.
    pub(super) from_host: HandoverRing<Mbuf>,
    pub(super) sends: Mutex<Vec<Sends>>,
    paths: Mutex<HashMap<IpAddr, Path>>,
}

impl Shared {
    pub(super) fn new(tap: HostTap, doorbell: Arc<Doorbell>, worker: Arc<dyn Wake>) -> Self {
        let thread: Arc<dyn Wake> = Arc::<Doorbell>::clone(&doorbell);
        Self {
            tap,
            doorbell,
            stop: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            asks: Arc::new(ArrayQueue::new(RING_FRAMES)),
            table: Published::default(),
            to_host: HandoverRing::new(RING_FRAMES, thread),
            from_host: HandoverRing::new(RING_FRAMES, worker),
            sends: Mutex::default(),
            paths: Mutex::default(),
        }
    }

    /// What a router told of the path to `remote`, as long as it holds.
    pub(super) fn told_path(&self, remote: IpAddr, now: Instant) -> Option<u32> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let path = *paths.get(&remote)?;
        if path.until <= now {
            paths.remove(&remote);
            return None;
        }
        Some(path.mtu)
    }

    /// Believes a router, if the packet it quotes can be one of ours.
    fn hear_router(&self, told: TooBig, known: bool, now: Instant) {
        let sends = self.sends.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = sends.iter().any(|vtep| {
            let sent = |(source, port): (u16, u16)| {
                // Nobody else's packets leave from such a port to such a one.
                source >= ENTROPY_FIRST && vtep.udp.contains(&port)
            };
            vtep.local == told.from && told.udp.map_or(vtep.gre, sent)
        });
        drop(sends);
        if !ours || !known {
            return;
        }
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= PATHS_MAX && !paths.contains_key(&told.to) {
            paths.retain(|_, path| path.until > now);
        }
        if paths.len() >= PATHS_MAX && !paths.contains_key(&told.to) {
            return;
        }
        let path = paths.entry(told.to).or_insert(Path { mtu: told.mtu, until: now });
        // A path that carries less than was told before; that it carries more nobody tells.
        if path.until <= now || told.mtu <= path.mtu {
            *path = Path { mtu: told.mtu, until: now + PATH_HOLDS };
        }
    }
}

/// The kernel, as the resolver asks it.
struct Host<'a> {
    routes: &'a mut Routes,
    device: u32,
}

impl Kernel for Host<'_> {
    fn route(&mut self, to: IpAddr, from: IpAddr) -> Option<Route> {
        let route = self.routes.route(to, from, self.device);
        route.ok().flatten().filter(|route| route.device == self.device)
    }

    fn use_neighbour(&mut self, addr: IpAddr) -> bool {
        self.routes.use_neighbour(self.device, addr).is_ok()
    }
}

/// The thread's own things.
pub(super) struct Thread {
    shared: Arc<Shared>,
    pool: Mempool,
    routes: Routes,
    news: RouteNews,
    resolver: Resolver,
    batch: Batch<Mbuf>,
    buffer: Vec<u8>,
    /// When routes are to be looked up again.
    routes_at: Option<Instant>,
}

impl Thread {
    /// Made in the network namespace of the TAP.
    pub(super) fn new(shared: Arc<Shared>, pool: Mempool) -> std::io::Result<Self> {
        let news = RouteNews::open()?;
        let mut routes = Routes::open()?;
        let now = Instant::now();
        let mut resolver = Resolver::new(now);
        let device = shared.tap.index();
        let all = routes.neighbours(device)?;
        resolver.hear_all(&all, &mut Host { routes: &mut routes, device }, now);
        Ok(Self {
            shared,
            pool,
            routes,
            news,
            resolver,
            batch: Batch::with_limit(BURST_MAX),
            buffer: vec![0; FRAME],
            routes_at: None,
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut again = false;
        while !self.shared.stop.load(Ordering::Acquire) {
            let full = self.shared.from_host.len() + BURST_MAX > RING_FRAMES;
            self.wait(again, full);
            self.look_at_kernel();
            again = self.give_host();
            if !full {
                again |= self.take_from_host();
            }
            if let Some(table) = self.resolver.take_change() {
                self.shared.table.store(Arc::new(table));
            }
        }
    }

    /// Waits until there is something to do. `full` leaves frames of the host where they are.
    fn wait(&self, again: bool, full: bool) {
        let now = Instant::now();
        let due = self.routes_at.into_iter().fold(self.resolver.due(), Instant::min);
        let mut left = due.saturating_duration_since(now);
        if full {
            left = left.min(RING_FULL);
        }
        // Rounded up, or the last part of a millisecond would be waited for by turning round.
        let millis = if again { 0 } else { left.as_micros().div_ceil(1000) };
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let tap = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut files = [
            PollFd::new(self.shared.doorbell.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.news.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.tap.as_fd(), tap),
        ];
        // A TAP that was deleted is always ready, and has nothing.
        let _ = poll(&mut files, timeout);
        // Before what it tells of is looked for.
        let _ = self.shared.doorbell.0.read();
    }

    /// What the kernel tells and workers ask, and what is due.
    fn look_at_kernel(&mut self) {
        let (now, device) = (Instant::now(), self.shared.tap.index());
        let news = self.news.read();
        let mut kernel = Host { routes: &mut self.routes, device };
        for item in news {
            match item {
                News::Neighbour(neighbour) if neighbour.device == device => {
                    self.resolver.hear(neighbour, &mut kernel, now);
                }
                News::Neighbour(_) => {}
                News::Routes => {
                    self.routes_at = self.routes_at.or(Some(now + ROUTES_SETTLE));
                }
                News::Lost => {
                    self.routes_at = Some(now);
                    if let Ok(all) = kernel.routes.neighbours(device) {
                        self.resolver.hear_all(&all, &mut kernel, now);
                    }
                }
            }
        }
        if self.routes_at.is_some_and(|at| at <= now) {
            self.routes_at = None;
            self.shared.changed.store(true, Ordering::Release);
            self.resolver.lead_again(&mut kernel, now);
        }
        while let Some((to, from)) = self.shared.asks.pop() {
            self.resolver.ask(to, from, &mut kernel, now);
        }
        self.resolver.run(&mut kernel, now);
    }

    /// Gives the host's stack a burst of what workers received for it. Whether there may be more.
    fn give_host(&mut self) -> bool {
        if !self.shared.to_host.announced() {
            return false;
        }
        self.shared.to_host.pop(&mut self.batch);
        let now = Instant::now();
        for frame in self.batch.drain() {
            if let Some(told) = icmp::too_big(frame.head()) {
                self.shared.hear_router(told, self.resolver.knows(told.to), now);
            }
            let mut pieces = Vec::with_capacity(frame.segments());
            frame.for_each_segment(&mut |piece| pieces.push(IoSlice::new(piece)));
            // A TAP that is down takes nothing, as a NIC that is down; the kernel counts it there.
            let _ = self.shared.tap.write(&pieces);
        }
        self.shared.to_host.announced()
    }

    /// Takes a burst of what the host sends. Whether there may be more.
    fn take_from_host(&mut self) -> bool {
        while !self.batch.is_full() {
            let Ok(len) = self.shared.tap.read(&mut self.buffer) else { break };
            match self.buffer.get(..len).and_then(|bytes| self.pool.frame(bytes)) {
                Some(frame) => {
                    let _ = self.batch.push(frame);
                }
                None => {
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let more = self.batch.is_full();
        if !self.batch.is_empty() {
            // The only one who puts something in has looked that it fits.
            self.shared.from_host.offer(&mut self.batch);
        }
        more
    }
}
