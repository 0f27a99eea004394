//! What fits through tunnels: the underlay is asked for the path to each peer, and ports are told.

use std::collections::{BTreeMap, BTreeSet};

use switch_core::config::{InnerTags, PortKind, PortVlans, TunnelSpec};
use switch_core::datapath::Backend;
use switch_core::tunnel::PeerState;
use vswitch_api::types::EventLevel;

use super::peers::ListId;
use super::ports::{Port, vlans};
use super::tunnels::Tunnel;
use super::{Controller, Queue};
use crate::workers::WorkerError;

/// How many peers are asked for at once.
const ASK_AT_ONCE: usize = 256;
/// MTU of a device that nobody tells another one.
const DEFAULT_MTU: u16 = 1500;
/// Least MTU that a device takes (RFC 791 §3.2).
const LEAST_MTU: u32 = 68;

/// Whether a port and a tunnel of the same bridge share a VLAN.
pub(super) fn share(port: &PortVlans, tunnel: &TunnelSpec) -> bool {
    match (tunnel.tags, tunnel.vlan) {
        (InnerTags::Keep, None) => true,
        (_, vlan) => port.egress(vlan.map_or(0, |vlan| vlan.get())).is_some(),
    }
}

impl Port {
    /// What its device is to be told, given what fits through the tunnels it shares VLANs with.
    /// Once told, it stays told: a device does not know by itself what it had before.
    pub(super) fn mtu_to_tell(&self, fits: Option<u32>) -> Option<u16> {
        let fits = fits.map(|mtu| mtu.clamp(LEAST_MTU, DEFAULT_MTU.into()));
        let fits = fits.and_then(|mtu| u16::try_from(mtu).ok());
        fits.or_else(|| self.told_mtu.map(|_| DEFAULT_MTU))
    }
}

impl Tunnel {
    /// Smallest path MTU to its peers; the default before anybody is known.
    fn path_mtu(&self, of_list: impl Fn(ListId) -> Option<u32>, added: Option<u32>) -> u32 {
        let known = [of_list(self.remotes), self.group.and_then(of_list), added];
        known.into_iter().flatten().min().unwrap_or(PeerState::DEFAULT_PATH_MTU)
    }
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Begins another round of asking the underlay for the path to each peer.
    pub(super) fn ask_all_paths(&mut self) {
        self.tunnels.peers.begin_round();
    }

    /// Asks for the next peers in turn, and tells ports if that changes what fits.
    pub(super) fn ask_paths(&mut self) -> Result<(), WorkerError> {
        let (mut changed, mut news) = (false, Vec::new());
        for _ in 0..ASK_AT_ONCE {
            let Some((id, vtep, addr)) = self.tunnels.peers.next_to_ask() else { break };
            if let Some(mtu) = self.backend.path_mtu(vtep, addr)
                && let Some((before, was_told)) = self.tunnels.peers.set_path_mtu(id, mtu)
            {
                changed = true;
                news.extend(was_told.then_some((addr, before, mtu)));
            }
        }
        if let Some((addr, before, mtu)) = news.first() {
            let mut message =
                format!("the path to {addr} carries {mtu} bytes now, {before} before");
            if news.len() > 1 {
                message += &format!("; those to {} others changed, too", news.len() - 1);
            }
            self.events.add(EventLevel::Info, "path-mtu", "", &message);
        }
        if !changed {
            return Ok(());
        }
        let mtus = self.inner_mtus();
        let mut told = Vec::new();
        for (name, port) in &mut self.ports {
            let mtu = port.mtu_to_tell(mtus.get(name).copied());
            if port.told_mtu != mtu {
                port.told_mtu = mtu;
                told.push(name.clone());
            }
        }
        // Those that are not open are told when they are.
        told.retain(|name| self.ports.get(name).is_some_and(|port| port.open.is_some()));
        if !told.is_empty() {
            self.readjust(told)?;
            self.publish();
        }
        Ok(())
    }

    /// What fits through the tunnels that each TAP port shares VLANs with, for ports that name no
    /// MTU of their own.
    pub(super) fn inner_mtus(&self) -> BTreeMap<String, u32> {
        let ports = self
            .desired
            .ports
            .values()
            .filter(|port| port.mtu.is_none() && matches!(port.kind, PortKind::Tap { .. }));
        let bridges: BTreeSet<&str> =
            ports.clone().filter_map(|port| port.bridge.as_deref()).collect();
        let mut through: BTreeMap<&str, Vec<(&TunnelSpec, u32)>> = BTreeMap::new();
        if !bridges.is_empty() {
            for (spec, mtu) in self.tunnel_mtus() {
                if bridges.contains(&*spec.bridge) {
                    through.entry(&spec.bridge).or_default().push((spec, mtu));
                }
            }
        }
        let fits = |port: &switch_core::config::PortSpec| {
            let (vlans, tunnels) = (vlans(&port.vlan), through.get(port.bridge.as_deref()?)?);
            let shared = tunnels.iter().filter(|(tunnel, _)| share(&vlans, tunnel));
            shared.map(|(_, mtu)| *mtu).min()
        };
        ports.filter_map(|port| Some((port.name.clone(), fits(port)?))).collect()
    }

    /// The same for one tunnel.
    pub(super) fn inner_mtu(&self, spec: &TunnelSpec) -> u32 {
        let Some(tunnel) = self.tunnels.by_name.get(&spec.name) else { return 0 };
        let of_list = |list| self.tunnels.peers.path_mtu(list);
        let path = tunnel.path_mtu(of_list, self.tunnels.added_path_mtu(tunnel));
        path.saturating_sub(tunnel.overhead)
    }

    /// Largest inner layer-3 packet that fits through each tunnel to all of its peers.
    pub(super) fn tunnel_mtus(&self) -> impl Iterator<Item = (&TunnelSpec, u32)> {
        let lists = self.tunnels.peers.path_mtus();
        self.desired.tunnels.values().filter_map(move |spec| {
            let tunnel = self.tunnels.by_name.get(&spec.name)?;
            let of_list = |list| lists.get(&list).copied();
            let path = tunnel.path_mtu(of_list, self.tunnels.added_path_mtu(tunnel));
            Some((spec, path.saturating_sub(tunnel.overhead)))
        })
    }
}
