//! What comes from the underlay and must not: each packet ends as a named drop, none of it reaches
//! a tenant, and the next good one passes.

use anyhow::{Context, Result, ensure};
use vswitch_e2e::accounting::Accounting;
use vswitch_e2e::capture::Capture;
use vswitch_e2e::overlay::{
    Family, Ground, Peer, Protocol, Site, Switch, Tenant, Tunnel, Underlay,
};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Host, until};

use crate::packets::{EXPERIMENT, IP, Wire, call, congested, header, mend};
use crate::rig::{SOON, dropped_since, finish, skipped, tunnel_counter};

/// The number of all three networks: in each protocol it is another one.
const ID: u32 = 100;
/// What bad packets carry.
const BAD: &[u8] = b"must not get through";

const PROTOCOLS: [Protocol; 3] = [Protocol::Vxlan, Protocol::Geneve, Protocol::Gre];

/// A switch with one tunnel of each protocol to one remote, which is what is sent from.
struct Siege {
    ours: Switch,
    tenants: Vec<Tenant>,
    captures: Vec<Capture>,
    wire: Wire,
    remote: Site,
    /// Good frames so far.
    good: u32,
    _underlay: Underlay,
}

impl Siege {
    fn new(family: Family) -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let mut ours = Switch::new(underlay.site("ours")?)?;
        let remote = underlay.site("remote")?;
        remote.take_addresses(&remote.device)?;
        let (mut tenants, mut captures) = (Vec::new(), Vec::new());
        for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
            let tunnel = Tunnel::new(protocol, ID, family);
            ours.join(&tunnel, &[remote.address(family)])?;
            let tenant = ours.tenant(&tunnel, n as u8 + 1)?;
            // Length first: a look beyond a short frame's end ends the filter with a no.
            let filter = format!("less 60 or ether proto {EXPERIMENT:#x} or udp");
            captures.push(Capture::start(tenant.space.netns()?, &tenant.device, &filter)?);
            tenants.push(tenant);
        }
        remote.reaches(ours.site())?;
        let (src, dst) = (remote.address(family), ours.site().address(family));
        let wire = Wire::new(&remote, src, ours.site(), dst)?;
        Ok(Self { ours, tenants, captures, wire, remote, good: 0, _underlay: underlay })
    }

    /// A good frame still gets through to the tenant of a protocol, once, and to no other.
    fn good(&mut self, protocol: Protocol) -> Result<()> {
        self.good += 1;
        let mark = format!("good frame {:06}", self.good);
        let inner = call(1000 + self.good, mark.as_bytes());
        self.wire.tunnel(protocol, ID, &inner)?;
        let holds = |f: &[u8]| f.windows(mark.len()).any(|w| w == mark.as_bytes());
        for (capture, its) in self.captures.iter().zip(PROTOCOLS) {
            if its == protocol {
                let frames = capture.wait_for(1, holds)?;
                ensure!(frames.iter().filter(|f| holds(f)).count() == 1, "more than once");
            } else {
                ensure!(!capture.frames()?.iter().any(|f| holds(f)), "{its:?} has it, too");
            }
        }
        Ok(())
    }

    /// A bad packet of a protocol is dropped for that reason, and the next good one passes.
    fn bad(&mut self, protocol: Protocol, what: &str, frame: &[u8], reason: &str) -> Result<()> {
        let before = self.ours.daemon()?.accounting()?;
        self.wire.send(frame)?;
        dropped_since(&mut self.ours, &before, reason, 1).with_context(|| what.to_owned())?;
        self.good(protocol).with_context(|| format!("after: {what}"))
    }

    /// The same for what is in a tunnel's packet: `payload` follows the UDP or IP header.
    fn bad_payload(
        &mut self,
        protocol: Protocol,
        what: &str,
        payload: &[u8],
        reason: &str,
    ) -> Result<()> {
        let frame = self.wire.packet(protocol, payload)?;
        self.bad(protocol, what, &frame, reason)
    }

    /// The kernel drops a packet, which its counter of that name tells, and we never see it.
    fn kernel(&mut self, what: &str, frame: &[u8], counter: &str) -> Result<()> {
        let counted = |ours: &Switch| -> Result<u64> {
            // Zeros, too, and without remembering what was asked before.
            let shown = ours.site().space.sh(&format!("nstat -asz {counter}"))?.ok()?.stdout;
            let line = shown.lines().find(|l| l.starts_with(counter));
            let value = line.and_then(|l| l.split_whitespace().nth(1)).context("no counter")?;
            Ok(value.parse()?)
        };
        let before = counted(&self.ours)?;
        let books = self.seen()?;
        self.wire.send(frame)?;
        until(SOON, &format!("{counter} after {what}"), || {
            Ok((counted(&self.ours)? == before + 1).then_some(()))
        })?;
        self.good(Protocol::Vxlan).with_context(|| format!("after: {what}"))?;
        ensure!(self.seen()? == books + 1, "{what}: more than the good packet came");
        Ok(())
    }

    /// How many packets the VTEPs have received.
    fn seen(&mut self) -> Result<u64> {
        let books = self.ours.daemon()?.settle()?;
        Ok(books.ports.iter().filter(|(n, _)| n.starts_with('v')).map(|(_, p)| p.rx_frames).sum())
    }

    /// Nothing bad got through, and the books balance.
    fn end(self) -> Result<()> {
        for capture in self.captures {
            let leaked = capture.stop()?;
            let leaked = leaked.iter().filter(|f| f.windows(BAD.len()).any(|w| w == BAD));
            let leaked: Vec<_> = leaked.collect();
            ensure!(leaked.is_empty(), "got through: {leaked:02x?}");
        }
        finish(self.ours)
    }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn bad_packets_over_ipv4() -> Result<()> {
    if skipped("bad_packets_over_ipv4") {
        return Ok(());
    }
    bad_packets(Family::V4)
}

#[test]
fn bad_packets_over_ipv6() -> Result<()> {
    if skipped("bad_packets_over_ipv6") {
        return Ok(());
    }
    bad_packets(Family::V6)
}

fn bad_packets(family: Family) -> Result<()> {
    let mut siege = Siege::new(family)?;
    for protocol in PROTOCOLS {
        siege.good(protocol)?;
        common_rows(&mut siege, protocol)?;
    }
    vxlan_rows(&mut siege)?;
    geneve_rows(&mut siege)?;
    gre_rows(&mut siege)?;
    kernel_rows(&mut siege, family)?;
    siege.end()
}

/// What is bad in every protocol.
fn common_rows(siege: &mut Siege, protocol: Protocol) -> Result<()> {
    let head = header(protocol, ID);
    let inner = call(1, BAD);
    let name = format!("{protocol:?}");
    for len in [0, 1, 13] {
        let what = format!("{name} with {len} bytes inside");
        siege.bad_payload(protocol, &what, &join(&[&head, &inner[..len]]), "inner-runt")?;
    }
    // A whole Ethernet header is a frame, whatever follows. These claim to be IPv4, and the outer
    // packet met congestion: there is no field to mark, and nothing is read beyond the end.
    let port = PROTOCOLS.iter().position(|p| *p == protocol).context("which")?;
    for len in [14, 15, 33] {
        let short = ethernet([0xff; 6], mac(1 + len as u32), &[], 0x0800, &[0x45; 40]);
        let payload = join(&[&head, &short[..len]]);
        let frame = siege.wire.packet(protocol, &payload)?;
        siege.wire.send(&congested(frame))?;
        siege.captures[port]
            .wait_for(1, |f| f.get(..len) == Some(&short[..len]))
            .with_context(|| format!("{name} with {len} bytes inside"))?;
        siege.good(protocol)?;
    }
    for cut in 0..head.len() {
        let what = format!("{name} header of {cut} bytes");
        siege.bad_payload(protocol, &what, &head[..cut], "tunnel-header")?;
    }
    let foreign = join(&[&header(protocol, ID + 1), &inner]);
    siege.bad_payload(protocol, &format!("{name} of another VNI"), &foreign, "tunnel-unknown")?;
    let good = join(&[&head, &inner]);
    let src = siege.wire.src;
    siege.wire.src = match src {
        std::net::IpAddr::V4(_) => "192.0.2.77".parse()?,
        std::net::IpAddr::V6(_) => "2001:db8::77".parse()?,
    };
    let stranger = siege.wire.packet(protocol, &good)?;
    siege.wire.src = src;
    siege.bad(protocol, &format!("{name} of a stranger"), &stranger, "tunnel-peer")?;
    let tagged = ethernet([0xff; 6], mac(1), &[(0x8100, 5)], EXPERIMENT, BAD);
    siege.bad_payload(protocol, &format!("{name} tag"), &join(&[&head, &tagged]), "inner-tag")?;
    let builder = etherparse::PacketBuilder::ethernet2(mac(1), [0xff; 6]);
    let mut ip = Vec::new();
    builder.ipv4([198, 51, 100, 9], [198, 51, 100, 255], 9).udp(1, 9).write(&mut ip, BAD)?;
    let marked = congested(siege.wire.packet(protocol, &join(&[&head, &ip]))?);
    siege.bad(protocol, &format!("{name} that met congestion"), &marked, "ecn-dropped")
}

fn vxlan_rows(siege: &mut Siege) -> Result<()> {
    let inner = call(1, BAD);
    let mut head = header(Protocol::Vxlan, ID);
    head[0] = 0xf7;
    let frame = join(&[&head, &inner]);
    siege.bad_payload(Protocol::Vxlan, "VXLAN without the I flag", &frame, "tunnel-header")?;
    // Reserved bits are ignored (RFC 7348, section 5).
    siege.good += 1;
    let mark = b"reserved bits";
    let frame = join(&[&[0xff; 4], &head[4..7], &[0xff], &call(2, mark)]);
    siege.wire.send(&siege.wire.packet(Protocol::Vxlan, &frame)?)?;
    siege.captures[0].wait_for(1, |f| f.windows(mark.len()).any(|w| w == mark))?;
    Ok(())
}

fn geneve_rows(siege: &mut Siege) -> Result<()> {
    const GENEVE: Protocol = Protocol::Geneve;
    let inner = call(1, BAD);
    let [a, b, c] = [0, 0, ID as u8];
    let head = |first: u8, flags: u8, kind: [u8; 2]| [first, flags, kind[0], kind[1], a, b, c, 0];
    let teb = [0x65, 0x58];
    let option = |kind: u8, words: u8| [0x01, 0x02, kind, words];
    let plain = [0xaa; 8];
    let rows: [(&str, Vec<u8>, &str); 10] = [
        ("version 1", join(&[&head(0x40, 0, teb), &inner]), "tunnel-header"),
        ("version 3", join(&[&head(0xc0, 0, teb), &inner]), "tunnel-header"),
        // 63 words of options in a packet that has fewer bytes.
        ("options past the end", join(&[&head(63, 0, teb), &inner]), "tunnel-header"),
        // The very frame of CVE-2023-3966: one word of options, whose option claims three more.
        ("a corrupted option", join(&[&head(1, 0, teb), &[0, 0, 0, 3], &inner]), "geneve-options"),
        (
            "an option that leaves a rest of four bytes too few",
            join(&[&head(3, 0, teb), &option(1, 1), &plain[..4], &option(1, 1), &inner]),
            "geneve-options",
        ),
        (
            "a critical option nobody knows, behind one that is not critical",
            join(&[&head(3, 0x40, teb), &option(1, 1), &plain[..4], &option(0x81, 0), &inner]),
            "geneve-critical",
        ),
        (
            "a critical option without the C flag",
            join(&[&head(1, 0, teb), &option(0x81, 0), &inner]),
            "geneve-critical",
        ),
        ("a control packet", join(&[&head(0, 0x80, teb), &inner]), "geneve-control"),
        ("IPv4 inside", join(&[&head(0, 0, [8, 0]), &inner]), "tunnel-protocol"),
        ("IPv6 inside", join(&[&head(0, 0, [0x86, 0xdd]), &inner]), "tunnel-protocol"),
    ];
    for (what, payload, reason) in rows {
        siege.bad_payload(GENEVE, &format!("GENEVE: {what}"), &payload, reason)?;
    }
    // What is unknown and not critical is skipped, also as much as there can be.
    let mark = b"after the options";
    let mut options = Vec::new();
    for _ in 0..63 {
        options.extend(option(0x01, 0));
    }
    let payload = join(&[&head(63, 0, teb), &options, &call(3, mark)]);
    siege.wire.send(&siege.wire.packet(GENEVE, &payload)?)?;
    siege.captures[1].wait_for(1, |f| f.windows(mark.len()).any(|w| w == mark))?;
    Ok(())
}

fn gre_rows(siege: &mut Siege) -> Result<()> {
    const GRE: Protocol = Protocol::Gre;
    let inner = call(1, BAD);
    let key = ID.to_be_bytes();
    let rows: [(&str, Vec<u8>, &str); 7] = [
        ("routing bit", join(&[&[0x60, 0, 0x65, 0x58], &key, &inner]), "tunnel-header"),
        ("version 1", join(&[&[0x20, 1, 0x65, 0x58], &key, &inner]), "tunnel-header"),
        ("bit 5", join(&[&[0x24, 0, 0x65, 0x58], &key, &inner]), "tunnel-header"),
        ("IPv4 inside", join(&[&[0x20, 0, 8, 0], &key, &inner]), "tunnel-protocol"),
        ("no key", join(&[&[0, 0, 0x65, 0x58], &inner]), "tunnel-unknown"),
        ("key 0", join(&[&[0x20, 0, 0x65, 0x58], &[0; 4], &inner]), "tunnel-unknown"),
        (
            "wrong checksum",
            join(&[&[0xa0, 0, 0x65, 0x58, 0xde, 0xad, 0, 0], &key, &inner]),
            "gre-checksum",
        ),
    ];
    for (what, payload, reason) in rows {
        siege.bad_payload(GRE, &format!("GRE: {what}"), &payload, reason)?;
    }
    Ok(())
}

/// What the kernel decides: it never reaches the switch.
fn kernel_rows(siege: &mut Siege, family: Family) -> Result<()> {
    let payload = join(&[&header(Protocol::Vxlan, ID), &call(1, BAD)]);
    let good = siege.wire.udp(4789, &payload)?;
    let udp = IP + if family == Family::V4 { 20 } else { 40 };
    let mut wrong = good.clone();
    wrong[udp + 6] ^= 0x55;
    let counter = if family == Family::V4 { "UdpInCsumErrors" } else { "Udp6InCsumErrors" };
    siege.kernel("a wrong UDP checksum", &wrong, counter)?;
    if family == Family::V6 {
        let mut none = good.clone();
        none[udp + 6..udp + 8].fill(0);
        siege.kernel("no UDP checksum over IPv6", &none, counter)?;
        return Ok(());
    }
    let mut fragment = good;
    fragment[IP + 6] = 0x20;
    mend(&mut fragment);
    siege.kernel("a first fragment, alone", &fragment, "IpReasmReqds")?;
    fragment[IP + 6] = 0;
    fragment[IP + 7] = 100;
    mend(&mut fragment);
    siege.kernel("a later fragment, alone", &fragment, "IpReasmReqds")
}

/// A packet of the tunnel that a tenant sends, and one in a packet of the tunnel: payload.
#[test]
fn encapsulation_is_looked_into_once() -> Result<()> {
    if skipped("encapsulation_is_looked_into_once") {
        return Ok(());
    }
    let mut siege = Siege::new(Family::V4)?;
    let own = siege.ours.site().v4;
    let remote = siege.remote.v4;
    let secret = b"two levels deep";
    let tunnel = Tunnel::new(Protocol::Vxlan, ID, Family::V4);
    let other = siege.ours.tenant(&tunnel, 9)?;
    let at_other = Capture::start(other.space.netns()?, &other.device, "udp")?;
    let packet = |from: [u8; 6], to: [u8; 6]| -> Result<Vec<u8>> {
        let vxlan = join(&[&header(Protocol::Vxlan, ID), &call(1, secret)]);
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(from, to)
            .ipv4(remote.octets(), own.octets(), 9)
            .udp(50_000, 4789)
            .write(&mut frame, &vxlan)?;
        Ok(frame)
    };
    let at = |f: &[u8]| f.windows(secret.len()).position(|w| w == secret);
    // From a tenant, as if the remote had sent it: its neighbour gets the packet as it is.
    let tap =
        vswitch_e2e::raw::Sender::open(siege.tenants[0].space.netns()?, &siege.tenants[0].device)?;
    let before = tunnel_counter(&siege.ours, "tun0", "rx-frames")?;
    let frame = packet(mac(0x77), [0xff; 6])?;
    tap.send(&frame)?;
    let frames = at_other.wait_for(1, |f| at(f).is_some())?;
    ensure!(frames.contains(&frame), "changed: {frames:02x?}");
    // From the remote, in a tunnel: opened once.
    let frame = packet(mac(0x78), [0xff; 6])?;
    siege.wire.tunnel(Protocol::Vxlan, ID, &frame)?;
    let frames = at_other.wait_for(2, |f| at(f).is_some())?;
    ensure!(frames.contains(&frame), "changed: {frames:02x?}");
    ensure!(frames.iter().filter(|f| at(f).is_some()).count() == 2, "copies: {frames:02x?}");
    let after = tunnel_counter(&siege.ours, "tun0", "rx-frames")?;
    ensure!(after == before + 1, "{} packets were opened, not one", after - before);
    siege.end()
}

/// What is learned in one network says nothing about another.
#[test]
fn learning_stays_in_its_network() -> Result<()> {
    if skipped("learning_stays_in_its_network") {
        return Ok(());
    }
    let mut siege = Siege::new(Family::V4)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, ID + 1, Family::V4);
    siege.ours.join(&tunnel, &[siege.remote.v4.into()])?;
    let entries = |ours: &Switch, bridge: &str| -> Result<String> {
        Ok(ours.ctl(&format!("fdb show --bridge {bridge}"))?.ok()?.stdout)
    };
    let victim = &siege.tenants[0];
    victim.space.sh(&format!("ping -n -c 1 -W 0.1 {}", crate::packets::NOWHERE))?;
    until(SOON, "the tenant to be learned", || {
        Ok(entries(&siege.ours, "br0")?.contains(&victim.mac()).then_some(()))
    })?;
    // The same address, in the other network and in all other protocols.
    let bytes: Vec<u8> =
        victim.mac().split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    let own: [u8; 6] = bytes.try_into().ok().context("a MAC address")?;
    let claim = ethernet([0xff; 6], own, &[], EXPERIMENT, b"it is mine");
    siege.wire.tunnel(Protocol::Vxlan, ID + 1, &claim)?;
    siege.wire.tunnel(Protocol::Geneve, ID, &claim)?;
    siege.wire.tunnel(Protocol::Gre, ID, &claim)?;
    let remote = siege.remote.v4.to_string();
    for bridge in ["br1", "br2", "br3"] {
        until(SOON, "the claim to be learned where it was made", || {
            let shown = entries(&siege.ours, bridge)?;
            let line = shown.lines().find(|l| l.contains(&siege.tenants[0].mac()));
            Ok(line.is_some_and(|l| l.contains(&remote)).then_some(()))
        })?;
    }
    let shown = entries(&siege.ours, "br0")?;
    let line = shown.lines().find(|l| l.contains(&siege.tenants[0].mac()));
    ensure!(line.is_some_and(|l| l.contains("p0-1")), "moved across networks: {shown}");
    // In the same network a remote may claim it, unless the address is said to stay.
    let victim = siege.tenants[0].mac();
    siege.ours.ctl(&format!("fdb add {victim} --port p0-1"))?.ok()?;
    siege.wire.tunnel(Protocol::Vxlan, ID, &claim)?;
    siege.good(Protocol::Vxlan)?;
    let shown = entries(&siege.ours, "br0")?;
    let line = shown.lines().find(|l| l.contains(&victim));
    ensure!(line.is_some_and(|l| l.contains("p0-1")), "a static address was moved: {shown}");
    // The same VNI on another UDP port is another network.
    let base = Tunnel::new(Protocol::Vxlan, ID, Family::V4);
    siege.ours.join(&Tunnel { port: 8472, ..base }, &[siege.remote.v4.into()])?;
    let payload = join(&[&header(Protocol::Vxlan, ID), &call(0x55, BAD)]);
    siege.wire.send(&siege.wire.udp(8472, &payload)?)?;
    until(SOON, "the station to be learned there", || {
        Ok(entries(&siege.ours, "br4")?.contains("02:00:00:00:00:55").then_some(()))
    })?;
    ensure!(!entries(&siege.ours, "br0")?.contains("02:00:00:00:00:55"), "both ports are one");
    siege.good(Protocol::Vxlan)?;
    siege.end()
}

/// An address that is claimed by a remote and by a port in turn is held where it is, which is told.
#[test]
fn a_storm_of_moves_is_damped() -> Result<()> {
    if skipped("a_storm_of_moves_is_damped") {
        return Ok(());
    }
    let mut siege = Siege::new(Family::V4)?;
    let (netns, device) = (siege.tenants[0].space.netns()?, &siege.tenants[0].device);
    let tap = vswitch_e2e::raw::Sender::open(netns, device)?;
    let frame = call(0x99, b"here, no there");
    let held = |ours: &Switch| -> Result<Option<String>> {
        let shown = ours.ctl("event")?.ok()?.stdout;
        Ok(shown.lines().find(|l| l.contains("keeps moving between")).map(str::to_owned))
    };
    let event = until(SOON, "the address to be held", || {
        siege.wire.tunnel(Protocol::Vxlan, ID, &frame)?;
        tap.send(&frame)?;
        held(&siege.ours)
    })?;
    ensure!(event.contains("tun0") && event.contains("p0-1"), "{event}");
    let shown = siege.ours.ctl("fdb show --bridge br0")?.ok()?.stdout;
    let line = shown.lines().find(|l| l.contains("02:00:00:00:00:99")).context("no entry")?;
    ensure!(line.contains("sticky"), "{shown}");
    // It stays there, whatever comes.
    let words = |line: &str| line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>();
    let before = words(line);
    for _ in 0..20 {
        siege.wire.tunnel(Protocol::Vxlan, ID, &frame)?;
        tap.send(&frame)?;
    }
    siege.good(Protocol::Vxlan)?;
    let shown = siege.ours.ctl("fdb show --bridge br0")?.ok()?.stdout;
    let line = shown.lines().find(|l| l.contains("02:00:00:00:00:99")).context("no entry")?;
    ensure!(words(line) == before, "{before:?} became {line}");
    siege.ours.daemon()?.allow("keeps moving");
    siege.end()
}

/// The route to the remote leads back into the overlay: one turn, counted, and then silence.
#[test]
fn a_route_into_the_overlay() -> Result<()> {
    if skipped("a_route_into_the_overlay") {
        return Ok(());
    }
    let mut siege = Siege::new(Family::V4)?;
    let remote = siege.remote.v4;
    siege.ours.ctl("port add inside --type tap --bridge br0 --storm-limit off")?.ok()?;
    let host = &siege.ours.site().space;
    host.sh(&format!(
        "set -e; ip link set inside up; ip addr add 198.51.100.200/24 dev inside; \
         ip route add {remote}/32 dev inside"
    ))?
    .ok()?;
    // The kernel asks the overlay for the remote's address, which is asked in the overlay …
    let (netns, device) = (siege.tenants[0].space.netns()?, &siege.tenants[0].device);
    let tap = vswitch_e2e::raw::Sender::open(netns, device)?;
    let packets = |siege: &mut Siege| -> Result<u64> {
        Ok(siege.ours.daemon()?.accounting()?.port("v4")?.tx_frames)
    };
    let before = packets(&mut siege)?;
    tap.send(&call(1, b"who has the remote?"))?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let asked = packets(&mut siege)? - before;
    ensure!((1..50).contains(&asked), "one frame became {asked} packets");
    // … and with a neighbour that is known packets leave at once.
    let known = "lladdr 02:00:00:00:77:77 dev inside nud permanent";
    let host = &siege.ours.site().space;
    host.ip(&format!("neigh replace {remote} {known}"))?;
    let before = siege.ours.daemon()?.settle()?;
    const SENT: u64 = 100;
    for _ in 0..SENT {
        tap.send(&call(1, b"round and round"))?;
    }
    let looped = |books: &Accounting| books.dropped("tunnel-loop") - before.dropped("tunnel-loop");
    until(SOON, "the loop to be counted", || {
        let books = siege.ours.daemon()?.accounting()?;
        Ok((looped(&books) >= SENT).then_some(()))
    })?;
    let books = siege.ours.daemon()?.settle()?;
    books.check()?;
    // Each frame goes out once and comes back once. What else the host says there is little.
    let vtep = |books: &Accounting| -> Result<u64> { Ok(books.port("v4")?.tx_frames) };
    let sent = vtep(&books)? - vtep(&before)?;
    ensure!((SENT..SENT + 50).contains(&sent), "{SENT} frames became {sent} packets");
    // Nothing goes on by itself.
    let ticks = cpu_ticks(siege.ours.daemon()?.pid()?)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let later = siege.ours.daemon()?.accounting()?;
    println!(
        "CPU ticks of vswitchd in the second after the loop: {}",
        cpu_ticks(siege.ours.daemon()?.pid()?)? - ticks
    );
    let more = vtep(&later)? - vtep(&books)?;
    ensure!(more < 10, "{more} packets in a second after the last frame");
    // The route mended, the next good frame passes.
    siege.ours.site().space.sh("ip link set inside down")?.ok()?;
    siege.good(Protocol::Vxlan)?;
    siege.end()
}

/// User and system time of a process, in clock ticks (proc(5), fields 14 and 15).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("no name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()?)
}
