//! The words of the table: keys, destinations, flags, ticks, and what learning can answer.

use std::fmt;
use std::ops::BitOr;

use crate::clock::Nanos;
use crate::ids::{BridgeId, Domain, PortId};
use crate::wire::MacAddr;

/// What an entry is found by: a MAC address in a [`Domain`].
///
/// Kept as the numbers that the table compares, since it is made once for a frame and used a dozen
/// times.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The address, and the domain's low 16 bits.
    low: u64,
    /// The domain's high 12 bits.
    high: u64,
}

impl Key {
    /// The key of `mac` in `domain`.
    #[inline]
    pub const fn new(mac: MacAddr, domain: Domain) -> Self {
        let domain = domain.get() as u64;
        Self { low: mac.to_u64() << 16 | domain & 0xffff, high: domain >> 16 }
    }

    /// The address.
    #[inline]
    pub const fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.low >> 16)
    }

    /// Bridge and VLAN.
    #[inline]
    pub const fn domain(self) -> Domain {
        Domain::from_raw((self.high << 16 | self.low & 0xffff) as u32)
    }

    /// The 64 bits that fill a slot's key word: the address and the domain's low 16 bits.
    #[inline]
    pub(crate) const fn low(self) -> u64 {
        self.low
    }

    /// The 12 bits that do not fit there: the domain's high ones.
    #[inline]
    pub(crate) const fn high(self) -> u64 {
        self.high
    }

    /// The key whose parts these are.
    #[inline]
    pub(crate) const fn from_parts(low: u64, high: u64) -> Self {
        Self { low, high: high & 0xfff }
    }

    pub(super) const fn bridge(self) -> BridgeId {
        self.domain().bridge()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.mac(), self.domain())
    }
}

/// Where frames for a key go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dest {
    /// A port of this switch.
    Port(PortId),
    /// A remote VTEP, by its index in the tunnels' peer table; below [`Dest::REMOTES`].
    Remote(u32),
}

impl Dest {
    /// How many remote VTEPs an entry can name (19 bits).
    pub const REMOTES: u32 = 1 << 19;
}

/// What kind of entry it is. No flag at all: learned from traffic.
///
/// | flag | ages | may move | counts against limits, may be evicted |
/// | --- | --- | --- | --- |
/// | none | yes | yes | yes |
/// | sticky | yes | no | yes |
/// | static | no | no | no |
/// | local | no | no | no |
/// | control | no | yes, and is then a learned one | no |
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// Learned from traffic.
    pub const NONE: Self = Self(0);
    /// Set by an operator: stays until removed.
    pub const STATIC: Self = Self(1);
    /// Never moves to another port, but ages (Linux: `bridge fdb … sticky`).
    pub const STICKY: Self = Self(2);
    /// The switch's own address on that port.
    pub const LOCAL: Self = Self(4);
    /// Put there by a control plane, which withdraws it itself. Traffic from elsewhere takes it
    /// over (Linux: `extern_learn`), since a station that moved is heard here first.
    pub const CONTROL: Self = Self(8);

    const FIXED: u8 = Self::STATIC.0 | Self::LOCAL.0 | Self::CONTROL.0;
    const PINNED: u8 = Self::STATIC.0 | Self::LOCAL.0 | Self::STICKY.0;

    /// All of `other`'s flags are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Ages, counts against the limits and can be evicted: neither static, local nor control.
    pub const fn is_learned(self) -> bool {
        self.0 & Self::FIXED == 0
    }

    /// Traffic cannot move it: static, sticky or local.
    pub const fn is_pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::STATIC, "static"),
            (Self::STICKY, "sticky"),
            (Self::LOCAL, "local"),
            (Self::CONTROL, "control"),
        ];
        let mut set = f.debug_set();
        for (_, name) in names.iter().filter(|(flag, _)| self.contains(*flag)) {
            set.entry(&format_args!("{name}"));
        }
        set.finish()
    }
}

/// A moment in whole seconds since an arbitrary start. Wraps; only differences count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u32);

impl From<Nanos> for Tick {
    /// The tick that `now` falls into.
    fn from(now: Nanos) -> Self {
        Self(now.secs() as u32)
    }
}

/// One entry, as seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address, bridge and VLAN.
    pub key: Key,
    /// Where it points.
    pub dest: Dest,
    /// What kind it is.
    pub flags: Flags,
    /// When it was last learned, in the low 20 bits of a tick.
    pub(super) seen: u32,
}

impl Entry {
    /// Seconds since a frame from this address was last seen, up to a million. For an entry that
    /// does not age: since it was set.
    pub fn age_secs(&self, now: Tick) -> u32 {
        super::ageing::elapsed(self.seen, now)
    }
}

/// What became of an attempt to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// Known already, at the same place.
    Refreshed,
    /// A new entry.
    New,
    /// Known at another place; the entry points here now.
    Moved {
        /// Where it pointed before.
        from: Dest,
    },
    /// A static, sticky or local entry stands elsewhere (or the address is the switch's own):
    /// nothing changed.
    Pinned,
    /// The port holds as many entries as it may.
    PortLimit,
    /// The bridge is full, or what is left of it is kept for ports that hold less.
    BridgeLimit,
    /// The same for the whole table.
    TotalLimit,
    /// Every slot the key could be in is taken (or the [`Dest`] cannot be stored).
    NoSlot,
}

/// Why an entry could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FdbError {
    /// A group or zero address cannot be one station's.
    #[error("{0} is not the address of one station (it is a group address or zero)")]
    NotAStation(MacAddr),
    /// The peer's index is [`Dest::REMOTES`] or above.
    #[error("remote VTEP index {0} is out of range (at most {max})", max = Dest::REMOTES - 1)]
    RemoteOutOfRange(u32),
    /// The port holds as many learned entries as it may.
    #[error("port {0:?} holds as many entries as its limit allows")]
    PortLimit(Dest),
    /// The bridge holds as many learned entries as it may.
    #[error("{0:?} holds as many entries as its limit allows")]
    BridgeLimit(BridgeId),
    /// The table holds as many entries as it may.
    #[error("the forwarding database holds as many entries as its limit allows")]
    TotalLimit,
    /// Entries that do not give way fill every slot the key could be in.
    #[error("no free slot for {0:?}: static entries fill every place it could take")]
    NoSlot(Key),
    /// Workers rewrote this very entry at every attempt.
    #[error("the entry for {0:?} keeps changing; try again")]
    Contended(Key),
}
