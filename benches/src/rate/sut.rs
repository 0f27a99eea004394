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

use super::row::{Row, STANDARD, Shape, Test, VLAN, name};
use super::traffic::Underlay;
use super::wiring::{Wiring, pci};
use crate::dpdk::frames::{LOCAL, REMOTE, REMOTE_MAC, VNI};
use crate::dpdk::side::{
    OVS, OVS_UPLINK, TENANT, colons, neighbour, parse_mac, prepare_uplink, tunnel_config,
    uplink_of, vtep_config,
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

/// The most addresses that Open vSwitch learns, whatever `mac-table-size` says
/// (`mac_learning_set_max_entries`).
const OVS_MACS: u64 = 1_000_000;
/// The MTU for frames above 1,518 bytes.
const JUMBO: usize = 9_000;
/// The port and device that stand for an underlay, where changed tunnels are the only ones.
const SPARE: (&str, &str) = ("up0", "net_null8,no-rx=1");

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
            name(self)
        );
        Ok(())
    }

    /// Queues that it sends to and receives from at each memif port.
    pub const fn queues(self, workers: u16) -> (u16, u16) {
        match self {
            // Its main thread sends, too.
            Self::OvsDpdk => (workers + 1, workers),
            Self::Vswitchd | Self::Testpmd | Self::LinuxBridge | Self::External => (1, 1),
        }
    }

    /// Whether it can carry a row over so many ports, of our making or named ones; why not.
    pub fn refuses(self, row: &Row, ports: usize, ours: bool) -> Option<&'static str> {
        let tunnel = row.shape.tunnel().is_some();
        match (self, row.test) {
            _ if row.ports > ports => Some(
                "it takes four ports (a third one sees what is flooded): name more with --port",
            ),
            (Self::Testpmd, Test::Learn | Test::Flood) => Some("testpmd learns nothing"),
            (Self::Testpmd | Self::External | Self::LinuxBridge, Test::Reconfigure) => {
                Some("changes are made to vswitchd and Open vSwitch")
            }
            (_, Test::Learn | Test::Flood) if tunnel => {
                Some("addresses are learned and flooded without tunnels here")
            }
            (Self::Testpmd, _) if tunnel => Some("testpmd has no tunnels"),
            (Self::LinuxBridge, _) if row.vnis > 1 => Some("the bridge gets one VNI here"),
            (Self::OvsDpdk, _) if row.macs() > OVS_MACS => {
                Some("the MAC table of Open vSwitch holds at most 1,000,000 addresses")
            }
            (Self::OvsDpdk, _) if ours && row.size.largest() > STANDARD => {
                Some("Open vSwitch sets no MTU where memif has none: frames of up to 1518 bytes")
            }
            (Self::LinuxBridge, _) if row.size.largest() > STANDARD => {
                Some("packet sockets of DPDK hold frames of up to 1518 bytes")
            }
            _ if tunnel && row.ports != 2 => Some("tunnels are measured on one pair of ports"),
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
    /// Words in front of the program's own, which put a library under it; mostly none.
    pub under: Vec<String>,
}

impl Launch {
    /// Starts a switch for a row.
    ///
    /// # Errors
    /// It is not installed, does not start, or cannot do it.
    pub fn start(&self, kind: Kind, row: &Row, wiring: &Wiring) -> Result<Running> {
        let ports = &wiring.switch[..row.ports.min(wiring.switch.len())];
        let running = match kind {
            Kind::Vswitchd => self.vswitchd(row, ports),
            Kind::OvsDpdk => self.ovs(row, ports),
            Kind::Testpmd => self.testpmd(row, ports),
            Kind::LinuxBridge => bridge(row, wiring),
            Kind::External => Ok(Running::Nothing),
        };
        running.with_context(|| format!("cannot start {}", name(kind)))
    }

    /// The CPUs of the workers that a row has.
    pub fn workers_of(&self, row: &Row) -> &[u16] {
        &self.workers[..row.workers.min(self.workers.len())]
    }

    /// Those, and the one for control before them.
    fn cpus_of(&self, row: &Row) -> Vec<u16> {
        [&[self.control], self.workers_of(row)].concat()
    }

    /// The words in front of a switch's own: it runs on those CPUs.
    fn before(&self, cpus: &[u16]) -> Vec<String> {
        let mut words = vec!["taskset".to_owned(), "-c".to_owned(), list(cpus)];
        words.extend(self.under.iter().cloned());
        words
    }

    fn vswitchd(&self, row: &Row, ports: &[String]) -> Result<Running> {
        // Warnings (say, of ordinary pages) are in the report's head.
        let mut spec = DaemonSpec::new(&self.config(row, ports)).allow("");
        spec.binaries.clone_from(&self.binaries);
        spec.before = self.before(&self.cpus_of(row));
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
            list(self.workers_of(row))
        );
        let tunnel = row.shape.tunnel();
        for (n, devargs) in ports.iter().enumerate() {
            config += &port_config(&format!("p{n}"), devargs);
            if row.size.largest() > STANDARD {
                let outer = if n == 1 { row.shape.extra() } else { 0 };
                config += &format!("mtu = {}\n", JUMBO + outer);
            }
            config += match (row.test, n) {
                _ if tunnel.is_some() && n == 1 => "",
                (Test::Flood, 2) => TENANT,
                _ => "bridge = \"br0\"\n",
            };
            match row.vnis {
                0 | 1 if row.shape != Shape::Vlan => {}
                0 | 1 => config += &format!("trunk = [{VLAN}]\n"),
                _ if n == 1 => {}
                all => config += &format!("trunk = [\"{VLAN}-{}\"]\n", VLAN + all - 1),
            }
        }
        if let Some(tunnel) = tunnel {
            config += &vtep_config("p1");
            for n in 0..row.vnis {
                let vlan = (row.vnis > 1).then_some(VLAN + n);
                config += &tunnel_config(tunnel.name(), n, vlan);
            }
        } else if row.test == Test::Reconfigure {
            let (name, devargs) = SPARE;
            config += &port_config(name, devargs);
            config += &vtep_config(name);
        }
        config
    }

    fn testpmd(&self, row: &Row, ports: &[String]) -> Result<Running> {
        let log = self.dir.join("testpmd.log");
        let out = File::create(&log)?;
        let workers = self.workers_of(row).len();
        let before = self.before(&self.cpus_of(row));
        let cmd = Cmd::new(&before[0])
            .args(&before[1..])
            .arg(TESTPMD)
            .args(["-l", &list(&self.cpus_of(row)), "--main-lcore", &self.control.to_string()])
            .args(self.memory().split(' '))
            .args(["--log-level=3", "--no-telemetry"])
            .args(ports.iter().flat_map(|port| {
                ["--vdev", "-a"]
                    .into_iter()
                    .filter(move |o| (*o == "-a") == pci(port))
                    .flat_map(move |option| [option.to_owned(), port.clone()])
            }))
            .args(if ports.iter().any(|port| pci(port)) { None } else { Some("--no-pci") })
            .args(["--", "--forward-mode=io", &format!("--nb-cores={workers}")])
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
            format!("pmd-cpu-mask={:#x}", mask(self.workers_of(row))),
            format!("dpdk-extra=\"--in-memory{devices}\""),
            "flow-limit=2000000".to_owned(),
            "max-idle=100000".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut words = self.before(&[self.control]);
        words.push(OVS.to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut ovs = Ovs::start_as(&home, &words, &settings)?;
        ovs.wait_answering(Duration::from_secs(120))?;
        // Its own limit grows only while it is quick.
        ovs.appctl(&["upcall/set-flow-limit", "2000000"])?;
        let add = |n: usize, bridge: &str| {
            let mtu = if row.size.largest() > STANDARD { JUMBO } else { 1500 };
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
            for n in 0..row.vnis {
                let tag = if row.vnis > 1 { format!("tag={}", VLAN + n) } else { String::new() };
                ovs.vsctl(&format!(
                    "add-port br0 tun{n} {tag} -- set Interface tun{n} type={} \
                     options:remote_ip={REMOTE} options:key={}",
                    tunnel.name(),
                    VNI + u32::from(n)
                ))?;
            }
            add(0, "br0")?;
            neighbour(&ovs)?;
        } else {
            (0..ports.len()).try_for_each(|n| add(n, "br0").map(drop))?;
        }
        Ok(Running::Ovs(Box::new(ovs), home))
    }
}

/// The words of `vswitchd` for a port, but for what follows of it.
fn port_config(name: &str, devargs: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\ntype = \"dpdk\"\ndevargs = \"{devargs}\"\n")
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
        // What a row before had.
        home.ip(&format!("link set {end} nomaster"))?;
        if n >= row.ports {
            continue;
        }
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
            Self::Vswitchd(daemon)
                if row.test == Test::Reconfigure && row.shape.tunnel().is_none() =>
            {
                prepare_uplink(daemon, SPARE.0)?;
                OVS_UPLINK
            }
            _ if row.shape.tunnel().is_none() => OVS_UPLINK,
            Self::Vswitchd(daemon) => {
                prepare_uplink(daemon, "p1")?;
                uplink_of(daemon)?
            }
            Self::Bridge(mac) => *mac,
            _ => OVS_UPLINK,
        };
        Ok(Underlay { mac })
    }

    /// Has it forget all addresses it learned. One that was not started here keeps them.
    ///
    /// # Errors
    /// It refuses.
    pub fn forget(&self, wiring: &Wiring) -> Result<()> {
        match self {
            Self::Vswitchd(daemon) => {
                let (status, body) = daemon.http("POST", "/v1/fdb/flush", "{}")?;
                ensure!(status == 200, "vswitchd answered {status}: {body}");
            }
            Self::Ovs(ovs, _) => drop(ovs.appctl(&["fdb/flush", "br0"])?),
            Self::Bridge(_) => {
                let home = wiring.home().context("no namespace")?;
                home.ip("link set br0 type bridge fdb_flush")?;
            }
            Self::Testpmd(..) | Self::Nothing => {}
        }
        Ok(())
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

    /// Its process, if it is one that was started here.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Vswitchd(daemon) => daemon.pid().ok(),
            Self::Ovs(ovs, _) => Some(ovs.pid()),
            Self::Testpmd(process, _) => Some(process.pid()),
            Self::Bridge(_) | Self::Nothing => None,
        }
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
