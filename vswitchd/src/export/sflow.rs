//! sFlow version 5 (<https://sflow.org/sflow_version_5.txt>).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch_core::DropReason;
use switch_core::drop::Side;
use switch_core::watch::Record;

use super::{DATAGRAM_MAX, Export, ExportPort, Out, Went, index_of, went};

const VERSION: u32 = 5;
/// The agent, before the system knows which address datagrams leave from.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Formats of samples and records, enterprise 0.
const FLOW_SAMPLE: u32 = 1;
const COUNTERS_SAMPLE: u32 = 2;
const RAW_PACKET_HEADER: u32 = 1;
const EXTENDED_SWITCH: u32 = 1001;
const GENERIC_COUNTERS: u32 = 1;
const PORT_NAME: u32 = 1005;
/// Of a raw header: it begins with Ethernet.
const ETHERNET: u32 = 1;
/// The frame check sequence, which lengths include and no frame of ours has.
const FCS: u32 = 4;
/// Of an interface: `ethernetCsmacd` (IANAifType), and full duplex.
const IF_ETHERNET: u32 = 6;
const FULL_DUPLEX: u32 = 1;
/// A counter that nobody keeps.
const UNKNOWN: u32 = u32::MAX;
/// Where a frame went that did not go to one interface: top bits of the output.
const OUTPUT_DROPPED: u32 = 1 << 30;
const OUTPUT_SEVERAL: u32 = 2 << 30;
/// Why it was dropped (sflow_version_5.txt, section 5.4).
const DROPPED_UNKNOWN: u32 = 256;
const DROPPED_NO_BUFFER: u32 = 259;
const DROPPED_TOO_BIG: u32 = 262;

/// Data as XDR has it (RFC 4506): words of four bytes, most significant first, and all else filled up to
/// whole words.
#[derive(Debug, Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn word(&mut self, word: u32) -> &mut Self {
        self.0.extend(word.to_be_bytes());
        self
    }

    fn words(&mut self, words: &[u32]) -> &mut Self {
        words.iter().for_each(|word| {
            self.word(*word);
        });
        self
    }

    fn hyper(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.word(bytes.len() as u32);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(v4) => self.word(1).0.extend(v4.octets()),
            IpAddr::V6(v6) => self.word(2).0.extend(v6.octets()),
        }
        self
    }

    /// A format with what follows, in its length.
    fn record(&mut self, format: u32, body: &Self) -> &mut Self {
        self.word(format).opaque(&body.0)
    }
}

/// What is asked of sFlow.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The address that the collector knows this switch by.
    pub agent: Option<IpAddr>,
    /// One frame in so many is sampled.
    pub one_in: u32,
    /// How often counters are sent.
    pub polling: Duration,
}

/// Samples and counters for a collector of sFlow.
#[derive(Debug)]
pub struct Sflow {
    settings: Settings,
    started: Instant,
    ports: Arc<[ExportPort]>,
    /// When counters are sent next.
    poll_at: Instant,
    datagrams: u32,
    /// How many samples of each kind there were of each port.
    numbers: BTreeMap<(u32, u32), u32>,
    samples: u32,
    waiting: Xdr,
}

impl Sflow {
    /// One that has sent nothing yet.
    pub fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            settings,
            started: now,
            ports: Arc::default(),
            poll_at: now,
            datagrams: 0,
            numbers: BTreeMap::new(),
            samples: 0,
            waiting: Xdr::default(),
        }
    }

    /// The number of the next sample of that format of a port.
    fn number(&mut self, format: u32, index: u32) -> u32 {
        let number = self.numbers.entry((format, index)).or_default();
        *number = number.wrapping_add(1);
        *number
    }

    fn add(&mut self, format: u32, sample: &Xdr, out: &mut Out) {
        // Version, agent, numbers and time of a datagram take 40 bytes at most.
        if self.waiting.0.len() + sample.0.len() + 48 > DATAGRAM_MAX {
            self.flush(out);
        }
        self.waiting.record(format, sample);
        self.samples += 1;
    }

    fn flush(&mut self, out: &mut Out) {
        if self.samples == 0 {
            return;
        }
        let agent = self.settings.agent.or_else(|| out.local());
        let uptime = Instant::now().duration_since(self.started).as_millis() as u32;
        self.datagrams = self.datagrams.wrapping_add(1);
        let mut datagram = Xdr::default();
        datagram.word(VERSION).address(agent.unwrap_or(NOBODY)).words(&[
            0,
            self.datagrams,
            uptime,
            self.samples,
        ]);
        datagram.0.append(&mut self.waiting.0);
        self.samples = 0;
        out.send(&datagram.0);
    }

    fn counters(&mut self, out: &mut Out) {
        for port in Arc::clone(&self.ports).iter() {
            let (mut generic, mut name, mut sample) =
                (Xdr::default(), Xdr::default(), Xdr::default());
            counters_of(port, &mut generic);
            name.opaque(port.name.as_bytes());
            let number = self.number(COUNTERS_SAMPLE, port.index);
            sample
                .words(&[number, port.index, 2])
                .record(GENERIC_COUNTERS, &generic)
                .record(PORT_NAME, &name);
            self.add(COUNTERS_SAMPLE, &sample, out);
        }
    }
}

fn counters_of(port: &ExportPort, out: &mut Xdr) {
    let totals = port.totals();
    let dropped = |reasons: &[DropReason]| reasons.iter().map(|r| totals.dropped_for(*r)).sum();
    let in_errors: u64 = dropped(&[DropReason::Runt, DropReason::Giant, DropReason::VnetHeader]);
    let out_errors: u64 = dropped(&[DropReason::TxError]);
    let status = if port.up { 3 } else { 1 };
    out.words(&[port.index, IF_ETHERNET])
        .hyper(u64::from(port.mbps) * 1_000_000)
        .words(&[FULL_DUPLEX, status])
        .hyper(totals.rx_bytes)
        .words(&[totals.rx_frames as u32, UNKNOWN, UNKNOWN])
        .words(&[(totals.dropped_on(Side::In) - in_errors) as u32, in_errors as u32, UNKNOWN])
        .hyper(totals.tx_bytes)
        .words(&[totals.tx_frames as u32, UNKNOWN, UNKNOWN])
        .words(&[(totals.dropped_on(Side::Out) - out_errors) as u32, out_errors as u32, UNKNOWN]);
}

fn output(record: &Record) -> u32 {
    match went(record) {
        Went::One(port) => index_of(port),
        Went::Several(ports) => OUTPUT_SEVERAL | ports & (OUTPUT_DROPPED - 1),
        Went::Dropped(reason) => OUTPUT_DROPPED | dropped_for(reason),
        Went::Unknown => 0,
    }
}

fn dropped_for(reason: DropReason) -> u32 {
    match reason {
        DropReason::CopyFailed | DropReason::TxFull | DropReason::HandoverFull => DROPPED_NO_BUFFER,
        DropReason::MtuExceeded | DropReason::TunnelMtu | DropReason::Giant => DROPPED_TOO_BIG,
        _ => DROPPED_UNKNOWN,
    }
}

impl Export for Sflow {
    fn set_ports(&mut self, ports: Arc<[ExportPort]>) {
        let known = |index: u32| ports.iter().any(|port| port.index == index);
        self.numbers.retain(|(_, index), _| known(*index));
        self.ports = ports;
    }

    fn sample(&mut self, record: &Record, out: &mut Out) {
        let Some(piece) = record.frame() else { return };
        let index = index_of(record.in_port());
        let number = self.number(FLOW_SAMPLE, index);
        let port = self.ports.iter().find(|port| port.index == index);
        let pool = port.map_or(0, |port| {
            port.counters.iter().map(|counters| counters.rx_frames.get()).sum::<u64>()
        });
        let (mut raw, mut switch, mut sample) = (Xdr::default(), Xdr::default(), Xdr::default());
        raw.words(&[ETHERNET, piece.len + FCS, FCS]).opaque(record.bytes(piece));
        let vlan = record.station().map_or(0, |station| u32::from(station.src.domain().vid()));
        switch.words(&[vlan, 0, vlan, 0]);
        sample
            .words(&[number, index, self.settings.one_in, pool as u32, out.missed() as u32])
            .words(&[index, output(record), 2])
            .record(RAW_PACKET_HEADER, &raw)
            .record(EXTENDED_SWITCH, &switch);
        self.add(FLOW_SAMPLE, &sample, out);
    }

    fn tick(&mut self, now: Instant, out: &mut Out) {
        if now >= self.poll_at {
            self.poll_at = now + self.settings.polling;
            self.counters(out);
        }
        self.flush(out);
    }
}
