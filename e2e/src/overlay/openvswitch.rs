//! Open vSwitch with its userspace datapath, which builds and parses tunnel headers itself.

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::peer::Peer;
use super::tenant::Tenant;
use super::tunnel::{Protocol, Tunnel};
use super::underlay::Site;
use crate::command::Host;
use crate::ovs::Ovs;

/// The FlowID of NVGRE packets that it sends.
const NVGRE_FLOW_ID: u32 = 0x5a;

/// Open vSwitch on a host: the bridge `phy` holds the underlay's device and addresses, and each
/// tunnel has a bridge of its own.
#[derive(Debug)]
pub struct OpenVswitch {
    site: Site,
    ovs: Ovs,
    tunnels: Vec<Tunnel>,
    /// Further words for each tunnel's interface, such as `options:csum=true options:ttl=9`.
    pub more: String,
}

impl OpenVswitch {
    /// Starts it. The host must be a namespace of this machine.
    ///
    /// # Errors
    /// Open vSwitch is missing or does not start.
    pub fn new(site: Site) -> Result<Self> {
        let (space, device) = (&site.space, &site.device);
        let ovs = Ovs::start(space.netns()?)?;
        // The switch takes all frames of the device; the stack must not answer them as well.
        space.sh(&format!("echo 1 >/proc/sys/net/ipv6/conf/{device}/disable_ipv6"))?.ok()?;
        ovs.vsctl(&format!(
            "add-br phy -- set bridge phy datapath_type=netdev -- add-port phy {device}"
        ))?;
        // The stack behind the bridge sends its own traffic finished, as a wire would carry it.
        space.sh("ethtool -K phy tx off")?.ok()?;
        space.ip(&format!("link set phy mtu {} up", site.mtu))?;
        site.take_addresses("phy")?;
        Ok(Self { site, ovs, tunnels: Vec::new(), more: String::new() })
    }

    /// The switch itself, for flows and statistics. The bridge of the n-th tunnel that was joined,
    /// from 0, is `br` and n; its tunnel ports are `tun` n `-` the remote's place in the list.
    pub fn ovs(&self) -> &Ovs {
        &self.ovs
    }

    /// How many frames have arrived with exactly these options, whatever others they had. Counts
    /// from the first call on, by a flow of its own for each call's options.
    ///
    /// # Errors
    /// `tunnel` was not joined or has no such option, or a tool failed.
    pub fn count_options(&self, tunnel: &Tunnel) -> Result<u64> {
        let n = self.index(tunnel)?;
        let bridge = format!("br{n}");
        let wanted: Vec<String> = (0..tunnel.options.len())
            .map(|i| format!("tun_metadata{i}=0x{}", tunnel.options[i].hex()))
            .collect();
        let matched = format!("table=0,{}", wanted.join(","));
        let shown = self.ovs.ofctl(&["dump-flows", "--no-stats", &bridge, &matched])?.stdout;
        if !shown.contains("priority=20") {
            let flow = format!("{matched},priority=20,actions=NORMAL");
            self.ovs.ofctl(&["add-flow", &bridge, &flow])?;
        }
        // Counters of the datapath reach the flows when its cache is emptied.
        self.ovs.appctl(&["revalidator/purge"])?;
        let shown = self.ovs.ofctl(&["dump-flows", &bridge, &matched])?.stdout;
        let line = shown.lines().find(|l| l.contains("priority=20")).context("no such flow")?;
        let count = line.split("n_packets=").nth(1).and_then(|rest| rest.split(',').next());
        count.and_then(|c| c.parse().ok()).with_context(|| format!("no counter in {line}"))
    }

    fn index(&self, tunnel: &Tunnel) -> Result<usize> {
        self.tunnels.iter().position(|t| t == tunnel).context("this tunnel was not joined")
    }
}

impl Peer for OpenVswitch {
    fn site(&self) -> &Site {
        &self.site
    }

    fn join(&mut self, tunnel: &Tunnel, remotes: &[IpAddr]) -> Result<()> {
        let n = self.tunnels.len();
        let local = self.site.address(tunnel.family);
        self.ovs.vsctl(&format!("add-br br{n} -- set bridge br{n} datapath_type=netdev"))?;
        let (kind, port) = match tunnel.protocol {
            Protocol::Vxlan => ("vxlan", format!("options:dst_port={}", tunnel.port)),
            Protocol::Geneve => ("geneve", format!("options:dst_port={}", tunnel.port)),
            Protocol::Gre | Protocol::GreKeyless | Protocol::Nvgre => ("gre", String::new()),
        };
        let key = match tunnel.protocol {
            Protocol::GreKeyless => String::new(),
            // Any FlowID is to arrive; the one that is sent is a flow's matter.
            Protocol::Nvgre => "options:key=flow".to_owned(),
            _ => format!("options:key={}", tunnel.id),
        };
        for (i, remote) in remotes.iter().enumerate() {
            let name = format!("tun{n}-{i}");
            // Protected ports do not reach each other: the split horizon of a full mesh.
            self.ovs.vsctl(&format!(
                "add-port br{n} {name} -- set port {name} protected=true -- \
                 set interface {name} type={kind} options:local_ip={local} \
                 options:remote_ip={remote} {key} {port} {}",
                self.more
            ))?;
        }
        for (i, option) in tunnel.options.iter().enumerate() {
            let map = format!(
                "{{class=0x{:x},type=0x{:x},len={}}}->tun_metadata{i}",
                option.class,
                option.kind,
                option.data.len()
            );
            self.ovs.ofctl(&["add-tlv-map", &format!("br{n}"), &map])?;
        }
        self.tunnels.push(tunnel.clone());
        Ok(())
    }

    fn tenant(&mut self, tunnel: &Tunnel, number: u8) -> Result<Tenant> {
        let n = self.index(tunnel)?;
        let space = &self.site.space;
        let mtu = tunnel.inner_mtu(self.site.mtu);
        let tenant = Tenant::new(&space.ground(), number, "t0", mtu)?;
        let port = format!("p{n}-{number}");
        tenant.plug(space, &port)?;
        space.sh(&format!("echo 1 >/proc/sys/net/ipv6/conf/{port}/disable_ipv6"))?.ok()?;
        self.ovs.vsctl(&format!("add-port br{n} {port}"))?;
        let fields = tunnel.options.iter().enumerate();
        let mut set: Vec<String> =
            fields.map(|(i, o)| format!("set_field:0x{}->tun_metadata{i}", o.hex())).collect();
        if tunnel.protocol == Protocol::Nvgre {
            set.push(format!("set_field:{:#x}->tun_id", tunnel.id << 8 | NVGRE_FLOW_ID));
        }
        if !set.is_empty() {
            let flow =
                format!("table=0,priority=10,in_port={port},actions={},NORMAL", set.join(","));
            self.ovs.ofctl(&["add-flow", &format!("br{n}"), &flow])?;
        }
        tenant.configure()?;
        Ok(tenant)
    }
}
