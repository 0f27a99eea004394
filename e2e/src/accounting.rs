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
    pub missed_rx: u64,
    pub lost_after_tx: u64,
    /// FDB entries on the port.
    pub fdb: u64,
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
        let count = |group: &str, key: &str| {
            let value = item[group][key].as_u64();
            value.with_context(|| format!("the counter {group}.{key} is missing in {item}"))
        };
        let mut drops = BTreeMap::new();
        for drop in item["drops"].as_array().context("no drops")? {
            let reason = drop["reason"].as_str().context("a drop without a reason")?;
            let frames = drop["frames"].as_u64().context("a drop without frames")?;
            drops.insert(reason.to_owned(), frames);
        }
        drops.retain(|_, frames| *frames > 0);
        Ok(Self {
            rx_frames: count("counters", "rx-frames")?,
            tx_frames: count("counters", "tx-frames")?,
            fdb: count("counters", "fdb")?,
            missed_rx: count("counters", "missed-rx")?,
            lost_after_tx: count("counters", "lost-after-tx")?,
            copied: count("inside", "copied")?,
            originated: count("inside", "originated")?,
            consumed: count("inside", "consumed")?,
            forwarded: count("inside", "forwarded")?,
            offered: count("inside", "offered")?,
            drops,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(sent: u64) -> Value {
        serde_json::json!({ "items": [{
            "name": "a",
            "counters": { "rx-frames": 10, "rx-bytes": 600, "tx-frames": sent, "tx-bytes": 1,
                          "drops": 3, "missed-rx": 0, "lost-after-tx": 0, "fdb": 2 },
            "inside": { "copied": 2, "originated": 0, "consumed": 1, "forwarded": 8, "offered": 8 },
            "drops": [{ "reason": "runt", "frames": 3 }, { "reason": "giant", "frames": 0 }],
        }] })
    }

    #[test]
    fn books_that_balance_and_books_that_do_not() -> Result<()> {
        let books = Accounting::parse(&stats(8))?;
        books.check()?;
        assert_eq!((books.dropped("runt"), books.dropped_in_all()), (3, 3));
        assert_eq!(books.port("a")?.drops.len(), 1);
        assert!(Accounting::parse(&stats(7))?.check().is_err());
        assert!(Accounting::parse(&serde_json::json!({ "items": [{ "name": "a" }] })).is_err());
        Ok(())
    }
}
