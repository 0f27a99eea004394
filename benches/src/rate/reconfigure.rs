//! Changes to a switch while it carries flows that have nothing to do with them: a port, a TAP device,
//! a VLAN and a tunnel come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vswitch_e2e::Daemon;
use vswitch_e2e::ovs::Ovs;

use super::sut::Running;
use super::trial::Trial;
use crate::dpdk::frames::REMOTE;

/// Changes a second.
pub const PACE: f64 = 10.0;
/// The device of the port that comes and goes: it gives no frames and takes all.
const DEVICE: &str = "net_null9,no-rx=1";
/// The VLAN that the TAP device is in, and the one that it is put into and taken out of.
const VLANS: (u16, u16) = (199, 200);
/// The tunnel's VNI.
const VNI: u32 = 4_000_000;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A port `x0` is added: a vdev of DPDK.
    AddPort,
    /// A port `x1` is added: a device for the kernel.
    AddTap,
    /// That one is put into a VLAN.
    AddVlan,
    /// A tunnel `x2` is added.
    AddTunnel,
    /// The tunnel is deleted.
    DelTunnel,
    /// The port is taken out of its VLAN.
    DelVlan,
    /// The port `x1` is deleted.
    DelTap,
    /// The port `x0` is deleted.
    DelPort,
}

/// All of them, in an order that leaves nothing behind.
pub const CYCLE: [Change; 8] = [
    Change::AddPort,
    Change::AddTap,
    Change::AddVlan,
    Change::AddTunnel,
    Change::DelTunnel,
    Change::DelVlan,
    Change::DelTap,
    Change::DelPort,
];

/// What was changed meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changed {
    /// How often.
    pub changes: u32,
    /// The longest time that a change took.
    pub slowest: Duration,
    /// The time of all of it.
    pub took: Duration,
}

/// Runs a trial while `change` is called [`PACE`] times a second, in a thread that has called `begin`
/// first; what was begun of [`CYCLE`] is ended behind it.
///
/// # Errors
/// The trial cannot be run, or a change failed.
pub fn during(
    trial: impl FnOnce() -> Result<Trial>,
    begin: impl FnOnce() -> Result<()> + Send,
    change: impl Fn(Change) -> Result<()> + Send,
) -> Result<(Trial, Changed)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            begin()?;
            all(&stop, change)
        });
        let trial = trial();
        stop.store(true, Ordering::Relaxed);
        let changed = changer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((trial?, changed?))
    })
}

/// Changes until told to stop, and to the end of the cycle.
fn all(stop: &AtomicBool, change: impl Fn(Change) -> Result<()>) -> Result<Changed> {
    let start = Instant::now();
    let mut changed = Changed::default();
    for step in CYCLE.into_iter().cycle() {
        let first = step == CYCLE[0];
        if first && changed.changes > 0 && stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        change(step).with_context(|| format!("change {}, {step:?}", changed.changes + 1))?;
        changed.slowest = changed.slowest.max(begun.elapsed());
        changed.changes += 1;
        let due = start + Duration::from_secs_f64(f64::from(changed.changes) / PACE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(Changed { took: start.elapsed(), ..changed })
}

impl Running {
    /// Makes a change, and waits until the switch has made it.
    ///
    /// # Errors
    /// The switch refuses it, or is not one that can be changed.
    pub fn change(&self, change: Change) -> Result<()> {
        match self {
            Self::Vswitchd(daemon) => vswitchd(daemon, change),
            Self::Ovs(ovs, _) => open_vswitch(ovs, change),
            Self::Bridge(_) | Self::Testpmd(..) | Self::Nothing => bail!("nobody knows how"),
        }
    }
}

/// By the API, as `vswitch-ctl` does.
fn vswitchd(daemon: &Daemon, change: Change) -> Result<()> {
    let post = |path: &str, body: String| daemon.http("POST", path, &body);
    let (first, vlan) = VLANS;
    let (status, body) = match change {
        Change::AddPort => post(
            "/v1/ports",
            format!(r#"{{"name":"x0","type":"dpdk","devargs":"{DEVICE}","bridge":"br0"}}"#),
        ),
        Change::AddTap => post(
            "/v1/ports",
            format!(r#"{{"name":"x1","type":"tap","bridge":"br0","trunk":[{first}]}}"#),
        ),
        Change::AddVlan => {
            post("/v1/vlans", format!(r#"{{"port":"x1","vlan":{vlan},"mode":"trunk"}}"#))
        }
        Change::AddTunnel => post(
            "/v1/tunnels",
            format!(
                r#"{{"name":"x2","type":"vxlan","vtep":"v4","vni":{VNI},"bridge":"br0","vlan":{vlan},"remotes":["{REMOTE}"]}}"#
            ),
        ),
        Change::DelTunnel => daemon.http("DELETE", "/v1/tunnels/x2", ""),
        Change::DelVlan => daemon.http("DELETE", &format!("/v1/vlans/x1/{vlan}"), ""),
        Change::DelTap => daemon.http("DELETE", "/v1/ports/x1", ""),
        Change::DelPort => daemon.http("DELETE", "/v1/ports/x0", ""),
    }?;
    ensure!((200..300).contains(&status), "vswitchd answered {status}: {body}");
    Ok(())
}

fn open_vswitch(ovs: &Ovs, change: Change) -> Result<()> {
    let (first, vlan) = VLANS;
    let command = match change {
        Change::AddPort => format!(
            "add-port br0 x0 -- set Interface x0 type=dpdk options:dpdk-devargs=\"{DEVICE}\""
        ),
        Change::AddTap => {
            format!("add-port br0 x1 trunks={first} -- set Interface x1 type=internal")
        }
        Change::AddVlan => format!("set Port x1 trunks={first},{vlan}"),
        Change::AddTunnel => format!(
            "add-port br0 x2 tag={vlan} -- set Interface x2 type=vxlan options:remote_ip={REMOTE} \
             options:key={VNI}"
        ),
        Change::DelTunnel => "del-port br0 x2".to_owned(),
        Change::DelVlan => format!("set Port x1 trunks={first}"),
        Change::DelTap => "del-port br0 x1".to_owned(),
        Change::DelPort => "del-port br0 x0".to_owned(),
    };
    ovs.vsctl(&command).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_cycle_that_was_begun_is_ended() -> Result<()> {
        let made = Mutex::new(Vec::new());
        let trial = || {
            std::thread::sleep(Duration::from_millis(120));
            Ok(Trial { received: 7, ..Trial::default() })
        };
        let change = |change| {
            made.lock().unwrap().push(change);
            Ok(())
        };
        let (trial, changed) = during(trial, || Ok(()), change)?;
        assert_eq!((trial.received, changed.changes), (7, 8));
        assert_eq!(made.into_inner().unwrap(), CYCLE);
        assert!(changed.took >= Duration::from_millis(700), "at a pace: {changed:?}");
        Ok(())
    }

    #[test]
    fn a_change_that_fails_is_named() {
        let fail = |change| {
            ensure!(change != Change::AddVlan, "no such port");
            Ok(())
        };
        let error = during(|| Ok(Trial::default()), || Ok(()), fail).unwrap_err();
        assert_eq!(format!("{error:#}"), "change 3, AddVlan: no such port");
    }
}
