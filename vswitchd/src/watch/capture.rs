//! Records as a capture that goes on: an interface for each port, the direction of each frame, and of
//! dropped ones the reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use switch_core::PortId;
use switch_core::drop::Side;
use switch_core::frame::{Csum, Offload};
use switch_core::watch::{End, Fate, Piece, Record};

use super::Watching;
use super::pcapng::{Direction, Link, Packet, Writer};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    watching: Watching,
    /// The number that each port has in the file.
    interfaces: HashMap<PortId, u32>,
    /// What the file said last of how many frames it lacks.
    missed: u64,
    /// Copies and segments that records had no room for.
    more: u64,
    out: Writer,
}

impl Capture {
    /// Begins one.
    pub fn new(watching: Watching) -> Self {
        let out = Writer::new("vswitchd");
        Self { watching, interfaces: HashMap::new(), missed: 0, more: 0, out }
    }

    /// What is to be written now: the frames since the last call, and how many were missed.
    pub fn take(&mut self) -> Vec<u8> {
        while self.out.len() < 1 << 20
            && let Some(record) = self.watching.watch.take()
        {
            self.add(&record);
            self.more += u64::from(record.more());
            self.watching.watch.give_back(record);
        }
        let missed = self.watching.watch.missed() + self.more;
        if missed != self.missed {
            self.missed = missed;
            // All interfaces together: told of the first, as nobody knows which they came in on.
            self.out.missed(0, nanos(SystemTime::now()), missed);
        }
        self.out.take()
    }

    /// The frame as it came in, and every copy as it left.
    fn add(&mut self, record: &Record) {
        let watch = Arc::clone(&self.watching.watch);
        let spec = watch.spec();
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
                self.packet(record, in_port, frame, time, Direction::In, &comments);
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
                self.packet(record, end.port, sent, time, Direction::Out, &comments);
            }
        }
    }

    fn packet(
        &mut self,
        record: &Record,
        port: PortId,
        piece: Piece,
        time: SystemTime,
        direction: Direction,
        comments: &[String],
    ) {
        let interface = self.interface(record, port);
        // That a checksum is right is worth a word where it is not in the packet any more.
        let told = piece.offload != VERIFIED || is_vtep(record, port);
        self.out.packet(&Packet {
            interface,
            at: nanos(time),
            bytes: record.bytes(piece),
            len: piece.len,
            direction,
            offload: if told { piece.offload } else { Offload::NONE },
            comments,
        });
    }

    /// The number of a port in the file; it is told of first.
    fn interface(&mut self, record: &Record, port: PortId) -> u32 {
        let snap = self.watching.watch.spec().snap as u32;
        *self.interfaces.entry(port).or_insert_with(|| {
            let link = if is_vtep(record, port) { Link::Ip } else { Link::Ethernet };
            self.out.interface(&name(record, port), link, snap)
        })
    }
}

const VERIFIED: Offload = Offload { csum: Csum::Verified, gso: None };

fn is_vtep(record: &Record, port: PortId) -> bool {
    record.snapshot().is_some_and(|snapshot| snapshot.overlay().vtep(port).is_some())
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

fn name(record: &Record, port: PortId) -> String {
    let conf = record.snapshot().and_then(|snapshot| snapshot.port(port));
    conf.map_or_else(|| format!("{port:?}"), |conf| conf.name.to_string())
}
