//! A host with one tunnel, and what is sent to it and seen of it.

use switch_core::config::{TunnelKind, TunnelSpec};
use switch_core::testing::Packet;
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;
use switch_core::{BridgeId, DropReason};

use crate::lab::overlay::{Tunnel, dropped, spec};
use crate::lab::underlay::{self, Outer, Sum, decode, decode_udp};
use crate::lab::{Lab, Port, small};

pub(crate) const VNI: u32 = 0x00_1234;
/// A remote's UDP source port.
pub(crate) const SRC_PORT: u16 = 50_000;

/// Which IP the underlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    pub(crate) fn local(self) -> &'static str {
        match self {
            Self::V4 => "192.0.2.1",
            Self::V6 => "2001:db8::1",
        }
    }

    pub(crate) fn remotes(self) -> [&'static str; 3] {
        match self {
            Self::V4 => ["192.0.2.2", "192.0.2.3", "192.0.2.4"],
            Self::V6 => ["2001:db8::2", "2001:db8::3", "2001:db8::4"],
        }
    }

    pub(crate) fn stranger(self) -> &'static str {
        match self {
            Self::V4 => "192.0.2.77",
            Self::V6 => "2001:db8::77",
        }
    }

    pub(crate) fn ip_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The checksum that goes with a UDP header where nothing else is configured.
    pub(crate) fn sum(self) -> Sum {
        match self {
            Self::V4 => Sum::None,
            Self::V6 => Sum::Right,
        }
    }
}

/// A bridge with one port and one tunnel.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) bridge: BridgeId,
    pub(crate) tenant: Port,
    pub(crate) vtep: Port,
    pub(crate) tunnel: Tunnel,
    pub(crate) family: Family,
    kind: TunnelKind,
    /// Good packets are numbered where the tunnel is.
    next: u32,
    /// Frames are told apart by their source.
    station: u32,
}

impl Site {
    /// A tunnel with every default to one remote.
    pub(crate) fn new(family: Family, kind: TunnelKind) -> Self {
        Self::with(family, kind, |_| {})
    }

    pub(crate) fn with(
        family: Family,
        kind: TunnelKind,
        set: impl FnOnce(&mut TunnelSpec),
    ) -> Self {
        let mut spec = spec(kind, &family.remotes()[..1]);
        set(&mut spec);
        let mut lab = Lab::new();
        let bridge = lab.bridge(0);
        let tenant = lab.port_with(|setup| {
            setup.conf.bridge = Some(bridge);
            setup.conf.mtu = u16::MAX.into();
        });
        let vtep = lab.vtep(family.local());
        let tunnel = lab.tunnel(vtep, bridge, &spec);
        let kind = spec.kind;
        Self { lab, bridge, tenant, vtep, tunnel, family, kind, next: 1000, station: 1000 }
    }

    /// The outer header of what is sent to the first remote.
    pub(crate) fn out(&self) -> Outer {
        Outer::new(self.family.local(), self.family.remotes()[0])
    }

    /// The outer header of what comes from it.
    pub(crate) fn from(&self) -> Outer {
        self.out().back()
    }

    /// A frame that nobody sent before, to everybody.
    pub(crate) fn call(&mut self) -> Vec<u8> {
        self.station += 1;
        small(MacAddr::BROADCAST, mac(self.station))
    }

    /// The UDP port of the tunnel.
    pub(crate) fn udp_port(&self) -> Option<u16> {
        match &self.kind {
            TunnelKind::Vxlan { udp_port, .. } | TunnelKind::Geneve { udp_port, .. } => {
                Some(*udp_port)
            }
            _ => None,
        }
    }

    /// What is between the outer header and the frame, and the frame.
    fn payload(&mut self, frame: &[u8]) -> Vec<u8> {
        match &self.kind {
            TunnelKind::Vxlan { vni, .. } => underlay::vxlan(vni.get(), frame),
            TunnelKind::Geneve { vni, .. } => underlay::geneve(vni.get(), false, &[], frame),
            TunnelKind::Gre { key, checksum, sequence } => {
                self.next += 1;
                underlay::gre(*checksum, *key, sequence.then_some(self.next), frame)
            }
            TunnelKind::Nvgre { vsid } => {
                underlay::gre(false, Some(vsid.get() << 8 | 0x5a), None, frame)
            }
            TunnelKind::Erspan { .. } => unreachable!("nothing is received"),
        }
    }

    /// A good packet with that outer header.
    pub(crate) fn packet_by(&mut self, outer: Outer, frame: &[u8]) -> Vec<u8> {
        let payload = self.payload(frame);
        self.around(outer, &payload)
    }

    /// A good packet of the first remote.
    pub(crate) fn packet(&mut self, frame: &[u8]) -> Vec<u8> {
        self.packet_by(self.from(), frame)
    }

    /// A packet of the first remote whose tunnel header is `payload`'s.
    pub(crate) fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        self.around(self.from(), payload)
    }

    fn around(&self, outer: Outer, payload: &[u8]) -> Vec<u8> {
        match self.udp_port() {
            Some(port) => outer.udp((SRC_PORT, port), self.family.sum(), payload),
            None => outer.packet(47, payload),
        }
    }

    /// A frame comes from the tenant; the one packet that it becomes.
    #[track_caller]
    pub(crate) fn sent(&mut self, frame: impl Into<Packet>) -> Vec<u8> {
        self.lab.send(self.tenant, frame);
        let mut sent = self.lab.received(self.vtep);
        assert_eq!(sent.len(), 1, "packets");
        self.lab.expect(&[]);
        sent.remove(0).bytes
    }

    /// A frame from the tenant becomes a packet to the first remote of exactly these bytes: the
    /// outer header that every default gives, and `payload`.
    #[track_caller]
    pub(crate) fn sends(&mut self, frame: impl Into<Packet>, payload: &[u8]) {
        let packet = self.sent(frame);
        self.is_exactly(&packet, self.out(), self.family.sum(), payload);
    }

    /// The packet has exactly these bytes; source port and flow label are its own, if they are such
    /// as may be.
    #[track_caller]
    pub(crate) fn is_exactly(&self, packet: &[u8], outer: Outer, sum: Sum, payload: &[u8]) {
        let (seen, _, datagram) = decode(packet);
        assert_eq!(seen.flow_label == 0, self.family == Family::V4, "flow label");
        let outer = Outer { flow_label: seen.flow_label, ..outer };
        let want = match self.udp_port() {
            Some(port) => {
                let ((src, _), _, _) = decode_udp(datagram);
                assert!(src >= 49_152, "source port {src}");
                outer.udp((src, port), sum, payload)
            }
            None => outer.packet(47, payload),
        };
        assert_eq!(packet, want);
    }

    /// A packet comes in; the tenant gets exactly this frame.
    #[track_caller]
    pub(crate) fn takes(&mut self, packet: impl Into<Packet>, frame: &[u8]) {
        self.lab.send(self.vtep, packet);
        self.lab.expect(&[(self.tenant, frame)]);
    }

    /// A packet comes in and is dropped for that reason: nothing is learned of it, and the next good
    /// one passes.
    #[track_caller]
    pub(crate) fn refuses(&mut self, packet: impl Into<Packet>, reason: DropReason) {
        let (entries, remote) = (self.lab.switch.fdb().len(), self.lab.switch.fdb().remote_count());
        let counted = dropped(&self.lab.tunnel_totals(self.tunnel), reason);
        self.lab.dropped(self.vtep, packet, self.vtep, reason);
        let fdb = self.lab.switch.fdb();
        assert_eq!((fdb.len(), fdb.remote_count()), (entries, remote), "{reason} taught something");
        let now = dropped(&self.lab.tunnel_totals(self.tunnel), reason);
        assert_eq!(now - counted, u64::from(DropReason::OVERLAY.contains(&reason)), "{reason}");
        self.is_well();
    }

    /// The next good packet passes.
    #[track_caller]
    pub(crate) fn is_well(&mut self) {
        let call = self.call();
        let good = self.packet(&call);
        self.takes(good, &call);
    }

    /// The first remote shows that a station is there.
    #[track_caller]
    pub(crate) fn meets(&mut self, station: MacAddr) {
        let call = small(MacAddr::BROADCAST, station);
        let packet = self.packet(&call);
        self.takes(packet, &call);
    }

    /// A frame from the tenant is dropped at the VTEP for that reason.
    #[track_caller]
    pub(crate) fn does_not_send(&mut self, frame: impl Into<Packet>, reason: DropReason) {
        self.lab.dropped(self.tenant, frame, self.vtep, reason);
    }
}
