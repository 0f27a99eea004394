//! What has to hold for a frame on a wire: etherparse decodes it, and sums are made anew here.

use anyhow::{Context, Result, ensure};
use etherparse::{IpNumber, NetSlice, SlicedPacket};

/// The sum in ones' complement of RFC 1071 over several pieces, of which all but the last have an
/// even length.
fn sum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Checks a frame: no longer than the MTU allows, well-formed, no fragment, and with right checksums
/// of IPv4, TCP and UDP.
pub(crate) fn check(frame: &[u8], mtu: usize) -> Result<()> {
    ensure!(frame.len() <= mtu + 14, "{} bytes with an MTU of {mtu}", frame.len());
    let packet = SlicedPacket::from_ethernet(frame).context("it does not decode")?;
    let (addresses, protocol, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            ensure!(sum(&[ip.header().slice()]) == 0xffff, "the checksum of its IPv4 header");
            ensure!(!ip.is_payload_fragmented(), "a fragment");
            let header = ip.header().slice();
            (&header[12..20], ip.payload_ip_number(), ip.payload().payload)
        }
        Some(NetSlice::Ipv6(ip)) => {
            ensure!(!ip.is_payload_fragmented(), "a fragment");
            (&ip.header().slice()[8..40], ip.payload().ip_number, ip.payload().payload)
        }
        _ => return Ok(()),
    };
    let at = match protocol {
        IpNumber::TCP => 16,
        IpNumber::UDP => 6,
        _ => return Ok(()),
    };
    let written = payload.get(at..at + 2).context("a header is cut short")?;
    // RFC 768: a datagram without a checksum.
    if protocol == IpNumber::UDP && written == [0, 0] && addresses.len() == 8 {
        return Ok(());
    }
    let length = u32::try_from(payload.len())?.to_be_bytes();
    let found = sum(&[addresses, &length, &[0, protocol.0], payload]);
    ensure!(found == 0xffff, "the checksum {written:02x?} of protocol {}", protocol.0);
    Ok(())
}

/// Checks every frame, of which there must be some.
pub(crate) fn check_all(frames: &[Vec<u8>], mtu: usize) -> Result<()> {
    ensure!(frames.len() > 20, "only {} frames were captured", frames.len());
    for (n, frame) in frames.iter().enumerate() {
        check(frame, mtu).with_context(|| {
            format!("frame {n} of {} bytes: {:02x?}", frame.len(), &frame[..frame.len().min(80)])
        })?;
    }
    Ok(())
}

#[test]
fn right_and_wrong_frames_are_told_apart() {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut right = Vec::new();
    let packet = builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 4).tcp(1, 2, 3, 4);
    packet.write(&mut right, &[7; 101]).expect("a vector takes everything");
    check(&right, 1500).expect("a right frame");
    assert!(check(&right, 100).is_err(), "too long");
    for at in [24, 40, 60] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        assert!(check(&wrong, 1500).is_err(), "a wrong byte at {at}");
    }
}
