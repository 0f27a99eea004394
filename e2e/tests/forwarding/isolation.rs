//! No frame gets where it does not belong, and every one gets where it does, once and with the
//! right tags: each probe's receivers are compared with those that the model names.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use vswitch_e2e::{Need, need, size};

use crate::lab::{Kind, Lab};
use crate::model::{Model, Port, Probe, Vlans, id_of, probes, station};

/// How many frames are sent before the switch is waited for: less than any queue holds.
const BURST: usize = 128;

/// Every kind of port on one bridge, and a second bridge that uses the same VLANs.
pub(crate) fn ports() -> Vec<Port> {
    let port = |name, bridge, vlans| Port { name, bridge, vlans };
    vec![
        port("a10", "br0", Vlans::Access(10)),
        port("b10", "br0", Vlans::Access(10)),
        port("a20", "br0", Vlans::Access(20)),
        port("tr", "br0", Vlans::Trunk(Some(&[10, 20]), Some(1))),
        port("tall", "br0", Vlans::Trunk(None, None)),
        port("plain", "br0", Vlans::Transparent),
        port("plain2", "br0", Vlans::Transparent),
        port("x10", "br1", Vlans::Access(10)),
        port("xtr", "br1", Vlans::Trunk(Some(&[10, 20]), Some(20))),
        port("xplain", "br1", Vlans::Transparent),
    ]
}

fn keys(vlans: &Vlans) -> String {
    let vlans = match vlans {
        Vlans::Transparent => String::new(),
        Vlans::Access(vid) => format!("access = {vid}\n"),
        Vlans::Trunk(some, native) => {
            let some = some.map_or_else(|| "\"all\"".to_owned(), |some| format!("{some:?}"));
            let native = native.map(|vid| format!("native = {vid}\n")).unwrap_or_default();
            format!("trunk = {some}\n{native}")
        }
    };
    // Probes come faster than any honest guest floods.
    vlans + "storm-limit = \"off\"\n"
}

/// What came out: by probe and port, the frames.
pub(crate) type Received = BTreeMap<u32, BTreeMap<String, Vec<Vec<u8>>>>;

/// Sorts captures by probe.
pub(crate) fn by_probe(captured: BTreeMap<String, Vec<Vec<u8>>>) -> Result<Received> {
    let mut received = Received::new();
    for (port, frames) in captured {
        for frame in frames {
            let id =
                id_of(&frame).with_context(|| format!("nobody's frame at {port}: {frame:x?}"))?;
            received.entry(id).or_default().entry(port.clone()).or_default().push(frame);
        }
    }
    Ok(received)
}

/// What has to come out, in the same form.
pub(crate) fn expected(ports: &[Port], probes: &[Probe]) -> Received {
    let mut model = Model::default();
    let mut all = Received::new();
    for probe in probes {
        for (out, frame) in model.handle(ports, probe) {
            let port = ports[out].name.to_owned();
            all.entry(probe.id).or_default().entry(port).or_default().push(frame);
        }
    }
    all
}

/// The last probe at each end, one behind the matrix: waiting for these is waiting for all.
pub(crate) fn last_marks<'a>(
    ports: &'a [Port],
    probes: &[Probe],
    expected: &Received,
) -> Result<BTreeMap<&'a str, u32>> {
    let mut marks = BTreeMap::new();
    for port in ports {
        let mark = probes
            .iter()
            .rev()
            .find(|probe| expected.get(&probe.id).is_some_and(|outs| outs.contains_key(port.name)));
        let mark = mark.with_context(|| format!("no probe comes out at {}", port.name))?;
        ensure!(mark.src == station(mark.from), "{} is not among the last", mark.id);
        marks.insert(port.name, mark.id);
    }
    Ok(marks)
}

/// The probes in portions. The stations' first words are one of their own: no port's frames are in
/// order with another's, and what was learned decides where the rest goes.
pub(crate) fn bursts(probes: &[Probe]) -> impl Iterator<Item = &[Probe]> {
    let first = probes.iter().take_while(|probe| probe.src == station(probe.from)).count();
    let (first, rest) = probes.split_at(first);
    std::iter::once(first).chain(rest.chunks(BURST))
}

#[test]
fn frames_go_where_they_belong_and_nowhere_else() -> Result<()> {
    need!(
        "frames_go_where_they_belong_and_nowhere_else",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let ports = ports();
    // Every other port is a TAP device; the kernel takes tags off the frames of the rest.
    let texts: Vec<String> = ports.iter().map(|port| keys(&port.vlans)).collect();
    let kinds = [Kind::Tap, Kind::Veth].into_iter().cycle();
    let specs: Vec<_> = ports
        .iter()
        .zip(kinds)
        .zip(&texts)
        .map(|((port, kind), keys)| (port.name, kind, port.bridge, keys.as_str()))
        .collect();
    let mut lab = Lab::start(&[("br0", ""), ("br1", "")], &specs)?;

    let probes = probes(&ports, size(600, 10_000) as usize);
    let expected = expected(&ports, &probes);
    let names: Vec<&str> = ports.iter().map(|port| port.name).collect();
    let ends = lab.capture(&names)?;
    for burst in bursts(&probes) {
        for probe in burst {
            lab.send(ports[probe.from].name, &probe.frame())?;
        }
        lab.drained()?;
    }
    for (port, id) in last_marks(&ports, &probes, &expected)? {
        ends.at(port)?.wait_for(1, |frame| id_of(frame) == Some(id))?;
    }
    let received = by_probe(ends.stop()?)?;

    let mut wrong = Vec::new();
    for probe in &probes {
        let (want, got) = (expected.get(&probe.id), received.get(&probe.id));
        if want != got {
            let words = probe.words(&ports);
            wrong.push(format!("{words}\n  expected {want:02x?}\n  received {got:02x?}"));
        }
    }
    let outs: usize = expected.values().flat_map(BTreeMap::values).map(Vec::len).sum();
    println!("{} probes, {outs} deliveries, {} wrong", probes.len(), wrong.len());
    let books = lab.finish()?;
    for reason in ["source-group", "source-zero", "reserved-destination", "vlan-tag-invalid"] {
        ensure!(books.dropped(reason) > 0, "no drop for {reason}: {books:#?}");
    }
    if !wrong.is_empty() {
        wrong.truncate(10);
        bail!("frames went astray:\n{}", wrong.join("\n"));
    }
    Ok(())
}
