//! What was to leave, beside what leaves.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::Serialize;
use switch_core::frame::{Csum, Offload};
use vswitch_api::{ApiError, counted};
use vswitchd::replay::{Left, Replay};

use super::ways::no_such_port;
use crate::pcap::{self, Direction, Packet};

/// Frames that are still to leave, by port, with their number in the file.
#[derive(Debug)]
pub(super) struct Expected {
    path: PathBuf,
    /// Under no name where the file does not say by which port frames left.
    waiting: BTreeMap<Option<String>, VecDeque<(usize, Packet)>>,
    /// Whether the file names ports.
    has_ports: bool,
    seen: usize,
    difference: Option<String>,
}

/// How it went.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// How many frames were as expected, until the first difference.
    pub(super) same: usize,
    /// The first difference, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) difference: Option<String>,
}

impl Answer {
    pub(super) fn words(&self) -> String {
        match &self.difference {
            Some(difference) => format!("different: {difference}"),
            None => format!("as expected: {}, byte for byte", counted(self.same, "frame")),
        }
    }
}

impl Expected {
    /// Reads a file; frames that came in are passed over.
    pub(super) fn read(path: &Path, replay: &Replay, config: &Path) -> Result<Self, ApiError> {
        let file = pcap::read(path)?;
        let has_ports = file.interfaces.iter().all(|interface| interface.name.is_some());
        let mut waiting = BTreeMap::<_, VecDeque<_>>::new();
        for (number, packet) in (1..).zip(file.packets) {
            if packet.direction == Direction::In {
                continue;
            }
            let name = file.interfaces.get(packet.interface).and_then(|i| i.name.clone());
            let name = name.filter(|_| has_ports);
            if let Some(name) = &name
                && !replay.entrances().any(|(known, _)| known == name)
            {
                return Err(no_such_port(name, replay, config));
            }
            waiting.entry(name).or_default().push_back((number, packet));
        }
        Ok(Self { path: path.to_owned(), waiting, has_ports, seen: 0, difference: None })
    }

    /// A frame left. Only the first difference is told: others follow from it.
    pub(super) fn compare(&mut self, left: &Left) {
        if self.difference.is_some() {
            return;
        }
        let key = self.has_ports.then(|| left.port.to_string());
        let next = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        self.difference = match next {
            Some((number, packet)) => difference(&packet, left).map(|what| {
                format!("frame {number} of {}, on {}: {what}", self.path.display(), left.port)
            }),
            None => Some(format!(
                "a frame of {} bytes left by {}, and {} has no more there",
                left.bytes.len(),
                left.port,
                self.path.display()
            )),
        };
        self.seen += usize::from(self.difference.is_none());
    }

    pub(super) fn answer(mut self) -> Answer {
        if self.difference.is_none() {
            let rest = self.waiting.iter().filter_map(|(name, packets)| {
                packets.front().map(|(number, packet)| (number, name, packet))
            });
            self.difference =
                rest.min_by_key(|(number, ..)| *number).map(|(number, name, packet)| {
                    let by = name.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
                    let file = self.path.display();
                    format!("frame {number} of {file}, of {} bytes, did not leave{by}", packet.len)
                });
        }
        Answer { same: self.seen, difference: self.difference }
    }
}

/// In what a frame differs from the expected one, in words. Of that, only what was kept counts, and
/// checksums that a device was still to finish are nobody's.
fn difference(expected: &Packet, left: &Left) -> Option<String> {
    if expected.len != left.bytes.len() {
        return Some(format!("it has {} bytes, not {}", left.bytes.len(), expected.len));
    }
    let unfinished = [expected.offload, left.offload].map(checksum);
    let is_checksum =
        |at: usize| unfinished.iter().flatten().any(|field| (*field..*field + 2).contains(&at));
    let bytes = expected.bytes.iter().zip(&left.bytes).enumerate();
    let mut others = bytes.filter(|(at, (a, b))| a != b && !is_checksum(*at));
    let (at, (wanted, is)) = others.next()?;
    let more = others.count();
    let more = if more > 0 { format!(", and {more} more differ") } else { String::new() };
    Some(format!("byte {at} is {is:#04x}, not {wanted:#04x}{more}"))
}

/// Where the checksum is that a device is to finish.
fn checksum(offload: Offload) -> Option<usize> {
    match offload.csum {
        Csum::Partial { start, offset } => Some(usize::from(start) + usize::from(offset)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &[u8], len: usize, offload: Offload) -> Packet {
        let direction = Direction::Out;
        Packet { interface: 0, at: 0, bytes: bytes.to_vec(), len, direction, offload }
    }

    fn told(expected: &Packet, bytes: &[u8]) -> Option<String> {
        let left = Left { port: "vm".into(), bytes: bytes.to_vec(), offload: Offload::NONE };
        difference(expected, &left)
    }

    #[test]
    fn bytes_are_compared_as_far_as_they_are_known() {
        let whole = packet(b"abcdef", 6, Offload::NONE);
        assert_eq!(told(&whole, b"abcdef"), None);
        assert_eq!(told(&whole, b"abcde").as_deref(), Some("it has 5 bytes, not 6"));
        let words = "byte 2 is 0x58, not 0x63, and 1 more differ";
        assert_eq!(told(&whole, b"abXdeX").as_deref(), Some(words));
        assert_eq!(told(&packet(b"abcd", 6, Offload::NONE), b"abcdXX"), None);
        let csum = Csum::Partial { start: 1, offset: 2 };
        let unfinished = packet(b"abcdef", 6, Offload { csum, gso: None });
        assert_eq!(told(&unfinished, b"abcXXf"), None);
        assert!(told(&unfinished, b"abXdef").is_some());
    }
}
