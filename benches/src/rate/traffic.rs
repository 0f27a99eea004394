//! The frames that a generator sends, and how a sink knows them again.
//!
//! Stream `n` is what port `n` sends. It consists of flows, each a pair of stations with MAC and IP
//! addresses and UDP ports of their own; frame `n` of a stream is of flow `n % flows`. The payload
//! begins with a stamp: which trial, which stream, which number, and when.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Serialize;

use crate::dpdk::frames::{self, Bytes, OUTER, Tunnel};

/// Bytes of the frame check sequence, which sizes count and mbufs do not hold.
const FCS: usize = 4;
/// Bytes on the wire beside a frame: preamble, start of frame, and gap.
const WIRE: usize = 20;
/// Bytes of the headers before the stamp: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes of an 802.1Q tag.
const TAG: usize = 4;
/// The VLAN of tagged frames.
pub const VLAN: u16 = 100;
/// Bytes of a stamp: what is left of the shortest frame.
pub const STAMP: usize = 18;
/// The smallest frame, bytes with FCS.
pub const SMALLEST: u16 = 64;
/// The largest: an MTU of 9,000 bytes.
pub const LARGEST: u16 = 9018;
/// Where stamps may be: behind the headers, a tag, and those of a tunnel.
const PLACES: [usize; 4] = [HEADERS, HEADERS + TAG, HEADERS + OUTER, HEADERS + TAG + OUTER];

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

/// What is measured in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What is around the frames.
    pub shape: Shape,
    /// Their sizes.
    pub size: Sizes,
    /// Flows of each stream.
    pub flows: u32,
    /// Which ports send.
    pub direction: Direction,
}

impl Row {
    /// Frames a second that fit on links of `mbps` megabits a second, one for each of `pairs`.
    pub fn line_rate(&self, mbps: u32, pairs: usize) -> f64 {
        let bits = 8.0 * (self.size.mean() + (self.shape.extra() + WIRE) as f64);
        let ways = if self.direction == Direction::Bi { 2.0 } else { 1.0 };
        ways * pairs as f64 * f64::from(mbps) * 1e6 / bits
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shape, direction) = (name(self.shape), name(self.direction));
        write!(f, "{shape:<7} {:>5} B {:>8} flows {direction}", self.size, self.flows)
    }
}

/// What a sink reads from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The trial, modulo 256.
    pub trial: u8,
    /// The stream: the port that sent it.
    pub stream: u8,
    /// Its number in the stream.
    pub number: u64,
    /// Nanoseconds of the generator's clock when it was made.
    pub time: u64,
}

const MAGIC: [u8; 3] = *b"vsb";

impl Stamp {
    /// Writes it.
    fn write(self, out: &mut [u8; STAMP]) {
        out[..3].copy_from_slice(&MAGIC);
        out[3] = self.trial;
        out[4] = self.stream;
        // 40 bits: two hours of a hundred million frames a second.
        out[5..10].copy_from_slice(&self.number.to_be_bytes()[3..]);
        out[10..].copy_from_slice(&self.time.to_be_bytes());
    }

    fn at(frame: &[u8], at: usize) -> Option<Self> {
        let bytes = frame.get(at..)?.first_chunk::<STAMP>()?;
        let (head, time) = bytes.split_last_chunk::<8>()?;
        let [m0, m1, m2, trial, stream, number @ ..] = head else { return None };
        let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let stamp =
            Self { trial: *trial, stream: *stream, number, time: u64::from_be_bytes(*time) };
        ([*m0, *m1, *m2] == MAGIC).then_some(stamp)
    }

    /// The stamp of a frame, wherever tags and tunnels have put it; `None` if it is not one of ours.
    pub fn find(frame: &[u8]) -> Option<Self> {
        PLACES.into_iter().find_map(|at| Self::at(frame, at))
    }
}

/// What one port sends.
#[derive(Clone, Debug)]
pub struct Stream {
    number: u8,
    trial: u8,
    flows: u32,
    /// Between the stations of two flows in turn, so that switches do not see addresses in order.
    stride: u32,
    /// One for each size of a round, and the round as indexes of those.
    templates: Vec<Bytes>,
    round: Vec<u8>,
    /// Where the inner frame begins, and its IP header.
    inner: usize,
    ip: usize,
    tunnel: bool,
}

/// Where frames of a tunnel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The switch's MAC address.
    pub mac: [u8; 6],
}

impl Underlay {
    /// Where there is no switch.
    pub const LOOP: Self = Self { mac: [2, 0xaa, 0, 0, 0, 1] };
}

impl Stream {
    /// What port `port` sends in a row. `underlay` is for tunnels.
    pub fn new(row: &Row, port: usize, underlay: Underlay) -> Self {
        let sizes = row.size.round();
        let mut distinct = sizes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let tunnel = row.shape.tunnel().filter(|_| !port.is_multiple_of(2));
        let template = |size: &u16| {
            let mut frame = frames::stations(side(port), side(port ^ 1), usize::from(*size) - FCS);
            if row.shape == Shape::Vlan {
                let [a, b] = VLAN.to_be_bytes();
                frame.splice(12..12, [0x81, 0, a, b]);
            }
            match tunnel {
                None => frame,
                Some(tunnel) => frames::encapsulated(&[frame], tunnel, underlay.mac).remove(0),
            }
        };
        let index = |size: &u16| distinct.iter().position(|d| d == size).unwrap_or(0) as u8;
        let inner = if tunnel.is_some() { OUTER } else { 0 };
        Self {
            number: port as u8,
            trial: 0,
            flows: row.flows.max(1),
            stride: stride(row.flows.max(1)),
            templates: distinct.iter().map(template).collect(),
            round: sizes.iter().map(index).collect(),
            inner,
            ip: inner + 14 + if row.shape == Shape::Vlan { TAG } else { 0 },
            tunnel: tunnel.is_some(),
        }
    }

    /// The same stream in another trial, so that late frames of this one are not taken for its.
    pub fn begin(&mut self, trial: u8) {
        self.trial = trial;
    }

    /// The bytes of frame `number`, before [`Stream::fill_in`].
    pub fn template(&self, number: u64) -> &[u8] {
        let slot = self.round[(number % self.round.len() as u64) as usize];
        &self.templates[usize::from(slot)]
    }

    /// Makes a copy of frame `number`'s template that frame. `now` are nanoseconds.
    pub fn fill_in(&self, number: u64, now: u64, frame: &mut [u8]) {
        let flow = (number % u64::from(self.flows)) as u32;
        let station = (u64::from(flow) * u64::from(self.stride) % u64::from(self.flows)) as u32;
        let [_, id @ ..] = station.to_be_bytes();
        let (mac, ip) = (self.inner, self.ip);
        frame[mac + 3..mac + 6].copy_from_slice(&id);
        frame[mac + 9..mac + 12].copy_from_slice(&id);
        frame[ip + 13..ip + 16].copy_from_slice(&id);
        frame[ip + 17..ip + 20].copy_from_slice(&id);
        frames::finish_ipv4(&mut frame[ip..ip + 20]);
        let port = frames::port_of(station).to_be_bytes();
        frame[ip + 20..ip + 22].copy_from_slice(&port);
        frame[ip + 22..ip + 24].copy_from_slice(&port);
        if self.tunnel {
            // Behind the outer Ethernet and IPv4 headers: the source port is the flow's.
            frame[34..36].copy_from_slice(&frames::entropy(flow).to_be_bytes());
        }
        if let Some(out) = frame.get_mut(ip + 28..).and_then(<[u8]>::first_chunk_mut::<STAMP>) {
            let (trial, stream) = (self.trial, self.number);
            Stamp { trial, stream, number, time: now }.write(out);
        }
    }

    /// A whole frame.
    pub fn frame(&self, number: u64, now: u64) -> Bytes {
        let mut frame = self.template(number).to_vec();
        self.fill_in(number, now, &mut frame);
        frame
    }
}

/// The number that the addresses of a port's stations have in them.
const fn side(port: usize) -> u8 {
    port as u8
}

/// A number without a common divisor with `flows`, near the golden section of it.
fn stride(flows: u32) -> u32 {
    const fn divisor(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    let start = (f64::from(flows) * 0.618) as u32;
    (start.max(1)..).find(|stride| divisor(*stride, flows) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn row(shape: Shape, size: Sizes, flows: u32) -> Row {
        Row { shape, size, flows, direction: Direction::Bi }
    }

    #[test]
    fn stamps_are_found_behind_any_headers() {
        for shape in [Shape::Plain, Shape::Vlan, Shape::Vxlan, Shape::Geneve] {
            for port in [0, 1] {
                let mut stream =
                    Stream::new(&row(shape, Sizes::Fixed(64), 10), port, Underlay::LOOP);
                stream.begin(7);
                let frame = stream.frame(0x12_3456_789a, 42);
                let (trial, stream, number, time) = (7, port as u8, 0x12_3456_789a, 42);
                assert_eq!(Stamp::find(&frame), Some(Stamp { trial, stream, number, time }));
                let outer = if port == 1 || shape == Shape::Vlan { shape.extra() } else { 0 };
                assert_eq!(frame.len(), 60 + outer, "{shape:?}");
                assert_eq!(Stamp::find(&frame[1..]), None);
                assert_eq!(Stamp::find(&frame[..frame.len() - 1]), None, "cut short");
            }
        }
    }

    #[test]
    fn each_flow_has_addresses_of_its_own_and_right_sums() {
        for flows in [1, 2, 6, 1_000, 4_096] {
            let stream =
                Stream::new(&row(Shape::Plain, Sizes::Fixed(128), flows), 0, Underlay::LOOP);
            let frames: Vec<_> = (0..u64::from(flows)).map(|n| stream.frame(n, 0)).collect();
            let pairs: HashSet<_> = frames.iter().map(|f| f[..12].to_vec()).collect();
            assert_eq!(pairs.len(), flows as usize);
            let reverse =
                Stream::new(&row(Shape::Plain, Sizes::Fixed(128), flows), 1, Underlay::LOOP);
            let back: HashSet<_> = (0..u64::from(flows))
                .map(|n| reverse.frame(n, 0))
                .map(|f| [&f[6..12], &f[..6]].concat())
                .collect();
            assert_eq!(pairs, back, "replies are to those who asked");
            for frame in frames.iter().take(100) {
                let packet = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
                let header = ip.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                assert!(matches!(packet.transport, Some(TransportSlice::Udp(_))));
            }
        }
    }

    #[test]
    fn the_mix_is_seven_to_four_to_one() {
        let stream = Stream::new(&row(Shape::Plain, Sizes::Imix, 5), 0, Underlay::LOOP);
        let lengths: Vec<usize> = (0..24).map(|n| stream.frame(n, 0).len()).collect();
        let count = |len| lengths.iter().filter(|l| **l == len).count();
        assert_eq!((count(60), count(566), count(1514)), (14, 8, 2));
        assert!((Sizes::Imix.mean() - 353.83).abs() < 0.01);
    }

    #[test]
    fn line_rates_are_the_known_ones() {
        let uni = |size| Row { direction: Direction::Uni, ..row(Shape::Plain, size, 1) };
        assert!((uni(Sizes::Fixed(64)).line_rate(10_000, 1) - 14_880_952.0).abs() < 1.0);
        assert!((uni(Sizes::Fixed(1518)).line_rate(10_000, 1) - 812_743.0).abs() < 1.0);
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
