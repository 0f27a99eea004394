//! The comparisons and their goals.

use super::frames::Tunnel;
use super::run::Lesson;
use super::scene::{Hostile, Scene, Way};
use super::side::Side;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The rate at rest.
    Steady(Scene),
    /// The rate from the first frame on, with so many pairs of stations.
    Cold(u32),
    /// The rate of two ports beside a hostile one, relative to that without it.
    Hostile(Hostile),
}

/// A goal: our rate at least so many times another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Whose.
    pub versus: Side,
    /// How many times.
    pub factor: f64,
    /// A goal, or what is aimed at beyond it.
    pub aim: bool,
}

const fn goal(versus: Side, factor: f64) -> Goal {
    Goal { versus, factor, aim: false }
}

const fn aim(versus: Side, factor: f64) -> Goal {
    Goal { versus, factor, aim: true }
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its name for `--only`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What is measured.
    pub work: Work,
    /// Whom we are compared with.
    pub peers: &'static [Side],
    /// What is to be reached.
    pub goals: &'static [Goal],
    /// How Open vSwitch is taught: at once and at full load it does not get there.
    pub lesson: Option<Lesson>,
    /// Published figures of VPP 24.02 by the same method on the same kind of machine, Mpps.
    pub vpp: Option<f64>,
}

use Side::{Ovs, TestpmdMac, TestpmdMacswap};

const L2: &[Side] = &[TestpmdMac, TestpmdMacswap, Ovs];

const fn l2(name: &'static str, title: &'static str, pairs: u32) -> Row {
    let work = Work::Steady(Scene::Bridge { pairs });
    Row { name, title, work, peers: L2, goals: &[], lesson: None, vpp: None }
}

const fn overlay(name: &'static str, title: &'static str, tunnel: Tunnel, way: Way) -> Row {
    let work = Work::Steady(Scene::Overlay { tunnel, way, flows: 1_000 });
    Row { name, title, work, peers: &[Ovs], goals: &[], lesson: None, vpp: None }
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        goals: &[goal(Ovs, 2.0), aim(TestpmdMac, 0.5)],
        vpp: Some(37.1),
        ..l2("l2-1", "L2 learning, 1 MAC pair", 1)
    },
    Row {
        goals: &[goal(Ovs, 3.5), aim(TestpmdMac, 0.5)],
        vpp: Some(29.7),
        ..l2("l2-1000", "L2 learning, 1,000 MAC pairs", 1_000)
    },
    Row {
        goals: &[goal(Ovs, 9.5), aim(TestpmdMac, 0.35)],
        lesson: Some(Lesson { rate: 50_000, secs: 20 }),
        vpp: Some(7.3),
        ..l2("l2-50000", "L2 learning, 50,000 MAC pairs", 50_000)
    },
    Row {
        goals: &[goal(TestpmdMac, 0.22)],
        lesson: Some(Lesson { rate: 60_000, secs: 50 }),
        vpp: Some(6.0),
        ..l2("l2-500000", "L2 learning, 500,000 MAC pairs", 500_000)
    },
    Row {
        name: "cold-50000",
        title: "50,000 MAC pairs from a cold start at full load",
        work: Work::Cold(50_000),
        peers: &[Ovs],
        goals: &[],
        lesson: None,
        vpp: None,
    },
    Row {
        goals: &[goal(Ovs, 2.0)],
        vpp: Some(34.5),
        ..overlay("vxlan-encap", "VXLAN encap, 64 B, 1,000 flows", Tunnel::Vxlan, Way::Encap)
    },
    Row {
        goals: &[goal(Ovs, 2.0)],
        vpp: Some(36.0),
        ..overlay("geneve-encap", "GENEVE encap, 64 B, 1,000 flows", Tunnel::Geneve, Way::Encap)
    },
    Row {
        goals: &[goal(Ovs, 3.5)],
        vpp: Some(23.8),
        ..overlay("vxlan-decap", "VXLAN decap, 64 B, 1,000 flows", Tunnel::Vxlan, Way::Decap)
    },
    Row {
        goals: &[goal(Ovs, 3.5)],
        vpp: Some(22.7),
        ..overlay("geneve-decap", "GENEVE decap, 64 B, 1,000 flows", Tunnel::Geneve, Way::Decap)
    },
    Row {
        goals: &[goal(Ovs, 3.0)],
        vpp: Some(17.2),
        ..overlay("vxlan-both", "VXLAN both ways, learning, 1,000 flows", Tunnel::Vxlan, Way::Both)
    },
    hostile("hostile-addresses", "random addresses on a third port", Hostile::Addresses),
    hostile("hostile-headers", "random headers on a third port", Hostile::Headers),
];

const fn hostile(name: &'static str, title: &'static str, what: Hostile) -> Row {
    let work = Work::Hostile(what);
    Row { name, title, work, peers: &[Ovs], goals: &[], lesson: None, vpp: None }
}

/// Least part of its steady rate that a switch is to reach within [`COLD_SECS`] of a cold start.
pub const COLD_SHARE: f64 = 0.9;
/// Seconds.
pub const COLD_SECS: f64 = 1.0;
/// Frames a second of the hostile port: as many of 64 bytes as a gigabit link carries.
pub const HOSTILE_RATE: u64 = 1_488_095;
/// Least part of their rate that is to be left to the other ports.
pub const HOSTILE_SHARE: f64 = 0.9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_about_peers_that_are_measured() {
        for row in ROWS {
            assert!(row.goals.iter().all(|goal| row.peers.contains(&goal.versus)), "{}", row.name);
        }
    }
}
