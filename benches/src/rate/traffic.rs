//! The frames that a generator sends, and how a sink knows them again.
//!
//! Stream `n` is what port `n` sends. It consists of flows, each a pair of stations with MAC and IP
//! addresses and UDP ports of their own; frame `n` of a stream is of flow `n % flows`. The payload
//! begins with a stamp: which trial, which stream, which number, and when.

use super::row::{FCS, Row, TAG, VLAN};
use crate::dpdk::frames::{self, Bytes, OUTER, VNI};

/// Bytes of the headers before the stamp: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes of a stamp: what is left of the shortest frame.
pub const STAMP: usize = 18;
/// Where stamps may be: behind the headers, a tag, and those of a tunnel.
const PLACES: [usize; 4] = [HEADERS, HEADERS + TAG, HEADERS + OUTER, HEADERS + TAG + OUTER];

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

/// Which addresses the frames of a stream have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Those of the flows.
    Flows,
    /// From the stations of a set, numbered from 1, one after the other, to the first station of the
    /// other port.
    From(u8),
    /// From this port's first station to those.
    To(u8),
    /// Random ones at both ends.
    Random,
}

/// What one port sends.
#[derive(Clone, Debug)]
pub struct Stream {
    number: u8,
    trial: u8,
    pattern: Pattern,
    flows: u32,
    /// Networks that flows are spread over.
    vnis: u16,
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
        // A tunnel's VNI takes the place of the tag.
        let tagged = row.tagged() && tunnel.is_none();
        let template = |size: &u16| {
            let mut frame = frames::stations(side(port), side(port ^ 1), usize::from(*size) - FCS);
            if tagged {
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
            pattern: Pattern::Flows,
            flows: row.flows.max(1),
            vnis: row.vnis.max(1),
            stride: stride(row.flows.max(1)),
            templates: distinct.iter().map(template).collect(),
            round: sizes.iter().map(index).collect(),
            inner,
            ip: inner + 14 + if tagged { TAG } else { 0 },
            tunnel: tunnel.is_some(),
        }
    }

    /// The same stream in another trial, so that late frames of this one are not taken for its.
    pub fn begin(&mut self, trial: u8, pattern: Pattern) {
        (self.trial, self.pattern) = (trial, pattern);
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
        let (to, from, ip) = (self.inner, self.inner + 6, self.ip);
        match self.pattern {
            Pattern::Flows => {
                frame[to + 3..to + 6].copy_from_slice(&id);
                frame[from + 3..from + 6].copy_from_slice(&id);
            }
            Pattern::From(set) => name_station(&mut frame[from..], set, id),
            Pattern::To(set) => name_station(&mut frame[to..], set, id),
            Pattern::Random => {
                // The same numbers in every trial would soon be known addresses.
                let seed = number << 8 | u64::from(self.trial);
                frame[to + 1..to + 6].copy_from_slice(&random(seed)[..5]);
                frame[from + 1..from + 6].copy_from_slice(&random(!seed)[..5]);
            }
        }
        if self.vnis > 1 {
            self.join_network(
                (number % u64::from(self.flows) % u64::from(self.vnis)) as u16,
                frame,
            );
        }
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

    /// Moves a frame to a network: by its tag, or the tunnel's VNI.
    fn join_network(&self, network: u16, frame: &mut [u8]) {
        if self.tunnel {
            let [_, vni @ ..] = (VNI + u32::from(network)).to_be_bytes();
            frame[OUTER - 4..OUTER - 1].copy_from_slice(&vni);
        } else {
            frame[14..16].copy_from_slice(&(VLAN + network).to_be_bytes());
        }
    }

    /// A whole frame.
    pub fn frame(&self, number: u64, now: u64) -> Bytes {
        let mut frame = self.template(number).to_vec();
        self.fill_in(number, now, &mut frame);
        frame
    }
}

/// Writes the address of a station of a set, but for the first byte and the port's number.
fn name_station(mac: &mut [u8], set: u8, id: [u8; 3]) {
    mac[1] = set;
    mac[3..6].copy_from_slice(&id);
}

/// Bytes that look random and are the same in each run: SplitMix64.
fn random(seed: u64) -> [u8; 8] {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31).to_be_bytes()
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

    use super::super::row::tests::ROW;
    use super::super::row::{Shape, Sizes};
    use super::*;

    fn row(shape: Shape, size: Sizes, flows: u32) -> Row {
        Row { shape, size, flows, ..ROW }
    }

    fn plain(size: u16, flows: u32, port: usize) -> Stream {
        Stream::new(&row(Shape::Plain, Sizes::Fixed(size), flows), port, Underlay::LOOP)
    }

    #[test]
    fn stamps_are_found_behind_any_headers() {
        for shape in [Shape::Plain, Shape::Vlan, Shape::Vxlan, Shape::Geneve] {
            for port in [0, 1] {
                let mut stream =
                    Stream::new(&row(shape, Sizes::Fixed(64), 10), port, Underlay::LOOP);
                stream.begin(7, Pattern::Flows);
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
            let stream = plain(128, flows, 0);
            let frames: Vec<_> = (0..u64::from(flows)).map(|n| stream.frame(n, 0)).collect();
            let pairs: HashSet<_> = frames.iter().map(|f| f[..12].to_vec()).collect();
            assert_eq!(pairs.len(), flows as usize);
            let reverse = plain(128, flows, 1);
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
    }

    #[test]
    fn new_stations_speak_to_a_known_one_and_are_answered() {
        let (mut from, mut to) = (plain(64, 500, 0), plain(64, 500, 1));
        let known = plain(64, 500, 1).frame(0, 0)[6..12].to_vec();
        let mut seen = HashSet::new();
        for set in [1, 2] {
            from.begin(set, Pattern::From(set));
            to.begin(set, Pattern::To(set));
            for n in 0..500 {
                let (asks, answers) = (from.frame(n, 0), to.frame(n, 0));
                assert_eq!((&asks[..6], &answers[6..12]), (&known[..], &known[..]));
                assert_eq!(asks[6..12], answers[..6], "each is asked for");
                seen.insert(asks[6..12].to_vec());
                assert_eq!(Stamp::find(&asks).map(|s| s.number), Some(n));
            }
        }
        let flows: HashSet<_> =
            (0..500).map(|n| plain(64, 500, 0).frame(n, 0)[6..12].to_vec()).collect();
        assert_eq!((seen.len(), seen.is_disjoint(&flows)), (1_000, true), "ever new ones");
    }

    #[test]
    fn a_flood_has_no_address_twice() {
        let mut flood = plain(64, 10, 2);
        let mut addresses = HashSet::new();
        for trial in [1, 2] {
            flood.begin(trial, Pattern::Random);
            for n in 0..1_000 {
                let frame = flood.frame(n, 0);
                assert_eq!((frame[0], frame[6]), (2, 2), "unicast, locally administered");
                addresses.extend([frame[..6].to_vec(), frame[6..12].to_vec()]);
            }
        }
        assert_eq!(addresses.len(), 4_000);
    }

    #[test]
    fn flows_are_spread_over_networks() {
        let row = Row { vnis: 3, ..row(Shape::Geneve, Sizes::Fixed(64), 6) };
        let (plain, tunnel) =
            (Stream::new(&row, 0, Underlay::LOOP), Stream::new(&row, 1, Underlay::LOOP));
        for n in 0..6u64 {
            let (frame, outer) = (plain.frame(n, 0), tunnel.frame(n, 0));
            let network = (n % 3) as u16;
            assert_eq!(frame[12..16], [[0x81, 0], (VLAN + network).to_be_bytes()].concat());
            assert_eq!(outer[46..49], (VNI + u32::from(network)).to_be_bytes()[1..]);
            assert_eq!(outer[OUTER..OUTER + 6], frame[6..12], "the same flow on both sides");
            assert_eq!((frame.len(), outer.len()), (64, 60 + OUTER));
            assert!(Stamp::find(&frame).is_some() && Stamp::find(&outer).is_some());
        }
    }
}
