//! The equation that must hold at the end of every test: received + copied + originated =
//! sent + dropped + consumed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::daemon::Daemon;

/// What one port counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of switch_core::stats::PortCounters")]
pub struct PortCounts {
    pub rx_frames: u64,
    pub copied: u64,
    pub originated: u64,
    pub consumed: u64,
    pub forwarded: u64,
    pub offered: u64,
    pub tx_frames: u64,
    /// By the name of the [drop reason](https://docs.rs/switch-core), those above 0.
    pub drops: BTreeMap<String, u64>,
}

/// The counters of all ports at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// By port name.
    pub ports: BTreeMap<String, PortCounts>,
}

impl Accounting {
    /// Asks the daemon.
    ///
    /// # Errors
    /// It does not answer, or a counter is missing in what it says.
    pub fn read(daemon: &Daemon) -> Result<Self> {
        Self::parse(&daemon.ctl_json("port stats")?)
    }

    fn parse(stats: &Value) -> Result<Self> {
        let items = stats["items"].as_array().context("port stats: no items")?;
        let mut ports = BTreeMap::new();
        for item in items {
            let name = item["name"].as_str().context("port stats: no name")?;
            ports
                .insert(name.to_owned(), PortCounts::parse(item).with_context(|| name.to_owned())?);
        }
        Ok(Self { ports })
    }

    /// What `port` counted.
    ///
    /// # Errors
    /// No such port.
    pub fn port(&self, port: &str) -> Result<&PortCounts> {
        self.ports.get(port).with_context(|| format!("no port {port} in the counters"))
    }

    /// Frames dropped for `reason`, over all ports.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.ports.values().filter_map(|p| p.drops.get(reason)).sum()
    }

    /// Frames dropped for any reason, over all ports.
    pub fn dropped_in_all(&self) -> u64 {
        self.ports.values().flat_map(|p| p.drops.values()).sum()
    }

    /// Checks the equation over all ports. Only right when no frame is under way: see
    /// [`Daemon::settle`].
    ///
    /// # Errors
    /// A frame is unaccounted for; the message holds all counters.
    pub fn check(&self) -> Result<()> {
        let sum = |f: fn(&PortCounts) -> u64| self.ports.values().map(f).sum::<u64>();
        let got = sum(|p| p.rx_frames + p.copied + p.originated);
        let gone = sum(|p| p.tx_frames + p.consumed) + self.dropped_in_all();
        let (forwarded, offered) = (sum(|p| p.forwarded), sum(|p| p.offered));
        if got != gone || forwarded != offered {
            bail!(
                "the books do not balance: rx + copied + originated = {got}, \
                 tx + dropped + consumed = {gone}; forwarded {forwarded}, offered {offered}\n{self:#?}"
            );
        }
        Ok(())
    }
}

impl PortCounts {
    fn parse(item: &Value) -> Result<Self> {
        let count = |key: &str| {
            item[key]
                .as_u64()
                .or_else(|| item["counters"][key].as_u64())
                .with_context(|| format!("the counter {key} is missing in {item}"))
        };
        let mut drops = BTreeMap::new();
        if let Some(object) = item["drops"].as_object() {
            for (reason, n) in object {
                drops.insert(reason.clone(), n.as_u64().context("a drop counter is no number")?);
            }
        }
        drops.retain(|_, n| *n > 0);
        Ok(Self {
            rx_frames: count("rx_frames")?,
            copied: count("copied")?,
            originated: count("originated")?,
            consumed: count("consumed")?,
            forwarded: count("forwarded")?,
            offered: count("offered")?,
            tx_frames: count("tx_frames")?,
            drops,
        })
    }
}
