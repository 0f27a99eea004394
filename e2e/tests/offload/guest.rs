//! TAPs that QEMU owns: bytes of a guest, whose NICs leave everything undone or nothing, to a TAP and
//! to a veth that do the same, and back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use vswitch_e2e::streams::{self, PORT};
use vswitch_e2e::{
    DaemonSpec, Guest, GuestSpec, Host, Need, Netns, Nic, ping, size, until, until_ok,
};

use crate::net::{NOTHING, SOON, set, skipped};

/// A NIC of virtio-net that takes and leaves whole frames.
const BARE_NIC: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,\
                        guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

#[test]
fn bytes_of_a_guest() -> Result<()> {
    let test = "bytes_of_a_guest";
    if skipped(test, Need::GUEST) {
        return Ok(());
    }
    let (host, near, far) = (Netns::new("host")?, Netns::new("n0")?, Netns::new("f0")?);
    host.ip(&format!("link add f0s up type veth peer name f0 netns {}", far.name()))?;
    let port = |name: &str, what: &str| {
        format!("[[port]]\nname = \"{name}\"\nbridge = \"br0\"\ntype = {what}\n")
    };
    let mut config = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    for (name, what) in [
        ("n0", format!("\"tap\"\nnetns = \"{}\"", near.name())),
        ("f0", "\"netdev\"\ndevice = \"f0s\"".to_owned()),
        ("vm0", "\"netdev\"\ndevice = \"vt0\"".to_owned()),
        ("vm1", "\"netdev\"\ndevice = \"vt1\"".to_owned()),
    ] {
        config += &port(name, &what);
    }
    let mut spec = DaemonSpec::new(&config);
    spec.netns = Some(host.name().to_owned());
    let mut daemon = spec.start()?;
    for (n, (end, device)) in [(&near, "n0"), (&far, "f0")].into_iter().enumerate() {
        end.addr(device, &format!("192.0.2.{}/24", n + 1))?;
        end.addr(device, &format!("198.51.100.{}/24", n + 1))?;
        end.ip(&format!("link set {device} up"))?;
    }
    set(&far, "f0", NOTHING)?;
    set(&host, "f0s", NOTHING)?;
    let bare = Nic {
        properties: BARE_NIC.to_owned(),
        ..Nic::new("vt1", "52:54:00:00:00:04", &["198.51.100.3/24"])
    };
    let full = Nic::new("vt0", "52:54:00:00:00:03", &["192.0.2.3/24"]);
    let mut spec = GuestSpec::new("offload", vec![full, bare]);
    spec.netns = Some(host.name().to_owned());
    let guest = Guest::boot(spec)?;
    // Both NICs are on one bridge: each answers for itself alone.
    guest.sh("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")?.ok()?;
    daemon.wait_healthy()?;

    for (address, net) in [([192, 0, 2, 3], "192.0.2"), ([198, 51, 100, 3], "198.51.100")] {
        for (end, n) in [(&near, 1), (&far, 2)] {
            let own = format!("{net}.{n}");
            let what = format!("between the guest's {net}.3 and {own}");
            until(SOON, "the guest to answer", || {
                Ok((ping(end, &format!("{net}.3"), 1)?.received > 0).then_some(()))
            })?;
            there_and_back(&guest, end, Ipv4Addr::from(address).into(), &own).context(what)?;
        }
    }
    streams::nothing_was_wrong(&near)?;
    streams::nothing_was_wrong(&far)?;
    daemon.settle()?.check()?;
    daemon.allow("vt0");
    daemon.allow("vt1");
    daemon.allow("vm0");
    daemon.allow("vm1");
    drop(guest);
    daemon.stop()
}

/// Sends random bytes to the guest, which sends them back.
fn there_and_back(guest: &Guest, end: &Netns, address: IpAddr, own: &str) -> Result<()> {
    let sent = streams::random(size(1, 16) as usize * 1024 * 1024)?;
    guest.sh(&format!("nc -l -p {PORT} >/tmp/in 2>/dev/null </dev/null &"))?.ok()?;
    let to = SocketAddr::new(address, PORT);
    let mut out = until_ok(SOON, "the guest to listen", || {
        end.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?))
    })?;
    out.set_write_timeout(Some(SOON))?;
    out.write_all(&sent).context("to the guest")?;
    drop(out);
    let there = format!("test \"$(stat -c %s /tmp/in)\" = {}", sent.len());
    until_ok(SOON, "the guest to have all bytes", || guest.sh(&there)?.ok())?;

    let own = SocketAddr::new(own.parse()?, PORT);
    let listener = end.enter(|| Ok(TcpListener::bind(own)?))?;
    let got = std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<Vec<u8>> {
            let (mut inward, _) = listener.accept()?;
            inward.set_read_timeout(Some(SOON))?;
            let mut got = Vec::new();
            inward.read_to_end(&mut got)?;
            Ok(got)
        });
        guest.sh(&format!("nc {} {PORT} </tmp/in", own.ip()))?.ok().context("back")?;
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })?;
    streams::same(&sent, &got)
}
