//! What a VLAN-aware switch has to do with a frame, written from IEEE 802.1Q with plain maps, and
//! the probes it is asked about. Knows nothing of the switch's own code.

use std::collections::{BTreeMap, HashMap};

use vswitch_e2e::raw::mac;

/// A customer tag and a service tag (IEEE 802.1Q table 9-1), and what older gear used for the
/// latter.
pub(crate) const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const C_TAG: u16 = TAGS[0];

/// Stands before a probe's number in its payload.
const MAGIC: &[u8; 4] = b"vPrb";

/// The VLANs of a port.
#[derive(Clone, Debug)]
pub(crate) enum Vlans {
    /// Untagged frames in no VLAN (0 here), tagged ones of every VLAN.
    Transparent,
    Access(u16),
    /// No list is every VLAN.
    Trunk(Option<&'static [u16]>, Option<u16>),
}

/// A port of the switch.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) bridge: &'static str,
    pub(crate) vlans: Vlans,
}

impl Port {
    fn carries(&self, vid: u16) -> bool {
        match &self.vlans {
            Vlans::Transparent => true,
            Vlans::Access(own) => *own == vid,
            Vlans::Trunk(some, native) => {
                *native == Some(vid) || vid != 0 && some.is_none_or(|some| some.contains(&vid))
            }
        }
    }

    /// The VLAN of untagged and priority-tagged frames.
    fn pvid(&self) -> Option<u16> {
        match self.vlans {
            Vlans::Transparent => Some(0),
            Vlans::Access(own) => Some(own),
            Vlans::Trunk(_, native) => native,
        }
    }
}

/// What a probe carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Payload {
    /// A local experimental EtherType (IEEE 802).
    Experimental,
    /// UDP over IPv4, addressed to a multicast group.
    Ipv4,
    /// UDP over IPv6.
    Ipv6,
    /// A length instead of a type, and LLC (IEEE 802.2).
    Llc,
    /// The same with SNAP, and IPv4 in it.
    Snap,
}

/// A frame with a number of its own.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) id: u32,
    /// Index of the port it is sent at.
    pub(crate) from: usize,
    pub(crate) dst: [u8; 6],
    pub(crate) src: [u8; 6],
    /// TPID and TCI, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) payload: Payload,
}

impl Probe {
    /// The frame as it is sent.
    pub(crate) fn frame(&self) -> Vec<u8> {
        self.with_tags(&self.tags)
    }

    /// Whether a C-tag follows the outer one.
    pub(crate) fn stacked(&self) -> bool {
        self.tags.len() > 1 && self.tags.iter().take(2).all(|(tpid, _)| *tpid == C_TAG)
    }

    /// The frame with other tags. At least 60 bytes without any, so that nobody pads it.
    fn with_tags(&self, tags: &[(u16, u16)]) -> Vec<u8> {
        let mut frame = [self.dst, self.src].concat();
        for (tpid, tci) in tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        let mut mark = MAGIC.to_vec();
        mark.extend(self.id.to_be_bytes());
        mark.resize(64, 0x5a);
        let (kind, body) = match self.payload {
            Payload::Experimental => (0x88b5, mark),
            Payload::Ipv4 => (0x0800, ipv4(&mark)),
            Payload::Ipv6 => (0x86dd, ipv6(&mark)),
            Payload::Llc => with_length(&[0x42, 0x42, 0x03], &mark),
            Payload::Snap => with_length(&[0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, 0x00], &ipv4(&mark)),
        };
        frame.extend(kind.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// What the probe is, in words, for messages.
    pub(crate) fn words(&self, ports: &[Port]) -> String {
        let hex = |mac: &[u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
        let tags: Vec<String> =
            self.tags.iter().map(|(tpid, tci)| format!("{tpid:04x}/{tci:04x}")).collect();
        format!(
            "probe {} from {} to {} (source {}, tags [{}], {:?})",
            self.id,
            ports[self.from].name,
            hex(&self.dst),
            hex(&self.src),
            tags.join(" "),
            self.payload
        )
    }
}

/// The number of the probe that a frame is.
pub(crate) fn id_of(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(4).position(|window| window == MAGIC)?;
    Some(u32::from_be_bytes(frame.get(at + 4..at + 8)?.try_into().ok()?))
}

fn with_length(head: &[u8], mark: &[u8]) -> (u16, Vec<u8>) {
    let body = [head, mark].concat();
    (body.len() as u16, body)
}

fn ipv4(mark: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [233, 252, 0, 1], 4)
        .udp(7, 7)
        .write(&mut packet, mark)
        .expect("a vector takes everything");
    packet
}

fn ipv6(mark: &[u8]) -> Vec<u8> {
    let group = [0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0xb8, 0, 1];
    let host = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv6(host, group, 4)
        .udp(7, 7)
        .write(&mut packet, mark)
        .expect("a vector takes everything");
    packet
}

/// What the switch has learned.
#[derive(Debug, Default)]
pub(crate) struct Model {
    fdb: HashMap<(&'static str, u16, [u8; 6]), usize>,
}

impl Model {
    /// Where a probe comes out, and as what.
    pub(crate) fn handle(&mut self, ports: &[Port], probe: &Probe) -> BTreeMap<usize, Vec<u8>> {
        let nowhere = BTreeMap::new();
        if probe.src[0] & 1 == 1 || probe.src == [0; 6] || reserved(&probe.dst) {
            return nowhere;
        }
        let port = &ports[probe.from];
        // Only a C-tag is a tag here: to a customer bridge an S-tag is payload (802.1Q, 5.5).
        let tag = match probe.tags.first() {
            Some((C_TAG, tci)) => Some(*tci),
            _ => None,
        };
        // A station of one VLAN that stacks two of them is up to something ("VLAN hopping").
        if probe.stacked() && matches!(port.vlans, Vlans::Access(_)) {
            return nowhere;
        }
        let vid = match tag.map_or(0, |tci| tci & 0xfff) {
            0 => match port.pvid() {
                Some(vid) => vid,
                None => return nowhere,
            },
            vid if vid < 0xfff && port.carries(vid) => vid,
            _ => return nowhere,
        };
        self.fdb.insert((port.bridge, vid, probe.src), probe.from);
        let known = self.fdb.get(&(port.bridge, vid, probe.dst)).copied();
        let known = if probe.dst[0] & 1 == 1 { None } else { known };

        let inner = if tag.is_some() { &probe.tags[1..] } else { &probe.tags[..] };
        let leaves = |out: &Port| match (&out.vlans, vid) {
            // In no VLAN: as it came.
            (Vlans::Transparent, 0) => probe.frame(),
            _ if out.pvid() == Some(vid) => probe.with_tags(inner),
            // The priority that came with it is kept.
            _ => {
                let tci = tag.unwrap_or(0) & 0xf000 | vid;
                probe.with_tags(&[&[(C_TAG, tci)], inner].concat())
            }
        };
        let takes = |n: usize, out: &Port| {
            n != probe.from
                && out.bridge == port.bridge
                && out.carries(vid)
                && known.is_none_or(|known| known == n)
        };
        let outs = ports.iter().enumerate().filter(|(n, out)| takes(*n, out));
        outs.map(|(n, out)| (n, leaves(out))).collect()
    }
}

/// 01:80:C2:00:00:00 to 0F, which no bridge forwards (802.1Q table 8-1).
fn reserved(dst: &[u8; 6]) -> bool {
    dst[..5] == [0x01, 0x80, 0xc2, 0, 0] && dst[5] < 16
}

/// The address of the station behind a port.
pub(crate) fn station(port: usize) -> [u8; 6] {
    mac(0x1000 + port as u32)
}

/// The probes: first every station speaks in each of its VLANs, then every port sends to every kind
/// of destination with every tag and payload, thinned out evenly to about `wanted`, then the
/// stations speak again. Numbers are indices.
pub(crate) fn probes(ports: &[Port], wanted: usize) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    let add = |probes: &mut Vec<Probe>, from, src, dst, tags: &[(u16, u16)], payload| {
        let id = probes.len() as u32;
        probes.push(Probe { id, from, dst, src, tags: tags.to_vec(), payload });
    };
    const ALL: [u8; 6] = [0xff; 6];
    for (from, port) in ports.iter().enumerate() {
        if port.pvid().is_some() {
            add(&mut probes, from, station(from), ALL, &[], Payload::Experimental);
        }
        for vid in [5, 10, 20].into_iter().filter(|v| port.carries(*v)) {
            if !matches!(port.vlans, Vlans::Access(_)) {
                add(&mut probes, from, station(from), ALL, &[(C_TAG, vid)], Payload::Experimental);
            }
        }
    }

    let first = probes.len();

    let mut tags: Vec<Vec<(u16, u16)>> = vec![vec![]];
    // VIDs, then priorities, then what is no C-tag at all.
    tags.extend([0, 1, 2, 5, 10, 20, 4094, 4095].map(|vid| vec![(C_TAG, vid)]));
    tags.extend([0x6000, 0xf000, 0x600a, 0xf014].map(|tci| vec![(C_TAG, tci)]));
    tags.extend([(0x88a8, 10), (0x88a8, 0), (0x9100, 10)].map(|tag| vec![tag]));
    for pair in [[0x8100, 0x8100], [0x88a8, 0x8100], [0x8100, 0x88a8]] {
        tags.extend([(10, 20), (0, 10), (20, 0)].map(|(a, b)| vec![(pair[0], a), (pair[1], b)]));
    }
    tags.push(vec![(C_TAG, 0), (C_TAG, 0), (C_TAG, 10)]);

    let mut dsts = vec![ALL, [1, 0, 0x5e, 0x7c, 0, 1], [0x33, 0x33, 0, 0, 0, 1], mac(0xdead)];
    dsts.extend([[0x01, 0x80, 0xc2, 0, 0, 0], [0x01, 0x80, 0xc2, 0, 0, 0x0e]]);
    dsts.push([0x01, 0x80, 0xc2, 0, 0, 0x10]);
    dsts.extend((0..ports.len()).map(station));
    let payloads =
        [Payload::Experimental, Payload::Ipv4, Payload::Ipv6, Payload::Llc, Payload::Snap];

    let mut matrix = Vec::new();
    for from in 0..ports.len() {
        for (n, tags) in tags.iter().enumerate() {
            // A source of its own for each kind of tag: nothing it teaches the switch changes
            // where the other probes go.
            let src = mac(0x1_0000 + (from as u32) * 256 + n as u32);
            for dst in &dsts {
                matrix.extend(payloads.map(|payload| (from, src, *dst, tags, payload)));
            }
            matrix.push((from, [3, 0, 0, 0, 0, 1], ALL, tags, Payload::Experimental));
            matrix.push((from, [0; 6], ALL, tags, Payload::Experimental));
        }
    }
    // A step that has no factor in common with the rows' lengths walks through every combination.
    let step = (matrix.len() / wanted.max(1)).max(1);
    let step = (step..).find(|s| gcd(*s, matrix.len()) == 1).unwrap_or(1);
    for n in 0..wanted.min(matrix.len()) {
        let (from, src, dst, tags, payload) = &matrix[n * step % matrix.len()];
        add(&mut probes, *from, *src, *dst, tags, *payload);
    }

    // The last frames that come out anywhere.
    for n in 0..first {
        let again = Probe { id: probes.len() as u32, ..probes[n].clone() };
        probes.push(again);
    }
    probes
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
