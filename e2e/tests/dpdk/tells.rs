//! What the daemon tells of its devices, workers and memory.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vswitch_e2e::{DaemonSpec, Hugepages, Need, need};

/// A bridge with two devices that swallow what they get.
const NULLS: &str = "version = 1\n[daemon]\ncpus = \"0-1\"\n[[bridge]]\nname = \"br0\"\n\
     [[port]]\nname = \"n0\"\ntype = \"dpdk\"\nbridge = \"br0\"\ndevargs = \"net_null0,no-rx=1\"\n\
     [[port]]\nname = \"n1\"\ntype = \"dpdk\"\nbridge = \"br0\"\ndevargs = \"net_null1,no-rx=1\"\n";

#[test]
fn devices_queues_and_memory_are_shown() -> Result<()> {
    need!("devices_queues_and_memory_are_shown", Need::Root, Need::Binaries, Need::Dpdk);
    let mut daemon = DaemonSpec::new(NULLS).dpdk().start()?;
    daemon.wait_healthy()?;

    let port = &daemon.ctl_json("port show n0")?["items"][0];
    assert_eq!(port["device"], "net_null0");
    assert_eq!(port["driver"], "net_null");
    assert_eq!(port["details"]["rx-queues"], 2, "{port}");
    assert_eq!(port["details"]["link-mbps"], 10_000, "{port}");
    let wide = daemon.ctl("-o wide port show")?.ok()?.stdout;
    ensure!(["RXQ", "NUMA", "PROMISC", "TX-OFFLOADS"].iter().all(|head| wide.contains(head)), wide);

    let stats = &daemon.ctl_json("port stats n0")?["items"][0];
    let names: Vec<&str> =
        items(&stats["device"])?.iter().flat_map(|c| c["name"].as_str()).collect();
    ensure!(names.contains(&"rx_good_packets"), "{names:?}");

    // Each worker polls a queue of each port: the first ones are with different workers.
    let cpus = daemon.ctl_json("cpu show")?;
    let cpus = items(&cpus["items"])?;
    assert_eq!(cpus.len(), 2);
    let polled = |worker: usize| cpus[worker]["rx-queues"].clone();
    let queue = |port: &str, queue: u16| json!({ "port": port, "queue": queue });
    assert_eq!(polled(0), json!([queue("n0", 0), queue("n1", 1)]));
    assert_eq!(polled(1), json!([queue("n0", 1), queue("n1", 0)]));
    for cpu in cpus {
        assert_eq!(cpu["clock"], "tsc");
        ensure!(cpu["mhz"].as_f64().is_some_and(|mhz| mhz > 100.0), "{cpu}");
        ensure!(cpu["cycles-per-frame"].is_f64(), "{cpu}");
    }
    ensure!(daemon.ctl("cpu show")?.ok()?.stdout.contains("n0:0"), "no map of queues");

    let status = daemon.ctl_json("status")?;
    let pool = &status["pools"][0];
    assert_eq!(pool["hugepages"], false);
    ensure!(pool["buffers"].as_u64() >= pool["free"].as_u64(), "{pool}");
    ensure!(daemon.ctl("status")?.ok()?.stdout.contains("of ordinary pages"), "{pool}");
    let (_, metrics) = daemon.http("GET", "/v1/metrics", "")?;
    ensure!(metrics.contains("\nvswitch_pool_free_buffers{pool=\"frames\"} "), metrics);
    daemon.stop()
}

#[test]
fn ports_that_come_and_go_leave_no_buffer_behind() -> Result<()> {
    need!("ports_that_come_and_go_leave_no_buffer_behind", Need::Root, Need::Binaries, Need::Dpdk);
    let mut daemon = DaemonSpec::new(NULLS).dpdk().start()?;
    let before = daemon.buffers_in_use()?;
    for _ in 0..5 {
        let add = "port add t0 --type dpdk --bridge br0 --devargs net_tap0,iface=t0";
        daemon.ctl(add)?.ok()?;
        ensure!(daemon.buffers_in_use()? > before, "a TAP device holds buffers to receive into");
        daemon.ctl("port del t0")?.ok()?;
    }
    daemon.wait_buffers_in_use(before)?;
    daemon.stop()
}

#[test]
fn what_a_device_cannot_honour_is_told_by_key() -> Result<()> {
    need!("what_a_device_cannot_honour_is_told_by_key", Need::Root, Need::Binaries, Need::Dpdk);
    let spec = DaemonSpec::new(NULLS).dpdk().allow("port-failed").allow(" WARN dpdk: ");
    let mut daemon = spec.start()?;
    let add = "port add r0 --type dpdk --bridge br0 --devargs net_ring0";
    let refused = daemon.ctl(&format!("{add} --mac 02:00:00:00:00:07"))?.code_is(7)?.stderr;
    ensure!(refused.contains("mac = \"02:00:00:00:00:07\": setting the address"), "{refused}");
    ensure!(refused.contains("hint: leave mac out"), "{refused}");
    daemon.ctl("port set r0 --unset mac")?.ok()?;
    daemon.wait_healthy()?;

    // One that can, at once and later; what it cannot leaves it as it was.
    daemon.ctl("port set n0 --mac 02:00:00:00:00:08")?.ok()?;
    assert_eq!(daemon.ctl_json("port show n0")?["items"][0]["mac"], "02:00:00:00:00:08");
    let refused = daemon.ctl("port set n0 --mtu 65000")?;
    if refused.code == 7 {
        ensure!(refused.stderr.contains("mtu = 65000: setting the MTU"), "{refused}");
    }
    daemon.stop()
}

#[test]
fn a_port_that_finds_the_pool_dry_says_so_and_recovers() -> Result<()> {
    need!("a_port_that_finds_the_pool_dry_says_so_and_recovers", Need::Root, Need::Tun, Need::Dpdk);
    let _some = Hugepages::set(64)?;
    let config = "version = 1\n[daemon]\ndatapath = \"dpdk\"\n[dpdk]\nhugepages = \"32 MiB\"\n\
                  [[bridge]]\nname = \"br0\"\n";
    let mut daemon = DaemonSpec::new(config).allow("port-failed").allow(" WARN dpdk: ").start()?;
    // Each device holds a thousand buffers and more to receive into.
    let add = |n: usize| {
        daemon
            .ctl(&format!("port add t{n} --type dpdk --bridge br0 --devargs net_tap{n},iface=t{n}"))
    };
    let mut dry = 0;
    let refused = loop {
        let out = add(dry)?;
        if out.code == 7 {
            break out.stderr;
        }
        out.ok()?;
        dry += 1;
        ensure!(dry < 32, "the pool never ends");
    };
    ensure!(dry >= 2, "only {dry} fit: {refused}");
    ensure!(
        refused.contains(" buffers are free") && refused.contains("restart vswitchd"),
        "{refused}"
    );
    let status = daemon.ctl("-o json status")?.code_is(3)?.json()?;
    assert_eq!(status["ports"]["failed"], 1, "{status}");
    assert_eq!(status["ports"]["up"].as_u64(), Some(dry as u64), "the others go on: {status}");
    // With the buffers of another it opens by itself.
    daemon.ctl("port del t0")?.ok()?;
    daemon.wait_healthy()?;
    daemon.stop()
}

fn items(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}
