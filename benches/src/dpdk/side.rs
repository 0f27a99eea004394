//! The switches: ours and its peers, each a fresh process with one worker on CPU 1.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vswitch_e2e::ovs::Ovs;
use vswitch_e2e::{Cmd, Daemon, DaemonSpec, Netns, Process, until_ok};

use super::control::Control;
use super::frames::{LOCAL, REMOTE, REMOTE_MAC, VNI};
use super::port;
use super::scene::{Scene, Way};

/// Open vSwitch with DPDK, as Debian installs it beside the one without.
pub const OVS: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// The address that underlay ports of Open vSwitch get.
pub const OVS_UPLINK: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
/// Entries that our FDB has room for unless told otherwise.
const MAX_FDB: u32 = 1_048_576;

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// `vswitchd`.
    Ours,
    /// `dpdk-testpmd` in the mode `mac`: it writes both addresses of every frame and looks up
    /// nothing.
    TestpmdMac,
    /// The mode `macswap`: it exchanges them.
    TestpmdMacswap,
    /// Open vSwitch with the action NORMAL, which learns; for one direction of a tunnel with ports
    /// connected to each other.
    Ovs,
}

impl Side {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::TestpmdMac => "testpmd mac",
            Self::TestpmdMacswap => "testpmd macswap",
            Self::Ovs => "OVS",
        }
    }

    /// Whether it delivers frames as they were sent.
    pub const fn keeps_frames(self) -> bool {
        matches!(self, Self::Ours | Self::Ovs)
    }
}

/// How switches are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The library of sources and sinks.
    pub library: PathBuf,
    /// Where things of a run go.
    pub dir: PathBuf,
    /// The directory of `vswitchd` and `vswitch-ctl`; `None` is this program's.
    pub binaries: Option<PathBuf>,
    /// Whether our switch takes hugepages. The others always do.
    pub hugepages: bool,
}

impl Launch {
    fn before(&self, control: &Control, cpus: &str) -> Vec<String> {
        let mut words = ["taskset", "-c", cpus].map(String::from).to_vec();
        words.extend(port::under(&self.library, control.path()));
        words
    }

    /// Starts a switch for that scene.
    ///
    /// # Errors
    /// It does not start, or cannot do it.
    pub fn start(&self, side: Side, scene: Scene, control: &Control) -> Result<Running> {
        let running = match side {
            Side::Ours => self.ours(scene, control),
            Side::TestpmdMac => self.testpmd("mac", scene, control),
            Side::TestpmdMacswap => self.testpmd("macswap", scene, control),
            Side::Ovs => self.ovs(scene, control),
        };
        let mut running = running.with_context(|| format!("cannot start {}", side.name()))?;
        control.wait_started(|| running.alive())?;
        Ok(running)
    }

    fn ours(&self, scene: Scene, control: &Control) -> Result<Running> {
        let mut spec = DaemonSpec::new(&config(scene, self.hugepages));
        spec.before = self.before(control, "0,1");
        spec.binaries.clone_from(&self.binaries);
        Ok(Running::Ours(Box::new(spec.start()?)))
    }

    fn testpmd(&self, mode: &str, scene: Scene, control: &Control) -> Result<Running> {
        if scene.devices().len() != 2 || matches!(scene, Scene::Overlay { .. }) {
            bail!("testpmd only connects two ports");
        }
        let log = self.dir.join("testpmd.log");
        let out = File::create(&log)?;
        let words = self.before(control, "0,1");
        let cmd = Cmd::new(&words[0])
            .args(&words[1..])
            .args(["dpdk-testpmd", "-l", "0,1", "--main-lcore", "0", "--no-pci", "--in-memory"])
            .args(["-m", "512", "--log-level=3", "--vdev", "net_null0", "--vdev", "net_null1"])
            .args(["--", &format!("--forward-mode={mode}"), "--nb-cores=1", "--burst=32"])
            .args(["--rxd=1024", "--txd=1024", "--total-num-mbufs=20000", "--no-lsc-interrupt"])
            // Without it the program ends with its standard input.
            .arg("--stats-period=3600");
        let process = cmd.spawn(Stdio::from(out.try_clone()?), Stdio::from(out))?;
        Ok(Running::Testpmd(process, log))
    }

    fn ovs(&self, scene: Scene, control: &Control) -> Result<Running> {
        let home = Netns::new("ovs")?;
        let mut words = self.before(control, "0");
        words.push(OVS.to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let settings = [
            "dpdk-init=true",
            "dpdk-lcore-mask=0x1",
            "pmd-cpu-mask=0x2",
            // To begin with: it takes more as it needs it.
            "dpdk-socket-mem=256",
            "dpdk-extra=\"--no-pci --in-memory\"",
            "flow-limit=2000000",
            "max-idle=100000",
            "n-revalidator-threads=1",
            "n-handler-threads=1",
        ];
        let mut ovs = Ovs::start_as(&home, &words, &settings)?;
        ovs.wait_answering(Duration::from_secs(120))?;
        match scene {
            Scene::Overlay { tunnel, way, .. } => {
                overlay(&ovs, &home, tunnel.name(), way == Way::Both)?;
            }
            _ => bridge(&ovs, scene.devices())?,
        }
        Ok(Running::Ovs(Box::new(ovs), home))
    }
}

fn devargs(n: usize) -> String {
    format!("type=dpdk options:dpdk-devargs=net_null{n} ofport_request={}", n + 1)
}

fn bridge(ovs: &Ovs, devices: &[&str]) -> Result<()> {
    ovs.vsctl(
        "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure \
         other_config:mac-table-size=1000000 other_config:mac-aging-time=3600",
    )?;
    ovs.ofctl(&["add-flow", "br0", "actions=NORMAL"])?;
    for n in 0..devices.len() {
        ovs.vsctl(&format!("add-port br0 p{n} -- set Interface p{n} {}", devargs(n)))?;
    }
    Ok(())
}

/// Without learning each port is connected to the other, which costs Open vSwitch least.
fn overlay(ovs: &Ovs, home: &Netns, tunnel: &str, learns: bool) -> Result<()> {
    let mac = colons(OVS_UPLINK);
    ovs.vsctl(&format!(
        "add-br phy -- set bridge phy datapath_type=netdev fail_mode=standalone \
         other_config:hwaddr={mac} -- add-port phy p1 -- set Interface p1 {} mtu_request=1600",
        devargs(1)
    ))?;
    home.ip(&format!("addr add {LOCAL}/24 dev phy"))?;
    home.ip("link set phy up")?;
    ovs.vsctl(&format!(
        "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure \
         -- add-port br0 tun0 -- set Interface tun0 type={tunnel} options:remote_ip={REMOTE} \
         options:key={VNI} ofport_request=2 -- add-port br0 p0 -- set Interface p0 {}",
        devargs(0)
    ))?;
    if learns {
        ovs.ofctl(&["add-flow", "br0", "actions=NORMAL"])?;
    } else {
        ovs.ofctl(&["add-flow", "br0", "in_port=1,actions=output:2"])?;
        ovs.ofctl(&["add-flow", "br0", "in_port=2,actions=output:1"])?;
    }
    neighbour(ovs)
}

/// Tells a bridge of Open vSwitch the remote's address, as there is nobody to answer ARP.
///
/// # Errors
/// It takes none in 10 s.
pub fn neighbour(ovs: &Ovs) -> Result<()> {
    let (ip, mac) = (REMOTE.to_string(), colons(REMOTE_MAC));
    until_ok(Duration::from_secs(10), "the bridge to take a neighbour", || {
        ovs.appctl(&["tnl/arp/set", "phy", &ip, &mac])
    })?;
    Ok(())
}

/// What ports of tenants get in `vswitchd`, unless somebody says otherwise: the words of a port.
pub const TENANT: &str = "bridge = \"br0\"\nmax-fdb = 1024\nstorm-limit = \"1000 pps\"\n";

/// The words of `vswitchd` for a VTEP over that port.
pub fn vtep_config(uplink: &str) -> String {
    format!("[[vtep]]\nname = \"v4\"\nlocal = \"{LOCAL}\"\nuplink = \"{uplink}\"\n")
}

/// The words of `vswitchd` for one of several networks' tunnels to the remote; `vlan` is what it is
/// on the bridge.
pub fn tunnel_config(protocol: &str, network: u16, vlan: Option<u16>) -> String {
    let vlan = vlan.map_or_else(String::new, |vlan| format!("vlan = {vlan}\n"));
    format!(
        "[[tunnel]]\nname = \"t{network}\"\ntype = \"{protocol}\"\nvtep = \"v4\"\nvni = {}\n\
         bridge = \"br0\"\n{vlan}remotes = [\"{REMOTE}\"]\n",
        VNI + u32::from(network)
    )
}

/// Gives the kernel's end of an uplink its address, and the remote's to the neighbour table.
///
/// # Errors
/// A command failed, or the daemon is not healthy then.
pub fn prepare_uplink(daemon: &Daemon, port: &str) -> Result<()> {
    let netns = daemon.netns().context("no network namespace")?;
    let ip = |args: &str| vswitch_e2e::run(&format!("ip -n {netns} {args}"));
    // The device that stands for the uplink in the kernel.
    ip(&format!("addr add {LOCAL}/24 dev {port}"))?;
    ip(&format!("link set {port} up"))?;
    let mac = colons(REMOTE_MAC);
    ip(&format!("neigh replace {REMOTE} lladdr {mac} dev {port} nud permanent"))?;
    daemon.wait_healthy()
}

/// The address of the uplink `p1`, which frames of the underlay must have.
///
/// # Errors
/// The daemon does not say.
pub fn uplink_of(daemon: &Daemon) -> Result<[u8; 6]> {
    let ports = daemon.ctl_json("port show")?;
    let items = ports["items"].as_array().context("no ports")?;
    let port = items.iter().find(|item| item["name"] == "p1").context("no port p1")?;
    parse_mac(port["mac"].as_str().context("port p1 has no MAC address")?)
}

/// A MAC address from its colon-separated form.
///
/// # Errors
/// It is too short, or has other digits.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut bytes = text.split(':').map(|b| u8::from_str_radix(b, 16));
    let mut octets = [0; 6];
    for octet in &mut octets {
        *octet = bytes.next().context("too short a MAC address")??;
    }
    Ok(octets)
}

/// A MAC address in its colon-separated form.
pub fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The configuration of `vswitchd`.
pub fn config(scene: Scene, hugepages: bool) -> String {
    let hugepages = if hugepages { "auto" } else { "off" };
    // Each pair is two addresses.
    let fdb = match scene {
        Scene::Bridge { pairs } => MAX_FDB.max((4 * pairs).next_power_of_two()),
        _ => MAX_FDB,
    };
    let mut config = format!(
        "version = 1\n[daemon]\ndatapath = \"dpdk\"\ncpus = \"1\"\nidle = \"poll\"\n\
         max-fdb-total = {fdb}\n[dpdk]\nhugepages = \"{hugepages}\"\n\
         [[bridge]]\nname = \"br0\"\nmax-fdb = {fdb}\n"
    );
    for (n, device) in scene.devices().iter().enumerate() {
        config += &format!("[[port]]\nname = \"p{n}\"\ntype = \"dpdk\"\ndevargs = \"{device}\"\n");
        config += match (scene, n) {
            (Scene::Overlay { .. }, 1) => "",
            (Scene::Hostile { .. }, 2) => TENANT,
            _ => "bridge = \"br0\"\n",
        };
    }
    if let Scene::Overlay { tunnel, .. } = scene {
        config += &vtep_config("p1");
        config += &tunnel_config(tunnel.name(), 0, None);
    }
    config
}

/// A switch that runs. Ended when dropped.
#[derive(Debug)]
pub enum Running {
    /// Ours.
    Ours(Box<Daemon>),
    /// Testpmd, and its log.
    Testpmd(Process, PathBuf),
    /// Open vSwitch and its home.
    Ovs(Box<Ovs>, Netns),
}

impl Running {
    /// Fails if it does not run any more.
    fn alive(&mut self) -> Result<()> {
        if let Self::Testpmd(process, log) = self
            && let Some(code) = process.poll()?
        {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            bail!("testpmd ended with {code}:\n{log}");
        }
        Ok(())
    }

    /// The address that frames of the underlay must have.
    ///
    /// # Errors
    /// The daemon does not say.
    pub fn uplink(&self, scene: Scene) -> Result<[u8; 6]> {
        match self {
            Self::Ours(daemon) if matches!(scene, Scene::Overlay { .. }) => uplink_of(daemon),
            _ => Ok(OVS_UPLINK),
        }
    }

    /// What has to be done once its ports are there.
    ///
    /// # Errors
    /// A command failed.
    pub fn prepare(&self, scene: Scene) -> Result<()> {
        match self {
            Self::Ours(daemon) if matches!(scene, Scene::Overlay { .. }) => {
                prepare_uplink(daemon, "p1")
            }
            Self::Ovs(ovs, _) if matches!(scene, Scene::Overlay { .. }) => neighbour(ovs),
            _ => Ok(()),
        }
    }

    /// Lets Open vSwitch have as many flows as it needs, which it takes back by itself when it is
    /// slow; how many it has. Others need no help.
    ///
    /// # Errors
    /// A command failed.
    pub fn help(&self) -> Result<Option<u64>> {
        let Self::Ovs(ovs, _) = self else { return Ok(None) };
        ovs.appctl(&["upcall/set-flow-limit", "2000000"])?;
        let shown = ovs.appctl(&["upcall/show"])?.stdout;
        let flows = shown.split("(current ").nth(1).and_then(|rest| rest.split(')').next());
        Ok(Some(flows.context("upcall/show tells no flows")?.parse()?))
    }

    /// Its process, for a profiler.
    ///
    /// # Errors
    /// It is not running.
    pub fn pid(&self) -> Result<u32> {
        match self {
            Self::Ours(daemon) => daemon.pid(),
            Self::Testpmd(process, _) => Ok(process.pid()),
            Self::Ovs(ovs, _) => Ok(ovs.pid()),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It did not end well, or its log has warnings that nobody expects.
    pub fn stop(self) -> Result<()> {
        match self {
            Self::Ours(mut daemon) => daemon.stop(),
            Self::Testpmd(mut process, _) => process.terminate(Duration::from_secs(10)).map(drop),
            Self::Ovs(..) => Ok(()),
        }
    }
}

/// The programs that sides need, and the packages that have them.
pub fn missing(side: Side) -> Option<&'static str> {
    match side {
        Side::Ours => None,
        Side::TestpmdMac | Side::TestpmdMacswap => (!Path::new("/usr/bin/dpdk-testpmd").exists())
            .then_some("dpdk-testpmd is not installed: `apt-get install dpdk-dev`"),
        Side::Ovs => (!Path::new(OVS).exists()).then_some(
            "Open vSwitch with DPDK is not installed: `apt-get install openvswitch-switch-dpdk`",
        ),
    }
}
