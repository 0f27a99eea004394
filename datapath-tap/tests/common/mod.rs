//! Namespaces, devices and a hand-driven datapath for tests on the real kernel.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use datapath_tap::testing::RawSocket;
use datapath_tap::{TapBackend, TapDatapath, TapOptions, TapQueue};
use switch_core::config::{Netns, PortKind, PortSpec};
use switch_core::datapath::{
    Backend, BackendError, Datapath, PortEvent, PortEventKind, PortInfo, Ready, Wait,
};
use switch_core::frame::{Frame, HeapFrame};
use switch_core::stats::PortCounters;
use switch_core::{Batch, PortId, WorkerId};

/// Long enough for a loaded machine; nothing is ever waited for in vain on the way to success.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether kernel devices can be made here. Says loudly if not, and fails where CI expects it.
pub fn can_run() -> bool {
    let tun = std::fs::metadata("/dev/net/tun").is_ok();
    let probe = format!("vsp{}", unique());
    let admin =
        run_quiet(&format!("ip netns add {probe}")) && run_quiet(&format!("ip netns del {probe}"));
    if tun && admin {
        return true;
    }
    let what = if tun { "no permission to make network namespaces" } else { "no /dev/net/tun" };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run in CI: {what}");
    eprintln!("SKIPPED: {what}");
    false
}

/// A number no other test of this machine has at the moment.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // pid_max is below 2^22: five base-36 digits; the device limit is 15 bytes.
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut x = std::process::id();
    let mut pid = String::new();
    while x > 0 {
        pid.insert(0, char::from_digit(x % 36, 36).unwrap());
        x /= 36;
    }
    format!("{pid}-{n}")
}

fn run_quiet(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap())
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Runs a command that must work, and gives what it printed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command and says whether it worked.
pub fn works(command: &str) -> bool {
    run_quiet(command)
}

/// Waits until it is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A network namespace without IPv6, deleted with its devices when the test ends.
pub struct Space {
    pub name: String,
}

impl Space {
    pub fn new() -> Self {
        let space = Self { name: format!("vs{}", unique()) };
        run(&format!("ip netns add {}", space.name));
        // Nobody but the test sends there.
        space.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        space.run("ip link set lo up");
        space
    }

    pub fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    pub fn works(&self, command: &str) -> bool {
        works(&format!("ip netns exec {} {command}", self.name))
    }

    pub fn netns(&self) -> Netns {
        Netns(self.name.clone())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        run_quiet(&format!("ip netns del {}", self.name));
    }
}

/// Deletes a device of the test's own namespace when the test ends.
pub struct Device(pub String);

impl Device {
    pub fn named() -> Self {
        Self(format!("vd{}", unique()))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run_quiet(&format!("ip link del {}", self.0));
    }
}

/// A pair of devices: one end in the test's own namespace, the other one, up, in a [`Space`].
pub struct Veth {
    pub near: Device,
    pub space: Space,
}

impl Veth {
    /// The far end is called `v0`.
    pub fn new() -> Self {
        let (near, space) = (Device::named(), Space::new());
        let far = format!("peer name v0 netns {}", space.name);
        run(&format!("ip link add {} type veth {far}", near.0));
        space.run("ip link set v0 up");
        Self { near, space }
    }

    pub fn far(&self) -> RawSocket {
        RawSocket::open(Some(&self.space.name), "v0").unwrap()
    }
}

pub fn tap_spec(device: &str, netns: Option<&Space>) -> PortSpec {
    let netns = netns.map(Space::netns);
    let kind = PortKind::Tap { device: device.to_owned(), netns, persist: true, queues: None };
    PortSpec::new(device, kind, Some("br0"))
}

/// The same with one queue, which has one worker to receive from it.
pub fn one_queue(mut spec: PortSpec) -> PortSpec {
    if let PortKind::Tap { queues, .. } = &mut spec.kind {
        *queues = Some(1);
    }
    spec
}

pub fn netdev_spec(device: &str) -> PortSpec {
    let kind = PortKind::Netdev { device: device.to_owned(), take_over: false };
    PortSpec::new(device, kind, Some("br0"))
}

pub fn port(n: u16) -> PortId {
    PortId::new(n).unwrap()
}

/// A backend with one worker, driven by hand.
pub struct Rig {
    pub backend: TapBackend,
    pub worker: TapDatapath,
    pub counters: Vec<PortCounters>,
}

impl Rig {
    pub fn new(options: TapOptions) -> Self {
        let mut backend = TapBackend::new(options);
        let worker = backend.worker(WorkerId(0)).unwrap();
        let counters = std::iter::repeat_with(PortCounters::default).take(4).collect();
        Self { backend, worker, counters }
    }

    pub fn open(&mut self, id: u16, spec: &PortSpec) -> Result<PortInfo, BackendError> {
        let mut opened = self.backend.open_port(port(id), spec)?;
        assert_eq!((opened.queues.len(), opened.owner), (1, WorkerId(0)));
        self.worker.attach(port(id), opened.queues.remove(0));
        Ok(opened.info)
    }

    pub fn close(&mut self, id: u16, remove: bool) -> Result<(), BackendError> {
        let queues: Vec<TapQueue> = self.worker.detach(port(id)).into_iter().collect();
        self.backend.close_port(port(id), queues, remove)
    }

    /// Polls and receives until `want` frames of this port that the test sent are there.
    pub fn recv(&mut self, id: u16, want: usize) -> Vec<HeapFrame> {
        let end = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        while frames.len() < want {
            assert!(Instant::now() < end, "{} of {want} frames came", frames.len());
            let mut ready = Ready::default();
            self.worker.poll(Wait::AtMost(Duration::from_millis(100)), &mut ready);
            if ready.rx.contains(&port(id)) {
                let mut batch = Batch::new();
                self.worker.rx_burst(port(id), &mut batch, &self.counters[id as usize]);
                // A host's stack may have sent something before it was silenced.
                frames.extend(batch.drain().filter(|f| ours(f.head())));
            }
        }
        frames
    }

    /// Waits for an event of port `id`.
    pub fn wait_for(&mut self, id: u16, wanted: impl Fn(&PortEventKind) -> bool) {
        let so = |e: &PortEvent| e.port == port(id) && wanted(&e.kind);
        eventually("the event", || self.backend.events().iter().any(so));
    }

    /// Passes frames between the ports of each pair until `done`, and gives how many of them were
    /// super-frames and how many others had unfinished checksums. `edit` sees each frame with the
    /// port it came in on.
    pub fn forward(
        &mut self,
        pairs: &[(u16, u16)],
        edit: impl Fn(u16, &mut HeapFrame),
        done: impl Fn() -> bool,
    ) -> (usize, usize) {
        let (mut large, mut unfinished) = (0, 0);
        let end = Instant::now() + PATIENCE;
        while !done() && Instant::now() < end {
            let mut ready = Ready::default();
            self.worker.poll(Wait::AtMost(Duration::from_millis(20)), &mut ready);
            for from in ready.rx {
                let to = pairs.iter().find_map(|(a, b)| match from.get() {
                    n if n == *a => Some(*b),
                    n if n == *b => Some(*a),
                    _ => None,
                });
                let to = to.unwrap();
                let mut batch = Batch::new();
                self.worker.rx_burst(from, &mut batch, &self.counters[from.index()]);
                for frame in batch.as_mut_slice() {
                    edit(from.get(), frame);
                    let offload = frame.offload();
                    large += usize::from(offload.gso.is_some());
                    unfinished += usize::from(offload.gso.is_none() && !offload.is_finished());
                }
                self.worker.tx_burst(port(to), &mut batch, &self.counters[to as usize]);
            }
        }
        (large, unfinished)
    }

    /// Sends a frame with these bytes.
    pub fn send(&mut self, id: u16, bytes: &[u8]) {
        let mut frame = self.worker.alloc().unwrap();
        assert!(frame.fill(bytes));
        let mut batch = Batch::new();
        batch.push(frame).unwrap();
        self.worker.tx_burst(port(id), &mut batch, &self.counters[id as usize]);
        assert!(batch.is_empty());
    }
}

/// Runs `f` in a thread of that namespace.
pub fn spawn_in<T: Send + 'static>(
    space: &Space,
    f: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = std::fs::File::open(space.netns().path()).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        f()
    })
}

/// Whether a frame is one of [`frame`]'s.
pub fn ours(head: &[u8]) -> bool {
    [12, 16, 20].iter().any(|at| head.get(*at..at + 2) == Some(&[0x88, 0xb5]))
}

/// A frame's bytes.
pub fn bytes(frame: &HeapFrame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.copy_to(&mut out);
    out
}

/// A frame of `len` bytes with a pattern in it, tagged as told.
pub fn frame(len: usize, tags: &[(u16, u16)], seed: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    // Local experimental EtherType 1 (IEEE 802).
    frame.extend([0x88, 0xb5]);
    while frame.len() < len {
        frame.push((frame.len() as u8).wrapping_mul(31) ^ seed);
    }
    frame
}

/// Tags as the kernel may see them: none, C, S, both, two C, priority, all bits.
pub const TAGS: &[&[(u16, u16)]] = &[
    &[],
    &[(0x8100, 10)],
    &[(0x88a8, 20)],
    &[(0x88a8, 20), (0x8100, 10)],
    &[(0x8100, 30), (0x8100, 31)],
    &[(0x8100, 0xe000)],
    &[(0x8100, 0x6fff)],
];
