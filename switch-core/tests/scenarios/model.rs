//! Random bridges, VLANs, ports, remotes and frames, against a model of its own: plain maps, written from
//! the rules of IEEE 802.1Q and not from the code.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use switch_core::config::{InnerTags, PortVlans, TunnelSpec};
use switch_core::testing::Packet;
use switch_core::testing::frames::{ethernet, mac, pattern};
use switch_core::wire::MacAddr;

use crate::lab::overlay::{spec, vxlan};
use crate::lab::underlay::{self, Outer, Sum};
use crate::lab::{Lab, LabConfig, Port};

#[derive(Clone, Debug)]
enum Mode {
    Transparent,
    Access(u16),
    Trunk(Vec<u16>, Option<u16>),
}

#[derive(Clone, Debug)]
struct ModelPort {
    bridge: usize,
    mode: Mode,
    isolated: bool,
    /// A remote that the bridge has a tunnel to, which is like a transparent port but for split
    /// horizon.
    remote: bool,
}

#[derive(Clone, Debug)]
struct Probe {
    from: usize,
    src: u32,
    dst: Option<u32>,
    tag: Option<u16>,
    len: usize,
}

impl ModelPort {
    /// The VLAN a frame that comes in here belongs to.
    fn classify(&self, tag: Option<u16>) -> Option<u16> {
        let vid = tag.map_or(0, |tci| tci & 0xfff);
        match (&self.mode, vid) {
            (_, 4095) => None,
            (Mode::Transparent, vid) => Some(vid),
            (Mode::Access(own), 0) => Some(*own),
            (Mode::Access(own), vid) => (vid == *own).then_some(vid),
            (Mode::Trunk(_, native), 0) => *native,
            (Mode::Trunk(some, native), vid) => {
                (some.contains(&vid) || *native == Some(vid)).then_some(vid)
            }
        }
    }

    /// The tag a frame of VLAN `vid` that came in with `tag` leaves with; `None`: it does not.
    fn leave(&self, vid: u16, tag: Option<u16>) -> Option<Option<u16>> {
        let tagged = Some(Some(tag.unwrap_or(0) & 0xf000 | vid));
        match &self.mode {
            Mode::Transparent if vid == 0 => Some(tag),
            Mode::Transparent => tagged,
            Mode::Access(own) => (*own == vid).then_some(None),
            Mode::Trunk(_, native) if *native == Some(vid) => Some(None),
            Mode::Trunk(some, _) => {
                if some.contains(&vid) {
                    tagged
                } else {
                    None
                }
            }
        }
    }

    fn vlans(&self) -> PortVlans {
        match &self.mode {
            Mode::Transparent => PortVlans::transparent(),
            Mode::Access(vid) => PortVlans::access(*vid),
            Mode::Trunk(some, native) => PortVlans::trunk(some.iter().copied(), *native),
        }
    }
}

fn bytes(probe: &Probe, number: usize, tag: Option<u16>) -> Vec<u8> {
    let dst = probe.dst.map_or(MacAddr::BROADCAST, mac);
    let mut payload = (number as u32).to_be_bytes().to_vec();
    payload.extend(pattern(number as u32, probe.len));
    match tag {
        None => ethernet(dst, mac(probe.src), 0x88b5, &payload),
        Some(tci) => {
            let mut inner = tci.to_be_bytes().to_vec();
            inner.extend_from_slice(&0x88b5u16.to_be_bytes());
            inner.extend(payload);
            ethernet(dst, mac(probe.src), 0x8100, &inner)
        }
    }
}

#[derive(Default)]
struct Model {
    fdb: HashMap<(usize, u16, u32), usize>,
}

impl Model {
    /// Where the frame comes out, and as what.
    fn handle(
        &mut self,
        ports: &[ModelPort],
        probe: &Probe,
        number: usize,
    ) -> BTreeMap<usize, Vec<u8>> {
        let port = &ports[probe.from];
        let Some(vid) = port.classify(probe.tag) else { return BTreeMap::new() };
        self.fdb.insert((port.bridge, vid, probe.src), probe.from);
        let known = probe.dst.and_then(|dst| self.fdb.get(&(port.bridge, vid, dst)).copied());
        ports
            .iter()
            .enumerate()
            .filter(|(n, out)| {
                *n != probe.from
                    && out.bridge == port.bridge
                    && !(out.isolated && port.isolated)
                    && !(out.remote && port.remote)
                    && known.is_none_or(|known| known == *n)
            })
            .filter_map(|(n, out)| Some((n, bytes(probe, number, out.leave(vid, probe.tag)?))))
            .collect()
    }
}

fn vid() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1u16..5, 1 => Just(4094u16)]
}

fn port() -> impl Strategy<Value = ModelPort> {
    let mode = prop_oneof![
        1 => Just(Mode::Transparent),
        2 => vid().prop_map(Mode::Access),
        2 => (proptest::collection::vec(vid(), 0..4), proptest::option::of(vid()))
            .prop_map(|(some, native)| Mode::Trunk(some, native)),
    ];
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.3));
    (0usize..3, mode, flags).prop_map(|(bridge, mode, (a, b, remote))| ModelPort {
        bridge,
        mode: if remote { Mode::Transparent } else { mode },
        isolated: a && b && !remote,
        remote,
    })
}

fn probe(ports: usize) -> impl Strategy<Value = Probe> {
    let vid = prop_oneof![3 => Just(0u16), 6 => vid(), 1 => Just(4095u16)];
    let tag = proptest::option::of((vid, 0u16..16).prop_map(|(vid, prio)| prio << 12 | vid));
    let dst = proptest::option::weighted(0.8, 0u32..12);
    (0..ports, 0u32..12, dst, tag, 0usize..200).prop_map(|(from, src, dst, tag, len)| Probe {
        from,
        src,
        dst,
        tag,
        len,
    })
}

fn case() -> impl Strategy<Value = (Vec<ModelPort>, Vec<Probe>, usize, usize)> {
    proptest::collection::vec(port(), 2..9).prop_flat_map(|ports| {
        let n = ports.len();
        let probes = proptest::collection::vec(probe(n), 1..60);
        (Just(ports), probes, 1usize..65, 1usize..3)
    })
}

/// The switch that the model is of: ports, and a tunnel of each bridge to its remotes.
struct Rig {
    lab: Lab,
    vtep: Port,
    ends: Vec<End>,
}

/// The far end of a port of the model.
#[derive(Clone, Copy)]
enum End {
    Port(Port),
    /// The remote with that number, in the network that has its bridge's.
    Remote {
        number: usize,
        network: usize,
    },
}

impl Rig {
    fn new(ports: &[ModelPort], burst: usize, workers: usize) -> Self {
        let mut lab = Lab::with(LabConfig { workers, ..LabConfig::default() });
        lab.set_burst(burst);
        let bridges: Vec<_> = (0..3).map(|n| lab.bridge(n)).collect();
        let vtep = lab.vtep(LOCAL);
        let ends = ports.iter().enumerate().map(|(number, port)| {
            if port.remote {
                return End::Remote { number, network: port.bridge };
            }
            End::Port(lab.port_with(|setup| {
                setup.conf.bridge = Some(bridges[port.bridge]);
                setup.conf.vlans = port.vlans();
                setup.conf.isolated = port.isolated;
            }))
        });
        let ends = ends.collect();
        for (network, bridge) in bridges.into_iter().enumerate() {
            let of_it = |(_, port): &(usize, &ModelPort)| port.remote && port.bridge == network;
            let remotes = ports.iter().enumerate().filter(of_it).map(|(n, _)| address(n));
            let remotes = remotes.collect::<Vec<_>>();
            let remotes: Vec<_> = remotes.iter().map(String::as_str).collect();
            let spec = spec(vxlan(network as u32), &remotes);
            lab.tunnel(vtep, bridge, &TunnelSpec { tags: InnerTags::Keep, ..spec });
        }
        Self { lab, vtep, ends }
    }

    fn inject(&mut self, from: usize, frame: Vec<u8>) {
        match self.ends[from] {
            End::Port(port) => self.lab.inject(port, frame),
            End::Remote { number, network } => {
                let payload = underlay::vxlan(network as u32, &frame);
                let outer = Outer::new(&address(number), LOCAL);
                self.lab.inject(self.vtep, outer.udp((50_000, 4789), Sum::None, &payload));
            }
        }
    }

    /// What came out, by the number of the port.
    fn collect(&mut self) -> Vec<Vec<Vec<u8>>> {
        let packets = self.lab.received(self.vtep);
        let to_remote = |number: usize, network: usize| {
            let is_its = |packet: &&Packet| {
                let (outer, _, datagram) = underlay::decode(&packet.bytes);
                let vni = usize::from(datagram[14]);
                outer.dst.to_string() == address(number) && vni == network
            };
            packets.iter().filter(is_its).map(|packet| packet.bytes[36..].to_vec()).collect()
        };
        let got: Vec<Vec<_>> = self
            .ends
            .iter()
            .map(|end| match *end {
                End::Port(port) => self.lab.received(port).into_iter().map(|p| p.bytes).collect(),
                End::Remote { number, network } => to_remote(number, network),
            })
            .collect();
        let remotes =
            self.ends.iter().zip(&got).filter(|(end, _)| matches!(end, End::Remote { .. }));
        let sent = remotes.map(|(_, got)| got.len()).sum::<usize>();
        assert_eq!(sent, packets.len(), "each packet is one remote's");
        got
    }
}

const LOCAL: &str = "192.0.2.1";

fn address(number: usize) -> String {
    format!("192.0.2.{}", 100 + number)
}

/// Every frame comes out where the model says, as the model says, exactly once.
pub(crate) fn random_switches_do_as_the_model() {
    let mut runner =
        TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    runner
        .run(&case(), |(ports, probes, burst, workers)| {
            let mut rig = Rig::new(&ports, burst, workers);
            let mut model = Model::default();
            for (number, probe) in probes.iter().enumerate() {
                let expected = model.handle(&ports, probe, number);
                rig.inject(probe.from, bytes(probe, number, probe.tag));
                rig.lab.run();
                for (n, got) in rig.collect().into_iter().enumerate() {
                    let want: Vec<_> = expected.get(&n).cloned().into_iter().collect();
                    prop_assert_eq!(got, want, "frame {} {:?} at port {}", number, probe, n);
                }
            }
            Ok(())
        })
        .unwrap();
}

/// The same in bursts, where order between ports is free: nothing is lost, doubled or leaked into
/// another bridge or VLAN.
pub(crate) fn random_bursts_stay_apart() {
    let mut runner =
        TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    runner
        .run(&case(), |(ports, probes, burst, workers)| {
            let mut rig = Rig::new(&ports, burst, workers);
            for (number, probe) in probes.iter().enumerate() {
                rig.inject(probe.from, bytes(probe, number, probe.tag));
            }
            rig.lab.run();
            for (n, frames) in rig.collect().into_iter().enumerate() {
                let mut seen = HashMap::new();
                for frame in frames {
                    // Whoever sent it, a flood by an empty table says where it may come out.
                    let allowed = probes.iter().enumerate().find(|(number, probe)| {
                        let mut flood = Model::default();
                        let group = Probe { dst: None, ..(*probe).clone() };
                        let may = flood.handle(&ports, &group, *number);
                        may.get(&n).is_some_and(|as_group| {
                            // But for the destination, which the model replaced.
                            as_group[6..] == frame[6..] && as_group.len() == frame.len()
                        })
                    });
                    prop_assert!(allowed.is_some(), "port {} got {:?}", n, frame);
                    let number = allowed.map(|(number, _)| number);
                    *seen.entry(number).or_insert(0) += 1;
                }
                prop_assert!(seen.values().all(|times| *times == 1), "a frame came twice");
            }
            Ok(())
        })
        .unwrap();
}
