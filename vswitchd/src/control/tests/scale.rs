//! As many bridges as there may be: what a change costs is printed, and asserted nowhere.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::json;
use switch_core::BridgeId;

use super::*;

#[test]
fn all_the_bridges_there_may_be() {
    let mut toml = switch(&["a", "b"]);
    for n in 1..BridgeId::MAX_BRIDGES {
        writeln!(toml, "[[bridge]]\nname = \"tenant-{n}\"").unwrap();
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let bench = timed("first start", || Bench::start_in(Arc::clone(&dir), &toml));
    passes(&bench, ("a", 1), ("b", 2));
    let bridges = timed("bridge show", || bench.ask(Action::Bridges));
    assert_eq!(bridges.len(), BridgeId::MAX_BRIDGES);

    timed("status", || bench.ask(Action::Status));
    timed("metrics", || bench.ask(Action::Metrics));
    let spec = |name: &str, bridge: &str| {
        port_spec(&json!({"name": name, "type": "tap", "bridge": bridge}))
    };
    timed("port add", || bench.mutate(Mutation::AddPort(spec("c", "tenant-65535"))).unwrap());
    timed("port add", || bench.mutate(Mutation::AddPort(spec("d", "tenant-65535"))).unwrap());
    passes(&bench, ("c", 3), ("d", 4));
    let full = bench.mutate(Mutation::AddBridge(switch_core::config::BridgeSpec::new("more")));
    assert!(full.unwrap_err().to_string().contains("more than 65536"));
    let dir = bench.stop();
    let bench = timed("start again", || Bench::start_in(dir, &toml));
    passes(&bench, ("c", 3), ("d", 4));
    for name in ["c", "d"] {
        timed("port del", || bench.mutate(Mutation::RemovePort(name.to_owned())).unwrap());
    }
    timed("one bridge left", || {
        let apply = Mutation::Apply { toml: switch(&["a"]), confirm: None };
        bench.mutate(apply).unwrap()
    });
    assert_eq!(bench.ask(Action::Bridges).len(), 1);
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    println!("{what}: {:.0?}", start.elapsed());
    done
}
