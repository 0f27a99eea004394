//! Every way a frame can end without being sent, with its cause and its cure.
//!
//! The table below is the single source: counters, the API, `vswitch-ctl drops` and
//! vswitch-drops(7) are made from it, and a test fails for a reason that no test has caused.

use std::fmt;

/// Which ledger of a port a drop belongs to (see [`crate::stats::PortCounters`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before a destination was chosen: counted on the port the frame came in on.
    In,
    /// After: counted on the port the frame was to leave by.
    Out,
}

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $side:ident, $cause:literal, $cure:literal;)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $cause] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its counters.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that counters, API and CLI show, for example `vlan-not-member`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// On which side of the switch it happens.
            pub const fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)* }
            }

            /// What happened, in one sentence.
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What an operator can do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)* }
            }

            /// Index into counter arrays.
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|r| r.name() == name)
            }
        }
    };
}

drop_reasons! {
    Runt, "runt", In,
        "The frame is shorter than an Ethernet header (14 bytes).",
        "Look at the sender: no correct stack or NIC hands out such frames.";
    Giant, "giant", In,
        "The frame is longer than the largest one a port can carry.",
        "Lower the sender's MTU, or its segmentation size.";
    VnetHeader, "vnet-header", In,
        "The offload metadata that came with the frame does not fit the frame.",
        "Look at the guest's or sender's driver; turn its offloads off to be sure.";
    PortUnbound, "port-unbound", In,
        "The port the frame came in on belongs to no bridge.",
        "Put the port into a bridge: vswitch-ctl port set NAME --bridge BRIDGE.";
    LoopGuard, "loop-guard", In,
        "The port is blocked: addresses moved between it and another port as they do in a loop.",
        "Remove the second cable or bridge between the two ports; the block ends by itself.";
    SourceGroup, "source-group", In,
        "The source address is a group address.",
        "Look at the sender: a source address is never multicast (IEEE 802.3).";
    SourceZero, "source-zero", In,
        "The source address is 00:00:00:00:00:00.",
        "Give the sending interface an address.";
    ReservedDestination, "reserved-destination", In,
        "The destination is 01:80:C2:00:00:00 to 0F, which no bridge forwards (IEEE 802.1Q).",
        "None is needed: STP, LACP, LLDP and pause frames end at the first bridge.";
    VlanTagInvalid, "vlan-tag-invalid", In,
        "The VLAN tag is cut short, carries VID 4095, or hides another one on an access port.",
        "Look at the sender's VLAN configuration.";
    VlanNotMember, "vlan-not-member", In,
        "The port is not a member of the frame's VLAN.",
        "Add the VLAN to the port: vswitch-ctl vlan add VID --port NAME.";
    VlanUntagged, "vlan-untagged", In,
        "The frame is untagged and the trunk port has no native VLAN.",
        "Give the trunk a native VLAN, or send tagged.";
    StormLimit, "storm-limit", In,
        "The port sent more broadcast, unknown unicast and multicast than its storm limit.",
        "Find what floods; raise storm-limit on the port if the traffic is wanted.";
    Hairpin, "hairpin", In,
        "The destination is behind the port the frame came in on.",
        "None is needed: the destination has the frame already.";
    Isolated, "isolated", In,
        "Both ports are isolated.",
        "Clear isolated on one of the two ports if they should talk.";
    NoDestination, "no-destination", In,
        "The frame was to be flooded, and no other port takes it.",
        "Check that the destination's port is up and in the same bridge and VLAN.";
    VlanEgress, "vlan-egress", In,
        "The destination's port is no longer a member of the frame's VLAN.",
        "Add the VLAN to that port, or wait for the entry to age.";
    CopyFailed, "copy-failed", In,
        "No buffer was free for a copy of a flooded frame.",
        "Reduce flooding (storm-limit), or give the switch more buffers.";
    MtuExceeded, "mtu-exceeded", Out,
        "The frame is larger than the egress port's MTU.",
        "Use one MTU on all ports of a bridge.";
    NoHeadroom, "no-headroom", Out,
        "There was no room in front of the frame for the header to be pushed.",
        "Report it: the backend promised more headroom.";
    SegmentFailed, "segment-failed", Out,
        "A super-frame could not be cut for a port that cannot take it whole.",
        "Look at memory pressure; lower the sender's GSO size.";
    PortDown, "port-down", Out,
        "The egress port is down or its device is gone.",
        "vswitch-ctl port show tells why.";
    TxFull, "tx-full", Out,
        "The egress queue is full: its reader is slower than its senders.",
        "Look at the reader (a stopped guest?); give the port more queues.";
    TxError, "tx-error", Out,
        "The kernel or driver refused the frame.",
        "vswitch-ctl event shows the last error of the port.";
    HandoverFull, "handover-full", Out,
        "The ring to the worker that owns the egress queue is full.",
        "Give the port more queues, or put both ports on one worker.";
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_resolve() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert_eq!(DropReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(DropReason::from_name("no-such-reason"), None);
    }
}
