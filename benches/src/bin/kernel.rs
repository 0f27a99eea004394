//! TCP through the switch on kernel devices, beside what the kernel does by itself.
//!
//! End points run on CPU 0, the switch on CPU 1; what the kernel does instead runs where the end
//! points do. Each row is measured in five interleaved pairs.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vswitch_bench::machine;
use vswitch_bench::pairs::{Compared, PAIRS, median};
use vswitch_e2e::{Daemon, DaemonSpec, IperfServer, Netns, iperf3};

/// The underlay's MTU: a tenant's 1,500 bytes fit with IPv4, UDP and VXLAN or GENEVE.
const UNDERLAY_MTU: u32 = 1550;
/// The CPUs of an iperf3 client and its server.
const END_POINTS: &str = "0,0";
/// In front of a switch.
const SWITCH: [&str; 3] = ["taskset", "-c", "1"];

/// TCP through the switch on kernel devices, beside what the kernel does by itself.
#[derive(Debug, Parser)]
struct Args {
    /// Only rows whose name begins so: tap, vxlan, geneve, gre.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of iperf3 in each half of a pair.
    #[arg(long, default_value_t = 3)]
    secs: u32,
    /// How many pairs.
    #[arg(long, default_value_t = PAIRS)]
    pairs: usize,
}

/// What is measured: name, streams, ours, and what the kernel has instead.
type Row = (&'static str, u32, fn() -> Result<Scene>, fn() -> Result<Scene>);

const ROWS: [Row; 6] = [
    ("tap-1", 1, two_taps, bridge),
    ("tap-4", 4, two_taps, bridge),
    ("vxlan", 1, || overlay("vxlan"), kernel_vxlan),
    ("vxlan-4", 4, || overlay("vxlan"), kernel_vxlan),
    ("geneve", 1, || overlay("geneve"), kernel_vxlan),
    ("gre", 1, || overlay("gre"), kernel_vxlan),
];

/// Two stacks, and what is between them.
struct Scene {
    // Dropped in this order: a server and a daemon before the namespaces they run in.
    _server: IperfServer,
    daemons: Vec<Daemon>,
    from: Netns,
    _rest: Vec<Netns>,
    what: &'static str,
}

impl Scene {
    /// Gbit/s to the far stack.
    fn measure(&self, secs: u32, streams: u32) -> Result<f64> {
        let args = format!("-A {END_POINTS} -P {streams} -t {secs}");
        Ok(iperf3(&self.from, "192.0.2.2", &args)?.bits_per_second / 1e9)
    }

    fn stop(mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::stop)
    }
}

fn daemon(config: &str, netns: Option<&Netns>) -> Result<Daemon> {
    let mut spec = DaemonSpec::new(&format!("version = 1\n[[bridge]]\nname = \"br0\"\n{config}"));
    spec.netns = netns.map(|netns| netns.name().to_owned());
    spec.before = SWITCH.map(str::to_owned).to_vec();
    let daemon = spec.start()?;
    daemon.wait_healthy()?;
    Ok(daemon)
}

fn tap(name: &str, netns: &Netns) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
        netns.name()
    )
}

/// Gives two stacks their addresses.
fn scene(
    what: &'static str,
    daemons: Vec<Daemon>,
    ends: [(Netns, &str); 2],
    rest: Vec<Netns>,
) -> Result<Scene> {
    let [(from, near), (to, far)] = ends;
    from.addr(near, "192.0.2.1/24")?;
    to.addr(far, "192.0.2.2/24")?;
    for (netns, device) in [(&from, near), (&to, far)] {
        netns.ip(&format!("link set {device} up"))?;
    }
    let server = IperfServer::start(&to)?;
    let rest = rest.into_iter().chain([to]).collect();
    Ok(Scene { _server: server, daemons, from, _rest: rest, what })
}

fn two_taps() -> Result<Scene> {
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    let daemon = daemon(&format!("{}{}", tap("a0", &a), tap("b0", &b)), None)?;
    scene("two TAPs", vec![daemon], [(a, "a0"), (b, "b0")], Vec::new())
}

fn bridge() -> Result<Scene> {
    let (home, a, b) = (Netns::new("br")?, Netns::new("a")?, Netns::new("b")?);
    home.ip("link add br0 up type bridge")?;
    for (name, netns) in [("a0", &a), ("b0", &b)] {
        let far = netns.name();
        home.ip(&format!("link add {name} up master br0 type veth peer name eth0 netns {far}"))?;
    }
    scene("Linux bridge, veth", Vec::new(), [(a, "eth0"), (b, "eth0")], vec![home])
}

/// Two hosts with a wire between them.
fn underlay() -> Result<[Netns; 2]> {
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

fn overlay(protocol: &str) -> Result<Scene> {
    let hosts = underlay()?;
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    let id = if protocol == "gre" { "key" } else { "vni" };
    let mut daemons = Vec::new();
    for (n, (host, port)) in hosts.iter().zip([tap("a0", &a), tap("b0", &b)]).enumerate() {
        let (local, remote) = (n + 1, 2 - n);
        let tunnel = format!(
            "[[vtep]]\nname = \"v\"\nlocal = \"198.51.100.{local}\"\n\
             [[tunnel]]\nname = \"t\"\ntype = \"{protocol}\"\n{id} = 7\nbridge = \"br0\"\n\
             remotes = [\"198.51.100.{remote}\"]\n"
        );
        daemons.push(daemon(&format!("{port}{tunnel}"), Some(host))?);
    }
    scene("two daemons", daemons, [(a, "a0"), (b, "b0")], hosts.into())
}

fn kernel_vxlan() -> Result<Scene> {
    let [near, far] = underlay()?;
    for (host, local, remote) in [(&near, 1, 2), (&far, 2, 1)] {
        host.ip(&format!(
            "link add vx0 type vxlan id 7 dstport 4789 local 198.51.100.{local} \
             remote 198.51.100.{remote} dev u0"
        ))?;
    }
    scene("kernel vxlan", Vec::new(), [(near, "vx0"), (far, "vx0")], Vec::new())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    ensure!(ROWS.iter().any(|(name, ..)| wanted(name)), "no row begins so: {:?}", args.only);
    ensure!(args.pairs > 0 && args.secs > 0, "nothing to measure");
    machine::print(&format!("cargo xtask bench kernel --secs {}", args.secs));
    println!("TCP, Gbit/s: median of {} pairs; ratio: median (least to greatest)", args.pairs);
    for (name, streams, ours, theirs) in ROWS.into_iter().filter(|(name, ..)| wanted(name)) {
        row(name, streams, ours()?, theirs()?, &args).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn row(name: &str, streams: u32, ours: Scene, theirs: Scene, args: &Args) -> Result<()> {
    let mut found = Compared { ours: Vec::new(), theirs: Vec::new() };
    for scene in [&ours, &theirs] {
        scene.measure(1, streams)?;
    }
    for _ in 0..args.pairs {
        found.ours.push(ours.measure(args.secs, streams)?);
        found.theirs.push(theirs.measure(args.secs, streams)?);
    }
    let (least, greatest) = found.spread();
    println!(
        "{name:<8} {:>6.2} {:<12} {:>6.2} {:<18} ratio {:.2} ({least:.2} to {greatest:.2})",
        median(&found.ours),
        ours.what,
        median(&found.theirs),
        theirs.what,
        found.ratio()
    );
    theirs.stop()?;
    ours.stop()
}
