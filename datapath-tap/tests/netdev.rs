//! Netdev ports on the real kernel.

mod common;

use std::time::Duration;

use common::*;
use datapath_tap::testing::RawSocket;
use datapath_tap::{SilenceBy, TapOptions};
use switch_core::DropReason;
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, BackendError, Caps, PortEventKind};

/// How long to listen for a frame that must not come.
const SILENCE: Duration = Duration::from_millis(300);

fn taking_over(device: &str) -> PortSpec {
    let kind = PortKind::Netdev { device: device.to_owned(), take_over: true };
    PortSpec::new(device, kind, Some("br0"))
}

#[test]
fn frames_of_every_shape_pass_both_ways() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    let mut rig = Rig::new(TapOptions::default());
    let info = rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    assert_eq!((info.driver.as_str(), info.caps), ("af_packet", Caps::ALL));
    assert_eq!(info.lost, Vec::<String>::new());
    assert!(info.link_up, "it was brought up");
    let far = veth.far();
    for (n, tags) in TAGS.iter().enumerate() {
        // The kernel itself drops a tagged frame without two bytes behind the tag's EtherType
        // (`skb_vlan_untag`).
        let shortest = [14, 20, 22][tags.len()];
        for len in [shortest, 59, 60, 61, 1514] {
            let there = frame(len, tags, n as u8);
            far.send(&there).unwrap();
            assert_eq!(bytes(&rig.recv(0, 1)[0]), there, "{tags:?}");
            let back = frame(len, tags, 0x80 | n as u8);
            rig.send(0, &back);
            assert_eq!(far.recv(PATIENCE).as_ref(), Some(&back), "{tags:?}");
        }
    }
    assert_eq!(rig.counters[0].totals().dropped(), 0);
    assert_eq!(rig.backend.outside_loss(port(0)).missed_rx, 0);
    rig.close(0, true).unwrap();
    let shown = run(&format!("ip -o link show {}", veth.near.0));
    assert!(shown.contains("state DOWN"), "it is down again as it was: {shown}");
    assert!(shown.contains("promiscuity 0") || !shown.contains("PROMISC"), "{shown}");
}

#[test]
fn every_length_a_link_carries_passes() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    run(&format!("ip link set {} mtu 65535", veth.near.0));
    veth.space.run("ip link set v0 mtu 65535");
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    let far = veth.far();
    for len in [14, 17, 59, 60, 1514, 1518, 1791, 1792, 1793, 2048, 9216, 65_535, 65_536, 65_549] {
        let there = frame(len, &[], 1);
        far.send(&there).unwrap();
        assert_eq!(bytes(&rig.recv(0, 1)[0]), there);
        rig.send(0, &there);
        assert_eq!(far.recv(PATIENCE), Some(there));
    }
    // The longest tag in front of the longest frame.
    let there = frame(65_553, &[(0x8100, 5)], 1);
    far.send(&there).unwrap();
    assert_eq!(bytes(&rig.recv(0, 1)[0]), there);
    assert_eq!(rig.counters[0].totals().dropped(), 0);
}

#[test]
fn other_devices_frames_and_the_hosts_own_do_not_come_in() {
    if !can_run() {
        return;
    }
    let (veth, other) = (Veth::new(), Veth::new());
    run(&format!("ip link set {} up", other.near.0));
    let mut rig = Rig::new(TapOptions::default());
    // Frames of the other device are on their way while this one is opened.
    let stranger = other.far();
    for n in 0..50 {
        stranger.send(&frame(60, &[], n)).unwrap();
    }
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    for n in 0..50 {
        stranger.send(&frame(60, &[], n)).unwrap();
    }
    // Sent by the host on the very device: neither comes in nor goes out.
    let host = RawSocket::open(None, &veth.near.0).unwrap();
    let far = veth.far();
    assert!(host.send(&frame(60, &[], 0x77)).is_err(), "and the host is told");
    assert_eq!(far.recv(SILENCE), None, "the host's frame went out");
    far.send(&frame(60, &[], 0x99)).unwrap();
    let got = rig.recv(0, 1);
    assert_eq!((got.len(), bytes(&got[0])), (1, frame(60, &[], 0x99)));
    rig.close(0, false).unwrap();
    run(&format!("ip link set {} up", veth.near.0));
    // The socket first tells that the device was down.
    eventually("the host sends", || host.send(&frame(60, &[], 0x78)).is_ok());
    // So does its IPv6, unasked.
    eventually("the host's frame", || far.recv(SILENCE) == Some(frame(60, &[], 0x78)));
}

/// Whether the host answers on its end of the pair: by ARP, by echo, and over IPv6.
fn host_answers(veth: &Veth) -> [bool; 3] {
    veth.space.run("ip neigh flush dev v0");
    let by_arp = veth.space.works("ping -c 1 -W 1 198.51.100.1");
    // With the address known, the echo request itself gets there.
    let mac = run(&format!("cat /sys/class/net/{}/address", veth.near.0));
    veth.space.run(&format!("ip neigh replace 198.51.100.1 lladdr {} dev v0", mac.trim()));
    let by_echo = veth.space.works("ping -c 1 -W 1 198.51.100.1");
    let by_ipv6 = veth.space.works("ping -6 -c 1 -W 1 2001:db8:77::1");
    [by_arp, by_echo, by_ipv6]
}

fn with_addresses() -> Veth {
    let veth = Veth::new();
    run(&format!("ip link set {} up", veth.near.0));
    // One host route and no default: nothing else of the machine is touched.
    run(&format!("ip addr add 198.51.100.1 peer 198.51.100.2 dev {}", veth.near.0));
    veth.space.run("ip addr add 198.51.100.2/24 dev v0");
    run(&format!(
        "ip -6 addr add 2001:db8:77::1/128 peer 2001:db8:77::2 dev {} nodad",
        veth.near.0
    ));
    veth.space.run("sysctl -qw net.ipv6.conf.v0.disable_ipv6=0");
    veth.space.run("ip -6 addr add 2001:db8:77::2/64 dev v0 nodad");
    veth
}

#[test]
fn the_host_is_silent_while_attached() {
    if !can_run() {
        return;
    }
    for silence in [SilenceBy::Tcx, SilenceBy::Nftables] {
        let veth = with_addresses();
        eventually("the host answers before", || host_answers(&veth) == [true; 3]);
        let mut rig = Rig::new(TapOptions { silence, ..TapOptions::default() });
        let info = rig.open(0, &taking_over(&veth.near.0)).unwrap();
        assert_eq!(info.lost.is_empty(), silence == SilenceBy::Tcx, "{:?}", info.lost);
        assert_eq!(host_answers(&veth), [false; 3], "{silence:?}");
        // Ours pass all the while, also those that the kernel has to finish.
        let far = veth.far();
        far.send(&frame(60, &[], 1)).unwrap();
        assert_eq!(bytes(&rig.recv(0, 1)[0]), frame(60, &[], 1));
        rig.send(0, &frame(60, &[], 2));
        eventually("it went out", || far.recv(SILENCE) == Some(frame(60, &[], 2)));
        let ping = format!("ping -c 1 -W 1 -I {} 198.51.100.2", veth.near.0);
        assert!(!works(&ping), "the host must not get out either");
        rig.close(0, false).unwrap();
        assert_eq!(host_answers(&veth), [true; 3], "{silence:?}: the host answers again");
        let shown = run(&format!("ip addr show dev {}", veth.near.0));
        assert!(shown.contains("198.51.100.1"), "its addresses stay: {shown}");
        assert!(shown.contains("2001:db8:77::1"), "its addresses stay: {shown}");
    }
}

/// A child process that does not outlive the test.
struct Holder(std::process::Child);

impl Holder {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Holds a device for `a_killed_process_leaves_the_host_as_it_was`, which kills it.
#[test]
#[ignore = "started by another test"]
fn hold_a_device() {
    let Ok(device) = std::env::var("VSWITCH_TEST_HOLD") else { return };
    let nft = std::env::var("VSWITCH_TEST_NFT").is_ok();
    let silence = if nft { SilenceBy::Nftables } else { SilenceBy::Tcx };
    let mut rig = Rig::new(TapOptions { silence, ..TapOptions::default() });
    rig.open(0, &taking_over(&device)).unwrap();
    // Told by a frame to the far end; then until killed.
    rig.send(0, &frame(60, &[], 0x55));
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_process_leaves_the_host_as_it_was() {
    if !can_run() {
        return;
    }
    for nft in [false, true] {
        let veth = with_addresses();
        let far = veth.far();
        let mut holder = std::process::Command::new(std::env::current_exe().unwrap());
        holder.args(["--exact", "hold_a_device", "--ignored"]);
        holder.env("VSWITCH_TEST_HOLD", &veth.near.0);
        if nft {
            holder.env("VSWITCH_TEST_NFT", "1");
        }
        let mut holder = Holder(holder.spawn().unwrap());
        eventually("the device is held", || far.recv(SILENCE) == Some(frame(60, &[], 0x55)));
        assert_eq!(host_answers(&veth), [false; 3]);
        holder.kill();
        eventually("the host answers again", || host_answers(&veth) == [true; 3]);
    }
}

#[test]
fn a_device_in_use_is_refused() {
    if !can_run() {
        return;
    }
    let refused = |veth: &Veth| {
        let mut rig = Rig::new(TapOptions::default());
        let e = rig.open(0, &netdev_spec(&veth.near.0)).unwrap_err();
        let hint = e.hint().unwrap_or_default().to_owned();
        assert!(hint.contains("take-over = true"), "{e} {hint}");
        rig.open(0, &taking_over(&veth.near.0)).unwrap();
        rig.close(0, false).unwrap();
        e.to_string() + &hint
    };
    let veth = with_addresses();
    let said = refused(&veth);
    assert!(said.contains("198.51.100.1/32") && said.contains("ip addr del"), "{said}");

    let veth = Veth::new();
    let bridge = Device::named();
    run(&format!("ip link add {} type bridge", bridge.0));
    run(&format!("ip link set {} master {}", veth.near.0, bridge.0));
    let said = refused(&veth);
    assert!(said.contains(&bridge.0) && said.contains("nomaster"), "{said}");

    let veth = Veth::new();
    run(&format!("ip link set {} up", veth.near.0));
    // The last resort of a table nobody looks at.
    run(&format!("ip route add default dev {} table 7777 metric 4000000", veth.near.0));
    let said = refused(&veth);
    assert!(said.contains("default route"), "{said}");

    let mut rig = Rig::new(TapOptions::default());
    let e = rig.open(0, &netdev_spec("lo")).unwrap_err();
    assert!(e.to_string().contains("no Ethernet device"), "{e}");
}

#[test]
fn a_device_that_vanishes_comes_back() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    let spec = netdev_spec(&veth.near.0);
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &spec).unwrap();
    veth.space.run("ip link set v0 down");
    rig.wait_for(0, |k| *k == PortEventKind::LinkDown);
    veth.space.run("ip link set v0 up");
    rig.wait_for(0, |k| *k == PortEventKind::LinkUp);
    run(&format!("ip link set {} mtu 1400", veth.near.0));
    rig.wait_for(0, |k| *k == PortEventKind::Mtu(1400));
    // Down and up again, and it goes on.
    run(&format!("ip link set {} down", veth.near.0));
    rig.wait_for(0, |k| *k == PortEventKind::LinkDown);
    rig.send(0, &frame(60, &[], 0));
    assert_eq!(rig.counters[0].dropped(DropReason::PortDown), 1);
    run(&format!("ip link set {} up", veth.near.0));
    rig.wait_for(0, |k| *k == PortEventKind::LinkUp);
    veth.far().send(&frame(60, &[], 9)).unwrap();
    assert_eq!(bytes(&rig.recv(0, 1)[0]), frame(60, &[], 9));

    run(&format!("ip link del {}", veth.near.0));
    rig.wait_for(0, |k| matches!(k, PortEventKind::Gone(_)));
    rig.send(0, &frame(60, &[], 0));
    assert_eq!(rig.counters[0].dropped(DropReason::PortDown), 2);
    rig.close(0, false).unwrap();
    assert!(matches!(rig.open(0, &spec), Err(BackendError::NotThere { .. })));
    let far = format!("peer name v0 netns {}", veth.space.name);
    run(&format!("ip link add {} type veth {far}", veth.near.0));
    veth.space.run("ip link set v0 up");
    rig.wait_for(0, |k| *k == PortEventKind::Appeared);
    rig.open(0, &spec).unwrap();
    veth.far().send(&frame(60, &[], 8)).unwrap();
    assert_eq!(bytes(&rig.recv(0, 1)[0]), frame(60, &[], 8));
}

#[test]
fn what_a_killed_switch_left_is_undone_or_taken_over() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    let dir = tempfile::tempdir().unwrap();
    let options = TapOptions { run_dir: Some(dir.path().to_owned()), ..TapOptions::default() };
    let is_up = || run(&format!("ip -o link show {}", veth.near.0)).contains(",UP");
    // Brought up, then forgotten without a close, as by a kill.
    let mut rig = Rig::new(options.clone());
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    drop(rig);
    assert!(is_up());
    // Attached again, the note is kept, and the clean end restores it.
    let mut rig = Rig::new(options.clone());
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    rig.backend.events();
    assert!(is_up());
    rig.close(0, false).unwrap();
    assert!(!is_up());
    // Not attached again, it is undone by the next life.
    let mut rig = Rig::new(options.clone());
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    drop(rig);
    let mut rig = Rig::new(options);
    assert!(is_up());
    rig.backend.events();
    assert!(!is_up());
}

#[test]
fn a_stopped_reader_costs_the_others_nothing() {
    if !can_run() {
        return;
    }
    // A TAP whose owner does not read, as a stopped QEMU.
    let stopped = Device::named();
    let mut owner = Rig::new(TapOptions::default());
    owner.open(0, &tap_spec(&stopped.0, None)).unwrap();
    let veth = Veth::new();
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &netdev_spec(&stopped.0)).unwrap();
    rig.open(1, &netdev_spec(&veth.near.0)).unwrap();
    let far = veth.far();
    for n in 0..3000u32 {
        rig.send(0, &frame(60, &[], 0));
        if n % 100 == 0 {
            let mark = frame(60, &[], (n / 100) as u8);
            rig.send(1, &mark);
            assert_eq!(far.recv(PATIENCE), Some(mark));
        }
    }
    let totals = rig.counters[0].totals();
    assert_eq!(totals.tx_frames + totals.dropped_for(DropReason::TxFull), 3000);
    assert!(totals.dropped_for(DropReason::TxFull) > 0, "{totals:?}");
    assert_eq!(rig.counters[1].totals().dropped(), 0);
    // What was counted as sent is what the owner finds when it reads again.
    let got = owner.recv(0, totals.tx_frames as usize);
    assert_eq!(got.len() as u64, totals.tx_frames);
}

#[test]
fn without_an_egress_hook_ipv6_is_off_meanwhile() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    run(&format!("ip link set {} up", veth.near.0));
    let ipv6_off =
        || run(&format!("cat /proc/sys/net/ipv6/conf/{}/disable_ipv6", veth.near.0)).trim() == "1";
    let dir = tempfile::tempdir().unwrap();
    let options = TapOptions {
        silence: SilenceBy::NftablesIngress,
        run_dir: Some(dir.path().to_owned()),
        ..TapOptions::default()
    };
    let mut rig = Rig::new(options.clone());
    let info = rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    assert!(info.lost.iter().any(|l| l.contains("IPv6 is off")), "{:?}", info.lost);
    assert!(ipv6_off());
    rig.close(0, false).unwrap();
    assert!(!ipv6_off());
    // A killed one is undone by the next life, which need not know the device any more.
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    drop(rig);
    assert!(ipv6_off());
    Rig::new(options).backend.events();
    assert!(!ipv6_off());
}
