//! Frames that no correct stack sends: plain layer-2 forwarding or a drop with a name, in books
//! that balance, and a switch that goes on.

use anyhow::{Result, ensure};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Daemon, Need, need, size};

use crate::held::Held;
use crate::lab::{Kind, Lab, SOON};

const ALL: [u8; 6] = [0xff; 6];
/// The largest MTU of a TAP device.
const BIG: u32 = 65_521;
/// The largest frame that the switch and every device here carry.
const LARGEST: usize = BIG as usize + 14;

/// What has to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The kernel itself refuses it, or swallows it before a packet socket sees it.
    Kernel,
    /// Dropped for this reason.
    Drop(&'static str),
    /// Out at the other end, as it is.
    Forward,
}

/// Linux swallows what it receives with a tag and less than two bytes behind it
/// (`skb_vlan_untag`), before any packet socket sees it.
fn half_a_tag(frame: &[u8]) -> bool {
    let tagged = [[0x81, 0x00], [0x88, 0xa8]].contains(&[frame[12], frame[13]]);
    tagged && frame.len() < 20
}

/// What the rules of Ethernet say of a frame that reaches a port without VLANs. `stripped` says
/// that the kernel takes tags off before the port sees it.
fn fate(frame: &[u8], stripped: bool) -> Fate {
    if frame.len() < 14 {
        return Fate::Kernel;
    }
    if stripped && half_a_tag(frame) {
        return Fate::Kernel;
    }
    let tag = [frame[12], frame[13]];
    let vid = |frame: &[u8]| u16::from_be_bytes([frame[14], frame[15]]) & 0xfff;
    if tag == [0x81, 0x00] && (frame.len() < 18 || vid(frame) == 0xfff) {
        Fate::Drop("vlan-tag-invalid")
    } else if frame[6] & 1 == 1 {
        Fate::Drop("source-group")
    } else if frame[6..12] == [0; 6] {
        Fate::Drop("source-zero")
    } else if frame[..5] == [0x01, 0x80, 0xc2, 0, 0] && frame[5] < 16 {
        Fate::Drop("reserved-destination")
    } else {
        Fate::Forward
    }
}

/// Lengths, tag stacks, truncated headers and noise.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let broadcast = ethernet(ALL, mac(1), &[], 0x88b5, &[0x5a; 64]);
    for len in (0..=18).chain([59, 60, 61, 1514, 1518, 1522, 9216, 9217, 32_768, LARGEST]) {
        let mut frame = broadcast.clone();
        frame.resize(len, 0x5a);
        frames.push(frame);
    }
    for tpid in [0x8100, 0x88a8, 0x9100] {
        for count in (0..20).chain([50, 100, 200, 300, 350, 400, 499, 500]) {
            // VID 4095 inside is nobody's business but the receiver's.
            let tags: Vec<(u16, u16)> =
                (0..count).map(|n| (tpid, if n == 1 { 0xfff } else { n as u16 % 4000 })).collect();
            let stack = ethernet(ALL, mac(2), &tags, 0x0800, &[0x45; 40]);
            if count < 3 {
                // Cut anywhere: in an address, a type, a tag.
                frames.extend((14..stack.len()).map(|len| stack[..len].to_vec()));
            }
            frames.push(stack);
        }
    }
    for golden in golden() {
        for len in 14..=golden.len() {
            frames.push(golden[..len].to_vec());
        }
    }
    // Noise whose numbers are always the same.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..size(300, 20_000) {
        let len = 14 + (next() % 200) as usize;
        let mut frame: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        // Most are to reach the switch's inside, so that they are not all dropped at its door.
        if next() % 4 != 0 {
            frame[0] |= 1;
            frame[6] = frame[6] & 0xfc | 2;
        }
        frames.push(frame);
    }
    frames
}

/// Headers that the switch or a stack might look into.
fn golden() -> Vec<Vec<u8>> {
    let mut packets: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([&mac(3)[..], &[192, 0, 2, 1], &[0; 6], &[192, 0, 2, 2]].concat());
    packets.push((0x0806, arp));
    let v4 = || etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 4);
    let mut udp = Vec::new();
    v4().udp(4789, 4789).write(&mut udp, &[8; 30]).expect("a vector takes everything");
    // A header longer than the packet, and a packet longer than the frame.
    let (mut ihl, mut total) = (udp.clone(), udp.clone());
    ihl[0] = 0x4f;
    total[2..4].fill(0xff);
    let mut tcp = Vec::new();
    v4().tcp(1, 2, 3, 4).write(&mut tcp, &[]).expect("a vector takes everything");
    let mut offset = tcp.clone();
    offset[32] = 0xf0;
    packets.extend([udp, ihl, total, tcp, offset].map(|packet| (0x0800, packet)));
    let mut v6 = Vec::new();
    etherparse::PacketBuilder::ipv6([0x20; 16], [0x21; 16], 4)
        .udp(1, 2)
        .write(&mut v6, &[8; 30])
        .expect("a vector takes everything");
    // A chain of hop-by-hop headers without an end.
    let mut chain = v6.clone();
    chain[6] = 0;
    chain[40..].fill(0);
    packets.extend([v6, chain].map(|packet| (0x86dd, packet)));
    packets.iter().map(|(kind, packet)| ethernet(ALL, mac(3), &[], *kind, packet)).collect()
}

fn lives(daemon: &Daemon) -> Result<()> {
    daemon.ctl("status")?.ok()?;
    daemon.pid().map(drop)
}

#[test]
fn bad_frames_are_forwarded_or_dropped_by_name() -> Result<()> {
    need!(
        "bad_frames_are_forwarded_or_dropped_by_name",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let off = "storm-limit = \"off\"\nmax-fdb = \"off\"";
    let tap = format!("{off}\nmtu = {BIG}");
    let mut lab = Lab::start(
        &[("br0", "")],
        &[("tap", Kind::Tap, "br0", &tap), ("sink", Kind::Veth, "br0", off)],
    )?;
    // The sink takes everything there is.
    for (netns, device) in [(&lab.host, "sinks"), (&lab.ends, "sink")] {
        netns.ip(&format!("link set {device} mtu 65535"))?;
    }
    let held = Held::new(&lab.host, "held", BIG)?;
    let add = "port add held --type netdev --device held --bridge br0 --storm-limit off";
    lab.daemon.ctl(add)?.ok()?;
    lab.daemon.wait_healthy()?;
    vswitch_e2e::until(SOON, "the sink's MTU to be seen", || {
        let mtu = &lab.daemon.ctl_json("port show sink")?["items"][0]["mtu"];
        Ok((*mtu == 65_535).then_some(()))
    })?;

    for stripped in [true, false] {
        let ends = lab.capture(&["sink"])?;
        let before = lab.drained()?;
        let mut expected = Vec::new();
        let mut drops = std::collections::BTreeMap::<&str, u64>::new();
        for (n, frame) in frames().into_iter().enumerate() {
            let fate = fate(&frame, stripped);
            let sent = if stripped {
                let sent = held.send(&frame).is_ok();
                lab.count_sent(u64::from(fate != Fate::Kernel));
                sent
            } else if fate == Fate::Kernel {
                ensure!(lab.send("tap", &frame).is_err(), "{} bytes were sent", frame.len());
                false
            } else {
                lab.send("tap", &frame)?;
                true
            };
            ensure!(sent || fate == Fate::Kernel, "the kernel refused {frame:02x?}");
            match fate {
                Fate::Kernel => {}
                Fate::Drop(reason) => *drops.entry(reason).or_default() += 1,
                Fate::Forward => expected.push(frame),
            }
            if n % 32 == 0 {
                lab.drained()?;
            }
        }
        let last = ethernet(ALL, mac(9), &[], 0x88b5, b"<last>");
        if stripped {
            held.send(&last)?;
            lab.count_sent(1);
        } else {
            lab.send("tap", &last)?;
        }
        expected.push(last);
        ends.wait(&["sink"], b"<last>")?;
        // As the kernel does at the far end.
        expected.retain(|frame| !half_a_tag(frame));
        let got = ends.stop()?.remove("sink").unwrap_or_default();
        if let Some(n) = (0..expected.len()).find(|n| got.get(*n) != expected.get(*n)) {
            let cut = |frame: Option<&Vec<u8>>| {
                frame.map(|frame| (frame.len(), frame[..frame.len().min(64)].to_vec()))
            };
            anyhow::bail!(
                "stripped {stripped}: frame {n} of {}: got {:02x?}, not {:02x?}",
                expected.len(),
                cut(got.get(n)),
                cut(expected.get(n))
            );
        }
        ensure!(got.len() == expected.len(), "{} came, not {}", got.len(), expected.len());

        let books = lab.check()?;
        for (reason, count) in drops {
            let new = books.dropped(reason) - before.dropped(reason);
            ensure!(new == count, "{new} drops for {reason}, not {count}");
        }
        println!("stripped {stripped}: {} forwarded", expected.len());
        // Thousands of sources fill the table, of which status warns.
        lab.daemon.ctl("fdb flush")?.ok()?;
        lives(&lab.daemon)?;
    }
    lab.finish()?;
    Ok(())
}
