//! Writes capture files: pcapng, with an interface for each port.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>, written in the byte order of
//! little-endian machines. The crates for it are unmaintained or do not write what is needed here.

use switch_core::frame::Offload;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFDROP: u16 = 5;

/// Begins the comment of a packet that has its offload metadata, which the format has no place for.
pub const OFFLOAD: &str = "offload: ";

/// What the packets of an interface begin with (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Link {
    /// An Ethernet header.
    Ethernet = 1,
    /// An IPv4 or IPv6 header.
    Ip = 101,
}

/// Which way a packet went: the two lowest bits of `epb_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Into the switch.
    In = 1,
    /// Out of it.
    Out = 2,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its interface, by what [`Writer::interface`] answered.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its bytes, as many as were kept.
    pub bytes: &'a [u8],
    /// How many it had.
    pub len: u32,
    /// Which way it went.
    pub direction: Direction,
    /// What was left undone about it: a comment of its own, unless that is nothing.
    pub offload: Offload,
    /// What else there is to say.
    pub comments: &'a [String],
}

/// A file under way.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    interfaces: u32,
}

impl Writer {
    /// Begins one that says who wrote it.
    pub fn new(application: &str) -> Self {
        let mut out = Vec::new();
        block(&mut out, SECTION, |body| {
            body.extend(0x1a2b_3c4d_u32.to_le_bytes());
            // Version 1.0, length unknown.
            body.extend([1, 0, 0, 0]);
            body.extend(u64::MAX.to_le_bytes());
            option(body, SHB_USERAPPL, application.as_bytes());
            option(body, OPT_END, &[]);
        });
        Self { out, interfaces: 0 }
    }

    /// How many bytes wait to be taken.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no bytes wait to be taken.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Another interface, of whose packets at most `snap` bytes are kept. Answers with its number.
    pub fn interface(&mut self, name: &str, link: Link, snap: u32) -> u32 {
        block(&mut self.out, INTERFACE, |body| {
            body.extend((link as u16).to_le_bytes());
            body.extend([0, 0]);
            body.extend(snap.to_le_bytes());
            option(body, IF_NAME, name.as_bytes());
            // Nanoseconds.
            option(body, IF_TSRESOL, &[9]);
            option(body, OPT_END, &[]);
        });
        self.interfaces += 1;
        self.interfaces - 1
    }

    /// A packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        let Packet { interface, at, bytes, len, .. } = *packet;
        block(&mut self.out, PACKET, |body| {
            words(body, [interface, (at >> 32) as u32, at as u32, bytes.len() as u32, len]);
            body.extend(bytes);
            pad(body);
            for comment in packet.comments {
                option(body, OPT_COMMENT, comment.as_bytes());
            }
            if packet.offload != Offload::NONE {
                let words = format!("{OFFLOAD}{}", packet.offload);
                option(body, OPT_COMMENT, words.as_bytes());
            }
            option(body, EPB_FLAGS, &(packet.direction as u32).to_le_bytes());
            option(body, OPT_END, &[]);
        });
    }

    /// How many packets of an interface were missed by `at`, in nanoseconds since 1970. Nothing where
    /// there is no interface yet.
    pub fn missed(&mut self, interface: u32, at: u64, packets: u64) {
        if interface >= self.interfaces {
            return;
        }
        block(&mut self.out, STATISTICS, |body| {
            words(body, [interface, (at >> 32) as u32, at as u32]);
            option(body, ISB_IFDROP, &packets.to_le_bytes());
            option(body, OPT_END, &[]);
        });
    }
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..value.len().min(u16::MAX.into())).unwrap_or_default();
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out);
}

fn words<const N: usize>(out: &mut Vec<u8>, words: [u32; N]) {
    out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
}

/// A block, whose body is padded to words like all that is in it. Its length stands at both ends.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    words(out, [kind, 0]);
    body(out);
    let len = ((out.len() + 4 - start) as u32).to_le_bytes();
    out.extend_from_slice(&len);
    if let Some(field) = out.get_mut(start + 4..start + 8) {
        field.copy_from_slice(&len);
    }
}
