//! Desired state: checked as a whole, kept over restarts, taken back.

use vswitch_api::types::{
    Action as Done, FdbBatch, FdbEntry, FdbFlush, FdbKey, FdbKind, FdbSelector, Origin, VlanMode,
    VlanRequest,
};

use super::*;
use crate::store::{Commit, Pending};

fn add_port(name: &str) -> Mutation {
    Mutation::AddPort(port_spec(&json!({"name": name, "type": "tap", "bridge": "br0"})))
}

fn apply(toml: String, confirm: Option<u64>) -> Mutation {
    Mutation::Apply { toml, confirm }
}

#[test]
fn what_was_changed_through_the_api_is_there_after_a_restart() {
    let file = switch(&["a"]);
    let bench = Bench::start(&file);
    bench.mutate(add_port("b")).unwrap();
    bench.mutate(Mutation::RemovePort("a".into())).unwrap();
    let (toml, dir) = (bench.toml(), bench.stop());
    let bench = Bench::start_in(dir, &file);
    assert_eq!(bench.toml(), toml);
    assert_eq!(bench.ask(Action::Ports).len(), 1);
    assert_eq!(bench.port("b").origin, Origin::Api);
    assert_eq!(bench.port("b").state, PortState::Up);
}

#[test]
fn a_changed_file_replaces_its_own_and_leaves_the_rest() {
    let bench = Bench::start(&switch(&["a", "b"]));
    bench.mutate(add_port("mine")).unwrap();
    let dir = bench.stop();
    let bench = Bench::start_in(dir, &switch(&["b", "c"]));
    let names: Vec<_> = bench.ask(Action::Ports).into_iter().map(|p| (p.name, p.origin)).collect();
    assert_eq!(
        names,
        [
            ("b".to_owned(), Origin::File),
            ("c".to_owned(), Origin::File),
            ("mine".to_owned(), Origin::Api)
        ]
    );
}

#[test]
fn a_reload_follows_the_same_rules_and_a_bad_file_changes_nothing() {
    let bench = Bench::start(&switch(&["a"]));
    bench.mutate(add_port("mine")).unwrap();
    let before = bench.toml();
    let bad = bench.mutate(Mutation::Reload(b"version = 1\nbridges = []\n".to_vec())).unwrap_err();
    assert_eq!(bad.code, Code::InvalidConfig);
    assert_eq!(bad.problems[0].line, Some(2));
    let collides = bench.mutate(Mutation::Reload(
        format!("{}isolated = true\n", switch(&["a", "mine"])).into_bytes(),
    ));
    assert_eq!(collides.unwrap_err().code, Code::OriginConflict);
    assert_eq!(bench.toml(), before);

    let reply = bench.mutate(Mutation::Reload(switch(&["z"]).into_bytes())).unwrap();
    let done: Vec<_> = reply.objects.iter().map(|o| (o.name.as_str(), o.action)).collect();
    assert_eq!(done, [("a", Done::Removed), ("z", Done::Added)]);
    // The file is as it was loaded last now: nothing to do.
    let reply = bench.mutate(Mutation::Reload(switch(&["z"]).into_bytes())).unwrap();
    assert!(reply.objects.is_empty());
    passes(&bench, ("z", 1), ("mine", 2));
}

#[test]
fn what_is_wrong_is_refused_as_a_whole() {
    let bench = Bench::start(&switch(&["a"]));
    let before = bench.toml();
    let code = |result: Result<MutationReply, ApiError>| result.unwrap_err().code;
    assert_eq!(code(bench.mutate(add_port("a"))), Code::Exists);
    assert_eq!(code(bench.mutate(Mutation::RemovePort("x".into()))), Code::NoSuchPort);
    assert_eq!(code(bench.mutate(Mutation::RemoveBridge("br0".into()))), Code::InUse);
    assert_eq!(code(bench.mutate(Mutation::RemoveBridge("x".into()))), Code::NoSuchBridge);
    let set = |patch| bench.mutate(Mutation::SetPort("a".into(), patch));
    assert_eq!(code(set(json!({"bridge": "nope"}))), Code::InvalidConfig);
    assert_eq!(code(set(json!({"name": "b"}))), Code::InvalidConfig);
    assert_eq!(code(set(json!({"colour": "red", "mtu": "big"}))), Code::InvalidConfig);
    assert_eq!(code(set(json!([1]))), Code::InvalidRequest);
    let same_device = json!({"name": "b", "type": "tap", "device": "a", "bridge": "br0"});
    let same_device = Mutation::AddPort(port_spec(&same_device));
    assert_eq!(code(bench.mutate(same_device)), Code::InvalidConfig);
    assert_eq!(code(bench.mutate(Mutation::Confirm)), Code::NothingToConfirm);
    assert_eq!(code(bench.mutate(Mutation::Rollback(Some(99)))), Code::NoSuchRevision);
    assert_eq!(code(bench.mutate(apply(switch(&[]), Some(0)))), Code::InvalidRequest);
    assert_eq!((bench.toml(), bench.ask(Action::Status).revision), (before, 1));
}

#[test]
fn every_revision_can_be_shown_and_gone_back_to() {
    let bench = Bench::start(&switch(&["a"]));
    let first = bench.toml();
    bench.mutate(add_port("b")).unwrap();
    bench.mutate(Mutation::SetPort("b".into(), json!({"isolated": true}))).unwrap();
    bench.mutate(Mutation::RemovePort("a".into())).unwrap();
    let last = bench.toml();

    let history = bench.ask(Action::History);
    assert_eq!(history.iter().map(|h| h.revision).collect::<Vec<_>>(), [4, 3, 2, 1]);
    assert!(history[0].current && history[0].what.contains("port del a (test)"), "{history:?}");
    assert_eq!(bench.ask(|reply| Action::Revision(1, reply)).toml, first);
    let changes = bench.ask(|reply| Action::Changes(3, reply));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].key.as_deref(), Some("isolated"));

    let reply = bench.mutate(Mutation::Rollback(Some(1))).unwrap();
    assert_eq!((reply.revision, bench.toml()), (5, first));
    assert_eq!(bench.port("a").origin, Origin::File);
    bench.mutate(Mutation::Rollback(None)).unwrap();
    assert_eq!(bench.toml(), last);
}

#[test]
fn a_change_that_nobody_confirms_is_taken_back() {
    let bench = Bench::start(&switch(&["a"]));
    let before = bench.toml();
    let reply = bench.mutate(apply(switch(&["a", "b"]), Some(1))).unwrap();
    assert_eq!(reply.confirm_within, Some(1));
    assert_eq!(bench.port("b").state, PortState::Up);
    assert_eq!(bench.mutate(add_port("c")).unwrap_err().code, Code::ConfirmPending);
    until("the change to be taken back", || bench.toml() == before);
    assert!(bench.wires.get("b").is_none());
    bench.mutate(add_port("c")).unwrap();
}

/// The store may fail for a while: here, it has no such revision.
#[test]
fn taking_back_is_tried_again_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let (desired, _) = load(&mut store, switch(&[]).as_bytes(), false).unwrap();
    store
        .commit(Commit {
            origin: Origin::Api,
            what: "test".to_owned(),
            objects: store.objects().clone(),
            file: None,
            pending: Some(Pending { back_to: 99 }),
        })
        .unwrap();
    let (died, _) = unbounded();
    let (mut controller, _control) =
        Controller::start(LoopbackBackend::default(), store, desired, Events::default(), &died)
            .unwrap();
    let now = Instant::now();
    controller.confirm_by = Some(now);
    controller.tick(now).unwrap();
    assert!(controller.confirm_by.is_some_and(|by| by > now));
    controller.close_all().unwrap();
    controller.workers.stop();
}

/// Behind questions that nobody takes, SIGTERM must not wait for ever.
#[test]
fn a_control_thread_that_hangs_does_not_hold_up_the_end() {
    let (control, asked) = Control::unanswered();
    while control.0.try_send(Action::Stop).is_ok() {}
    control.stop();
    assert!(asked.is_full());
}

#[test]
fn a_confirmed_change_stays_and_an_unconfirmed_one_does_not_survive_a_restart() {
    let file = switch(&["a"]);
    let bench = Bench::start(&file);
    bench.mutate(apply(switch(&["a", "b"]), Some(600))).unwrap();
    assert!(bench.ask(Action::Status).confirm_within.is_some());
    bench.mutate(Mutation::Confirm).unwrap();
    assert!(bench.ask(Action::Status).confirm_within.is_none());
    let kept = bench.toml();
    bench.mutate(apply(switch(&[]), Some(600))).unwrap();
    let dir = bench.stop();
    let bench = Bench::start_in(dir, &file);
    assert_eq!(bench.toml(), kept);
    assert!(bench.ask(Action::Status).confirm_within.is_none());
}

#[test]
fn ports_join_and_leave_vlans() {
    let bench = Bench::start(&switch(&["a"]));
    let join =
        |vlan, mode| bench.mutate(Mutation::AddVlan(VlanRequest { port: "a".into(), vlan, mode }));
    let leave = |vlan| bench.mutate(Mutation::RemoveVlan { port: "a".into(), vlan });
    let words = || bench.port("a").vlan;
    join(10, VlanMode::Access).unwrap();
    assert_eq!(words(), "access 10");
    join(20, VlanMode::Trunk).unwrap();
    join(21, VlanMode::Trunk).unwrap();
    join(30, VlanMode::Trunk).unwrap();
    assert_eq!(words(), "trunk 20-21,30 native 10");
    assert_eq!(bench.ask(Action::Vlans).len(), 3);
    join(30, VlanMode::Native).unwrap();
    assert_eq!(words(), "trunk 20-21 native 30");
    leave(20).unwrap();
    leave(21).unwrap();
    assert_eq!(words(), "access 30");
    assert_eq!(leave(21).unwrap_err().code, Code::NoSuchVlan);
    // The last one cannot be left: without VLANs a port passes all of them.
    assert_eq!(leave(30).unwrap_err().code, Code::InvalidConfig);
    assert_eq!(join(4095, VlanMode::Access).unwrap_err().code, Code::InvalidConfig);
}

#[test]
fn a_change_of_the_daemon_itself_waits_for_the_next_start() {
    let file = switch(&["a"]);
    let bench = Bench::start(&file);
    let new = file.replace("[daemon]\n", "[daemon]\nidle = \"poll\"\n");
    let reply = bench.mutate(apply(new, None)).unwrap();
    assert!(!reply.realised);
    assert!(reply.objects[0].reason.as_deref().unwrap().contains("started again"));
    assert!(bench.ask(Action::Status).degraded);
    let bench = Bench::start_in(bench.stop(), &file);
    assert!(!bench.ask(Action::Status).degraded);
    assert_eq!(bench.ask(Action::Cpus)[0].idle, "poll");
}

fn entry(mac: &str, port: &str) -> FdbEntry {
    FdbEntry {
        bridge: "br0".into(),
        vlan: 0,
        mac: mac.into(),
        port: port.into(),
        remote: None,
        kind: FdbKind::Static,
        sticky: false,
        age: None,
        owner: None,
    }
}

#[test]
fn entries_are_added_found_deleted_and_flushed() {
    let bench = Bench::start(&switch(&["a", "b"]));
    let add = |entries| {
        let batch = FdbBatch { owner: Some("test".into()), entries };
        bench.control.ask_blocking(|reply| Action::FdbAdd(batch, reply))
    };
    let all = || bench.ask(|reply| Action::Fdb(Default::default(), reply)).into_entries();
    let two = vec![entry("02:00:00:00:00:01", "a"), entry("02:00:00:00:00:02", "b")];
    assert_eq!(add(two).unwrap().done, 2);
    assert_eq!(all()[0].owner.as_deref(), Some("test"));
    // All or nothing, and every problem is told.
    let bad = vec![
        entry("02:00:00:00:00:03", "a"),
        entry("ff:ff:ff:ff:ff:ff", "a"),
        entry("02:00:00:00:00:04", "nope"),
        FdbEntry { vlan: 5000, ..entry("02:00:00:00:00:05", "a") },
    ];
    let error = add(bad).unwrap_err();
    assert_eq!((error.code, error.problems.len()), (Code::InvalidRequest, 3));
    assert_eq!(all().len(), 2);

    let key = |mac: &str| FdbKey { bridge: "br0".into(), vlan: 0, mac: mac.into() };
    let delete = |entries| {
        let batch = FdbSelector { entries };
        bench.control.ask_blocking(|reply| Action::FdbRemove(batch, reply))
    };
    let reply = delete(vec![key("02:00:00:00:00:01"), key("02:00:00:00:00:09")]).unwrap();
    assert_eq!((reply.done, reply.refused.len()), (1, 1));
    assert_eq!(delete(vec![key("02:00:00:00:00:01")]).unwrap_err().code, Code::NoSuchEntry);

    let flush = |also_static| {
        let flush = FdbFlush { also_static, ..FdbFlush::default() };
        bench.ask(|reply| Action::FdbFlush(flush, reply)).done
    };
    passes(&bench, ("a", 7), ("b", 8));
    assert_eq!((flush(false), all().len()), (1, 1));
    assert_eq!((flush(true), all().len()), (1, 0));
}

#[test]
fn whoever_monitors_hears_of_learning_and_flushing() {
    let bench = Bench::start(&switch(&["a", "b"]));
    let mut monitor = bench.events.monitor();
    passes(&bench, ("a", 1), ("b", 2));
    let mut told = Vec::new();
    until("the event", || {
        told.extend(monitor.try_recv());
        !told.is_empty()
    });
    assert_eq!((told[0].event.name(), told[0].port.as_str()), ("learned", "a"));
    bench.ask(|reply| Action::FdbFlush(FdbFlush::default(), reply));
    until("the event", || monitor.try_recv().is_ok_and(|event| event.event.name() == "deleted"));
}
