//! Peers that are added to tunnels at run time. They are volatile and belong to whoever added them.

use std::net::IpAddr;

use switch_core::datapath::Backend;
use vswitch_api::config::Problem;
use vswitch_api::types::{PeersReply, PeersRequest};
use vswitch_api::{ApiError, Code};

use super::fdb::{owner_of, refuse};
use super::mutate::no_such_tunnel;
use super::tunnels::Added;
use super::{Controller, Queue};
use crate::workers::WorkerError;

/// Why an address cannot be that of a peer.
fn unfit(addr: IpAddr, local: IpAddr) -> Option<String> {
    if addr.is_ipv4() != local.is_ipv4() {
        let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
        return Some(format!("{addr} is not {family}, as the VTEP's address {local} is"));
    }
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    if addr.is_multicast() || addr.is_unspecified() || broadcast {
        return Some(format!("{addr} is not the address of one host"));
    }
    (addr == local).then(|| format!("{addr} is the VTEP's own address"))
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Adds peers to a tunnel. All or none, if an address cannot be one.
    ///
    /// # Errors
    /// A worker hangs.
    pub(super) fn peers_add(
        &mut self,
        name: &str,
        request: &PeersRequest,
    ) -> Result<Result<PeersReply, ApiError>, WorkerError> {
        let Some(tunnel) = self.tunnels.by_name.get_mut(name) else {
            return Ok(Err(no_such_tunnel(name)));
        };
        let mut problems = Vec::new();
        let owner = owner_of(request.owner.clone(), &mut problems);
        let unfit = request.remotes.iter().enumerate().filter_map(|(index, addr)| {
            Some(Problem::new(format!("remotes[{index}]"), unfit(*addr, tunnel.local)?))
        });
        problems.extend(unfit);
        if let Err(error) = refuse(problems) {
            return Ok(Err(error));
        }
        let peers = &mut self.tunnels.peers;
        let (mut done, mut full) = (0, false);
        for addr in &request.remotes {
            if let Some(added) = tunnel.added.get_mut(addr) {
                done += u64::from(added.owners.insert(owner.clone()));
            } else if let Some(peer) = peers.take(tunnel.vtep, tunnel.proto, *addr) {
                tunnel.added.insert(*addr, Added { peer, owners: [owner.clone()].into() });
                done += 1;
            } else {
                full = true;
            }
        }
        self.rebuilt(name)?;
        if full {
            let message = "there are as many peers as there may be: not all remotes were added";
            return Ok(Err(ApiError::new(Code::InvalidRequest, message)));
        }
        Ok(Ok(PeersReply { done }))
    }

    /// Takes an owner's own peers away from a tunnel.
    ///
    /// # Errors
    /// A worker hangs.
    pub(super) fn peers_remove(
        &mut self,
        name: &str,
        request: &PeersRequest,
    ) -> Result<Result<PeersReply, ApiError>, WorkerError> {
        let Some(tunnel) = self.tunnels.by_name.get_mut(name) else {
            return Ok(Err(no_such_tunnel(name)));
        };
        let mut problems = Vec::new();
        let owner = owner_of(request.owner.clone(), &mut problems);
        if let Err(error) = refuse(problems) {
            return Ok(Err(error));
        }
        let mut done = 0;
        for addr in &request.remotes {
            let Some(added) = tunnel.added.get_mut(addr) else { continue };
            done += u64::from(added.owners.remove(&owner));
            if added.owners.is_empty()
                && let Some(added) = tunnel.added.remove(addr)
            {
                self.tunnels.peers.give_back(added.peer);
            }
        }
        self.rebuilt(name)?;
        Ok(Ok(PeersReply { done }))
    }

    fn rebuilt(&mut self, name: &str) -> Result<(), WorkerError> {
        let present = self.switch.snapshot();
        if let Some(spec) = self.desired.tunnels.get(name) {
            self.tunnels.rebuild(name, spec, &present);
        }
        self.publish_overlay()
    }
}
