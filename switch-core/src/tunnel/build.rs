//! From what is asked for of a tunnel to what workers read.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{
    Accepts, HeaderKind, LaneHeader, NetworkKey, Proto, Sequence, TunnelConf, TunnelHeader,
    TunnelState,
};
use crate::config::{InnerTags, PortVlans, TunnelKind, TunnelSpec};
use crate::ids::{BridgeId, PeerId, PortId, TunnelId};
use crate::wire::geneve::{self, BadOption};
use crate::wire::{
    ErspanHeader, EtherType, GeneveHeader, GeneveOptions, GreFields, VxlanHeader, gre,
};

/// What a tunnel is made of beside its specification.
#[derive(Debug)]
pub struct TunnelParts<'a> {
    /// Its number.
    pub id: TunnelId,
    /// The port of its VTEP.
    pub vtep: PortId,
    /// The address of its VTEP.
    pub local: IpAddr,
    /// The number of its bridge.
    pub bridge: BridgeId,
    /// Where BUM frames go.
    pub flood: Arc<[PeerId]>,
    /// Whose packets are accepted.
    pub accepts: Accepts,
    /// Peers that were seen, ascending; only for a tunnel that accepts anybody's packets.
    pub seen: &'a [PeerId],
    /// How many workers count.
    pub workers: usize,
    /// The same tunnel before the change. Counters and sequence numbers go on.
    pub earlier: Option<&'a TunnelConf>,
}

/// How far ahead sequence numbers go on after a change: workers number packets on the old ones
/// until they have seen the new. A peer takes any number that is ahead (RFC 2890 §2.2).
const SEQUENCE_GAP: u32 = 1 << 16;

impl Proto {
    /// What is spoken in such tunnels.
    #[must_use]
    pub const fn of(kind: &TunnelKind) -> Self {
        match kind {
            TunnelKind::Vxlan { udp_port, .. } | TunnelKind::Geneve { udp_port, .. } => {
                Self::Udp(*udp_port)
            }
            TunnelKind::Gre { .. } | TunnelKind::Nvgre { .. } | TunnelKind::Erspan { .. } => {
                Self::Gre
            }
        }
    }
}

impl NetworkKey {
    /// What names such a tunnel to a VTEP.
    #[must_use]
    pub const fn of(vtep: PortId, kind: &TunnelKind) -> Self {
        match kind {
            TunnelKind::Vxlan { vni, udp_port } | TunnelKind::Geneve { vni, udp_port, .. } => {
                Self::udp(vtep, *udp_port, *vni)
            }
            TunnelKind::Gre { key, .. } => Self::gre(vtep, *key),
            TunnelKind::Nvgre { vsid } => Self::nvgre(vtep, *vsid),
            TunnelKind::Erspan { session, .. } => Self::erspan(vtep, *session),
        }
    }
}

impl TunnelSpec {
    /// The VLANs of its bridge that it carries, as a port's.
    #[must_use]
    pub fn vlans(&self) -> PortVlans {
        match (self.tags, self.vlan) {
            (InnerTags::Strip, vlan) => PortVlans::access(vlan.map_or(0, |vlan| vlan.get())),
            (InnerTags::Keep, None) => PortVlans::transparent(),
            (InnerTags::Keep, Some(vlan)) => PortVlans::trunk([vlan.get()], None),
        }
    }

    /// Whether its outer UDP carries a checksum, where its VTEP has the address `local`: over IPv4
    /// only if that is asked for, over IPv6 unless it is not (RFC 7348 §4.1, RFC 8926 §3.3).
    #[must_use]
    pub fn sends_checksum(&self, local: IpAddr) -> bool {
        self.udp_checksum.unwrap_or_else(|| local.is_ipv6())
    }
}

impl TunnelConf {
    /// The tunnel that `spec` asks for.
    ///
    /// # Errors
    /// Its GENEVE options do not fit a header.
    pub fn new(spec: &TunnelSpec, parts: TunnelParts<'_>) -> Result<Self, BadOption> {
        let TunnelParts { id, vtep, local, bridge, flood, accepts, seen, workers, earlier } = parts;
        let known: Vec<(u16, u8)> = match &spec.kind {
            TunnelKind::Geneve { options, .. } => {
                options.iter().map(|o| (o.class, o.typ)).collect()
            }
            _ => Vec::new(),
        };
        let sequences = match (spec.kind.is_numbered(), &accepts) {
            (false, _) => Arc::default(),
            (true, Accepts::Any) => sequences(&flood, seen, earlier),
            (true, Accepts::Listed(listed)) => sequences(&flood, listed, earlier),
        };
        let new_state = || (Arc::<TunnelState>::default(), super::OverlayCounters::each(workers));
        let (state, counters) =
            earlier.map_or_else(new_state, |e| (Arc::clone(&e.state), Arc::clone(&e.counters)));
        let mut tunnel = Self {
            id,
            name: spec.name.as_str().into(),
            vtep,
            proto: Proto::of(&spec.kind),
            network: NetworkKey::of(vtep, &spec.kind),
            bridge,
            vlans: spec.vlans(),
            flood,
            accepts,
            learning: spec.learning,
            ttl: spec.ttl,
            dscp: spec.dscp,
            lane: None,
            df: spec.df,
            udp_checksum: spec.sends_checksum(local),
            strict_reserved: spec.strict_reserved,
            mss_clamp: spec.mss_clamp,
            header: header(&spec.kind)?,
            known_options: known.into(),
            sequences,
            state,
            counters,
        };
        tunnel.lane = LaneHeader::new(&tunnel);
        Ok(tunnel)
    }
}

/// What follows the outer IP and UDP headers in packets of such a tunnel.
fn header(kind: &TunnelKind) -> Result<TunnelHeader, BadOption> {
    use zerocopy::IntoBytes as _;
    let written = |fields: GreFields| {
        let mut bytes = vec![0; fields.header_len()];
        // The length is its own.
        let _ = fields.write(&mut bytes);
        bytes
    };
    let gre = GreFields { protocol: EtherType::TEB, checksum: false, key: None, sequence: None };
    let (bytes, kind) = match kind {
        TunnelKind::Vxlan { vni, .. } => {
            (VxlanHeader::new(*vni).as_bytes().to_vec(), HeaderKind::Vxlan)
        }
        TunnelKind::Geneve { vni, options, .. } => {
            let encoded = geneve::encode_options(options)?;
            let checked =
                GeneveOptions::parse(&encoded).map_err(|_| BadOption::AllTooLong(encoded.len()))?;
            let mut bytes = GeneveHeader::new(*vni, EtherType::TEB, checked).as_bytes().to_vec();
            bytes.extend_from_slice(&encoded);
            (bytes, HeaderKind::Geneve)
        }
        TunnelKind::Gre { key, checksum, sequence } => {
            let (checksum, sequence) = (*checksum, *sequence);
            let fields = GreFields { checksum, key: *key, sequence: sequence.then_some(0), ..gre };
            (written(fields), HeaderKind::Gre { checksum, sequence })
        }
        TunnelKind::Nvgre { vsid } => {
            let key = Some(gre::nvgre_key(*vsid, 0));
            (written(GreFields { key, ..gre }), HeaderKind::Nvgre)
        }
        TunnelKind::Erspan { session, index } => {
            let protocol = ErspanHeader::PROTOCOL;
            let mut bytes = written(GreFields { protocol, sequence: Some(0), ..gre });
            bytes.extend_from_slice(ErspanHeader::new(*session, *index).as_bytes());
            (bytes, HeaderKind::Erspan)
        }
    };
    Ok(TunnelHeader { bytes: bytes.into(), kind })
}

/// Sequence numbers for each of these peers; those that there were go on.
fn sequences(
    some: &[PeerId],
    others: &[PeerId],
    earlier: Option<&TunnelConf>,
) -> Arc<[(PeerId, Sequence)]> {
    let peers: BTreeSet<PeerId> = some.iter().chain(others).copied().collect();
    if let Some(earlier) = earlier
        && earlier.sequences.iter().map(|(peer, _)| peer).eq(&peers)
    {
        return Arc::clone(&earlier.sequences);
    }
    let sequence = |peer: PeerId| match earlier.and_then(|earlier| earlier.sequence(peer)) {
        None => Sequence::default(),
        Some(old) => Sequence {
            tx: AtomicU32::new(old.tx.load(Ordering::Relaxed).wrapping_add(SEQUENCE_GAP)),
            rx: AtomicU64::new(old.rx.load(Ordering::Relaxed)),
        },
    };
    peers.into_iter().map(|peer| (peer, sequence(peer))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Vni;
    use crate::wire::geneve::OwnedOption;
    use crate::wire::vlan::VlanId;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn peers(ids: &[u32]) -> Arc<[PeerId]> {
        ids.iter().filter_map(|id| PeerId::new(*id)).collect()
    }

    fn parts<'a>(listed: &[u32], earlier: Option<&'a TunnelConf>) -> TunnelParts<'a> {
        TunnelParts {
            id: TunnelId::new(7).unwrap(),
            vtep: PortId::new(3).unwrap(),
            local: LOCAL,
            bridge: BridgeId::new(5),
            flood: peers(listed),
            accepts: Accepts::Listed(peers(listed)),
            seen: &[],
            workers: 2,
            earlier,
        }
    }

    fn tunnel(kind: TunnelKind) -> TunnelConf {
        TunnelConf::new(&TunnelSpec::new("t", kind, "br0"), parts(&[1], None)).unwrap()
    }

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    #[test]
    fn headers_are_those_of_the_rfcs() {
        let vxlan = tunnel(TunnelKind::Vxlan { vni: vni(0x123456), udp_port: 4789 });
        assert_eq!(&*vxlan.header.bytes, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!((vxlan.outer_len(LOCAL), vxlan.counters.len()), (36, 2));
        assert_eq!(vxlan.network, NetworkKey::udp(vxlan.vtep, 4789, vni(0x123456)));

        let option = |typ| OwnedOption { class: 0x0102, typ, data: vec![9; 4] };
        let geneve = |options| {
            let (vni, udp_port) = (vni(0x123456), 6081);
            tunnel(TunnelKind::Geneve { vni, udp_port, options })
        };
        let plain = [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0];
        assert_eq!(&*geneve(vec![]).header.bytes, plain);
        let with = geneve(vec![option(0x03), option(0x83)]);
        let bytes = [
            [4, 0x40, 0x65, 0x58, 0x12, 0x34, 0x56, 0],
            [1, 2, 3, 1, 9, 9, 9, 9],
            [1, 2, 0x83, 1, 9, 9, 9, 9],
        ];
        assert_eq!(&*with.header.bytes, bytes.concat());
        assert_eq!(&*with.known_options, [(0x0102, 3), (0x0102, 0x83)]);

        let gre = |key, checksum, sequence| tunnel(TunnelKind::Gre { key, checksum, sequence });
        assert_eq!(&*gre(None, false, false).header.bytes, [0, 0, 0x65, 0x58]);
        assert_eq!(&*gre(Some(1), false, false).header.bytes, [0x20, 0, 0x65, 0x58, 0, 0, 0, 1]);
        let all = gre(Some(1), true, true);
        let fields = [[0xb0, 0, 0x65, 0x58], [0; 4], [0, 0, 0, 1], [0; 4]].concat();
        assert_eq!(&*all.header.bytes, fields);
        assert_eq!(all.header.kind, HeaderKind::Gre { checksum: true, sequence: true });
        assert_eq!(all.sequences.len(), 1);

        let nvgre = tunnel(TunnelKind::Nvgre { vsid: vni(0x123456) });
        assert_eq!(&*nvgre.header.bytes, [0x20, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);

        let erspan = tunnel(TunnelKind::Erspan { session: 0x3ab, index: 0xf_edcb });
        let fields = [[0x10, 0, 0x88, 0xbe], [0; 4], [0x10, 0, 3, 0xab], [0, 0xf, 0xed, 0xcb]];
        assert_eq!(&*erspan.header.bytes, fields.concat());
        assert_eq!((erspan.outer_len(LOCAL), erspan.sequences.len()), (36, 1));
    }

    #[test]
    fn tags_and_vlan_say_what_a_tunnel_carries() {
        let kind = TunnelKind::Vxlan { vni: vni(1), udp_port: 4789 };
        let of = |tags, vlan: Option<u16>| {
            let vlan = vlan.map(|vlan| VlanId::new(vlan).unwrap());
            TunnelSpec { tags, vlan, ..TunnelSpec::new("t", kind.clone(), "br0") }.vlans()
        };
        assert_eq!(of(InnerTags::Strip, None), PortVlans::access(0));
        assert_eq!(of(InnerTags::Strip, Some(9)), PortVlans::access(9));
        assert_eq!(of(InnerTags::Keep, None), PortVlans::transparent());
        assert_eq!(of(InnerTags::Keep, Some(9)), PortVlans::trunk([9], None));
    }

    #[test]
    fn outer_udp_has_a_checksum_as_the_family_says_unless_told() {
        let kind = TunnelKind::Vxlan { vni: vni(1), udp_port: 4789 };
        let mut spec = TunnelSpec::new("t", kind, "br0");
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!((spec.sends_checksum(LOCAL), spec.sends_checksum(v6)), (false, true));
        spec.udp_checksum = Some(true);
        assert!(spec.sends_checksum(LOCAL));
        spec.udp_checksum = Some(false);
        assert!(!spec.sends_checksum(v6));
    }

    #[test]
    fn counters_and_sequence_numbers_outlive_a_change() {
        let kind = TunnelKind::Gre { key: None, checksum: false, sequence: true };
        let spec = TunnelSpec::new("t", kind, "br0");
        let first = TunnelConf::new(&spec, parts(&[1, 2], None)).unwrap();
        first.sequence(PeerId::new(2).unwrap()).unwrap().tx.store(9, Ordering::Relaxed);
        let same = TunnelConf::new(&spec, parts(&[1, 2], Some(&first))).unwrap();
        assert!(Arc::ptr_eq(&same.sequences, &first.sequences));
        assert!(Arc::ptr_eq(&same.counters, &first.counters));
        let other = TunnelConf::new(&spec, parts(&[2, 3], Some(&same))).unwrap();
        let next = |id| other.sequence(PeerId::new(id)?).map(|s| s.tx.load(Ordering::Relaxed));
        assert_eq!([next(1), next(2), next(3)], [None, Some(9 + SEQUENCE_GAP), Some(0)]);
    }
}
