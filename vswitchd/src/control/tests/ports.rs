//! Ports: opened, waiting, failed, gone, changed, deleted; and what that does to their frames.

use switch_core::datapath::PortEventKind;
use vswitch_api::types::FdbFilter;

use super::*;

fn macs(bench: &Bench, port: &str) -> usize {
    let filter = FdbFilter { port: Some(port.to_owned()), ..FdbFilter::default() };
    bench.ask(|reply| Action::Fdb(filter, reply)).into_entries().len()
}

#[test]
fn ports_of_the_file_forward_and_learn() {
    let bench = Bench::start(&switch(&["a", "b"]));
    passes(&bench, ("a", 1), ("b", 2));
    passes(&bench, ("b", 2), ("a", 1));
    assert_eq!((macs(&bench, "a"), macs(&bench, "b")), (1, 1));
    let status = bench.ask(Action::Status);
    assert_eq!((status.ports.up, status.degraded), (2, false));
    assert_eq!(bench.stats("a").counters.rx_frames, 1);
}

#[test]
fn a_port_is_added_changed_and_deleted_while_others_forward() {
    let bench = Bench::start(&switch(&["a", "b"]));
    passes(&bench, ("a", 1), ("b", 2));
    let spec = port_spec(&json!({"name": "c", "type": "tap", "bridge": "br0"}));
    let reply = bench.mutate(Mutation::AddPort(spec)).unwrap();
    assert!(reply.realised);
    assert_eq!(reply.revision, 2);
    passes(&bench, ("a", 1), ("c", 3));

    bench.mutate(Mutation::SetPort("c".into(), json!({"mtu": 1400}))).unwrap();
    assert_eq!(bench.port("c").mtu, Some(1400));
    let reply = bench.mutate(Mutation::RemovePort("c".into())).unwrap();
    assert!(reply.realised);
    assert!(bench.wires.get("c").is_none());
    // Its device goes with it, but not when it was only opened anew for another MTU.
    let closed = bench.world().closed.clone();
    assert_eq!(closed, [("c".to_owned(), false), ("c".to_owned(), true)]);
    passes(&bench, ("a", 1), ("b", 2));
}

#[test]
fn no_frame_of_other_ports_is_lost_while_one_flaps() {
    let bench = Bench::start(&switch(&["a", "b"]));
    passes(&bench, ("b", 2), ("a", 1));
    let (a, b) = (bench.wire("a"), bench.wire("b"));
    let (mut sent, mut got) = (0, 0);
    for round in 0..50 {
        for _ in 0..20 {
            assert!(a.inject(frame(1, 2)));
            sent += 1;
        }
        let spec = port_spec(&json!({"name": "c", "type": "tap", "bridge": "br0"}));
        bench.mutate(Mutation::AddPort(spec)).unwrap();
        let station = 100 + round;
        assert!(bench.wire("c").inject(frame(station, 1)));
        bench.mutate(Mutation::RemovePort("c".into())).unwrap();
        got += b.collect().iter().filter(|packet| packet.bytes == frame(1, 2)).count();
    }
    until("the last frames", || {
        got += b.collect().iter().filter(|packet| packet.bytes == frame(1, 2)).count();
        got >= sent
    });
    assert_eq!(got, sent);
    let stats = bench.stats("a");
    assert_eq!(stats.counters.rx_frames, sent as u64);
    assert!(stats.drops.is_empty(), "{:?}", stats.drops);
}

#[test]
fn a_missing_device_waits_and_comes_up_by_itself() {
    let mut world = World::default();
    world.missing.insert("b".to_owned());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let bench = Bench::start_with(dir, &switch(&["a", "b"]), world);
    let port = bench.port("b");
    assert_eq!(port.state, PortState::Waiting);
    assert_eq!(port.reason.as_deref(), Some("device b: no such device"));
    let status = bench.ask(Action::Status);
    assert!(status.degraded);
    assert_eq!(status.warnings[0].subject, "port b");

    bench.world().missing.clear();
    bench.world().appeared.push("b".to_owned());
    bench.wait_for_state("b", PortState::Up);
    passes(&bench, ("a", 1), ("b", 2));
    assert!(!bench.ask(Action::Status).degraded);
    assert!(bench.told().contains(&("port-waiting".to_owned(), "port b".to_owned())));
    assert!(bench.told().contains(&("port-up".to_owned(), "port b".to_owned())));
}

#[test]
fn a_device_that_goes_leaves_its_port_waiting_and_keeps_its_counters() {
    let bench = Bench::start(&switch(&["a", "b", "c"]));
    passes(&bench, ("b", 2), ("a", 1));
    passes(&bench, ("a", 1), ("b", 2));
    bench.world().missing.insert("b".to_owned());
    bench.wire("b").report(PortEventKind::Gone("device b is gone".to_owned()));
    bench.wait_for_state("b", PortState::Waiting);
    assert_eq!(bench.port("b").reason.as_deref(), Some("device b is gone"));
    assert_eq!(macs(&bench, "b"), 0);
    // What was for it is flooded, and others go on.
    passes(&bench, ("a", 1), ("c", 2));

    bench.world().missing.clear();
    bench.wait_for_state("b", PortState::Up);
    passes(&bench, ("b", 2), ("a", 1));
    assert_eq!(bench.stats("b").counters.rx_frames, 2);
}

#[test]
fn a_port_that_cannot_be_opened_is_accepted_and_not_realised() {
    let bench = Bench::start(&switch(&["a"]));
    bench.world().failing.insert("b".to_owned(), "permission denied".to_owned());
    let spec = port_spec(&json!({"name": "b", "type": "tap", "bridge": "br0"}));
    let reply = bench.mutate(Mutation::AddPort(spec)).unwrap();
    assert!(!reply.realised);
    let object = &reply.objects[0];
    assert_eq!(object.reason.as_deref(), Some("open b: permission denied"));
    assert_eq!(object.hint.as_deref(), Some("do not"));
    assert_eq!(bench.port("b").state, PortState::Failed);
    // It is desired all the same, and comes up once nothing is in its way.
    bench.world().failing.clear();
    bench.wait_for_state("b", PortState::Up);
}

#[test]
fn what_an_open_port_refuses_is_told_and_the_port_goes_on() {
    let bench = Bench::start(&switch(&["a", "b"]));
    bench.world().failing.insert("b".to_owned(), "too large".to_owned());
    let reply = bench.mutate(Mutation::SetPort("b".into(), json!({"mtu": 9000}))).unwrap();
    assert!(!reply.realised);
    assert_eq!(reply.objects[0].reason.as_deref(), Some("adjust b: too large"));
    passes(&bench, ("a", 1), ("b", 2));
    let reply = bench.mutate(Mutation::SetPort("b".into(), json!({"mtu": null}))).unwrap();
    assert!(reply.realised, "{reply:?}");
    assert_eq!(bench.port("b").state, PortState::Up);
}

#[test]
fn a_link_that_goes_down_takes_no_frames_and_forgets_its_stations() {
    let bench = Bench::start(&switch(&["a", "b"]));
    passes(&bench, ("b", 2), ("a", 1));
    bench.wire("b").report(PortEventKind::LinkDown);
    bench.wait_for_state("b", PortState::Down);
    assert_eq!(macs(&bench, "b"), 0);
    bench.wire("a").inject(frame(1, 2));
    until("the drop", || bench.stats("a").drops.iter().any(|drop| drop.reason == "no-destination"));
    bench.wire("b").report(PortEventKind::LinkUp);
    bench.wait_for_state("b", PortState::Up);
    passes(&bench, ("a", 1), ("b", 2));
}

#[test]
fn entries_of_a_vlan_or_bridge_go_when_their_port_leaves_it() {
    let bench = Bench::start(&switch(&["a", "b", "c"]));
    for (name, station) in [("a", 1), ("b", 2), ("c", 3)] {
        let other = if name == "a" { ("b", 2) } else { ("a", 1) };
        passes(&bench, (name, station), other);
    }
    bench.mutate(Mutation::SetPort("b".into(), json!({"access": 10}))).unwrap();
    assert_eq!((macs(&bench, "a"), macs(&bench, "b"), macs(&bench, "c")), (1, 0, 1));
    bench.mutate(Mutation::AddBridge(switch_core::config::BridgeSpec::new("br1"))).unwrap();
    bench.mutate(Mutation::SetPort("c".into(), json!({"bridge": "br1"}))).unwrap();
    assert_eq!((macs(&bench, "a"), macs(&bench, "c")), (1, 0));
    // Nothing passes between bridges or VLANs.
    bench.wire("a").inject(frame(1, 0xffff));
    until("the drop", || bench.stats("a").drops.iter().any(|drop| drop.reason == "no-destination"));
    assert!(bench.wire("b").take().is_none());
}

#[test]
fn counters_balance_and_a_deleted_ports_drops_are_kept() {
    let bench = Bench::start(&switch(&["a", "b", "c"]));
    passes(&bench, ("a", 1), ("b", 2));
    bench.wire("c").inject(vec![0; 5]);
    until("the runt", || bench.stats("c").counters.drops == 1);
    let all = bench.ask(Action::PortStats);
    let sum = |f: fn(&PortStats) -> u64| all.iter().map(f).sum::<u64>();
    assert_eq!(
        sum(|p| p.counters.rx_frames + p.inside.copied + p.inside.originated),
        sum(|p| p.counters.tx_frames + p.counters.drops + p.inside.consumed)
    );
    assert_eq!(sum(|p| p.inside.forwarded), sum(|p| p.inside.offered));
    bench.mutate(Mutation::RemovePort("c".into())).unwrap();
    assert_eq!(bench.ask(Action::Metrics).retired.dropped(), 1);
}

#[test]
fn a_loop_is_cut_and_told() {
    let bench = Bench::start(&switch(&["a", "b", "c"]));
    // One station behind two ports in turn, as if they were cabled together. Each frame is waited
    // for, or the switch would see them in another order.
    for round in 0..12u64 {
        let name = if round % 2 == 0 { "a" } else { "b" };
        let before = bench.stats(name).counters.rx_frames;
        bench.wire(name).inject(frame(1, 9));
        until("the frame", || bench.stats(name).counters.rx_frames > before);
    }
    until("the block", || bench.port("b").blocked);
    assert!(!bench.port("a").blocked, "the newer port is blocked");
    assert!(bench.told().contains(&("loop-guard".to_owned(), "port b".to_owned())));
    let status = bench.ask(Action::Status);
    assert!(status.warnings.iter().any(|w| w.message.contains("loop guard")), "{status:?}");
}

#[test]
fn many_ports_are_opened_in_one_change_and_each_has_its_worker() {
    let names: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::start(&switch(&names));
    assert_eq!(bench.ask(Action::Status).ports.up, 100);
    passes(&bench, ("p0", 1), ("p99", 2));
    let cpus = bench.ask(Action::Cpus);
    assert_eq!(cpus.iter().map(|cpu| cpu.ports.len()).sum::<usize>(), 100);
}
