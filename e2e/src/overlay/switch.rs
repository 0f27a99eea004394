//! The switch under test as a peer, on this machine or in a guest.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::peer::Peer;
use super::space::{Ground, Job};
use super::tenant::Tenant;
use super::tunnel::{Protocol, Tunnel};
use super::underlay::{Family, Site};
use crate::bins::binary;
use crate::command::{Host, Output, until, until_ok};
use crate::daemon::{Daemon, DaemonSpec, on_dpdk_anyway};
use crate::log::problems;

/// What does not change while it runs. A small table: a look at every place takes its time in a
/// debug build.
const START: &str = "version = 1\n[daemon]\nmax-fdb-total = 16384\n";

/// `vswitchd` on a host: for each tunnel a bridge with TAP ports, whose devices are the tenants'.
///
/// The VTEPs are called `v4` and `v6`. The n-th tunnel that was joined, from 0, is called `tun` and
/// n, its bridge `br` and n, and the port of tenant m there `p` n `-` m. On DPDK the uplink is called
/// `up0`, and so is its exception TAP.
#[derive(Debug)]
pub struct Switch {
    site: Site,
    /// Further lines of each `[[vtep]]`.
    pub vtep: String,
    /// Further lines of each `[[tunnel]]`.
    pub tunnel: String,
    tunnels: Vec<(Tunnel, Vec<IpAddr>)>,
    /// Port, number of its tunnel, and the namespace of its device.
    ports: Vec<(String, usize, String)>,
    /// Whether, and how, DPDK drives the underlay's device.
    dpdk: Option<OnDpdk>,
    running: Running,
}

/// The uplink, and its exception TAP.
const UPLINK: &str = "up0";

/// How DPDK drives the underlay's device.
#[derive(Clone, Debug)]
struct OnDpdk {
    devargs: String,
    /// Workers, from CPU 0 on; one that is not pinned when it is one.
    workers: u16,
}

impl OnDpdk {
    /// What does not change while it runs: [`START`], and the workers.
    fn start(&self) -> String {
        match self.workers {
            0 | 1 => START.to_owned(),
            n => format!("{START}cpus = \"0-{}\"\n", n - 1),
        }
    }

    /// The uplink. The device's frames come to the switch alone: its stack sees none of them.
    fn uplink(&self, site: &Site) -> String {
        let (devargs, mtu) = (&self.devargs, site.mtu);
        format!(
            "[[port]]\nname = \"{UPLINK}\"\ntype = \"dpdk\"\nmtu = {mtu}\ndevargs = \"{devargs}\"\n"
        )
    }
}

enum Running {
    Machine(Box<Daemon>),
    /// With the directory of its files there.
    Guest(Job, String),
}

impl Switch {
    /// What a guest's `programs` must hold for a switch to run there.
    ///
    /// # Errors
    /// They are not built.
    pub fn programs() -> Result<Vec<PathBuf>> {
        ["vswitchd", "vswitch-ctl"].into_iter().map(binary).collect()
    }

    /// Starts it, without any tunnel, after giving the underlay's device its addresses.
    ///
    /// # Errors
    /// It is not built, not in the guest, or does not answer; the message holds its log.
    pub fn new(site: Site) -> Result<Self> {
        let anyway = on_dpdk_anyway() && matches!(site.space.ground(), Ground::Machine);
        if anyway { Self::on_dpdk(site) } else { Self::start(site, None) }
    }

    /// The same on DPDK, with the underlay's device as its uplink. Needs
    /// [`Need::Dpdk`](crate::Need::Dpdk); not in a guest.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on_dpdk(site: Site) -> Result<Self> {
        let devargs = format!("net_af_xdp0,iface={}", site.device);
        Self::on_dpdk_by(site, &devargs, 1)
    }

    /// The same with a device of the caller's choice, and so many workers; also in a guest, which
    /// has hugepages by then.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on_dpdk_by(site: Site, devargs: &str, workers: u16) -> Result<Self> {
        Self::start(site, Some(OnDpdk { devargs: devargs.to_owned(), workers }))
    }

    fn start(site: Site, dpdk: Option<OnDpdk>) -> Result<Self> {
        let text = base(&site, dpdk.as_ref());
        if matches!(site.space.ground(), Ground::Guest(_)) {
            site.space.sh("modprobe tun")?.ok()?;
        }
        if dpdk.is_some() {
            // An operator's addresses are on the exception TAP, which stays when the switch stops.
            let tap = format!("tuntap add dev {UPLINK} mode tap");
            site.space.ip(&tap)?;
            site.space.ip(&format!("link set {UPLINK} up"))?;
            site.take_addresses(UPLINK)?;
        } else {
            site.take_addresses(&site.device)?;
        }
        let running = match site.space.ground() {
            Ground::Machine => {
                let spec = DaemonSpec::new(&text);
                let mut spec = if dpdk.is_some() { spec.dpdk() } else { spec };
                spec.netns = Some(site.space.name().to_owned());
                Running::Machine(Box::new(spec.start()?))
            }
            Ground::Guest(_) => {
                let dir = format!("/tmp/switch{}", site.index());
                let files = format!("mkdir -p {dir} && echo '{text}' >{dir}/file");
                site.space.sh(&files)?.ok()?;
                let job = site.space.start(&format!(
                    "NO_COLOR=1 RUST_BACKTRACE=1 exec vswitchd --config {dir}/file \
                     --run-dir {dir}/run --state-dir {dir}/state"
                ))?;
                Running::Guest(job, dir)
            }
        };
        let (vtep, tunnel) = (String::new(), String::new());
        let mut switch =
            Self { site, vtep, tunnel, tunnels: Vec::new(), ports: Vec::new(), dpdk, running };
        switch.answers()?;
        Ok(switch)
    }

    fn answers(&mut self) -> Result<()> {
        until_ok(Duration::from_secs(60), "the switch to answer", || self.ctl("status")?.ok())
            .with_context(|| self.log().unwrap_or_default())
            .map(drop)
    }

    /// Runs `vswitch-ctl ARGS` (split at spaces).
    ///
    /// # Errors
    /// The guest does not answer. A failing command is not an error: see [`Output::ok`].
    pub fn ctl(&self, args: &str) -> Result<Output> {
        match &self.running {
            Running::Machine(daemon) => daemon.ctl(args),
            Running::Guest(_, dir) => {
                self.site.space.sh(&format!("NO_COLOR=1 vswitch-ctl --run-dir {dir}/run {args}"))
            }
        }
    }

    /// What it logged so far.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn log(&self) -> Result<String> {
        match &self.running {
            Running::Machine(daemon) => Ok(daemon.log()),
            Running::Guest(job, _) => job.printed(),
        }
    }

    /// The daemon, for its counters and its process.
    ///
    /// # Errors
    /// It runs in a guest.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        match &mut self.running {
            Running::Machine(daemon) => Ok(daemon),
            Running::Guest(..) => anyhow::bail!("the switch runs in a guest"),
        }
    }

    /// Stops it. Its log must hold no warning and no error.
    ///
    /// # Errors
    /// It does not end with 0, or logged one.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_but_for(&[])
    }

    /// The same, but for lines that contain one of `expected`.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn stop_but_for(&mut self, expected: &[&str]) -> Result<()> {
        let expected: Vec<String> = expected.iter().map(|&part| part.to_owned()).collect();
        match &mut self.running {
            Running::Machine(daemon) => {
                expected.iter().for_each(|part| daemon.allow(part));
                daemon.stop()
            }
            Running::Guest(job, _) => {
                job.signal(Signal::SIGTERM)?;
                let code = until(Duration::from_secs(60), "the switch to end", || job.poll())?;
                let log = job.printed()?;
                ensure!(
                    code == 0 && problems(&log, &expected).is_empty(),
                    "ended with {code}\n{log}"
                );
                Ok(())
            }
        }
    }

    /// The whole configuration as it is to be now.
    fn config(&self) -> String {
        let mut text = base(&self.site, self.dpdk.as_ref());
        let mut of_vtep = String::new();
        if self.dpdk.is_some() {
            of_vtep = format!("uplink = \"{UPLINK}\"\n");
        }
        for (family, name) in [(Family::V4, "v4"), (Family::V6, "v6")] {
            if self.tunnels.iter().any(|(t, _)| t.family == family) {
                let local = self.site.address(family);
                text.push_str(&format!(
                    "[[vtep]]\nname = \"{name}\"\nlocal = \"{local}\"\n{of_vtep}{}\n",
                    self.vtep
                ));
            }
        }
        for (n, (tunnel, remotes)) in self.tunnels.iter().enumerate() {
            text.push_str(&format!("[[bridge]]\nname = \"br{n}\"\n"));
            text.push_str(&tunnel_text(n, tunnel, remotes));
            text.push_str(&format!("{}\n", self.tunnel));
        }
        for (name, n, netns) in &self.ports {
            text.push_str(&format!(
                "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br{n}\"\n\
                 netns = \"{netns}\"\n"
            ));
        }
        text
    }

    /// Makes the configuration that of the daemon, and waits until all of it is in use.
    fn apply(&mut self) -> Result<()> {
        // The port of a tenant that was dropped would wait for its namespace for ever.
        if matches!(self.running, Running::Machine(_)) {
            self.ports.retain(|(_, _, netns)| Path::new("/run/netns").join(netns).exists());
        }
        let text = self.config();
        match &self.running {
            Running::Machine(daemon) => {
                daemon.write_config(&text)?;
                let path = daemon.config_path();
                daemon.ctl(&format!("config apply {}", path.display()))?.ok()?;
            }
            Running::Guest(_, dir) => {
                let write = format!("cat >{dir}/file <<'END'\n{text}\nEND\n");
                self.site.space.sh(&write)?.ok()?;
                self.ctl(&format!("config apply {dir}/file"))?.ok()?;
            }
        }
        until_ok(Duration::from_secs(30), "the configuration to be in use", || {
            self.ctl("status")?.ok().map(drop)
        })
    }
}

/// What a switch has before its first tunnel.
fn base(site: &Site, dpdk: Option<&OnDpdk>) -> String {
    let Some(on) = dpdk else { return START.to_owned() };
    let mut text = on.start();
    // On this machine the daemon's own harness sees to it, without hugepages.
    if matches!(site.space.ground(), Ground::Guest(_)) {
        text.push_str("datapath = \"dpdk\"\n[dpdk]\nhugepages = \"auto\"\n");
    }
    text + &on.uplink(site)
}

fn tunnel_text(n: usize, tunnel: &Tunnel, remotes: &[IpAddr]) -> String {
    let (id, port) = (tunnel.id, tunnel.port);
    let (kind, keys) = match tunnel.protocol {
        Protocol::Vxlan => ("vxlan", format!("vni = {id}\nudp-port = {port}\n")),
        Protocol::Geneve => ("geneve", format!("vni = {id}\nudp-port = {port}\n")),
        Protocol::Gre => ("gre", format!("key = {id}\n")),
        Protocol::GreKeyless => ("gre", String::new()),
        Protocol::Nvgre => ("nvgre", format!("vni = {id}\n")),
    };
    let vtep = match tunnel.family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let remotes: Vec<String> = remotes.iter().map(|r| format!("\"{r}\"")).collect();
    let mut text = format!(
        "[[tunnel]]\nname = \"tun{n}\"\ntype = \"{kind}\"\nvtep = \"{vtep}\"\n\
         bridge = \"br{n}\"\nremotes = [{}]\n{keys}",
        remotes.join(", ")
    );
    if let Some(group) = tunnel.group {
        text.push_str(&format!("group = \"{group}\"\n"));
    }
    if !tunnel.options.is_empty() {
        let options: Vec<String> = tunnel
            .options
            .iter()
            .map(|o| format!("\"{:#06x}:{:#04x}:{}\"", o.class, o.kind, o.hex()))
            .collect();
        text.push_str(&format!("options = [{}]\n", options.join(", ")));
    }
    text
}

impl Peer for Switch {
    fn site(&self) -> &Site {
        &self.site
    }

    fn join(&mut self, tunnel: &Tunnel, remotes: &[IpAddr]) -> Result<()> {
        self.tunnels.push((tunnel.clone(), remotes.to_vec()));
        self.apply()
    }

    fn tenant(&mut self, tunnel: &Tunnel, number: u8) -> Result<Tenant> {
        let n = self.tunnels.iter().position(|(t, _)| t == tunnel);
        let n = n.context("this tunnel was not joined")?;
        let port = format!("p{n}-{number}");
        let mtu = tunnel.inner_mtu(self.site.mtu);
        let tenant = Tenant::new(&self.site.space.ground(), number, &port, mtu)?;
        self.ports.push((port, n, tenant.space.name().to_owned()));
        self.apply()?;
        tenant.configure()?;
        Ok(tenant)
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(daemon) => daemon.fmt(f),
            Self::Guest(job, dir) => write!(f, "{job:?} in {dir}"),
        }
    }
}
