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
    OuterInvalid, "outer-invalid", In,
        "The outer IP or UDP header of a packet from the underlay is malformed or cut short.",
        "Look at the sender, or at what damages packets on the way.";
    OuterFragment, "outer-fragment", In,
        "A packet from the underlay is a fragment: tunnels do not reassemble (RFC 7348 4.3).",
        "Raise the MTU of the underlay, or lower the sender's, so that nothing is fragmented.";
    OuterAddress, "outer-address", In,
        "The outer source is no host's address, or the outer destination is not the VTEP's.",
        "Look at the sender's remotes, and for spoofed packets on the underlay.";
    TunnelHeader, "tunnel-header", In,
        "The VXLAN, GENEVE or GRE header is cut short, of another version, or breaks a MUST.",
        "Look at the sender: it speaks another protocol on this port.";
    TunnelReserved, "tunnel-reserved", In,
        "Reserved bits of the tunnel header are set, and the tunnel is strict about it.",
        "Clear strict-reserved on the tunnel if the sender uses an extension.";
    TunnelProtocol, "tunnel-protocol", In,
        "The tunnel carries something else than Ethernet.",
        "Set the sender to Ethernet (0x6558) in the tunnel.";
    TunnelUnknown, "tunnel-unknown", In,
        "No tunnel of the VTEP has this VNI or key.",
        "Add the tunnel, or correct the VNI or key on one of the two sides.";
    TunnelPeer, "tunnel-peer", In,
        "The outer source is not a peer of the tunnel.",
        "Add it to the tunnel's remotes if it should be: vswitch-ctl tunnel peers NAME add ADDRESS.";
    GeneveOptions, "geneve-options", In,
        "The lengths of the GENEVE options do not add up.",
        "Look at the sender.";
    GeneveCritical, "geneve-critical", In,
        "A GENEVE option is critical, and the tunnel does not know it (RFC 8926 3.5).",
        "Configure the option on the tunnel if it means nothing harmful, or do not send it.";
    GeneveControl, "geneve-control", In,
        "A GENEVE control packet (O bit), which no tenant may see (RFC 8926 3.4).",
        "None is needed.";
    GreChecksum, "gre-checksum", In,
        "The GRE checksum is wrong.",
        "Look for what damages packets on the way.";
    GreSequence, "gre-sequence", In,
        "A packet came late: its GRE sequence number is not above the last one (RFC 2890 2.2).",
        "Look for reordering on the underlay; do without sequence if order does not matter.";
    InnerRunt, "inner-runt", In,
        "The frame in the tunnel is shorter than an Ethernet header (14 bytes).",
        "Look at the sender.";
    InnerTag, "inner-tag", In,
        "The frame in the tunnel carries a VLAN tag (RFC 7348 6.1).",
        "Set tags = \"keep\" on the tunnel if tags are wanted.";
    EcnDropped, "ecn-dropped", In,
        "The underlay was congested, and the inner packet cannot be marked (RFC 6040 4.2).",
        "Look at the queues of the underlay.";
    ExceptionFull, "exception-full", In,
        "More came in on an uplink for the host itself than its exception TAP takes.",
        "Find who sends it: tcpdump -ni TAP. Tunnels are not touched by it.";
    SplitHorizon, "split-horizon", In,
        "A frame from a tunnel was to go to a tunnel: remotes reach each other directly.",
        "Let all remotes of the network be remotes of each other.";
    TunnelLoop, "tunnel-loop", Out,
        "The frame is a packet of this very VTEP: the route to the remote leads into the overlay.",
        "Correct the route to the remote: ip route get ADDRESS.";
    TunnelMtu, "tunnel-mtu", Out,
        "The frame is larger than the tunnel carries; its sender is told where that is possible.",
        "Give the ports the MTU that vswitch-ctl mtu show prints, or raise the underlay's.";
    NoRoute, "no-route", Out,
        "The host has no route to the remote that leaves by the VTEP's uplink.",
        "Add one by its exception TAP: ip route get ADDRESS tells where packets go now.";
    NeighbourUnresolved, "neighbour-unresolved", Out,
        "The remote, or the router to it, answers no ARP or ND on the uplink, or not yet.",
        "Look at ip neigh show dev TAP, and at the cable; more than a few packets do not wait.";
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

impl DropReason {
    /// The reasons that tunnels and peers count for themselves, in the order of those counters.
    pub const OVERLAY: &'static [Self] = &[
        Self::TunnelReserved,
        Self::TunnelPeer,
        Self::GeneveOptions,
        Self::GeneveCritical,
        Self::GeneveControl,
        Self::GreChecksum,
        Self::GreSequence,
        Self::InnerRunt,
        Self::InnerTag,
        Self::EcnDropped,
        Self::SplitHorizon,
        Self::TunnelLoop,
        Self::TunnelMtu,
    ];

    /// Index into the counters of tunnels and peers; `None` for what they do not count.
    pub fn overlay_index(self) -> Option<usize> {
        Self::OVERLAY.iter().position(|reason| *reason == self)
    }
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
