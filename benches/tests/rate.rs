//! `vswitch-bench` as a user starts it: every switch for a moment, and what it says when something is
//! wrong. Figures are nobody's concern here.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::{Cmd, Need, Output, need, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vswitch-bench");

fn bench(args: &str) -> Result<Output> {
    Cmd::new(PROGRAM).args(args.split_whitespace()).limit(Duration::from_secs(120)).run()
}

/// A short run of one switch behind a generator; its JSON. Nothing of it is left.
fn measured(args: &str) -> Result<Value> {
    report(args, "the generator's ceiling")
}

/// The same with sources and sinks in the switch.
fn inside(args: &str) -> Result<Value> {
    report(&format!("--inproc {args}"), "of its CPU")
}

fn report(args: &str, said: &str) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let (json, html) = (dir.path().join("rate.json"), dir.path().join("rate.html"));
    let files = format!("--json {} --html {}", json.display(), html.display());
    let output = bench(&format!("--quick {args} {files}"))?.ok()?;
    ensure!(output.stdout.contains(said), "{output}");
    let page = std::fs::read_to_string(&html)?;
    ensure!(page.contains("these figures mean nothing") && page.ends_with("</html>"), "{page}");
    nothing_left()?;
    Ok(serde_json::from_str(&std::fs::read_to_string(&json)?)?)
}

fn nothing_left() -> Result<()> {
    let links = run("ip -br link")?.stdout;
    let ours = links.lines().find(|line| {
        let name = line.strip_prefix("vb").unwrap_or("x");
        name.starts_with(|c: char| c.is_ascii_digit())
    });
    ensure!(ours.is_none(), "a device is left: {links}");
    let spaces = run("ip netns")?.stdout;
    ensure!(!spaces.contains("-rate-"), "a namespace is left: {spaces}");
    Ok(())
}

/// Looks at the results: each row was carried, with the switch's own ceiling.
fn carried(report: &Value, sut: &str, rows: usize) -> Result<()> {
    let results = report["results"].as_array().context("no results")?;
    ensure!(results.len() == rows, "{} results", results.len());
    for result in results {
        ensure!(result["sut"] == sut, "{result}");
        ensure!(result["maximum"]["pps"].as_f64() > Some(0.0), "{result}");
        ensure!(result["maximum"]["duplicated"] == 0, "{result}");
        let same = |a: &Value, b: &Value, key: &str| a["row"][key] == b["row"][key];
        let of_row = |ceiling: &&Value| {
            ["shape", "size", "flows", "ports"].iter().all(|key| same(ceiling, result, key))
        };
        let ceiling = report["ceilings"].as_array().and_then(|all| all.iter().find(of_row));
        ensure!(ceiling.is_some_and(|c| c["pps"].as_f64() > Some(0.0)), "{report}");
    }
    Ok(())
}

#[test]
fn testpmd_with_search_and_latency() -> Result<()> {
    let program = Need::Program("dpdk-testpmd", "dpdk-dev");
    need!("testpmd_with_search_and_latency", Need::Root, program);
    let how = "--size imix,9018 --flows 100 --again 0 --secs 0.1 --confirm-secs 0.1";
    let report = measured(&format!("--sut testpmd {how}"))?;
    carried(&report, "testpmd", 2)?;
    for result in report["results"].as_array().into_iter().flatten() {
        let loads = result["latency"].as_array().context("no latency")?;
        for load in loads {
            let at = |key: &str| load[key].as_f64().unwrap_or(f64::NAN);
            ensure!(at("p50") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("max"), "{load}");
        }
        for (search, figure) in
            result["searches"].as_array().into_iter().flatten().zip(["NDR", "PDR"])
        {
            let trials = search["trials"].as_array().context("no trials")?;
            ensure!(
                search["figure"] == figure && trials.iter().all(|t| t["offered"].is_u64()),
                "{search}"
            );
        }
    }
    Ok(())
}

#[test]
fn vswitchd_in_every_shape() -> Result<()> {
    need!("vswitchd_in_every_shape", Need::Root, Need::Tun, Need::Dpdk);
    let shapes = "--shape vlan,vxlan,geneve --size 9018";
    let report = measured(&format!("--sut vswitchd --no-search {shapes}"))?;
    carried(&report, "vswitchd", 3)?;
    ensure!(report["configurations"][0][1].as_str().is_some_and(|c| c.contains("[[bridge]]")));
    Ok(())
}

/// What was learned and what was left beside a flood, one row each.
fn learned_and_flooded(report: &Value) -> Result<()> {
    let one = |list: &str| report[list][0].as_object().context(list.to_owned());
    let (learned, flooded) = (one("learned")?, one("flooded")?);
    // On a busy machine some may be lost, and are not known then.
    let known = learned["taught"].as_u64() > learned["unknown"].as_u64();
    ensure!(known && learned["row"]["ports"] == 4, "{report}");
    ensure!(flooded["random"].as_f64() > Some(0.0), "{report}");
    ensure!(flooded["beside"]["pps"].as_f64() > Some(0.0), "{report}");
    Ok(())
}

/// What was lost during changes, in one row of each of these switches.
fn changed(report: &Value, suts: &[&str]) -> Result<()> {
    let rows = report["reconfigured"].as_array().context("no changes")?;
    ensure!(rows.iter().map(|row| &row["sut"]).eq(suts), "{report}");
    for row in rows {
        ensure!(row["changes"].as_u64() >= Some(8), "{row}");
        ensure!(row["changing"]["pps"].as_f64() > Some(0.0), "{row}");
    }
    Ok(())
}

#[test]
fn vswitchd_learns_is_flooded_and_changed() -> Result<()> {
    need!("vswitchd_learns_is_flooded_and_changed", Need::Root, Need::Tun, Need::Dpdk);
    let tests = "--test learn,flood,reconfigure --flows 2000 --again 0";
    let report = measured(&format!("--sut vswitchd {tests}"))?;
    learned_and_flooded(&report)?;
    changed(&report, &["vswitchd"])
}

#[test]
fn the_kernels_bridge() -> Result<()> {
    need!("the_kernels_bridge", Need::Root, Need::Tun);
    let how = "--test rate,learn,flood --flows 1000 --again 0 --no-search";
    let report = measured(&format!("--sut linux-bridge {how}"))?;
    learned_and_flooded(&report)?;
    carried(&report, "linux-bridge", 1)
}

#[test]
fn open_vswitch_beside_ours() -> Result<()> {
    let packages = Need::Program("ovs-vsctl", "openvswitch-switch-dpdk");
    need!("open_vswitch_beside_ours", Need::Root, Need::Tun, Need::Dpdk, packages);
    let how = "--test rate,reconfigure --compare --pairs 1 --no-search --flows 10 --hugepages 1536";
    let report = measured(&format!("--sut vswitchd,ovs-dpdk {how}"))?;
    let ratio = &report["ratios"][0];
    ensure!(ratio["sut"] == "vswitchd" && ratio["by"] == "ovs-dpdk", "{report}");
    ensure!(ratio["median"].as_f64() > Some(0.0), "{ratio}");
    changed(&report, &["vswitchd", "ovs-dpdk"])
}

#[test]
fn inside_the_switch_over_several_ports_and_networks() -> Result<()> {
    let name = "inside_the_switch_over_several_ports_and_networks";
    let compiler = Need::Program("cc", "gcc");
    need!(
        name,
        Need::Root,
        Need::Tun,
        Need::Dpdk,
        compiler,
        Need::Program("pkg-config", "pkg-config")
    );
    for (how, rows) in
        [("--ports 4 --size 64,imix", 2), ("--shape vxlan --vnis 16 --direction uni", 1)]
    {
        let report = inside(&format!("--sut vswitchd {how}"))?;
        let results = report["results"].as_array().context("no results")?;
        ensure!(results.len() == rows, "{report}");
        for result in results {
            ensure!(result["maximum"]["pps"].as_f64() > Some(0.0), "{result}");
            ensure!(result["maximum"]["reordered"].is_null(), "nobody looked: {result}");
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_said() -> Result<()> {
    need!("what_is_wrong_is_said", Need::Root, Need::Tun);
    let external = "--quick --no-search --sut external";
    let cases = [
        ("--sut external".to_owned(), "needs --port"),
        ("--sut testpmd,vswitchd".to_owned(), "--compare"),
        ("--size 63".to_owned(), "64 to 9018 bytes"),
        ("--sut vswitchd --port net_null0 --port net_null1".to_owned(), "--sut-port"),
        ("--sut testpmd --shape vxlan --quick".to_owned(), "testpmd has no tunnels"),
        ("--sut testpmd --test learn --quick".to_owned(), "testpmd learns nothing"),
        ("--inproc --sut linux-bridge".to_owned(), "no program on DPDK"),
        ("--inproc --size 9000".to_owned(), "up to 1518 bytes"),
        ("--inproc --test learn".to_owned(), "takes a generator"),
        ("--ports 3".to_owned(), "ports come in pairs"),
        ("--workers 64".to_owned(), "each worker takes a CPU of --worker-cpus"),
        (
            format!("{external} --test flood --port net_null0 --port net_null1"),
            "name more with --port",
        ),
        ("--sut ovs-dpdk --size 9018 --quick".to_owned(), "sets no MTU"),
        ("--generator-cpus 4095".to_owned(), "CPU 4095 is not among those"),
        ("--json /nowhere/rate.json".to_owned(), "cannot write /nowhere/rate.json"),
        (format!("{external} --port 0000:00:1f.7 --port net_null0"), "no PCI device 0000:00:1f.7"),
        (format!("{external} --port net_nothing0 --port net_null0"), "cannot open the port"),
        ("--quick --hugepages 100000000".to_owned(), "MiB of memory are available"),
        (format!("{external} --port net_ring0 --port net_ring1"), "floods back"),
        (
            format!("{external} --port net_tap0,iface=vb0a --port net_tap1,iface=vb0b"),
            "none arrived where it had to",
        ),
    ];
    for (args, wanted) in cases {
        let output = bench(&args)?;
        ensure!(!output.success() && output.stderr.contains(wanted), "{args}: {output}");
        ensure!(!output.stderr.contains("panicked"), "{args}: {output}");
    }
    let one = Cmd::new("taskset").args(["-c", "0", PROGRAM]).run()?;
    ensure!(one.stderr.contains("too few CPUs"), "{one}");
    nothing_left()
}

#[test]
fn a_missing_switch_is_named() -> Result<()> {
    need!("a_missing_switch_is_named", Need::Root);
    if !Path::new("/usr/bin/dpdk-testpmd").exists() {
        let output = bench("--sut testpmd")?;
        ensure!(output.stderr.contains("apt-get install dpdk-dev"), "{output}");
    }
    let output = bench("--quick --no-search --sut vswitchd --binaries /nowhere")?;
    ensure!(!output.success() && output.stderr.contains("cannot start vswitchd"), "{output}");
    nothing_left()
}
