//! What the demo shows.

use anyhow::{Result, ensure};
use vswitch_e2e::raw::{Sender, ethernet, mac};
use vswitch_e2e::{Daemon, Host, IperfServer, iperf3, ping};

use super::{RED, Stage, Stop};
use crate::ui::{bold, note, step};

/// Everything, in order.
pub(super) fn all(stage: &Stage, stop: &Stop) -> Result<()> {
    pings(stage, stop)?;
    speed(stage, stop)?;
    drops(stage)?;
    stop.check()?;
    step("Who is where: the forwarding database");
    ctl(&stage.daemon, "fdb show")?;
    step("What each port carried");
    ctl(&stage.daemon, "port stats")?;
    step("What was dropped, and why");
    ctl(&stage.daemon, "drops show")?;
    books(&stage.daemon)?;
    stop.check()
}

/// Runs a `vswitch-ctl` command and shows it with its output.
pub(super) fn ctl(daemon: &Daemon, args: &str) -> Result<()> {
    let run_dir = daemon.run_dir();
    note(&format!("$ vswitch-ctl --run-dir {} {args}", run_dir.display()));
    let output = daemon.ctl(args)?;
    // "show" commands tell by 3 that something waits: here that is what is to be seen.
    ensure!(output.success() || output.code == 3, "{output}");
    note(&output.stdout);
    Ok(())
}

fn pings(stage: &Stage, stop: &Stop) -> Result<()> {
    step("Ping between all three");
    let ends: [(&str, &dyn Host, &str); 3] = [
        ("red", &stage.red, "192.0.2.1"),
        ("blue", &stage.blue, "192.0.2.2"),
        ("guest", &stage.guest, "192.0.2.3"),
    ];
    for (from, host, _) in &ends {
        for (to, _, address) in ends.iter().filter(|(to, ..)| to != from) {
            let result = ping(*host, address, 3)?;
            let rtt = result.rtt_ms.map(|ms| format!(", {ms:.2} ms")).unwrap_or_default();
            note(&format!(
                "{from:>5} -> {to:<5} {address}: {} of {} answered{rtt}",
                result.received, result.sent
            ));
            ensure!(result.received == result.sent, "{from} does not reach {to}");
            stop.check()?;
        }
    }
    Ok(())
}

fn speed(stage: &Stage, stop: &Stop) -> Result<()> {
    step("iperf3, TCP, three seconds each");
    let _server = IperfServer::start(&stage.blue)?;
    let runs: [(&str, &dyn Host, &str); 3] = [
        ("red -> blue", &stage.red, "192.0.2.2"),
        ("red -> guest", &stage.red, "192.0.2.3"),
        ("guest -> blue", &stage.guest, "192.0.2.2"),
    ];
    for (name, from, to) in runs {
        let result = iperf3(from, to, "-t 3")?;
        note(&format!(
            "{name:<14} {:>8.1} Mbit/s, {} segments sent again",
            result.bits_per_second / 1e6,
            result.retransmits
        ));
        stop.check()?;
    }
    note(
        "The guest is emulated instruction by instruction: its speed is QEMU's, not the switch's.",
    );
    Ok(())
}

/// A drop on purpose: no bridge forwards the group addresses of link-local protocols.
fn drops(stage: &Stage) -> Result<()> {
    step("Three LLDP frames from red: a bridge must not pass them on");
    let sender = Sender::open(&stage.red, "red")?;
    let lldp = ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e], mac(1), &[], 0x88cc, &[0; 46]);
    let before = stage.daemon.accounting()?.dropped("reserved-destination");
    for _ in 0..3 {
        sender.send(&lldp)?;
    }
    let counted = stage.daemon.settle()?.dropped("reserved-destination") - before;
    note(&format!("{counted} were dropped as reserved-destination, and counted"));
    ensure!(counted >= 3, "only {counted} of 3 were counted");
    Ok(())
}

fn books(daemon: &Daemon) -> Result<()> {
    step("Every frame is accounted for");
    let books = daemon.settle()?;
    books.check()?;
    let sum = |f: fn(&vswitch_e2e::accounting::PortCounts) -> u64| {
        books.ports.values().map(f).sum::<u64>()
    };
    note(&format!(
        "received {} + copied {} + originated {} = sent {} + dropped {} + consumed {}",
        sum(|p| p.rx_frames),
        sum(|p| p.copied),
        sum(|p| p.originated),
        sum(|p| p.tx_frames),
        books.dropped_in_all(),
        sum(|p| p.consumed)
    ));
    Ok(())
}

/// What was shown and what to try next.
pub(super) fn farewell(kept: bool) {
    step(&bold("That was it"));
    note(
        "Two Linux network stacks in namespaces and a virtual machine talked through vswitchd.\n\
         It learned who is where, carried pings and TCP, dropped what a bridge must drop,\n\
         and its counters account for every frame.",
    );
    step("Try next");
    if kept {
        note(&format!(
            "ip netns exec {RED} ping 192.0.2.3\n\
             cargo xtask demo --guest 'ip addr'   # run a command in the guest\n\
             cargo xtask demo --stop              # stop and remove everything"
        ));
    } else {
        note(
            "cargo xtask demo --keep    # the same, left running, to look around\n\
             cargo xtask test           # every test\n\
             cargo xtask bench          # what can be measured\n\
             less docs/qemu-libvirt.md  # plug your own virtual machines in",
        );
    }
}
