//! Capture files: classic ones and pcapng, as far as frames have to be read from them.

mod blocks;
mod classic;
mod ng;
#[cfg(test)]
mod tests;

use std::path::Path;

use switch_core::frame::Offload;
use vswitch_api::{ApiError, Code};

pub(crate) use blocks::{Block, Blocks};

const SECTION: u32 = 0x0a0d_0d0a;
const SIMPLE: u32 = 3;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Option of a statistics block: frames that were missed.
const IF_DROP: u16 = 5;
/// Longest block that is read, in bytes.
const BLOCK_MAX: usize = 1 << 20;

/// Link types (<https://www.tcpdump.org/linktypes.html>): Ethernet, and IP without anything in front.
pub(crate) const ETHERNET: u16 = 1;
pub(crate) const IP: u16 = 101;

/// Which way a packet went, from where it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Nobody said.
    #[default]
    Unknown,
    /// It came in.
    In,
    /// It left.
    Out,
}

/// Where packets were captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name, if the file says it.
    pub(crate) name: Option<String>,
    /// The link type of its packets.
    pub(crate) link: u16,
}

/// A packet of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Which interface of [`File::interfaces`].
    pub(crate) interface: usize,
    /// Nanoseconds since 1970; 0 where the file has no times.
    pub(crate) at: u64,
    /// Its bytes, as many as were kept.
    pub(crate) bytes: Vec<u8>,
    /// How many it had.
    pub(crate) len: usize,
    /// Which way it went.
    pub(crate) direction: Direction,
    /// What was left undone about it.
    pub(crate) offload: Offload,
}

/// A file, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    /// Where packets were captured.
    pub(crate) interfaces: Vec<Interface>,
    /// In the order of the file.
    pub(crate) packets: Vec<Packet>,
    /// How many more there would have been, as far as whoever captured them knows.
    pub(crate) missed: u64,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<File, ApiError> {
    let wrong = |what: String| {
        let message = format!("cannot read frames from {}: {what}", path.display());
        ApiError::new(Code::Local, message)
            .with_hint("a capture file of tcpdump, Wireshark or vswitch-ctl capture is wanted")
    };
    parse(&std::fs::read(path).map_err(|error| wrong(error.to_string()))?).map_err(wrong)
}

/// Reads what is in a file, or says what is wrong with it.
fn parse(bytes: &[u8]) -> Result<File, String> {
    match bytes.first_chunk().map(|magic| u32::from_le_bytes(*magic)) {
        Some(SECTION) => ng::read(bytes),
        Some(magic) => match classic::Format::of(magic) {
            Some(format) => classic::read(bytes, format),
            None => Err("it is no capture file".to_owned()),
        },
        None => Err("it is no capture file".to_owned()),
    }
}

/// Numbers in the byte order of the machine that wrote the file.
#[derive(Clone, Copy, Debug)]
struct Order {
    is_big: bool,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }
}
