//! Every drop reason is caused by some scenario, and each scenario is the same when it is watched.

use switch_core::DropReason;

use crate::lab::take_caused;
use crate::lab::watched::watched;

/// Of backends that build packets for the wire themselves: `datapath-dpdk/tests/uplink` causes
/// them.
const OF_UPLINKS: [DropReason; 3] =
    [DropReason::ExceptionFull, DropReason::NoRoute, DropReason::NeighbourUnresolved];

#[test]
fn every_reason_is_caused_and_seen() {
    take_caused();
    for (name, scenario) in crate::SCENARIOS {
        println!("{name}");
        // As a test of its own each runs unwatched.
        watched(scenario);
    }
    let caused = take_caused();
    for reason in DropReason::ALL.into_iter().filter(|reason| !OF_UPLINKS.contains(reason)) {
        assert!(caused.contains(&reason), "no scenario causes {reason}");
    }
}
