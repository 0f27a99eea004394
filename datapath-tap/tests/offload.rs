//! TCP of real stacks through two ports: super-frames and unfinished checksums on the way.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use datapath_tap::TapOptions;
use switch_core::config::{PortConf, PortVlans};
use switch_core::datapath::{Backend, Caps, Datapath, Wait};
use switch_core::fdb::FdbConfig;
use switch_core::frame::{Frame, HeapFrame};
use switch_core::stats::PortCounters;
use switch_core::switch::Switch;
use switch_core::worker::{Command, Worker};
use switch_core::{BridgeId, Nanos, WorkerId};

const BYTES: usize = 4 << 20;

/// One end: a stack behind a port.
enum End {
    Tap(Space),
    Veth(Veth),
}

impl End {
    fn tap(rig: &mut Rig, id: u16) -> Self {
        let space = Space::new();
        rig.open(id, &tap_spec("v0", Some(&space))).unwrap();
        Self::Tap(space)
    }

    fn veth(rig: &mut Rig, id: u16, prepare: impl Fn(&Veth)) -> Self {
        let veth = Veth::new();
        prepare(&veth);
        rig.open(id, &netdev_spec(&veth.near.0)).unwrap();
        Self::Veth(veth)
    }

    fn space(&self) -> &Space {
        match self {
            Self::Tap(space) => space,
            Self::Veth(veth) => &veth.space,
        }
    }

    /// Gives the stack its addresses.
    fn address(&self, host: u8) {
        let space = self.space();
        space.run("sysctl -qw net.ipv6.conf.v0.disable_ipv6=0");
        space.run(&format!("ip addr add 10.77.0.{host}/24 dev v0"));
        space.run(&format!("ip -6 addr add fd77::{host}/64 dev v0 nodad"));
    }
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Sends the pattern from port 0's stack to port 1's; gives super-frames and unfinished frames.
fn transfer(rig: &mut Rig, ends: &[End; 2], to: &str) -> (usize, usize) {
    transfer_over(rig, ends, to, &[(0, 1)], |_, _| {})
}

/// The same over several pairs of ports, with frames edited on the way.
fn transfer_over(
    rig: &mut Rig,
    ends: &[End; 2],
    to: &str,
    pairs: &[(u16, u16)],
    edit: impl Fn(u16, &mut HeapFrame),
) -> (usize, usize) {
    let mut seen = (0, 0);
    transfer_by(ends, to, |done| {
        seen = rig.forward(pairs, &edit, done);
        if !done() {
            let lost = [0, 1, 2, 3].map(|id| rig.backend.outside_loss(port(id)));
            println!("to {to}: stuck after {seen:?}: {:?} {lost:?}", rig.counters);
        }
    });
    seen
}

/// The same with whatever switches frames until it is done.
fn transfer_by(ends: &[End; 2], to: &str, switch: impl FnOnce(&dyn Fn() -> bool)) {
    let to: IpAddr = to.parse().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (told, tell) = std::sync::mpsc::channel();
    let server = spawn_in(ends[1].space(), {
        let done = Arc::clone(&done);
        move || {
            let listener = TcpListener::bind((to, 0)).unwrap();
            told.send(listener.local_addr().unwrap().port()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = Vec::new();
            let read = stream.read_to_end(&mut got);
            done.store(true, Ordering::Release);
            read.map(|_| got == pattern())
        }
    });
    let address = SocketAddr::new(to, tell.recv().unwrap());
    let client = spawn_in(ends[0].space(), {
        let done = Arc::clone(&done);
        move || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE);
            let sent = stream.and_then(|mut s| {
                s.set_write_timeout(Some(PATIENCE))?;
                s.write_all(&pattern())
            });
            if sent.is_err() {
                done.store(true, Ordering::Release);
            }
            sent
        }
    });
    switch(&|| done.load(Ordering::Acquire));
    client.join().unwrap().unwrap_or_else(|e| panic!("to {to}: {e}"));
    // It has accepted, so it ends: by the client's close or its own timeout.
    assert!(server.join().unwrap().unwrap(), "to {to}: the bytes arrived changed");
}

fn every_way(rig: &mut Rig, ends: &[End; 2]) -> Vec<(usize, usize)> {
    ends[0].address(1);
    ends[1].address(2);
    let mut seen = Vec::new();
    for to in ["10.77.0.2", "fd77::2"] {
        let counted = transfer(rig, ends, to);
        println!("{to}: {} super-frames, {} unfinished", counted.0, counted.1);
        seen.push(counted);
    }
    for id in [0, 1] {
        let dropped = rig.counters[id].totals().dropped();
        assert_eq!(dropped, 0, "port {id}: {:?}", rig.counters[id]);
    }
    seen
}

#[test]
fn between_taps() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions::default());
    let ends = [End::tap(&mut rig, 0), End::tap(&mut rig, 1)];
    let seen = every_way(&mut rig, &ends);
    assert!(seen.iter().all(|(large, _)| *large > 0), "{seen:?}");
}

#[test]
fn between_netdevs() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions::default());
    let ends = [End::veth(&mut rig, 0, |_| {}), End::veth(&mut rig, 1, |_| {})];
    let seen = every_way(&mut rig, &ends);
    assert!(seen.iter().all(|(large, _)| *large > 0), "{seen:?}");
}

#[test]
fn from_a_tap_to_a_netdev_that_finishes_nothing() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions::default());
    let bare = |veth: &Veth| {
        run(&format!("ethtool -K {} tx off tso off", veth.near.0));
    };
    let ends = [End::tap(&mut rig, 0), End::veth(&mut rig, 1, bare)];
    let seen = every_way(&mut rig, &ends);
    assert!(seen.iter().all(|(large, _)| *large > 0), "{seen:?}");
}

#[test]
fn tagged_super_frames_pass_a_trunk() {
    if !can_run() {
        return;
    }
    for tags in &TAGS[1..5] {
        let mut rig = Rig::new(TapOptions::default());
        let trunk = [Device::named(), Device::named()];
        run(&format!("ip link add {} type veth peer name {}", trunk[0].0, trunk[1].0));
        let ends = [End::tap(&mut rig, 0), End::tap(&mut rig, 3)];
        for (id, device) in [(1, &trunk[0]), (2, &trunk[1])] {
            let mut spec = netdev_spec(&device.0);
            // A packet socket may exceed the MTU by one C-tag, and by nothing else
            // (`packet_extra_vlan_len_allowed`).
            spec.mtu = Some(1508);
            rig.open(id, &spec).unwrap();
        }
        ends[0].address(1);
        ends[1].address(2);
        let edit = |from: u16, frame: &mut HeapFrame| {
            if from == 0 || from == 3 {
                frame.prepend(4 * tags.len()).unwrap();
                let head = frame.head_mut();
                head.copy_within(4 * tags.len()..4 * tags.len() + 12, 0);
                for ((tpid, tci), at) in tags.iter().zip((12..).step_by(4)) {
                    head[at..at + 2].copy_from_slice(&tpid.to_be_bytes());
                    head[at + 2..at + 4].copy_from_slice(&tci.to_be_bytes());
                }
            } else {
                let head = frame.head_mut();
                for ((tpid, tci), at) in tags.iter().zip((12..).step_by(4)) {
                    assert_eq!(head[at..at + 2], tpid.to_be_bytes());
                    assert_eq!(head[at + 2..at + 4], tci.to_be_bytes());
                }
                head.copy_within(0..12, 4 * tags.len());
                frame.trim_front(4 * tags.len()).unwrap();
            }
        };
        for to in ["10.77.0.2", "fd77::2"] {
            let seen = transfer_over(&mut rig, &ends, to, &[(0, 1), (2, 3)], edit);
            println!("{tags:?} to {to}: {seen:?}");
            assert!(seen.0 > 0, "{tags:?}");
        }
        for counters in &rig.counters {
            assert_eq!(counters.totals().dropped(), 0, "{tags:?}: {counters:?}");
        }
    }
}

#[test]
fn offloads_that_change_while_attached_are_followed() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions::default());
    let ends = [End::tap(&mut rig, 0), End::veth(&mut rig, 1, |_| {})];
    ends[0].address(1);
    ends[1].address(2);
    let End::Veth(veth) = &ends[1] else { unreachable!() };
    for setting in ["tx on tso on", "tx off tso off", "tx on tso off", "tx on tso on"] {
        run(&format!("ethtool -K {} {setting}", veth.near.0));
        // As the daemon does several times a second.
        rig.backend.events();
        assert!(transfer(&mut rig, &ends, "10.77.0.2").0 > 0, "{setting}");
        assert_eq!(rig.counters[1].totals().dropped(), 0, "{setting}: {:?}", rig.counters[1]);
    }
}

#[test]
fn between_plain_taps_nothing_is_left_undone() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions { plain_tap: true, ..TapOptions::default() });
    let ends = [End::tap(&mut rig, 0), End::tap(&mut rig, 1)];
    let seen = every_way(&mut rig, &ends);
    assert!(seen.iter().all(|seen| *seen == (0, 0)), "{seen:?}");
}

/// The core's worker between a device with offloads and one that is said to have none: what it cuts
/// and finishes, real stacks check.
#[test]
fn the_worker_finishes_for_a_port_that_cannot() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(TapOptions::default());
    let ends = [End::tap(&mut rig, 0), End::tap(&mut rig, 1)];
    ends[0].address(1);
    ends[1].address(2);
    let switch = Switch::new(FdbConfig::default());
    let mut snapshot = switch.snapshot().next();
    let bridge = BridgeId::new(0);
    snapshot.set_bridge(bridge, "br0", true);
    for (id, caps) in [(0, Caps::ALL), (1, Caps::default())] {
        snapshot.set_port(PortConf {
            id: port(id),
            name: "p".into(),
            bridge: Some(bridge),
            vlans: PortVlans::transparent(),
            isolated: false,
            loop_guard: false,
            storm: None,
            mtu: 1500,
            caps,
            gro: true,
            up: true,
            opened: 0,
            state: Arc::default(),
        });
    }
    switch.publish(snapshot);
    let Rig { backend: _backend, worker: mut datapath, .. } = rig;
    let queues = [0, 1].map(|id| datapath.detach(port(id)).unwrap());
    let (tell, commands) = crossbeam::channel::unbounded();
    let mut worker = Worker::new(WorkerId(0), datapath, switch, commands, Arc::default());
    let counters = [0, 1].map(|_| Arc::<PortCounters>::default());
    for (id, (queue, counters)) in queues.into_iter().zip(&counters).enumerate() {
        let (done, _) = crossbeam::channel::bounded(1);
        let counters = Arc::clone(counters);
        tell.send(Command::Attach { port: port(id as u16), queue, counters, done }).unwrap();
    }
    let start = Instant::now();
    for to in ["10.77.0.2", "fd77::2"] {
        transfer_by(&ends, to, |done| {
            while !done() && start.elapsed() < 2 * PATIENCE {
                let clock = || Nanos::default() + start.elapsed();
                worker.turn(Wait::AtMost(Duration::from_millis(20)), clock);
            }
        });
    }
    let [a, b] = counters.map(|c| c.totals());
    assert!(a.copied > 1000, "segments were made: {a:?}");
    assert_eq!((a.imbalance_in(), b.imbalance_in()), (0, 0), "{a:?} {b:?}");
    assert_eq!((a.imbalance_out(), b.imbalance_out()), (0, 0), "{a:?} {b:?}");
    assert_eq!(b.dropped(), 0, "{b:?}");
}

#[test]
fn udp_super_frames_pass() {
    if !can_run() {
        return;
    }
    use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
    let mut rig = Rig::new(TapOptions::default());
    let ends = [End::tap(&mut rig, 0), End::veth(&mut rig, 1, |_| {})];
    ends[0].address(1);
    ends[1].address(2);
    let done = Arc::new(AtomicBool::new(false));
    let (told, tell) = std::sync::mpsc::channel();
    let server = spawn_in(ends[1].space(), {
        let done = Arc::clone(&done);
        move || {
            let socket = std::net::UdpSocket::bind("10.77.0.2:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            told.send(socket.local_addr().unwrap().port()).unwrap();
            let mut got = Vec::new();
            let mut buf = [0; 2000];
            while got.len() < 20 {
                let Ok(n) = socket.recv(&mut buf) else { break };
                got.push(buf[..n].to_vec());
            }
            done.store(true, Ordering::Release);
            got
        }
    });
    let address = SocketAddr::new("10.77.0.2".parse().unwrap(), tell.recv().unwrap());
    let client = spawn_in(ends[0].space(), move || {
        let socket = std::net::UdpSocket::bind("10.77.0.1:0").unwrap();
        setsockopt(&socket, UdpGsoSegment, &1000).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        socket.send_to(&pattern()[..19_500], address).unwrap();
    });
    let (large, _) = rig.forward(&[(0, 1)], |_, _| {}, || done.load(Ordering::Acquire));
    client.join().unwrap();
    let got = server.join().unwrap();
    assert!(large >= 1);
    assert_eq!(got.concat(), pattern()[..19_500]);
    assert_eq!((got[0].len(), got[19].len()), (1000, 500));
}
