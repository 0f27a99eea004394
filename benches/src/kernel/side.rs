//! The switches: ours and its peers, each between two stacks of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use vswitch_e2e::ovs::Ovs;
use vswitch_e2e::{Guest, GuestSpec, Host, Need, Netns, Nic};

use crate::dpdk::side::OVS;

use super::END_POINTS;
use super::scene::{
    Ends, ON_CPU_1, Scene, Switch, cables, daemon, program, tap, underlay, wait_for_devices,
};
use super::vde::Vde;

/// Ports of the scene with many; half of them are at each end.
pub const MANY: usize = 200;

/// What is between two stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// `vswitchd` with two TAP ports, as it comes.
    Ours,
    /// The same, which never blocks.
    OursPoll,
    /// The same with 200 TAP ports.
    OursMany,
    /// `vswitchd` with two `netdev` ports on veth pairs.
    OursVeth,
    /// The same on the TAPs of two QEMU guests.
    OursGuests,
    /// Two daemons with a VXLAN tunnel over a veth pair.
    OursVxlan,
    /// The same with GENEVE.
    OursGeneve,
    /// The same with GRE.
    OursGre,
    /// Open vSwitch in user space, with two internal (TAP) ports.
    Ovs,
    /// The same with `userspace-tso-enable`.
    OvsTso,
    /// The same on veth pairs.
    OvsTsoVeth,
    /// The same on the TAPs of two QEMU guests.
    OvsTsoGuests,
    /// VDE's `vde_switch` with two TAP devices.
    Vde,
    /// A program that reads from one TAP and writes into the other.
    Bare,
    /// The same with `IFF_VNET_HDR` and all offloads.
    BareVnet,
    /// The Linux bridge with veth pairs.
    Bridge,
    /// The kernel's vxlan over a veth pair.
    KernelVxlan,
}

impl Side {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursPoll => "ours, idle = poll",
            Self::OursMany => "ours, 200 ports",
            Self::OursVeth => "ours, netdev",
            Self::OursGuests => "ours, guests",
            Self::OursVxlan => "ours, VXLAN",
            Self::OursGeneve => "ours, GENEVE",
            Self::OursGre => "ours, GRE",
            Self::Ovs => "OVS",
            Self::OvsTso => "OVS, TSO",
            Self::OvsTsoVeth => "OVS, TSO, veth",
            Self::OvsTsoGuests => "OVS, TSO, guests",
            Self::Vde => "VDE",
            Self::Bare => "bare forwarder",
            Self::BareVnet => "bare, vnet_hdr",
            Self::Bridge => "Linux bridge",
            Self::KernelVxlan => "kernel vxlan",
        }
    }

    /// Why it cannot be measured on this machine.
    pub fn missing(self) -> Option<String> {
        const OVS_NEEDS: &[Need] = &[
            Need::Program("ovs-vsctl", "openvswitch-switch"),
            Need::Program(OVS, "openvswitch-switch-dpdk"),
        ];
        let needs: &[&[Need]] = match self {
            Self::Ovs | Self::OvsTso | Self::OvsTsoVeth => &[OVS_NEEDS],
            Self::OursGuests => &[Need::GUEST],
            Self::OvsTsoGuests => &[OVS_NEEDS, Need::GUEST],
            Self::Vde => &[&[Need::Program("vde_switch", "vde2")]],
            _ => &[],
        };
        vswitch_e2e::missing(&needs.concat())
    }

    /// Starts it, with a stack at each end. `ours` is the directory of our programs; `None` is that
    /// of this one.
    ///
    /// # Errors
    /// It does not start, or the stacks do not reach each other through it.
    pub fn start(self, ours: Option<&Path>) -> Result<Scene> {
        let scene = match self {
            Self::Ours => two_taps(ours, "adaptive"),
            Self::OursPoll => two_taps(ours, "poll"),
            Self::OursMany => many_taps(ours),
            Self::OursVeth => two_netdevs(ours),
            Self::OursGuests => guests(|home| ours_on_taps(ours, home)),
            Self::OursVxlan => overlay(ours, "vxlan"),
            Self::OursGeneve => overlay(ours, "geneve"),
            Self::OursGre => overlay(ours, "gre"),
            Self::Ovs => ovs(false),
            Self::OvsTso => ovs(true),
            Self::OvsTsoVeth => ovs_on_veths(),
            Self::OvsTsoGuests => guests(ovs_on_taps),
            Self::Vde => vde(),
            Self::Bare => bare(&[]),
            Self::BareVnet => bare(&["--vnet-hdr"]),
            Self::Bridge => bridge(),
            Self::KernelVxlan => kernel_vxlan(),
        };
        scene.with_context(|| format!("cannot set up {}", self.name()))
    }
}

fn ends() -> Result<[Netns; 2]> {
    Ok([Netns::new("a")?, Netns::new("b")?])
}

fn two_taps(ours: Option<&Path>, idle: &str) -> Result<Scene> {
    let [a, b] = ends()?;
    let ports = [tap("a0", &a), tap("b0", &b)].concat();
    let daemon = daemon(ours, &format!("[daemon]\nidle = \"{idle}\"\n{ports}"), None)?;
    Scene::new(Switch::Ours(vec![daemon]), [(a, "a0"), (b, "b0")], Vec::new())
}

/// `an` and `bn` are in a network of their own each, all on one bridge.
fn many_taps(ours: Option<&Path>) -> Result<Scene> {
    let ends = ends()?;
    let mut config = String::new();
    for (end, letter) in ends.iter().zip(["a", "b"]) {
        // Quiet stacks, each of whose devices answers for itself alone.
        end.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv4.conf.all.arp_ignore=1")?
            .ok()?;
        config.extend((0..MANY / 2).map(|n| tap(&format!("{letter}{n}"), end)));
    }
    let daemon = daemon(ours, &config, None)?;
    for (end, (letter, host)) in ends.iter().zip([("a", 1), ("b", 2)]) {
        let last = MANY / 2 - 1;
        end.sh(&format!(
            "set -e; for n in $(seq 0 {last}); do \
             ip addr add 10.0.$n.{host}/24 dev {letter}$n; ip link set {letter}$n up; done"
        ))?
        .ok()?;
    }
    let addresses = (0..MANY / 2).map(|n| format!("10.0.{n}.2")).collect();
    let [from, to] = ends;
    let ends = Ends::Stacks { from, to, near: "a0".to_owned() };
    Scene::standing(Switch::Ours(vec![daemon]), ends, addresses, Vec::new())
}

/// A port on a device of the same name.
fn netdev(name: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\ntype = \"netdev\"\ndevice = \"{name}\"\nbridge = \"br0\"\n"
    )
}

fn two_netdevs(ours: Option<&Path>) -> Result<Scene> {
    let (home, [a, b]) = (Netns::new("host")?, ends()?);
    cables(&home, [&a, &b])?;
    let daemon = daemon(ours, &["a0", "b0"].map(netdev).concat(), Some(&home))?;
    Scene::new(Switch::Ours(vec![daemon]), [(a, "eth0"), (b, "eth0")], vec![home])
}

/// Two guests on CPU 0, whose TAPs a switch in the same namespace takes.
fn guests(start: impl FnOnce(&Netns) -> Result<Switch>) -> Result<Scene> {
    let home = Netns::new("host")?;
    let boot = |n: u8| -> Result<Guest> {
        let address = format!("192.0.2.{n}/24");
        let nic = Nic::new(&format!("vt{n}"), &format!("52:54:00:00:00:0{n}"), &[&address]);
        let mut spec = GuestSpec::new(&format!("bench{n}"), vec![nic]);
        spec.netns = Some(home.name().to_owned());
        let guest = Guest::boot(spec)?;
        vswitch_e2e::run(&format!("taskset -a -c -p {END_POINTS} {}", guest.pid()))?;
        Ok(guest)
    };
    let guests = Box::new([boot(1)?, boot(2)?]);
    let switch = start(&home)?;
    Scene::standing(switch, Ends::Guests(guests), vec!["192.0.2.2".to_owned()], vec![home])
}

fn ours_on_taps(ours: Option<&Path>, home: &Netns) -> Result<Switch> {
    Ok(Switch::Ours(vec![daemon(ours, &["vt1", "vt2"].map(netdev).concat(), Some(home))?]))
}

fn ovs_on_taps(home: &Netns) -> Result<Switch> {
    // Our daemon sets up what it attaches.
    for device in ["vt1", "vt2"] {
        home.ip(&format!("link set {device} up"))?;
    }
    let ovs = ovs_in(home, true)?;
    ovs.vsctl("add-port br0 vt1 -- add-port br0 vt2")?;
    Ok(Switch::Ovs(Box::new(ovs)))
}

fn overlay(ours: Option<&Path>, protocol: &str) -> Result<Scene> {
    let (hosts, [a, b]) = (underlay()?, ends()?);
    let id = if protocol == "gre" { "key" } else { "vni" };
    let mut daemons = Vec::new();
    for (n, (host, port)) in hosts.iter().zip([tap("a0", &a), tap("b0", &b)]).enumerate() {
        let (local, remote) = (n + 1, 2 - n);
        let tunnel = format!(
            "[[vtep]]\nname = \"v\"\nlocal = \"198.51.100.{local}\"\n\
             [[tunnel]]\nname = \"t\"\ntype = \"{protocol}\"\n{id} = 7\nbridge = \"br0\"\n\
             remotes = [\"198.51.100.{remote}\"]\n"
        );
        daemons.push(daemon(ours, &format!("{port}{tunnel}"), Some(host))?);
    }
    Scene::new(Switch::Ours(daemons), [(a, "a0"), (b, "b0")], hosts.into())
}

/// Open vSwitch with an empty bridge `br0`.
fn ovs_in(home: &Netns, tso: bool) -> Result<Ovs> {
    let settings: &[&str] = if tso { &["userspace-tso-enable=true"] } else { &[] };
    let mut ovs = Ovs::start_as(home, &[&ON_CPU_1[..], &[OVS]].concat(), settings)?;
    ovs.wait_answering(Duration::from_secs(30))?;
    ovs.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev")?;
    Ok(ovs)
}

fn ovs(tso: bool) -> Result<Scene> {
    with_devices_of(Netns::new("ovs")?, |home, devices| {
        let ovs = ovs_in(home, tso)?;
        for name in devices {
            ovs.vsctl(&format!("add-port br0 {name} -- set Interface {name} type=internal"))?;
        }
        Ok(Switch::Ovs(Box::new(ovs)))
    })
}

fn ovs_on_veths() -> Result<Scene> {
    let (home, [a, b]) = (Netns::new("ovs")?, ends()?);
    let ovs = ovs_in(&home, true)?;
    cables(&home, [&a, &b])?;
    ovs.vsctl("add-port br0 a0 -- add-port br0 b0")?;
    Scene::new(Switch::Ovs(Box::new(ovs)), [(a, "eth0"), (b, "eth0")], vec![home])
}

/// Moves the devices that a program makes in `home` to the ends.
fn with_devices_of(
    home: Netns,
    start: impl FnOnce(&Netns, [&str; 2]) -> Result<Switch>,
) -> Result<Scene> {
    let [a, b] = ends()?;
    let devices = ["a0", "b0"];
    let switch = start(&home, devices)?;
    for (device, end) in devices.iter().zip([&a, &b]) {
        home.ip(&format!("link set {device} netns {}", end.name()))?;
    }
    Scene::new(switch, [(a, "a0"), (b, "b0")], vec![home])
}

fn vde() -> Result<Scene> {
    with_devices_of(Netns::new("vde")?, |home, devices| {
        let vde = Vde::start(home, &ON_CPU_1, devices)?;
        wait_for_devices(home, devices, || Ok(()))?;
        Ok(Switch::Vde(vde))
    })
}

fn bare(options: &[&str]) -> Result<Scene> {
    with_devices_of(Netns::new("bare")?, |home, devices| {
        let this = std::env::current_exe()?.display().to_string();
        let words = [&[this.as_str(), "forward"], options, &devices].concat();
        Ok(Switch::Program(program(home, &words, devices)?))
    })
}

fn bridge() -> Result<Scene> {
    let (home, [a, b]) = (Netns::new("br")?, ends()?);
    cables(&home, [&a, &b])?;
    home.ip("link add br0 up type bridge")?;
    for name in ["a0", "b0"] {
        home.ip(&format!("link set {name} master br0"))?;
    }
    Scene::new(Switch::Kernel, [(a, "eth0"), (b, "eth0")], vec![home])
}

fn kernel_vxlan() -> Result<Scene> {
    let [near, far] = underlay()?;
    for (host, local, remote) in [(&near, 1, 2), (&far, 2, 1)] {
        host.ip(&format!(
            "link add vx0 type vxlan id 7 dstport 4789 local 198.51.100.{local} \
             remote 198.51.100.{remote} dev u0"
        ))?;
    }
    Scene::new(Switch::Kernel, [(near, "vx0"), (far, "vx0")], Vec::new())
}
