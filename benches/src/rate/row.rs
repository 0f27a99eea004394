//! The rows of a run: what is measured, of which frames, over how many ports and workers.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Serialize;

use crate::dpdk::frames::{OUTER, Tunnel};

/// Bytes of the frame check sequence, which sizes count and mbufs do not hold.
pub const FCS: usize = 4;
/// Bytes on the wire beside a frame: preamble, start of frame, and gap.
const WIRE: usize = 20;
/// Bytes of an 802.1Q tag.
pub const TAG: usize = 4;
/// The VLAN of tagged frames; of the first network, where there are several.
pub const VLAN: u16 = 100;
/// The most networks: VLANs from [`VLAN`] on.
pub const NETWORKS: u16 = 3_900;
/// The smallest frame, bytes with FCS.
pub const SMALLEST: u16 = 64;
/// The largest: an MTU of 9,000 bytes.
pub const LARGEST: u16 = 9018;
/// The largest without jumbo frames.
pub const STANDARD: u16 = 1518;

/// What sizes frames have: bytes with FCS, of the inner frame in a tunnel and without its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All the same.
    Fixed(u16),
    /// 7 of 64 bytes, 4 of 570 and 1 of 1,518 (the simple Internet mix).
    Imix,
}

/// The mix, in an order that spreads it.
const IMIX: [u16; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570];

impl Sizes {
    /// One round of sizes.
    pub fn round(self) -> Vec<u16> {
        match self {
            Self::Fixed(size) => vec![size],
            Self::Imix => IMIX.to_vec(),
        }
    }

    /// Bytes of a frame on average, with FCS.
    pub fn mean(self) -> f64 {
        let round = self.round();
        round.iter().map(|size| f64::from(*size)).sum::<f64>() / round.len() as f64
    }

    /// The largest.
    pub fn largest(self) -> u16 {
        self.round().into_iter().max().unwrap_or(SMALLEST)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self::Imix);
        }
        let size = text.parse().ok().filter(|size| (SMALLEST..=LARGEST).contains(size));
        size.map(Self::Fixed).ok_or_else(|| {
            format!("a frame size is `imix` or {SMALLEST} to {LARGEST} bytes with FCS")
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Imix => f.pad("imix"),
        }
    }
}

impl Serialize for Sizes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(size) => serializer.serialize_u16(*size),
            Self::Imix => serializer.serialize_str("imix"),
        }
    }
}

/// What is around the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Nothing.
    Plain,
    /// An 802.1Q tag, VLAN 100, on both sides.
    Vlan,
    /// VXLAN on the second port of each pair.
    Vxlan,
    /// GENEVE on the second port of each pair.
    Geneve,
}

impl Shape {
    /// The tunnel, if it is one.
    pub const fn tunnel(self) -> Option<Tunnel> {
        match self {
            Self::Plain | Self::Vlan => None,
            Self::Vxlan => Some(Tunnel::Vxlan),
            Self::Geneve => Some(Tunnel::Geneve),
        }
    }

    /// Bytes that a frame has at the second port of a pair beside those of its size.
    pub const fn extra(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Vlan => TAG,
            Self::Vxlan | Self::Geneve => OUTER,
        }
    }
}

/// Which ports of a pair send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The first to the second; with a tunnel, encapsulation.
    Uni,
    /// The second to the first; with a tunnel, decapsulation.
    Reverse,
    /// Both.
    Bi,
}

impl Direction {
    /// Whether that port sends.
    pub const fn sends(self, port: usize) -> bool {
        match self {
            Self::Uni => port.is_multiple_of(2),
            Self::Reverse => !port.is_multiple_of(2),
            Self::Bi => true,
        }
    }
}

/// The value's name on the command line.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What is measured in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// Maximum receive rate, NDR, PDR and latency of known flows.
    Rate,
    /// How many new addresses a second are learned, as many as `--flows` says at once.
    Learn,
    /// What is left of known flows while a third port sends from ever new addresses.
    Flood,
    /// Frames of known flows lost while other ports, VLANs and tunnels come and go.
    Reconfigure,
}

impl Test {
    /// How many ports it takes at least: what is flooded shows at a third one, and ports come in pairs.
    const fn ports(self) -> usize {
        match self {
            Self::Rate | Self::Reconfigure => 2,
            Self::Learn | Self::Flood => 4,
        }
    }

    /// Flows unless told otherwise. What is learned in less than some milliseconds has no rate.
    const fn flows(self) -> u32 {
        match self {
            Self::Learn => 100_000,
            Self::Rate | Self::Flood | Self::Reconfigure => 1_000,
        }
    }
}

/// One row: a test under one condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What is measured.
    pub test: Test,
    /// What is around the frames.
    pub shape: Shape,
    /// Their sizes.
    pub size: Sizes,
    /// Flows of each stream; where addresses are learned, how many.
    pub flows: u32,
    /// Which ports send.
    pub direction: Direction,
    /// Ports of the switch.
    pub ports: usize,
    /// Workers of the switch; 0 where there is none.
    pub workers: usize,
    /// Networks of a tunnel, each with a VNI and a VLAN of its own.
    pub vnis: u16,
}

impl Row {
    /// Frames a second that fit on links of `mbps` megabits a second, one for each pair of ports.
    pub fn line_rate(&self, mbps: u32) -> f64 {
        let bits = 8.0 * (self.size.mean() + (self.shape.extra() + WIRE) as f64);
        let ways = if self.direction == Direction::Bi { 2.0 } else { 1.0 };
        ways * (self.ports / 2) as f64 * f64::from(mbps) * 1e6 / bits
    }

    /// How many MAC addresses its flows have.
    pub fn macs(&self) -> u64 {
        u64::from(self.flows) * self.ports as u64
    }

    /// Whether frames of the first port of a pair have a tag.
    pub fn tagged(&self) -> bool {
        self.shape == Shape::Vlan || self.vnis > 1
    }

    /// The same frames between the same ports, whatever switch is between: rows that share that
    /// share a ceiling.
    #[must_use]
    pub const fn without_switch(self) -> Self {
        Self { test: Test::Rate, workers: 0, ..self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shape, direction) = (name(self.shape), name(self.direction));
        write!(f, "{shape:<7} {:>5} B {:>8} flows {direction}", self.size, self.flows)?;
        if self.ports != 2 {
            write!(f, " {} ports", self.ports)?;
        }
        if self.workers > 1 {
            write!(f, " {} workers", self.workers)?;
        }
        if self.vnis > 1 {
            write!(f, " {} VNIs", self.vnis)?;
        }
        if self.test != Test::Rate {
            write!(f, " {}", name(self.test))?;
        }
        Ok(())
    }
}

/// What rows there are: all combinations.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Tests.
    pub tests: Vec<Test>,
    /// Shapes.
    pub shapes: Vec<Shape>,
    /// Sizes.
    pub sizes: Vec<Sizes>,
    /// Flows of each stream; none are what each test has by itself.
    pub flows: Vec<u32>,
    /// MAC addresses in all, instead of flows.
    pub macs: Vec<u32>,
    /// Directions.
    pub directions: Vec<Direction>,
    /// Ports.
    pub ports: Vec<usize>,
    /// Workers.
    pub workers: Vec<usize>,
    /// Networks.
    pub vnis: Vec<u16>,
}

impl Grid {
    /// The rows, each once.
    pub fn rows(&self) -> Vec<Row> {
        let first = Row {
            test: Test::Rate,
            shape: Shape::Plain,
            size: Sizes::Fixed(SMALLEST),
            flows: 0,
            direction: Direction::Bi,
            ports: 2,
            workers: 1,
            vnis: 1,
        };
        let rows = cross(&[first], &self.tests, |row, test| Row { test, ..row });
        let rows = cross(&rows, &self.workers, |row, workers| Row { workers, ..row });
        let rows = cross(&rows, &self.ports, |row, ports| Row {
            ports: ports.max(row.test.ports()),
            ..row
        });
        let rows = cross(&rows, &self.shapes, |row, shape| Row { shape, ..row });
        let rows = cross(&rows, &self.vnis, |row, vnis| Row {
            vnis: if row.shape.tunnel().is_some() { vnis } else { 1 },
            ..row
        });
        let mut rows = cross(&rows, &self.sizes, |row, size| Row { size, ..row });
        if !self.macs.is_empty() {
            rows = cross(&rows, &self.macs, |row, macs| Row { flows: flows_of(&row, macs), ..row });
        } else if !self.flows.is_empty() {
            rows = cross(&rows, &self.flows, |row, flows| Row { flows, ..row });
        } else {
            rows.iter_mut().for_each(|row| row.flows = row.test.flows());
        }
        let all = cross(&rows, &self.directions, |row, direction| match row.test {
            // Stations that are taught are behind the first port.
            Test::Learn => Row { direction: Direction::Uni, ..row },
            _ => Row { direction, ..row },
        });
        let mut rows: Vec<Row> = Vec::new();
        for row in all {
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }
}

/// Each row with each value.
fn cross<T: Copy>(rows: &[Row], values: &[T], with: impl Fn(Row, T) -> Row) -> Vec<Row> {
    rows.iter().flat_map(|row| values.iter().map(|value| with(*row, *value))).collect()
}

/// Flows of each stream that make so many addresses.
fn flows_of(row: &Row, macs: u32) -> u32 {
    match row.test {
        Test::Learn => macs,
        _ => (macs / row.ports as u32).max(1),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row of plain frames of 64 bytes over one pair of ports.
    pub(in super::super) const ROW: Row = Row {
        test: Test::Rate,
        shape: Shape::Plain,
        size: Sizes::Fixed(64),
        flows: 1,
        direction: Direction::Bi,
        ports: 2,
        workers: 1,
        vnis: 1,
    };

    fn grid() -> Grid {
        Grid {
            tests: vec![Test::Rate],
            shapes: vec![Shape::Plain],
            sizes: vec![Sizes::Fixed(64)],
            flows: Vec::new(),
            macs: Vec::new(),
            directions: vec![Direction::Bi],
            ports: vec![2],
            workers: vec![1],
            vnis: vec![1],
        }
    }

    #[test]
    fn rows_are_all_combinations_once() {
        assert_eq!(grid().rows(), [Row { flows: 1_000, ..ROW }]);
        let (tests, shapes) = (vec![Test::Rate, Test::Learn], vec![Shape::Plain, Shape::Vxlan]);
        let (directions, vnis) = (vec![Direction::Uni, Direction::Reverse], vec![1, 16]);
        let rows = Grid { tests, shapes, directions, vnis, ..grid() }.rows();
        let of = |test| rows.iter().filter(move |row| row.test == test);
        assert_eq!(of(Test::Rate).count(), 2 * 3, "VNIs are those of tunnels");
        assert_eq!(of(Test::Learn).count(), 3, "addresses are learned one way");
        assert!(of(Test::Learn).all(|row| row.ports == 4 && row.flows == 100_000));
    }

    #[test]
    fn addresses_are_spread_over_ports() {
        let (macs, ports) = (vec![1_000, 4_000_000], vec![2, 4]);
        let rows = Grid { macs, ports, ..grid() }.rows();
        let flows: Vec<(u32, u64)> = rows.iter().map(|row| (row.flows, row.macs())).collect();
        assert_eq!(
            flows,
            [(500, 1_000), (2_000_000, 4_000_000), (250, 1_000), (1_000_000, 4_000_000)]
        );
    }

    #[test]
    fn the_mix_is_three_hundred_and_fifty_four_bytes() {
        assert!((Sizes::Imix.mean() - 353.83).abs() < 0.01);
    }

    #[test]
    fn line_rates_are_the_known_ones() {
        let uni = |size| Row { direction: Direction::Uni, size, ..ROW };
        assert!((uni(Sizes::Fixed(64)).line_rate(10_000) - 14_880_952.0).abs() < 1.0);
        assert!((uni(Sizes::Fixed(1518)).line_rate(10_000) - 812_743.0).abs() < 1.0);
        let four = Row { ports: 4, ..ROW };
        assert!((four.line_rate(10_000) / ROW.line_rate(10_000) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!("imix".parse(), Ok(Sizes::Imix));
        assert_eq!("9018".parse(), Ok(Sizes::Fixed(9018)));
        for wrong in ["63", "9019", "", "-1", "1500B"] {
            assert!(wrong.parse::<Sizes>().unwrap_err().contains("64 to 9018"), "{wrong}");
        }
    }
}
