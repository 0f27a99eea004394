//! The first passes of a burst: what comes in, where it is in the table, what it teaches, and where
//! it goes.

use crate::batch::BURST_MAX;
use crate::bridge::{self, Admitted};
use crate::config::PortConf;
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::fdb::{Dest, Fdb, Hash, Key, Place, Tick};
use crate::frame::{Frame, InTag};
use crate::ids::{BridgeId, Domain};
use crate::wire::MacAddr;

/// Up to so many entries are in the caches anyway.
const CACHED: usize = 4096;

/// What is known of the frames of a burst from one port. Arrays side by side, as each pass reads a
/// few of them; kept by the worker, so that none is cleared for the next burst.
///
/// All frames of a port are in one bridge, and a key is the same in all but its low part.
///
/// What a port's frames have in common is hashed and looked up once: who is behind a VM's port, and,
/// in a stream's burst, whom it talks to. That is asked of the burst, not of each frame, so that
/// frames with nothing in common pay nothing for it.
pub(super) struct Plan {
    len: usize,
    high: u64,
    /// All frames are from the same source.
    one_src: bool,
    /// All frames are to the same destination, and of the same kind.
    one_dst: bool,
    src: [u64; BURST_MAX],
    dst: [u64; BURST_MAX],
    src_hash: [Hash; BURST_MAX],
    dst_hash: [Hash; BURST_MAX],
    kinds: [Kind; BURST_MAX],
}

/// How a frame comes in, or why it does not, as a number that is quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    const UNTAGGED: Self = Self(0);
    const PRIORITY: Self = Self(1);
    const VLAN: Self = Self(2);
    /// From here on the numbers of drop reasons follow.
    const REFUSED: u8 = 3;

    pub(super) const fn admitted(tag: InTag) -> Self {
        match tag {
            InTag::Untagged => Self::UNTAGGED,
            InTag::Priority => Self::PRIORITY,
            InTag::Vlan => Self::VLAN,
        }
    }

    const fn refused(reason: DropReason) -> Self {
        Self(Self::REFUSED + reason.index() as u8)
    }

    fn get(self) -> Result<InTag, DropReason> {
        match self {
            Self::UNTAGGED => Ok(InTag::Untagged),
            Self::PRIORITY => Ok(InTag::Priority),
            Self::VLAN => Ok(InTag::Vlan),
            Self(code) => {
                let reason = DropReason::ALL.get(usize::from(code - Self::REFUSED));
                Err(reason.copied().unwrap_or(DropReason::Runt))
            }
        }
    }
}

const _: () = assert!(DropReason::COUNT + (Kind::REFUSED as usize) <= u8::MAX as usize);

/// Where a frame goes, from where, tagged how, in one number: what it has in common with others that
/// go the same way. Of bridge and VLAN it has what differs between frames of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Course(u64);

impl Course {
    /// No frame's.
    pub(super) const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    const fn new(place: Place, dst: u64, kind: Kind) -> Self {
        Self(place.number() as u64 | (dst & 0xffff) << 32 | (kind.0 as u64) << 48)
    }

    /// In the words of bridging; `None` for frames that were refused or whose destination is not
    /// known. `high` is [`Plan::high`].
    pub(super) fn take_apart(self, high: u64) -> Option<(Dest, Domain, InTag)> {
        let tag = Kind((self.0 >> 48) as u8).get().ok()?;
        let domain = Key::from_parts(self.0 >> 32 & 0xffff, high).domain();
        Some((Place::of_number(self.0 as u32).dest()?, domain, tag))
    }
}

/// A frame of a plan.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    /// How it comes in, or why it does not.
    pub(super) tag: Result<InTag, DropReason>,
    pub(super) src: (Key, Hash),
    pub(super) dst: (Key, Hash),
}

impl Planned {
    /// As bridging wants it.
    pub(super) fn admitted(&self) -> Result<Admitted, DropReason> {
        let group = self.dst.0.mac().is_multicast();
        Ok(Admitted { src: self.src.0, dst: self.dst.0, tag: self.tag?, group })
    }
}

/// Has the lines of the table fetched that those hashes of sources and destinations name, all misses
/// at once.
#[inline]
pub(super) fn fetch<D: Datapath>(fdb: &Fdb, hashes: impl Iterator<Item = (Hash, Hash)>) {
    // Two loops, so that neither asks for each frame.
    if fdb.is_crowded() {
        for (src, dst) in hashes {
            let lines = [fdb.front(src), fdb.front(dst), fdb.back(src), fdb.back(dst)];
            lines.into_iter().flatten().for_each(D::fetch);
        }
    } else if fdb.len() > CACHED {
        for (src, dst) in hashes {
            [fdb.front(src), fdb.front(dst)].into_iter().flatten().for_each(D::fetch);
        }
    }
}

/// The low part of the key of no station: what is looked up for frames that were refused.
const NOBODY: u64 = Key::new(MacAddr::ZERO, Domain::from_raw(0)).low();

/// The low parts of the keys of a frame that is not the plainest, and how it comes in.
#[inline(never)]
fn admit(port: &PortConf, head: &[u8]) -> (u64, u64, Kind) {
    match bridge::admit(port, head) {
        Ok(admitted) => (admitted.src.low(), admitted.dst.low(), Kind::admitted(admitted.tag)),
        Err(reason) => (NOBODY, NOBODY, Kind::refused(reason)),
    }
}

/// Hashes the low parts of the first `len` keys, which may all be one.
#[inline(always)]
fn hash_all(
    low: &[u64; BURST_MAX],
    hashes: &mut [Hash; BURST_MAX],
    len: usize,
    one: bool,
    hash: impl Fn(u64) -> Hash,
) {
    if one {
        hashes[..len].fill(hash(low[0]));
    } else {
        for (low, hashed) in low.iter().zip(hashes).take(len) {
            *hashed = hash(*low);
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            len: 0,
            high: 0,
            one_src: false,
            one_dst: false,
            src: [NOBODY; BURST_MAX],
            dst: [NOBODY; BURST_MAX],
            src_hash: [Hash::default(); BURST_MAX],
            dst_hash: [Hash::default(); BURST_MAX],
            kinds: [Kind::UNTAGGED; BURST_MAX],
        }
    }
}

impl Plan {
    /// Which frames may come in, and where they are in the table.
    #[inline(never)]
    pub(super) fn fill<D: Datapath>(&mut self, frames: &[D::Frame], port: &PortConf, fdb: &Fdb) {
        let untagged = bridge::Untagged::of(port);
        self.read(frames.iter(), |frame| {
            let head = frame.head();
            Some(match untagged.and_then(|untagged| untagged.admit(head)) {
                Some((src, dst)) => (src.low(), dst.low(), Kind::UNTAGGED),
                None => admit(port, head),
            })
        });
        self.locate::<D>(port.bridge, fdb);
    }

    /// Reads the low parts of the keys of frames, and how they come in, up to one that `admit` has
    /// none for. Answers how many there are. [`Self::locate`] is to follow.
    #[inline(always)]
    pub(super) fn read<F>(
        &mut self,
        frames: impl Iterator<Item = F>,
        mut admit: impl FnMut(F) -> Option<(u64, u64, Kind)>,
    ) -> usize {
        let places = self.src.iter_mut().zip(&mut self.dst).zip(&mut self.kinds);
        let (mut src_differs, mut dst_differs, mut first) = (0, 0, None);
        self.len = 0;
        for (frame, ((src, dst), kind)) in frames.zip(places) {
            let Some(admitted) = admit(frame) else { break };
            (*src, *dst, *kind) = admitted;
            let (first_src, first_dst, first_kind) = *first.get_or_insert(admitted);
            src_differs |= *src ^ first_src;
            dst_differs |= *dst ^ first_dst | u64::from(kind.0 ^ first_kind.0);
            self.len += 1;
        }
        (self.one_src, self.one_dst) = (src_differs == 0, dst_differs == 0);
        self.len
    }

    /// Where the frames that were read are in the table, all of them in one bridge.
    #[inline(always)]
    pub(super) fn locate<D: Datapath>(&mut self, bridge: Option<BridgeId>, fdb: &Fdb) {
        let high = |bridge| Key::new(MacAddr::ZERO, Domain::new(bridge, 0)).high();
        self.high = bridge.map_or(0, high);
        let high = self.high;
        let hash = |low| fdb.hash(Key::from_parts(low, high));
        hash_all(&self.src, &mut self.src_hash, self.len, self.one_src, hash);
        hash_all(&self.dst, &mut self.dst_hash, self.len, self.one_dst, hash);
        let hashes = self.src_hash.iter().copied().zip(self.dst_hash.iter().copied());
        fetch::<D>(fdb, hashes.take(self.len));
    }

    /// Notes that every source that is known to be at `here` was seen, which changes nothing for any
    /// other frame. Answers with a bit for each frame whose source is new or elsewhere.
    #[inline(never)]
    pub(super) fn refresh(&self, fdb: &Fdb, here: Dest, now: Tick) -> u64 {
        let high = self.high;
        let mut news = 0;
        // A source that is news is news in each of its frames.
        let asked = if self.one_src { 1 } else { self.len };
        let sources = self.src.iter().zip(&self.src_hash).take(asked.min(self.len));
        for (at, (low, hash)) in sources.enumerate() {
            if !fdb.refresh(Key::from_parts(*low, high), *hash, here, now) {
                news |= 1 << at;
            }
        }
        if news == 0 {
            return 0;
        }
        if self.one_src {
            news = u64::MAX >> (BURST_MAX - self.len);
        }
        // Those that were refused are nobody's.
        let refused = self.kinds.iter().take(self.len).map(|kind| kind.get().is_err());
        news & !refused.enumerate().fold(0, |bits, (at, refused)| bits | u64::from(refused) << at)
    }

    /// What decides which way all frames go, if it is the same.
    #[inline(always)]
    pub(super) fn common(&self, fdb: &Fdb) -> Option<Course> {
        if self.one_dst { self.look_up(fdb).next() } else { None }
    }

    /// Looks all destinations up. Answers, in order, with what decides which way each frame goes.
    #[inline(always)]
    pub(super) fn look_up(&self, fdb: &Fdb) -> impl Iterator<Item = Course> {
        let high = self.high;
        let keys = self.dst.iter().zip(&self.dst_hash).take(self.len);
        keys.zip(&self.kinds).map(move |((low, hash), kind)| {
            Course::new(fdb.place(Key::from_parts(*low, high), *hash), *low, *kind)
        })
    }

    /// What the keys of its frames have in common.
    pub(super) fn high(&self) -> u64 {
        self.high
    }

    /// One of its frames, from 0 in order.
    pub(super) fn get(&self, at: usize) -> Option<Planned> {
        let key = |low| Key::from_parts(low, self.high);
        let src = (key(*self.src.get(at)?), *self.src_hash.get(at)?);
        let dst = (key(*self.dst.get(at)?), *self.dst_hash.get(at)?);
        Some(Planned { tag: self.kinds.get(at)?.get(), src, dst })
    }
}
