//! A bridge domain: who may send what in which VLAN, what is learned, and where a frame goes.
//!
//! Two steps, both without side effects of their own: [`admit`] turns a received frame into an
//! [`Admitted`] one or names why not, and [`decide`] learns, looks up and answers with a
//! [`Verdict`]. What they change goes through [`Effects`], so that tracing runs the very same code
//! with effects off.

mod l2;
mod loop_guard;
mod move_damping;
mod storm;

use crate::config::{PortConf, PortVlans, Snapshot};
use crate::drop::DropReason;
use crate::fdb::{Dest, Hash, Key};
use crate::frame::{FrameMeta, InTag, Options};
use crate::ids::{BridgeId, Domain, PeerId, PortId};
use crate::tunnel::TunnelConf;
use crate::verdict::{Action, Verdict};
use crate::wire::EtherType;

pub use l2::L2;
pub use loop_guard::{Block, LoopGuard, LoopGuardConfig};
pub use move_damping::{DampingConfig, Hold, MoveDamping};
pub use storm::StormBucket;

/// What bridging changes in the world. A live worker learns and counts; a trace only looks.
pub trait Effects {
    /// Where `key` is.
    fn lookup(&mut self, key: Key, hash: Hash) -> Option<Dest>;

    /// Takes one frame from the storm limit of `port`; false if there is none left.
    fn take_storm_token(&mut self, port: &PortConf) -> bool;

    /// Whether the loop guard blocks `port` now.
    fn blocked(&self, port: &PortConf) -> bool;
}

/// A frame that may come in, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    /// Its source, to be learned.
    pub src: Key,
    /// Its destination, to be looked up.
    pub dst: Key,
    /// How it was tagged.
    pub tag: InTag,
    /// Whether the destination is a group address.
    pub group: bool,
}

impl Admitted {
    /// Bridge and VLAN it was admitted to.
    #[inline]
    pub fn domain(&self) -> Domain {
        self.src.domain()
    }

    /// What travels beside the frame from now on. Made no earlier, as it is not needed between the
    /// passes of a burst.
    #[inline]
    pub fn meta(&self, in_port: PortId) -> FrameMeta {
        FrameMeta {
            in_port,
            domain: self.domain(),
            tag: self.tag,
            mark: 0,
            tunnel: None,
            options: Options::default(),
        }
    }
}

/// Where untagged frames of a port go. Looked up once a burst.
#[derive(Clone, Copy, Debug)]
pub struct Untagged(Domain);

impl Untagged {
    /// `None` if the port takes no untagged frames.
    #[inline]
    pub fn of(port: &PortConf) -> Option<Self> {
        Some(Self(Domain::new(port.bridge?, port.vlans.pvid?)))
    }

    /// Where those go that come out of `tunnel`.
    #[inline]
    pub fn of_tunnel(tunnel: &TunnelConf) -> Option<Self> {
        Some(Self(Domain::new(tunnel.bridge, tunnel.vlans.pvid?)))
    }

    /// The keys of source and destination of an untagged unicast frame with nothing odd about it,
    /// which is nearly every one, and admitted; `None` leaves it to [`admit`].
    #[inline(always)]
    pub fn admit(self, head: &[u8]) -> Option<(Key, Key)> {
        let L2 { dst, src, tci: None, .. } = L2::parse(head).ok()? else { return None };
        let odd = src.is_multicast() | src.is_zero() | dst.is_multicast();
        (!odd).then(|| (Key::new(src, self.0), Key::new(dst, self.0)))
    }
}

/// Says whether a frame that starts with `head` may come in on `port`, and in which VLAN.
///
/// # Errors
/// The reason it may not: any of the drop reasons that concern addresses and tags.
#[inline]
pub fn admit(port: &PortConf, head: &[u8]) -> Result<Admitted, DropReason> {
    admit_to(port.bridge, &port.vlans, head)
}

/// The same for a frame that came out of `tunnel`.
///
/// # Errors
/// As [`admit`]; [`DropReason::InnerTag`] for a tagged frame where the tunnel takes none.
#[inline]
pub fn admit_inner(tunnel: &TunnelConf, head: &[u8]) -> Result<Admitted, DropReason> {
    if tunnel.vlans.is_access() && head.get(12..14) == Some(&EtherType::VLAN.0.to_be_bytes()) {
        return Err(DropReason::InnerTag);
    }
    admit_to(Some(tunnel.bridge), &tunnel.vlans, head)
}

#[inline]
fn admit_to(
    bridge: Option<BridgeId>,
    vlans: &PortVlans,
    head: &[u8],
) -> Result<Admitted, DropReason> {
    let l2 = L2::parse(head)?;
    if l2.src.is_multicast() {
        return Err(DropReason::SourceGroup);
    }
    if l2.src.is_zero() {
        return Err(DropReason::SourceZero);
    }
    if l2.dst.is_link_local_reserved() {
        return Err(DropReason::ReservedDestination);
    }
    // Without its outer tag, on the native VLAN of a trunk, it would be a frame of any VLAN that the
    // sender likes: "VLAN hopping". A port that belongs to one VLAN has no use for two tags.
    if l2.stacked && vlans.is_access() {
        return Err(DropReason::VlanTagInvalid);
    }
    let bridge = bridge.ok_or(DropReason::PortUnbound)?;
    let (vid, tag) = match l2.vid() {
        None => (vlans.pvid.ok_or(DropReason::VlanUntagged)?, InTag::Untagged),
        Some(0) => (vlans.pvid.ok_or(DropReason::VlanUntagged)?, InTag::Priority),
        Some(vid) if vlans.egress(vid).is_some() => (vid, InTag::Vlan),
        Some(_) => return Err(DropReason::VlanNotMember),
    };
    let domain = Domain::new(bridge, vid);
    Ok(Admitted {
        src: Key::new(l2.src, domain),
        dst: Key::new(l2.dst, domain),
        tag,
        group: l2.dst.is_multicast(),
    })
}

/// Looks the destination up and says what is to happen. The sources of the burst have been learned.
///
/// `dst` is the hash of the destination's key. A flood may still find nobody: [`floods_to`] tells
/// for each member.
#[inline]
pub fn decide(
    snapshot: &Snapshot,
    port: &PortConf,
    frame: &Admitted,
    dst: Hash,
    fx: &mut impl Effects,
) -> Verdict {
    if fx.blocked(port) {
        return Verdict::drop(DropReason::LoopGuard);
    }
    let known = if frame.group { None } else { fx.lookup(frame.dst, dst) };
    match known {
        Some(Dest::Port(out)) if out == port.id => Verdict::drop(DropReason::Hairpin),
        Some(Dest::Port(out)) => to_port(snapshot, port, out, frame, fx),
        Some(Dest::Remote(peer)) => match PeerId::new(peer) {
            Some(peer) => Verdict::new(Action::Remote(peer)),
            None => Verdict::drop(DropReason::NoDestination),
        },
        // BUM traffic.
        None => {
            let passes = fx.take_storm_token(port);
            Verdict::new(if passes { Action::Flood } else { Action::Drop(DropReason::StormLimit) })
        }
    }
}

/// The same for a frame that came out of a tunnel. `vtep` is the VTEP's port.
#[inline]
pub fn decide_inner(
    snapshot: &Snapshot,
    vtep: &PortConf,
    frame: &Admitted,
    dst: Hash,
    fx: &mut impl Effects,
) -> Verdict {
    let known = if frame.group { None } else { fx.lookup(frame.dst, dst) };
    match known {
        Some(Dest::Port(out)) => to_port(snapshot, vtep, out, frame, fx),
        // Remotes reach each other directly: what one sends here for another would come back.
        Some(Dest::Remote(_)) => Verdict::drop(DropReason::SplitHorizon),
        None => Verdict::new(Action::Flood),
    }
}

/// What happens to a frame whose destination is behind `out`, which is not where it came from.
#[inline(always)]
fn to_port(
    snapshot: &Snapshot,
    port: &PortConf,
    out: PortId,
    frame: &Admitted,
    fx: &impl Effects,
) -> Verdict {
    let domain = frame.domain();
    let Some(out) = snapshot.port(out) else {
        // The entry outlived its port by a moment; the flush is on its way.
        return Verdict::new(Action::Flood);
    };
    if out.bridge != Some(domain.bridge()) || out.vlans.egress(domain.vid()).is_none() {
        return Verdict::drop(DropReason::VlanEgress);
    }
    if out.isolated && port.isolated {
        return Verdict::drop(DropReason::Isolated);
    }
    if fx.blocked(out) {
        return Verdict::drop(DropReason::LoopGuard);
    }
    Verdict::new(Action::Output(out.id))
}

/// Whether `out`, a member of the frame's VLAN, gets a frame that `port` floods: not the port
/// itself, not one isolated port from another, and no port that is down or blocked.
pub fn floods_to(port: &PortConf, out: &PortConf, fx: &impl Effects) -> bool {
    out.id != port.id && out.up && !(out.isolated && port.isolated) && !fx.blocked(out)
}
