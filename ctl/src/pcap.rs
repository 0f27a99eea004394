//! Capture files: classic ones and pcapng, as far as frames have to be read from them.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use vswitch_api::{ApiError, Code};

const SECTION: u32 = 0x0a0d_0d0a;
const SIMPLE: u32 = 3;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Longest block that is read.
const BLOCK_MAX: usize = 1 << 20;
/// Option of a statistics block: frames that were missed.
const IF_DROP: u16 = 5;

const CLASSIC_HEADER: usize = 24;
const CLASSIC_RECORD: usize = 16;
const CLASSIC: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];

/// A block of a pcapng file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// A frame: where its bytes are in the block.
    Packet { from: usize, to: usize },
    /// How many frames were missed so far.
    Missed(u64),
    /// Anything else.
    Other,
}

/// Cuts a stream of pcapng into its blocks, whose numbers are little-endian.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    rest: Vec<u8>,
}

impl Blocks {
    /// Takes more of the stream. `each` gets every block that is whole, until it breaks off.
    pub(crate) fn push(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(Block, &[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<ControlFlow<()>> {
        self.rest.extend_from_slice(data);
        let mut at = 0;
        while let Some(len) = word(&self.rest, at + 4).map(|len| len as usize) {
            if !(12..=BLOCK_MAX).contains(&len) {
                return Err(io::Error::other(format!("it has a block of {len} bytes")));
            }
            let Some(block) = self.rest.get(at..at + len) else { break };
            if each(kind(block), block)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at += len;
        }
        self.rest.drain(..at);
        Ok(ControlFlow::Continue(()))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn kind(block: &[u8]) -> Block {
    let packet = |from: usize, len: Option<u32>| {
        let to = from + len.unwrap_or_default() as usize;
        if to <= block.len() { Block::Packet { from, to } } else { Block::Other }
    };
    match word(block, 0) {
        Some(PACKET) => packet(28, word(block, 20)),
        Some(SIMPLE) => packet(12, word(block, 8).map(|len| len.min(block.len() as u32 - 16))),
        Some(STATISTICS) => {
            let option = block.get(20..32).and_then(|bytes| {
                let code = u16::from_le_bytes(*bytes.first_chunk()?);
                (code == IF_DROP).then(|| bytes.last_chunk().copied().map(u64::from_le_bytes))?
            });
            option.map_or(Block::Other, Block::Missed)
        }
        _ => Block::Other,
    }
}

/// All frames of a capture file, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Vec<u8>>, ApiError> {
    let wrong = |what: String| {
        let message = format!("cannot read frames from {}: {what}", path.display());
        ApiError::new(Code::Local, message)
            .with_hint("a capture file of tcpdump, Wireshark or vswitch-ctl capture is wanted")
    };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let frames = match word(&bytes, 0) {
        Some(SECTION) => of_blocks(&bytes),
        Some(magic) if CLASSIC.contains(&magic) => of_records(&bytes, u32::from_le_bytes),
        Some(magic) if CLASSIC.contains(&magic.swap_bytes()) => {
            of_records(&bytes, u32::from_be_bytes)
        }
        _ => Err("it is no capture file".to_owned()),
    };
    frames.map_err(wrong)
}

fn of_blocks(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut out = Vec::new();
    let each = |block, bytes: &[u8]| {
        if let Block::Packet { from, to } = block {
            out.extend(bytes.get(from..to).map(<[u8]>::to_vec));
        }
        Ok(ControlFlow::Continue(()))
    };
    let _ = Blocks::default().push(bytes, each).map_err(|error| error.to_string())?;
    Ok(out)
}

fn of_records(bytes: &[u8], number: fn([u8; 4]) -> u32) -> Result<Vec<Vec<u8>>, String> {
    let mut rest = bytes.get(CLASSIC_HEADER..).unwrap_or_default();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let len = rest.get(8..).and_then(|r| r.first_chunk()).map(|len| number(*len) as usize);
        let to = len.and_then(|len| len.checked_add(CLASSIC_RECORD));
        let frame = to.and_then(|to| rest.get(CLASSIC_RECORD..to));
        let Some(frame) = frame else {
            return Err(format!("it ends within frame {}", out.len() + 1));
        };
        out.push(frame.to_vec());
        rest = rest.get(CLASSIC_RECORD + frame.len()..).unwrap_or_default();
    }
    Ok(out)
}
