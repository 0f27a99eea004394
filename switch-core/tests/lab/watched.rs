//! The same scenarios with somebody watching: every frame is looked at, and what is noted has to be what
//! happened. [`watched`] does so for the scenarios it is given, `VSWITCH_TEST_WATCHED` for all tests.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switch_core::DropReason;
use switch_core::drop::Side;
use switch_core::stats::PortTotals;
use switch_core::switch::Switch;
use switch_core::watch::{Fate, SNAP_MAX, Watch, WatchSpec};

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a scenario with somebody who watches all that it does.
pub(crate) fn watched(scenario: impl FnOnce()) {
    let before = WATCHED.replace(true);
    scenario();
    WATCHED.set(before);
}

/// A watch on everything, and what it saw.
pub(crate) struct Onlooker {
    watch: Arc<Watch>,
    drops: BTreeMap<(usize, DropReason), u64>,
    sent: u64,
    handed_over: u64,
    more: u64,
}

impl Onlooker {
    /// Begins to look, if that is asked for.
    pub(crate) fn begin(switch: &Switch) -> Option<Self> {
        let is_watched = WATCHED.get() || std::env::var_os("VSWITCH_TEST_WATCHED").is_some();
        if !is_watched {
            return None;
        }
        let spec = WatchSpec {
            snap: SNAP_MAX,
            records_per_sec: u32::MAX,
            looks_per_sec: u32::MAX,
            ..WatchSpec::default()
        };
        let watch = Watch::new(spec);
        let mut next = switch.snapshot().next();
        assert!(next.watches_mut().add(Arc::clone(&watch)));
        switch.publish(next);
        Some(Self { watch, drops: BTreeMap::new(), sent: 0, handed_over: 0, more: 0 })
    }

    /// Looks at what a worker noted in a turn.
    pub(crate) fn look(&mut self) {
        while let Some(record) = self.watch.take() {
            for end in record.ends() {
                match end.fate {
                    Fate::Sent => self.sent += 1,
                    Fate::HandedOver => self.handed_over += 1,
                    Fate::Dropped(reason) => {
                        *self.drops.entry((end.port.index(), reason)).or_default() += 1;
                    }
                }
            }
            self.more += u64::from(record.more());
            self.watch.give_back(record);
        }
    }

    /// What was noted is what was counted, but for what left by `unseen` ports.
    pub(crate) fn compare(&self, counted: &[PortTotals], unseen: &BTreeSet<usize>) {
        if self.watch.missed() > 0 || self.more > 0 {
            return;
        }
        for (port, totals) in counted.iter().enumerate() {
            for reason in DropReason::ALL {
                let noted = self.drops.contains_key(&(port, reason));
                // What another worker was left with is sent, or not, out of sight.
                let later = self.handed_over > 0 && !noted;
                let later = later || unseen.contains(&port) && reason.side() == Side::Out;
                let dropped = totals.dropped_for(reason) > 0;
                assert!(noted == dropped || later, "{reason} on port {port}: noted {noted}");
            }
        }
        let seen = counted.iter().enumerate().filter(|(port, _)| !unseen.contains(port));
        let sent: u64 = seen.map(|(_, totals)| totals.tx_frames).sum();
        if self.handed_over == 0 {
            assert_eq!(self.sent, sent, "frames noted as sent, and sent");
        }
    }
}
