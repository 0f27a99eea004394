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
    pub(super) fn way(&mut self, key: Key) -> Way {
        *self.last_way(key)
    }

    /// The header that packets to `key` are sent behind, if they can be sent. Not a copy: that would
    /// be read in other pieces than it was written in, and the processor wait for it.
    #[inline]
    pub(super) fn header(&mut self, key: Key) -> Option<&[u8; ETHERNET]> {
        match self.last_way(key) {
            Way::Behind(header) => Some(header),
            _ => None,
        }
    }

    #[inline]
    fn last_way(&mut self, key: Key) -> &Way {
        if self.last.key != key {
            self.last = self.find(key);
        }
        &self.last.way
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hop: Hop) -> Option<Entry> {
        Some(Entry { hop, used: Arc::default() })
    }

    #[test]
    fn a_destination_is_read_from_either_header() {
        for to in ["192.0.2.7", "2001:db8::7"] {
            let to: IpAddr = to.parse().unwrap();
            let mut head = vec![0; 48];
            match to {
                IpAddr::V4(v4) => {
                    head[0] = 0x45;
                    head[16..20].copy_from_slice(&v4.octets());
                }
                IpAddr::V6(v6) => {
                    head[0] = 0x60;
                    head[24..40].copy_from_slice(&v6.octets());
                }
            }
            let found = destination(&head).unwrap();
            assert_eq!((found, address(found)), (key(to), to));
            assert_eq!(destination(&head[..16]), None);
        }
        assert_eq!(destination(&[0x55; 64]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn a_worker_sees_a_change_when_it_looks() {
        let published = Published::default();
        let mut hops = Hops::new(Arc::clone(&published), [1; 6]);
        let four = key([192, 0, 2, 7].into());
        let six = key([0xfd; 16].into());
        assert_eq!(hops.way(four), Way::Wait);
        let mut table = Table { generation: 1, ..Table::default() };
        table.set(four, entry(Hop::At([2; 6])));
        table.set(six, entry(Hop::NoRoute));
        published.store(Arc::new(table.clone()));
        // Not before it looks, so that a batch is of one piece.
        assert_eq!(hops.way(four), Way::Wait);
        assert!(hops.is_news() && hops.refresh() && !hops.refresh());
        let header = |ethertype: [u8; 2]| {
            let header = [&[2; 6][..], &[1; 6], &ethertype].concat();
            Way::Behind(header.try_into().unwrap())
        };
        assert_eq!(hops.way(four), header([8, 0]));
        assert_eq!(hops.way(six), Way::NoRoute);
        assert!(table.get(four).unwrap().used.load(Ordering::Relaxed));
        table.set(six, entry(Hop::At([2; 6])));
        table.set(four, entry(Hop::Unresolved));
        table.generation = 2;
        published.store(Arc::new(table.clone()));
        assert!(hops.refresh());
        assert_eq!(hops.way(six), header([0x86, 0xdd]));
        assert_eq!(hops.way(four), Way::Unresolved);
        table.set(four, None);
        assert!(table.get(four).is_none());
    }

    #[test]
    fn more_destinations_than_are_at_hand() {
        let published = Published::default();
        let mut table = Table { generation: 1, ..Table::default() };
        let to = |n: u32| key(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        for n in 0..2000 {
            table.set(to(n), entry(Hop::At([n as u8; 6])));
        }
        published.store(Arc::new(table));
        let mut hops = Hops::new(published, [1; 6]);
        hops.refresh();
        for n in (0..2000).chain(0..2000) {
            let Way::Behind(header) = hops.way(to(n)) else { panic!("{n}") };
            assert_eq!(header[..6], [n as u8; 6]);
        }
    }

    #[test]
    fn groups_need_nobody_to_be_asked() {
        let mut hops = Hops::new(Published::default(), [1; 6]);
        for (group, mac) in
            [("239.129.2.3", [1, 0, 0x5e, 1, 2, 3]), ("ff05::1:3", [0x33, 0x33, 0, 1, 0, 3])]
        {
            let Way::Behind(header) = hops.way(key(group.parse().unwrap())) else {
                panic!("{group}")
            };
            assert_eq!(header[..6], mac);
        }
    }
}
