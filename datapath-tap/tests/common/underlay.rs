//! Hosts with VTEPs, and packets as the core makes and reads them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath_tap::TapOptions;
use datapath_tap::testing::RawSocket;
use switch_core::Batch;
use switch_core::batch::BURST_MAX;
use switch_core::datapath::{
    Backend, BackendError, Datapath, PortInfo, Ready, UdpListen, UdpSend, UnderlaySpec, Wait,
};
use switch_core::frame::{Csum, Frame, HeapFrame, Offload};
use switch_core::wire::{Fragment, IpProtocol, Ipv4, Ipv4Header, Ipv6, Ipv6Header, Udp, UdpHeader};
use zerocopy::IntoBytes;

use super::{PATIENCE, Rig, Space, bytes, port, run, spawn_in};

/// The port that all VTEPs of the tests are.
pub const VTEP: u16 = 1;
pub const VXLAN: u16 = 4789;

/// Gives the thread, and those that it starts, a table of files of their own. A command that another
/// test of this process runs would have a copy of all sockets until its exec, and ports would stay
/// in use for that long.
pub fn own_files() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
}

/// A namespace with IPv6, whose devices can be used at once.
pub fn host() -> Space {
    let space = Space::new();
    for conf in ["default", "all"] {
        space.run(&format!("sysctl -qw net.ipv6.conf.{conf}.disable_ipv6=0"));
        space.run(&format!("sysctl -qw net.ipv6.conf.{conf}.accept_dad=0"));
    }
    space
}

/// A wire between two hosts, with `10.x.y.z/24` or `fd..../64` addresses at its ends.
pub fn wire(a: (&Space, &str, [&str; 2]), b: (&Space, &str, [&str; 2]), mtu: u32) {
    let ((an, ad, _), (bn, bd, _)) = (a, b);
    let (an, bn) = (&an.name, &bn.name);
    run(&format!("ip link add {ad} netns {an} type veth peer name {bd} netns {bn}"));
    for (space, device, addresses) in [a, b] {
        space.run(&format!("ip link set {device} mtu {mtu} up"));
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            space.run(&format!("ip addr add {address} dev {device}{nodad}"));
        }
    }
}

/// Two hosts on a wire: `v0` with 192.0.2.1 and 2001:db8::1, and `v1` with the next ones.
pub fn hosts(mtu: u32) -> (Space, Space) {
    own_files();
    let (near, far) = (host(), host());
    wire(
        (&near, "v0", ["192.0.2.1/24", "2001:db8::1/64"]),
        (&far, "v1", ["192.0.2.2/24", "2001:db8::2/64"]),
        mtu,
    );
    (near, far)
}

/// The next `want` packets between these two off the wire.
pub fn captured(socket: &RawSocket, src: IpAddr, dst: IpAddr, want: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    while packets.len() < want {
        let frame = socket.recv(PATIENCE).expect("a packet on the wire");
        let ether = u16::from_be_bytes([frame[12], frame[13]]);
        if [0x0800, 0x86dd].contains(&ether)
            && let Some(packet) = Packet::parse(&frame[14..])
            && (packet.src, packet.dst) == (src, dst)
        {
            packets.push(packet);
        }
    }
    packets
}

/// A VTEP that can do everything.
pub fn spec(local: IpAddr) -> UnderlaySpec {
    let ways = [(false, true), (true, true), (false, false), (true, false)];
    UnderlaySpec {
        name: "vtep0".into(),
        local,
        uplink: None,
        entropy_ports: 64,
        udp: vec![UdpListen { port: VXLAN, groups: Vec::new(), accept_no_checksum: true }],
        gre: true,
        send: ways.map(|(checksum, df)| UdpSend { checksum, df }).to_vec(),
    }
}

impl Rig {
    pub fn open_vtep(&mut self, spec: &UnderlaySpec) -> Result<PortInfo, BackendError> {
        let mut opened = self.backend.open_vtep(port(VTEP), spec)?;
        self.worker.attach(port(VTEP), opened.queues.remove(0));
        Ok(opened.info)
    }

    /// Changes the open VTEP. The calling thread is in its namespace, if sockets are opened.
    pub fn adjust_vtep(&mut self, spec: &UnderlaySpec) -> Result<(), BackendError> {
        let mut queues = self.backend.adjust_vtep(port(VTEP), spec)?.expect("it can be adjusted");
        assert!(self.worker.attach(port(VTEP), queues.remove(0)).is_some());
        Ok(())
    }

    /// A VTEP in `space`.
    pub fn vtep(space: &Space, spec: &UnderlaySpec) -> Self {
        let spec = spec.clone();
        let open = move || {
            let mut rig = Self::new(TapOptions::default());
            rig.open_vtep(&spec).unwrap();
            rig
        };
        spawn_in(space, open).join().unwrap()
    }

    /// Sends a packet.
    pub fn transmit(&mut self, packet: &Packet) {
        self.transmit_all(std::slice::from_ref(packet));
    }

    /// Sends packets in one burst.
    pub fn transmit_all(&mut self, packets: &[Packet]) {
        let mut batch = Batch::with_limit(BURST_MAX);
        for packet in packets {
            let mut frame = self.worker.alloc().unwrap();
            assert!(frame.fill(&packet.bytes()));
            if packet.checksum {
                let start = packet.header_len() as u16 - 8;
                frame.set_offload(Offload { csum: Csum::Partial { start, offset: 6 }, gso: None });
            }
            batch.push(frame).unwrap();
        }
        self.worker.tx_burst(port(VTEP), &mut batch, &self.counters[usize::from(VTEP)]);
        assert!(batch.is_empty());
    }

    /// Receives until `want` packets are there.
    pub fn packets(&mut self, want: usize) -> Vec<Packet> {
        let end = Instant::now() + PATIENCE;
        let mut packets = Vec::new();
        while packets.len() < want {
            assert!(Instant::now() < end, "{} of {want} packets came", packets.len());
            packets.extend(self.take(Duration::from_millis(100)));
        }
        packets
    }

    /// What one turn gives.
    pub fn take(&mut self, patience: Duration) -> Vec<Packet> {
        let mut ready = Ready::default();
        self.worker.poll(Wait::AtMost(patience), &mut ready);
        let mut batch = Batch::new();
        if ready.rx.contains(&port(VTEP)) {
            self.worker.rx_burst(port(VTEP), &mut batch, &self.counters[usize::from(VTEP)]);
        }
        batch.drain().map(|frame| Packet::of(&frame)).collect()
    }
}

/// An outer packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Source and destination port; GRE without.
    pub udp: Option<(u16, u16)>,
    pub class: u8,
    pub ttl: u8,
    pub df: bool,
    /// Whether the UDP checksum is to be finished.
    pub checksum: bool,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn udp(src: IpAddr, dst: IpAddr, payload: Vec<u8>) -> Self {
        let udp = Some((50_000, VXLAN));
        Self { src, dst, udp, class: 0, ttl: 64, df: true, checksum: false, payload }
    }

    pub fn gre(src: IpAddr, dst: IpAddr, payload: Vec<u8>) -> Self {
        Self { udp: None, ..Self::udp(src, dst, payload) }
    }

    pub fn header_len(&self) -> usize {
        let ip = if self.src.is_ipv4() { 20 } else { 40 };
        ip + if self.udp.is_some() { 8 } else { 0 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body: Vec<u8> = Vec::new();
        let mut protocol = IpProtocol::GRE;
        if let Some((src, dst)) = self.udp {
            protocol = IpProtocol::UDP;
            body.extend(UdpHeader::new(src, dst, self.payload.len() as u16).as_bytes());
        }
        body.extend(&self.payload);
        let len = body.len() as u16;
        let mut packet = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4Header::new(src, dst, protocol, len);
                ip.set_ttl(self.ttl);
                ip.set_traffic_class(self.class);
                let mut bytes = ip.as_bytes().to_vec();
                if !self.df {
                    bytes[6] = 0;
                    bytes[10..12].fill(0);
                    let sum = switch_core::wire::checksum::checksum(&bytes);
                    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                bytes
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = Ipv6Header::new(src, dst, protocol, len);
                ip.set_hop_limit(self.ttl);
                ip.set_traffic_class(self.class);
                ip.as_bytes().to_vec()
            }
            _ => panic!("two families"),
        };
        packet.extend(body);
        packet
    }

    /// What was received: every length and checksum in it must hold.
    pub fn of(frame: &HeapFrame) -> Self {
        let bytes = bytes(frame);
        let packet = Self::parse(&bytes).unwrap();
        if packet.udp.is_some() {
            assert_eq!(frame.offload().csum, Csum::Verified);
        }
        packet
    }

    /// A packet off the wire; `checksum` says whether there is one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (src, dst, class, ttl, df, protocol, payload): (IpAddr, IpAddr, _, _, _, _, _) =
            match bytes.first()? >> 4 {
                4 => {
                    let ip = Ipv4::parse(bytes).ok()?;
                    let h = ip.header();
                    assert!(ip.checksum_ok() && h.fragment() == Fragment::Whole);
                    let (class, ttl, df) = (h.traffic_class(), h.ttl(), h.dont_fragment());
                    (h.src().into(), h.dst().into(), class, ttl, df, h.protocol(), ip.payload())
                }
                _ => {
                    let ip = Ipv6::parse(bytes).ok()?;
                    let h = ip.header();
                    let (class, ttl) = (h.traffic_class(), h.hop_limit());
                    (h.src().into(), h.dst().into(), class, ttl, true, ip.protocol(), ip.payload())
                }
            };
        let mut packet = Self::gre(src, dst, payload.to_vec());
        (packet.class, packet.ttl, packet.df) = (class, ttl, df);
        match protocol {
            IpProtocol::UDP => {
                let udp = Udp::parse(payload).ok()?;
                packet.udp = Some((udp.header().src(), udp.header().dst()));
                packet.checksum = udp.header().checksum() != 0;
                packet.payload = udp.payload().to_vec();
            }
            IpProtocol::GRE => {}
            _ => return None,
        }
        Some(packet)
    }
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
