//! Two ports cabled together outside the switch: the loop guard ends it.

use switch_core::DropReason;
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;

use crate::lab::{Lab, Port, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

/// Runs rounds of a millisecond each, with housekeeping every tenth, and clears the far end of
/// `host`. Says how many frames it got.
fn run(lab: &mut Lab, host: Port, rounds: usize) -> usize {
    let mut got = 0;
    for n in 0..rounds {
        lab.round();
        if n % 10 == 9 {
            lab.advance_millis(10);
        }
        got += lab.received(host).len();
    }
    got
}

pub(crate) fn the_guard_ends_a_loop() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (host, a, b) = (lab.port(br), lab.port(br), lab.port(br));
    lab.cable(a, b);
    lab.inject(host, small(BROADCAST, mac(1)));
    run(&mut lab, host, 200);
    // The newer of the two is blocked, and only it.
    assert_eq!(lab.blocked.len(), 1, "{:?}", lab.blocked);
    let block = lab.blocked[0];
    assert_eq!((block.port, block.other), (lab.id(b), lab.id(a)));
    assert_eq!(block.key.mac(), mac(1));
    assert!(lab.drops(b, DropReason::LoopGuard) > 0);
    assert_eq!(run(&mut lab, host, 50), 0, "the loop has ended");
    // The rest of the bridge works, and nothing goes out of the blocked port.
    lab.inject(host, small(BROADCAST, mac(1)));
    run(&mut lab, host, 5);
    assert_eq!(lab.learned(br, 0, mac(1)), Some(host));
    let sent = lab.totals(b).tx_frames;
    lab.inject(host, small(BROADCAST, mac(1)));
    run(&mut lab, host, 5);
    assert_eq!(lab.totals(b).tx_frames, sent);
}

/// The block ends by itself after 30 s; if the loop is still there, it is found again.
pub(crate) fn a_block_ends() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (host, a, b) = (lab.port(br), lab.port(br), lab.port(br));
    lab.cable(a, b);
    lab.inject(host, small(BROADCAST, mac(1)));
    run(&mut lab, host, 200);
    assert_eq!(lab.blocked.len(), 1);
    let until = lab.blocked[0].until;
    assert_eq!((until - lab.now).as_secs(), 29, "30 s from when it was found");
    lab.advance(29);
    let before = lab.drops(b, DropReason::LoopGuard);
    lab.inject(b, small(BROADCAST, mac(2)));
    run(&mut lab, host, 5);
    assert_eq!(lab.drops(b, DropReason::LoopGuard), before + 1, "still blocked");
    lab.advance(2);
    lab.inject(host, small(BROADCAST, mac(1)));
    run(&mut lab, host, 200);
    assert_eq!(lab.blocked.len(), 2, "and blocked again");
    assert_eq!(lab.blocked[1].port, lab.id(b));
}

/// Unicast to a station behind a blocked port has nowhere to go.
pub(crate) fn blocked_destinations() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(b, &small(BROADCAST, mac(2)), &[a, c]);
    let until = lab.now + std::time::Duration::from_secs(30);
    lab.change(b, |conf| conf.state.block(until));
    lab.dropped(a, small(mac(2), mac(1)), a, DropReason::LoopGuard);
    lab.dropped(b, small(mac(1), mac(2)), b, DropReason::LoopGuard);
    lab.dropped(b, small(mac(1), mac(22)), b, DropReason::LoopGuard);
    assert_eq!(lab.learned(br, 0, mac(22)), None, "nothing is learned from a blocked port");
    lab.passes(a, &small(BROADCAST, mac(1)), &[c]);
    lab.advance(31);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
}

/// A station that moves five times in three seconds is a live migration gone to and fro.
pub(crate) fn few_moves_are_no_loop() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.send(a, small(BROADCAST, mac(1)));
    for _ in 0..10 {
        // Five moves, and the sixth in the next four seconds.
        for port in [b, a, b, a, b] {
            lab.send(port, small(BROADCAST, mac(1)));
        }
        lab.advance(4);
        for port in [a, b, a, b, a] {
            lab.send(port, small(BROADCAST, mac(1)));
        }
        lab.advance(4);
    }
    assert!(lab.blocked.is_empty(), "{:?}", lab.blocked);
    lab.received(a);
    lab.received(b);
}

pub(crate) fn a_port_without_guard_is_not_blocked() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.port(br);
    let b = lab.port_with(|s| (s.conf.bridge, s.conf.loop_guard) = (Some(br), false));
    for _ in 0..20 {
        for port in [a, b] {
            lab.send(port, small(BROADCAST, mac(1)));
            lab.housekeep();
        }
    }
    assert!(lab.blocked.is_empty());
    assert_eq!(lab.drops(b, DropReason::LoopGuard), 0);
    lab.received(a);
    lab.received(b);
}
