//! The switch and the devices of Debian's kernel in a QEMU guest: geneve and gretap, which a test
//! machine's own kernel may lack; and over an encrypted underlay, inside such a guest.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vswitch_e2e::overlay::{
    Family, GeneveOption, Ground, Linux, Peer, Protection, Protocol, Switch, Tenant, Tunnel,
    Underlay, checks, connect,
};
use vswitch_e2e::{Host, Need, size, until_ok};

use crate::lab::{all_checks, told};
use crate::mirror::{INDEX, SESSION, mirror};
use crate::rig::{SOON, finish, skipped};

/// The kernel's geneve, gretap and ip6gretap devices.
#[test]
fn a_guests_kernel() -> Result<()> {
    let test = "a_guests_kernel";
    if skipped(test) || crate::lab::skipped(test, Need::GUEST) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut ours = Switch::new(underlay.site("ours")?)?;
    let mut guest = Linux::new(underlay.guest("guest", &[])?)?;
    // Linux skips an option that it does not know.
    let options = vec![GeneveOption { class: 0x0102, kind: 0x42, data: vec![1, 2, 3, 4] }];
    let geneve = Tunnel { options, ..Tunnel::new(Protocol::Geneve, 0xab_cdef, Family::V4) };
    let mut tunnels = vec![
        geneve,
        Tunnel::new(Protocol::Gre, 0xfedc_ba98, Family::V6),
        Tunnel::new(Protocol::Geneve, 77, Family::V6),
        Tunnel::new(Protocol::Gre, 77, Family::V4),
        Tunnel::new(Protocol::GreKeyless, 0, Family::V6),
    ];
    // An emulated machine takes its time.
    tunnels.truncate(size(2, 5) as usize);
    let mut tenants = Vec::new();
    for tunnel in tunnels {
        let id = tunnel.protocol.id_field();
        let data = "geneve.option.unknown.data";
        let (seen, four) = all_checks(&underlay, &tunnel, &mut ours, &mut guest, &[id, data])
            .with_context(|| format!("{tunnel:?}"))?;
        tenants.extend(four);
        if tunnel.protocol != Protocol::GreKeyless {
            seen.same(id, tunnel.id)?;
        }
        let sent = seen.values(data)?;
        ensure!(tunnel.options.is_empty() || sent == ["01020304"], "options: {sent:?}");
    }
    takes_copies(&ours, &guest, &tenants)?;
    finish(ours)
}

/// Its ERSPAN device takes copies, which it would not of another session, index or order.
fn takes_copies(ours: &Switch, guest: &Linux, tenants: &[Tenant]) -> Result<()> {
    const COPIES: u32 = 3;
    let (local, remote) = (guest.site().v4, ours.site().v4);
    guest.site().space.sh(&format!(
        "set -e; ip link add copies type erspan seq key {SESSION} local {local} remote {remote} \
         erspan_ver 1 erspan {INDEX}; ip link set copies up"
    ))?
    .ok()?;
    // Tenants come in fours, of which the first two were connected.
    let [a, b, ..] = tenants else { anyhow::bail!("no tenants") };
    mirror(ours, local.into())?;
    b.space.sh(&format!("ping -n -c {COPIES} -i 0.2 {}", a.v4()))?.ok()?;
    until_ok(SOON, "the copies", || {
        let read = "cat /sys/class/net/copies/statistics/rx_packets";
        let count = guest.site().space.sh(read)?.ok()?.stdout;
        ensure!(count.trim() == COPIES.to_string(), "{count} of {COPIES}");
        Ok(())
    })
}

/// The switch in a guest and the kernel's own device in another namespace there, with WireGuard
/// and with IPsec between them: what the kernel's routes and policies say is so for tunnels.
#[test]
fn an_encrypted_underlay() -> Result<()> {
    const NEEDS: [Need; 2] =
        [Need::Program("wg", "wireguard-tools"), Need::Program("strip", "binutils")];
    let test = "an_encrypted_underlay";
    if skipped(test) || [Need::GUEST, &NEEDS].iter().any(|n| crate::lab::skipped(test, n)) {
        return Ok(());
    }
    let ground = Ground::boot("guest", &Switch::programs()?)?;
    let underlay = Underlay::new(&ground, 1500)?;
    // WireGuard leaves 1420 of 1500 bytes, ESP with AES-GCM 1466.
    let mut cases = vec![
        (Protection::WireGuard, Protocol::Vxlan, Family::V4, 1420 - 50),
        (Protection::Ipsec, Protocol::Geneve, Family::V6, 1466 - 70),
        (Protection::WireGuard, Protocol::Gre, Family::V6, 1420 - 62),
        (Protection::Ipsec, Protocol::Vxlan, Family::V4, 1466 - 50),
    ];
    cases.truncate(size(2, 4) as usize);
    for (protection, protocol, family, mtu) in cases {
        let tunnel = Tunnel::new(protocol, 9, family);
        encrypted(&underlay, protection, &tunnel, mtu)
            .with_context(|| format!("{protection:?} {tunnel:?}"))?;
    }
    Ok(())
}

fn encrypted(underlay: &Underlay, protection: Protection, tunnel: &Tunnel, mtu: u32) -> Result<()> {
    let (mut a, mut b) = (underlay.site("a")?, underlay.site("b")?);
    protection.between(&mut a, &mut b)?;
    // All that the switch's host sends and gets.
    let pcap = format!("/tmp/{}.pcap", a.port);
    let port = a.port.clone();
    let mut wire =
        underlay.hub().start(&format!("tcpdump -i {port} -n -U -Z root -s 200 -w {pcap}"))?;
    until_ok(SOON, "tcpdump to listen", || {
        let said = wire.printed()?;
        ensure!(said.contains("listening on"), "{said}");
        Ok(())
    })?;

    let (mut ours, mut linux) = (Switch::new(a)?, Linux::new(b)?);
    let tenants = connect(tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    ensure!(a.mtu == mtu, "{} bytes are left for tenants by reckoning", a.mtu);
    let before = protection.bytes(ours.site())?;
    checks::reach(a, b).with_context(|| ours.log().unwrap_or_default())?;
    checks::small(a, b)?;
    checks::largest(a, b)?;
    told(a, b)?;
    for (from, to) in [(a, b), (b, a)] {
        checks::broadcast(from, &[to])?;
    }
    checks::tcp(b, a, &a.v4(), 1 << 18)?;
    let bytes = protection.bytes(ours.site())? - before;
    ensure!(bytes > 3 << 18, "{bytes} bytes were encrypted, fewer than were sent");

    // The switch knows what is left, from the kernel.
    let row = &ours.ctl("-o json mtu show")?.ok()?.json()?["items"][0];
    ensure!(
        row["underlay-mtu"] == ours.site().mtu && row["inner-mtu"] == mtu,
        "`mtu show` says {row:#}"
    );
    let peer = &ours.ctl("-o json tunnel peers tun0")?.ok()?.json()?["items"][0];
    ensure!(peer["path-mtu"] == ours.site().mtu && peer["inner-mtu"] == mtu, "{peer:#}");
    let drops = ours.ctl("-o json tunnel show tun0")?.ok()?.json()?["items"][0]["drops"].clone();
    let told_of = |d: &serde_json::Value| d["reason"] == "tunnel-mtu";
    ensure!(drops.as_array().is_some_and(|d| d.iter().all(told_of)), "{drops:#}");
    ours.stop()?;

    wire.signal(Signal::SIGTERM)?;
    until_ok(SOON, "tcpdump to end", || wire.poll()?.context("it runs"))?;
    let count = |filter: &str| -> Result<u64> {
        let read =
            format!("tcpdump -n -Z root -r {pcap} '{filter}' >{pcap}.txt && wc -l <{pcap}.txt");
        Ok(underlay.hub().sh_for(&read, SOON)?.ok()?.stdout.trim().parse()?)
    };
    // Behind an IPv6 header, too, `proto` is what follows it.
    let plain = count("udp port 4789 or udp port 6081 or ip proto 47 or ip6 proto 47")?;
    let hidden = count("udp port 51820 or ip proto 50 or ip6 proto 50")?;
    ensure!(plain == 0 && hidden > 500, "{plain} packets in the clear, {hidden} encrypted");
    Ok(())
}
