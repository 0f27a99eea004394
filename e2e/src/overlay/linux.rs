//! The kernel's own tunnel devices, on this machine (VXLAN) or in a guest (all of them).

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use super::peer::Peer;
use super::tenant::Tenant;
use super::tunnel::{Protocol, Tunnel};
use super::underlay::{Family, Site};
use crate::command::Host;

/// A Linux host: for each tunnel a bridge, with the tunnel's device and the tenants' cables.
#[derive(Debug)]
pub struct Linux {
    site: Site,
    tunnels: Vec<Tunnel>,
    /// Further words for `ip link add … type TYPE`, such as `nolearning`, `ttl 9` or `udpcsum`.
    pub more: String,
}

impl Linux {
    /// The host with its addresses on the underlay.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn new(site: Site) -> Result<Self> {
        site.take_addresses(&site.device)?;
        Ok(Self::on(site))
    }

    /// A host whose addresses are there already.
    pub fn on(site: Site) -> Self {
        Self { site, tunnels: Vec::new(), more: String::new() }
    }

    /// Says where a tenant's MAC address is, as a control plane does (VXLAN).
    ///
    /// # Errors
    /// `bridge` failed, or `tunnel` was not joined.
    pub fn static_mac(&self, tunnel: &Tunnel, mac: &str, remote: IpAddr) -> Result<()> {
        let n = self.index(tunnel)?;
        // Twice: the bridge must know the device, and the device the remote. Either may have
        // learned it before.
        let entry = format!("bridge fdb replace {mac} dev tun{n}-0");
        let script = format!("{entry} dst {remote} self static && {entry} master static");
        self.site.space.sh(&script)?.ok().map(drop)
    }

    /// The device's FDB as `bridge fdb show` prints it: learned remotes with `dst`.
    ///
    /// # Errors
    /// `bridge` failed, or `tunnel` was not joined.
    pub fn fdb(&self, tunnel: &Tunnel) -> Result<String> {
        let n = self.index(tunnel)?;
        Ok(self.site.space.sh(&format!("bridge fdb show dev tun{n}-0"))?.ok()?.stdout)
    }

    fn index(&self, tunnel: &Tunnel) -> Result<usize> {
        self.tunnels.iter().position(|t| t == tunnel).context("this tunnel was not joined")
    }

    /// The words after `type` of one tunnel device.
    fn words(&self, tunnel: &Tunnel, remote: Option<IpAddr>) -> String {
        let local = self.site.address(tunnel.family);
        let (id, port) = (tunnel.id, tunnel.port);
        let remote = remote.map(|r| format!("remote {r}")).unwrap_or_default();
        let key = match tunnel.protocol {
            Protocol::GreKeyless => String::new(),
            _ => format!("key {id}"),
        };
        match (tunnel.protocol, tunnel.family) {
            (Protocol::Vxlan, _) => {
                let group = tunnel.group.map(|g| format!("group {g} dev {}", self.site.device));
                let group = group.unwrap_or_default();
                format!("vxlan id {id} dstport {port} local {local} {group}")
            }
            (Protocol::Geneve, _) => format!("geneve id {id} dstport {port} {remote}"),
            (_, Family::V4) => format!("gretap {key} local {local} {remote}"),
            (_, Family::V6) => {
                // Unless told otherwise Linux puts a destination option of 8 bytes before GRE.
                format!("ip6gretap {key} local {local} {remote} encaplimit none")
            }
        }
    }
}

impl Peer for Linux {
    fn site(&self) -> &Site {
        &self.site
    }

    fn join(&mut self, tunnel: &Tunnel, remotes: &[IpAddr]) -> Result<()> {
        // Its devices send one key and take no other.
        ensure!(tunnel.protocol != Protocol::Nvgre, "Linux has no devices for FlowIDs");
        let n = self.tunnels.len();
        let mtu = tunnel.inner_mtu(self.site.mtu);
        // A bridge that talks IPv6 itself would be one more tenant.
        let mut script = format!(
            "set -e; ip link add br{n} type bridge mcast_snooping 0; \
             echo 1 >/proc/sys/net/ipv6/conf/br{n}/disable_ipv6; ip link set br{n} up"
        );
        // A VXLAN device has as many remotes as one likes; the others have one.
        let devices: Vec<Option<IpAddr>> = match tunnel.protocol {
            Protocol::Vxlan => vec![None],
            _ => remotes.iter().map(|&r| Some(r)).collect(),
        };
        for (i, remote) in devices.into_iter().enumerate() {
            let (device, words) = (format!("tun{n}-{i}"), self.words(tunnel, remote));
            // Isolated ports do not reach each other: the split horizon of a full mesh.
            script.push_str(&format!(
                "; ip link add {device} type {words} {}; \
                 ip link set {device} mtu {mtu} master br{n} up; \
                 bridge link set dev {device} isolated on",
                self.more
            ));
        }
        if tunnel.protocol == Protocol::Vxlan && tunnel.group.is_none() {
            for remote in remotes {
                let all = "00:00:00:00:00:00";
                script.push_str(&format!("; bridge fdb append {all} dev tun{n}-0 dst {remote}"));
            }
        }
        self.site.space.sh(&script)?.ok()?;
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
        space.ip(&format!("link set {port} master br{n}"))?;
        tenant.configure()?;
        Ok(tenant)
    }
}
