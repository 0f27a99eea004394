//! The harness itself, proved without the switch: two Linux stacks or a guest, wired directly.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::raw::{Sender, ethernet, mac};
use vswitch_e2e::{Guest, GuestSpec, Host, Iperf, Need, Netns, Nic, iperf3, need, ping};

/// Two namespaces with a veth pair between them.
fn pair() -> Result<(Netns, Netns)> {
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    a.ip(&format!("link add va type veth peer name vb netns {}", b.name()))?;
    // Nothing but what a test sends: no router solicitations, no duplicate address detection.
    for (netns, device) in [(&a, "va"), (&b, "vb")] {
        netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?.ok()?;
        netns.ip(&format!("link set {device} up"))?;
    }
    Ok((a, b))
}

#[test]
fn raw_frames_arrive_with_their_tags() -> Result<()> {
    need!(
        "raw_frames_arrive_with_their_tags",
        Need::Root,
        Need::Program("tcpdump", "tcpdump"),
        Need::Program("tshark", "tshark")
    );
    let (a, b) = pair()?;
    let capture = Capture::start(&b, "vb", "")?;
    let sender = Sender::open(&a, "va")?;
    let tags = [(0x88a8, 5), (0x8100, 0x6007)];
    let sent: Vec<Vec<u8>> = (0..3)
        .map(|n| ethernet([0xff; 6], mac(n), &tags[..n as usize], 0x88b5, b"payload"))
        .collect();
    for frame in &sent {
        sender.send(frame)?;
    }
    let arrived = capture.wait_for(3, |f| f[6..8] == [2, 0])?;
    assert_eq!(arrived, sent);
    let decoded = capture.tshark(&["-T", "fields", "-e", "vlan.id", "-Y", "vlan"])?;
    assert_eq!(decoded.stdout.lines().last(), Some("7"), "{decoded}");
    assert_eq!(capture.stop()?, sent);
    Ok(())
}

#[test]
fn a_namespace_is_gone_after_its_drop() -> Result<()> {
    need!("a_namespace_is_gone_after_its_drop", Need::Root);
    let netns = Netns::new("gone")?;
    let name = netns.name().to_owned();
    let listed = || Ok::<_, anyhow::Error>(vswitch_e2e::run("ip netns list")?.stdout);
    ensure!(listed()?.contains(&name));
    drop(netns);
    ensure!(!listed()?.contains(&name));
    Ok(())
}

#[test]
fn a_guest_boots_answers_and_talks() -> Result<()> {
    if let Some(why) = vswitch_e2e::missing(Need::GUEST) {
        vswitch_e2e::skip("a_guest_boots_answers_and_talks", why);
        return Ok(());
    }
    let host = Netns::new("host")?;
    let nic = Nic::new("vt0", "52:54:00:00:00:01", &["192.0.2.2/24", "2001:db8::2/64"]);
    let second = Nic { mtu: 1400, ..Nic::new("vt1", "52:54:00:00:00:02", &[]) };
    let mut spec = GuestSpec::new("guest", vec![nic, second]);
    spec.netns = Some(host.name().to_owned());
    let mut guest = Guest::boot(spec)?;

    let said = guest.run("echo out; echo err >&2; exit 3")?;
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (3, "out\n", "err\n"));
    let big = guest.run("head -c 100000 /dev/zero | tr '\\0' x")?.ok()?;
    assert_eq!(big.stdout.len(), 100_000);
    assert_eq!(guest.sh_for("sleep 30", Duration::from_secs(1))?.code, 124);
    assert_eq!(guest.run("cat /sys/class/net/eth1/mtu")?.stdout.trim(), "1400");
    // Debian's kernel brings what the one under the tests may lack.
    guest.run("ip link add br0 type bridge vlan_filtering 1 && ip link add link br0 name v type vlan id 5")?.ok()?;
    guest.run("ip link add vx type vxlan id 1 dstport 4789 local 192.0.2.2")?.ok()?;
    guest.run("ip link add gn type geneve id 1 remote 192.0.2.1")?.ok()?;
    guest.run("ip link add gr type gretap key 1 local 192.0.2.2 remote 192.0.2.1")?.ok()?;
    guest
        .run("bridge vlan show && ip netns add x && ip link add p0 type veth peer name p1")?
        .ok()?;

    host.addr("vt0", "192.0.2.1/24")?;
    host.ip("link set vt0 up")?;
    assert_eq!(ping(&host, "192.0.2.2", 3)?.received, 3);
    assert_eq!(ping(&guest, "192.0.2.1", 3)?.received, 3);
    let Iperf { sent_bytes, received_bytes, .. } = iperf3(&host, "192.0.2.2", "-n 1M")?;
    assert!(sent_bytes >= 1 << 20 && received_bytes > 0, "{sent_bytes} {received_bytes}");

    guest.freeze()?;
    assert_eq!(ping(&host, "192.0.2.2", 1)?.received, 0);
    guest.thaw()?;
    assert_eq!(guest.run("echo back")?.ok()?.stdout, "back\n");
    Ok(())
}
