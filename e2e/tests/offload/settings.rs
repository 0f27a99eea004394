//! Offload settings that ethtool changes under traffic.

use anyhow::{Context, Result, anyhow, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use vswitch_e2e::{size, streams};

use crate::net::{Kind, Net, Off, Path, skipped};

/// Every way to have a part of the offloads. Not GRO: a veth that is told to change that loses what
/// is in its queue.
const SETTINGS: [&str; 5] = [
    "tx off tso off gso off",
    "tx on tso off gso on",
    "tx on tso on gso on",
    "tx off tso off gso on",
    "tx on tso on gso off",
];

#[test]
fn offloads_change_under_traffic() -> Result<()> {
    if skipped("offloads_change_under_traffic", &[]) {
        return Ok(());
    }
    for kinds in [[Kind::Tap, Kind::Veth], [Kind::Veth, Kind::Tap]] {
        let net = Net::start(kinds, Off::Nobody, Path::Bridge)?;
        under_traffic(&net).with_context(|| format!("{kinds:?}"))?;
        // Datagrams that were under way while a device changed may be gone; now none is.
        streams::udp(&net.near.netns, &net.far.netns, "192.0.2.2", 1 << 17)
            .with_context(|| format!("{kinds:?}, after all changes"))?;
        let books = net.last_daemon().settle()?;
        // Between a change and the moment that the switch hears of it, the kernel does the work.
        ensure!(books.dropped("tx-error") == 0, "{books:#?}");
        streams::nothing_was_wrong(&net.near.netns)?;
        streams::nothing_was_wrong(&net.far.netns)?;
        net.stop()?;
    }
    Ok(())
}

/// Copies there and back until all settings have been gone through.
fn under_traffic(net: &Net) -> Result<()> {
    let (a, b) = (&net.near.netns, &net.far.netns);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copies = scope.spawn(|| -> Result<u32> {
            let mut copies = 0;
            while !done.load(Ordering::Relaxed) {
                streams::tcp(a, b, "192.0.2.2", 1 << 20)?;
                streams::tcp(b, a, "2001:db8::1", 1 << 20)?;
                copies += 1;
            }
            Ok(copies)
        });
        let changed = (0..size(4, 200)).try_for_each(|_| {
            SETTINGS.iter().try_for_each(|setting| {
                net.near.offloads(&net.hosts[0], setting)?;
                net.far.offloads(net.last_host(), setting)
            })
        });
        done.store(true, Ordering::Relaxed);
        let copies = copies.join().map_err(|_| anyhow!("the copier panicked"))??;
        ensure!(copies > 0, "nothing was copied");
        changed
    })
}
