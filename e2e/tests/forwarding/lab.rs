//! What the tests of this directory stand on: a switch whose ports have one end each, all ends as
//! silent devices in one namespace, where frames are sent and captured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::accounting::Accounting;
use vswitch_e2e::capture::Capture;
use vswitch_e2e::raw::Sender;
use vswitch_e2e::{Daemon, DaemonSpec, Host, Netns, until};

/// How long anything that is not a timer of the switch may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What a port of the switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `tap` port, moved to the namespace of the ends.
    Tap,
    /// A `netdev` port on one side of a veth pair.
    Veth,
}

/// A port to be: name (the end's device is called the same), kind, bridge, further keys.
pub(crate) type Spec<'a> = (&'a str, Kind, &'a str, &'a str);

/// A namespace whose devices say nothing by themselves: no router solicitation, no MLD report.
pub(crate) fn silent(tag: &str) -> Result<Netns> {
    let netns = Netns::new(tag)?;
    netns
        .sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")?
        .ok()?;
    Ok(netns)
}

/// A veth pair: `NAMEs` in the switch's namespace and `NAME` in that of the ends, both up.
pub(crate) fn veth(host: &Netns, ends: &Netns, name: &str) -> Result<()> {
    host.ip(&format!("link add {name}s type veth peer name {name} netns {}", ends.name()))?;
    host.ip(&format!("link set {name}s up"))?;
    ends.ip(&format!("link set {name} up"))?;
    Ok(())
}

/// The configuration of these bridges (name and further keys) and ports.
pub(crate) fn config(bridges: &[(&str, &str)], ports: &[Spec<'_>], ends: &Netns) -> String {
    // A small table: a look at every place takes its time in a debug build.
    let mut text = String::from("version = 1\n[daemon]\nmax-fdb-total = 16384\n");
    for (name, keys) in bridges {
        text.push_str(&format!("[[bridge]]\nname = \"{name}\"\n{keys}\n"));
    }
    for (name, kind, bridge, keys) in ports {
        let what = match kind {
            Kind::Tap => format!("type = \"tap\"\nnetns = \"{}\"", ends.name()),
            Kind::Veth => format!("type = \"netdev\"\ndevice = \"{name}s\""),
        };
        text.push_str(&format!(
            "[[port]]\nname = \"{name}\"\nbridge = \"{bridge}\"\n{what}\n{keys}\n"
        ));
    }
    text
}

/// A running switch with its ends.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) daemon: Daemon,
    /// Where the switch runs.
    pub(crate) host: Netns,
    /// Where the ends are.
    pub(crate) ends: Netns,
    senders: BTreeMap<String, Sender>,
    sent: u64,
}

impl Lab {
    /// Starts a switch with these bridges and ports; all of them are up when this returns.
    pub(crate) fn start(bridges: &[(&str, &str)], ports: &[Spec<'_>]) -> Result<Self> {
        let (host, ends) = (silent("host")?, silent("ends")?);
        for (name, ..) in ports.iter().filter(|(_, kind, ..)| *kind == Kind::Veth) {
            veth(&host, &ends, name)?;
        }
        let mut spec = DaemonSpec::new(&config(bridges, ports, &ends));
        spec.netns = Some(host.name().to_owned());
        let daemon = spec.start()?;
        daemon.wait_healthy()?;
        let mut lab = Self { daemon, host, ends, senders: BTreeMap::new(), sent: 0 };
        for (name, ..) in ports {
            lab.open(name)?;
        }
        Ok(lab)
    }

    /// Makes the end `device` one that frames can be sent from.
    pub(crate) fn open(&mut self, device: &str) -> Result<()> {
        self.senders.insert(device.to_owned(), Sender::open(&self.ends, device)?);
        Ok(())
    }

    /// Sends a frame into the switch from the end of `port`.
    pub(crate) fn send(&mut self, port: &str, frame: &[u8]) -> Result<()> {
        self.senders.get(port).with_context(|| format!("no end {port}"))?.send(frame)?;
        self.sent += 1;
        Ok(())
    }

    /// Notes that `frames` were sent into the switch in another way than by [`Lab::send`].
    pub(crate) fn count_sent(&mut self, frames: u64) {
        self.sent += frames;
    }

    /// Captures what comes out at the end of each of `ports`.
    pub(crate) fn capture(&self, ports: &[&str]) -> Result<Ends> {
        Ends::start(&self.ends, ports)
    }

    /// Waits until the switch has taken in everything that was sent, and is done with it.
    pub(crate) fn drained(&self) -> Result<Accounting> {
        until(SOON, "the switch to take in what was sent", || {
            let books = self.daemon.accounting()?;
            let got: u64 = books.ports.values().map(|p| p.rx_frames).sum();
            Ok((got >= self.sent).then_some(()))
        })?;
        self.daemon.settle()
    }

    /// Drains, checks the books, and that nothing was lost beside them.
    pub(crate) fn check(&self) -> Result<Accounting> {
        let books = self.drained()?;
        books.check()?;
        for (name, port) in &books.ports {
            ensure!(port.missed_rx == 0, "port {name} missed frames: {books:#?}");
        }
        Ok(books)
    }

    /// The last check, and a clean end.
    pub(crate) fn finish(mut self) -> Result<Accounting> {
        let books = self.check()?;
        self.daemon.stop()?;
        Ok(books)
    }

    /// FDB entries as `MAC VLAN PORT TYPE`, sorted, of those that match `filter` (arguments of
    /// `fdb show`).
    pub(crate) fn fdb(&self, filter: &str) -> Result<Vec<String>> {
        let shown = self.daemon.ctl_json(&format!("fdb show {filter}"))?;
        let items = shown["items"].as_array().context("fdb show: no items")?;
        let word = |item: &serde_json::Value, key: &str| {
            let value = &item[key];
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        let mut lines: Vec<String> = items
            .iter()
            .map(|i| ["mac", "vlan", "port", "type"].map(|key| word(i, key)).join(" "))
            .collect();
        lines.sort();
        Ok(lines)
    }
}

/// Captures at several ends.
#[derive(Debug)]
pub(crate) struct Ends(BTreeMap<String, Capture>);

impl Ends {
    /// Starts them.
    pub(crate) fn start(netns: &Netns, ports: &[&str]) -> Result<Self> {
        let start = |port: &&str| Ok(((*port).to_owned(), Capture::start(netns, port, "")?));
        Ok(Self(ports.iter().map(start).collect::<Result<_>>()?))
    }

    /// Waits until a frame that holds `mark` came out at each of `ports`.
    pub(crate) fn wait(&self, ports: &[&str], mark: &[u8]) -> Result<()> {
        for port in ports {
            let capture = self.0.get(*port).with_context(|| format!("no capture at {port}"))?;
            capture
                .wait_for(1, |frame| holds(frame, mark))
                .with_context(|| format!("the frame {mark:?} at {port}"))?;
        }
        Ok(())
    }

    /// Stops them: everything that came out, by port.
    pub(crate) fn stop(self) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
        self.0.into_iter().map(|(port, capture)| Ok((port, capture.stop()?))).collect()
    }

    /// The capture at one end.
    pub(crate) fn at(&self, port: &str) -> Result<&Capture> {
        self.0.get(port).with_context(|| format!("no capture at {port}"))
    }
}

/// Whether `bytes` holds `mark`.
pub(crate) fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}
