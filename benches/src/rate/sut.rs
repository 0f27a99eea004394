//! The switches under test: started with the ports' other ends, and ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use vswitch_e2e::ovs::Ovs;
use vswitch_e2e::{Cmd, Daemon, DaemonSpec, Netns, Process};

use super::traffic::{Row, Shape, Underlay, VLAN};
use super::wiring::Wiring;
use crate::dpdk::frames::{LOCAL, REMOTE, REMOTE_MAC, VNI};
use crate::dpdk::side::{
    OVS, OVS_UPLINK, colons, neighbour, overlay_config, parse_mac, prepare_uplink, uplink_of,
};

/// What stands between the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `vswitchd`, with a configuration made for the row.
    Vswitchd,
    /// Open vSwitch with DPDK and the action NORMAL.
    OvsDpdk,
    /// `dpdk-testpmd` in the mode `io`, which passes frames between the ports of a pair and looks at
    /// nothing.
    Testpmd,
    /// The kernel's bridge.
    LinuxBridge,
    /// Whatever is there: nothing is started.
    External,
}

const TESTPMD: &str = "/usr/bin/dpdk-testpmd";

impl Kind {
    /// Whether it can be started here.
    ///
    /// # Errors
    /// It is not installed; the message says which package has it.
    pub fn installed(self) -> Result<()> {
        let (program, package) = match self {
            Self::OvsDpdk => (OVS, "openvswitch-switch-dpdk"),
            Self::Testpmd => (TESTPMD, "dpdk-dev"),
            Self::Vswitchd | Self::LinuxBridge | Self::External => return Ok(()),
        };
        ensure!(
            Path::new(program).exists(),
            "{} is not installed ({program}): `apt-get install {package}`",
            super::traffic::name(self)
        );
        Ok(())
    }

    /// Queues that it sends to and receives from at each memif port.
    pub const fn queues(self, workers: u16) -> (u16, u16) {
        match self {
            Self::Vswitchd => (workers, workers),
            // Its main thread sends, too.
            Self::OvsDpdk => (workers + 1, workers),
            Self::Testpmd | Self::LinuxBridge | Self::External => (1, 1),
        }
    }

    /// Whether it can carry a row, over ports of our making or named ones; why not.
    pub fn refuses(self, row: &Row, ports: usize, ours: bool) -> Option<&'static str> {
        let tunnel = row.shape.tunnel().is_some();
        match self {
            Self::Testpmd if tunnel => Some("testpmd has no tunnels"),
            Self::Vswitchd | Self::OvsDpdk if ours && row.size.largest() > 1518 => {
                Some("memif has no MTU to be set, so its ports carry frames of up to 1518 bytes")
            }
            Self::LinuxBridge if row.size.largest() > 1518 => {
                Some("packet sockets of DPDK hold frames of up to 1518 bytes")
            }
            _ if tunnel && ports != 2 => Some("tunnels are measured on one pair of ports"),
            _ => None,
        }
    }
}

/// How a switch is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// CPUs of its workers.
    pub workers: Vec<u16>,
    /// The CPU for everything else of it.
    pub control: u16,
    /// Where logs go.
    pub dir: PathBuf,
    /// The directory of `vswitchd` and `vswitch-ctl`; `None` is this program's.
    pub binaries: Option<PathBuf>,
    /// Whether there are hugepages for it.
    pub hugepages: bool,
}

impl Launch {
    /// Starts a switch for a row.
    ///
    /// # Errors
    /// It is not installed, does not start, or cannot do it.
    pub fn start(&self, kind: Kind, row: &Row, wiring: &Wiring) -> Result<Running> {
        let running = match kind {
            Kind::Vswitchd => self.vswitchd(row, &wiring.switch),
            Kind::OvsDpdk => self.ovs(row, &wiring.switch),
            Kind::Testpmd => self.testpmd(&wiring.switch),
            Kind::LinuxBridge => bridge(row, wiring),
            Kind::External => Ok(Running::Nothing),
        };
        running.with_context(|| format!("cannot start {}", super::traffic::name(kind)))
    }

    fn vswitchd(&self, row: &Row, ports: &[String]) -> Result<Running> {
        // Warnings (say, of ordinary pages) are in the report's head.
        let mut spec = DaemonSpec::new(&self.config(row, ports)).allow("");
        spec.binaries.clone_from(&self.binaries);
        let cpus: Vec<u16> = [&[self.control], &self.workers[..]].concat();
        spec.before = vec!["taskset".into(), "-c".into(), list(&cpus)];
        let daemon = spec.start()?;
        let status = daemon.ctl("status")?;
        let ports = daemon.ctl_json("port show")?;
        for port in ports["items"].as_array().context("no ports")? {
            ensure!(
                port["state"] != "failed",
                "its port {} failed: {}",
                port["name"],
                port["reason"].as_str().unwrap_or(&status.stdout)
            );
        }
        Ok(Running::Vswitchd(Box::new(daemon)))
    }

    /// The configuration of `vswitchd`.
    pub fn config(&self, row: &Row, ports: &[String]) -> String {
        let hugepages = if self.hugepages { "auto" } else { "off" };
        // Each flow is two addresses.
        let fdb = row.flows.saturating_mul(4).next_power_of_two().max(65_536);
        let mut config = format!(
            "version = 1\n[daemon]\ndatapath = \"dpdk\"\ncpus = \"{}\"\nidle = \"poll\"\n\
             max-fdb-total = {fdb}\n[dpdk]\nhugepages = \"{hugepages}\"\n\
             [[bridge]]\nname = \"br0\"\nmax-fdb = {fdb}\n",
            list(&self.workers)
        );
        for (n, devargs) in ports.iter().enumerate() {
            config +=
                &format!("[[port]]\nname = \"p{n}\"\ntype = \"dpdk\"\ndevargs = \"{devargs}\"\n");
            if row.size.largest() > 1518 {
                config += "mtu = 9000\n";
            }
            config += match row.shape.tunnel() {
                Some(_) if n == 1 => "",
                _ => "bridge = \"br0\"\n",
            };
            if row.shape == Shape::Vlan {
                config += &format!("trunk = [{VLAN}]\n");
            }
        }
        if let Some(tunnel) = row.shape.tunnel() {
            config += &overlay_config(tunnel.name());
        }
        config
    }

    fn testpmd(&self, ports: &[String]) -> Result<Running> {
        let log = self.dir.join("testpmd.log");
        let out = File::create(&log)?;
        let cpus: Vec<u16> = [&[self.control], &self.workers[..]].concat();
        let cmd = Cmd::new(TESTPMD)
            .args(["-l", &list(&cpus), "--main-lcore", &self.control.to_string()])
            .args(self.memory().split(' '))
            .args(["--log-level=3", "--no-telemetry"])
            .args(ports.iter().flat_map(|port| {
                ["--vdev", "-a"]
                    .into_iter()
                    .filter(move |o| (*o == "-a") == pci(port))
                    .flat_map(move |option| [option.to_owned(), port.clone()])
            }))
            .args(if ports.iter().any(|port| pci(port)) { None } else { Some("--no-pci") })
            .args(["--", "--forward-mode=io", &format!("--nb-cores={}", self.workers.len())])
            .args(["--burst=32", "--rxd=1024", "--txd=1024", "--total-num-mbufs=20000"])
            // Without it the program ends with its standard input.
            .args(["--no-lsc-interrupt", "--stats-period=3600"]);
        let process = cmd.spawn(Stdio::from(out.try_clone()?), Stdio::from(out))?;
        Ok(Running::Testpmd(process, log))
    }

    /// Arguments of the EAL for memory.
    fn memory(&self) -> &'static str {
        match self.hugepages {
            true => "--in-memory -m 512",
            false => "--no-huge --no-shconf --iova-mode=va -m 512",
        }
    }

    fn ovs(&self, row: &Row, ports: &[String]) -> Result<Running> {
        ensure!(self.hugepages, "it needs hugepages, and too few are free: --hugepages 1536");
        let home = Netns::new("ovs")?;
        let mask = |cpus: &[u16]| cpus.iter().fold(0u64, |mask, cpu| mask | 1 << (cpu & 63));
        let allow: String =
            ports.iter().filter(|p| pci(p)).map(|port| format!(" -a {port}")).collect();
        let devices = if allow.is_empty() { " --no-pci" } else { &allow };
        let settings = [
            "dpdk-init=true".to_owned(),
            // To begin with: it takes more as it needs it.
            "dpdk-socket-mem=256".to_owned(),
            format!("dpdk-lcore-mask={:#x}", mask(&[self.control])),
            format!("pmd-cpu-mask={:#x}", mask(&self.workers)),
            format!("dpdk-extra=\"--in-memory{devices}\""),
            "flow-limit=2000000".to_owned(),
            "max-idle=100000".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let control = self.control.to_string();
        let mut ovs = Ovs::start_as(&home, &["taskset", "-c", &control, OVS], &settings)?;
        ovs.wait_answering(Duration::from_secs(120))?;
        // Its own limit grows only while it is quick.
        ovs.appctl(&["upcall/set-flow-limit", "2000000"])?;
        let add = |n: usize, bridge: &str| {
            let mtu = if row.size.largest() > 1518 { 9000 } else { 1500 };
            let mtu = mtu + if n == 1 { row.shape.extra() } else { 0 };
            ovs.vsctl(&format!(
                "add-port {bridge} p{n} -- set Interface p{n} type=dpdk mtu_request={mtu} \
                 options:dpdk-devargs=\"{}\"",
                ports[n]
            ))
        };
        ovs.vsctl(
            "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure \
             other_config:mac-table-size=1000000 other_config:mac-aging-time=3600",
        )?;
        ovs.ofctl(&["add-flow", "br0", "actions=NORMAL"])?;
        if let Some(tunnel) = row.shape.tunnel() {
            ovs.vsctl(&format!(
                "add-br phy -- set bridge phy datapath_type=netdev fail_mode=standalone \
                 other_config:hwaddr={}",
                colons(OVS_UPLINK)
            ))?;
            add(1, "phy")?;
            home.ip(&format!("addr add {LOCAL}/24 dev phy"))?;
            home.ip("link set phy up")?;
            ovs.vsctl(&format!(
                "add-port br0 tun0 -- set Interface tun0 type={} options:remote_ip={REMOTE} \
                 options:key={VNI}",
                tunnel.name()
            ))?;
            add(0, "br0")?;
            neighbour(&ovs)?;
        } else {
            (0..ports.len()).try_for_each(|n| add(n, "br0").map(drop))?;
        }
        Ok(Running::Ovs(Box::new(ovs), home))
    }
}

/// Whether a device is a PCI address and no vdev.
fn pci(devargs: &str) -> bool {
    devargs.split(',').next().is_some_and(|name| name.contains(':'))
}

fn list(cpus: &[u16]) -> String {
    cpus.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// The kernel's bridge over the ends of `wiring`.
fn bridge(row: &Row, wiring: &Wiring) -> Result<Running> {
    let home =
        wiring.home().context("the kernel's bridge has ports of its own: leave --port out")?;
    let old = home.ip("link show br0").is_ok_and(|output| output.success());
    if old {
        for device in ["br0", "tun0"] {
            // The tunnel is there only after a row that had one.
            let _ = home.ip(&format!("link del {device}"));
        }
    }
    // In hundredths of a second: an hour.
    home.ip("link add br0 type bridge ageing_time 360000 stp_state 0")
        .context("the kernel has no bridge (module `bridge`)")?;
    let mtu = 1500 + row.shape.extra();
    for (n, end) in wiring.switch.iter().enumerate() {
        home.ip(&format!("link set {end} mtu {mtu} up"))?;
        if row.shape.tunnel().is_none() || n != 1 {
            home.ip(&format!("link set {end} master br0"))?;
        }
    }
    let mut mac = OVS_UPLINK;
    if let Some(tunnel) = row.shape.tunnel() {
        let under = &wiring.switch[1];
        home.ip(&format!("addr replace {LOCAL}/24 dev {under}"))?;
        let (remote, name) = (colons(REMOTE_MAC), tunnel.name());
        home.ip(&format!("neigh replace {REMOTE} lladdr {remote} dev {under} nud permanent"))?;
        let how = if row.shape == Shape::Vxlan { "dstport 4789 nolearning" } else { "" };
        home.ip(&format!("link add tun0 type {name} id {VNI} remote {REMOTE} {how}"))
            .with_context(|| format!("the kernel has no {name} (module `{name}`)"))?;
        home.ip("link set tun0 master br0 up")?;
        mac = home
            .cmd("cat")
            .arg(format!("/sys/class/net/{under}/address"))
            .run()?
            .ok()
            .and_then(|output| parse_mac(output.stdout.trim()))?;
    }
    home.ip("link set br0 up")?;
    Ok(Running::Bridge(mac))
}

/// A switch that runs. Ended when dropped.
#[derive(Debug)]
pub enum Running {
    /// Ours.
    Vswitchd(Box<Daemon>),
    /// Open vSwitch and its home.
    Ovs(Box<Ovs>, Netns),
    /// Testpmd, and its log.
    Testpmd(Process, PathBuf),
    /// The kernel's, with the address of its underlay device.
    Bridge([u8; 6]),
    /// Nothing that was started here.
    Nothing,
}

impl Running {
    /// Where frames of tunnels go, once links are up.
    ///
    /// # Errors
    /// The switch does not say.
    pub fn underlay(&self, row: &Row) -> Result<Underlay> {
        let mac = match self {
            _ if row.shape.tunnel().is_none() => OVS_UPLINK,
            Self::Vswitchd(daemon) => {
                prepare_uplink(daemon)?;
                uplink_of(daemon)?
            }
            Self::Bridge(mac) => *mac,
            _ => OVS_UPLINK,
        };
        Ok(Underlay { mac })
    }

    /// Fails if it does not run any more.
    ///
    /// # Errors
    /// It ended; the message holds what it said last.
    pub fn alive(&mut self) -> Result<()> {
        if let Self::Testpmd(process, log) = self
            && let Some(code) = process.poll()?
        {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            bail!("testpmd ended with {code}:\n{log}");
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It did not end well.
    pub fn stop(self) -> Result<()> {
        match self {
            Self::Vswitchd(mut daemon) => daemon.stop(),
            Self::Testpmd(mut process, _) => process.terminate(Duration::from_secs(10)).map(drop),
            Self::Ovs(..) | Self::Bridge(_) | Self::Nothing => Ok(()),
        }
    }
}
