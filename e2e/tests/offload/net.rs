//! Two stacks with the switch between them: on one bridge, or with an overlay in between.

use std::time::Duration;

use anyhow::Result;
use vswitch_e2e::{Daemon, DaemonSpec, Host, Need, Netns, missing, ping, until};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The tenants' MTU.
pub(crate) const MTU: usize = 1500;
/// The underlay's: a tenant's packet fits with each of the overlays' headers.
pub(crate) const UNDERLAY_MTU: usize = 1550;
/// What `ethtool -K` turns off.
pub(crate) const NOTHING: &str = "tx off rx off tso off gso off gro off";
/// What all tests here need.
pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Tun,
    Need::Binaries,
    Need::Program("tcpdump", "tcpdump"),
    Need::Program("ethtool", "ethtool"),
];

/// Whether a test cannot run here; that is said then.
pub(crate) fn skipped(test: &str, more: &[Need]) -> bool {
    let why = missing(&[NEEDS, more].concat());
    if let Some(why) = &why {
        vswitch_e2e::skip(test, why);
    }
    why.is_some()
}

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `tap` port.
    Tap,
    /// A `netdev` port on one side of a veth pair.
    Veth,
}

/// Who does without offloads: then it gets whole frames with their checksums, and sends such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    Nobody,
    Near,
    Far,
    /// Both ends, and the underlay.
    All,
}

/// What is between the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// A bridge of one switch.
    Bridge,
    /// Two switches with a tunnel of this protocol.
    Tunnel(&'static str),
}

/// A port's end.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) netns: Netns,
    pub(crate) device: &'static str,
    pub(crate) kind: Kind,
}

impl End {
    fn new(device: &'static str, kind: Kind) -> Result<Self> {
        Ok(Self { netns: Netns::new(device)?, device, kind })
    }

    /// The port in the configuration; its device is made where that is not the switch's work.
    pub(crate) fn port(&self, host: &Netns) -> Result<String> {
        let (name, end) = (self.device, self.netns.name());
        let what = match self.kind {
            Kind::Tap => format!("type = \"tap\"\nnetns = \"{end}\""),
            Kind::Veth => {
                host.ip(&format!("link add {name}s up type veth peer name {name} netns {end}"))?;
                format!("type = \"netdev\"\ndevice = \"{name}s\"")
            }
        };
        Ok(format!("[[port]]\nname = \"{name}\"\nbridge = \"br0\"\n{what}\n"))
    }

    /// Gives it the addresses 192.0.2.`n` and 2001:db8::`n`.
    fn configure(&self, n: u8) -> Result<()> {
        self.netns.ip(&format!("link set {} up", self.device))?;
        self.netns.addr(self.device, &format!("192.0.2.{n}/24"))?;
        self.netns.addr(self.device, &format!("2001:db8::{n}/64"))
    }

    /// Sets offloads by `ethtool -K` at the end, and at the switch's side of the cable if there is
    /// one.
    pub(crate) fn offloads(&self, host: &Netns, settings: &str) -> Result<()> {
        set(&self.netns, self.device, settings)?;
        match self.kind {
            Kind::Tap => Ok(()),
            Kind::Veth => set(host, &format!("{}s", self.device), settings),
        }
    }
}

/// `ethtool -K`.
pub(crate) fn set(netns: &Netns, device: &str, settings: &str) -> Result<()> {
    netns.sh(&format!("ethtool -K {device} {settings}"))?.ok().map(drop)
}

/// Two stacks, 192.0.2.1 and 192.0.2.2, and what is between them.
#[derive(Debug)]
pub(crate) struct Net {
    daemons: Vec<Daemon>,
    pub(crate) near: End,
    pub(crate) far: End,
    /// Where the switches run: one, or two with an underlay device `u0` each.
    pub(crate) hosts: Vec<Netns>,
}

impl Net {
    /// Starts everything, and waits until the two reach each other.
    pub(crate) fn start([near, far]: [Kind; 2], off: Off, path: Path) -> Result<Self> {
        let (near, far) = (End::new("n0", near)?, End::new("f0", far)?);
        let (mut hosts, mut daemons) = (Vec::new(), Vec::new());
        match path {
            Path::Bridge => {
                let host = Netns::new("host")?;
                let ports = near.port(&host)? + &far.port(&host)?;
                daemons.push(daemon(&host, &ports)?);
                hosts.push(host);
            }
            Path::Tunnel(protocol) => {
                hosts = underlay(off == Off::All)?;
                for (n, (host, end)) in hosts.iter().zip([&near, &far]).enumerate() {
                    let config = end.port(host)? + &tunnel(protocol, n + 1, 2 - n);
                    daemons.push(daemon(host, &config)?);
                }
            }
        }
        let net = Self { daemons, near, far, hosts };
        for (n, end) in [(1, &net.near), (2, &net.far)] {
            end.configure(n)?;
            let host = if n == 1 { &net.hosts[0] } else { net.last_host() };
            if off == Off::All || off == if n == 1 { Off::Near } else { Off::Far } {
                end.offloads(host, NOTHING)?;
            }
        }
        for address in ["192.0.2.2", "2001:db8::2"] {
            until(SOON, "the ends to reach each other", || {
                Ok((ping(&net.near.netns, address, 1)?.received > 0).then_some(()))
            })?;
        }
        Ok(net)
    }

    /// Where the far end's port is.
    pub(crate) fn last_host(&self) -> &Netns {
        self.hosts.last().unwrap_or(&self.hosts[0])
    }

    /// The switch of the far end.
    pub(crate) fn last_daemon(&self) -> &Daemon {
        self.daemons.last().unwrap_or(&self.daemons[0])
    }

    /// Every frame is accounted for, and the switches end as they should.
    pub(crate) fn stop(mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.settle()?.check()?;
            daemon.stop()?;
        }
        Ok(())
    }
}

/// A daemon in `host` with a bridge `br0` and what follows.
pub(crate) fn daemon(host: &Netns, config: &str) -> Result<Daemon> {
    // A small table: a look at every place takes its time in a debug build.
    let start = "version = 1\n[daemon]\nmax-fdb-total = 4096\n[[bridge]]\nname = \"br0\"\n";
    let mut spec = DaemonSpec::new(&format!("{start}{config}"));
    spec.netns = Some(host.name().to_owned());
    let daemon = spec.start()?;
    daemon.wait_healthy()?;
    Ok(daemon)
}

/// Two hosts with a wire between their devices `u0`, which carries what a real one would if it is
/// `bare`.
pub(crate) fn underlay(bare: bool) -> Result<Vec<Netns>> {
    let hosts = [Netns::new("h1")?, Netns::new("h2")?];
    hosts[0].ip(&format!(
        "link add u0 mtu {UNDERLAY_MTU} type veth peer name u0 mtu {UNDERLAY_MTU} netns {}",
        hosts[1].name()
    ))?;
    for (n, host) in hosts.iter().enumerate() {
        host.addr("u0", &format!("198.51.100.{}/24", n + 1))?;
        host.ip("link set u0 up")?;
        if bare {
            set(host, "u0", NOTHING)?;
        }
    }
    Ok(hosts.into())
}

/// The tunnel between two hosts of an [`underlay`], which are numbered from 1.
pub(crate) fn tunnel(protocol: &str, local: usize, remote: usize) -> String {
    let id = if protocol == "gre" { "key" } else { "vni" };
    format!(
        "[[vtep]]\nname = \"v\"\nlocal = \"198.51.100.{local}\"\n\
         [[tunnel]]\nname = \"t\"\ntype = \"{protocol}\"\n{id} = 7\nbridge = \"br0\"\n\
         remotes = [\"198.51.100.{remote}\"]\n"
    )
}
