//! What workers do with every frame.

use super::ageing::elapsed;
use super::entry::{Dest, Flags, Key, Learn, Tick};
use super::limits::Holder;
use super::slot::{Place, Slot, Value};
use super::table::{Bucket, Hash};
use super::{ATTEMPTS, Fdb};

/// Below one entry in this many slots, nine keys in ten are in the line where they are looked for
/// first.
const CROWDED: usize = 4;

/// What a known entry says to a frame that came from `place`.
enum Standing {
    Here,
    Pinned,
    Elsewhere(Dest),
}

fn standing(value: Value, place: Place) -> Standing {
    let flags = value.flags();
    // The switch's own address as a source is a loop or a lie, wherever it comes from.
    if flags.contains(Flags::LOCAL) {
        Standing::Pinned
    } else if value.place() == place {
        Standing::Here
    } else if flags.is_pinned() {
        Standing::Pinned
    } else {
        value.dest().map_or(Standing::Pinned, Standing::Elsewhere)
    }
}

/// Stamps an entry that stands at `place`; out of line, as it is for the first frame of each
/// second and for entries that were not learned.
///
/// False if it stands elsewhere or is pinned, and also if it changed meanwhile: then it may
/// have been swept, and has to be learned anew.
#[inline(never)]
fn renew(slot: &Slot, value: Value, place: Place, now: Tick) -> bool {
    let Standing::Here = standing(value, place) else { return false };
    let stale = value.flags().is_learned() && elapsed(value.seen(), now) != 0;
    !stale || slot.replace(value, value.seen_at(now))
}

impl Fdb {
    /// Where a key is most likely: to be fetched for all keys of a burst before the first of them is
    /// asked for, so that what the burst has to wait for it waits for once.
    #[inline]
    pub fn front(&self, hash: Hash) -> Option<&Bucket> {
        self.table.front(hash)
    }

    /// Where it is otherwise: to be fetched too, if the table [is crowded](Self::is_crowded).
    #[inline]
    pub fn back(&self, hash: Hash) -> Option<&Bucket> {
        self.table.back(hash)
    }

    /// Whether so many slots are taken (one in 4) that many keys are not in the line where they are
    /// looked for first. To be asked once a burst.
    pub fn is_crowded(&self) -> bool {
        self.len() > self.table.capacity() / CROWDED
    }

    /// Where frames for `key` go. `hash` is [`hash`](Self::hash) of `key`.
    #[inline(always)]
    pub fn lookup(&self, key: Key, hash: Hash) -> Option<Dest> {
        self.table.find(key, hash).and_then(|(_, value)| value.dest())
    }

    /// The same as one number, which is quicker to compare than to take apart.
    #[inline(always)]
    pub(crate) fn place(&self, key: Key, hash: Hash) -> Place {
        self.table.find(key, hash).map_or_else(Place::default, |(_, value)| value.place())
    }

    /// Notes that a frame from `key` came from `dest` at `now`. The caller has made sure that it
    /// is one station's address ([`MacAddr::is_station`](crate::wire::MacAddr::is_station)).
    #[inline]
    pub fn learn(&self, key: Key, hash: Hash, dest: Dest, now: Tick) -> Learn {
        if self.refresh(key, hash, dest, now) {
            Learn::Refreshed
        } else {
            self.learn_news(key, hash, dest, now)
        }
    }

    /// The part of [`learn`](Self::learn) that is all there is to do for nearly every frame: true
    /// if the station is known and where it was, and its age is fresh now.
    #[inline(always)]
    pub fn refresh(&self, key: Key, hash: Hash, dest: Dest, now: Tick) -> bool {
        let Some(place) = Place::of(dest) else { return false };
        let Some((slot, value)) = self.table.find(key, hash) else { return false };
        value.is_fresh(place, now) || renew(slot, value, place, now)
    }

    /// The rest of [`learn`](Self::learn): what happens to few frames, kept out of line.
    #[cold]
    #[inline(never)]
    fn learn_news(&self, key: Key, hash: Hash, dest: Dest, now: Tick) -> Learn {
        let Some(place) = Place::of(dest) else { return Learn::NoSlot };
        for _ in 0..ATTEMPTS {
            let Some((slot, value)) = self.table.find(key, hash) else {
                return match self.insert(key, hash, Value::new(key, place, Flags::NONE, now)) {
                    Ok(true) => Learn::New,
                    Ok(false) => Learn::NoSlot,
                    Err(refused) => refused.into(),
                };
            };
            let from = match standing(value, place) {
                Standing::Here if renew(slot, value, place, now) => return Learn::Refreshed,
                Standing::Here => continue,
                Standing::Pinned => return Learn::Pinned,
                Standing::Elsewhere(from) => from,
            };
            match self.rewrite(slot, key, value, value.becoming(place, Flags::NONE, now)) {
                Ok(true) => return Learn::Moved { from },
                Ok(false) => {}
                Err(refused) => return refused.into(),
            }
        }
        // Other workers moved it every time: it is known, and the last of them is right.
        Learn::Refreshed
    }

    /// What [`learn`](Self::learn) would answer, without doing it.
    pub fn learn_dry(&self, key: Key, hash: Hash, dest: Dest) -> Learn {
        let Some(place) = Place::of(dest) else { return Learn::NoSlot };
        let holder = Holder::of(dest);
        let Some((_, value)) = self.table.find(key, hash) else {
            return match self.limits.judge(key.bridge(), None, holder) {
                Ok(()) if self.table.has_room(hash) => Learn::New,
                Ok(()) => Learn::NoSlot,
                Err(refused) => refused.into(),
            };
        };
        match standing(value, place) {
            Standing::Here => Learn::Refreshed,
            Standing::Pinned => Learn::Pinned,
            Standing::Elsewhere(from) => {
                match self.limits.judge(key.bridge(), Some(value.charge()), holder) {
                    Ok(()) => Learn::Moved { from },
                    Err(refused) => refused.into(),
                }
            }
        }
    }
}
