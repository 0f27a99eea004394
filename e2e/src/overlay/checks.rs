//! What must hold between any two tenants of one network, whoever the peers are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::tenant::{self, Tenant};
use super::underlay::Family;
use crate::command::{Cmd, Host, until, until_ok};

/// How long a first answer may take: both underlay and overlay look neighbours up.
const SOON: Duration = Duration::from_secs(20);

/// Where [`tcp`] sends to: nobody's registered port.
pub const TCP_PORT: u16 = 49_999;

/// IPv4 or ICMPv6 header and ICMP echo header, bytes.
const HEADERS: [(bool, u32); 2] = [(false, 20 + 8), (true, 40 + 8)];

/// All checks of a pair, in both directions.
///
/// # Errors
/// The first that does not hold.
pub fn pair(a: &Tenant, b: &Tenant) -> Result<()> {
    reach(a, b)?;
    small(a, b)?;
    largest(a, b)?;
    for (from, to) in [(a, b), (b, a)] {
        let found = too_large(from, to)?;
        ensure!(found.iter().all(|f| *f != TooLarge::Silence), "{}: {found:?}", from.space.label());
        tcp(from, to, &to.v4(), 1 << 20)?;
        tcp(from, to, &to.v6(), 1 << 18)?;
        broadcast(from, &[to])?;
    }
    Ok(())
}

/// Waits until `a` reaches `b` over IPv4 and IPv6: before, frames may be lost to look-ups.
///
/// # Errors
/// It does not in 20 s.
pub fn reach(a: &Tenant, b: &Tenant) -> Result<()> {
    for to in [b.v4(), b.v6()] {
        until_ok(SOON, &format!("{} to reach {to}", a.space.label()), || {
            a.space.sh(&format!("ping -n -c 1 -W 1 {to}"))?.ok()
        })?;
    }
    Ok(())
}

/// Three pings with 64 bytes of payload, all answered, by IPv4 and IPv6.
///
/// # Errors
/// One is not answered.
pub fn small(a: &Tenant, b: &Tenant) -> Result<()> {
    for to in [b.v4(), b.v6()] {
        a.space.sh(&format!("ping -n -c 3 -i 0.1 -W 5 -s 64 {to}"))?.ok()?;
    }
    Ok(())
}

/// A ping and its answer of exactly the tenant's MTU, not to be fragmented.
///
/// # Errors
/// It is not answered.
pub fn largest(a: &Tenant, b: &Tenant) -> Result<()> {
    for (six, headers) in HEADERS {
        let to = if six { b.v6() } else { b.v4() };
        let size = a.mtu - headers;
        a.space.sh(&format!("ping -n -c 2 -i 0.1 -W 5 -M do -s {size} {to}"))?.ok()?;
    }
    Ok(())
}

/// What comes of a packet that is too large and must not be fragmented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TooLarge {
    /// The sender's own stack says so, with the MTU it knows.
    Local(u32),
    /// An ICMP message from `from` (fragmentation needed, or packet too big).
    Icmp {
        /// Who says so.
        from: String,
        /// The MTU it names.
        mtu: u32,
    },
    /// An answer: it was not too large.
    Answered,
    /// Nothing: a black hole.
    Silence,
}

/// Sends one byte more than `a`'s MTU by IPv4 and IPv6.
///
/// # Errors
/// Ping cannot be run, or says what is not understood.
pub fn too_large(a: &Tenant, b: &Tenant) -> Result<[TooLarge; 2]> {
    Ok([of_size(a, &b.v4(), a.mtu + 1)?, of_size(a, &b.v6(), a.mtu + 1)?])
}

/// Sends one packet of `bytes`, the IP header included, that must not be fragmented, to `to`.
///
/// # Errors
/// As [`too_large`].
pub fn of_size(a: &Tenant, to: &str, bytes: u32) -> Result<TooLarge> {
    let six = to.contains(':');
    let headers = HEADERS.iter().find(|(v6, _)| *v6 == six).map_or(0, |(_, bytes)| *bytes);
    let size = bytes.checked_sub(headers).context("smaller than its headers")?;
    // Silence must be sure; anything else is an answer soon. Ping waits even after an error.
    let mut found = TooLarge::Silence;
    for wait in [0.2, 5.0] {
        let output = a.space.sh(&format!("ping -n -c 1 -W {wait} -M do -s {size} {to}"))?;
        found = outcome(&format!("{}\n{}", output.stdout, output.stderr))
            .with_context(|| format!("ping is not understood: {output}"))?;
        if found != TooLarge::Silence {
            break;
        }
    }
    Ok(found)
}

fn outcome(text: &str) -> Option<TooLarge> {
    // "mtu=1450", "mtu: 1450", "(mtu = 1450)": it depends on message and version.
    let mtu = |line: &str| -> Option<u32> {
        let digits = line.split("mtu").nth(1)?.trim_start_matches(|c: char| !c.is_ascii_digit());
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    for line in text.lines() {
        // "ping: local error: message too long, mtu=1450"
        if line.contains("local error") || line.contains("Message too long") {
            return Some(TooLarge::Local(mtu(line)?));
        }
        // "From 198.51.100.2 icmp_seq=1 Frag needed and DF set (mtu = 1400)"
        // "From 2001:db8:1::2 icmp_seq=1 Packet too big: mtu=1400"
        if line.contains("Frag needed") || line.contains("Packet too big") {
            let from = line.strip_prefix("From ")?.split_whitespace().next()?.to_owned();
            return Some(TooLarge::Icmp { from, mtu: mtu(line)? });
        }
    }
    let received = text.lines().find(|l| l.contains("transmitted"))?.split(',').nth(1)?;
    Some(if received.trim().starts_with('0') { TooLarge::Silence } else { TooLarge::Answered })
}

/// Copies `bytes` over TCP to `address` of `b`, and compares what arrives: each byte depends on
/// its place.
///
/// # Errors
/// It differs, is incomplete, or takes longer than a minute.
pub fn tcp(a: &Tenant, b: &Tenant, address: &str, bytes: u64) -> Result<()> {
    let data = format!("seq 1000000 9999999 | head -c {bytes}");
    let sum = Cmd::new("sh").args(["-c", &format!("{data} | sha256sum")]).run()?.ok()?.stdout;
    // busybox's nc stops at the end of its input or of the connection, whichever is first: a named
    // pipe that it holds open itself never ends.
    let server = b.space.start(&format!(
        "pipe=$(mktemp -u); mkfifo $pipe; \
         timeout 60 busybox nc -l -p {TCP_PORT} 0<>$pipe | sha256sum; rm $pipe"
    ))?;
    // In /proc/net/tcp6, by which a dual-stack socket is shown, as ss is not in every guest.
    let listens = format!("grep -qi ':{TCP_PORT:04x} 0*:0000 0A' /proc/net/tcp6");
    until_ok(SOON, "nc to listen", || b.space.sh(&listens)?.ok())?;
    a.space
        .sh(&format!("{data} | timeout 50 busybox nc {address} {TCP_PORT}"))?
        .ok()
        .with_context(|| format!("{bytes} bytes over TCP to {address}"))?;
    let arrived = server.finish(Duration::from_secs(60))?;
    ensure!(
        arrived == sum,
        "{bytes} bytes over TCP to {address} arrived changed: {arrived} not {sum}"
    );
    Ok(())
}

/// Broadcast and multicast from `from` reach each of `others` exactly once: a broadcast ARP
/// request for each, three pings to the IPv4 broadcast address and three to all IPv6 nodes.
///
/// # Errors
/// One does not get it, or more than once: a copy too many was sent.
pub fn broadcast(from: &Tenant, others: &[&Tenant]) -> Result<()> {
    let device = &from.device;
    for other in others {
        let to = other.v4();
        let asked = from.space.sh(&format!("busybox arping -b -f -w 5 -I {device} {to}"))?;
        ensure!(asked.stdout.contains("Received 1 response(s)"), "{asked}");
    }
    let all_four = format!("ping -n -b -c 3 -i 0.1 -W 1 {}", tenant::v4(255));
    let all_six = format!("ping -n -c 3 -i 0.1 -W 1 -I {device} ff02::1");
    for (command, family) in [(all_four, Family::V4), (all_six, Family::V6)] {
        let counted = || -> Result<Vec<u64>> {
            others.iter().map(|other| echo_requests(other, family)).collect()
        };
        let before = counted()?;
        // Its own stack answers, too, so that the exit code says nothing.
        from.space.sh(&command)?;
        let arrived = until(SOON, &format!("`{command}` to arrive everywhere"), || {
            let new: Vec<u64> = counted()?.iter().zip(&before).map(|(a, b)| a - b).collect();
            Ok(new.iter().all(|&n| n >= 3).then_some(new))
        })?;
        ensure!(
            arrived.iter().all(|&n| n == 3),
            "`{command}` arrived more than once: {arrived:?} of 3 at each other"
        );
    }
    Ok(())
}

/// How many echo requests its stack has received.
fn echo_requests(tenant: &Tenant, family: Family) -> Result<u64> {
    if family == Family::V6 {
        let text = tenant.space.sh("cat /proc/net/snmp6")?.ok()?.stdout;
        let line = text.lines().find_map(|l| l.strip_prefix("Icmp6InEchos"));
        return Ok(line.context("no such counter")?.trim().parse()?);
    }
    // A line of names and a line of values, "Icmp:" before both.
    let text = tenant.space.sh("grep ^Icmp: /proc/net/snmp")?.ok()?.stdout;
    let mut lines = text.lines().map(str::split_whitespace);
    let (names, mut values) = (lines.next().context("no names")?, lines.next().context("none")?);
    let place = names.into_iter().position(|n| n == "InEchos").context("no such counter")?;
    Ok(values.nth(place).context("no value")?.parse()?)
}

/// The addresses of `from` move to the device of `to`, and back. `watcher` reaches them before,
/// between and after. `to` has its own addresses again at the end.
///
/// # Errors
/// They are not reached.
pub fn moves(from: &Tenant, to: &Tenant, watcher: &Tenant) -> Result<()> {
    reach(watcher, from)?;
    from.leave()?;
    to.assume(from.number())?;
    reach(watcher, from).context("after the move")?;
    to.leave()?;
    from.assume(from.number())?;
    reach(watcher, from).context("after the move back")?;
    to.assume(to.number())?;
    reach(watcher, to).context("who lent its place")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_ping() {
        let local = "ping: local error: message too long, mtu=1450\n\
                     1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        assert_eq!(outcome(local), Some(TooLarge::Local(1450)));
        let four = "From 198.51.100.2 icmp_seq=1 Frag needed and DF set (mtu = 1400)\n";
        let icmp = |from: &str| Some(TooLarge::Icmp { from: from.to_owned(), mtu: 1400 });
        assert_eq!(outcome(four), icmp("198.51.100.2"));
        assert_eq!(
            outcome("From 2001:db8:1::2 icmp_seq=1 Packet too big: mtu=1400\n"),
            icmp("2001:db8:1::2")
        );
        let silence = "1 packets transmitted, 0 received, 100% packet loss, time 0ms\n";
        assert_eq!(outcome(silence), Some(TooLarge::Silence));
        let answer = "1 packets transmitted, 1 received, 0% packet loss, time 0ms\n";
        assert_eq!(outcome(answer), Some(TooLarge::Answered));
        assert_eq!(outcome("ping: unknown host"), None);
    }
}
