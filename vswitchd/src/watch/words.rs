//! A record as a trace: each thing that the frame met, in words.

use std::sync::Arc;

use switch_core::config::{BridgeConf, PortConf, PortVlans, Snapshot, VlanSet};
use switch_core::drop::Side;
use switch_core::fdb::{Dest, Flags, Learn};
use switch_core::frame::InTag;
use switch_core::tunnel::{PeerConf, TunnelConf, guess};
use switch_core::watch::{End, Facts, Fate, Known, Piece, Record, Station};
use switch_core::{Domain, DropReason, PeerId, PortId};
use vswitch_api::counted;
use vswitch_api::types::{self as api, Hop, ObjectKind, Step, Trace, TraceEnd};

use super::Origins;
use super::rewrite::rewrite;

/// What is known of a record, in words. `time` is shown as it is; `missed` is how many frames before
/// it were not seen.
pub fn trace(record: &Record, origins: &Origins, time: String, missed: u64) -> Trace {
    let nothing = Arc::new(Snapshot::default());
    let snapshot = record.snapshot().unwrap_or(&nothing);
    let teller = Teller { record, snapshot, origins };
    Trace {
        time,
        in_port: teller.port_name(record.in_port()),
        frame: record.frame().map_or_else(
            || "refused while it was received: nothing is known of it".to_owned(),
            |frame| teller.facts(record.in_port(), frame),
        ),
        vlan: record.station().map(|station| station.dst.domain().vid()),
        tunnel: teller.source_tunnel().map(|tunnel| tunnel.name.to_string()),
        hops: teller.hops(),
        ends: record.ends().iter().map(|end| teller.end(end)).collect(),
        more: record.more(),
        missed,
    }
}

struct Teller<'a> {
    record: &'a Record,
    snapshot: &'a Snapshot,
    origins: &'a Origins,
}

impl Teller<'_> {
    fn hops(&self) -> Vec<Hop> {
        let record = self.record;
        let mut out = vec![self.came_in()];
        out.extend(self.source_tunnel().map(|tunnel| self.decap(tunnel)));
        if let Some(station) = record.station() {
            out.push(self.admitted(station));
            out.push(self.learned(station));
            out.extend(self.looked_up(station));
        }
        for end in record.ends() {
            match end.fate {
                Fate::Dropped(reason) => out.push(self.dropped(end, reason)),
                _ => out.extend(self.left(end)),
            }
        }
        if record.ends().is_empty() {
            out.push(hop(Step::Out, "nothing left the switch: it was used up inside".to_owned()));
        }
        out
    }

    fn came_in(&self) -> Hop {
        let port = self.record.in_port();
        let name = self.port_name(port);
        let says = match self.record.frame().map(|frame| frame.offload) {
            Some(offload) if offload.gso.is_some() => {
                format!("in on {name}, a super-frame that stands for several")
            }
            Some(offload) if !offload.is_finished() => {
                format!("in on {name}, its checksum left to be finished")
            }
            _ => format!("in on {name}"),
        };
        Hop { by: Some(self.port_by(port)), ..hop(Step::Port, says) }
    }

    fn decap(&self, tunnel: &TunnelConf) -> Hop {
        let peer = self.record.from().and_then(|(_, peer)| self.peer(peer?));
        let from = peer.map_or_else(|| "an unknown remote".to_owned(), |p| p.addr.to_string());
        let says = format!("out of tunnel {}, sent by {from}", tunnel.name);
        Hop { by: Some(self.tunnel_by(tunnel)), ..hop(Step::Decap, says) }
    }

    fn admitted(&self, station: &Station) -> Hop {
        let domain = station.dst.domain();
        let bridge = self.bridge_name(domain);
        let says = match (station.tag, domain.vid()) {
            (InTag::Untagged, 0) => format!("untagged, in no VLAN of bridge {bridge}"),
            (InTag::Untagged, vid) => format!("untagged: VLAN {vid} of bridge {bridge}"),
            (InTag::Priority, 0) => format!("priority tag, in no VLAN of bridge {bridge}"),
            (InTag::Priority, vid) => format!("priority tag: VLAN {vid} of bridge {bridge}"),
            (InTag::Vlan, vid) => format!("tagged: VLAN {vid} of bridge {bridge}"),
        };
        let by = match self.source_tunnel() {
            Some(tunnel) => self.tunnel_by(tunnel),
            None => self.port_by(self.record.in_port()),
        };
        Hop { by: Some(by), ..hop(Step::Vlan, says) }
    }

    fn learned(&self, station: &Station) -> Hop {
        let mac = station.src.mac();
        let place =
            |known: Option<Known>| known.map_or_else(String::new, |k| self.place(k.entry.dest));
        let at = place(station.src_entry);
        let age = station.src_entry.map_or(0, |known| known.age);
        let says = match station.learn {
            None if self.record.is_blocked() => {
                format!("{mac} is not learned: the loop guard blocks the port")
            }
            None => format!("{mac} is not learned: learning is off"),
            Some(Learn::Refreshed) => format!("{mac} is known to be {at}, last seen {age} s ago"),
            Some(Learn::New) => format!("{mac} is new, and learned"),
            Some(Learn::Moved { from }) => format!("{mac} moved here; it was {}", self.place(from)),
            Some(Learn::Pinned) => {
                let kind = station.src_entry.map_or("fixed", |known| kind(known.entry.flags));
                format!("{mac} stays {at}: that entry is {kind}")
            }
            Some(Learn::PortLimit) => {
                format!("{mac} is not learned: the port's max-fdb is reached")
            }
            Some(Learn::BridgeLimit) => {
                format!("{mac} is not learned: the bridge's max-fdb is reached")
            }
            Some(Learn::TotalLimit) => format!("{mac} is not learned: max-fdb-total is reached"),
            Some(Learn::NoSlot) => {
                format!("{mac} is not learned: no slot of the FDB is free for it")
            }
        };
        let bridge = self.bridge_name(station.src.domain());
        Hop { by: Some(self.origins.of(ObjectKind::Bridge, &bridge)), ..hop(Step::Learn, says) }
    }

    /// Where its destination is; nothing for a port that is blocked, which does not ask.
    fn looked_up(&self, station: &Station) -> Option<Hop> {
        if self.record.is_blocked() {
            return None;
        }
        let mac = station.dst.mac();
        let says = match station.dst_entry {
            _ if mac.is_broadcast() => format!("broadcast: {}", self.flooded(station)),
            _ if mac.is_multicast() => format!("{mac} is a group: {}", self.flooded(station)),
            None => format!("{mac} is not known: {}", self.flooded(station)),
            Some(known) => {
                let kind = kind(known.entry.flags);
                format!("{mac} is {} ({kind}, {} s old)", self.place(known.entry.dest), known.age)
            }
        };
        let own = station.src.mac() == mac && station.dst_entry.is_none();
        let says = if own { format!("{mac} is where it came from") } else { says };
        Some(hop(Step::Lookup, says))
    }

    fn flooded(&self, station: &Station) -> String {
        let domain = station.dst.domain();
        let Some(bridge) = self.snapshot.bridge(domain.bridge()) else {
            return "its bridge is gone".to_owned();
        };
        let ports = counted(bridge.flood(domain.vid()).len(), "port");
        let tunnels = counted(self.tunnels(bridge, domain.vid()).count(), "tunnel");
        format!("flooded; its VLAN has {ports} and {tunnels}")
    }

    /// A frame that left: what was done to it before.
    fn left(&self, end: &End) -> Vec<Hop> {
        let mut out = Vec::new();
        let name = self.port_name(end.port);
        let sent = end.sent.map(|piece| (piece, self.record.bytes(piece)));
        let came = self.record.frame().map(|piece| self.record.bytes(piece)).unwrap_or_default();
        let is_vtep = self.snapshot.overlay().vtep(end.port).is_some();
        let is_reply = end.port == self.record.in_port();
        let mut changes = Vec::new();
        if let Some((piece, bytes)) = sent {
            let what = self.facts(end.port, piece);
            if is_reply {
                let says = format!("the switch answers the sender: {what}");
                return vec![hop(Step::Out, says)];
            }
            if is_vtep {
                out.push(self.encapsulated(end, piece, bytes, what));
            } else if self.record.from().is_none() {
                changes = rewrite(came, bytes);
            }
        }
        let how = match end.fate {
            Fate::HandedOver => "left for the worker that sends on",
            _ => "out on",
        };
        let len = sent.map_or(0, |(piece, _)| piece.len);
        let as_it = match (changes.is_empty(), is_vtep || self.record.from().is_some()) {
            (true, false) => ", as it came",
            _ => "",
        };
        let says = format!("{how} {name}, {len} bytes{as_it}");
        let by = Some(self.port_by(end.port));
        out.push(Hop { by, rewrite: changes, ..hop(Step::Out, says) });
        out
    }

    fn encapsulated(&self, end: &End, piece: Piece, bytes: &[u8], what: String) -> Hop {
        let found = self.tunnel_of(end.port, bytes);
        let came = self.record.frame().map(|frame| self.record.bytes(frame)).unwrap_or_default();
        let rewrite = rewrite(came, bytes);
        let Some((tunnel, peer)) = found else {
            return Hop { rewrite, ..hop(Step::Encap, what) };
        };
        let outer = tunnel.outer_len(peer.addr);
        let inner = (piece.len as usize).saturating_sub(outer);
        let path = peer.state.path_mtu();
        let says = format!(
            "into tunnel {} to {}: {inner} + {outer} = {} of the {path} bytes that the path carries; {what}",
            tunnel.name, peer.addr, piece.len
        );
        Hop { by: Some(self.tunnel_by(tunnel)), rewrite, ..hop(Step::Encap, says) }
    }

    fn dropped(&self, end: &End, reason: DropReason) -> Hop {
        let name = self.port_name(end.port);
        let at = match reason.side() {
            Side::In => format!("dropped as it came in on {name}"),
            Side::Out => format!("dropped on its way out of {name}"),
        };
        let detail = self.detail(end, reason).map_or_else(String::new, |more| format!(" ({more})"));
        let says = format!("{at}: {}: {}{detail}", reason.name(), reason.cause());
        // What is to be changed for it is the tunnel that the packet was for, not the port.
        let meant = match reason {
            DropReason::TunnelPeer => self.meant(end.port).map(|tunnel| tunnel.name.to_string()),
            _ => Some(name),
        };
        let cure = reason.cure();
        Hop {
            by: Some(self.port_by(end.port)),
            hint: Some(meant.map_or_else(|| cure.to_owned(), |name| cure.replace("NAME", &name))),
            ..hop(Step::Drop, says)
        }
    }

    /// The tunnel that a packet from the underlay is for, by its network.
    fn meant(&self, vtep: PortId) -> Option<&Arc<TunnelConf>> {
        let overlay = self.snapshot.overlay();
        guess(overlay, overlay.vtep(vtep)?, self.record.bytes(self.record.frame()?))
    }

    /// The figures behind a drop.
    fn detail(&self, end: &End, reason: DropReason) -> Option<String> {
        let came_in = self.snapshot.port(self.record.in_port());
        let out = self.snapshot.port(end.port);
        let len = self.record.frame().map_or(0, |frame| frame.len);
        match reason {
            DropReason::VlanNotMember | DropReason::VlanUntagged => {
                Some(format!("the port takes {}", vlans(&came_in?.vlans)))
            }
            DropReason::VlanEgress => {
                Some(format!("the port has {}", vlans(&self.destination()?.vlans)))
            }
            DropReason::MtuExceeded => {
                Some(format!("{len} bytes with its header, where the port carries {}", out?.mtu))
            }
            DropReason::StormLimit => {
                Some(format!("{} a second", counted(came_in?.storm?, "frame")))
            }
            DropReason::TunnelMtu => {
                let station = self.record.station()?;
                let peer = self.peer(end.peer?)?;
                let bridge = self.snapshot.bridge(station.dst.domain().bridge())?;
                let overlay = self.snapshot.overlay();
                let tunnel = bridge.tunnel_to(overlay, station.dst.domain().vid(), peer)?;
                let (outer, path) = (tunnel.outer_len(peer.addr), peer.state.path_mtu());
                Some(format!(
                    "{len} + {outer} bytes to {}, where the path carries {path}",
                    peer.addr
                ))
            }
            DropReason::PortDown => Some(format!("{} is down", self.port_name(end.port))),
            DropReason::Isolated => {
                let out = self.destination()?;
                Some(format!("{} and {}", came_in?.name, out.name))
            }
            _ => None,
        }
    }

    /// The port that the FDB named.
    fn destination(&self) -> Option<&Arc<PortConf>> {
        match self.record.station()?.dst_entry?.entry.dest {
            Dest::Port(port) => self.snapshot.port(port),
            Dest::Remote(_) => None,
        }
    }

    fn end(&self, end: &End) -> TraceEnd {
        let (fate, reason) = match end.fate {
            Fate::Sent => (api::Fate::Sent, None),
            Fate::HandedOver => (api::Fate::HandedOver, None),
            Fate::Dropped(reason) => (api::Fate::Dropped, Some(reason.name().to_owned())),
        };
        let bytes = end.sent.map(|piece| piece.len);
        TraceEnd { port: self.port_name(end.port), fate, reason, bytes }
    }

    fn facts(&self, port: PortId, piece: Piece) -> String {
        let bytes = self.record.bytes(piece);
        Facts::of(self.snapshot, port, bytes, piece.len as usize).to_string()
    }

    /// The tunnel and the remote that a packet which leaves by a VTEP is for.
    fn tunnel_of(&self, vtep: PortId, bytes: &[u8]) -> Option<(&TunnelConf, &PeerConf)> {
        let overlay = self.snapshot.overlay();
        let tunnel = switch_core::tunnel::guess(overlay, overlay.vtep(vtep)?, bytes)?;
        let to = match bytes.first()? >> 4 {
            4 => std::net::IpAddr::from(*bytes.get(16..)?.first_chunk::<4>()?),
            _ => std::net::IpAddr::from(*bytes.get(24..)?.first_chunk::<16>()?),
        };
        Some((tunnel, overlay.peer_at(vtep, tunnel.proto, to)?))
    }

    fn tunnels<'a>(
        &'a self,
        bridge: &'a BridgeConf,
        vid: u16,
    ) -> impl Iterator<Item = &'a Arc<TunnelConf>> {
        bridge.tunnels(vid).filter_map(|id| self.snapshot.overlay().tunnel(id))
    }

    fn source_tunnel(&self) -> Option<&Arc<TunnelConf>> {
        self.snapshot.overlay().tunnel(self.record.from()?.0)
    }

    fn peer(&self, id: PeerId) -> Option<&Arc<PeerConf>> {
        self.snapshot.overlay().peer(id)
    }

    fn place(&self, dest: Dest) -> String {
        match dest {
            Dest::Port(port) => format!("behind {}", self.port_name(port)),
            Dest::Remote(peer) => match PeerId::new(peer).and_then(|peer| self.peer(peer)) {
                Some(peer) => format!("behind remote {}", peer.addr),
                None => "behind a remote that is gone".to_owned(),
            },
        }
    }

    fn port_name(&self, port: PortId) -> String {
        self.snapshot.port(port).map_or_else(|| format!("{port:?}"), |conf| conf.name.to_string())
    }

    fn bridge_name(&self, domain: Domain) -> String {
        let bridge = self.snapshot.bridge(domain.bridge());
        bridge.map_or_else(|| format!("{:?}", domain.bridge()), |bridge| bridge.name.to_string())
    }

    fn port_by(&self, port: PortId) -> String {
        let kind = match self.snapshot.overlay().vtep(port) {
            Some(_) => ObjectKind::Vtep,
            None => ObjectKind::Port,
        };
        self.origins.of(kind, &self.port_name(port))
    }

    fn tunnel_by(&self, tunnel: &TunnelConf) -> String {
        self.origins.of(ObjectKind::Tunnel, &tunnel.name)
    }
}

const fn hop(step: Step, says: String) -> Hop {
    Hop { step, says, by: None, hint: None, rewrite: Vec::new() }
}

fn kind(flags: Flags) -> &'static str {
    match flags {
        _ if flags.contains(Flags::STATIC) => "static",
        _ if flags.contains(Flags::LOCAL) => "local",
        _ if flags.contains(Flags::CONTROL) => "control",
        _ if flags.contains(Flags::STICKY) => "sticky",
        _ => "learned",
    }
}

/// The VLANs of a port in words.
fn vlans(vlans: &PortVlans) -> String {
    let untagged = match vlans.pvid {
        None => "no untagged traffic".to_owned(),
        Some(0) => "untagged traffic".to_owned(),
        Some(vid) => format!("untagged traffic as VLAN {vid}"),
    };
    let tagged = match &vlans.tagged {
        VlanSet::All => "every VLAN tagged".to_owned(),
        set if *set == VlanSet::none() => "none tagged".to_owned(),
        set => {
            let all: Vec<u16> = (1..=4094).filter(|vid| set.contains(*vid)).collect();
            let shown: Vec<String> = all.iter().take(10).map(u16::to_string).collect();
            let more = if all.len() > shown.len() { ", …" } else { "" };
            format!("VLANs {}{more} tagged", shown.join(", "))
        }
    };
    format!("{untagged}, {tagged}")
}
