//! TCP between real stacks, with their super-frames and unfinished checksums: what arrives is what
//! was sent, no stack finds a wrong checksum, and tshark finds nothing malformed.

use anyhow::{Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::streams;
use vswitch_e2e::{
    Daemon, DaemonSpec, Host, IperfServer, Need, Netns, iperf3, need, ping, size, until, until_ok,
};

use crate::lab::{Kind, SOON};

/// A station: name of port and device, kind of port, and what `ethtool -K` turns off at the end
/// and at the switch's side of the cable.
type Station = (&'static str, Kind, &'static str, &'static str);

const NOTHING: &str = "tx off rx off tso off gso off gro off";

struct Net {
    daemon: Daemon,
    _host: Netns,
    stations: Vec<(Netns, &'static str)>,
    /// Whether the last station gets frames that are cut and have their checksums.
    finished: bool,
}

impl Net {
    /// A switch with these stations, 192.0.2.1 and so on.
    fn start(stations: &[Station], mtu: u32) -> Result<Self> {
        let host = Netns::new("host")?;
        let mut text = String::from(
            "version = 1\n[daemon]\nmax-fdb-total = 4096\n[[bridge]]\nname = \"br0\"\n",
        );
        let mut ends = Vec::new();
        for (name, kind, ..) in stations {
            let end = Netns::new(name)?;
            let what = match kind {
                Kind::Tap => format!("type = \"tap\"\nnetns = \"{}\"\nmtu = {mtu}", end.name()),
                Kind::Veth => {
                    crate::lab::veth(&host, &end, name)?;
                    end.ip(&format!("link set {name} mtu {mtu}"))?;
                    format!("type = \"netdev\"\ndevice = \"{name}s\"\nmtu = {mtu}")
                }
            };
            text.push_str(&format!("[[port]]\nname = \"{name}\"\nbridge = \"br0\"\n{what}\n"));
            ends.push((end, *name));
        }
        let mut spec = DaemonSpec::new(&text);
        spec.netns = Some(host.name().to_owned());
        let daemon = spec.start()?;
        daemon.wait_healthy()?;
        for (n, ((end, name), (_, kind, off, off_inside))) in ends.iter().zip(stations).enumerate()
        {
            if !off.is_empty() {
                end.sh(&format!("ethtool -K {name} {off}"))?.ok()?;
            }
            if !off_inside.is_empty() && *kind == Kind::Veth {
                host.sh(&format!("ethtool -K {name}s {off_inside}"))?.ok()?;
            }
            end.addr(name, &format!("192.0.2.{}/24", n + 1))?;
            end.addr(name, &format!("2001:db8::{}/64", n + 1))?;
        }
        let finished = stations.last().is_some_and(|(.., inside)| !inside.is_empty());
        Ok(Self { daemon, _host: host, stations: ends, finished })
    }

    /// Sends data from the first station to the second and back, over IPv4 and IPv6.
    fn exchange(&mut self, mtu: u32) -> Result<()> {
        let [(a, _), (b, device)] = &self.stations[..] else { anyhow::bail!("two stations") };
        // The largest packet, whole.
        let largest = format!("ping -n -c 1 -W 5 -M do -s {} 192.0.2.2", mtu - 28);
        until_ok(SOON, "the largest packet", || a.sh(&largest)?.ok())?;
        ensure!(ping(a, "2001:db8::2", 3)?.received == 3);

        let capture = Capture::start(b, device, "")?;
        for (from, to, address) in [(a, b, "192.0.2.2"), (b, a, "192.0.2.1"), (a, b, "2001:db8::2")]
        {
            streams::tcp(from, to, address, size(4, 64) as usize * 1024 * 1024)?;
        }
        // Random bytes are not to be taken for some protocol.
        let decode = |filter: &str| {
            let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
            let data = format!("tcp.port=={},data", streams::PORT);
            let args = ["-d", &data, "-Y", filter];
            Ok::<_, anyhow::Error>(capture.tshark(&[&checks[..], &args].concat())?.stdout)
        };
        let none = |filter: &str| {
            let found = decode(filter)?;
            ensure!(found.is_empty(), "{filter}:\n{}", found.lines().next().unwrap_or_default());
            Ok(())
        };
        ensure!(decode("tcp")?.lines().count() > 20, "no traffic was captured");
        for wrong in ["_ws.malformed", "ip.checksum.status == 0", "eth.type == 0x86dd && !ipv6"] {
            none(wrong)?;
        }
        if self.finished {
            // Whoever cannot finish checksums or cut must not be left to do it.
            let large = format!("frame.len > {}", mtu + 14);
            // The kernel writes a sum of zero as ffff, also for TCP (`skb_checksum_help`): equal in
            // ones' complement, and wrong to tshark, in one of 65,536 frames.
            let unfinished = "tcp.checksum.status == 0 && tcp.checksum != 0xffff";
            for wrong in [unfinished, &large] {
                none(wrong)?;
            }
        }
        drop(capture);

        let server = IperfServer::start(b)?;
        let seconds = size(1, 10);
        for more in ["", "-R", "-6"] {
            let address = if more == "-6" { "2001:db8::2" } else { "192.0.2.2" };
            let ran = iperf3(a, address, &format!("-t {seconds} {more}"))?;
            ensure!(ran.received_bytes > 0, "{}", ran.json);
        }
        // Datagrams that a stack cuts by itself (UDP GSO is not asked for by iperf3).
        let udp = iperf3(a, "192.0.2.2", "-u -b 5M -n 500K -l 4000")?;
        ensure!(udp.sent_bytes > 0, "{}", udp.json);
        drop(server);

        for (end, _) in &self.stations {
            streams::nothing_was_wrong(end)?;
        }
        self.daemon.settle()?.check()?;
        self.daemon.stop()
    }
}

fn run(test: &str, stations: [Station; 2], mtu: u32) -> Result<()> {
    need!(
        test,
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump"),
        Need::Program("tshark", "tshark"),
        Need::Program("iperf3", "iperf3"),
        Need::Program("ethtool", "ethtool")
    );
    Net::start(&stations, mtu)?.exchange(mtu)
}

#[test]
fn tcp_between_taps() -> Result<()> {
    run("tcp_between_taps", [("ta", Kind::Tap, "", ""), ("tb", Kind::Tap, "", "")], 1500)
}

#[test]
fn tcp_between_taps_with_jumbo_frames() -> Result<()> {
    let test = "tcp_between_taps_with_jumbo_frames";
    run(test, [("ta", Kind::Tap, "", ""), ("tb", Kind::Tap, "", "")], 9000)
}

#[test]
fn tcp_between_netdevs() -> Result<()> {
    run("tcp_between_netdevs", [("va", Kind::Veth, "", ""), ("vb", Kind::Veth, "", "")], 1500)
}

#[test]
fn tcp_between_netdevs_with_jumbo_frames() -> Result<()> {
    let test = "tcp_between_netdevs_with_jumbo_frames";
    run(test, [("va", Kind::Veth, "", ""), ("vb", Kind::Veth, "", "")], 9000)
}

#[test]
fn tcp_from_a_tap_to_a_netdev_without_offloads() -> Result<()> {
    let test = "tcp_from_a_tap_to_a_netdev_without_offloads";
    run(test, [("ta", Kind::Tap, "", ""), ("vb", Kind::Veth, NOTHING, NOTHING)], 1500)
}

#[test]
fn tcp_from_a_tap_without_offloads_to_a_netdev() -> Result<()> {
    let test = "tcp_from_a_tap_without_offloads_to_a_netdev";
    run(test, [("ta", Kind::Tap, NOTHING, ""), ("vb", Kind::Veth, "", "")], 1500)
}

/// Linux hands out TCP frames over IPv6 of more than 64 KiB where it may (BIG TCP): they fit no
/// header of the devices here. What TCP sends again in smaller ones arrives.
#[test]
fn super_frames_over_64_kib_are_dropped_by_name() -> Result<()> {
    need!(
        "super_frames_over_64_kib_are_dropped_by_name",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("iperf3", "iperf3")
    );
    let stations = [("va", Kind::Veth, "", ""), ("tb", Kind::Tap, "", "")];
    let mut net = Net::start(&stations, 1500)?;
    let [(a, _), (b, _)] = &net.stations[..] else { anyhow::bail!("two stations") };
    ensure!(ping(a, "2001:db8::2", 3)?.received == 3);
    a.ip("link set va gso_max_size 185000 gro_max_size 185000")?;
    let server = IperfServer::start(b)?;
    let mut ran = 0;
    until(SOON, "a frame that is too large", || {
        ran += iperf3(a, "2001:db8::2", "-6 -n 20M")?.received_bytes;
        Ok((net.daemon.accounting()?.dropped("giant") > 0).then_some(()))
    })?;
    ensure!(ran > 0);
    drop(server);
    net.daemon.settle()?.check()?;
    net.daemon.stop()
}
