//! TAP ports on the real kernel.

mod common;

use common::*;
use datapath_tap::TapOptions;
use datapath_tap::testing::RawSocket;
use switch_core::Batch;
use switch_core::config::{Netns, PortKind};
use switch_core::datapath::{Backend, BackendError, Caps, Datapath, PortEventKind, Ready, Wait};
use switch_core::wire::MacAddr;

fn plain() -> TapOptions {
    TapOptions { plain_tap: true, ..TapOptions::default() }
}

/// A TAP goes with its last file; a child that another test is just starting may have that, too.
fn gone(space: &Space, device: &str) {
    eventually("the TAP is deleted", || !space.works(&format!("ip link show {device}")));
}

#[test]
fn frames_of_every_shape_pass_both_ways() {
    if !can_run() {
        return;
    }
    for options in [TapOptions::default(), plain()] {
        let space = Space::new();
        let mut rig = Rig::new(options);
        let info = rig.open(0, &tap_spec("t0", Some(&space))).unwrap();
        assert!(info.link_up);
        assert_eq!(info.mtu, 1500);
        let far = RawSocket::open(Some(&space.name), "t0").unwrap();
        let mut sent = 0;
        let mut octets = 0;
        for (n, tags) in TAGS.iter().enumerate() {
            for len in [60, 61, 1514] {
                let there = frame(len, tags, n as u8);
                far.send(&there).unwrap();
                let got = rig.recv(0, 1);
                assert_eq!(bytes(&got[0]), there, "{tags:?}");
                let back = frame(len, tags, 0x80 | n as u8);
                rig.send(0, &back);
                assert_eq!(far.recv(PATIENCE).as_ref(), Some(&back), "{tags:?}");
                sent += 1;
                octets += there.len() as u64;
            }
        }
        let totals = rig.counters[0].totals();
        assert_eq!((totals.rx_frames, totals.rx_bytes), (sent, octets));
        assert_eq!((totals.tx_frames, totals.tx_bytes, totals.dropped()), (sent, octets, 0));
        rig.close(0, true).unwrap();
        gone(&space, "t0");
    }
}

#[test]
fn the_offloaded_device_says_what_it_can_and_the_plain_one_nothing() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let mut rig = Rig::new(TapOptions::default());
    let info = rig.open(0, &tap_spec("t0", Some(&space))).unwrap();
    assert_eq!((info.caps, info.driver.as_str()), (Caps::ALL, "tun"));
    assert_eq!(info.lost, Vec::<String>::new());
    assert!(space.run("ethtool -k t0").contains("tcp-segmentation-offload: on"));
    assert!(space.run("ip -d link show t0").contains(" gso_max_size 62600 "));
    rig.close(0, false).unwrap();
    // The mask is the device's: a plain owner must not get what the earlier one asked for.
    let mut rig = Rig::new(plain());
    let info = rig.open(0, &tap_spec("t0", Some(&space))).unwrap();
    assert_eq!((info.caps, info.driver.as_str()), (Caps::default(), "tun (plain)"));
    assert!(space.run("ethtool -k t0").contains("tcp-segmentation-offload: off"));
}

#[test]
fn name_mtu_address_and_state_are_as_asked() {
    if !can_run() {
        return;
    }
    let device = Device::named();
    let mut rig = Rig::new(TapOptions::default());
    let mut spec = tap_spec(&device.0, None);
    spec.mtu = Some(9000);
    spec.mac = Some(MacAddr::new([2, 0, 0, 0xaa, 0xbb, 0xcc]));
    let info = rig.open(0, &spec).unwrap();
    assert_eq!((info.device.as_str(), info.mtu), (device.0.as_str(), 9000));
    assert_eq!(info.mac, [2, 0, 0, 0xaa, 0xbb, 0xcc]);
    let shown = run(&format!("ip -o link show {}", device.0));
    assert!(shown.contains("mtu 9000") && shown.contains("02:00:00:aa:bb:cc"), "{shown}");
    assert!(shown.contains("LOWER_UP"), "{shown}");

    let mut new = spec.clone();
    new.mtu = Some(1400);
    assert!(rig.backend.adjust_port(port(0), &spec, &new).unwrap());
    assert_eq!(rig.backend.port_info(port(0)).unwrap().mtu, 1400);
    new.mtu = Some(10);
    let e = rig.backend.adjust_port(port(0), &spec, &new).unwrap_err();
    assert!(e.to_string().contains("set mtu 10") && e.hint().is_some(), "{e}");
    assert_eq!(rig.backend.port_info(port(0)).unwrap().mtu, 1400);
    let mut other = spec.clone();
    other.kind = tap_spec("other", None).kind;
    assert!(!rig.backend.adjust_port(port(0), &spec, &other).unwrap());
}

#[test]
fn it_persists_with_its_addresses_and_is_taken_over_in_its_namespace() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let spec = tap_spec("t0", Some(&space));
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &spec).unwrap();
    space.run("ip addr add 192.0.2.7/24 dev t0");
    let index = space.run("cat /sys/class/net/t0/ifindex");
    // Stopped cleanly, then killed (the files close without a word).
    rig.close(0, false).unwrap();
    for _ in 0..2 {
        assert!(space.run("ip -o addr show dev t0").contains("192.0.2.7/24"));
        let mut next = Rig::new(TapOptions::default());
        let info = next.open(0, &spec).unwrap();
        assert!(info.link_up);
        assert_eq!(space.run("cat /sys/class/net/t0/ifindex"), index);
        assert!(!works("ip link show t0"), "none was made outside");
        let far = RawSocket::open(Some(&space.name), "t0").unwrap();
        far.send(&frame(60, &[], 1)).unwrap();
        assert_eq!(bytes(&next.recv(0, 1)[0]), frame(60, &[], 1));
        drop(next);
    }
    // Not persistent any more: gone with its file.
    let mut rig = Rig::new(TapOptions::default());
    let mut brief = spec.clone();
    brief.kind = PortKind::Tap {
        device: "t0".into(),
        netns: Some(space.netns()),
        persist: false,
        queues: None,
    };
    rig.open(0, &spec).unwrap();
    assert!(rig.backend.adjust_port(port(0), &spec, &brief).unwrap());
    rig.close(0, false).unwrap();
    gone(&space, "t0");
}

#[test]
fn what_cannot_be_opened_says_why_and_what_mends_it() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let mut rig = Rig::new(TapOptions::default());
    let fails = |rig: &mut Rig, spec: &switch_core::config::PortSpec| {
        let e = rig.open(1, spec).unwrap_err();
        let hint = e.hint().unwrap_or_default().to_owned();
        (e.to_string(), hint)
    };

    space.run("ip link add v0 type veth peer name v1");
    let (e, hint) = fails(&mut rig, &tap_spec("v0", Some(&space)));
    assert!(e.contains("open TAP device v0") && e.contains("is no TAP (veth)"), "{e}");
    assert!(hint.contains(&format!("ip -n {} link del v0", space.name)), "{hint}");

    space.run("ip tuntap add dev l3 mode tun");
    let (e, hint) = fails(&mut rig, &tap_spec("l3", Some(&space)));
    assert!(e.contains("is a TUN") && hint.contains("link del l3"), "{e} {hint}");

    rig.open(0, &tap_spec("t0", Some(&space))).unwrap();
    let (e, hint) = fails(&mut rig, &tap_spec("t0", Some(&space)));
    assert!(e.contains("another program has it open") && hint.contains("fdinfo"), "{e} {hint}");

    let mut spec = tap_spec("t1", Some(&space));
    spec.mtu = Some(20);
    let (e, hint) = fails(&mut rig, &spec);
    assert!(e.contains("set mtu 20") && hint.contains("minmtu"), "{e} {hint}");
    gone(&space, "t1");

    for bad in ["", "a-name-of-16-byte", "with space", "a/b", "t%d"] {
        let (e, _) = fails(&mut rig, &tap_spec(bad, Some(&space)));
        assert!(e.contains("open TAP device"), "{e}");
    }
    let mut spec = tap_spec("t2", None);
    spec.kind = PortKind::Tap {
        device: "t2".into(),
        netns: Some(Netns("vs-no-such-namespace".into())),
        persist: true,
        queues: None,
    };
    assert!(matches!(rig.open(1, &spec), Err(BackendError::NotThere { .. })));
    spec.kind = PortKind::Dpdk { devargs: "net_null0".into() };
    assert!(matches!(rig.open(1, &spec), Err(BackendError::Unsupported { .. })));
    rig.close(0, true).unwrap();
}

#[test]
fn a_port_that_is_drained_and_gets_more_is_told_of_once() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &tap_spec("t0", Some(&space))).unwrap();
    let far = RawSocket::open(Some(&space.name), "t0").unwrap();
    for seed in 0..5 {
        far.send(&frame(100, &[], seed)).unwrap();
        let mut ready = Ready::default();
        eventually("the frame is told of", || {
            ready.clear();
            rig.worker.poll(Wait::AtMost(PATIENCE), &mut ready);
            !ready.rx.is_empty()
        });
        assert_eq!(ready.rx, [port(0)]);
        // Receives it, and finds that there is no more.
        let mut batch = Batch::new();
        rig.worker.rx_burst(port(0), &mut batch, &rig.counters[0]);
    }
}

#[test]
fn link_and_deletion_are_told_and_the_port_can_be_opened_again() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let mut rig = Rig::new(TapOptions::default());
    let spec = tap_spec("t0", Some(&space));
    rig.open(0, &spec).unwrap();
    space.run("ip link set t0 down");
    rig.wait_for(0, |k| *k == PortEventKind::LinkDown);
    rig.send(0, &frame(60, &[], 0));
    assert_eq!(rig.counters[0].dropped(switch_core::DropReason::PortDown), 1);
    space.run("ip link set t0 mtu 1400 up");
    rig.wait_for(0, |k| *k == PortEventKind::LinkUp);
    assert_eq!(rig.backend.port_info(port(0)).unwrap().mtu, 1400);
    space.run("ip link del t0");
    rig.wait_for(0, |k| matches!(k, PortEventKind::Gone(_)));
    rig.send(0, &frame(60, &[], 0));
    assert_eq!(rig.counters[0].dropped(switch_core::DropReason::PortDown), 2);
    assert!(!rig.backend.port_info(port(0)).unwrap().link_up);
    rig.close(0, false).unwrap();
    rig.open(0, &spec).unwrap();

    // Its namespace goes, and comes back under the same name.
    run(&format!("ip netns del {}", space.name));
    rig.wait_for(0, |k| matches!(k, PortEventKind::Gone(_)));
    rig.close(0, false).unwrap();
    assert!(matches!(rig.open(0, &spec), Err(BackendError::NotThere { .. })));
    run(&format!("ip netns add {}", space.name));
    rig.wait_for(0, |k| *k == PortEventKind::Appeared);
    rig.open(0, &spec).unwrap();
    assert!(space.works("ip link show t0"));
}

#[test]
fn one_that_was_made_outside_is_moved_into_its_namespace() {
    if !can_run() {
        return;
    }
    let (space, device) = (Space::new(), Device::named());
    run(&format!("ip tuntap add dev {} mode tap", device.0));
    let index = run(&format!("cat /sys/class/net/{}/ifindex", device.0));
    let mut rig = Rig::new(TapOptions::default());
    let spec = tap_spec(&device.0, Some(&space));
    rig.open(0, &spec).unwrap();
    assert!(!works(&format!("ip link show {}", device.0)));
    assert_eq!(space.run(&format!("cat /sys/class/net/{}/ifindex", device.0)), index);
    let far = RawSocket::open(Some(&space.name), &device.0).unwrap();
    far.send(&frame(60, &[], 1)).unwrap();
    assert_eq!(bytes(&rig.recv(0, 1)[0]), frame(60, &[], 1));
    rig.close(0, true).unwrap();

    // One that somebody else has open stays his.
    let mut other = Rig::new(TapOptions::default());
    other.open(0, &tap_spec(&device.0, None)).unwrap();
    rig.open(0, &spec).unwrap();
    assert!(works(&format!("ip link show {}", device.0)));
    assert!(space.works(&format!("ip link show {}", device.0)));
    rig.close(0, true).unwrap();
    other.close(0, true).unwrap();
}

#[test]
fn one_that_somebody_moves_away_goes_on() {
    if !can_run() {
        return;
    }
    let (space, device) = (Space::new(), Device::named());
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &tap_spec(&device.0, None)).unwrap();
    run(&format!("ip link set {} netns {}", device.0, space.name));
    rig.send(0, &frame(60, &[], 1));
    assert_eq!(rig.counters[0].dropped(switch_core::DropReason::PortDown), 1, "it is down now");
    space.run(&format!("ip link set {} up", device.0));
    let told: Vec<_> = rig.backend.events().into_iter().map(|e| e.kind).collect();
    assert!(told.is_empty() || told.last() == Some(&PortEventKind::LinkUp), "{told:?}");
    assert!(!told.iter().any(|k| matches!(k, PortEventKind::Gone(_))), "{told:?}");
    assert!(rig.backend.port_info(port(0)).unwrap().link_up);
    let far = RawSocket::open(Some(&space.name), &device.0).unwrap();
    far.send(&frame(60, &[], 2)).unwrap();
    assert_eq!(bytes(&rig.recv(0, 1)[0]), frame(60, &[], 2));
    rig.close(0, true).unwrap();
    gone(&space, &device.0);
}

#[test]
fn what_a_device_refuses_is_told_once_in_a_while() {
    if !can_run() {
        return;
    }
    let veth = Veth::new();
    let mut rig = Rig::new(TapOptions::default());
    rig.open(0, &netdev_spec(&veth.near.0)).unwrap();
    rig.backend.events();
    for _ in 0..5 {
        rig.send(0, &frame(2000, &[], 1));
    }
    assert_eq!(rig.counters[0].dropped(switch_core::DropReason::TxError), 5);
    let told = rig.backend.events();
    let [event] = &told[..] else { panic!("{told:?}") };
    let PortEventKind::TxError(why) = &event.kind else { panic!("{event:?}") };
    assert!(why.contains("refused 5 frames") && why.contains("EMSGSIZE"), "{why}");
    rig.send(0, &frame(2000, &[], 1));
    assert_eq!(rig.backend.events(), []);
}

/// Runs where `a_machine_that_does_not_permit_it_says_what_mends_it` has put it.
#[test]
#[ignore = "started by another test"]
fn open_without_means() {
    let Ok(expected) = std::env::var("VSWITCH_TEST_EXPECTS") else { return };
    let e = Rig::new(TapOptions::default()).open(0, &tap_spec("vst0", None)).unwrap_err();
    let said = format!("{e} | {}", e.hint().unwrap_or_default());
    assert!(said.contains("open TAP device vst0") && said.contains(&expected), "{said}");
    let e = Rig::new(TapOptions::default()).open(0, &netdev_spec("lo")).unwrap_err();
    assert!(e.to_string().contains("attach device lo"), "{e}");
    println!("checked");
}

#[test]
fn a_machine_that_does_not_permit_it_says_what_mends_it() {
    if !can_run() {
        return;
    }
    let test = std::env::current_exe().unwrap();
    let test = format!("{} --exact open_without_means --ignored --nocapture", test.display());
    let unprivileged = format!("setpriv --bounding-set -all --inh-caps -all {test}");
    let without_tun = format!("unshare -m sh -c 'mount -t tmpfs none /dev/net && exec {test}'");
    for (command, expects) in [(unprivileged, "setcap"), (without_tun, "modprobe tun")] {
        let output = std::process::Command::new("sh")
            .args(["-c", &command])
            .env("VSWITCH_TEST_EXPECTS", expects)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("checked"), "{expects}: {said}{output:?}");
    }
}
