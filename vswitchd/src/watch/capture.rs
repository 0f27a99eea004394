//! Records as a pcapng file that goes on: an interface for each port, the direction of each frame, and
//! of dropped ones the reason.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>, written in the byte order of
//! little-endian machines. The crates for it are unmaintained or do not write what is needed here.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use switch_core::PortId;
use switch_core::drop::Side;
use switch_core::watch::{End, Fate, Piece, Record};

use super::Watching;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// Link types: Ethernet, and IP packets without anything in front.
const ETHERNET: u16 = 1;
const RAW: u16 = 101;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFDROP: u16 = 5;

/// Direction, in the two lowest bits of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    watching: Watching,
    /// The number that each port has in the file.
    interfaces: HashMap<PortId, u32>,
    missed: u64,
    out: Vec<u8>,
}

impl Capture {
    /// Begins one.
    pub fn new(watching: Watching) -> Self {
        let mut out = Vec::new();
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        // Version 1.0, length unknown.
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, 4, b"vswitchd");
        option(&mut body, OPT_END, &[]);
        block(&mut out, SECTION, &body);
        Self { watching, interfaces: HashMap::new(), missed: 0, out }
    }

    /// What is to be written now: the frames since the last call, and how many were missed.
    pub fn take(&mut self) -> Vec<u8> {
        while self.out.len() < 1 << 20
            && let Some(record) = self.watching.watch.take()
        {
            self.add(&record);
            self.watching.watch.give_back(record);
        }
        let missed = self.watching.watch.missed();
        if missed != self.missed {
            self.missed = missed;
            self.statistics(missed);
        }
        std::mem::take(&mut self.out)
    }

    /// The frame as it came in, and every copy as it left.
    fn add(&mut self, record: &Record) {
        let spec = self.watching.watch.spec().clone();
        let time = self.watching.time(record.at());
        let of_port = |port| spec.port.is_none_or(|wanted| wanted == port);
        let why = |end: &End| match end.fate {
            Fate::Dropped(reason) if spec.reason.is_none_or(|wanted| wanted == reason) => {
                Some(reason)
            }
            _ => None,
        };
        if let Some(frame) = record.frame() {
            let in_port = record.in_port();
            // A drop before it left is told on the frame as it came.
            let comments: Vec<String> = record
                .ends()
                .iter()
                .filter(|end| end.sent.is_none())
                .filter_map(|end| Some((end, why(end)?)))
                .map(|(end, reason)| match reason.side() {
                    Side::In => format!("dropped: {}: {}", reason.name(), reason.cause()),
                    Side::Out => {
                        let port = name(record, end.port);
                        format!("dropped on {port}: {}: {}", reason.name(), reason.cause())
                    }
                })
                .collect();
            let dropped_here =
                record.ends().iter().any(|end| end.sent.is_none() && of_port(end.port));
            let meets = record.piece_meets(&spec.filter, in_port, frame) || !comments.is_empty();
            let wanted = if spec.only_dropped { !comments.is_empty() } else { meets };
            if wanted && (of_port(in_port) || (dropped_here && !comments.is_empty())) {
                self.packet(record, in_port, frame, time, INBOUND, &comments);
            }
        }
        for end in record.ends() {
            let Some(sent) = end.sent else { continue };
            let reason = why(end);
            let comments: Vec<String> = reason
                .map(|reason| format!("dropped: {}: {}", reason.name(), reason.cause()))
                .into_iter()
                .collect();
            let wanted = (!spec.only_dropped || reason.is_some())
                && record.piece_meets(&spec.filter, end.port, sent);
            if of_port(end.port) && wanted {
                self.packet(record, end.port, sent, time, OUTBOUND, &comments);
            }
        }
    }

    fn packet(
        &mut self,
        record: &Record,
        port: PortId,
        piece: Piece,
        time: SystemTime,
        direction: u32,
        comments: &[String],
    ) {
        let interface = self.interface(record, port);
        let bytes = record.bytes(piece);
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut body = Vec::with_capacity(bytes.len() + 64);
        let head = [interface, (nanos >> 32) as u32, nanos as u32, bytes.len() as u32, piece.len];
        body.extend(head.into_iter().flat_map(u32::to_le_bytes));
        body.extend(bytes);
        pad(&mut body);
        for comment in comments {
            option(&mut body, OPT_COMMENT, comment.as_bytes());
        }
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
        option(&mut body, OPT_END, &[]);
        block(&mut self.out, PACKET, &body);
    }

    /// The number of a port in the file; it is told of first.
    fn interface(&mut self, record: &Record, port: PortId) -> u32 {
        let next = self.interfaces.len() as u32;
        if let Some(known) = self.interfaces.get(&port) {
            return *known;
        }
        let is_vtep = record.snapshot().is_some_and(|snap| snap.overlay().vtep(port).is_some());
        let link: u16 = if is_vtep { RAW } else { ETHERNET };
        let mut body = Vec::new();
        body.extend(link.to_le_bytes());
        body.extend([0, 0]);
        body.extend((self.watching.watch.spec().snap as u32).to_le_bytes());
        option(&mut body, IF_NAME, name(record, port).as_bytes());
        // Nanoseconds.
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, OPT_END, &[]);
        block(&mut self.out, INTERFACE, &body);
        self.interfaces.insert(port, next);
        next
    }

    /// How many frames were missed, all interfaces together: told of the first, as nobody knows which
    /// they came in on.
    fn statistics(&mut self, missed: u64) {
        if self.interfaces.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = now.as_nanos() as u64;
        let mut body = Vec::new();
        let head = [0, (nanos >> 32) as u32, nanos as u32];
        body.extend(head.into_iter().flat_map(u32::to_le_bytes));
        option(&mut body, ISB_IFDROP, &missed.to_le_bytes());
        option(&mut body, OPT_END, &[]);
        block(&mut self.out, STATISTICS, &body);
    }
}

fn name(record: &Record, port: PortId) -> String {
    let conf = record.snapshot().and_then(|snapshot| snapshot.port(port));
    conf.map_or_else(|| format!("{port:?}"), |conf| conf.name.to_string())
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

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() + 12) as u32;
    out.extend(kind.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(body);
    out.extend(len.to_le_bytes());
}
