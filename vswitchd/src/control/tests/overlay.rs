//! VTEPs and tunnels: opened, changed, deleted; peers and what is learned of them; what fits.

use switch_core::testing::loopback::Packet;

use super::*;

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
    let len = |before: usize| u16::try_from(before + 16 + inner.len()).unwrap().to_be_bytes();
    let [ip, udp] = [len(20), len(0)];
    let mut bytes = vec![0x45, 0, ip[0], ip[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    bytes.extend_from_slice(&[192, 0, 2, from, 192, 0, 2, 1]);
    let sum = switch_core::wire::checksum::checksum(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend_from_slice(&[0xc0, 0, 0x12, 0xb5, udp[0], udp[1], 0, 0]);
    bytes.extend_from_slice(&[8, 0, 0, 0]);
    bytes.extend_from_slice(&(vni << 8).to_be_bytes());
    bytes.extend_from_slice(inner);
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
