//! How the daemon starts on DPDK: with and without hugepages, twice, and not at all.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::bins::binary;
use vswitch_e2e::{Cmd, Daemon, DaemonSpec, Hugepages, Need, Netns, need, ping, until};

use crate::vdevs::plug;

const DPDK: &str = "version = 1\n[daemon]\ndatapath = \"dpdk\"\n[dpdk]\nhugepages = \"auto\"\n";
const BRIDGE: &str = "[[bridge]]\nname = \"br0\"\n";

/// A daemon that bridges between two stacks, each behind a veth.
struct Pair {
    daemon: Daemon,
    a: Netns,
    _rest: [Netns; 2],
}

impl Pair {
    fn start(head: &str, allow: &[&str]) -> Result<Self> {
        let [host, a, b] = [Netns::new("host")?, Netns::new("a")?, Netns::new("b")?];
        let mut config = format!("{head}{BRIDGE}");
        for (name, netns, address) in [("va", &a, "192.0.2.1/24"), ("vb", &b, "192.0.2.2/24")] {
            plug(&host, name, netns, address)?;
            config += &format!(
                "[[port]]\nname = \"{name}\"\ntype = \"dpdk\"\nbridge = \"br0\"\n\
                 devargs = \"net_af_packet_{name},iface={name}\"\n"
            );
        }
        let mut spec = DaemonSpec::new(&config);
        spec.netns = Some(host.name().to_owned());
        spec.allow = allow.iter().map(|part| (*part).to_owned()).collect();
        Ok(Self { daemon: spec.start()?, a, _rest: [host, b] })
    }

    fn cross(&self) -> Result<()> {
        assert_eq!(ping(&self.a, "192.0.2.2", 3)?.received, 3);
        Ok(())
    }
}

#[test]
fn without_hugepages_it_runs_and_says_so() -> Result<()> {
    need!("without_hugepages_it_runs_and_says_so", Need::Root, Need::Tun, Need::Dpdk);
    let _none = Hugepages::set(0)?;
    let mut pair = Pair::start(DPDK, &["memory: ordinary pages"])?;
    pair.cross()?;
    let status = pair.daemon.ctl("-o json status")?.code_is(3)?.json()?;
    assert_eq!(status["degraded"], true);
    let warning = &status["warnings"][0];
    assert_eq!(warning["subject"], "memory");
    let said = warning["message"].as_str().context("no message")?;
    ensure!(said.contains("0 hugepages of 2 MiB are free"), "{said}");
    let hint = warning["hint"].as_str().context("no hint")?;
    ensure!(hint.starts_with("sysctl vm.nr_hugepages="), "{hint}");
    assert_eq!(status["pools"][0]["hugepages"], false);
    let screen = pair.daemon.ctl("status")?.code_is(3)?.stdout;
    ensure!(screen.contains("hint: sysctl vm.nr_hugepages="), "{screen}");

    // What the hint says helps.
    let enough = hint.split(['=', ' ']).nth(2).context("no number")?.parse()?;
    pair.daemon.stop()?;
    drop(_none);
    let _some = Hugepages::set(enough)?;
    pair.daemon.restart()?;
    pair.daemon.wait_healthy()?;
    assert_eq!(pair.daemon.ctl_json("status")?["pools"][0]["hugepages"], true);
    pair.cross()?;
    pair.daemon.stop()
}

#[test]
fn hugepages_come_back_after_a_stop_and_a_crash() -> Result<()> {
    need!("hugepages_come_back_after_a_stop_and_a_crash", Need::Root, Need::Tun, Need::Dpdk);
    let _some = Hugepages::set(512)?;
    let free = Hugepages::free()?;
    let mut pair = Pair::start(DPDK, &[])?;
    pair.daemon.wait_healthy()?;
    let pid = pair.daemon.pid()?;
    ensure!(hugepages_of(pid)? > 0, "it took none");
    pair.cross()?;
    pair.daemon.kill9()?;
    nothing_is_left_of(pid)?;
    all_free(free)?;
    pair.daemon.restart()?;
    pair.cross()?;
    let pid = pair.daemon.pid()?;
    pair.daemon.stop()?;
    nothing_is_left_of(pid)?;
    all_free(free)
}

#[test]
fn ordinary_memory_that_was_asked_for_is_no_warning() -> Result<()> {
    need!("ordinary_memory_that_was_asked_for_is_no_warning", Need::Root, Need::Tun, Need::Dpdk);
    let mut pair = Pair::start(&DPDK.replace("auto", "off"), &[])?;
    pair.cross()?;
    pair.daemon.wait_healthy()?;
    assert_eq!(pair.daemon.ctl_json("status")?["pools"][0]["hugepages"], false);
    pair.daemon.stop()
}

#[test]
fn two_daemons_run_side_by_side() -> Result<()> {
    need!("two_daemons_run_side_by_side", Need::Root, Need::Tun, Need::Dpdk);
    let _some = Hugepages::set(512)?;
    let mut one = Pair::start(DPDK, &[])?;
    let mut two = Pair::start(DPDK, &[])?;
    for pair in [&one, &two] {
        pair.cross()?;
        assert_eq!(pair.daemon.ctl_json("status")?["pools"][0]["hugepages"], true);
    }
    // A crash of one is nothing to the other.
    let before = two.daemon.buffers_in_use()?;
    one.daemon.kill9()?;
    two.cross()?;
    one.daemon.restart()?;
    one.cross()?;
    two.cross()?;
    two.daemon.wait_buffers_in_use(before)?;
    two.daemon.stop()?;
    one.cross()?;
    one.daemon.stop()
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() -> Result<()> {
    need!("what_cannot_start_says_why_and_leaves_nothing", Need::Root, Need::Binaries, Need::Dpdk);
    let _some = Hugepages::set(64)?;
    let huge = |size: &str| DPDK.replace("auto", size);
    let cpus = |list: &str| DPDK.replace("\"dpdk\"\n", &format!("\"dpdk\"\ncpus = \"{list}\"\n"));
    let eal = |argument: &str| format!("{DPDK}eal = [\"{argument}\"]\n");
    for (config, words, hint) in [
        (huge("512 GiB"), "hugepages = \"524288 MiB\" are 262144 of 2 MiB", "sysctl vm.nr_"),
        (huge("16 MiB"), "too little", "hugepages = \""),
        (cpus("0-1,1"), "CPU 1 is named twice", "mend it"),
        (cpus("0,1000"), "CPU 1000 of cpus = \"0,1000\" does not exist", "name CPUs of 0"),
        (eal("--no-huge"), "contradicts", "hugepages in [dpdk]"),
        (eal("-l0-1"), "contradicts", "cpus in [daemon]"),
        (eal("--no-such-option"), "starting the DPDK environment", "look for a mistake in eal"),
    ] {
        refused(&config, "", words, hint)?;
    }
    // Confined to one CPU by whoever started it.
    refused(&cpus("0-1"), "taskset -c 0 ", "confined to 0", "AllowedCPUs=")
}

/// Starts a daemon that cannot, with `before` in front of its command, and looks at what it says and
/// leaves behind.
fn refused(config: &str, before: &str, words: &str, hint: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("vswitch.toml");
    fs::write(&file, config)?;
    let (vswitchd, dir) = (binary("vswitchd")?, dir.path().display());
    let command = format!(
        "echo $$; exec {before}{} --config {} --run-dir {dir}/run --state-dir {dir}/state",
        vswitchd.display(),
        file.display()
    );
    let out = Cmd::new("sh").args(["-c", &command]).run()?;
    ensure!(out.code == 6, "{config}: {out}");
    let said = out.stderr.lines().skip_while(|line| !line.starts_with("error[E"));
    let said = said.collect::<Vec<_>>().join("\n");
    ensure!(said.contains(words) && said.contains("hint: "), "{words:?} is not in: {out}");
    ensure!(said.split("hint: ").nth(1).is_some_and(|said| said.contains(hint)), "{hint:?}: {out}");
    ensure!(!out.stderr.contains("panicked"), "{out}");
    ensure!(!Path::new(&format!("{dir}/run/api.sock")).exists(), "a socket is left");
    nothing_is_left_of(out.stdout.lines().next().context("no process id")?.parse()?)
}

/// Neither files of DPDK nor hugepages in files.
fn nothing_is_left_of(pid: u32) -> Result<()> {
    let prefix = format!("vswitch-{pid}");
    for dir in ["/run/dpdk", "/dev/hugepages"] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with(&prefix), "{dir}/{name} is left");
        }
    }
    Ok(())
}

/// KiB of hugepages that a process has.
fn hugepages_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"));
    Ok(line.and_then(|line| line.trim().strip_suffix(" kB")).context("no HugetlbPages")?.parse()?)
}

fn all_free(wanted: u64) -> Result<()> {
    until(std::time::Duration::from_secs(20), "hugepages to be given back", || {
        // Other programs may give some back, too.
        Ok((Hugepages::free()? >= wanted).then_some(()))
    })
}
