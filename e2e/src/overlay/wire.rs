//! What a host sends into the underlay, as tshark reads it: a decoder nobody here wrote.

use anyhow::{Context, Result, bail, ensure};

use super::checks::TCP_PORT;
use super::tunnel::{Protocol, Tunnel};
use super::underlay::{Family, Site, Underlay};
use crate::capture::Capture;

/// A capture at the hub's end of one host's cable: all that the host sends.
#[derive(Debug)]
pub struct Wire {
    capture: Capture,
    tunnel: Tunnel,
}

impl Wire {
    /// Starts capturing what `site` sends of `tunnel`'s protocol, port and family.
    ///
    /// # Errors
    /// tcpdump failed, or the hub is in a guest.
    pub fn start(underlay: &Underlay, site: &Site, tunnel: &Tunnel) -> Result<Self> {
        // Later fragments have no UDP header and must be seen as well.
        let (ip, fragment) = match tunnel.family {
            Family::V4 => ("ip", "ip[6:2] & 0x3fff != 0"),
            Family::V6 => ("ip6", "ip6 proto 44"),
        };
        let filter = match tunnel.port {
            0 => format!("{ip} proto gre or {fragment}"),
            port => format!("{ip} and udp dst port {port} or {fragment}"),
        };
        let capture = Capture::start(underlay.hub().netns()?, &site.port, &filter)?;
        Ok(Self { capture, tunnel: tunnel.clone() })
    }

    /// The frames so far.
    ///
    /// # Errors
    /// The capture's file cannot be read.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        self.capture.frames()
    }

    /// The capture itself, for what is not offered here.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// Decodes everything once. Fails unless there are frames, all of them are of the tunnel's
    /// protocol, none is a fragment, and tshark finds nothing malformed, no expert's error and no
    /// wrong checksum, outside and inside. The answer holds the values of `fields`, named as
    /// tshark has them, such as `vxlan.vni`, `gre.key` or `ip.dsfield`.
    ///
    /// # Errors
    /// A frame is wrong (the message holds a line for each such), or tshark does not know a field.
    pub fn check(&self, fields: &[&str]) -> Result<Decoded> {
        let all: Vec<&str> = PROOFS.iter().chain(fields).copied().collect();
        let rows = self.decode(&all)?;
        ensure!(!rows.is_empty(), "nothing was captured");
        let wanted = format!(":{}:eth", self.protocol());
        let mut flaws = Vec::new();
        for row in &rows {
            let (proofs, _) = row.split_at_checked(PROOFS.len()).context("a row cut short")?;
            if let Some(flaw) = flaw(proofs, &wanted) {
                flaws.push(format!("{flaw}: {}", proofs.join(" ")));
            }
        }
        if !flaws.is_empty() {
            let count = flaws.len();
            flaws.truncate(12);
            let total = rows.len();
            bail!("{count} of {total} frames are wrong:\n{PROOFS:?}\n{}", flaws.join("\n"));
        }
        let names = fields.iter().map(|&f| f.to_owned()).collect();
        let rows = rows.into_iter().map(|row| row[PROOFS.len()..].to_vec()).collect();
        Ok(Decoded { names, rows })
    }

    fn protocol(&self) -> &'static str {
        match self.tunnel.protocol {
            Protocol::Vxlan => "vxlan",
            Protocol::Geneve => "geneve",
            Protocol::Gre | Protocol::GreKeyless | Protocol::Nvgre => "gre",
        }
    }

    /// A row a frame, with the value of each field.
    fn decode(&self, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut words = vec!["-n", "-T", "fields", "-E", "separator=/t"];
        // What tshark leaves unverified by default.
        for check in
            ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"]
        {
            words.extend(["-o", check]);
        }
        let port = format!("udp.port=={},{}", self.tunnel.port, self.protocol());
        if self.tunnel.port != 0 {
            words.extend(["-d", &port]);
        }
        // The bytes of a test are not to be taken for some protocol.
        let data = format!("tcp.port=={TCP_PORT},data");
        words.extend(["-d", &data]);
        words.extend(fields.iter().flat_map(|field| ["-e", field]));
        let output = self.capture.tshark(&words).context("decoding what was captured")?;
        Ok(output.stdout.lines().map(|l| l.split('\t').map(str::to_owned).collect()).collect())
    }
}

/// What [`Wire::check`] looks at in each frame. A field that a frame has twice shows both values,
/// outer first, split by a comma.
const PROOFS: [&str; 13] = [
    "frame.number",
    "frame.protocols",
    "_ws.malformed",
    "_ws.expert.severity",
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
    "tcp.checksum",
    "ip.flags.mf",
    "ip.frag_offset",
    "ipv6.fraghdr.nxt",
];

/// Why a frame is wrong.
fn flaw(proofs: &[String], wanted: &str) -> Option<&'static str> {
    /// PI_ERROR of epan/proto.h.
    const ERROR: u32 = 0x80_0000;
    /// PROTO_CHECKSUM_E_BAD.
    const BAD: &str = "0";
    let [_, protocols, malformed, severity, sums @ .., tcp, more, offset, six] = proofs else {
        return Some("no frame");
    };
    let has = |values: &str, bad: &dyn Fn(&str) -> bool| values.split(',').any(bad);
    // The kernel writes a sum of zero as ffff, also for TCP (`skb_checksum_help`): equal in ones'
    // complement, and wrong to tshark.
    let wrong_tcp = tcp != "0xffff";
    if !protocols.contains(wanted) {
        Some("another protocol")
    } else if !malformed.is_empty() {
        Some("malformed")
    } else if has(severity, &|s| s.parse().is_ok_and(|s: u32| s >= ERROR)) && wrong_tcp {
        Some("an expert's error")
    } else if sums.iter().enumerate().any(|(i, s)| has(s, &|s| s == BAD) && (i != 2 || wrong_tcp)) {
        Some("a wrong checksum")
    } else if has(more, &|m| m == "1")
        || has(offset, &|o| !matches!(o, "" | "0"))
        || !six.is_empty()
    {
        Some("a fragment")
    } else {
        None
    }
}

/// What tshark read in the frames of a [`Wire`].
#[derive(Clone, Debug)]
pub struct Decoded {
    names: Vec<String>,
    /// A row a frame, with the fields in the order they were asked for; empty where a frame lacks
    /// one, and outer and inner value split by a comma where it has both.
    pub rows: Vec<Vec<String>>,
}

impl Decoded {
    /// The different values of a field, sorted; of frames that have it twice, the first one, which
    /// is the outer one if the outer header has such a field at all.
    ///
    /// # Errors
    /// It was not asked for.
    pub fn values(&self, field: &str) -> Result<Vec<String>> {
        let place = self.names.iter().position(|n| n == field);
        let place = place.with_context(|| format!("{field} was not decoded"))?;
        let first = |row: &Vec<String>| Some(row.get(place)?.split(',').next()?.to_owned());
        let mut values: Vec<String> = self.rows.iter().filter_map(first).collect();
        values.sort();
        values.dedup();
        Ok(values)
    }

    /// Fails unless a field that is a number, shown as decimal or hexadecimal, is `number` in all
    /// frames.
    ///
    /// # Errors
    /// It is another somewhere, or was not asked for.
    pub fn same(&self, field: &str, number: u32) -> Result<()> {
        let values = self.values(field)?;
        let parse = |text: &String| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        ensure!(
            values.len() == 1 && values.first().and_then(parse) == Some(number),
            "{field} is {values:?}, not {number}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::flaw;

    #[test]
    fn flaws_are_found() {
        let good = [
            "1",
            "eth:ip:udp:vxlan:eth:ip:tcp",
            "",
            "2097152",
            "1,1",
            "2",
            "1",
            "",
            "",
            "0x1234",
            "0,0",
            "0,0",
            "",
        ];
        let of = |place: usize, value: &str| {
            let mut proofs = good.map(str::to_owned);
            proofs[place] = value.to_owned();
            flaw(&proofs, ":vxlan:eth")
        };
        assert_eq!(of(0, "2"), None);
        assert_eq!(of(1, "eth:ip:udp:data"), Some("another protocol"));
        assert_eq!(of(2, "1"), Some("malformed"));
        assert_eq!(of(3, "2097152,8388608"), Some("an expert's error"));
        for (place, sums) in [(4, "1,0"), (5, "0"), (6, "0"), (7, "0"), (8, "0")] {
            assert_eq!(of(place, sums), Some("a wrong checksum"));
        }
        assert_eq!(of(10, "1,0"), Some("a fragment"));
        assert_eq!(of(11, "1480"), Some("a fragment"));
        assert_eq!(of(12, "17"), Some("a fragment"));
    }
}
