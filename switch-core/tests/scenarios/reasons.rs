//! Every drop reason is caused by some scenario.

use switch_core::DropReason;

use crate::lab::take_caused;

#[test]
fn every_reason_is_caused() {
    take_caused();
    for (name, scenario) in crate::SCENARIOS {
        println!("{name}");
        scenario();
    }
    let caused = take_caused();
    for reason in DropReason::ALL {
        assert!(caused.contains(&reason), "no scenario causes {reason}");
    }
}
