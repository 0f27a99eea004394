//! What the RFCs demand of tunnels, line by line: each line of the checklists has a vector of
//! something that must work and one of something that must not, both sent through a worker. What is
//! expected comes from hand-written bytes and from etherparse, never from the code under test.
//!
//! `cargo test -p switch-core --test overlay -- --nocapture every_line` prints the table.

mod ecn;
mod geneve;
mod gre;
#[path = "../lab/mod.rs"]
mod lab;
mod nvgre;
mod outer;
mod pmtu;
mod random;
mod site;
mod vxlan;
mod ways;

use std::panic::{AssertUnwindSafe, catch_unwind};

use lab::watched::watched;

/// How strongly something is demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Must,
    Should,
    May,
}

/// Who sees to it where the underlay is the kernel's. Here it is always the core: lines that the
/// kernel decides there are run on packets as the core would get them without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Core,
    Kernel,
    Config,
}

/// A line of a checklist.
struct Check {
    /// RFC, section and number of the line.
    id: &'static str,
    rfc: &'static str,
    level: Level,
    by: By,
    says: &'static str,
    positive: fn(),
    negative: fn(),
    /// Why it is done in another way or not at all.
    note: &'static str,
}

impl Check {
    #[allow(clippy::too_many_arguments, reason = "the columns of a table")]
    const fn new(
        id: &'static str,
        rfc: &'static str,
        level: Level,
        by: By,
        says: &'static str,
        positive: fn(),
        negative: fn(),
    ) -> Self {
        Self { id, rfc, level, by, says, positive, negative, note: "" }
    }

    const fn note(self, note: &'static str) -> Self {
        Self { note, ..self }
    }
}

const CHECKLISTS: [&[Check]; 7] = [
    vxlan::CHECKS,
    geneve::CHECKS,
    gre::CHECKS,
    nvgre::CHECKS,
    ecn::CHECKS,
    outer::CHECKS,
    pmtu::CHECKS,
];

#[test]
fn every_line_of_the_checklists_holds() {
    let mut failed = Vec::new();
    println!("{:<16} {:<6} {:<6} {:<4}  says", "id", "level", "by", "");
    for check in CHECKLISTS.into_iter().flatten() {
        let holds = |vector: fn(), which: &str| {
            let result = catch_unwind(AssertUnwindSafe(|| {
                vector();
                watched(vector);
            }));
            result.is_err().then(|| format!("{} ({which})", check.id))
        };
        let wrong = [holds(check.positive, "positive"), holds(check.negative, "negative")];
        let pass = if wrong.iter().any(Option::is_some) { "FAIL" } else { "pass" };
        let (level, by) = (format!("{:?}", check.level), format!("{:?}", check.by));
        println!("{:<16} {level:<6} {by:<6} {pass}  {}: {}", check.id, check.rfc, check.says);
        if !check.note.is_empty() {
            println!("{:36}  note: {}", "", check.note);
        }
        failed.extend(wrong.into_iter().flatten());
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn every_line_has_its_own_id_and_no_should_is_left_without_reason() {
    let mut ids = std::collections::BTreeSet::new();
    for check in CHECKLISTS.into_iter().flatten() {
        assert!(ids.insert(check.id), "{} is there twice", check.id);
        assert!(!check.says.starts_with("not:") || !check.note.is_empty(), "{}", check.id);
        // What is not done may be a SHOULD with a reason, or a MAY; never a MUST.
        assert!(!check.says.starts_with("not:") || check.level != Level::Must, "{}", check.id);
    }
    // As many as the checklists have numbered lines, at least.
    assert!(ids.len() >= 13 + 11 + 9 + 4 + 7 + 6, "only {} lines", ids.len());
}
