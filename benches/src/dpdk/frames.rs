//! The frames that sources give, and the files that they read them from.
//!
//! N flows are N pairs of MAC addresses, each with addresses and ports of its own. One side sends
//! one frame of each flow a round, the other the replies, both in an order of their own that stays
//! the same from run to run: a switch that learns knows every address after one round.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use switch_core::testing::lossy::Rng;

/// The network identifier of the tunnels.
pub const VNI: u32 = 42;
/// The switch's address on the underlay.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);
/// The other end of the tunnels.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 2);
/// The remote's MAC address.
pub const REMOTE_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 2];
/// Bytes of the outer headers: Ethernet, IPv4, UDP and a tunnel header of 8 bytes.
pub const OUTER: usize = 50;

/// "vswframes", as far as it goes.
const MAGIC: u64 = 0x7365_6d61_7266_7376;
const HEAD: usize = 32;
const LINE: usize = 64;

/// A tunnel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
}

impl Tunnel {
    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }

    /// Its UDP port.
    pub const fn port(self) -> u16 {
        match self {
            Self::Vxlan => 4789,
            Self::Geneve => 6081,
        }
    }

    /// Its header, without options.
    pub fn header(self) -> [u8; 8] {
        let [_, a, b, c] = VNI.to_be_bytes();
        match self {
            Self::Vxlan => [8, 0, 0, 0, a, b, c, 0],
            Self::Geneve => [0, 0, 0x65, 0x58, a, b, c, 0],
        }
    }
}

/// A frame.
pub type Bytes = Vec<u8>;

/// Who speaks to whom.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Flows by number of the station on each side, in the order in which the first side sends.
    ours: Vec<(u32, u32)>,
    /// The same in the order of the second side.
    theirs: Vec<(u32, u32)>,
    size: usize,
}

/// One end of a flow.
struct End {
    mac: [u8; 6],
    ip: [u8; 4],
    port: u16,
}

impl End {
    fn new(side: u8, station: u32) -> Self {
        let [_, a, b, c] = station.to_be_bytes();
        Self { mac: [2, 0, side, a, b, c], ip: [10 + side, a, b, c], port: port_of(station) }
    }
}

/// The UDP port of a station.
pub fn port_of(station: u32) -> u16 {
    1024 + (station % 60_000) as u16
}

/// The outer source port of a flow, as RFC 7348 section 5 asks.
pub fn entropy(flow: u32) -> u16 {
    (49_152 + flow.wrapping_mul(2_654_435_761) % 16_384) as u16
}

/// A frame of `size` bytes without FCS from the first station of one side to that of another.
pub fn stations(from: u8, to: u8, size: usize) -> Bytes {
    udp(&End::new(from, 0), &End::new(to, 0), size)
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for n in (1..items.len()).rev() {
        items.swap(n, rng.below(n + 1));
    }
}

impl Flows {
    /// So many, with frames of `size` bytes without FCS.
    pub fn new(flows: u32, size: usize) -> Self {
        let mut rng = Rng(0x05ee_d0f0);
        let (mut left, mut right): (Vec<u32>, Vec<u32>) =
            ((0..flows).collect(), (0..flows).collect());
        shuffle(&mut left, &mut rng);
        shuffle(&mut right, &mut rng);
        let ours: Vec<(u32, u32)> = left.into_iter().zip(right).collect();
        let mut theirs = ours.clone();
        shuffle(&mut theirs, &mut rng);
        Self { ours, theirs, size }
    }

    /// What the first side sends.
    pub fn requests(&self) -> Vec<Bytes> {
        let frame = |(a, b): &(u32, u32)| udp(&End::new(0, *a), &End::new(1, *b), self.size);
        self.ours.iter().map(frame).collect()
    }

    /// What the second side sends.
    pub fn replies(&self) -> Vec<Bytes> {
        let frame = |(a, b): &(u32, u32)| udp(&End::new(1, *b), &End::new(0, *a), self.size);
        self.theirs.iter().map(frame).collect()
    }
}

/// An Ethernet frame with UDP in IPv4, padded with zeros to `size`.
fn udp(from: &End, to: &End, size: usize) -> Bytes {
    let mut frame = Vec::with_capacity(size);
    frame.extend([to.mac, from.mac].concat());
    frame.extend([8, 0]);
    frame.extend(ipv4((size - 14) as u16, from.ip, to.ip));
    frame.extend(from.port.to_be_bytes());
    frame.extend(to.port.to_be_bytes());
    frame.extend(((size - 34) as u16).to_be_bytes());
    frame.resize(size, 0);
    frame
}

/// An IPv4 header before UDP.
fn ipv4(total: u16, from: [u8; 4], to: [u8; 4]) -> [u8; 20] {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&from);
    header[16..].copy_from_slice(&to);
    finish_ipv4(&mut header);
    header
}

/// Writes the checksum of an IPv4 header.
pub fn finish_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks_exact(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Frames as they come from the remote, to the underlay port with the address `mac`.
pub fn encapsulated(inner: &[Bytes], tunnel: Tunnel, mac: [u8; 6]) -> Vec<Bytes> {
    let wrap = |(flow, inner): (usize, &Bytes)| {
        let len = (inner.len() + 16) as u16;
        let mut frame = Vec::with_capacity(inner.len() + OUTER);
        frame.extend([mac, REMOTE_MAC].concat());
        frame.extend([8, 0]);
        frame.extend(ipv4(len + 20, REMOTE.octets(), LOCAL.octets()));
        for word in [entropy(flow as u32), tunnel.port(), len, 0] {
            frame.extend(word.to_be_bytes());
        }
        frame.extend(tunnel.header());
        frame.extend_from_slice(inner);
        frame
    };
    inner.iter().enumerate().map(wrap).collect()
}

/// Frames with random sources and destinations.
pub fn random_addresses(count: usize) -> Vec<Bytes> {
    let mut rng = Rng(0x0f10_0d00);
    let frame = |_| {
        let mut frame = udp(&End::new(2, rng.below(1 << 24) as u32), &End::new(3, 0), 64);
        for at in [0, 6] {
            let mac = rng.next_u64() & 0xfcff_ffff_ffff | 0x0200_0000_0000;
            frame[at..at + 6].copy_from_slice(&mac.to_be_bytes()[2..]);
        }
        frame
    };
    (0..count).map(frame).collect()
}

/// Frames of random bytes and lengths; after the addresses (random ones, too), tags, IP, UDP of a
/// tunnel or nothing known.
pub fn random_headers(count: usize) -> Vec<Bytes> {
    let mut rng = Rng(0x0bad_0bad);
    let frame = |_| {
        let len = 14 + rng.below(115);
        let mut frame: Bytes = (0..len).map(|_| rng.next_u64() as u8).collect();
        let start: &[u8] = match rng.below(6) {
            0 => &[0x81, 0],
            1 => &[8, 0, 0x45],
            2 => &[0x86, 0xdd, 0x60],
            3 => &[8, 6],
            4 => &[0x88, 0xa8, 0, 1, 0x81, 0],
            _ => &[],
        };
        let room = frame.len().min(12 + start.len());
        frame[12..room].copy_from_slice(&start[..room - 12]);
        frame
    };
    (0..count).map(frame).collect()
}

/// Writes the file that a source reads.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, frames: &[Bytes]) -> Result<()> {
    let longest = frames.iter().map(Vec::len).max().unwrap_or(0);
    let stride = longest.next_multiple_of(LINE);
    let at = (HEAD + 2 * frames.len()).next_multiple_of(LINE);
    let failed = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(failed)?);
    let mut head = Vec::with_capacity(at);
    for word in [MAGIC, frames.len() as u64, stride as u64, at as u64] {
        head.extend(word.to_ne_bytes());
    }
    head.extend(frames.iter().flat_map(|f| (f.len() as u16).to_ne_bytes()));
    head.resize(at, 0);
    file.write_all(&head).with_context(failed)?;
    let padding = vec![0; stride];
    for frame in frames {
        file.write_all(frame).with_context(failed)?;
        file.write_all(&padding[frame.len()..]).with_context(failed)?;
    }
    file.flush().with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn replies_are_requests_the_other_way_round() {
        let flows = Flows::new(500, 64);
        let (requests, replies) = (flows.requests(), flows.replies());
        let pairs = |frames: &[Bytes], src: usize, dst: usize| -> HashSet<(Bytes, Bytes)> {
            frames.iter().map(|f| (f[src..src + 6].to_vec(), f[dst..dst + 6].to_vec())).collect()
        };
        assert_eq!(pairs(&requests, 6, 0), pairs(&replies, 0, 6));
        assert_eq!(pairs(&requests, 6, 0).len(), 500);
        assert!(requests.iter().chain(&replies).all(|f| f.len() == 64));
        assert_eq!(requests, Flows::new(500, 64).requests(), "another order in each run");
    }

    #[test]
    fn headers_have_right_sums() {
        let frame = &encapsulated(&Flows::new(1, 64).requests(), Tunnel::Vxlan, [2; 6])[0];
        for header in [&frame[14..34], &frame[OUTER + 14..OUTER + 34]] {
            let words = header.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let sum = words.sum::<u32>();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
        assert_eq!((frame.len(), frame[46..50].to_vec()), (64 + OUTER, vec![0, 0, 42, 0]));
    }

    #[test]
    fn a_file_has_frames_at_multiples_of_lines() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("frames");
        write(&path, &[vec![1; 64], vec![2; 65]])?;
        let bytes = std::fs::read(&path)?;
        assert_eq!(bytes.len(), 64 + 2 * 128);
        assert_eq!(bytes[32..36], [64u16, 65].map(u16::to_ne_bytes).concat());
        assert_eq!((bytes[64], bytes[128], bytes[192], bytes[257]), (1, 0, 2, 0));
        Ok(())
    }

    #[test]
    fn hostile_frames_are_of_every_kind() {
        let frames = random_headers(1_000);
        assert!(frames.iter().all(|f| (14..=128).contains(&f.len())));
        for kind in [[0x81, 0], [8, 0], [0x86, 0xdd], [8, 6], [0x88, 0xa8]] {
            assert!(frames.iter().any(|f| f[12..14] == kind), "{kind:?}");
        }
        let sources: HashSet<_> =
            random_addresses(1_000).iter().map(|f| f[6..12].to_vec()).collect();
        assert!(sources.len() > 990);
    }
}
