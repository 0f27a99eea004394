//! What a replay is for: the same bytes again, and all that depends on time.

use switch_core::frame::GsoKind;
use switch_core::testing::frames;
use switch_core::wire::MacAddr;
use vswitch_api::config;

use super::*;

const SECOND: u64 = 1_000_000_000;
/// Some day in 2023.
const EPOCH: u64 = 1_700_000_000 * SECOND;
const ALL: MacAddr = MacAddr::new([0xff; 6]);

/// `web` and `vm` in VLAN 10 of a bridge that a tunnel leads out of, and a port with a storm limit.
const CONFIG: &str = r#"
version = 1
[daemon]
datapath = "dpdk"
cpus = "0-63"
max-fdb-total = 1024
[[bridge]]
name = "br0"
ageing = "60s"
[[port]]
name = "web"
type = "tap"
bridge = "br0"
access = 10
storm-limit = "off"
[[port]]
name = "vm"
type = "netdev"
device = "nobody-has-this"
bridge = "br0"
trunk = [10]
[[port]]
name = "nic"
type = "dpdk"
devargs = "0000:3b:02.0"
bridge = "br0"
access = 10
storm-limit = "10 pps"
[[port]]
name = "up"
type = "dpdk"
devargs = "0000:3b:02.1"
[[vtep]]
name = "v4"
local = "192.0.2.1"
uplink = "up"
[[tunnel]]
name = "tenant"
type = "vxlan"
vtep = "v4"
vni = 77
bridge = "br0"
vlan = 10
remotes = ["192.0.2.7"]
"#;

fn start() -> Replay {
    Replay::start(config::from_toml(CONFIG).unwrap()).unwrap()
}

fn frame(dst: MacAddr, src: u32) -> Vec<u8> {
    frames::ethernet(dst, frames::mac(src), 0x88b5, &[0; 46])
}

/// The same as the trunk has it.
fn tagged(dst: MacAddr, src: u32) -> Vec<u8> {
    frames::tagged(&frame(dst, src), 0x8100, 10)
}

/// The ports that a frame left by.
fn ports(left: &[Left]) -> Vec<&str> {
    left.iter().map(|left| &*left.port).collect()
}

/// Frames of many stations, addresses that move, and what comes out of the tunnel, each at its time.
fn traffic(replay: &mut Replay) -> Vec<Left> {
    let mut out = Vec::new();
    for n in 0..400_u32 {
        let at = EPOCH + u64::from(n) * SECOND / 3;
        let port = ["web", "nic", "vm"][n as usize % 3];
        let dst = if n % 7 == 0 { ALL } else { frames::mac(n * 31 % 40) };
        let bytes = if port == "vm" { tagged(dst, n % 37) } else { frame(dst, n % 37) };
        out.extend(replay.frame(port, at, &bytes, Offload::NONE).unwrap());
        // What went into the tunnel comes back out of it: an echo, of the remote.
        let sent = out.last().filter(|left| &*left.port == "v4" && n % 5 == 0);
        if let Some(mut echo) = sent.map(|left| left.bytes.clone()) {
            let (mine, its) = ([192, 0, 2, 1], [192, 0, 2, 7]);
            echo[12..16].copy_from_slice(&its);
            echo[16..20].copy_from_slice(&mine);
            echo.splice(42..48, frames::mac(1000 + n).octets());
            out.extend(replay.frame("v4", at, &echo, Offload::NONE).unwrap());
        }
    }
    out
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let run = || {
        let mut replay = start();
        let left = traffic(&mut replay);
        let books = format!("{:?}", replay.books());
        replay.end().unwrap();
        (left, books)
    };
    let (first, second) = (run(), run());
    assert_eq!(first.0, second.0);
    assert_eq!(first.1, second.1);
    for port in ["web", "vm", "nic", "v4"] {
        assert!(ports(&first.0).contains(&port), "{port} sent nothing");
    }
}

#[test]
fn time_is_that_of_the_capture() {
    let mut replay = start();
    let mut at = |port: &str, at: u64, bytes: &[u8]| {
        let left = replay.frame(port, EPOCH + at, bytes, Offload::NONE).unwrap();
        ports(&left).join(" ")
    };
    // Learned, known for 60 s since its last frame, and then forgotten.
    assert_eq!(at("web", 0, &frame(ALL, 1)), "nic vm v4");
    assert_eq!(at("nic", 59 * SECOND, &frame(frames::mac(1), 2)), "web");
    assert_eq!(at("nic", 62 * SECOND, &frame(frames::mac(1), 2)), "vm web v4");
    // Backwards counts as the same time; a gap of years as one in which all is forgotten.
    assert_eq!(at("web", 61 * SECOND, &frame(frames::mac(2), 1)), "nic");
    assert_eq!(at("web", 60 * 365 * 86_400 * SECOND, &frame(frames::mac(2), 1)), "nic vm v4");
}

#[test]
fn limits_and_blocks_follow_the_capture_s_time() {
    let mut replay = start();
    let mut passed = |from: u64, every: u64| {
        let sent = (0..100).filter(|n| {
            let at = EPOCH + from + n * every;
            !replay.frame("nic", at, &frame(ALL, 3), Offload::NONE).unwrap().is_empty()
        });
        sent.count()
    };
    // 10 a second: of 100 at once a few, of 100 at that rate all.
    let at_once = passed(0, 0);
    assert!((1..50).contains(&at_once), "{at_once}");
    assert_eq!(passed(100 * SECOND, SECOND / 10), 100);
    // One address on two ports in turns: the newer port is blocked for 30 s.
    let mut replay = start();
    let mut left = |port: &str, at: u64| {
        let bytes = if port == "vm" { tagged(ALL, 4) } else { frame(ALL, 4) };
        replay.frame(port, EPOCH + at, &bytes, Offload::NONE).unwrap().len()
    };
    for n in 0..8 {
        left("web", n * 200_000_000);
        left("vm", n * 200_000_000 + 100_000_000);
    }
    let blocked = ["web", "vm"].map(|port| left(port, 3 * SECOND) == 0);
    assert_ne!(blocked[0], blocked[1], "one of the two");
    let later = ["web", "vm"].map(|port| left(port, 60 * SECOND) > 0);
    assert_eq!(later, [true, true], "and it ends by itself");
}

#[test]
fn what_a_device_would_finish_is_finished_where_none_does() {
    let mut replay = start();
    replay.frame("nic", EPOCH, &frame(ALL, 5), Offload::NONE).unwrap();
    replay.frame("web", EPOCH, &frame(ALL, 6), Offload::NONE).unwrap();
    let whole = frames::tcp4(frames::mac(5), frames::mac(6), &frames::pattern(1, 4000));
    let packet = frames::gso(whole, GsoKind::TcpV4, 1000);
    let (mut bytes, offload) = (packet.bytes, packet.offload);
    let sent = replay.frame("web", EPOCH, &bytes, offload).unwrap();
    let lens: Vec<usize> = sent.iter().map(|left| left.bytes.len()).collect();
    assert_eq!((ports(&sent), lens), (vec!["nic"; 4], vec![1054; 4]));
    assert!(sent.iter().all(|left| left.offload.is_finished()));
    // A claim that the frame does not bear out is dropped by name, as a device's would be.
    bytes[12] = 0x86;
    assert!(replay.frame("web", EPOCH, &bytes, offload).unwrap().is_empty());
    assert!(replay.frame("web", EPOCH, &[1, 2, 3], Offload::NONE).unwrap().is_empty());
    let drops = replay.books().drops;
    let named: Vec<_> = drops.iter().map(|row| (&*row.port, &*row.reason)).collect();
    assert_eq!(named, [("web", "runt"), ("web", "vnet-header")]);
}

#[test]
fn only_ports_of_the_switch_take_frames() {
    let mut replay = start();
    let names: Vec<_> = replay.entrances().collect();
    assert_eq!(names, [("nic", false), ("v4", true), ("vm", false), ("web", false)]);
    let error = replay.frame("lo", EPOCH, &frame(ALL, 1), Offload::NONE).unwrap_err();
    assert!(error.to_string().contains("\"lo\""), "{error}");
}
