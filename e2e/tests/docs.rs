//! What the documents say is run as it is written.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use switch_core::DropReason;
use vswitch_e2e::bins::binary;
use vswitch_e2e::guest::{Platform, ensure_image};
use vswitch_e2e::overlay::{Ground, OpenVswitch, Peer, Site, Underlay};
use vswitch_e2e::{
    Cmd, Daemon, DaemonSpec, Host, Hugepages, Need, Netns, Output, need, problems, until_ok,
};

/// A Markdown file's blocks, in order: what stands behind the opening fence, and the block.
fn all_blocks(file: &str) -> Result<Vec<(String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("\n```") {
        let (info, after) = after.split_once('\n').context("an open block")?;
        let (block, after) = after.split_once("```").context("an open block")?;
        blocks.push((info.to_owned(), block.to_owned()));
        rest = after;
    }
    Ok(blocks)
}

/// Those of one language.
fn blocks(file: &str, language: &str) -> Result<Vec<String>> {
    let all = all_blocks(file)?.into_iter();
    Ok(all.filter(|(info, _)| info == language).map(|(_, block)| block).collect())
}

/// `PATH` with the built programs in front.
fn path() -> Result<String> {
    let tools = binary("vswitch-ctl")?;
    let tools = tools.parent().context("the directory of the binaries")?;
    Ok(format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default()))
}

/// Runs a block in a network namespace. Not by `ip netns exec`: its own mounts would hide the
/// namespaces that a document makes.
fn block_in(netns: &str, block: &str, env: &[(&str, String)]) -> Result<Output> {
    let enter = format!("--net=/run/netns/{netns}");
    let mut cmd = Cmd::new("nsenter").arg(enter).args(["bash", "-ec", block]);
    for (key, value) in env {
        cmd = cmd.env(key, value);
    }
    cmd.env("PATH", &path()?).limit(Duration::from_secs(60)).run()?.ok()
}

#[test]
fn a_vm_is_plugged_in_as_the_document_says() -> Result<()> {
    need!(
        "a_vm_is_plugged_in_as_the_document_says",
        Need::Root,
        Need::Tun,
        Need::Program("qemu-system-x86_64", "qemu-system-x86"),
        Need::Program("busybox", "busybox-static"),
        Need::Program("iperf3", "iperf3"),
        Need::Binaries
    );
    let steps = blocks("qemu-libvirt.md", "sh")?;
    ensure!(steps.len() == 6, "the document has other steps than the test: {}", steps.len());
    let image = ensure_image(Platform::Virtual, &|step| eprintln!("guest image: {step}"))?;
    let disk = format!(
        "-kernel {} -initrd {} -append nic0_addr=192.0.2.7/24",
        image.kernel.display(),
        image.initramfs.display()
    );
    let mut daemon = Daemon::start("version = 1\n")?;
    let dir = tempfile::tempdir()?;
    let host = daemon.netns().context("the daemon has a namespace")?.to_owned();
    let run = |step: &str| -> Result<Output> {
        let env =
            [("DISK", disk.clone()), ("VSWITCH_RUN_DIR", daemon.run_dir().display().to_string())];
        block_in(&host, &format!("cd {}\n{step}", dir.path().display()), &env)
    };

    // If a step fails, QEMU must not stay.
    let result = (|| -> Result<()> {
        for step in &steps[..4] {
            run(step)?;
        }
        until_ok(Duration::from_secs(120), "the VM to answer", || {
            let ping = Cmd::new("ping").args(["-n", "-c", "1", "-W", "1", "192.0.2.7"]);
            ping.netns("web").run()?.ok()
        })?;
        let shown = run(&steps[4])?;
        for part in ["vm7", "netdev", "52:54:00:00:00:07", "tso4"] {
            ensure!(shown.stdout.contains(part), "no {part} in\n{}", shown.stdout);
        }
        run(&steps[5]).map(drop)
    })();
    if result.is_err() {
        let _ = run("kill \"$(cat vm7.pid)\"");
        let _ = Cmd::new("ip").args(["netns", "delete", "web"]).run();
    }
    result?;
    let left = daemon.ctl_json("port show")?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    daemon.settle()?.check()?;
    daemon.stop()
}

#[test]
fn the_documented_configuration_is_valid() -> Result<()> {
    need!("the_documented_configuration_is_valid", Need::Binaries);
    let dir = tempfile::tempdir()?;
    let mut texts = blocks("qemu-libvirt.md", "toml")?;
    texts.extend(blocks("overlays.md", "toml")?);
    texts.extend(blocks("dpdk.md", "toml")?);
    texts.extend(blocks("sr-iov.md", "toml")?);
    for (n, text) in texts.iter().enumerate() {
        let file = dir.path().join(format!("{n}.toml"));
        fs::write(&file, text)?;
        Cmd::new(binary("vswitch-ctl")?)
            .args(["config", "validate"])
            .arg(file.display())
            .run()?
            .ok()?;
    }
    Ok(())
}

#[test]
fn dpdk_starts_as_the_document_says() -> Result<()> {
    need!("dpdk_starts_as_the_document_says", Need::Root, Need::Tun, Need::Binaries, Need::Dpdk);
    // What the document sets is undone at the end.
    let _hugepages = Hugepages::set(128)?;
    let (host, dir) = (Netns::new("host")?, tempfile::tempdir()?);
    let place = |name: &str| dir.path().join(name).display().to_string();
    let env = [("VSWITCH_RUN_DIR", place("run")), ("VSWITCH_STATE_DIR", place("state"))];
    let steps = all_blocks("dpdk.md")?;
    let run = |name: &str| -> Result<String> {
        let (_, block) = steps
            .iter()
            .find(|(info, _)| info.strip_prefix("sh ") == Some(name))
            .with_context(|| format!("no block {name}"))?;
        let block = format!("cd {}\n{block}", dir.path().display());
        Ok(block_in(host.name(), &block, &env)?.stdout)
    };
    let result = (|| -> Result<String> { Ok(run("start")? + &run("look")?) })();
    // If a step fails, neither daemon nor namespace may stay.
    let ended = run("end");
    let log = fs::read_to_string(dir.path().join("vswitchd.log")).unwrap_or_default();
    let shown = result.with_context(|| log.clone())?;
    ended?;
    for part in ["2 up", "of hugepages", "net_null", "n0:0", "CYCLES/FRAME"] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    ensure!(problems(&log, &[]).is_empty(), "{log}");
    until_ok(Duration::from_secs(20), "the daemon's end", || {
        ensure!(!dir.path().join("run/api.sock").exists(), "its socket is there");
        Ok(())
    })
}

/// The hosts of docs/overlays.md, as they stand behind the blocks' language, in the order of their
/// addresses.
const HOSTS: [&str; 4] = ["host1", "host2", "linux", "ovs"];

/// Those of its part about uplinks, where the first one has DPDK.
const DPDK_HOSTS: [&str; 2] = ["dpdk", "far"];

#[test]
fn uplinks_are_set_up_as_the_document_says() -> Result<()> {
    need!(
        "uplinks_are_set_up_as_the_document_says",
        Need::Root,
        Need::Tun,
        Need::Program("ethtool", "ethtool"),
        Need::Binaries,
        Need::Dpdk
    );
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let (one, far) = (underlay.site("dpdk")?, underlay.site("far")?);
    one.space.sh("ip link set u0 down && ip link set u0 name eth1 && ip link set eth1 up")?.ok()?;
    far.take_addresses(&far.device)?;
    let mut spec = DaemonSpec::new("version = 1\n[daemon]\nmax-fdb-total = 16384\n").dpdk();
    spec.netns = Some(one.space.name().to_owned());
    let mut daemon = spec.start()?;
    let run_dir = ("VSWITCH_RUN_DIR", daemon.run_dir().display().to_string());
    let blocks = all_blocks("overlays.md")?;
    let steps = blocks.iter().filter_map(|(info, block)| Some((info.strip_prefix("sh ")?, block)));
    let result = (|| -> Result<String> {
        let mut shown = String::new();
        for (host, block) in steps.filter(|(host, _)| DPDK_HOSTS.contains(host)) {
            let (site, env) = match host {
                "dpdk" => (&one, vec![run_dir.clone()]),
                _ => (&far, vec![]),
            };
            let done = block_in(site.space.name(), block, &env);
            shown += &done.with_context(|| format!("on {host}:\n{block}"))?.stdout;
        }
        Ok(shown)
    })();
    if result.is_err() {
        let _ = Cmd::new("ip").args(["netns", "delete", "app"]).run();
    }
    let shown = result?;
    ensure!(shown.matches(" 3 received,").count() == 2, "{shown}");
    ensure!(shown.contains("192.0.2.2 dev vf0 src 192.0.2.1"), "{shown}");
    let links = one.space.ip("link show")?.stdout;
    ensure!(!links.contains(" vf0:"), "the exception TAP is left:\n{links}");
    daemon.wait_healthy()?;
    daemon.stop()
}

#[test]
fn overlays_are_built_as_the_document_says() -> Result<()> {
    need!(
        "overlays_are_built_as_the_document_says",
        Need::Root,
        Need::Tun,
        Need::Program("ethtool", "ethtool"),
        Need::Program("ovs-vswitchd", "openvswitch-switch"),
        Need::Binaries
    );
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let [one, two, linux, ovs] = HOSTS.map(|host| underlay.site(host));
    let (one, two, linux, ovs) = (one?, two?, linux?, OpenVswitch::new(ovs?)?);
    let start = |site: &Site| -> Result<Daemon> {
        site.take_addresses(&site.device)?;
        let mut spec = DaemonSpec::new("version = 1\n[daemon]\nmax-fdb-total = 16384\n");
        spec.netns = Some(site.space.name().to_owned());
        spec.start()
    };
    let (mut first, mut second) = (start(&one)?, start(&two)?);
    linux.take_addresses(&linux.device)?;
    for other in [&two, &linux, ovs.site()] {
        one.reaches(other)?;
    }
    let run_dir = |daemon: &Daemon| ("VSWITCH_RUN_DIR", daemon.run_dir().display().to_string());
    let ovs_dir = ("OVS_RUNDIR", ovs.ovs().run_dir().display().to_string());
    let run = |host: &str, block: &str| -> Result<String> {
        let (site, env) = match host {
            "host1" => (&one, vec![run_dir(&first)]),
            "host2" => (&two, vec![run_dir(&second)]),
            "linux" => (&linux, vec![]),
            "ovs" => (ovs.site(), vec![ovs_dir.clone()]),
            _ => anyhow::bail!("no host {host}"),
        };
        let done = block_in(site.space.name(), block, &env);
        Ok(done.with_context(|| format!("on {host}:\n{block}"))?.stdout)
    };
    let blocks = all_blocks("overlays.md")?;
    let steps = blocks.iter().filter_map(|(info, block)| Some((info.strip_prefix("sh ")?, block)));
    let steps = steps.filter(|(host, _)| !DPDK_HOSTS.contains(host));
    // If a step fails, the namespaces must not stay.
    let result = (|| -> Result<String> {
        let mut shown = String::new();
        for (host, block) in steps {
            shown += &run(host, block)?;
        }
        Ok(shown)
    })();
    if result.is_err() {
        for netns in ["app", "db"] {
            let _ = Cmd::new("ip").args(["netns", "delete", netns]).run();
        }
    }
    let shown = result?;
    for part in [
        "1500 underlay − 20 IPv4 − 8 UDP − 8 VXLAN − 14 Ethernet = 1450",
        "mtu 1450",
        "0x0102:0x42:deadbeef from 192.0.2.1",
        "02:00:00:00:00:02",
    ] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let pings = shown.matches("packets transmitted").count();
    ensure!(pings == 9, "{pings} pings, and each block is to have its own");
    for daemon in [&mut first, &mut second] {
        daemon.wait_healthy()?;
        daemon.stop()?;
    }
    Ok(())
}

/// Each drop that tunnels have of their own stands in the document's table.
#[test]
fn the_document_names_the_drops_of_tunnels() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/overlays.md");
    let text = fs::read_to_string(path)?;
    let prefixes = [
        "no-route",
        "neighbour-",
        "exception-",
        "outer-",
        "tunnel-",
        "geneve-",
        "gre-",
        "inner-",
        "ecn-",
        "split-",
    ];
    let named = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    for reason in DropReason::ALL.into_iter().filter(|r| named(r.name())) {
        ensure!(text.contains(&format!("| `{reason}` |")), "{reason} is not in the table");
    }
    Ok(())
}
