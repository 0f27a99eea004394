//! What tens of thousands of networks cost, in the core and in the daemon.
//!
//! 65,536 bridges with one VNI each, and 17 VLAN-aware bridges with 4,000 VNIs each, whose tunnels
//! share a list of 1,000 remotes: time to build, memory in all and an object, whether the list is
//! there once, what a frame costs by the number of networks, and how long a daemon takes to answer.
//! Aim: under 5 s, with look-ups that stay flat.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use switch_core::config::{Snapshot, TunnelKind, TunnelSpec};
use switch_core::ids::{BridgeId, PeerId, PortId, TunnelId};
use switch_core::tunnel::{
    Accepts, OuterHeader, OverlayCounters, PeerConf, Proto, TunnelConf, TunnelParts,
};
use switch_core::wire::Vni;
use switch_core::wire::vlan::VlanId;
use vswitch_bench::alloc::{Counting, live_bytes};
use vswitch_bench::machine;
use vswitch_bench::overlay::{Direction, Kind, Load, Rig};
use vswitch_bench::pairs::{interleave, median};
use vswitch_e2e::{Daemon, DaemonSpec};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REMOTES: u32 = 1_000;
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PROTO: Proto = Proto::Udp(TunnelKind::VXLAN_PORT);

/// What tens of thousands of networks cost.
#[derive(Debug, Parser)]
struct Args {
    /// Leave the daemon out.
    #[arg(long)]
    core: bool,
}

/// Networks and where they are.
struct Shape {
    bridges: u32,
    /// VNIs of each bridge; more than one are VLANs 1 and up.
    each: u32,
}

const SHAPES: [Shape; 2] = [Shape { bridges: 65_536, each: 1 }, Shape { bridges: 17, each: 4_000 }];

impl Shape {
    fn name(&self) -> String {
        format!("{} bridges with {} VNIs each", self.bridges, self.each)
    }

    fn networks(&self) -> u32 {
        self.bridges * self.each
    }

    fn vlan(&self, network: u32) -> Option<u16> {
        (self.each > 1).then(|| (1 + network % self.each) as u16)
    }
}

fn remote(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(LOCAL) + 256 + n)
}

fn main() -> Result<()> {
    let args = Args::parse();
    machine::print(if args.core {
        "cargo xtask bench scale --core"
    } else {
        "cargo xtask bench scale"
    });
    println!("\nA snapshot of the core; tunnels share {REMOTES} remotes.");
    println!(
        "                                    build ms      bytes  a tunnel with its bridge or VLAN"
    );
    for shape in &SHAPES {
        core(shape)?;
    }
    lookups();
    if args.core {
        return Ok(());
    }
    println!("\nThe daemon, from its start to an answer of its API; one VTEP, no ports.");
    println!("                                  seconds     CPU  RSS");
    SHAPES.iter().try_for_each(daemon)
}

/// Builds what workers read.
fn core(shape: &Shape) -> Result<()> {
    let vtep = PortId::new(0).context("a port")?;
    let (before, start) = (live_bytes(), Instant::now());
    let mut snapshot = Snapshot::default();
    let remotes: Arc<[PeerId]> = (0..REMOTES).filter_map(PeerId::new).collect();
    for id in remotes.iter() {
        let (local, addr) = (IpAddr::V4(LOCAL), IpAddr::V4(remote(id.get())));
        let outer = OuterHeader::new(PROTO, local, addr);
        let (state, counters) = (Arc::default(), OverlayCounters::each(1));
        let peer = PeerConf { id: *id, vtep, proto: PROTO, addr, outer, state, counters };
        snapshot.overlay_mut().set_peer(peer);
    }
    for network in 0..shape.networks() {
        let vni = Vni::new(network + 1).context("a VNI")?;
        let kind = TunnelKind::Vxlan { vni, udp_port: TunnelKind::VXLAN_PORT };
        let mut spec = TunnelSpec::new(format!("t{network}"), kind, "");
        spec.vlan = shape.vlan(network).and_then(|vid| VlanId::new(vid).ok());
        let parts = TunnelParts {
            id: TunnelId::new(network).context("a tunnel")?,
            vtep,
            local: LOCAL.into(),
            bridge: BridgeId::new((network / shape.each) as u16),
            flood: Arc::clone(&remotes),
            accepts: Accepts::Listed(Arc::clone(&remotes)),
            seen: &[],
            workers: 1,
            earlier: None,
        };
        snapshot.set_tunnel(TunnelConf::new(&spec, parts)?);
    }
    for bridge in 0..shape.bridges {
        snapshot.set_bridge(BridgeId::new(bridge as u16), &format!("br{bridge}"), true);
    }
    let (spent, bytes) = (start.elapsed(), live_bytes() - before);
    for tunnel in snapshot.overlay().tunnels() {
        let accepted =
            matches!(&tunnel.accepts, Accepts::Listed(list) if Arc::ptr_eq(list, &remotes));
        ensure!(
            accepted && Arc::ptr_eq(&tunnel.flood, &remotes),
            "{} has its own list",
            tunnel.name
        );
    }
    println!(
        "{:<32}  {:>10.1}  {bytes:>9}  {:>6.0}",
        shape.name(),
        spent.as_secs_f64() * 1e3,
        bytes as f64 / f64::from(shape.networks())
    );
    Ok(())
}

/// What a frame costs by the number of networks, beside the plain path with as many VLANs.
fn lookups() {
    println!(
        "\nVXLAN, ns a frame of a worker's whole burst of 32; random VNIs, 1,000 flows, 64 remotes."
    );
    println!("   VNIs   plain   encap   decap");
    for networks in [1, 1_000, 65_536] {
        let load = Load { kind: Kind::Vxlan, inner: 64, flows: 1_000, networks };
        let [mut plain, mut encap, mut decap] = Direction::ALL.map(|way| Rig::new(&load, way));
        let found = interleave(
            Duration::from_millis(100),
            [&mut |n| plain.run(n), &mut |n| encap.run(n), &mut |n| decap.run(n)],
        );
        let [plain_ns, encap_ns, decap_ns] = found.map(|ns| median(&ns));
        [plain, encap, decap].iter_mut().for_each(Rig::check);
        println!("{networks:>7}  {plain_ns:>6.1}  {encap_ns:>6.1}  {decap_ns:>6.1}");
    }
}

fn config(shape: &Shape) -> String {
    let remotes: Vec<String> = (0..REMOTES).map(|n| format!("\"{}\"", remote(n))).collect();
    let mut config = format!(
        "version = 1\n[[vtep]]\nname = \"v4\"\nlocal = \"127.0.0.1\"\nremotes = [{}]\n",
        remotes.join(", ")
    );
    for bridge in 0..shape.bridges {
        let _ = write!(config, "[[bridge]]\nname = \"br{bridge}\"\n");
    }
    for network in 0..shape.networks() {
        let _ = write!(
            config,
            "[[tunnel]]\nname = \"t{network}\"\ntype = \"vxlan\"\nvni = {}\nbridge = \"br{}\"\n",
            network + 1,
            network / shape.each
        );
        if let Some(vlan) = shape.vlan(network) {
            let _ = writeln!(config, "vlan = {vlan}");
        }
    }
    config
}

/// Starts a daemon with an empty store and again with a full one.
fn daemon(shape: &Shape) -> Result<()> {
    let config = config(shape);
    let start = Instant::now();
    let mut daemon = DaemonSpec::new(&config).start()?;
    report(shape, "from the file", start.elapsed(), &daemon)?;
    daemon.kill9()?;
    let start = Instant::now();
    daemon.restart()?;
    report(shape, "again", start.elapsed(), &daemon)?;
    daemon.stop()
}

/// Also the CPU time of all its threads: what neighbours take does not count there.
fn report(shape: &Shape, what: &str, spent: Duration, daemon: &Daemon) -> Result<()> {
    let proc = format!("/proc/{}", daemon.pid()?);
    let status = fs::read_to_string(format!("{proc}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    // User and system time are fields 14 and 15, counted from the name's end in 1/100 s.
    let stat = fs::read_to_string(format!("{proc}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    println!(
        "{:<32}  {:>6.2}  {:>6.2}  {}  ({what})",
        shape.name(),
        spent.as_secs_f64(),
        ticks as f64 / 100.0,
        rss.trim()
    );
    Ok(())
}
