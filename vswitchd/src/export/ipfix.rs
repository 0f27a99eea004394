//! IPFIX (RFC 7011): flows of sampled frames, with information elements of IANA's registry alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use switch_core::watch::Record;
use switch_core::wire::{EtherType, IpProtocol, Ipv4, Ipv6, TagStack, Tcp, Udp};

use super::{DATAGRAM_MAX, Export, ExportPort, Out, Went, index_of, went};
use crate::clock::Clock;

const VERSION: u16 = 10;
/// Identifiers of sets.
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;
/// Our templates, each for records of one kind.
const FLOWS_V4: u16 = 256;
const FLOWS_V6: u16 = 257;
const FLOWS_OTHER: u16 = 258;
const SAMPLING: u16 = 259;
const INTERFACES: u16 = 260;
/// A field without a fixed length.
const VARIABLE: u16 = u16::MAX;
/// A message's header, and a set's.
const MESSAGE_HEADER: usize = 16;
const SET_HEADER: usize = 4;
/// selectorAlgorithm "Random n-out-of-N Sampling" (RFC 5477, IANA psamp).
const RANDOM_N_OUT_OF_N: u16 = 3;
/// flowEndReason.
const IDLE: u8 = 1;
const ACTIVE: u8 = 2;
const LACK_OF_RESOURCES: u8 = 5;

/// Information elements (IANA registry "IPFIX Entities"), each with its length in bytes.
type Fields = &'static [(u16, u16)];

/// Before the addresses: sourceMacAddress, destinationMacAddress, vlanId, ethernetType,
/// ingressInterface, egressInterface, octetDeltaCount, packetDeltaCount, flowStartMilliseconds,
/// flowEndMilliseconds, flowEndReason.
const COMMON: Fields = &[
    (56, 6),
    (80, 6),
    (58, 2),
    (256, 2),
    (10, 4),
    (14, 4),
    (1, 8),
    (2, 8),
    (152, 8),
    (153, 8),
    (136, 1),
];
/// protocolIdentifier, sourceTransportPort, destinationTransportPort, ipClassOfService, tcpControlBits.
const TRANSPORT: Fields = &[(4, 1), (7, 2), (11, 2), (5, 1), (6, 2)];
/// sourceIPv4Address, destinationIPv4Address.
const ADDRESSES_V4: Fields = &[(8, 4), (12, 4)];
/// sourceIPv6Address, destinationIPv6Address.
const ADDRESSES_V6: Fields = &[(27, 16), (28, 16)];
/// Scope selectorId; selectorAlgorithm, samplingSize, samplingPopulation, samplingInterval.
const OF_SAMPLING: Fields = &[(302, 8), (304, 2), (309, 4), (310, 4), (34, 4)];
/// Scope ingressInterface; interfaceName.
const OF_INTERFACES: Fields = &[(10, 4), (82, VARIABLE)];

/// What is asked of IPFIX.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The observation domain.
    pub domain: u32,
    /// One frame in so many is sampled.
    pub one_in: u32,
    /// How often templates are sent again.
    pub template_refresh: Duration,
    /// After how long a flow that goes on is told of.
    pub active: Duration,
    /// After how long without frames a flow is over.
    pub idle: Duration,
    /// Most flows at once.
    pub max_flows: usize,
}

/// What frames of one flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: [u8; 6],
    dst: [u8; 6],
    vlan: u16,
    ethertype: u16,
    ingress: u32,
    egress: u32,
    packet: Option<Packet>,
}

/// The part of it that only IP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Packet {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ports: (u16, u16),
    class: u8,
}

/// What is counted of a flow since it was told of last.
#[derive(Clone, Copy, Debug)]
struct Flow {
    octets: u64,
    packets: u64,
    /// When its first and its last frame came, by both clocks.
    first: (Instant, u64),
    last: (Instant, u64),
    tcp_flags: u16,
}

/// Flows for a collector of IPFIX.
#[derive(Debug)]
pub struct Ipfix {
    settings: Settings,
    clock: Clock,
    flows: HashMap<Key, Flow>,
    ports: Arc<[ExportPort]>,
    /// When templates, and what options tell, are sent again.
    refresh_at: Instant,
    /// Data records that were sent so far: the number of the next message.
    records: u32,
    message: Message,
}

/// A message under construction.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// The set at its end, and where that begins.
    set: Option<(u16, usize)>,
    /// Data records in it.
    records: u32,
}

impl Message {
    /// Whether a record of so many bytes finds room, in a set of its own if need be.
    fn has_room(&self, len: usize) -> bool {
        MESSAGE_HEADER + self.bytes.len() + SET_HEADER + len <= DATAGRAM_MAX
    }

    /// Adds a record to the set of that number.
    fn add(&mut self, set: u16, record: &[u8]) {
        if self.set.is_none_or(|(open, _)| open != set) {
            self.close();
            self.set = Some((set, self.bytes.len()));
            self.bytes.extend(set.to_be_bytes());
            self.bytes.extend([0; 2]);
        }
        self.bytes.extend_from_slice(record);
        self.records += u32::from(set > u16::from(u8::MAX));
    }

    /// Writes the length of the set at the end.
    fn close(&mut self) {
        if let Some((_, at)) = self.set.take() {
            let len = (self.bytes.len() - at) as u16;
            if let Some(field) = self.bytes.get_mut(at + 2..at + 4) {
                field.copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}

impl Ipfix {
    /// One that knows no flow yet. `clock` is the workers'.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self {
            settings,
            clock,
            flows: HashMap::new(),
            ports: Arc::default(),
            refresh_at: Instant::now(),
            records: 0,
            message: Message::default(),
        }
    }

    fn add(&mut self, set: u16, record: &[u8], out: &mut Out) {
        if !self.message.has_room(record.len()) {
            self.flush(out);
        }
        self.message.add(set, record);
    }

    fn flush(&mut self, out: &mut Out) {
        self.message.close();
        if self.message.bytes.is_empty() {
            return;
        }
        let message = std::mem::take(&mut self.message);
        let len = (MESSAGE_HEADER + message.bytes.len()) as u16;
        let mut datagram = Vec::with_capacity(len.into());
        datagram.extend(VERSION.to_be_bytes());
        datagram.extend(len.to_be_bytes());
        datagram.extend(((now_millis() / 1000) as u32).to_be_bytes());
        datagram.extend(self.records.to_be_bytes());
        datagram.extend(self.settings.domain.to_be_bytes());
        datagram.extend(message.bytes);
        self.records = self.records.wrapping_add(message.records);
        out.send(&datagram);
    }

    /// Sends templates, how frames are sampled, and what interfaces are called.
    fn refresh(&mut self, out: &mut Out) {
        let templates: [(u16, &[Fields]); 3] = [
            (FLOWS_V4, &[COMMON, ADDRESSES_V4, TRANSPORT]),
            (FLOWS_V6, &[COMMON, ADDRESSES_V6, TRANSPORT]),
            (FLOWS_OTHER, &[COMMON]),
        ];
        for (id, parts) in templates {
            let fields: Vec<(u16, u16)> = parts.concat();
            self.add(TEMPLATE_SET, &template(id, &fields, None), out);
        }
        for (id, fields) in [(SAMPLING, OF_SAMPLING), (INTERFACES, OF_INTERFACES)] {
            self.add(OPTIONS_TEMPLATE_SET, &template(id, fields, Some(1)), out);
        }
        let one_in = self.settings.one_in;
        let mut sampling = 1u64.to_be_bytes().to_vec();
        sampling.extend(RANDOM_N_OUT_OF_N.to_be_bytes());
        for number in [1, one_in, one_in] {
            sampling.extend(number.to_be_bytes());
        }
        self.add(SAMPLING, &sampling, out);
        for port in Arc::clone(&self.ports).iter() {
            let mut record = port.index.to_be_bytes().to_vec();
            // Names are shorter than 255 bytes, which is what one byte of length tells of.
            record.push(port.name.len() as u8);
            record.extend(port.name.as_bytes());
            self.add(INTERFACES, &record, out);
        }
    }

    /// Tells of a flow.
    fn tell(&mut self, key: &Key, flow: &Flow, reason: u8, out: &mut Out) {
        let mut record = Vec::with_capacity(128);
        record.extend(key.src);
        record.extend(key.dst);
        record.extend(key.vlan.to_be_bytes());
        record.extend(key.ethertype.to_be_bytes());
        record.extend(key.ingress.to_be_bytes());
        record.extend(key.egress.to_be_bytes());
        for number in [flow.octets, flow.packets, flow.first.1, flow.last.1] {
            record.extend(number.to_be_bytes());
        }
        record.push(reason);
        let set = match key.packet.map(|packet| (packet.src, packet.dst)) {
            Some((IpAddr::V4(src), IpAddr::V4(dst))) => {
                record.extend([src.octets(), dst.octets()].concat());
                FLOWS_V4
            }
            Some((IpAddr::V6(src), IpAddr::V6(dst))) => {
                record.extend([src.octets(), dst.octets()].concat());
                FLOWS_V6
            }
            _ => FLOWS_OTHER,
        };
        if let Some(packet) = key.packet {
            record.push(packet.protocol);
            record.extend(packet.ports.0.to_be_bytes());
            record.extend(packet.ports.1.to_be_bytes());
            record.push(packet.class);
            record.extend(flow.tcp_flags.to_be_bytes());
        }
        self.add(set, &record, out);
    }

    /// Tells of flows that are over, or go on for long, and forgets them.
    fn expire(&mut self, now: Instant, out: &mut Out) {
        let Settings { active, idle, .. } = self.settings;
        let reason = |flow: &Flow| {
            if now.duration_since(flow.last.0) >= idle {
                Some(IDLE)
            } else {
                (now.duration_since(flow.first.0) >= active).then_some(ACTIVE)
            }
        };
        let over: Vec<_> = self.flows.extract_if(|_, flow| reason(flow).is_some()).collect();
        for (key, flow) in over {
            self.tell(&key, &flow, reason(&flow).unwrap_or(IDLE), out);
        }
    }
}

impl Export for Ipfix {
    fn set_ports(&mut self, ports: Arc<[ExportPort]>) {
        self.ports = ports;
        // Names may have changed.
        self.refresh_at = Instant::now();
    }

    fn sample(&mut self, record: &Record, out: &mut Out) {
        let Some((key, octets, tcp_flags)) = flow_of(record) else { return };
        let ago = self.clock.now() - record.at();
        let came = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
        let at = (came, now_millis().saturating_sub(ago.as_millis() as u64));
        if self.flows.len() >= self.settings.max_flows && !self.flows.contains_key(&key) {
            // All at once: to look for the oldest one for each new one would cost more.
            for (key, flow) in std::mem::take(&mut self.flows) {
                self.tell(&key, &flow, LACK_OF_RESOURCES, out);
            }
        }
        let new = Flow { octets: 0, packets: 0, first: at, last: at, tcp_flags: 0 };
        let flow = self.flows.entry(key).or_insert(new);
        flow.octets += octets;
        flow.packets += 1;
        flow.last = at;
        flow.tcp_flags |= tcp_flags;
    }

    fn tick(&mut self, now: Instant, out: &mut Out) {
        if now >= self.refresh_at {
            self.refresh_at = now + self.settings.template_refresh;
            self.refresh(out);
        }
        self.expire(now, out);
        self.flush(out);
        out.counts.flows.store(self.flows.len() as u64, Ordering::Relaxed);
    }
}

/// A template, or one of options if so many of its fields are its scope.
fn template(id: u16, fields: &[(u16, u16)], scope: Option<u16>) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend((fields.len() as u16).to_be_bytes());
    out.extend(scope.into_iter().flat_map(u16::to_be_bytes));
    for (element, len) in fields {
        out.extend(element.to_be_bytes());
        out.extend(len.to_be_bytes());
    }
    out
}

/// Milliseconds since 1970.
fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The flow of a sampled frame, how many bytes of layer 3 it has, and its TCP flags.
fn flow_of(record: &Record) -> Option<(Key, u64, u16)> {
    let piece = record.frame()?;
    let bytes = record.bytes(piece);
    let tags = TagStack::parse(bytes).ok()?;
    let len = (piece.len as usize).saturating_sub(tags.l3_offset());
    let body = bytes.get(tags.l3_offset()..).unwrap_or_default();
    let (packet, tcp_flags) = packet_of(tags.ethertype(), body, len).unzip();
    let egress = match went(record) {
        Went::One(port) => index_of(port),
        _ => 0,
    };
    let key = Key {
        src: tags.src().octets(),
        dst: tags.dst().octets(),
        vlan: record.station().map_or(0, |station| station.src.domain().vid()),
        ethertype: tags.ethertype().0,
        ingress: index_of(record.in_port()),
        egress,
        packet,
    };
    Some((key, len as u64, tcp_flags.unwrap_or(0)))
}

/// What IP says of a packet of `len` bytes, of which the first ones are there, and its TCP flags.
fn packet_of(ethertype: EtherType, bytes: &[u8], len: usize) -> Option<(Packet, u16)> {
    let (src, dst, protocol, class, payload): (IpAddr, IpAddr, _, _, _) = match ethertype {
        EtherType::IPV4 => {
            let ip = Ipv4::parse_head(bytes, len).ok()?;
            let header = ip.header();
            let payload =
                header.fragment().has_transport().then(|| (ip.payload(), ip.payload_len()));
            let (src, dst) = (header.src().into(), header.dst().into());
            (src, dst, header.protocol(), header.traffic_class(), payload)
        }
        EtherType::IPV6 => {
            let ip = Ipv6::parse_head(bytes, len).ok()?;
            let header = ip.header();
            let payload = ip.fragment().has_transport().then(|| (ip.payload(), ip.payload_len()));
            let (src, dst) = (header.src().into(), header.dst().into());
            (src, dst, ip.protocol(), header.traffic_class(), payload)
        }
        _ => return None,
    };
    let mut packet = Packet { src, dst, protocol: protocol.0, ports: (0, 0), class };
    let mut flags = 0;
    match (protocol, payload) {
        (IpProtocol::TCP, Some((body, len))) => {
            if let Ok(tcp) = Tcp::parse_head(body, len) {
                packet.ports = (tcp.header().src(), tcp.header().dst());
                flags = u16::from(tcp.header().flags().0);
            }
        }
        (IpProtocol::UDP, Some((body, _))) => {
            if let Ok(udp) = Udp::parse_head(body, usize::from(u16::MAX)) {
                packet.ports = (udp.header().src(), udp.header().dst());
            }
        }
        _ => {}
    }
    Some((packet, flags))
}
