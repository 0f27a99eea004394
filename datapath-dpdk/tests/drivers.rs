//! Ports of type `dpdk` on drivers that need no hardware: the conformance suite with the kernel at
//! the far end, and files that are read and written byte by byte.

mod common;

use std::fs::File;
use std::io::BufWriter;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::far::{self, Far, conforms};
use common::kernel::{eventually, run, spawn_in, unique};
use common::{bytes, content};
use datapath_dpdk::{DpdkBackend, Mbuf};
use datapath_tap::testing::RawSocket;
use switch_core::batch::Batch;
use switch_core::clock::Nanos;
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, BackendError, Datapath, PortEventKind};
use switch_core::drop::DropReason;
use switch_core::frame::{Csum, Frame};
use switch_core::ids::{PortId, WorkerId};
use switch_core::segment::finish_checksum;
use switch_core::stats::PortCounters;
use switch_core::testing::pcap::{PcapReader, PcapWriter};

/// Devices of drivers are the process's, and so are the names the tests give them.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec(devargs: String) -> PortSpec {
    PortSpec::new("p", PortKind::Dpdk { devargs }, None)
}

/// What the far ends of these have to do is finished: rings between processes have no words for it.
const NO_OFFLOADS: &[&str] = &["tx_full", "offload_round_trip", "gso_round_trip"];

#[test]
fn net_tap_passes() {
    let _alone = alone();
    conforms((1514, None), NO_OFFLOADS, |n| {
        let tap = common::kernel::Device(format!("vn{}", unique()));
        // Made before the port is, so that the socket misses nothing.
        run(&format!("ip tuntap add dev {} mode tap multi_queue", tap.0));
        run(&format!("sysctl -qw net.ipv6.conf.{}.disable_ipv6=1", tap.0));
        let socket = RawSocket::open(None, &tap.0).unwrap();
        let spec = spec(format!("net_tap_t{n},iface={},persist", tap.0));
        Far { spec, socket, offloads: false, keep: vec![Box::new(tap)] }
    });
}

fn on_veth(driver: &str, arguments: &str) {
    let _alone = alone();
    conforms((1514, None), NO_OFFLOADS, |n| {
        let veth = far::linked_veth();
        let socket = RawSocket::open(Some(&veth.space.name), "v0").unwrap();
        run(&format!("sysctl -qw net.ipv6.conf.{}.disable_ipv6=1", veth.near.0));
        let spec = spec(format!("{driver}_t{n},iface={}{arguments}", veth.near.0));
        Far { spec, socket, offloads: false, keep: vec![Box::new(veth)] }
    });
}

#[test]
fn net_af_packet_passes_on_a_veth() {
    on_veth("net_af_packet", "");
}

#[test]
fn net_af_xdp_passes_on_a_veth() {
    on_veth("net_af_xdp", "");
}

const PORT: PortId = PortId::new(0).unwrap();

/// What a stack on a virtual cable leaves to a NIC that is not there is seen, and can be finished.
#[test]
fn checksums_that_a_stack_left_to_nobody_are_known_as_unfinished() {
    let _alone = alone();
    let veth = far::linked_veth();
    veth.space.run("ip addr add 192.0.2.1/24 dev v0");
    veth.space.run("ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev v0");
    let pool = common::pool(4096);
    let before = pool.available();
    let mut backend = DpdkBackend::new(common::eal(), pool);
    let mut worker = backend.worker(WorkerId(0)).unwrap();
    let devargs = format!("net_af_xdp_c,iface={}", veth.near.0);
    let mut open = backend.open_port(PORT, &spec(devargs)).unwrap();
    worker.attach(PORT, open.queues.remove(0));
    let sender = spawn_in(&veth.space, || {
        let socket = std::net::UdpSocket::bind("192.0.2.1:7").unwrap();
        (0..3).for_each(|_| assert_eq!(socket.send_to(&[7; 501], "192.0.2.2:9").unwrap(), 501));
    });
    sender.join().unwrap();
    let (mut batch, counters) = (Batch::new(), PortCounters::default());
    let mut datagrams: Vec<Mbuf> = Vec::new();
    eventually("the datagrams", || {
        worker.rx_burst(PORT, &mut batch, &counters);
        datagrams.extend(batch.drain().filter(|frame| frame.len() == 14 + 20 + 8 + 501));
        datagrams.len() == 3
    });
    for frame in &mut datagrams {
        assert_eq!(frame.offload().csum, Csum::Partial { start: 34, offset: 6 });
        finish_checksum(frame).unwrap();
        let packet = content(frame);
        let all = sum(&packet[26..34], &packet[34..]);
        assert_eq!(all, 0xffff, "the sum over all of it, with its checksum");
    }
    drop(datagrams);
    // More than all of its rings hold, out as well as in: buffers come back.
    for round in 0..60 {
        let sender = spawn_in(&veth.space, || {
            let socket = std::net::UdpSocket::bind("192.0.2.1:7").unwrap();
            (0..100)
                .for_each(|_| assert_eq!(socket.send_to(&[7; 501], "192.0.2.2:9").unwrap(), 501));
        });
        sender.join().unwrap();
        let mut got = 0;
        eventually(&format!("all of round {round}"), || {
            worker.rx_burst(PORT, &mut batch, &counters);
            got += batch.as_slice().iter().filter(|frame| frame.len() == 543).count();
            worker.tx_burst(PORT, &mut batch, &counters);
            got == 100
        });
    }
    assert_eq!(counters.dropped(DropReason::TxFull), 0);
    drop(batch);
    let queue = worker.detach(PORT).unwrap();
    backend.close_port(PORT, vec![queue], true).unwrap();
    assert_eq!(pool.available(), before, "mbufs were leaked");
}

/// RFC 768's sum over pseudo-header and datagram, by hand.
fn sum(addresses: &[u8], udp: &[u8]) -> u32 {
    let padded = if udp.len() % 2 == 1 { [udp, &[0]].concat() } else { udp.to_vec() };
    let words = addresses.chunks(2).chain(padded.chunks(2));
    let all: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let all = all + 17 + udp.len() as u32;
    let all = (all & 0xffff) + (all >> 16);
    (all & 0xffff) + (all >> 16)
}

#[test]
fn files_are_read_and_written_byte_by_byte() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> = [14, 60, 64, 128, 1514, 1518].into_iter().map(bytes).collect();
    let mut writer = PcapWriter::new(BufWriter::new(File::create(&input).unwrap())).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        writer.write(Nanos::from_secs(n as u64), frame).unwrap();
    }
    drop(writer.finish().unwrap());
    let pool = common::pool(4096);
    let before = pool.available();
    let mut backend = DpdkBackend::new(common::eal(), pool).with_most_queues(1);
    let mut worker = backend.worker(WorkerId(0)).unwrap();
    let devargs = format!("net_pcap_f,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut open = backend.open_port(PORT, &spec(devargs)).unwrap();
    worker.attach(PORT, open.queues.remove(0));
    let counters = PortCounters::default();
    let mut through = 0;
    eventually("all frames", || {
        let mut batch = Batch::new();
        through += worker.rx_burst(PORT, &mut batch, &counters);
        worker.tx_burst(PORT, &mut batch, &counters);
        through == frames.len()
    });
    assert_eq!(counters.tx_frames.get(), frames.len() as u64);
    assert_eq!(counters.dropped(DropReason::TxFull), 0);
    let queue = worker.detach(PORT).unwrap();
    backend.close_port(PORT, vec![queue], true).unwrap();
    let mut reader = PcapReader::new(File::open(&output).unwrap()).unwrap();
    let mut written = Vec::new();
    while let Some((_, frame)) = reader.next_frame().unwrap() {
        written.push(frame);
    }
    assert_eq!(written, frames);
    assert_eq!(pool.available(), before, "mbufs were leaked");
}

#[test]
fn a_device_that_is_missing_taken_or_misnamed_is_told_and_one_that_comes_is_opened() {
    let _alone = alone();
    let pool = common::pool(8192);
    let mut backend = DpdkBackend::new(common::eal(), pool);
    let mut worker = backend.worker(WorkerId(0)).unwrap();
    let device = format!("vn{}", unique());
    let wanted = spec(format!("net_af_packet_w,iface={device}"));
    // A kernel's device and a PCI function may come.
    for missing in [wanted.clone(), spec("0000:ff:1f.7".into()), spec("ff:1f.7,a=b".into())] {
        let error = backend.open_port(PORT, &missing).unwrap_err();
        assert!(matches!(error, BackendError::NotThere { .. }), "{error}");
    }
    for (wrong, words) in [
        ("net_nosuchdriver0", "no bus and no driver knows"),
        ("net_tap0,nosuchkey=1,iface=x", "nosuchkey"),
        ("net_tap0,iface=x/y", "tap"),
        ("net_pcap0,rx_pcap=/nowhere/x.pcap", "/nowhere/x.pcap"),
    ] {
        let error = backend.open_port(PORT, &spec(wrong.into())).unwrap_err();
        eprintln!("{error}; {:?}", error.hint());
        assert!(matches!(error, BackendError::Failed { .. }), "{error}");
        assert!(error.to_string().to_lowercase().contains(words), "{wrong}: {error}");
        assert!(error.hint().is_some());
    }
    run(&format!("ip link add {device} type veth peer name {device}p"));
    let _device = common::kernel::Device(device);
    let mut open = backend.open_port(PORT, &wanted).unwrap();
    worker.attach(PORT, open.queues.remove(0));
    let second = PortId::new(1).unwrap();
    let error = backend.open_port(second, &wanted).unwrap_err();
    assert!(error.to_string().contains("another port has it"), "{error}");
    assert!(!backend.events().iter().any(|e| matches!(e.kind, PortEventKind::Gone(_))));
    let queue = worker.detach(PORT).unwrap();
    backend.close_port(PORT, vec![queue], true).unwrap();
}
