//! Mirrors: what is copied, how it looks, and that nothing else changes.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use switch_core::config::{Direction, PortVlans, VlanSet};
use switch_core::datapath::Caps;
use switch_core::frame::{GsoKind, PoolConfig};
use switch_core::mirror::{MirrorConf, MirrorCounters, MirrorTo};
use switch_core::testing::Packet;
use switch_core::testing::frames::{finished, gso, mac, pattern, tagged, tcp4, udp4};
use switch_core::watch::Filter;
use switch_core::wire::MacAddr;
use switch_core::{BridgeId, DropReason, TunnelId};

use crate::lab::overlay::{erspan, spec, vxlan};
use crate::lab::underlay::{self, Outer, Sum};
use crate::lab::{Lab, LabConfig, Port, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

/// A mirror of everything of these ports.
fn mirror(lab: &Lab, ports: &[Port], to: Port) -> MirrorConf {
    let mut ports: Vec<_> = ports.iter().map(|port| lab.id(*port)).collect();
    ports.sort();
    MirrorConf {
        name: "span".into(),
        ports,
        bridges: Vec::new(),
        direction: Direction::Both,
        vlans: None,
        filter: Filter::default(),
        snap: None,
        one_in: 1,
        to: MirrorTo::Port(lab.id(to)),
        counters: MirrorCounters::each(4),
    }
}

/// Copies made, and copies that could not be.
fn copied(mirror: &MirrorConf) -> (u64, u64) {
    mirror.counters.iter().fold((0, 0), |(frames, failed), counters| {
        (frames + counters.frames.get(), failed + counters.failed.get())
    })
}

fn set(lab: &mut Lab, mirrors: impl IntoIterator<Item = MirrorConf>) -> Vec<Arc<MirrorConf>> {
    let mirrors: Vec<_> = mirrors.into_iter().map(Arc::new).collect();
    lab.set_mirrors(mirrors.clone());
    mirrors
}

/// A port for copies.
fn probe(lab: &mut Lab) -> Port {
    lab.port_with(|setup| setup.conf.caps = Caps::ALL)
}

/// What comes in and what leaves, in each direction alone and together.
pub(crate) fn directions() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    let to = probe(&mut lab);
    let (call, answer) = (small(BROADCAST, mac(1)), small(mac(1), mac(2)));
    for (direction, copies) in [
        (Direction::In, vec![&call]),
        (Direction::Out, vec![&answer]),
        (Direction::Both, vec![&call, &answer]),
    ] {
        let span = MirrorConf { direction, ..mirror(&lab, &[a], to) };
        let mirrors = [span];
        let set = set(&mut lab, mirrors);
        lab.send(a, call.clone());
        lab.send(b, answer.clone());
        let mut expected = vec![(b, &call[..]), (c, &call[..]), (a, &answer[..])];
        expected.extend(copies.iter().map(|frame| (to, &frame[..])));
        lab.expect(&expected);
        assert_eq!(copied(&set[0]), (copies.len() as u64, 0));
    }
    // What comes in there goes nowhere.
    lab.dropped(to, small(BROADCAST, mac(9)), to, DropReason::PortUnbound);
    let mirrors = [];
    set(&mut lab, mirrors);
    lab.send(a, call.clone());
    lab.expect(&[(b, &call), (c, &call)]);
}

/// A bridge is all of its ports, also those that come later; each flooded frame is copied once as it
/// comes in, and once for each port that it leaves by. Tunnels are part of it.
pub(crate) fn whole_bridges() {
    const REMOTE: &str = "192.0.2.2";
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let other = lab.bridge(1);
    let (x, y) = (lab.port(other), lab.port(other));
    let to = probe(&mut lab);
    let vtep = lab.vtep("192.0.2.1");
    lab.tunnel(vtep, br, &spec(vxlan(10), &[REMOTE]));
    let of_bridge = |lab: &Lab, direction| MirrorConf {
        bridges: vec![BridgeId::new(0)],
        direction,
        ..mirror(lab, &[], to)
    };
    let mirrors = [of_bridge(&lab, Direction::In)];
    set(&mut lab, mirrors);
    let c = lab.port(br);
    let frame = small(BROADCAST, mac(1));
    lab.send(a, frame.clone());
    lab.send(x, frame.clone());
    assert_eq!(lab.received(vtep).len(), 1);
    lab.expect(&[(b, &frame), (c, &frame), (y, &frame), (to, &frame)]);
    // What comes out of a tunnel is copied without the tunnel's headers.
    let inner = small(BROADCAST, mac(7));
    let outer = |inner: &[u8]| {
        Outer::new(REMOTE, "192.0.2.1").udp((50_000, 4789), Sum::None, &underlay::vxlan(10, inner))
    };
    lab.send(vtep, outer(&inner));
    lab.expect(&[(a, &inner), (b, &inner), (c, &inner), (to, &inner)]);
    // Also beside packets that are refused.
    lab.inject(vtep, outer(&inner[..10]));
    lab.inject(vtep, outer(&inner));
    lab.run();
    lab.expect(&[(a, &inner), (b, &inner), (c, &inner), (to, &inner)]);
    let mirrors = [of_bridge(&lab, Direction::Out)];
    set(&mut lab, mirrors);
    lab.send(a, frame.clone());
    assert_eq!(lab.received(vtep).len(), 1);
    lab.expect(&[(b, &frame), (c, &frame), (to, &frame), (to, &frame)]);
}

/// As received on the way in, as sent on the way out; VLANs and filters go by either.
pub(crate) fn tags_vlans_and_filters() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let access = lab.vlan_port(br, PortVlans::access(10));
    let trunk = lab.vlan_port(br, PortVlans::trunk([10, 20], None));
    let to = probe(&mut lab);
    let mirrors = [mirror(&lab, &[access, trunk], to)];
    set(&mut lab, mirrors);
    let frame = small(BROADCAST, mac(1));
    let with_tag = tagged(&frame, 0x8100, 10);
    lab.send(access, frame.clone());
    lab.expect(&[(trunk, &with_tag), (to, &frame), (to, &with_tag)]);
    // What a port refuses came in all the same.
    let foreign = tagged(&frame, 0x8100, 30);
    lab.send(trunk, foreign.clone());
    lab.expect(&[(to, &foreign)]);
    assert_eq!(lab.all_drops(), 1);

    let vlans = Some(VlanSet::some([10]));
    let mirrors =
        [MirrorConf { vlans, direction: Direction::In, ..mirror(&lab, &[access, trunk], to) }];
    set(&mut lab, mirrors);
    lab.send(access, frame.clone());
    lab.send(trunk, tagged(&frame, 0x8100, 20));
    lab.send(trunk, with_tag.clone());
    lab.expect(&[(trunk, &with_tag), (to, &frame), (to, &with_tag), (access, &frame)]);

    let filter = "vlan 20".parse().unwrap();
    let mirrors = [MirrorConf { filter, ..mirror(&lab, &[trunk], to) }];
    set(&mut lab, mirrors);
    let twenty = tagged(&frame, 0x8100, 20);
    lab.send(trunk, twenty.clone());
    lab.send(trunk, with_tag.clone());
    lab.expect(&[(access, &frame), (to, &twenty)]);
    let udp = udp4(BROADCAST, mac(1), b"data");
    let filter = "udp port 7".parse().unwrap();
    let mirrors = [MirrorConf { filter, ..mirror(&lab, &[access], to) }];
    set(&mut lab, mirrors);
    lab.send(access, finished(&udp));
    lab.send(access, frame.clone());
    lab.expect(&[
        (trunk, &tagged(&finished(&udp), 0x8100, 10)),
        (trunk, &with_tag),
        (to, &finished(&udp)),
    ]);
}

/// Every third frame, of which 64 bytes.
pub(crate) fn samples_and_snaps() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, _b) = (lab.port(br), lab.port(br));
    let to = probe(&mut lab);
    let span = MirrorConf { one_in: 3, snap: Some(64), ..mirror(&lab, &[a], to) };
    let mirrors = [span];
    set(&mut lab, mirrors);
    for n in 0..9u32 {
        lab.send(a, tcp4(BROADCAST, mac(1), &pattern(n, 300)));
    }
    let copies = lab.received(to);
    assert_eq!(copies.len(), 3);
    for (n, copy) in copies.iter().enumerate() {
        let whole = tcp4(BROADCAST, mac(1), &pattern(3 * n as u32, 300));
        assert_eq!(*copy, Packet::from(whole.bytes[..64].to_vec()), "a finished piece");
    }
}

/// Super-frames go as they are to a port that takes them, and cut to others.
pub(crate) fn super_frames_are_cut_where_they_must_be() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let able = |s: &mut crate::lab::PortSetup| (s.conf.bridge, s.conf.caps) = (Some(br), Caps::ALL);
    let (a, b) = (lab.port_with(able), lab.port_with(able));
    let to = probe(&mut lab);
    let plain = lab.port_with(|_| {});
    let whole = gso(tcp4(BROADCAST, mac(1), &pattern(1, 3000)), GsoKind::TcpV4, 1000);
    let mirrors = [
        mirror(&lab, &[a], to),
        MirrorConf { to: MirrorTo::Port(lab.id(plain)), ..mirror(&lab, &[a], to) },
    ];
    set(&mut lab, mirrors);
    lab.send(a, whole.clone());
    assert_eq!(lab.received(b), std::slice::from_ref(&whole));
    assert_eq!(lab.received(to), std::slice::from_ref(&whole));
    assert_eq!(lab.received(plain).len(), 3);
    // A probe that wants to see what a wire would.
    lab.change(to, |conf| conf.gro = false);
    lab.send(a, whole.clone());
    assert_eq!(lab.received(b), [whole]);
    assert_eq!((lab.received(to).len(), lab.received(plain).len()), (3, 3));
    // What does not fit there is lost there, and nowhere else.
    lab.change(plain, |conf| conf.mtu = 500);
    lab.send(a, tcp4(BROADCAST, mac(1), &pattern(1, 1000)));
    assert_eq!((lab.received(b).len(), lab.received(to).len()), (1, 1));
    assert_eq!(lab.received(plain).len(), 0);
    assert_eq!(lab.drops(plain, DropReason::MtuExceeded), 1);
    assert_eq!(lab.all_drops(), 1);
}

/// To a remote: each copy in a packet of the tunnel, whole, with its tag, also what is cut for it.
pub(crate) fn copies_through_a_tunnel() {
    const REMOTES: [&str; 2] = ["192.0.2.8", "192.0.2.9"];
    let mut lab = Lab::new();
    let (br, span) = (lab.bridge(0), lab.bridge(1));
    let able = |s: &mut crate::lab::PortSetup| (s.conf.bridge, s.conf.caps) = (Some(br), Caps::ALL);
    let (a, b) = (lab.port_with(able), lab.port_with(able));
    let vtep = lab.vtep("192.0.2.1");
    lab.tunnel(vtep, span, &spec(vxlan(77), &REMOTES));
    let to = MirrorTo::Tunnel(TunnelId::new(0).unwrap());
    let of_a = MirrorConf { to, direction: Direction::In, ..mirror(&lab, &[a], b) };
    let set = set(&mut lab, [of_a]);
    let frame = tagged(&small(BROADCAST, mac(1)), 0x8100, 30);
    lab.send(a, frame.clone());
    lab.inject(a, gso(tcp4(BROADCAST, mac(1), &pattern(1, 2500)), GsoKind::TcpV4, 1000));
    lab.run();
    assert_eq!(lab.received(b).len(), 2);
    let sent = lab.received(vtep);
    let packets: Vec<_> = sent.iter().map(|packet| underlay::decode(&packet.bytes)).collect();
    assert_eq!(packets.len(), 2 * (1 + 3));
    for remote in REMOTES {
        let to_it: Vec<_> = packets.iter().filter(|(o, ..)| o.dst.to_string() == remote).collect();
        assert_eq!(to_it.len(), 4);
        let (_, _, payload) = to_it[0];
        assert_eq!(payload[payload.len() - frame.len()..], frame);
    }
    assert_eq!(copied(&set[0]), (2, 0));
    // What a remote sends there goes nowhere.
    let inner = small(BROADCAST, mac(7));
    let back = Outer::new(REMOTES[0], "192.0.2.1");
    lab.send(vtep, back.udp((50_000, 4789), Sum::None, &underlay::vxlan(77, &inner)));
    lab.expect(&[]);
}

/// ERSPAN: each copy numbered, with session and index, and what its header says of the frame.
pub(crate) fn copies_in_erspan() {
    const REMOTES: [&str; 2] = ["192.0.2.8", "192.0.2.9"];
    let mut lab = Lab::new();
    let (br, span) = (lab.bridge(0), lab.bridge(1));
    let access = lab.port_with(|setup| {
        (setup.conf.bridge, setup.conf.caps) = (Some(br), Caps::ALL);
        setup.conf.vlans = PortVlans::access(10);
    });
    let trunk = lab.vlan_port(br, PortVlans::trunk([10, 20], None));
    let vtep = lab.vtep("192.0.2.1");
    lab.tunnel(vtep, span, &spec(erspan(0x2a5), &REMOTES));
    let to = MirrorTo::Tunnel(TunnelId::new(0).unwrap());
    let of_both = |lab: &Lab, snap| {
        let direction = Direction::In;
        MirrorConf { to, direction, snap, ..mirror(lab, &[access, trunk], access) }
    };
    let mirrors = [of_both(&lab, None)];
    let whole = set(&mut lab, mirrors);
    let frame = small(BROADCAST, mac(1));
    // VLAN 20, priority 5, drop-eligible.
    let urgent = tagged(&frame, 0x8100, 5 << 13 | 1 << 12 | 20);
    let service = tagged(&frame, 0x88a8, 30);
    let priority = tagged(&frame, 0x8100, 3 << 13);
    lab.send(access, frame.clone());
    for tagged in [&urgent, &service, &priority] {
        lab.send(trunk, tagged.clone());
    }
    lab.inject(access, gso(tcp4(BROADCAST, mac(1), &pattern(1, 2500)), GsoKind::TcpV4, 1000));
    lab.run();
    assert_eq!(copied(&whole[0]), (5, 0));
    let mirrors = [of_both(&lab, Some(64))];
    set(&mut lab, mirrors);
    let big = tcp4(BROADCAST, mac(1), &pattern(2, 300));
    lab.send(access, big.clone());

    let sent = lab.received(vtep);
    let packets: Vec<_> = sent.iter().map(|packet| underlay::decode(&packet.bytes)).collect();
    for remote in REMOTES {
        let to_it = packets.iter().filter(|(outer, ..)| outer.dst.to_string() == remote);
        let payloads: Vec<_> = to_it.map(|(_, _, payload)| payload).collect();
        // Each remote has numbers of its own, without a gap; each segment is a frame.
        for (n, payload) in payloads.iter().enumerate() {
            let gre = [&[0x10, 0, 0x88, 0xbe][..], &(n as u32).to_be_bytes()].concat();
            assert_eq!(payload[..8], gre);
            assert_eq!(payload[12..16], [0, 0xa, 0xbc, 0xde]);
        }
        let said = |n: usize| (payloads[n][8..12].to_vec(), payloads[n][16..].to_vec());
        assert_eq!(said(0), (vec![0x10, 10, 0x02, 0xa5], frame.clone()), "the port's VLAN");
        assert_eq!(said(1), (vec![0x10, 20, 0xba, 0xa5], urgent.clone()), "VLAN and priority");
        assert_eq!(said(2), (vec![0x10, 30, 0x1a, 0xa5], service.clone()));
        assert_eq!(said(3), (vec![0x10, 0, 0x7a, 0xa5], priority.clone()), "in no VLAN");
        for segment in &payloads[4..7] {
            assert_eq!(segment[8..12], [0x10, 10, 0x02, 0xa5]);
        }
        assert_eq!(said(7), (vec![0x10, 10, 0x06, 0xa5], big.bytes[..64].to_vec()), "truncated");
        assert_eq!(payloads.len(), 8);
    }
    // Nothing but the copy is lost where it does not fit.
    let mirrors = [of_both(&lab, None)];
    set(&mut lab, mirrors);
    lab.send(access, tcp4(BROADCAST, mac(1), &pattern(3, 1420)));
    assert_eq!(lab.received(vtep).len(), 0);
    assert_eq!(lab.drops(vtep, DropReason::TunnelMtu), 2);
}

/// A port for copies that is slow, down or away costs copies, which are counted, and nothing else.
pub(crate) fn what_is_mirrored_is_unharmed() {
    let pool = PoolConfig { heads: 256, tails: 16, max_heads: 256 };
    let mut lab = Lab::with(LabConfig { pool, workers: 2, ..LabConfig::default() });
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let to = lab.port_with(|setup| setup.device.tx_capacity = 4);
    let mirrors = [mirror(&lab, &[a, b], to)];
    let set = set(&mut lab, mirrors);
    for _ in 0..20 {
        lab.inject(a, small(BROADCAST, mac(1)));
    }
    lab.run();
    assert_eq!(lab.received(b).len(), 20);
    assert_eq!(lab.received(to).len(), 4);
    let lost = lab.totals(to).dropped_on(switch_core::drop::Side::Out);
    assert_eq!((copied(&set[0]), lost), ((40, 0), 36));
    lab.change(to, |conf| conf.up = false);
    lab.send(a, small(BROADCAST, mac(1)));
    lab.close(to);
    lab.send(a, small(BROADCAST, mac(1)));
    assert_eq!(lab.received(b).len(), 2);
    assert_eq!((copied(&set[0]), lab.totals(a).dropped()), ((40, 0), 0));
}

/// Without buffers for copies, the frames themselves get through.
pub(crate) fn copies_that_cannot_be_made() {
    let pool = PoolConfig { heads: 8, tails: 4, max_heads: 8 };
    let mut lab = Lab::with(LabConfig { pool, ..LabConfig::default() });
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let to = probe(&mut lab);
    lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
    let mirrors = [MirrorConf { direction: Direction::In, ..mirror(&lab, &[a], to) }];
    let set = set(&mut lab, mirrors);
    for _ in 0..8 {
        lab.inject(a, small(mac(2), mac(1)));
    }
    lab.run();
    assert_eq!(lab.received(b).len(), 8, "no frame was lost for want of copies");
    let (made, failed) = copied(&set[0]);
    assert_eq!((made + failed, lab.received(to).len() as u64), (8, made));
    assert!(failed > 0, "the pool was dry");
    assert_eq!(lab.all_drops(), 0);
}

/// Whatever is sent, ports get what they get without a mirror, and the mirror has each frame that came
/// in and each that left.
pub(crate) fn random_traffic_is_copied_and_unchanged() {
    let frames =
        prop::collection::vec((0..3usize, 0..5u32, 0..5u32, prop::option::of(1..4u16)), 1..60);
    let run = |frames: &[(usize, u32, u32, Option<u16>)], mirrored: bool| {
        let mut lab = Lab::new();
        let br = lab.bridge(0);
        let ports = [
            lab.port(br),
            lab.vlan_port(br, PortVlans::access(1)),
            lab.vlan_port(br, PortVlans::trunk([1, 2], Some(3))),
        ];
        let to = probe(&mut lab);
        if mirrored {
            let mirrors = [mirror(&lab, &ports, to)];
            set(&mut lab, mirrors);
        }
        for (port, src, dst, tag) in frames {
            let frame = small(if *dst == 0 { BROADCAST } else { mac(*dst) }, mac(*src + 1));
            let frame = tag.map_or(frame.clone(), |vid| tagged(&frame, 0x8100, vid));
            lab.inject(ports[*port], frame);
        }
        lab.run();
        let sorted = |packets: Vec<Packet>| {
            let mut bytes: Vec<_> = packets.into_iter().map(|packet| packet.bytes).collect();
            bytes.sort();
            bytes
        };
        let out = ports.map(|port| sorted(lab.received(port)));
        (out, sorted(lab.received(to)))
    };
    let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
    let checked = runner.run(&frames, |frames| {
        let (plain, none) = run(&frames, false);
        let (out, copies) = run(&frames, true);
        prop_assert_eq!(&plain, &out);
        prop_assert!(none.is_empty());
        let came = frames.iter().map(|(_, src, dst, tag)| {
            let frame = small(if *dst == 0 { BROADCAST } else { mac(*dst) }, mac(*src + 1));
            tag.map_or(frame.clone(), |vid| tagged(&frame, 0x8100, vid))
        });
        let mut expected: Vec<_> = came.chain(out.into_iter().flatten()).collect();
        expected.sort();
        prop_assert_eq!(copies, expected);
        Ok(())
    });
    checked.unwrap();
}
