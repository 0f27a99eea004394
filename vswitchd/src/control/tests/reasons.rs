//! Every reason for a drop is brought about, and read where an operator reads it: by `drops`, in a
//! trace, in the metrics. Loopback devices do what no kernel device can be made to do.

use std::collections::BTreeMap;
use std::time::Instant;

use switch_core::datapath::PortEventKind;
use switch_core::fdb::{Dest, Flags, Key, Tick};
use switch_core::frame::{Csum, GsoKind, Offload, PoolConfig};
use switch_core::testing::loopback::{LoopbackPort, Packet};
use switch_core::watch::WatchSpec;
use switch_core::wire::MacAddr;
use switch_core::{Domain, DropReason};

use super::*;
use crate::watch::{Wanted, Watching, trace};

const ALL: MacAddr = MacAddr::BROADCAST;
/// Buffers there are in all: too few for a flood to the ports of `wide`.
const BUFFERS: usize = 8;

/// Only uplinks of the DPDK datapath have these: `overlay dpdk::next_hops` sees them in the same places.
const OF_UPLINKS: [DropReason; 3] =
    [DropReason::ExceptionFull, DropReason::NoRoute, DropReason::NeighbourUnresolved];

/// Ports by name, bridge (none for `-`) and further keys.
const PORTS: &[(&str, &str, &str)] = &[
    ("free", "-", ""),
    ("web", "br0", "access = 10\nstorm-limit = \"off\""),
    ("trunk", "br0", "trunk = [10, 30]\nstorm-limit = \"off\""),
    ("iso1", "br0", "access = 20\nisolated = true"),
    ("iso2", "br0", "access = 20\nisolated = true"),
    ("stormy", "br0", "access = 40\nstorm-limit = \"1 pps\""),
    ("calm", "br0", "access = 40"),
    ("small", "br0", "access = 40\nmtu = 1000"),
    ("short", "br0", "access = 30"),
    ("old", "br0", "access = 50"),
    ("young", "br0", "access = 50"),
    ("alone", "br1", ""),
    ("hand1", "ring", "storm-limit = \"off\""),
    ("hand2", "ring", "storm-limit = \"off\""),
    ("ring", "ring", ""),
    ("source", "dev", "storm-limit = \"off\""),
    ("picky", "dev", ""),
    ("stuck", "dev", ""),
    ("down", "dev", ""),
];

fn config() -> String {
    let mut toml = "version = 1\n[daemon]\ncpus = \"0-1\"\nmax-fdb-total = 4096\n".to_owned();
    for bridge in ["br0", "br1", "ring", "dev", "wide"] {
        toml += &format!("[[bridge]]\nname = \"{bridge}\"\n");
    }
    for (name, bridge, keys) in PORTS {
        toml += &format!("[[port]]\nname = \"{name}\"\ntype = \"tap\"\n{keys}\n");
        if *bridge != "-" {
            toml += &format!("bridge = \"{bridge}\"\n");
        }
    }
    for n in 0..2 * BUFFERS {
        toml += &format!("[[port]]\nname = \"w{n}\"\ntype = \"tap\"\nbridge = \"wide\"\n");
    }
    toml += "[[vtep]]\nname = \"v4\"\nlocal = \"192.0.2.1\"\n";
    for (kind, vlan, keys) in [
        ("vxlan", 10, "vni = 100\nstrict-reserved = true"),
        ("geneve", 11, "vni = 100"),
        ("gre", 12, "key = 100\nsequence = true"),
    ] {
        toml += &format!(
            "[[tunnel]]\nname = \"{kind}\"\ntype = \"{kind}\"\nbridge = \"br0\"\n\
             vlan = {vlan}\nremotes = [\"192.0.2.7\", \"192.0.2.8\"]\n{keys}\n"
        );
    }
    toml
}

/// A switch that the test drives, with somebody who traces all drops.
struct Stand {
    controller: Controller<LoopbackBackend>,
    wires: Wires,
    watching: Watching,
    traced: BTreeMap<DropReason, String>,
    _dir: TempDir,
}

impl Stand {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let (desired, _) = load(&mut store, config().as_bytes(), false).unwrap();
        let pool = PoolConfig { heads: BUFFERS, tails: 4, max_heads: BUFFERS };
        let mut backend = LoopbackBackend::new(pool);
        let plain = LoopbackPort::default;
        backend.configure("short", LoopbackPort { headroom: 3, ..plain() });
        backend.configure("picky", LoopbackPort { refuses_over: 100, ..plain() });
        backend.configure("stuck", LoopbackPort { tx_capacity: 4, ..plain() });
        backend.configure("ring", LoopbackPort { ring: 1, ..plain() });
        let wires = backend.wires();
        let (died, _) = unbounded();
        let (controller, _) =
            Controller::start(backend, store, desired, Events::default(), &died).unwrap();
        let spec = WatchSpec { only_dropped: true, ..WatchSpec::default() };
        let watching = controller.watch_add(Wanted { spec, ..Wanted::default() }).unwrap();
        Self { controller, wires, watching, traced: BTreeMap::new(), _dir: dir }
    }

    fn send(&self, port: &str, packet: impl Into<Packet>) {
        assert!(self.wires.get(port).unwrap().inject(packet), "{port} has no room");
    }

    /// Waits until what was sent was taken in: who sends more at once than there are buffers loses it
    /// outside.
    fn done(&self) {
        until("the switch to take all in", || {
            let names = PORTS.iter().map(|(name, ..)| *name);
            names.chain(["v4"]).all(|name| self.wires.get(name).unwrap().pending() == 0)
        });
    }

    /// Says where an address of a bridge and VLAN is.
    fn know(&self, mac: MacAddr, bridge: &str, vid: u16, port: &str) {
        let key = Key::new(mac, Domain::new(self.controller.bridges[bridge], vid));
        let port = Dest::Port(self.controller.ports[port].id);
        let now = Tick::from(self.controller.clock.now());
        self.controller.switch.fdb().set(key, port, Flags::STATIC, now).unwrap();
    }

    /// That was dropped on that port for that reason, and is told of in all places.
    fn expect(&mut self, reason: DropReason, port: &str) {
        let name = reason.name();
        until(&format!("{reason} on {port}"), || {
            self.look();
            let rows = self.controller.drops();
            let row = rows.iter().find(|row| row.port == port && row.reason == name);
            row.is_some_and(|row| row.cause == reason.cause() && row.cure == reason.cure())
                && self.traced.contains_key(&reason)
        });
        let metrics = crate::metrics::render(&self.controller.sample());
        let mut lines = metrics.lines().filter(|line| line.contains(&format!("port=\"{port}\"")));
        assert!(lines.any(|line| line.contains(&format!("reason=\"{name}\""))), "{metrics}");
        let traced = &self.traced[&reason];
        assert!(traced.contains(name) && traced.contains("hint"), "{traced}");
    }

    /// Takes over what was traced.
    fn look(&mut self) {
        while let Some(record) = self.watching.watch.take() {
            let told = trace(&record, &self.watching.origins, String::new(), 0);
            let told = serde_json::to_string(&told).unwrap();
            for reason in record.drops() {
                self.traced.insert(reason, told.clone());
            }
            self.watching.watch.give_back(record);
        }
    }
}

fn plain(dst: MacAddr, src: u32) -> Vec<u8> {
    frames::ethernet(dst, frames::mac(src), 0x88b5, &[0; 46])
}

/// An IPv4 packet to `192.0.2.1` from the host of that number, with this type of service.
fn ip(from: u8, tos: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut out = vec![0x45, tos, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    out[2..4].copy_from_slice(&len.to_be_bytes());
    out.extend([192, 0, 2, from, 192, 0, 2, 1]);
    let sum = (!frames::sum(&out)).to_be_bytes();
    out[10..12].copy_from_slice(&sum);
    out.extend(payload);
    out
}

/// A UDP datagram without a checksum.
fn udp(port: u16, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let len = (8 + payload.len()) as u16;
    let head = [50_000, port, len, 0].map(u16::to_be_bytes).concat();
    [head, payload].concat()
}

/// VXLAN with these flags and this VNI.
fn vxlan(flags: u8, vni: u8, inner: &[u8]) -> Vec<u8> {
    udp(4789, &[&[flags, 0, 0, 0, 0, 0, vni, 0], inner])
}

/// GENEVE of VNI 100 with these first two bytes and these options.
fn geneve(head: [u8; 2], options: &[u8]) -> Vec<u8> {
    let rest = [0x65, 0x58, 0, 0, 100, 0];
    udp(6081, &[&head, &rest, options, &plain(ALL, 70)])
}

/// GRE with key 100: first byte, protocol, and what is before and behind the key.
fn gre(flags: u8, protocol: u16, before: &[u8], behind: &[u8]) -> Vec<u8> {
    let head = [&[flags, 0][..], &protocol.to_be_bytes()].concat();
    [&head, before, &[0, 0, 0, 100], behind, &plain(ALL, 71)].concat()
}

const UDP: u8 = 17;
const GRE: u8 = 47;

#[test]
fn every_reason_is_told_of_everywhere() {
    let mut stand = Stand::new();
    at_the_port(&mut stand);
    in_the_bridge(&mut stand);
    at_the_device(&mut stand);
    from_the_underlay(&mut stand);
    into_the_underlay(&mut stand);
    for reason in DropReason::ALL {
        let traced = stand.traced.contains_key(&reason);
        assert_eq!(traced, !OF_UPLINKS.contains(&reason), "{reason}: add what causes it");
    }
    stand.controller.end().unwrap();
}

fn at_the_port(stand: &mut Stand) {
    let tagged = |tag| frames::tagged(&plain(ALL, 1), 0x8100, tag);
    let zero = frames::ethernet(ALL, MacAddr::new([0; 6]), 0x88b5, &[0; 46]);
    let group = frames::ethernet(ALL, MacAddr::new([3, 0, 0, 0, 0, 1]), 0x88b5, &[0; 46]);
    let lldp = plain(MacAddr::new([1, 0x80, 0xc2, 0, 0, 0x0e]), 1);
    let bogus = Csum::Partial { start: 3, offset: 1 };
    for (reason, port, packet) in [
        (DropReason::Runt, "web", vec![0; 5]),
        (DropReason::Giant, "web", vec![0; 70_000]),
        (DropReason::PortUnbound, "free", plain(ALL, 1)),
        (DropReason::SourceGroup, "web", group),
        (DropReason::SourceZero, "web", zero),
        (DropReason::ReservedDestination, "web", lldp),
        (DropReason::VlanTagInvalid, "trunk", tagged(0xfff)),
        (DropReason::VlanNotMember, "trunk", tagged(20)),
        (DropReason::VlanUntagged, "trunk", plain(ALL, 1)),
    ] {
        stand.send(port, packet);
        stand.expect(reason, port);
    }
    let offload = Offload { csum: bogus, gso: None };
    stand.send("web", Packet { bytes: plain(ALL, 1), offload });
    stand.expect(DropReason::VnetHeader, "web");
    for _ in 0..20 {
        stand.send("stormy", plain(ALL, 2));
        stand.done();
    }
    stand.expect(DropReason::StormLimit, "stormy");
    // One address on two ports in turns, until the newer one is blocked.
    until("a port to be blocked", || {
        for port in ["old", "young"] {
            stand.send(port, plain(ALL, 3));
            stand.done();
        }
        stand.controller.tick(Instant::now()).unwrap();
        stand.controller.drops().iter().any(|row| row.reason == "loop-guard")
    });
    let blocked = stand.controller.drops().into_iter().find(|row| row.reason == "loop-guard");
    stand.expect(DropReason::LoopGuard, &blocked.unwrap().port);
}

fn in_the_bridge(stand: &mut Stand) {
    stand.know(frames::mac(10), "br0", 10, "web");
    stand.know(frames::mac(11), "br0", 20, "iso2");
    stand.know(frames::mac(12), "br0", 10, "calm");
    for (reason, port, frame) in [
        (DropReason::Hairpin, "web", plain(frames::mac(10), 4)),
        (DropReason::Isolated, "iso1", plain(frames::mac(11), 5)),
        (DropReason::NoDestination, "alone", plain(ALL, 6)),
        (DropReason::VlanEgress, "web", plain(frames::mac(12), 4)),
        // More copies than there are buffers.
        (DropReason::CopyFailed, "w0", plain(ALL, 7)),
    ] {
        stand.send(port, frame);
        stand.expect(reason, port);
    }
}

fn at_the_device(stand: &mut Stand) {
    let long = |len: usize, dst| frames::ethernet(dst, frames::mac(20), 0x88b5, &vec![0; len]);
    stand.send("calm", long(1200, ALL));
    stand.expect(DropReason::MtuExceeded, "small");
    stand.send("short", plain(ALL, 21));
    stand.expect(DropReason::NoHeadroom, "trunk");
    for (mac, port) in [(22, "picky"), (23, "stuck"), (24, "down")] {
        stand.know(frames::mac(mac), "dev", 0, port);
    }
    stand.know(frames::mac(25), "ring", 0, "ring");
    // Cut into more segments than there are buffers.
    let whole = frames::tcp4(frames::mac(22), frames::mac(20), &frames::pattern(1, 20_000));
    stand.send("source", frames::gso(whole, GsoKind::TcpV4, 1000));
    stand.expect(DropReason::SegmentFailed, "picky");
    stand.send("source", long(200, frames::mac(22)));
    stand.expect(DropReason::TxError, "picky");
    for _ in 0..20 {
        stand.send("source", plain(frames::mac(23), 20));
        stand.done();
    }
    stand.expect(DropReason::TxFull, "stuck");
    stand.wires.get("down").unwrap().report(PortEventKind::LinkDown);
    stand.controller.tick(Instant::now()).unwrap();
    // What was learned there is forgotten with the link, and said again.
    stand.know(frames::mac(24), "dev", 0, "down");
    stand.send("source", plain(frames::mac(24), 20));
    stand.expect(DropReason::PortDown, "down");
    // Their numbers follow each other, so that one is received by the worker that does not own the ring.
    until("the ring to be full", || {
        for _ in 0..64 {
            stand.send("hand1", plain(frames::mac(25), 26));
            stand.send("hand2", plain(frames::mac(25), 27));
        }
        stand.done();
        stand.wires.get("ring").unwrap().collect();
        stand.look();
        stand.traced.contains_key(&DropReason::HandoverFull)
    });
    stand.expect(DropReason::HandoverFull, "ring");
}

fn from_the_underlay(stand: &mut Stand) {
    let inner = plain(ALL, 30);
    let good = vxlan(8, 100, &inner);
    let mut invalid = ip(7, 0, UDP, &good);
    invalid[8] = 63;
    let mut fragment = ip(7, 0, UDP, &good);
    // The header's sum holds for more fragments, too, when as much is taken off elsewhere.
    (fragment[6], fragment[4]) = (0x20, 0x20);
    let tcp = frames::finished(&frames::tcp4(ALL, frames::mac(31), &[0; 40]));
    for (reason, packet) in [
        (DropReason::OuterInvalid, invalid),
        (DropReason::OuterFragment, fragment),
        (DropReason::OuterAddress, ip(1, 0, UDP, &good)),
        (DropReason::TunnelHeader, ip(7, 0, UDP, &vxlan(0, 100, &inner))),
        (DropReason::TunnelReserved, ip(7, 0, UDP, &vxlan(0x18, 100, &inner))),
        (DropReason::TunnelProtocol, ip(7, 0, GRE, &gre(0x20, 0x0800, &[], &[]))),
        (DropReason::TunnelUnknown, ip(7, 0, UDP, &vxlan(8, 99, &inner))),
        (DropReason::TunnelPeer, ip(9, 0, UDP, &good)),
        (DropReason::GeneveOptions, ip(7, 0, UDP, &geneve([1, 0], &[0, 0, 0, 3]))),
        (DropReason::GeneveCritical, ip(7, 0, UDP, &geneve([1, 0x40], &[1, 2, 0x81, 0]))),
        (DropReason::GeneveControl, ip(7, 0, UDP, &geneve([0, 0x80], &[]))),
        (DropReason::GreChecksum, ip(7, 0, GRE, &gre(0xa0, 0x6558, &[1, 2, 0, 0], &[]))),
        (DropReason::InnerRunt, ip(7, 0, UDP, &vxlan(8, 100, &inner[..13]))),
        (DropReason::InnerTag, ip(7, 0, UDP, &vxlan(8, 100, &frames::tagged(&inner, 0x8100, 5)))),
        (DropReason::EcnDropped, ip(7, 3, UDP, &vxlan(8, 100, &tcp))),
    ] {
        stand.send("v4", packet);
        stand.expect(reason, "v4");
    }
    let told = &stand.traced[&DropReason::TunnelPeer];
    assert!(told.contains("tunnel peers vxlan add"), "{told}");
    for number in [5_u32, 4] {
        stand.send("v4", ip(7, 0, GRE, &gre(0x30, 0x6558, &[], &number.to_be_bytes())));
    }
    stand.expect(DropReason::GreSequence, "v4");
    // From one remote to a station that is behind the other.
    stand.send("v4", ip(7, 0, UDP, &vxlan(8, 100, &plain(ALL, 32))));
    stand.send("v4", ip(8, 0, UDP, &vxlan(8, 100, &plain(frames::mac(32), 33))));
    stand.expect(DropReason::SplitHorizon, "v4");
}

fn into_the_underlay(stand: &mut Stand) {
    stand.send("web", frames::ethernet(ALL, frames::mac(4), 0x88b5, &[0; 1490]));
    stand.expect(DropReason::TunnelMtu, "v4");
    // A packet of the VTEP to the remote, as if the route to it led here.
    let mut looped = ip(1, 0, UDP, &vxlan(8, 100, &plain(ALL, 34)));
    looped[19] = 7;
    let looped = frames::ethernet(frames::mac(32), frames::mac(4), 0x0800, &looped);
    stand.send("web", looped);
    stand.expect(DropReason::TunnelLoop, "v4");
}
