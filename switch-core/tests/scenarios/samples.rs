//! Samplers: how many frames they take, whose, and what is noted of each.

use std::sync::Arc;

use switch_core::config::PortVlans;
use switch_core::testing::frames::mac;
use switch_core::watch::{Fate, Sampled, Sampler, Watch, WatchSpec};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, small};

fn sampler(one_in: u32, of: Option<Sampled>) -> Arc<Sampler> {
    let spec = WatchSpec { snap: 128, records_per_sec: u32::MAX, ..WatchSpec::default() };
    Arc::new(Sampler { watch: Watch::new(spec), one_in, of })
}

fn set(lab: &Lab, samplers: Vec<Arc<Sampler>>) {
    let mut next = lab.switch.snapshot().next();
    next.set_samplers(samplers);
    lab.switch.publish(next);
}

/// Frames are taken at random, on average as often as asked, on the ports that are asked for, and by
/// each sampler for itself; all of them go their way.
pub(crate) fn one_in_so_many_of_what_is_asked_for() {
    let mut lab = Lab::new();
    let (br, other) = (lab.bridge(0), lab.bridge(1));
    let (a, b) = (lab.port(br), lab.port(br));
    let (x, y) = (lab.port(other), lab.port(other));
    for (from, to) in [(b, a), (y, x)] {
        lab.passes(from, &small(MacAddr::BROADCAST, mac(2)), &[to]);
    }
    let ports = vec![lab.id(x)];
    let samplers =
        vec![sampler(10, None), sampler(4, Some(Sampled { ports, bridges: Vec::new() }))];
    set(&lab, samplers.clone());
    let mut taken = [0, 0];
    let rounds = 400;
    for _ in 0..rounds {
        for port in [a, x] {
            for _ in 0..20 {
                lab.inject(port, small(mac(2), mac(1)));
            }
        }
        lab.turn(0);
        for (sampler, taken) in samplers.iter().zip(&mut taken) {
            while let Some(record) = sampler.watch.take() {
                *taken += 1;
                assert!(sampler.of.is_none() || record.in_port() == lab.id(x));
                sampler.watch.give_back(record);
            }
        }
        assert_eq!((lab.received(b).len(), lab.received(y).len()), (20, 20));
    }
    let frames = 20 * rounds;
    let near = |taken: usize, wanted: usize| taken.abs_diff(wanted) <= wanted / 8;
    assert!(near(taken[0], 2 * frames / 10), "{taken:?}");
    assert!(near(taken[1], frames / 4), "{taken:?}");
    assert!(samplers.iter().all(|sampler| sampler.watch.missed() == 0));
}

/// A sample tells of VLAN, length and where the frame went; a reader that does not read misses some.
pub(crate) fn each_sample_is_a_record() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let access = lab.vlan_port(br, PortVlans::access(10));
    let trunk = lab.vlan_port(br, PortVlans::trunk([10], None));
    let every = sampler(1, None);
    set(&lab, vec![Arc::clone(&every)]);
    let frame = small(MacAddr::BROADCAST, mac(1));
    lab.send(access, frame.clone());
    let record = every.watch.take().expect("a sample");
    assert_eq!(record.bytes(record.frame().unwrap()), frame);
    assert_eq!(record.station().unwrap().src.domain().vid(), 10);
    let [end] = record.ends() else { panic!("{record:?}") };
    assert_eq!((end.port, end.fate), (lab.id(trunk), Fate::Sent));
    assert_eq!(end.sent.unwrap().len as usize, frame.len() + 4);
    every.watch.give_back(record);
    for _ in 0..3000 {
        lab.send(access, frame.clone());
    }
    assert_eq!(lab.totals(trunk).tx_frames, 3001);
    assert!(every.watch.missed() > 0, "nobody read them");
}
