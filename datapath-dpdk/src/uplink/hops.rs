//! Where packets go on the link: the table that the uplink's thread makes and workers read, and what
//! a worker keeps of it at hand.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Cache};

use super::split::ETHERNET;

/// A destination as bytes: of IPv4 the mapped address.
pub(super) type Key = u128;

/// The key of an address.
pub(super) fn key(addr: IpAddr) -> Key {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of a key.
pub(super) fn address(key: Key) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// What is known of the way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// It or the router to it has this address.
    At([u8; 6]),
    /// It or the router to it does not answer.
    Unresolved,
    /// No route leads there by this uplink.
    NoRoute,
}

/// An entry of the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) hop: Hop,
    /// Set by a worker that takes the entry to its own cache; cleared by the thread.
    pub(super) used: Arc<AtomicBool>,
}

/// Parts of the table, so that a change copies a little.
const SHARDS: usize = 256;

/// What is known of all destinations. Those that are not in it were not asked for, or their
/// neighbour has not answered yet.
#[derive(Clone)]
pub(super) struct Table {
    /// Another one for each table of an uplink.
    pub(super) generation: u64,
    shards: Vec<Arc<HashMap<Key, Entry>>>,
}

impl Default for Table {
    fn default() -> Self {
        Self { generation: 0, shards: (0..SHARDS).map(|_| Arc::default()).collect() }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.shards.iter().map(|shard| shard.len()).sum::<usize>();
        f.debug_struct("Table")
            .field("generation", &self.generation)
            .field("entries", &entries)
            .finish()
    }
}

impl Table {
    pub(super) fn get(&self, key: Key) -> Option<&Entry> {
        self.shards.get(spread(key, SHARDS))?.get(&key)
    }

    /// Sets or removes an entry.
    pub(super) fn set(&mut self, key: Key, entry: Option<Entry>) {
        let Some(shard) = self.shards.get_mut(spread(key, SHARDS)) else { return };
        match entry {
            Some(entry) => drop(Arc::make_mut(shard).insert(key, entry)),
            None if shard.contains_key(&key) => drop(Arc::make_mut(shard).remove(&key)),
            None => {}
        }
    }
}

/// One of `places` (a power of two) for a key.
#[inline]
fn spread(key: Key, places: usize) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64);
    // The odd number next to 2^64 divided by the golden ratio: neighbours end up far apart.
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (places - 1)
}

/// The table that workers see now.
pub(super) type Published = Arc<ArcSwap<Table>>;

/// Destinations that a worker has at hand.
const AT_HAND: usize = 256;

/// What a worker is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Send it behind this header.
    Behind([u8; ETHERNET]),
    /// Keep it back: somebody is being asked.
    Wait,
    Unresolved,
    NoRoute,
}

#[derive(Clone, Copy)]
struct AtHand {
    key: Key,
    way: Way,
}

/// A worker's view of the table: a look at the last destination, then at a few by place.
pub(super) struct Hops {
    table: Cache<Published, Arc<Table>>,
    /// The generation of what is at hand.
    generation: u64,
    last: AtHand,
    at_hand: Box<[AtHand; AT_HAND]>,
    /// The uplink's own address.
    mac: [u8; 6],
}

impl fmt::Debug for Hops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hops").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// No packet goes to the unspecified address.
const NOTHING: AtHand = AtHand { key: 0, way: Way::Wait };

impl Hops {
    pub(super) fn new(table: Published, mac: [u8; 6]) -> Self {
        Self {
            table: Cache::new(table),
            generation: 0,
            last: NOTHING,
            at_hand: Box::new([NOTHING; AT_HAND]),
            mac,
        }
    }

    /// Takes notice of a new table. Whether there is one.
    pub(super) fn refresh(&mut self) -> bool {
        let generation = self.table.load().generation;
        if generation == self.generation {
            return false;
        }
        self.generation = generation;
        self.last = NOTHING;
        self.at_hand.fill(NOTHING);
        true
    }

    /// Whether there is a newer table than the one in use.
    pub(super) fn is_news(&mut self) -> bool {
        self.table.load().generation != self.generation
    }

    /// Where packets to `key` go, by the table that was there at the last [`Self::refresh`].
    #[inline]
    pub(super) fn way(&mut self, key: Key) -> Way {
        if self.last.key != key {
            self.last = self.find(key);
        }
        self.last.way
    }

    #[inline(never)]
    fn find(&mut self, key: Key) -> AtHand {
        let place = spread(key, AT_HAND);
        if self.at_hand[place].key == key {
            return self.at_hand[place];
        }
        let header = |dst| {
            let mut header = [0; ETHERNET];
            header[..6].copy_from_slice(dst);
            header[6..12].copy_from_slice(&self.mac);
            header[12..].copy_from_slice(match address(key) {
                IpAddr::V4(_) => &[8, 0],
                IpAddr::V6(_) => &[0x86, 0xdd],
            });
            Way::Behind(header)
        };
        let way = match group_mac(address(key)) {
            Some(mac) => header(&mac),
            None => match self.table.load().get(key) {
                None => Way::Wait,
                Some(entry) => {
                    entry.used.store(true, Ordering::Relaxed);
                    match entry.hop {
                        Hop::At(mac) => header(&mac),
                        Hop::Unresolved => Way::Unresolved,
                        Hop::NoRoute => Way::NoRoute,
                    }
                }
            },
        };
        self.at_hand[place] = AtHand { key, way };
        self.at_hand[place]
    }
}

/// The Ethernet address of a multicast group (RFC 1112 6.4, RFC 2464 7).
fn group_mac(addr: IpAddr) -> Option<[u8; 6]> {
    match addr {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, a, b, c] = v4.octets();
            Some([0x01, 0x00, 0x5e, a & 0x7f, b, c])
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let [.., a, b, c, d] = v6.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}

/// The destination of an outer packet; `None` for what is no IP packet.
#[inline]
pub(super) fn destination(head: &[u8]) -> Option<Key> {
    match head.first()? >> 4 {
        4 => {
            let dst: [u8; 4] = *head.get(16..20)?.first_chunk()?;
            Some(Key::from(Ipv4Addr::from(dst).to_bits()) | 0xffff_u128 << 32)
        }
        6 => Some(Key::from_be_bytes(*head.get(24..40)?.first_chunk()?)),
        _ => None,
    }
}
