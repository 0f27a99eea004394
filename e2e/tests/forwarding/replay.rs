//! What happened on a running switch happens again in a replay, on either datapath.

use anyhow::{Context, Result, ensure};
use vswitch_e2e::incident::{Incident, Recording};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Need, need};

use crate::lab::{Kind, Lab};

const ALL: [u8; 6] = [0xff; 6];

#[test]
fn a_captured_incident_happens_again() -> Result<()> {
    need!("a_captured_incident_happens_again", Need::Root, Need::Tun, Need::Binaries);
    // What a storm limit passes depends on microseconds, which a capture has in part.
    let keys = |keys: &str| format!("{keys}\nstorm-limit = \"off\"");
    let (acc, iso) = (keys("access = 10"), keys("access = 20\nisolated = true"));
    let (native, trunk) = (keys("trunk = [10, 20]\nnative = 20"), keys("trunk = [10, 20, 30]"));
    let mut lab = Lab::start(
        &[("br0", "")],
        &[
            ("acc", Kind::Tap, "br0", &acc),
            ("native", Kind::Veth, "br0", &native),
            ("trunk", Kind::Veth, "br0", &trunk),
            ("iso", Kind::Tap, "br0", &iso),
        ],
    )?;
    let recording = Recording::begin(&lab.daemon)?;
    let tags: [&[(u16, u16)]; 5] =
        [&[], &[(0x8100, 10)], &[(0x8100, 20)], &[(0x8100, 30)], &[(0x8100, 0x600a)]];
    // Each station says where it is, and then all talk with all, in and out of their VLANs.
    let stations =
        [("acc", 1, 0), ("native", 2, 0), ("trunk", 3, 1), ("trunk", 4, 2), ("iso", 5, 0)];
    for (port, station, tag) in stations {
        lab.send(port, &ethernet(ALL, mac(station), tags[tag], 0x88b5, b"here"))?;
        lab.drained()?;
    }
    for round in 0..4 {
        for (port, from, _) in stations {
            for to in [1, 2, 3, 4, 5, 6] {
                let tag = tags[(from + to + round) as usize % tags.len()];
                lab.send(port, &ethernet(mac(to), mac(from), tag, 0x88b5, &[round as u8; 600]))?;
            }
        }
        lab.drained()?;
    }
    let incident = recording.end(&lab.daemon)?;
    let books = lab.check()?;
    let told = incident.happens_again(&lab.daemon)?;
    for row in told["ports"].as_array().context("no ports")? {
        let live = books.port(row["port"].as_str().context("no name")?)?;
        ensure!(row["in"] == live.rx_frames && row["out"] == live.tx_frames, "{row}: {live:?}");
        for (reason, frames) in &live.drops {
            let drops = told["drops"].as_array().context("no drops")?;
            let same = |drop: &&serde_json::Value| {
                drop["port"] == row["port"] && drop["reason"] == reason.as_str()
            };
            let counted = drops.iter().find(same).and_then(|drop| drop["frames"].as_u64());
            ensure!(counted == Some(*frames), "{reason} on {row}: {counted:?}, and {frames} then");
        }
    }
    ensure!(told["drops"].as_array().is_some_and(|drops| !drops.is_empty()), "{told}");

    // Another configuration does something else, which is told.
    let text = std::fs::read_to_string(incident.config())?;
    let changed = text.replace("access = 10", "access = 20");
    ensure!(changed != text, "{text}");
    std::fs::write(incident.config(), changed)?;
    let error = incident.happens_again(&lab.daemon).unwrap_err().to_string();
    ensure!(error.contains("difference"), "{error}");
    what_is_asked_wrongly_is_told(&lab, &incident)?;
    lab.finish()?;
    Ok(())
}

fn what_is_asked_wrongly_is_told(lab: &Lab, incident: &Incident) -> Result<()> {
    let (capture, config) = (incident.capture(), incident.config());
    let (capture, config) = (capture.display(), config.display());
    let cut = incident.config().with_extension("cut");
    let whole = std::fs::read(incident.capture())?;
    std::fs::write(&cut, &whole[..whole.len() - 10])?;
    let cut = cut.display();
    for (asked, code, says) in [
        (format!("replay {cut} --config {config}"), 6, "it ends within the block at byte"),
        (format!("replay {config} --config {config}"), 6, "it is no capture file"),
        (format!("replay {capture} --config {capture}"), 6, "not UTF-8"),
        (
            format!("replay {capture} --config {config} --port eth0"),
            4,
            "VTEPs, take frames: acc, iso",
        ),
        (format!("replay {capture} --config {config} -w /dev/full"), 6, "No space left on device"),
        (format!("replay {capture}"), 2, "--config"),
    ] {
        let told = lab.daemon.ctl(&asked)?.code_is(code)?;
        ensure!(told.stderr.contains(says) && told.stderr.contains("error[E"), "{told}");
    }
    Ok(())
}
