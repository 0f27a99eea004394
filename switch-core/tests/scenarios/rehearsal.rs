//! What is said beforehand of a frame is what then happens to it, and saying it changes nothing.

use proptest::prelude::*;
use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::testing::frames::ethernet;
use switch_core::watch::{Fate, rehearse};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, Port};

/// A port: its VLANs, its MTU, whether it is isolated.
type Setup = (PortVlans, u32, bool);

fn vlans() -> impl Strategy<Value = PortVlans> {
    prop_oneof![
        Just(PortVlans::transparent()),
        (1..4u16).prop_map(PortVlans::access),
        (proptest::collection::vec(1..4u16, 0..3), proptest::option::of(1..4u16))
            .prop_map(|(vids, native)| PortVlans::trunk(vids, native)),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    (vlans(), prop_oneof![Just(1500), Just(300)], any::<bool>())
}

/// A frame: the port it comes in on, destination, source, tag, length of its payload.
fn frame() -> impl Strategy<Value = (usize, u8, u8, Option<u16>, usize)> {
    let tag = proptest::option::weighted(0.4, prop_oneof![0..5u16, Just(4095)]);
    (0..4usize, 0..7u8, 0..6u8, tag, prop_oneof![Just(50usize), Just(600), Just(1600)])
}

fn station(n: u8) -> MacAddr {
    match n {
        5 => MacAddr::ZERO,
        6 => MacAddr::BROADCAST,
        n => MacAddr::new([2, 0, 0, 0, 0, n]),
    }
}

fn bytes((_, dst, src, tag, len): (usize, u8, u8, Option<u16>, usize)) -> Vec<u8> {
    let payload = vec![src; len];
    let mut bytes = ethernet(station(dst), station(src), 0x88b5, &payload);
    if let Some(vid) = tag {
        let [hi, lo] = vid.to_be_bytes();
        bytes.splice(12..12, [0x81, 0, hi, lo]);
    }
    bytes
}

/// What came out: port and bytes, and what was dropped: port and reason.
type Outcome = (Vec<(usize, Vec<u8>)>, Vec<(usize, DropReason)>);

fn foretold(lab: &Lab, port: Port, frame: &[u8]) -> Outcome {
    let snapshot = lab.switch.snapshot();
    let record = rehearse(&snapshot, lab.switch.fdb(), lab.id(port), frame, lab.now).unwrap();
    let (mut sent, mut dropped) = (Vec::new(), Vec::new());
    for end in record.ends() {
        match (end.fate, end.sent) {
            (Fate::Dropped(reason), _) => dropped.push((end.port.index(), reason)),
            (_, Some(piece)) => sent.push((end.port.index(), record.bytes(piece).to_vec())),
            (_, None) => {}
        }
    }
    sent.sort();
    dropped.sort();
    (sent, dropped)
}

fn happened(lab: &mut Lab, ports: &[Port], from: Port, frame: &[u8]) -> Outcome {
    let count = |lab: &Lab| -> Vec<u64> {
        let each = |port: &Port| DropReason::ALL.map(|reason| lab.drops(*port, reason));
        ports.iter().flat_map(each).collect()
    };
    let before = count(lab);
    lab.send(from, frame.to_vec());
    let after = count(lab);
    let mut dropped = Vec::new();
    for (at, (before, after)) in before.into_iter().zip(after).enumerate() {
        let (port, reason) = (at / DropReason::COUNT, DropReason::ALL[at % DropReason::COUNT]);
        dropped.extend((before..after).map(|_| (lab.id(ports[port]).index(), reason)));
    }
    let mut sent = Vec::new();
    for port in ports {
        let out = lab.id(*port).index();
        sent.extend(lab.received(*port).into_iter().map(|packet| (out, packet.bytes)));
    }
    sent.sort();
    dropped.sort();
    (sent, dropped)
}

pub(crate) fn what_is_foretold_happens() {
    foretold_is_what_happens();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    fn foretold_is_what_happens(
        setups in proptest::collection::vec(setup(), 4),
        frames in proptest::collection::vec(frame(), 1..24),
    ) {
        let mut lab = Lab::new();
        let bridge = lab.bridge(0);
        let ports: Vec<Port> = setups
            .into_iter()
            .map(|(vlans, mtu, isolated)| lab.port_with(|port| {
                port.conf.bridge = Some(bridge);
                (port.conf.vlans, port.conf.mtu, port.conf.isolated) = (vlans, mtu, isolated);
            }))
            .collect();
        for asked in frames {
            let (from, frame) = (ports[asked.0], bytes(asked));
            let entries = |lab: &Lab| {
                let mut all = Vec::new();
                lab.switch.fdb().for_each(|entry| all.push(format!("{entry:?}")));
                all.sort();
                all
            };
            let (known, totals) = (entries(&lab), lab.totals(from));
            let told = foretold(&lab, from, &frame);
            prop_assert_eq!(entries(&lab), known, "asking changed the FDB");
            prop_assert_eq!(lab.totals(from), totals, "asking was counted");
            prop_assert_eq!(happened(&mut lab, &ports, from, &frame), told);
            lab.advance(1);
        }
    }
}
