//! Two network stacks and what is between them.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use vswitch_e2e::ovs::Ovs;
use vswitch_e2e::{Daemon, DaemonSpec, Guest, Host, IperfServer, Netns, Process, ping, until};

use super::vde::Vde;

/// In front of a switch.
pub const ON_CPU_1: [&str; 3] = ["taskset", "-c", "1"];
/// The underlay's MTU: a tenant's 1,500 bytes fit with IPv4, UDP and VXLAN or GENEVE.
const UNDERLAY_MTU: u32 = 1550;
/// Until the two stacks reach each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running switch.
#[derive(Debug)]
pub enum Switch {
    /// The kernel, of which nothing is started and no CPU time is known.
    Kernel,
    /// Our daemons.
    Ours(Vec<Daemon>),
    /// Open vSwitch.
    Ovs(Box<Ovs>),
    /// VDE.
    Vde(Vde),
    /// A program that needs nothing but to be ended.
    Program(Process),
}

impl Switch {
    fn pids(&self) -> Result<Vec<u32>> {
        Ok(match self {
            Self::Kernel => Vec::new(),
            Self::Ours(daemons) => daemons.iter().map(Daemon::pid).collect::<Result<_>>()?,
            Self::Ovs(ovs) => vec![ovs.pid()],
            Self::Vde(vde) => vec![vde.pid()],
            Self::Program(process) => vec![process.pid()],
        })
    }
}

/// Who talks through the switch.
#[derive(Debug)]
pub enum Ends {
    /// Two stacks of this kernel.
    Stacks {
        /// Where traffic starts.
        from: Netns,
        /// Where it goes.
        to: Netns,
        /// The device by which it starts.
        near: String,
    },
    /// Two machines, each of which has an iperf3 server.
    Guests(Box<[Guest; 2]>),
}

/// Two ends, and what is between them.
#[derive(Debug)]
pub struct Scene {
    // Dropped in this order: what runs before the namespaces that it runs in.
    servers: Vec<IperfServer>,
    switch: Switch,
    ends: Ends,
    /// Addresses of the far end.
    pub addresses: Vec<String>,
    _rest: Vec<Netns>,
}

/// A stack, and its device.
pub type End<'a> = (Netns, &'a str);

impl Scene {
    /// Gives two stacks their addresses, and waits until they reach each other.
    ///
    /// # Errors
    /// They do not.
    pub fn new(switch: Switch, ends: [End<'_>; 2], rest: Vec<Netns>) -> Result<Self> {
        let [(from, near), (to, far)] = ends;
        for (netns, device, address) in [(&from, near, "192.0.2.1"), (&to, far, "192.0.2.2")] {
            netns.addr(device, &format!("{address}/24"))?;
            netns.ip(&format!("link set {device} mtu 1500 up"))?;
        }
        let addresses = vec!["192.0.2.2".to_owned()];
        let ends = Ends::Stacks { from, to, near: near.to_owned() };
        Self::standing(switch, ends, addresses, rest)
    }

    /// A scene whose ends have their addresses; waits until they reach each other.
    ///
    /// # Errors
    /// They do not.
    pub fn standing(
        switch: Switch,
        ends: Ends,
        addresses: Vec<String>,
        rest: Vec<Netns>,
    ) -> Result<Self> {
        let scene = Self { servers: Vec::new(), switch, ends, addresses, _rest: rest };
        for address in &scene.addresses {
            until(PATIENCE, "the ends to reach each other", || {
                Ok((ping(scene.client(), address, 1)?.received > 0).then_some(()))
            })?;
        }
        Ok(scene)
    }

    /// The near end.
    pub fn client(&self) -> &dyn Host {
        match &self.ends {
            Ends::Stacks { from, .. } => from,
            Ends::Guests(guests) => &guests[0],
        }
    }

    /// Both stacks.
    ///
    /// # Errors
    /// The ends are guests.
    pub fn stacks(&self) -> Result<(&Netns, &Netns)> {
        match &self.ends {
            Ends::Stacks { from, to, .. } => Ok((from, to)),
            Ends::Guests(_) => bail!("between guests, only TCP is measured"),
        }
    }

    /// Sees to an iperf3 server at the far end.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&mut self) -> Result<()> {
        if let Ends::Stacks { to, .. } = &self.ends {
            self.servers.push(IperfServer::start(to)?);
        }
        Ok(())
    }

    /// The address of the far end; the first if there are several.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self) -> Result<&str> {
        self.addresses.first().map(String::as_str).context("no address")
    }

    /// CPU time that the switch has used: `None` for the kernel.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Option<Duration>> {
        let pids = self.switch.pids()?;
        let of = |pid: &u32| -> Result<Duration> {
            let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(*pid)?));
            Ok(clock_gettime(clock.context("the switch has ended")?)?.into())
        };
        let times = pids.iter().map(of).collect::<Result<Vec<_>>>()?;
        Ok((!times.is_empty()).then(|| times.iter().sum()))
    }

    /// Has the near end's device get every datagram as a frame of its own.
    ///
    /// # Errors
    /// ethtool failed.
    pub fn cut_before_the_device(&self) -> Result<()> {
        let Ends::Stacks { from, near, .. } = &self.ends else { return Ok(()) };
        // Not every device has the second one.
        from.sh(&format!(
            "ethtool -K {near} gso off && (ethtool -K {near} tx-udp-segmentation off || true)"
        ))?
        .ok()
        .map(drop)
    }

    /// Ends it; our daemons must end as they should.
    ///
    /// # Errors
    /// One of them does not.
    pub fn stop(mut self) -> Result<()> {
        match &mut self.switch {
            Switch::Ours(daemons) => daemons.iter_mut().try_for_each(Daemon::stop),
            _ => Ok(()),
        }
    }
}

/// Starts our daemon on CPU 1, from `binaries` if it is not to be the one that was built; `config`
/// comes before a bridge `br0`.
///
/// # Errors
/// It does not start or is not healthy.
pub fn daemon(binaries: Option<&Path>, config: &str, netns: Option<&Netns>) -> Result<Daemon> {
    let mut spec = DaemonSpec::new(&format!("version = 1\n{config}\n[[bridge]]\nname = \"br0\"\n"));
    spec.netns = netns.map(|netns| netns.name().to_owned());
    spec.binaries = binaries.map(Path::to_owned);
    spec.before = ON_CPU_1.map(str::to_owned).to_vec();
    let daemon = spec.start()?;
    daemon.wait_healthy()?;
    Ok(daemon)
}

/// The configuration of a port on a TAP that is moved to `netns`.
pub fn tap(name: &str, netns: &Netns) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
        netns.name()
    )
}

/// Cables from the two ends to `home`, where their other sides are `a0` and `b0`.
///
/// # Errors
/// `ip` failed.
pub fn cables(home: &Netns, ends: [&Netns; 2]) -> Result<()> {
    for (name, end) in ["a0", "b0"].iter().zip(ends) {
        let far = end.name();
        home.ip(&format!("link add {name} type veth peer name eth0 netns {far}"))?;
        home.ip(&format!("link set {name} up"))?;
    }
    Ok(())
}

/// Two hosts with a wire between them.
///
/// # Errors
/// `ip` failed.
pub fn underlay() -> Result<[Netns; 2]> {
    let hosts = [Netns::new("h1")?, Netns::new("h2")?];
    let [near, far] = &hosts;
    near.ip(&format!(
        "link add u0 mtu {UNDERLAY_MTU} type veth peer name u0 mtu {UNDERLAY_MTU} netns {}",
        far.name()
    ))?;
    for (n, host) in hosts.iter().enumerate() {
        host.addr("u0", &format!("198.51.100.{}/24", n + 1))?;
        host.ip("link set u0 up")?;
    }
    Ok(hosts)
}

/// Starts a program of ours in `home` on CPU 1, and waits until it has made `devices` there.
///
/// # Errors
/// It ended; the message holds what it said.
pub fn program(home: &Netns, words: &[&str], devices: [&str; 2]) -> Result<Process> {
    let said = tempfile::NamedTempFile::new()?;
    let err: File = said.reopen()?;
    let mut process = home
        .cmd(ON_CPU_1[0])
        .args(&ON_CPU_1[1..])
        .args(words)
        .spawn(Stdio::null(), Stdio::from(err))?;
    wait_for_devices(home, devices, || {
        let ended = process.poll()?;
        ensure!(ended.is_none(), "it ended: {}", std::fs::read_to_string(said.path())?);
        Ok(())
    })?;
    Ok(process)
}

/// Waits until a namespace has these devices; `alive` fails when nobody will make them any more.
///
/// # Errors
/// They do not come.
pub fn wait_for_devices(
    home: &Netns,
    devices: [&str; 2],
    mut alive: impl FnMut() -> Result<()>,
) -> Result<()> {
    until(PATIENCE, "a switch to make its devices", || {
        alive()?;
        let there = |name: &&str| home.ip(&format!("link show {name}")).is_ok();
        Ok(devices.iter().all(there).then_some(()))
    })
}
