//! What two peers agree on.

use super::underlay::Family;

/// How frames are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
    /// RFC 2784 with a key (RFC 2890), carrying Ethernet.
    Gre,
    /// RFC 2784 without a key: [`Tunnel::id`] is nowhere in its packets.
    GreKeyless,
    /// RFC 7637: GRE whose key is a VSID of 24 bits and a FlowID of the sender's choice.
    Nvgre,
}

impl Protocol {
    /// The field of [`Tunnel::id`] as tshark calls it. NVGRE's holds the FlowID as well.
    pub fn id_field(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan.vni",
            Self::Geneve => "geneve.vni",
            Self::Gre | Self::GreKeyless | Self::Nvgre => "gre.key",
        }
    }
}

/// A GENEVE option (RFC 8926, section 3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneveOption {
    /// Option class, as assigned by IANA.
    pub class: u16,
    /// Type, with the critical bit 0x80.
    pub kind: u8,
    /// 4 to 124 bytes, a multiple of 4.
    pub data: Vec<u8>,
}

impl GeneveOption {
    /// Its data in hexadecimal.
    pub(super) fn hex(&self) -> String {
        self.data.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// One tenants' network between hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// How frames are wrapped.
    pub protocol: Protocol,
    /// VNI or VSID (24 bits), or GRE key (32 bits).
    pub id: u32,
    /// The outer IP header's version.
    pub family: Family,
    /// UDP destination port; GRE has none.
    pub port: u16,
    /// GENEVE options on every frame sent.
    pub options: Vec<GeneveOption>,
    /// The group that BUM goes to, instead of one copy a remote. VXLAN on Linux and on the switch.
    pub group: Option<std::net::IpAddr>,
}

impl Tunnel {
    /// A tunnel on the protocol's own port, with static remotes.
    pub fn new(protocol: Protocol, id: u32, family: Family) -> Self {
        let port = match protocol {
            Protocol::Vxlan => 4789,
            Protocol::Geneve => 6081,
            Protocol::Gre | Protocol::GreKeyless | Protocol::Nvgre => 0,
        };
        Self { protocol, id, family, port, options: Vec::new(), group: None }
    }

    /// What comes before an inner frame's payload, in bytes: outer IP header, tunnel header and
    /// inner Ethernet header.
    pub fn overhead(&self) -> u32 {
        let ip = match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        let options: usize = self.options.iter().map(|o| 4 + o.data.len()).sum();
        let header = match self.protocol {
            Protocol::Vxlan => 8 + 8,
            Protocol::Geneve => 8 + 8 + u32::try_from(options).unwrap_or(u32::MAX),
            // Flags, protocol and key.
            Protocol::Gre | Protocol::Nvgre => 8,
            Protocol::GreKeyless => 4,
        };
        ip + header + 14
    }

    /// The tenants' MTU when outer packets may have `underlay` bytes.
    pub fn inner_mtu(&self, underlay: u32) -> u32 {
        underlay.saturating_sub(self.overhead())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overheads_that_are_known() {
        let inner = |protocol, family| Tunnel::new(protocol, 1, family).inner_mtu(1500);
        assert_eq!(inner(Protocol::Vxlan, Family::V4), 1450);
        assert_eq!(inner(Protocol::Vxlan, Family::V6), 1430);
        assert_eq!(inner(Protocol::Geneve, Family::V4), 1450);
        assert_eq!(inner(Protocol::Gre, Family::V4), 1458);
        assert_eq!(inner(Protocol::GreKeyless, Family::V6), 1442);
        let mut with_option = Tunnel::new(Protocol::Geneve, 1, Family::V4);
        with_option.options.push(GeneveOption { class: 1, kind: 2, data: vec![0; 8] });
        assert_eq!(with_option.inner_mtu(1500), 1438);
    }
}
