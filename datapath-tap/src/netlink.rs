//! rtnetlink's way of asking: one request, and the messages that answer it.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `RTNLGRP_LINK`: devices that come, change and go.
pub(crate) const GROUP_LINK: u32 = 1;
/// A link message with everything is below 4 KiB; virtual functions can make it longer.
pub(crate) const BUFFER: usize = 64 * 1024;
/// Answers read for one request, and news read at once, at most.
pub(crate) const MESSAGES_MAX: usize = 65_536;

/// A socket for requests, in the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Requests {
    /// A socket for the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Sends a request and hands every answer to `each`.
    pub(crate) fn send(
        &mut self,
        payload: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        self.sequence = self.sequence.wrapping_add(1);
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        request.finalize();
        let mut out = vec![0; request.buffer_len()];
        request.serialize(&mut out);
        self.socket.send(&out, 0)?;
        let many = flags & NLM_F_DUMP == NLM_F_DUMP;
        for _ in 0..MESSAGES_MAX {
            let n = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            for message in split(&self.buffer[..n]) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(e) if e.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(e) => return Err(e.to_io()),
                    NetlinkPayload::InnerMessage(answer) => {
                        each(answer);
                        if !many && flags & NLM_F_ACK == 0 {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
        Err(io::Error::other("the kernel's answer does not end"))
    }
}

/// The messages in one datagram; what cannot be parsed is left out.
pub(crate) fn split(
    datagram: &[u8],
) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let len = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
            if len < 16 || len > rest.len() {
                return None;
            }
            let (message, after) = rest.split_at(len);
            rest = after.get(len.next_multiple_of(4) - len..).unwrap_or_default();
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    })
}
