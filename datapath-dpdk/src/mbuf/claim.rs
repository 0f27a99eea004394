//! What the far end of a virtio device claims about a frame that it left unfinished.

use switch_core::frame::Frame;
use switch_core::segment::{BadOffload, VnetHeader, validate, vnet};
use switch_core::wire::{Layers, Network, TcpHeader, Transport, UdpHeader};

use super::Mbuf;

impl Mbuf {
    /// Turns a claim into offload metadata. `net_vhost` passes on that there was one and the size of
    /// segments; everything else is worked out from the frame, so that nothing of it is believed.
    ///
    /// # Errors
    /// The frame is not what is claimed.
    pub(crate) fn check_claim(&mut self) -> Result<(), BadOffload> {
        let flags = self.first.ol_flags();
        let super_frame = flags & dpdk_sys::VSW_MBUF_F_RX_LRO != 0;
        let l4 = flags & dpdk_sys::VSW_MBUF_F_RX_L4_CKSUM_MASK;
        // "None": right, but not in the field.
        if l4 != dpdk_sys::VSW_MBUF_F_RX_L4_CKSUM_NONE && !super_frame {
            return Ok(());
        }
        let layers = Layers::parse(self.head(), self.len())?;
        let gso_type = match (super_frame, layers.network(), layers.transport()) {
            (false, ..) => vnet::GSO_NONE,
            (true, Network::V4, Transport::Tcp) => vnet::GSO_TCPV4,
            (true, Network::V6, Transport::Tcp) => vnet::GSO_TCPV6,
            // UFO, which is no longer a thing: nobody offers to cut it.
            (true, ..) => vnet::GSO_UDP,
        };
        let claim = VnetHeader {
            flags: vnet::F_NEEDS_CSUM,
            gso_type,
            hdr_len: 0,
            gso_size: if super_frame { self.first.tso_segsz() } else { 0 },
            csum_start: u16::try_from(layers.l4()).unwrap_or(u16::MAX),
            csum_offset: match layers.transport() {
                Transport::Udp => UdpHeader::CHECKSUM_OFFSET,
                _ => TcpHeader::CHECKSUM_OFFSET,
            },
        };
        let offload = validate(self.head(), self.len(), &claim)?;
        self.set_offload(offload);
        Ok(())
    }
}
