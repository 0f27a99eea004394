//! What every end of a tunnel can do, and joining them.

use std::fmt;
use std::net::IpAddr;

use anyhow::Result;

use super::tenant::Tenant;
use super::tunnel::Tunnel;
use super::underlay::Site;

/// A host that takes part in tenants' networks.
pub trait Peer: fmt::Debug {
    /// The host.
    fn site(&self) -> &Site;

    /// Takes part in `tunnel`, with a bridge of its own behind it; BUM goes to all of `remotes`.
    ///
    /// # Errors
    /// The peer cannot, or refuses.
    fn join(&mut self, tunnel: &Tunnel, remotes: &[IpAddr]) -> Result<()>;

    /// A tenant's new port on the bridge behind `tunnel`, and the tenant, ready to talk.
    ///
    /// # Errors
    /// `tunnel` was not joined, or a device cannot be made.
    fn tenant(&mut self, tunnel: &Tunnel, number: u8) -> Result<Tenant>;
}

/// Joins `peers` by `tunnel`, each with all others, and gives each a tenant: number 1 to the
/// first, and so on.
///
/// # Errors
/// A peer cannot do what it is asked for, or two hosts do not reach each other.
pub fn connect(tunnel: &Tunnel, peers: &mut [&mut dyn Peer]) -> Result<Vec<Tenant>> {
    let addresses: Vec<IpAddr> = peers.iter().map(|p| p.site().address(tunnel.family)).collect();
    let mut tenants = Vec::new();
    for (n, peer) in peers.iter_mut().enumerate() {
        let own = peer.site().address(tunnel.family);
        let remotes: Vec<IpAddr> = addresses.iter().copied().filter(|&a| a != own).collect();
        peer.join(tunnel, &remotes)?;
        tenants.push(peer.tenant(tunnel, u8::try_from(n + 1)?)?);
    }
    if let [first, others @ ..] = peers {
        for other in others {
            first.site().reaches(other.site())?;
        }
    }
    Ok(tenants)
}
