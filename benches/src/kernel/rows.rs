//! The comparisons and their goals.

use super::side::Side;
use super::work::Work;

/// A goal of one figure of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Which figure, by its place in [`Work::metrics`].
    pub metric: usize,
    /// Whose figure ours is divided by: the best of these. None: the figure itself counts.
    pub versus: &'static [Side],
    /// What is to be reached: at least, or at most where less is better.
    pub value: f64,
}

const fn goal(metric: usize, value: f64, versus: &'static [Side]) -> Goal {
    Goal { metric, versus, value }
}

/// What counts as equal to a peer on kernel devices: their noise is that large.
const EQUAL: f64 = 0.85;

impl Goal {
    /// Whether `got` is enough. A goal of once a peer's figure is met within the noise of this way
    /// of measuring.
    pub fn met(&self, got: f64, less: bool) -> bool {
        let equal = if self.value == 1.0 && !self.versus.is_empty() { EQUAL } else { 1.0 };
        if less { got <= self.value / equal } else { got >= self.value * equal }
    }

    /// In words.
    pub fn words(&self, row: &Row) -> String {
        let metric = &row.work.metrics()[self.metric];
        let bound = if metric.less { "at most" } else { "at least" };
        let names: Vec<&str> = self.versus.iter().map(|side| side.name()).collect();
        match names.as_slice() {
            [] => format!("{} {bound} {} {}", metric.name, self.value, metric.unit),
            [one] => format!("{} {bound} {} x {one}", metric.name, self.value),
            all => format!("{} {bound} {} x best of {}", metric.name, self.value, all.join(" | ")),
        }
    }
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
    /// Which of ours.
    pub ours: Side,
    /// Whom we are compared with.
    pub peers: &'static [Side],
    /// What is to be reached.
    pub goals: &'static [Goal],
}

use Side::{
    Bare, BareVnet, Bridge, KernelVxlan, Ours, OursGeneve, OursGre, OursGuests, OursMany, OursPoll,
    OursVeth, OursVxlan, Ovs, OvsTso, OvsTsoGuests, OvsTsoVeth, Vde,
};

/// Whoever has two TAPs; the last two switch nothing.
const TAPS: &[Side] = &[Ovs, OvsTso, Vde, Bridge, Bare, BareVnet];
const BEST_OF_SWITCHES: &[Goal] = &[goal(0, 1.0, &[Ovs, OvsTso, Vde, Bridge])];
const VETHS: &[Side] = &[OvsTsoVeth, Bridge];
const AS_OVS_TSO: &[Goal] = &[goal(0, 1.0, &[OvsTsoVeth])];
const NO_GOALS: &[Goal] = &[];

const fn overlay(
    name: &'static str,
    title: &'static str,
    ours: Side,
    goals: &'static [Goal],
) -> Row {
    Row { name, title, work: Work::Tcp(1), ours, peers: &[KernelVxlan], goals }
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        name: "tap-1",
        title: "TCP, 1 stream, two TAP ports, MTU 1500",
        work: Work::Tcp(1),
        ours: Ours,
        peers: TAPS,
        goals: BEST_OF_SWITCHES,
    },
    Row {
        name: "tap-4",
        title: "TCP, 4 streams, two TAP ports, MTU 1500",
        work: Work::Tcp(4),
        ours: Ours,
        peers: TAPS,
        goals: BEST_OF_SWITCHES,
    },
    Row {
        name: "netdev-1",
        title: "TCP, 1 stream, two netdev ports on veth, MTU 1500",
        work: Work::Tcp(1),
        ours: OursVeth,
        peers: VETHS,
        goals: AS_OVS_TSO,
    },
    Row {
        name: "netdev-4",
        title: "TCP, 4 streams, two netdev ports on veth, MTU 1500",
        work: Work::Tcp(4),
        ours: OursVeth,
        peers: VETHS,
        goals: AS_OVS_TSO,
    },
    Row {
        name: "guests",
        title: "TCP, 1 stream, netdev ports on the TAPs of two QEMU guests (TCG)",
        work: Work::Tcp(1),
        ours: OursGuests,
        peers: &[OvsTsoGuests],
        goals: &[goal(0, 1.0, &[OvsTsoGuests])],
    },
    Row {
        name: "udp",
        title: "UDP, 64 bytes of payload, two TAP ports, received by the application",
        work: Work::Udp,
        ours: Ours,
        peers: TAPS,
        goals: &[goal(0, 1.6, &[Ovs]), goal(0, 1.2, &[Bare])],
    },
    Row {
        name: "ping",
        title: "ping every millisecond, two TAP ports",
        work: Work::Ping,
        ours: Ours,
        peers: TAPS,
        goals: &[goal(0, 1.0, &[Bare]), goal(1, 1.0, &[Bare])],
    },
    Row {
        name: "poll-ping",
        title: "ping every millisecond, two TAP ports, idle = \"poll\"",
        work: Work::Ping,
        ours: OursPoll,
        peers: &[Bare],
        goals: &[goal(0, 25.0, &[]), goal(1, 80.0, &[])],
    },
    Row { ..overlay("vxlan", "TCP, 1 stream, VXLAN, underlay MTU 1550", OursVxlan, VXLAN_GOAL) },
    Row {
        work: Work::Tcp(4),
        ..overlay("vxlan-4", "TCP, 4 streams, VXLAN, underlay MTU 1550", OursVxlan, VXLAN_GOAL)
    },
    overlay("geneve", "TCP, 1 stream, GENEVE, underlay MTU 1550", OursGeneve, NO_GOALS),
    overlay("gre", "TCP, 1 stream, GRE, underlay MTU 1550", OursGre, NO_GOALS),
    Row {
        name: "many-busy",
        title: "1 TCP flow among 200 TAP ports, beside 2 ports",
        work: Work::Cost(1),
        ours: OursMany,
        peers: &[Ours],
        goals: &[goal(0, 1.0, &[Ours])],
    },
    Row {
        name: "many-all",
        title: "100 TCP flows, each between two of 200 TAP ports, beside all between 2 ports",
        work: Work::Cost(100),
        ours: OursMany,
        peers: &[Ours],
        goals: &[goal(0, 1.0, &[Ours])],
    },
    Row {
        name: "idle",
        title: "an idle daemon with two TAP ports",
        work: Work::Idle,
        ours: Ours,
        peers: &[],
        goals: &[goal(0, 0.5, &[])],
    },
    Row {
        name: "idle-many",
        title: "an idle daemon with 200 TAP ports",
        work: Work::Idle,
        ours: OursMany,
        peers: &[],
        goals: &[goal(0, 0.5, &[])],
    },
];

const VXLAN_GOAL: &[Goal] = &[goal(0, 0.6, &[KernelVxlan])];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_about_what_is_measured() {
        for row in ROWS {
            for goal in row.goals {
                assert!(goal.metric < row.work.metrics().len(), "{}", row.name);
                assert!(goal.versus.iter().all(|side| row.peers.contains(side)), "{}", row.name);
                assert!(goal.words(row).contains("at "), "{}", row.name);
            }
        }
    }

    #[test]
    fn once_a_peer_is_met_within_the_noise() {
        let once = goal(0, 1.0, &[Ovs]);
        assert!(once.met(0.86, false) && !once.met(0.84, false));
        assert!(once.met(1.17, true) && !once.met(1.18, true));
        let more = goal(0, 1.6, &[Ovs]);
        assert!(more.met(1.6, false) && !more.met(1.59, false));
        let limit = goal(0, 1.0, &[]);
        assert!(limit.met(1.0, true) && !limit.met(1.1, true));
    }
}
