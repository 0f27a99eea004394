//! The stream of a capture under way, cut into its blocks.

use std::io;
use std::ops::ControlFlow;

use super::{BLOCK_MAX, IF_DROP, PACKET, SIMPLE, STATISTICS};

/// A block of a pcapng file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// A frame.
    Packet,
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
    match word(block, 0) {
        Some(PACKET | SIMPLE) => Block::Packet,
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
