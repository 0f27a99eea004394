//! Plain packets of one sender, and plain frames to one remote, take a shorter way than others.
//! Whatever comes together in a burst, it ends as if all had taken the longer one.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use switch_core::config::TunnelSpec;
use switch_core::frame::{Csum, Offload};
use switch_core::testing::Packet;
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;

use crate::lab::overlay::{Tunnel, geneve, spec, vxlan};
use crate::lab::underlay::{self, Outer, Sum, fix_sum};
use crate::lab::{Lab, LabConfig, Port};

const HERE: &str = "192.0.2.1";
const REMOTES: [&str; 2] = ["192.0.2.2", "192.0.2.3"];
const STRANGER: &str = "192.0.2.77";
const VNI: u32 = 0x00_1234;

/// A VTEP with a VXLAN and a GENEVE tunnel, each in a bridge with a tenant.
struct Host {
    lab: Lab,
    tenants: [Port; 2],
    vtep: Port,
    tunnels: [Tunnel; 2],
}

impl Host {
    fn new(change: impl Fn(&mut TunnelSpec)) -> Self {
        let mut lab = Lab::with(LabConfig { workers: 1, ..LabConfig::default() });
        let bridges = [lab.bridge(0), lab.bridge(1)];
        let tenants = bridges.map(|bridge| lab.port(bridge));
        let vtep = lab.vtep(HERE);
        let mut tunnels = [(vxlan(VNI), bridges[0]), (geneve(VNI), bridges[1])].into_iter();
        let tunnels = std::array::from_fn(|_| {
            let (kind, bridge) = tunnels.next().unwrap();
            let mut spec = spec(kind, &REMOTES);
            change(&mut spec);
            lab.tunnel(vtep, bridge, &spec)
        });
        Self { lab, tenants, vtep, tunnels }
    }

    /// Everything that can be seen of it from outside.
    fn seen(&mut self) -> impl PartialEq + std::fmt::Debug + use<> {
        let ports = [self.tenants[0], self.tenants[1], self.vtep];
        let sent = ports.map(|port| self.lab.received(port));
        let totals = ports.map(|port| self.lab.totals(port));
        let tunnels = self.tunnels.map(|tunnel| self.lab.tunnel_totals(tunnel));
        let peers = REMOTES.map(|remote| self.lab.peer_totals(self.vtep, remote));
        let counters = self.lab.worker_counters(0);
        let learned = (counters.learn_limited.get(), self.lab.switch.fdb().len());
        (sent, totals, (tunnels, peers), learned)
    }
}

/// A frame of a tenant: mostly a plain one.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let damage = proptest::collection::vec((0usize..60, any::<u8>()), 0..3);
    let damage = prop_oneof![3 => Just(Vec::new()), 1 => damage];
    let tag = proptest::option::weighted(0.2, prop_oneof![Just(0u16), Just(0x2000), 1u16..4095]);
    let len = prop_oneof![5 => 0usize..200, 1 => 1380usize..1500];
    let shape = (any::<bool>(), 1u32..6, 0u32..6, any::<u8>(), any::<(u16, u16)>(), len);
    (shape, damage, tag).prop_map(|((v6, src, dst, class, ports, len), damage, tag)| {
        let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let ip = Outer { traffic_class: class, ..Outer::new(a, b) };
        let dst = if dst == 0 { MacAddr::BROADCAST } else { mac(dst) };
        let mut bytes = underlay::udp_frame(dst, mac(src), &[], &ip, ports, len);
        for (at, byte) in damage {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        match tag {
            Some(tci) => tagged(&bytes, 0x8100, tci),
            None => bytes,
        }
    })
}

/// A packet from the underlay: mostly a plain one.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let from = prop_oneof![8 => Just(REMOTES[0]), 3 => Just(REMOTES[1]), 1 => Just(STRANGER)];
    let to = prop_oneof![30 => Just(HERE), 1 => Just("192.0.2.9")];
    let vni = prop_oneof![30 => Just(VNI), 1 => Just(VNI + 1)];
    let sum = prop_oneof![20 => Just(Sum::None), 1 => Just(Sum::Right), 1 => Just(Sum::Wrong)];
    let class = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
    let header = (from, to, vni, sum, class, any::<(bool, u8, bool, u16)>());
    let damage = proptest::collection::vec((0usize..50, any::<u8>(), any::<bool>()), 1..3);
    let damage = prop_oneof![3 => Just(Vec::new()), 1 => damage];
    let len = prop_oneof![5 => Just(None), 1 => (0usize..120).prop_map(Some)];
    (header, frame(), damage, len).prop_map(|(header, frame, damage, len)| {
        let (from, to, vni, sum, traffic_class, (of_geneve, ttl, df, id)) = header;
        let outer = Outer { traffic_class, ttl, df, id, ..Outer::new(from, to) };
        let (port, payload) = if of_geneve {
            (6081, underlay::geneve(vni, false, &[], &frame))
        } else {
            (4789, underlay::vxlan(vni, &frame))
        };
        let mut bytes = outer.udp((50_000 | id, port), sum, &payload);
        for (at, byte, mend) in damage {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
            if mend && bytes.len() >= 20 && bytes[0] == 0x45 {
                fix_sum(&mut bytes);
            }
        }
        // Cut short, or with padding.
        bytes.resize(len.map_or(bytes.len(), |len| len.max(14)), 0);
        bytes
    })
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() })
}

/// A packet with a UDP checksum takes the longer way. That it is right is known of all of them.
#[test]
fn packets_of_a_burst_are_taken_in_as_if_alone() {
    let bursts = proptest::collection::vec(packet(), 1..64);
    let outcome = runner().run(&bursts, |packets| {
        let seen = [false, true].map(|summed| {
            let mut host = Host::new(|_| {});
            for packet in &packets {
                let mut bytes = packet.clone();
                let is_udp = packet[0] == 0x45 && packet.get(9) == Some(&17);
                if summed && is_udp && packet.get(26..28) == Some(&[0, 0]) {
                    bytes[26..28].fill(0xff);
                }
                let offload = Offload { csum: Csum::Verified, gso: None };
                host.lab.inject(host.vtep, Packet { bytes, offload });
            }
            host.lab.run();
            host.seen()
        });
        prop_assert_eq!(&seen[0], &seen[1]);
        Ok(())
    });
    outcome.unwrap();
}

/// Where the MSS is clamped, which concerns TCP alone, every frame takes the longer way.
#[test]
fn frames_of_a_burst_are_sent_as_if_alone() {
    let stations = proptest::collection::vec((any::<bool>(), any::<bool>(), 1u32..6), 0..8);
    let burst = proptest::collection::vec((any::<bool>(), frame()), 1..64);
    let outcome = runner().run(&(stations, burst), |(stations, frames)| {
        let seen = [true, false].map(|clamp| {
            let mut host = Host::new(|spec| spec.mss_clamp = clamp);
            // Stations at the remotes, so that not all is flooded.
            for (of_geneve, second, station) in &stations {
                let hello = underlay::udp_frame(
                    MacAddr::BROADCAST,
                    mac(*station),
                    &[],
                    &Outer::new("10.0.0.2", "10.0.0.1"),
                    (1, 2),
                    20,
                );
                let outer = Outer::new(REMOTES[usize::from(*second)], HERE);
                let (port, payload) = if *of_geneve {
                    (6081, underlay::geneve(VNI, false, &[], &hello))
                } else {
                    (4789, underlay::vxlan(VNI, &hello))
                };
                let packet = outer.udp((50_000, port), Sum::None, &payload);
                host.lab.send(host.vtep, packet);
            }
            for (second, frame) in &frames {
                host.lab.inject(host.tenants[usize::from(*second)], frame.clone());
            }
            host.lab.run();
            host.seen()
        });
        prop_assert_eq!(&seen[0], &seen[1]);
        Ok(())
    });
    outcome.unwrap();
}
