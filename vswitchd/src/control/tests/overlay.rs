//! VTEPs and tunnels: opened, changed, deleted; peers and what is learned of them; what fits.

use switch_core::testing::loopback::Packet;

use switch_core::datapath::PortEventKind;
use vswitch_api::types::{
    FdbBatch, FdbEntry, FdbFilter, FdbFlush, FdbKind, PeersRequest, TunnelPeer, TunnelStatus,
};

use super::*;
use crate::control::TunnelFilter;

const VTEP: &str = "[[vtep]]\nname = \"v4\"\nlocal = \"192.0.2.1\"\n";

/// A bridge with ports, the VTEP `v4`, and more.
fn overlay(ports: &[&str], more: &str) -> String {
    format!("{}{VTEP}{more}", switch(ports))
}

fn tunnel(name: &str, vni: u32, more: &str) -> String {
    format!(
        "[[tunnel]]\nname = \"{name}\"\ntype = \"vxlan\"\nvni = {vni}\nbridge = \"br0\"\n{more}\n"
    )
}

fn to(remotes: &[u8]) -> String {
    let remotes: Vec<_> = remotes.iter().map(|n| format!("\"192.0.2.{n}\"")).collect();
    format!("remotes = [{}]", remotes.join(", "))
}

fn addr(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn add_tunnel(keys: &Json) -> Mutation {
    Mutation::AddTunnel(config::tunnel_from_json(keys).unwrap())
}

fn status(bench: &Bench, name: &str) -> TunnelStatus {
    let filter = TunnelFilter { name: Some(name.to_owned()), ..TunnelFilter::default() };
    bench.ask(|reply| Action::Tunnels(filter, reply)).remove(0)
}

fn peers(bench: &Bench, name: &str) -> Vec<TunnelPeer> {
    bench.ask(|reply| Action::TunnelPeers(name.to_owned(), reply))
}

fn entries(bench: &Bench, filter: FdbFilter) -> Vec<FdbEntry> {
    bench.ask(|reply| Action::Fdb(filter, reply)).into_entries()
}

fn behind(bench: &Bench, remote: u8) -> usize {
    entries(bench, FdbFilter { remote: Some(addr(remote)), ..FdbFilter::default() }).len()
}

fn dropped(bench: &Bench, reason: &str) -> u64 {
    let drops = bench.stats("v4").drops;
    drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
}

/// Waits until the VTEP has dropped a packet from a remote for that reason.
fn refused(bench: &Bench, from: (u8, u32), inner: &[u8], reason: &str) {
    let before = dropped(bench, reason);
    assert!(bench.wire("v4").inject(packet(from.0, from.1, inner)));
    until(reason, || dropped(bench, reason) == before + 1);
}

/// Last byte of the destination, VNI and inner frame of a VXLAN packet over IPv4.
fn opened(packet: &Packet) -> (u8, u32, Vec<u8>) {
    let bytes = &packet.bytes;
    let vni = u32::from_be_bytes([0, bytes[32], bytes[33], bytes[34]]);
    (bytes[19], vni, bytes[36..].to_vec())
}

/// What the VTEP sends when a station behind `port` speaks: the packets, by their remote.
fn sends(bench: &Bench, port: &str, sent: Vec<u8>, copies: usize) -> Vec<(u8, u32, Vec<u8>)> {
    bench.wire("v4").collect();
    assert!(bench.wire(port).inject(sent));
    let mut out = Vec::new();
    until("the packets", || {
        out.extend(bench.wire("v4").collect().iter().map(opened));
        out.len() >= copies
    });
    out.sort_unstable();
    out
}

/// A VXLAN packet from a remote to the VTEP.
fn packet(from: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
    udp(from, 4789, &[&header, inner].concat())
}

/// A UDP packet from a remote to the VTEP.
fn udp(from: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = |before: usize| u16::try_from(before + 8 + payload.len()).unwrap().to_be_bytes();
    let ([ip, udp], port) = ([len(20), len(0)], port.to_be_bytes());
    let mut bytes = vec![0x45, 0, ip[0], ip[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    bytes.extend_from_slice(&[192, 0, 2, from, 192, 0, 2, 1]);
    let sum = switch_core::wire::checksum::checksum(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend_from_slice(&[0xc0, 0, port[0], port[1], udp[0], udp[1], 0, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame from a station behind a remote arrives at a port.
fn arrives(bench: &Bench, from: (u8, u32), inner: Vec<u8>, port: &str) {
    bench.wire(port).collect();
    assert!(bench.wire("v4").inject(packet(from.0, from.1, &inner)));
    let wire = bench.wire(port);
    until("the frame", || wire.take().is_some_and(|packet| packet.bytes == inner));
}

#[test]
fn a_configured_tunnel_carries_frames_both_ways() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7, 8]))));
    let sent = sends(&bench, "a", frame(1, 2), 2);
    assert_eq!(sent, [(7, 10, frame(1, 2)), (8, 10, frame(1, 2))]);
    arrives(&bench, (8, 10), frame(2, 1), "a");
    // It is learned where it came from.
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(8, 10, frame(1, 2))]);
    let underlay = bench.world().underlays.clone();
    assert_eq!(underlay.len(), 1);
    assert_eq!((underlay[0].udp[0].port, underlay[0].gre), (4789, false));
}

#[test]
fn tunnels_are_added_changed_and_deleted_while_others_go_on() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7]))));
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(7, 10, frame(1, 2))]);

    // Another one on the same UDP port needs nothing more of the VTEP, and one in GRE does.
    let add = |keys: Json| bench.mutate(add_tunnel(&keys)).unwrap();
    let br1 = switch_core::config::BridgeSpec::new("br1");
    bench.mutate(Mutation::AddBridge(br1)).unwrap();
    bench.mutate(Mutation::SetVtep("v4".into(), json!({"remotes": ["192.0.2.9"]}))).unwrap();
    let reply = add(json!({"name": "u", "type": "vxlan", "vni": 11, "bridge": "br1"}));
    assert!(reply.realised, "{reply:?}");
    assert_eq!(bench.world().underlays.len(), 1);
    add(json!({"name": "g", "type": "gre", "key": 5, "bridge": "br1"}));
    let underlays = bench.world().underlays.clone();
    assert_eq!((underlays.len(), underlays[1].gre), (2, true));
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(7, 10, frame(1, 2))]);
    assert_eq!((status(&bench, "u").remotes, status(&bench, "g").network), (1, Some(5)));
    let vtep = bench.ask(Action::Vteps).remove(0);
    assert_eq!((vtep.tunnels, vtep.peers, vtep.udp_ports), (3, 3, vec![4789]));

    // What was learned in another network is forgotten.
    arrives(&bench, (7, 10), frame(2, 1), "a");
    assert_eq!((behind(&bench, 7), status(&bench, "t").counters.rx_frames), (1, 1));
    bench.mutate(Mutation::SetTunnel("t".into(), json!({"vni": 20}))).unwrap();
    assert_eq!(behind(&bench, 7), 0);
    refused(&bench, (7, 10), &frame(2, 1), "tunnel-unknown");
    arrives(&bench, (7, 20), frame(2, 1), "a");
    assert_eq!((behind(&bench, 7), status(&bench, "t").counters.rx_frames), (1, 2));

    let refuse = |mutation| bench.mutate(mutation).unwrap_err();
    let error = refuse(Mutation::RemoveBridge("br1".into()));
    assert_eq!((error.code, &*error.message), (Code::InUse, "bridge br1 has tunnels: g, u"));
    let error = refuse(Mutation::RemoveVtep("v4".into()));
    assert_eq!((error.code, error.message.contains("g, t, u")), (Code::InUse, true), "{error}");
    assert_eq!(refuse(Mutation::RemoveTunnel("x".into())).code, Code::NoSuchTunnel);
    assert_eq!(refuse(Mutation::SetVtep("x".into(), json!({}))).code, Code::NoSuchVtep);

    for name in ["t", "u", "g"] {
        bench.mutate(Mutation::RemoveTunnel(name.into())).unwrap();
    }
    assert_eq!(behind(&bench, 7), 0);
    assert_eq!(bench.ask(Action::Vteps)[0].peers, 0);
    refused(&bench, (7, 20), &frame(2, 1), "tunnel-unknown");
    bench.mutate(Mutation::RemoveVtep("v4".into())).unwrap();
    assert!(bench.wires.get("v4").is_none());
}

/// What the VTEP was opened for or adjusted to, in turn: UDP ports, and GRE.
fn underlays(bench: &Bench) -> Vec<(Vec<u16>, bool)> {
    let ports = |spec: &UnderlaySpec| spec.udp.iter().map(|listen| listen.port).collect();
    bench.world().underlays.iter().map(|spec| (ports(spec), spec.gre)).collect()
}

#[test]
fn a_vtep_grows_before_its_tunnels_and_shrinks_after_them() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7]))));
    let wire = bench.wire("v4");
    bench.mutate(Mutation::AddBridge(switch_core::config::BridgeSpec::new("br1"))).unwrap();
    let gre = json!({"name": "u", "type": "gre", "key": 5, "bridge": "br1"});
    bench.mutate(add_tunnel(&gre)).unwrap();
    bench.mutate(Mutation::SetTunnel("t".into(), json!({"udp-port": 4790}))).unwrap();
    bench.mutate(Mutation::RemoveTunnel("u".into())).unwrap();
    let want = [
        (vec![4789], false),
        (vec![4789], true),
        (vec![4789, 4790], true),
        (vec![4790], true),
        (vec![4790], false),
    ];
    assert_eq!(underlays(&bench), want);
    assert_eq!(bench.world().closed, []);
    // It is still the same device.
    bench.wire("a").inject(frame(1, 2));
    until("the packet", || wire.take().is_some());

    // What is refused leaves the VTEP as it was, and is tried again.
    bench.world().failing.insert("v4".into(), "port 1 is in use".into());
    let reply = bench.mutate(add_tunnel(&gre)).unwrap();
    let reason = reply.objects[0].reason.clone().unwrap();
    assert!(!reply.realised && reason.contains("port 1 is in use"), "{reply:?}");
    bench.wire("a").inject(frame(1, 2));
    until("the packet", || wire.take().is_some());
    bench.world().failing.clear();
    until("another attempt", || bench.ask(Action::Vteps)[0].state == PortState::Up);
    assert_eq!(underlays(&bench)[5..], [(vec![4790], true)]);
    assert_eq!(bench.world().closed, []);
}

#[test]
fn a_vtep_that_cannot_be_adjusted_is_opened_again() {
    let world = World { rigid: true, ..World::default() };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let bench = Bench::start_with(dir, &overlay(&["a"], &tunnel("t", 10, &to(&[7]))), world);
    bench.mutate(Mutation::AddBridge(switch_core::config::BridgeSpec::new("br1"))).unwrap();
    let gre = json!({"name": "u", "type": "gre", "key": 5, "bridge": "br1"});
    bench.mutate(add_tunnel(&gre)).unwrap();
    bench.mutate(Mutation::RemoveTunnel("u".into())).unwrap();
    let want = [(vec![4789], false), (vec![4789], true), (vec![4789], false)];
    assert_eq!(underlays(&bench), want);
    assert_eq!(bench.world().closed.len(), 2);
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(7, 10, frame(1, 2))]);
}

#[test]
fn a_missing_local_address_waits_and_the_vtep_comes_up_by_itself() {
    let mut world = World::default();
    world.missing.insert("v4".to_owned());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let toml = overlay(&["a", "b"], &tunnel("t", 10, &to(&[7])));
    let bench = Bench::start_with(dir, &toml, world);
    let vtep = || bench.ask(Action::Vteps).remove(0);
    assert_eq!(vtep().state, PortState::Waiting);
    assert_eq!(status(&bench, "t").state, PortState::Waiting);
    let subjects: Vec<_> =
        bench.ask(Action::Status).warnings.into_iter().map(|warning| warning.subject).collect();
    assert_eq!(subjects, ["vtep v4"]);
    // Ports go on, and a change of the tunnel is accepted and not realised.
    passes(&bench, ("a", 1), ("b", 2));
    let reply = bench.mutate(Mutation::SetTunnel("t".into(), json!({"ttl": 9}))).unwrap();
    assert!(!reply.realised && reply.objects[0].reason.is_some(), "{reply:?}");

    bench.world().missing.clear();
    until("the VTEP", || vtep().state == PortState::Up);
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(7, 10, frame(1, 2))]);
    assert!(!bench.ask(Action::Status).degraded);

    bench.world().missing.insert("v4".to_owned());
    bench.wire("v4").report(PortEventKind::Gone("address 192.0.2.1 is gone".to_owned()));
    until("the VTEP to wait", || vtep().state == PortState::Waiting);
    bench.world().missing.clear();
    until("the VTEP", || vtep().state == PortState::Up);
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(7, 10, frame(1, 2))]);
    assert_eq!(bench.stats("v4").counters.tx_frames, 2);
}

#[test]
fn a_new_local_address_is_used_at_once() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7]))));
    assert_eq!(sends(&bench, "a", frame(1, 2), 1).len(), 1);
    bench.mutate(Mutation::SetVtep("v4".into(), json!({"local": "192.0.2.100"}))).unwrap();
    bench.wire("a").inject(frame(1, 2));
    let mut sent = None;
    until("the packet", || {
        sent = bench.wire("v4").take();
        sent.is_some()
    });
    assert_eq!(sent.unwrap().bytes[12..20], [192, 0, 2, 100, 192, 0, 2, 7]);
}

#[test]
fn all_is_the_same_after_a_restart_and_after_a_rollback() {
    let file = overlay(&["a"], &tunnel("t", 10, &to(&[7])));
    let bench = Bench::start(&file);
    let keys = json!({
        "name": "n", "type": "geneve", "vni": 7, "bridge": "br0", "remotes": ["192.0.2.8"]
    });
    bench.mutate(add_tunnel(&keys)).unwrap();
    let (toml, dir) = (bench.toml(), bench.stop());
    let bench = Bench::start_in(dir, &file);
    assert_eq!(bench.toml(), toml);
    assert_eq!(status(&bench, "n").origin, vswitch_api::types::Origin::Api);
    assert_eq!(status(&bench, "t").origin, vswitch_api::types::Origin::File);
    let sent = sends(&bench, "a", frame(1, 2), 2);
    assert_eq!(sent.iter().map(|(to, ..)| *to).collect::<Vec<_>>(), [7, 8]);
    bench.mutate(Mutation::Rollback(None)).unwrap();
    assert_eq!(sends(&bench, "a", frame(1, 2), 1).len(), 1);
    assert_eq!(bench.ask(Action::Vteps)[0].udp_ports, [4789]);
}

#[test]
fn peers_that_an_owner_adds_are_taken_and_only_by_him_removed() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7]))));
    let request = |owner: &str, remotes: &[u8]| PeersRequest {
        owner: Some(owner.to_owned()),
        remotes: remotes.iter().map(|n| addr(*n)).collect(),
    };
    let add =
        |peers| bench.control.ask_blocking(|reply| Action::PeersAdd("t".to_owned(), peers, reply));
    let remove = |peers| bench.ask(|reply| Action::PeersRemove("t".to_owned(), peers, reply)).done;
    refused(&bench, (9, 10), &frame(2, 1), "tunnel-peer");
    assert_eq!(add(request("evpn", &[9])).unwrap().done, 1);
    assert_eq!(add(request("evpn", &[9])).unwrap().done, 0);
    assert_eq!(add(request("other", &[9])).unwrap().done, 1);
    arrives(&bench, (9, 10), frame(2, 1), "a");
    let shown: Vec<_> = peers(&bench, "t")
        .into_iter()
        .map(|peer| (peer.address, peer.configured, peer.owners.len(), peer.seen))
        .collect();
    assert_eq!(shown, [(addr(7), true, 0, false), (addr(9), false, 2, true)]);
    // Frames for nobody in particular go there, too.
    assert_eq!(sends(&bench, "a", frame(1, 3), 2).len(), 2);
    // A change of the tunnel leaves them.
    bench.mutate(Mutation::SetTunnel("t".into(), json!({"ttl": 9}))).unwrap();
    arrives(&bench, (9, 10), frame(2, 1), "a");

    assert_eq!((remove(request("nobody", &[9])), remove(request("evpn", &[9]))), (0, 1));
    assert_eq!((behind(&bench, 9), remove(request("other", &[9]))), (1, 1));
    assert_eq!((behind(&bench, 9), peers(&bench, "t").len()), (0, 1));
    refused(&bench, (9, 10), &frame(2, 1), "tunnel-peer");
    let bad = PeersRequest {
        owner: None,
        remotes: vec![addr(1), "224.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    };
    let error = add(bad).unwrap_err();
    assert_eq!((error.code, error.problems.len()), (Code::InvalidRequest, 3));
}

#[test]
fn whoever_sends_to_an_open_tunnel_can_be_learned() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, "peers = \"any\"")));
    arrives(&bench, (9, 10), frame(2, 1), "a");
    until("the peer", || peers(&bench, "t").len() == 1);
    arrives(&bench, (9, 10), frame(2, 1), "a");
    assert_eq!(behind(&bench, 9), 1);
    assert_eq!(sends(&bench, "a", frame(1, 2), 1), [(9, 10, frame(1, 2))]);
    let listed = json!({"peers": "listed", "remotes": ["192.0.2.7"]});
    bench.mutate(Mutation::SetTunnel("t".into(), listed)).unwrap();
    assert_eq!((behind(&bench, 9), peers(&bench, "t")[0].address), (0, addr(7)));
    refused(&bench, (9, 10), &frame(2, 1), "tunnel-peer");
}

#[test]
fn entries_name_tunnel_and_remote() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7, 8]))));
    let entry = |mac: &str, port: &str, remote: Option<u8>| FdbEntry {
        bridge: "br0".into(),
        vlan: 0,
        mac: mac.into(),
        port: port.into(),
        remote: remote.map(addr),
        kind: FdbKind::Static,
        sticky: false,
        age: None,
        owner: None,
    };
    let add = |entries| {
        let batch = FdbBatch { owner: None, entries };
        bench.control.ask_blocking(|reply| Action::FdbAdd(batch, reply))
    };
    let mac = "02:56:00:00:00:05";
    for (bad, why) in [
        (entry(mac, "t", None), "say which remote"),
        (entry(mac, "a", Some(7)), "only tunnels lead to remotes"),
        (entry(mac, "t", Some(9)), "no remote of tunnel t"),
        (FdbEntry { vlan: 5, ..entry(mac, "t", Some(7)) }, "not in VLAN 5"),
    ] {
        let error = add(vec![bad]).unwrap_err();
        assert!(error.problems[0].message.contains(why), "{error:?}");
    }
    let mut monitor = bench.events.monitor();
    add(vec![entry(mac, "t", Some(8))]).unwrap();
    let told = monitor.blocking_recv().unwrap();
    assert_eq!((&*told.port, told.remote), ("t", Some(addr(8))));
    assert_eq!(sends(&bench, "a", frame(1, 5), 1), [(8, 10, frame(1, 5))]);
    arrives(&bench, (7, 10), frame(2, 1), "a");

    let of_tunnel = || FdbFilter { port: Some("t".into()), ..FdbFilter::default() };
    let shown: Vec<_> = entries(&bench, of_tunnel())
        .into_iter()
        .map(|entry| (entry.port, entry.remote, entry.kind))
        .collect();
    let t = || "t".to_owned();
    assert_eq!(
        shown,
        [(t(), Some(addr(7)), FdbKind::Learned), (t(), Some(addr(8)), FdbKind::Static)]
    );
    assert_eq!(status(&bench, "t").counters.fdb, 2);
    let flush = |flush| bench.ask(|reply| Action::FdbFlush(flush, reply)).done;
    let remote = FdbFlush { remote: Some(addr(7)), ..FdbFlush::default() };
    assert_eq!((flush(remote), behind(&bench, 7), behind(&bench, 8)), (1, 0, 1));
    let tunnel = FdbFlush { port: Some("t".into()), also_static: true, ..FdbFlush::default() };
    assert_eq!((flush(tunnel), behind(&bench, 8)), (1, 0));
    // A static one goes with its tunnel.
    add(vec![entry(mac, "t", Some(8))]).unwrap();
    bench.mutate(Mutation::RemoveTunnel("t".into())).unwrap();
    assert!(
        entries(&bench, FdbFilter { mac: Some(mac.into()), ..FdbFilter::default() }).is_empty()
    );
}

#[test]
fn ports_are_told_what_fits_and_follow_the_path() {
    let toml = overlay(&["a", "b"], &tunnel("t", 10, &to(&[7, 8])));
    let bench = Bench::start(&format!(
        "{toml}[[port]]\nname = \"own\"\ntype = \"tap\"\nbridge = \"br0\"\nmtu = 1500\n"
    ));
    let mtus = || ["a", "b", "own"].map(|name| bench.port(name).mtu.unwrap());
    assert_eq!(mtus(), [1450, 1450, 1500]);
    bench.world().paths.insert(addr(8), 1400);
    until("the ports to be told", || mtus() == [1350, 1350, 1500]);
    assert_eq!(status(&bench, "t").inner_mtu, 1350);

    let mtu = bench.ask(|reply| Action::Mtu(None, reply));
    let rows: Vec<_> = mtu.items.iter().map(|row| (row.remote, row.inner_mtu)).collect();
    assert_eq!(rows, [(Some(addr(8)), 1350), (Some(addr(7)), 1450)]);
    let overhead = mtu.items[0].overhead;
    assert_eq!(
        (overhead.outer_ip, overhead.udp, overhead.tunnel, overhead.total()),
        (20, 8, 8, 50)
    );
    let fits: Vec<_> = mtu.ports.iter().map(|row| (&*row.port, row.allowed, row.fits)).collect();
    assert_eq!(fits, [("a", 1350, true), ("b", 1350, true), ("own", 1350, false)]);
    // Only who shares a VLAN with the tunnel is told.
    bench.mutate(Mutation::SetPort("b".into(), json!({"access": 9}))).unwrap();
    assert_eq!(mtus(), [1350, 1500, 1500]);
    // The path is as it was.
    bench.world().paths.insert(addr(8), 9000);
    until("the ports to be told", || mtus() == [1450, 1500, 1500]);
    let keep = json!({"tags": "keep"});
    bench.mutate(Mutation::SetTunnel("t".into(), keep)).unwrap();
    assert_eq!(mtus(), [1446, 1446, 1500]);
    bench.mutate(Mutation::RemoveTunnel("t".into())).unwrap();
    assert_eq!(mtus(), [1500, 1500, 1500]);
}

#[test]
fn a_port_is_opened_with_what_fits() {
    let mut world = World::default();
    world.paths.insert(addr(7), 1400);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let toml = overlay(&["a"], &tunnel("t", 10, &to(&[7])));
    let bench = Bench::start_with(dir, &toml, world);
    assert_eq!(bench.port("a").mtu, Some(1350));
    assert!(bench.world().closed.is_empty());
}

#[test]
fn an_address_that_keeps_moving_between_remotes_is_held() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7, 8]))));
    for round in 0..10 {
        let from = if round % 2 == 0 { 7 } else { 8 };
        let before = status(&bench, "t").counters.rx_frames;
        assert!(bench.wire("v4").inject(packet(from, 10, &frame(2, 1))));
        until("the frame", || status(&bench, "t").counters.rx_frames > before);
    }
    let mac = || FdbFilter { port: Some("t".into()), ..FdbFilter::default() };
    until("the entry to be held", || entries(&bench, mac()).iter().any(|entry| entry.sticky));
    let status = bench.ask(Action::Status);
    assert!(status.warnings.iter().any(|w| w.message.contains("keep moving")), "{status:?}");
    assert!(bench.told().contains(&("fdb-held".to_owned(), "bridge br0".to_owned())));
    assert!(!bench.told().iter().any(|(event, _)| event == "loop-guard"));
    assert_eq!(bench.ask(Action::Metrics).held, 1);
}

#[test]
fn counters_and_drops_of_a_vtep_are_those_of_a_port() {
    let bench = Bench::start(&overlay(&["a"], &tunnel("t", 10, &to(&[7]))));
    assert_eq!(sends(&bench, "a", frame(1, 2), 1).len(), 1);
    refused(&bench, (9, 10), &frame(2, 1), "tunnel-peer");
    arrives(&bench, (7, 10), frame(2, 1), "a");
    let all = bench.ask(Action::PortStats);
    let sum = |f: fn(&PortStats) -> u64| all.iter().map(f).sum::<u64>();
    assert_eq!(
        sum(|p| p.counters.rx_frames + p.inside.copied + p.inside.originated),
        sum(|p| p.counters.tx_frames + p.counters.drops + p.inside.consumed)
    );
    assert_eq!(sum(|p| p.inside.forwarded), sum(|p| p.inside.offered));
    let drops = bench.ask(Action::Drops);
    assert!(drops.iter().any(|row| row.port == "v4" && row.reason == "tunnel-peer"), "{drops:?}");
    let shown = status(&bench, "t");
    assert_eq!((shown.counters.rx_frames, shown.counters.tx_frames), (1, 1));
    assert_eq!((shown.drops[0].reason.as_str(), shown.drops[0].frames), ("tunnel-peer", 1));
    let peer = peers(&bench, "t").remove(0);
    assert_eq!((peer.counters.rx_frames, peer.counters.tx_frames, peer.counters.fdb), (1, 1, 1));
}

#[test]
fn received_options_are_shown_each_once() {
    let geneve = "[[tunnel]]\nname = \"t\"\ntype = \"geneve\"\nvni = 10\nbridge = \"br0\"\n\
                  remotes = [\"192.0.2.7\"]\n";
    let bench = Bench::start(&overlay(&["a"], geneve));
    let received = || -> Vec<_> {
        let options = status(&bench, "t").received_options.into_iter();
        options.map(|o| (o.remote, o.class, o.option_type, o.data)).collect()
    };
    let sends = |typ: u8, data: u8| {
        let header = [2, 0, 0x65, 0x58, 0, 0, 10, 0, 1, 2, typ, 1, data, data, data, data];
        let inner = frame(2, 1);
        assert!(bench.wire("v4").inject(udp(7, 6081, &[&header[..], &inner].concat())));
    };
    let option = |typ, data: &str| (addr(7), 0x0102, typ, data.to_owned());
    sends(3, 0xab);
    until("the option", || received() == [option(3, "abababab")]);
    sends(3, 0xcd);
    until("its new data", || received() == [option(3, "cdcdcdcd")]);
    sends(4, 1);
    until("another one", || received() == [option(3, "cdcdcdcd"), option(4, "01010101")]);
    bench.mutate(Mutation::SetTunnel("t".into(), json!({"ttl": 9}))).unwrap();
    assert_eq!(received().len(), 2);
}
