//! Open vSwitch's userspace datapath beside ours: the same ports, the same probes, and a table of
//! where the two differ. What the table does not explain fails.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use vswitch_e2e::ovs::Ovs;
use vswitch_e2e::raw::Sender;
use vswitch_e2e::{Need, Netns, need, size, until};

use crate::isolation::{Received, bursts, by_probe, expected, last_marks, ports};
use crate::lab::{Ends, SOON, silent, veth};
use crate::model::{Port, Probe, Vlans, id_of, probes};

/// Adds a port that is configured like ours.
fn add(ovs: &Ovs, port: &Port) -> Result<()> {
    let Port { name, bridge, vlans } = port;
    let list = |some: &Option<&[u16]>| match some {
        Some(some) => some.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
        // An empty list would mean VLAN 0 as well.
        None => (1..=4094).map(|vid| vid.to_string()).collect::<Vec<_>>().join(","),
    };
    let vlans = match vlans {
        Vlans::Transparent => String::new(),
        Vlans::Access(vid) => format!("vlan_mode=access tag={vid}"),
        Vlans::Trunk(some, None) => format!("vlan_mode=trunk trunks={}", list(some)),
        Vlans::Trunk(some, Some(native)) => {
            format!("vlan_mode=native-untagged tag={native} trunks={}", list(some))
        }
    };
    ovs.vsctl(&format!("add-port {bridge} {name}s {vlans}")).map(drop)
}

/// Why Open vSwitch may treat a probe in another way than we do. Its sources say so:
/// ofproto-dpif-xlate.c, `input_vid_is_valid` and `xlate_normal`; packets.h, `eth_type_vlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// An S-tag is a VLAN tag like any other there; to us it is payload, as to every customer
    /// bridge (IEEE 802.1Q, 5.5).
    ServiceTag,
    /// An access port takes no tagged frame at all there, not even of its own VLAN; ours does, as
    /// Linux's bridge does.
    OwnTagOnAccess,
    /// A priority tag before another C-tag passes an access port there; we drop two C-tags.
    StackOnAccess,
    /// A group address as a source is forwarded there and not learned; we drop it (IEEE 802.3,
    /// 3.2.3).
    GroupSource,
    /// A zero source, too.
    ZeroSource,
    /// VID 4095 is a VLAN there; IEEE 802.1Q, table 9-2 reserves it.
    ReservedVid,
}

fn difference(ports: &[Port], probe: &Probe) -> Option<Difference> {
    let vid = |tci: u16| tci & 0xfff;
    let outer = probe.tags.first().copied();
    if probe.src[0] & 1 == 1 {
        return Some(Difference::GroupSource);
    }
    if probe.src == [0; 6] {
        return Some(Difference::ZeroSource);
    }
    match (outer, &ports[probe.from].vlans) {
        (Some((0x88a8, _)), _) => Some(Difference::ServiceTag),
        (Some((0x8100, tci)), Vlans::Access(_)) if vid(tci) == 0 && probe.stacked() => {
            Some(Difference::StackOnAccess)
        }
        (Some((0x8100, tci)), _) if vid(tci) == 4095 => Some(Difference::ReservedVid),
        (Some((0x8100, tci)), Vlans::Access(own)) if vid(tci) == *own => {
            Some(Difference::OwnTagOnAccess)
        }
        _ => None,
    }
}

/// Waits until no packet socket of the namespace holds a frame: all were taken in.
fn taken_in(host: &Netns) -> Result<()> {
    until(SOON, "Open vSwitch to take in what was sent", || {
        let sockets =
            host.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/packet")?))?;
        // sk RefCnt Type Proto Iface R Rmem User Inode
        let held = sockets.lines().skip(1).filter_map(|line| line.split_whitespace().nth(6));
        Ok(held.into_iter().all(|bytes| bytes == "0").then_some(()))
    })
}

fn run(ports: &[Port], probes: &[Probe], expected: &Received) -> Result<Received> {
    let (host, ends) = (silent("ovs")?, silent("ends")?);
    for port in ports {
        veth(&host, &ends, port.name)?;
    }
    let ovs = Ovs::start(&host)?;
    let bridges: BTreeSet<&str> = ports.iter().map(|port| port.bridge).collect();
    for bridge in bridges {
        ovs.vsctl(&format!("add-br {bridge} -- set bridge {bridge} datapath_type=netdev"))?;
    }
    for port in ports {
        add(&ovs, port)?;
    }
    let senders: BTreeMap<&str, Sender> = ports
        .iter()
        .map(|port| Ok((port.name, Sender::open(&ends, port.name)?)))
        .collect::<Result<_>>()?;
    let names: Vec<&str> = ports.iter().map(|port| port.name).collect();
    let captures = Ends::start(&ends, &names)?;
    for burst in bursts(probes) {
        for probe in burst {
            senders[ports[probe.from].name].send(&probe.frame())?;
        }
        taken_in(&host)?;
    }
    for (port, id) in last_marks(ports, probes, expected)? {
        captures.at(port)?.wait_for(1, |frame| id_of(frame) == Some(id))?;
    }
    by_probe(captures.stop()?)
}

#[test]
fn open_vswitch_sends_frames_to_the_same_ports() -> Result<()> {
    need!(
        "open_vswitch_sends_frames_to_the_same_ports",
        Need::Root,
        Need::Program("tcpdump", "tcpdump"),
        Need::Program("ovs-vswitchd", "openvswitch-switch")
    );
    let ports = ports();
    let probes = probes(&ports, size(600, 10_000) as usize);
    let ours = expected(&ports, &probes);
    let theirs = run(&ports, &probes, &ours)?;

    // Our own switch is held to `ours`, byte by byte, by the test of isolation.
    let receivers = |all: &Received, id: u32| -> BTreeMap<String, usize> {
        let outs = all.get(&id).into_iter().flatten();
        outs.map(|(port, frames)| (port.clone(), frames.len())).collect()
    };
    let mut explained: BTreeMap<Difference, usize> = BTreeMap::new();
    let mut unexplained = Vec::new();
    for probe in &probes {
        let (we, they) = (receivers(&ours, probe.id), receivers(&theirs, probe.id));
        match difference(&ports, probe) {
            _ if we == they => {}
            Some(why) => *explained.entry(why).or_default() += 1,
            None => {
                let words = probe.words(&ports);
                unexplained.push(format!("{words}\n  we:   {we:?}\n  they: {they:?}"));
            }
        }
    }
    println!("{} probes; explained differences: {explained:?}", probes.len());
    // A line of the table that nothing needs would hide a change.
    ensure!(explained.len() == 6, "not every difference was seen: {explained:?}");
    if !unexplained.is_empty() {
        let count = unexplained.len();
        unexplained.truncate(12);
        bail!("{count} probes differ and nobody knows why:\n{}", unexplained.join("\n"));
    }
    Ok(())
}
