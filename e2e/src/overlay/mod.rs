//! The lab of overlays: hosts on an underlay, peers that tunnel, tenants behind them.
//!
//! - [`Underlay`] is the network between hosts: a hub with one cable a host. [`Underlay::site`]
//!   makes a host in a namespace, [`Underlay::guest`] one that is a QEMU guest with Debian's
//!   kernel, [`Underlay::sriov_guest`] one with an IOMMU and a NIC that has virtual functions. Each
//!   [`Site`] has an IPv4 and an IPv6 address, which a peer gives to a device.
//! - A [`Peer`] takes part in a [`Tunnel`] from its site: [`Linux`] with the kernel's devices (a
//!   host's for VXLAN; in a guest also GENEVE, GRE over IPv4 and IPv6), [`OpenVswitch`] with its
//!   userspace datapath (VXLAN, GENEVE with options, GRE), [`Switch`] with the `vswitchd` that was
//!   built. [`connect`] joins any of them in a full mesh and gives each a [`Tenant`].
//! - [`checks`] holds between any two tenants, whoever the peers are: [`checks::pair`] runs ping of
//!   64 bytes, of exactly the MTU and one byte more, TCP with its bytes compared, and broadcasts;
//!   [`checks::broadcast`] and [`checks::moves`] take three tenants.
//! - [`Wire`] is a capture of what one site sends, decoded by tshark: [`Wire::check`] fails on any
//!   malformed frame, wrong checksum or fragment, and answers the fields that were asked for.
//! - [`Protection`] puts WireGuard or IPsec between two sites. The kernel under a test often has
//!   neither, so this needs [`Ground::Guest`]: an underlay whose hosts are namespaces of one guest.
//!   Everything but `Wire` works there the same. With [`Switch::programs`] in the guest the switch
//!   runs there, too.
//!
//! ```no_run
//! use vswitch_e2e::overlay::*;
//!
//! # fn main() -> anyhow::Result<()> {
//! let underlay = Underlay::new(&Ground::Machine, 1500)?;
//! let mut ours = Switch::new(underlay.site("ours")?)?;
//! let mut linux = Linux::new(underlay.site("linux")?)?;
//! let tunnel = Tunnel::new(Protocol::Vxlan, 10_010, Family::V6);
//! let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
//! let wire = Wire::start(&underlay, ours.site(), &tunnel)?;
//! checks::pair(&tenants[0], &tenants[1])?;
//! let seen = wire.check(&["vxlan.vni", "udp.srcport"])?;
//! seen.same("vxlan.vni", 10_010)?;
//! ours.stop()
//! # }
//! ```
//!
//! A tunnel may be joined beside others on the same peers. What a kind of peer alone has is set by
//! fields before joining: [`Linux::more`], [`OpenVswitch::more`], and [`Switch::vtep`] and
//! [`Switch::tunnel`] for lines of its configuration. In a guest each command takes 0.1 s and more:
//! use few tenants there, and one guest for a whole test.

pub mod checks;
mod linux;
mod openvswitch;
mod peer;
mod protection;
mod space;
mod switch;
mod tenant;
mod tunnel;
mod underlay;
mod wire;

pub use linux::Linux;
pub use openvswitch::OpenVswitch;
pub use peer::{Peer, connect};
pub use protection::Protection;
pub use space::{Ground, Job, Space};
pub use switch::Switch;
pub use tenant::Tenant;
pub use tunnel::{GeneveOption, Protocol, Tunnel};
pub use underlay::{Family, Site, Underlay};
pub use wire::{Decoded, Wire};
