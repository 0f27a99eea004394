//! The switch and a Linux host, and what is asked of the switch in several tests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::accounting::Accounting;
use vswitch_e2e::overlay::{Ground, Linux, Peer, Switch, Tunnel, Underlay, Wire};
use vswitch_e2e::{Need, until};

/// How long anything that is not a timer of the switch may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Whether the test cannot run here, which is said.
pub(crate) fn skipped(test: &str) -> bool {
    crate::lab::skipped(test, &[Need::Tun, Need::Binaries])
}

/// The switch, a Linux host with the kernel's VXLAN device, and what is between them.
#[derive(Debug)]
pub(crate) struct Rig {
    // Dropped in this order: a daemon before the namespace it runs in.
    pub(crate) ours: Switch,
    pub(crate) linux: Linux,
    pub(crate) underlay: Underlay,
}

impl Rig {
    pub(crate) fn new() -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let ours = Switch::new(underlay.site("ours")?)?;
        let linux = Linux::new(underlay.site("linux")?)?;
        Ok(Self { ours, linux, underlay })
    }

    /// What the switch sends of a tunnel.
    pub(crate) fn wire(&self, tunnel: &Tunnel) -> Result<Wire> {
        Wire::start(&self.underlay, self.ours.site(), tunnel)
    }
}

/// What `vswitch-ctl tunnel show NAME` says, as JSON.
pub(crate) fn tunnel_show(switch: &Switch, name: &str) -> Result<Value> {
    let shown = switch.ctl(&format!("-o json tunnel show {name}"))?.ok()?.json()?;
    let item = shown["items"].get(0).cloned();
    item.with_context(|| format!("no tunnel in {shown}"))
}

/// A counter of a tunnel, such as `rx-frames`.
pub(crate) fn tunnel_counter(switch: &Switch, name: &str, counter: &str) -> Result<u64> {
    let shown = tunnel_show(switch, name)?;
    shown["counters"][counter].as_u64().with_context(|| format!("no {counter} in {shown}"))
}

/// Waits until a switch has dropped `count` frames more for a reason than `before`; all counters.
pub(crate) fn dropped_since(
    switch: &mut Switch,
    before: &Accounting,
    reason: &str,
    count: u64,
) -> Result<Accounting> {
    let daemon = switch.daemon()?;
    let want = before.dropped(reason) + count;
    let now = until(SOON, &format!("{count} drops for {reason}"), || {
        let now = daemon.accounting()?;
        Ok((now.dropped(reason) >= want).then_some(now))
    });
    let now = now.with_context(|| format!("{:#?}", daemon.accounting()))?;
    ensure!(now.dropped(reason) == want, "{} for {reason}, not {want}", now.dropped(reason));
    Ok(now)
}

/// Ends a test: no frame is lost sight of, and the log holds no warning.
pub(crate) fn finish(mut switch: Switch) -> Result<()> {
    let daemon = switch.daemon()?;
    daemon.settle()?.check()?;
    switch.stop()
}
