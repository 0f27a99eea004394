//! Wires that lose, double, reorder and damage frames: the books stay exact, and bridges apart.

use switch_core::config::PortVlans;
use switch_core::testing::frames::{ethernet, mac};
use switch_core::testing::lossy::{Harm, Lossy, Rng};
use switch_core::testing::pcap::{PcapReader, PcapWriter, replay};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, LabConfig, Port, small};

/// Bytes of payload that say which bridge a frame belongs to; most survive any damage.
const MARKS: usize = 64;

pub(crate) fn damaged_wires() {
    for seed in 0..8u64 {
        let harm = Harm { lose: 100, double: 100, swap: 100, flip: 200 };
        let mut lab = Lab::wrapped(LabConfig { workers: 2, ..LabConfig::default() }, |datapath| {
            Lossy::new(datapath, harm, seed)
        });
        let bridges = [lab.bridge(0), lab.bridge(1)];
        let ports: Vec<Port> = (0..8)
            .map(|n| {
                let vlans = match n / 2 % 3 {
                    0 => PortVlans::transparent(),
                    1 => PortVlans::access(10),
                    _ => PortVlans::trunk([10, 20], Some(1)),
                };
                lab.vlan_port(bridges[n % 2], vlans)
            })
            .collect();
        let mut rng = Rng(seed);
        for round in 0..100 {
            for _ in 0..40 {
                let n = rng.below(ports.len());
                let dst =
                    if rng.chance(300) { MacAddr::BROADCAST } else { mac(rng.below(20) as u32) };
                let payload = [n as u8 % 2 + 1; MARKS];
                let src = mac(rng.below(20) as u32);
                let frame = ethernet(dst, src, 0x88b5, &payload);
                lab.inject(ports[n], frame);
            }
            lab.run();
            for (n, port) in ports.iter().enumerate() {
                for packet in lab.received(*port) {
                    let tail = &packet.bytes[packet.bytes.len() - MARKS..];
                    let ours = tail.iter().filter(|b| **b == n as u8 % 2 + 1).count();
                    assert!(ours > MARKS / 2, "a frame of the other bridge, in round {round}");
                }
            }
            lab.advance_millis(100);
        }
        let harmed = lab.datapath(0).harmed;
        assert!(harmed.lost > 0 && harmed.doubled > 0 && harmed.swapped > 0 && harmed.flipped > 0);
    }
}

/// Wires that do no harm change nothing.
pub(crate) fn harmless_wires() {
    let mut lab = Lab::wrapped(LabConfig::default(), |d| Lossy::new(d, Harm::default(), 1));
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    for n in 0..100 {
        lab.passes(a, &small(MacAddr::BROADCAST, mac(n)), &[b]);
    }
}

/// What was captured at a far end and replayed comes out as it did at first.
pub(crate) fn replayed_captures() {
    let run = |frames: &mut dyn FnMut(&mut Lab, Port)| {
        let mut lab = Lab::new();
        let br = lab.bridge(0);
        let (a, b) = (lab.port(br), lab.port(br));
        lab.passes(b, &small(MacAddr::BROADCAST, mac(2)), &[a]);
        frames(&mut lab, a);
        lab.run();
        lab.received(b)
    };
    let mut capture = PcapWriter::new(Vec::new()).unwrap();
    let first = run(&mut |lab, a| {
        for n in 0..50 {
            let frame = small(mac(n % 4), mac(100 + n));
            capture.write(lab.now, &frame).unwrap();
            lab.inject(a, frame);
        }
    });
    let file = capture.finish().unwrap();
    let again = run(&mut |lab, a| {
        let mut reader = PcapReader::new(&file[..]).unwrap();
        assert_eq!(replay(&lab.wire(a), &mut reader, |_| {}).unwrap(), 50);
    });
    assert_eq!(first.len(), 50);
    assert_eq!(first, again);
}
