//! Buffers, rings and bursts: where room ends, frames end by name.

use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::frame::PoolConfig;
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, LabConfig, POISON, Port, frame, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

fn with_pool(max_heads: usize) -> LabConfig {
    LabConfig { pool: PoolConfig { heads: 4, tails: 2, max_heads }, ..LabConfig::default() }
}

/// Flooding without buffers: each copy that could not be made is counted, and no more.
pub(crate) fn copies_that_fail() {
    let mut lab = Lab::with(with_pool(3));
    let br = lab.bridge(0);
    let ports: Vec<Port> = (0..6).map(|_| lab.port(br)).collect();
    lab.send(ports[0], small(BROADCAST, mac(1)));
    let got: usize = ports.iter().map(|p| lab.received(*p).len()).sum();
    let totals = lab.totals(ports[0]);
    assert_eq!((totals.copied, totals.dropped_for(DropReason::CopyFailed)), (4, 2));
    assert_eq!(got, 3);
    // Afterwards everything is as before.
    lab.send(ports[1], small(mac(1), mac(2)));
    lab.expect(&[(ports[0], &small(mac(1), mac(2)))]);
}

pub(crate) fn no_room_for_a_tag() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let short = lab.port_with(|setup| {
        setup.conf.bridge = Some(br);
        setup.conf.vlans = PortVlans::access(10);
        setup.device.headroom = 3;
    });
    let trunk = lab.vlan_port(br, PortVlans::trunk([10], None));
    for len in [64, 1000] {
        lab.dropped(short, frame(BROADCAST, mac(1), len), trunk, DropReason::NoHeadroom);
    }
    let access = lab.vlan_port(br, PortVlans::access(10));
    lab.send(short, small(BROADCAST, mac(1)));
    lab.expect(&[(access, &small(BROADCAST, mac(1)))]);
}

/// A reader that stopped costs its own frames only.
pub(crate) fn a_full_queue() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.port(br);
    let stopped = lab.port_with(|s| {
        s.conf.bridge = Some(br);
        s.device.tx_capacity = 10;
    });
    let c = lab.port(br);
    lab.passes(stopped, &small(BROADCAST, mac(2)), &[a, c]);
    lab.passes(c, &small(BROADCAST, mac(3)), &[a, stopped]);
    for _ in 0..100 {
        lab.inject(a, small(mac(2), mac(1)));
        lab.inject(a, small(mac(3), mac(1)));
    }
    lab.run();
    assert_eq!(lab.received(c).len(), 100, "the others lose nothing");
    assert_eq!(lab.received(stopped).len(), 10);
    assert_eq!(lab.drops(stopped, DropReason::TxFull), 90);
    assert_eq!(lab.all_drops(), 90);
    lab.passes(a, &small(mac(2), mac(1)), &[stopped]);
}

/// Two workers, each port with one queue: frames change thread once and stay in order.
pub(crate) fn handover() {
    let mut lab = Lab::with(LabConfig { workers: 2, ..LabConfig::default() });
    let br = lab.bridge(0);
    let ports: Vec<Port> = (0..4).map(|_| lab.port(br)).collect();
    for (n, from) in ports.iter().enumerate() {
        let others: Vec<_> = ports.iter().copied().filter(|p| p != from).collect();
        lab.passes(*from, &small(BROADCAST, mac(n as u32)), &others);
    }
    // From two ports of different workers to one, interleaved: in order from each.
    for n in 0..200u32 {
        lab.inject(ports[0], frame(mac(2), mac(0), 64 + n as usize));
        lab.inject(ports[1], frame(mac(2), mac(1), 64 + n as usize));
    }
    lab.run();
    let got = lab.received(ports[2]);
    assert_eq!(got.len(), 400);
    for src in [0u32, 1] {
        let from = mac(src).octets();
        let lens: Vec<_> =
            got.iter().filter(|p| p.bytes[6..12] == from).map(|p| p.bytes.len()).collect();
        assert_eq!(lens, (64..264).collect::<Vec<_>>());
    }
    assert_eq!(lab.all_drops(), 0);
}

pub(crate) fn a_full_hand_over_ring() {
    let mut lab = Lab::with(LabConfig { workers: 2, ..LabConfig::default() });
    let br = lab.bridge(0);
    let a = lab.port(br);
    let b = lab.port_with(|setup| {
        setup.conf.bridge = Some(br);
        setup.device.ring = 16;
    });
    lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
    for _ in 0..40 {
        lab.inject(a, small(mac(2), mac(1)));
    }
    // Only the worker that receives runs.
    for _ in 0..3 {
        lab.turn(0);
    }
    assert_eq!(lab.drops(b, DropReason::HandoverFull), 24);
    lab.run();
    assert_eq!(lab.received(b).len(), 16);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
}

/// Every burst size gives the same result.
pub(crate) fn bursts() {
    for burst in [1, 2, 8, 31, 32, 33, 64, 1000] {
        let mut lab = Lab::new();
        lab.set_burst(burst);
        let br = lab.bridge(0);
        let (a, b) = (lab.port(br), lab.port(br));
        lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
        let frames: Vec<_> = (0..150usize).map(|n| frame(mac(2), mac(1), 60 + n)).collect();
        for frame in &frames {
            lab.inject(a, frame.clone());
        }
        lab.run();
        let expected: Vec<_> = frames.iter().map(|f| (b, &f[..])).collect();
        lab.expect(&expected);
    }
}

/// No byte comes out that did not go in, whatever the length and the tags.
pub(crate) fn poisoned_buffers() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let wide = |vlans: PortVlans| {
        move |setup: &mut crate::lab::PortSetup| {
            setup.conf.bridge = Some(br);
            setup.conf.vlans = vlans;
            setup.conf.mtu = 65_535;
        }
    };
    let trunk = lab.port_with(wide(PortVlans::trunk([10, 20], None)));
    let access = lab.port_with(wide(PortVlans::access(10)));
    let native = lab.port_with(wide(PortVlans::trunk([20], Some(10))));
    let lengths = (14..400).chain([1790, 1791, 1792, 1793, 2048, 2049, 9000, 30_000, 65_540]);
    for len in lengths {
        let plain = frame(BROADCAST, mac(1), len);
        assert!(!plain.contains(&POISON), "the test's frames are without poison");
        lab.send(access, plain.clone());
        lab.expect(&[(trunk, &tagged(&plain, 0x8100, 10)), (native, &plain)]);
        lab.send(trunk, tagged(&plain, 0x8100, 0x200a));
        lab.expect(&[(access, &plain), (native, &plain)]);
    }
}

/// Ports are opened and closed while frames pass between others: those lose nothing.
pub(crate) fn flapping_ports() {
    let mut lab = Lab::with(LabConfig { workers: 2, ..LabConfig::default() });
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
    for n in 0..100 {
        let flapping = lab.port(br);
        lab.send(flapping, small(BROADCAST, mac(100 + n)));
        assert_eq!((lab.received(a).len(), lab.received(b).len()), (1, 1));
        lab.inject(a, small(mac(2), mac(1)));
        lab.inject(a, small(mac(100 + n), mac(1)));
        lab.turn(0);
        lab.close(flapping);
        lab.run();
        let got = lab.received(b).into_iter().filter(|p| p.bytes == small(mac(2), mac(1))).count();
        assert_eq!(got, 1, "round {n}");
        lab.received(flapping);
    }
    assert_eq!(lab.totals(b).dropped(), 0);
    assert_eq!(lab.switch.fdb().len(), 2);
}
