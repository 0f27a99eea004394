//! What a worker notes about one frame.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Facts, Filter};
use crate::clock::Nanos;
use crate::config::Snapshot;
use crate::drop::DropReason;
use crate::fdb::{Dest, Entry, Fdb, Key, Learn, Tick};
use crate::frame::{Frame, InTag, Offload};
use crate::ids::{PeerId, PortId, TunnelId};

/// Most outputs of a frame that are noted each; the others are counted.
pub const ENDS_MAX: usize = 16;
/// How many frames of full length a record has room for: the frame, and two outputs.
const PIECES: usize = 3;

/// At least so many bytes of a frame are kept while it is on its way: all headers, for filters.
const HEADERS: usize = 512;

/// Bytes of a frame that were kept: where they are in the record, and how many the frame had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    at: u32,
    kept: u32,
    /// Length of the whole frame in bytes.
    pub len: u32,
    /// What is left undone about it.
    pub offload: Offload,
}

/// What became of a frame, or of one copy or segment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel or the driver took it.
    Sent,
    /// It was left for the worker that owns the port's queue.
    HandedOver,
    /// It was dropped.
    Dropped(DropReason),
}

/// One end of a frame's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The port it was to leave by; for a drop on the way in, the port it came in on.
    pub port: PortId,
    /// The remote it was to be sent to, where it did not come that far.
    pub peer: Option<PeerId>,
    /// It as it left; absent for a drop before that.
    pub sent: Option<Piece>,
    /// What became of it.
    pub fate: Fate,
}

/// An entry of the FDB, at the moment in which the frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The entry.
    pub entry: Entry,
    /// Its age in seconds.
    pub age: u32,
}

/// How bridging knew the frame: its addresses in its domain, and their entries before it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Source address, bridge and VLAN.
    pub src: Key,
    /// Destination address, bridge and VLAN.
    pub dst: Key,
    /// How it was tagged.
    pub tag: InTag,
    /// The entry of the source.
    pub src_entry: Option<Known>,
    /// The entry of the destination.
    pub dst_entry: Option<Known>,
    /// What learning the source comes to; absent where the bridge, the tunnel or a block forbids it.
    pub learn: Option<Learn>,
}

/// What a worker noted about one frame.
#[derive(Debug, Default)]
pub struct Record {
    at: Nanos,
    in_port: Option<PortId>,
    frame: Option<Piece>,
    /// The tunnel it came out of, and from whom.
    pub(crate) from: Option<(TunnelId, Option<PeerId>)>,
    station: Option<Station>,
    /// Whether the loop guard blocked the port.
    pub(crate) blocked: bool,
    ends: ArrayVec<End, ENDS_MAX>,
    more: u32,
    /// Whether there was no room for the frame that was sent last.
    is_full: bool,
    snapshot: Option<Arc<Snapshot>>,
    snap: usize,
    bytes: Vec<u8>,
}

impl Record {
    /// An empty one with room for frames of which `snap` bytes are kept.
    pub(crate) fn with_snap(snap: usize) -> Self {
        Self { snap, bytes: Vec::with_capacity(snap.saturating_mul(PIECES)), ..Self::default() }
    }

    /// About how many bytes of memory such a one takes.
    pub(super) const fn bytes_for(snap: usize) -> usize {
        size_of::<Self>() + snap * PIECES
    }

    /// Forgets everything, but keeps its memory.
    pub(crate) fn clear(&mut self) {
        let (snap, mut bytes) = (self.snap, std::mem::take(&mut self.bytes));
        bytes.clear();
        *self = Self { snap, bytes, ..Self::default() };
    }

    /// A frame came in, of which those who want to know keep at most `snap` bytes. `None` stands for
    /// one that the backend refused while it received it.
    pub(crate) fn begin<F: Frame>(
        &mut self,
        at: Nanos,
        in_port: PortId,
        (frame, snap): (Option<&F>, usize),
        snapshot: &Arc<Snapshot>,
    ) {
        self.clear();
        // A super-frame that is copied whole costs more than all else.
        self.snap = snap.max(HEADERS);
        (self.at, self.in_port) = (at, Some(in_port));
        self.snapshot = Some(Arc::clone(snapshot));
        self.frame = frame.map(|frame| self.keep(frame));
    }

    /// Keeps as many bytes of a frame as there is room for.
    fn keep<F: Frame>(&mut self, frame: &F) -> Piece {
        let at = self.bytes.len();
        let mut room = self.snap.min(self.bytes.capacity().saturating_sub(at));
        frame.for_each_segment(&mut |piece| {
            let part = piece.get(..room.min(piece.len())).unwrap_or_default();
            self.bytes.extend_from_slice(part);
            room -= part.len();
        });
        let kept = self.bytes.len() - at;
        Piece {
            at: at as u32,
            kept: kept as u32,
            len: frame.len() as u32,
            offload: frame.offload(),
        }
    }

    /// Notes how bridging knows the frame: `keys` are those of source and destination, and the source
    /// would be learned to be `here`.
    pub(crate) fn note_station(
        &mut self,
        fdb: &Fdb,
        (src, dst): (Key, Key),
        tag: InTag,
        here: Option<Dest>,
        now: Tick,
    ) {
        let learn = here.map(|here| fdb.learn_dry(src, fdb.hash(src), here));
        let entry = |key| fdb.peek(key).map(|entry| Known { entry, age: entry.age_secs(now) });
        let (src_entry, dst_entry) = (entry(src), entry(dst));
        self.station = Some(Station { src, dst, tag, src_entry, dst_entry, learn });
    }

    /// A frame is offered to a port; [`Self::settle`] says what became of it.
    pub(crate) fn sent<F: Frame>(&mut self, port: PortId, frame: &F) {
        self.is_full |= self.ends.is_full();
        if self.is_full {
            self.more += 1;
            return;
        }
        let sent = Some(self.keep(frame));
        self.ends.push(End { port, peer: None, sent, fate: Fate::HandedOver });
    }

    /// So many more frames were sent, of which nothing else is known.
    pub(crate) fn unseen(&mut self, frames: usize) {
        self.more += u32::try_from(frames).unwrap_or(u32::MAX);
    }

    /// What became of the frame that was offered last.
    pub(crate) fn settle(&mut self, fate: Fate) {
        if let Some(end) = self.ends.last_mut().filter(|_| !self.is_full) {
            end.fate = fate;
        }
    }

    /// A frame that was to leave by `port`, or came in there, was dropped.
    pub(crate) fn dropped(&mut self, port: PortId, peer: Option<PeerId>, reason: DropReason) {
        let end = End { port, peer, sent: None, fate: Fate::Dropped(reason) };
        if self.ends.try_push(end).is_err() {
            self.more += 1;
        }
    }

    /// Takes over what another one says, with as many bytes as fit.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.clear();
        self.ends.clone_from(&other.ends);
        self.snapshot.clone_from(&other.snapshot);
        (self.at, self.in_port, self.more) = (other.at, other.in_port, other.more);
        (self.from, self.station, self.blocked) = (other.from, other.station, other.blocked);
        let mut take = |piece: Piece| {
            let (at, capacity) = (self.bytes.len(), self.bytes.capacity());
            let room = self.snap.min(capacity.saturating_sub(at));
            let from = other.bytes(piece);
            let part = from.get(..room.min(from.len())).unwrap_or_default();
            self.bytes.extend_from_slice(part);
            Piece { at: at as u32, kept: part.len() as u32, ..piece }
        };
        self.frame = other.frame.map(&mut take);
        for end in &mut self.ends {
            end.sent = end.sent.map(&mut take);
        }
    }

    /// When it came in.
    pub fn at(&self) -> Nanos {
        self.at
    }

    /// The port it came in on.
    pub fn in_port(&self) -> PortId {
        self.in_port.unwrap_or(PortId::FIRST)
    }

    /// It as it came in; absent for one that the backend refused while it received it.
    pub fn frame(&self) -> Option<Piece> {
        self.frame
    }

    /// The tunnel it came out of, and the remote that sent it, if that is a known one.
    pub fn from(&self) -> Option<(TunnelId, Option<PeerId>)> {
        self.from
    }

    /// How bridging knew it; absent where it was refused before.
    pub fn station(&self) -> Option<&Station> {
        self.station.as_ref()
    }

    /// Whether the loop guard blocked the port.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// What became of it, in order, for [`ENDS_MAX`] outputs at most.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// How many more outputs there were.
    pub fn more(&self) -> u32 {
        self.more
    }

    /// The snapshot that it was forwarded by.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The bytes that were kept of a frame.
    pub fn bytes(&self, piece: Piece) -> &[u8] {
        let at = piece.at as usize;
        self.bytes.get(at..at + piece.kept as usize).unwrap_or_default()
    }

    /// The reasons for which it, or copies of it, were dropped.
    pub fn drops(&self) -> impl Iterator<Item = DropReason> + '_ {
        self.ends.iter().filter_map(|end| match end.fate {
            Fate::Dropped(reason) => Some(reason),
            _ => None,
        })
    }

    /// Whether it meets a filter, as it came in or as it left anywhere.
    pub fn meets(&self, filter: &Filter) -> bool {
        filter.is_all()
            || self.frame.is_some_and(|frame| self.piece_meets(filter, self.in_port(), frame))
            || self
                .ends
                .iter()
                .any(|end| end.sent.is_some_and(|sent| self.piece_meets(filter, end.port, sent)))
    }

    /// Whether it meets a filter as it was on that port.
    pub fn piece_meets(&self, filter: &Filter, port: PortId, piece: Piece) -> bool {
        let Some(snapshot) = &self.snapshot else { return filter.is_all() };
        filter.is_all()
            || filter.meets(&Facts::of(snapshot, port, self.bytes(piece), piece.len as usize))
    }
}
