//! A DPDK device with offloads, and the kernel at its far end: in a network namespace of its own,
//! so it needs root.

mod common;

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use datapath_dpdk::ethdev::{Attach, Device, DeviceConfig};
use datapath_dpdk::{Mbuf, Mempool};
use nix::sched::{CloneFlags, unshare};
use switch_core::batch::Batch;
use switch_core::frame::{Frame, Offload};
use switch_core::testing::Packet;
use switch_core::testing::frames::{mac, pattern, udp4};
use switch_core::wire::MacAddr;

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

fn frame(pool: Mempool, packet: &Packet) -> Mbuf {
    let mut frame = pool.frame(&packet.bytes).unwrap();
    frame.set_offload(packet.offload);
    frame
}

/// What the kernel counted as UDP datagrams with a wrong checksum in this namespace.
fn checksum_errors() -> u64 {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    fields.find(|(name, _)| *name == "InCsumErrors").unwrap().1.parse().unwrap()
}

/// The namespace ends with the thread that made it, and the device with its last handle.
fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    common::eal();
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_unfinished_checksum_is_finished_by_the_device() {
    in_own_namespace(|| {
        let pool = common::pool(8192);
        let before = pool.available();
        let tap = format!("vt{}", std::process::id());
        let attach = Attach::Devargs(format!("net_tap{},iface={tap}", std::process::id()));
        let config = DeviceConfig { descriptors: 256, ..DeviceConfig::default() };
        let (device, mut rx, mut tx) = Device::open(common::eal(), &attach, &config, pool).unwrap();
        assert!(device.finishes_checksums());
        ip(&format!("address add 10.0.0.2/24 dev {tap}"));
        ip(&format!("link set {tap} up"));
        let socket = UdpSocket::bind("10.0.0.2:7").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();

        for len in [1usize, 2, 99, 500, 1400] {
            let data = pattern(len as u32, len);
            let packet = udp4(MacAddr::new(device.mac()), mac(1), &data);
            let mut original = frame(pool, &packet);
            let share = original.share().unwrap();
            let mut batch = Batch::new();
            for frame in [original, share] {
                batch.push(frame).unwrap();
            }
            let result = tx[0].tx_burst(&mut batch);
            assert_eq!((result.frames, result.full, result.unfit), (2, 0, 0));
            for which in ["original", "share"] {
                let mut got = [0; 2000];
                let n = socket.recv(&mut got).unwrap_or_else(|e| {
                    panic!("{which} of {len}: {e}; {} checksum errors", checksum_errors())
                });
                assert_eq!(got[..n], data, "{which} of {len} bytes");
            }
        }
        assert_eq!(checksum_errors(), 0);

        // That the kernel does look: without the metadata nobody finishes it.
        let packet = udp4(MacAddr::new(device.mac()), mac(1), &pattern(1, 100));
        let packet = Packet { offload: Offload::NONE, ..packet };
        let mut batch = Batch::new();
        batch.push(frame(pool, &packet)).unwrap();
        assert_eq!(tx[0].tx_burst(&mut batch).frames, 1);
        // It looks when somebody reads.
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while checksum_errors() == 0 && Instant::now() < end {
            socket.recv(&mut [0; 2000]).unwrap_err();
        }
        assert_eq!(checksum_errors(), 1);

        // The other way: what the kernel sends comes in.
        let reply = pattern(9, 700);
        ip(&format!("neigh add 10.0.0.1 lladdr {} dev {tap}", mac(1)));
        socket.send_to(&reply, "10.0.0.1:9").unwrap();
        let (mut batch, mut refused) = (Batch::new(), Default::default());
        let mut found = false;
        while !found && Instant::now() < end {
            rx[0].rx_burst(&mut batch, &mut refused);
            found = batch.drain().any(|frame| common::content(&frame).ends_with(&reply));
        }
        assert!(found, "nothing came in");
        drop((batch, rx, tx));
        device.close().unwrap();
        assert_eq!(pool.available(), before, "mbufs were leaked");
    });
}
