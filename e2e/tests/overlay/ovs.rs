//! The switch and Open vSwitch 3.1, whose userspace datapath builds and parses tunnels itself.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vswitch_e2e::overlay::{
    Decoded, Family, GeneveOption, Ground, OpenVswitch, Peer, Protocol, Switch, Tenant, Tunnel,
    Underlay, checks,
};
use vswitch_e2e::{Host, until};

use crate::lab::all_checks;
use crate::rig::{SOON, finish, skipped, tunnel_show};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The switch, Open vSwitch, and what is between them.
struct Lab {
    ours: Switch,
    ovs: OpenVswitch,
    underlay: Underlay,
    /// Of all tunnels, to the end.
    tenants: Vec<Tenant>,
}

impl Lab {
    fn new(mtu: u32) -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, mtu)?;
        let ours = Switch::new(underlay.site("ours")?)?;
        let ovs = OpenVswitch::new(underlay.site("ovs")?)?;
        Ok(Self { ours, ovs, underlay, tenants: Vec::new() })
    }

    /// All checks over a tunnel; the values of `fields` in what the switch sent.
    fn all_checks(&mut self, tunnel: &Tunnel, fields: &[&str]) -> Result<Decoded> {
        let (seen, tenants) =
            all_checks(&self.underlay, tunnel, &mut self.ours, &mut self.ovs, fields)
                .with_context(|| format!("{tunnel:?}"))?;
        self.tenants.extend(tenants);
        Ok(seen)
    }
}

#[test]
fn vxlan() -> Result<()> {
    if skipped("vxlan") {
        return Ok(());
    }
    let mut lab = Lab::new(1500)?;
    for family in FAMILIES {
        let tunnel = Tunnel::new(Protocol::Vxlan, 0xab_cdef, family);
        let seen = lab.all_checks(&tunnel, &["vxlan.vni", "vxlan.flags", "udp.checksum"])?;
        seen.same("vxlan.vni", tunnel.id)?;
        seen.same("vxlan.flags", 0x0800)?;
        // Runs that the kernel cuts have one all the same.
        let without = seen.values("udp.checksum")?.contains(&"0x0000".to_owned());
        ensure!(without == (family == Family::V4), "RFC 6935, section 5: {seen:?}");
    }
    finish(lab.ours)
}

#[test]
fn gre() -> Result<()> {
    if skipped("gre") {
        return Ok(());
    }
    let mut lab = Lab::new(1500)?;
    for family in FAMILIES {
        let tunnel = Tunnel::new(Protocol::Gre, 0xfedc_ba98, family);
        let fields = ["gre.key", "gre.flags_and_version", "gre.proto"];
        let seen = lab.all_checks(&tunnel, &fields)?;
        seen.same("gre.key", tunnel.id)?;
        seen.same("gre.flags_and_version", 0x2000)?;
        seen.same("gre.proto", 0x6558)?;
    }
    finish(lab.ours)
}

#[test]
fn gre_without_a_key() -> Result<()> {
    if skipped("gre_without_a_key") {
        return Ok(());
    }
    let mut lab = Lab::new(1500)?;
    for family in FAMILIES {
        let tunnel = Tunnel::new(Protocol::GreKeyless, 0, family);
        let seen = lab.all_checks(&tunnel, &["gre.flags_and_version"])?;
        seen.same("gre.flags_and_version", 0)?;
    }
    finish(lab.ours)
}

/// Open vSwitch does not know NVGRE by name: its GRE takes any key and a flow sets one.
#[test]
fn nvgre() -> Result<()> {
    if skipped("nvgre") {
        return Ok(());
    }
    let mut lab = Lab::new(1500)?;
    for family in FAMILIES {
        let tunnel = Tunnel::new(Protocol::Nvgre, 0x12_3456, family);
        let seen = lab.all_checks(&tunnel, &["gre.key", "gre.flags_and_version"])?;
        seen.same("gre.flags_and_version", 0x2000)?;
        let hex = |key: &String| u32::from_str_radix(key.strip_prefix("0x")?, 16).ok();
        let keys: Vec<u32> = seen.values("gre.key")?.iter().filter_map(hex).collect();
        ensure!(keys.iter().all(|key| key >> 8 == tunnel.id), "the VSID, then FlowID: {keys:x?}");
        ensure!(keys.len() > 1, "no entropy in the FlowID: {keys:x?}");
    }
    finish(lab.ours)
}

/// Checksums in both directions, and numbers in both. Not together: Open vSwitch 3.1 writes the
/// number after the sum, which is wrong then (`netdev_gre_push_header`).
#[test]
fn gre_with_checksums_or_numbers() -> Result<()> {
    if skipped("gre_with_checksums_or_numbers") {
        return Ok(());
    }
    for (key, theirs, flags) in
        [("checksum", "options:csum=true", 0xa000), ("sequence", "options:seq=true", 0x3000)]
    {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        // Either is a word of 4 bytes in the header, which leaves that much less for tenants.
        let [mut ours, mut ovs] = [underlay.site("ours")?, underlay.site("ovs")?];
        ours.mtu -= 4;
        ovs.mtu -= 4;
        let (mut ours, mut ovs) = (Switch::new(ours)?, OpenVswitch::new(ovs)?);
        ours.tunnel = format!("{key} = true\n");
        ovs.more = theirs.to_owned();
        let mut lab = Lab { ours, ovs, underlay, tenants: Vec::new() };
        for family in FAMILIES {
            let tunnel = Tunnel::new(Protocol::Gre, 5, family);
            let fields = ["gre.flags_and_version", "gre.checksum.status", "gre.sequence_number"];
            let seen = lab.all_checks(&tunnel, &fields)?;
            seen.same("gre.flags_and_version", flags)?;
            if key == "checksum" {
                // PROTO_CHECKSUM_E_GOOD
                seen.same("gre.checksum.status", 1)?;
                continue;
            }
            let numbers: Vec<u32> = seen.rows.iter().filter_map(|r| r[2].parse().ok()).collect();
            ensure!(numbers.len() == seen.rows.len(), "a packet without a number");
            let breaks: Vec<_> = numbers.windows(2).filter(|w| w[1] != w[0] + 1).collect();
            ensure!(breaks.is_empty(), "not one after the other: {breaks:?}");
        }
        finish(lab.ours)?;
    }
    Ok(())
}

/// Options of all sizes that are allowed, one of them critical: each side sends all, and each
/// side sees what the other has sent.
#[test]
fn geneve_options_both_ways() -> Result<()> {
    if skipped("geneve_options_both_ways") {
        return Ok(());
    }
    let options = vec![
        GeneveOption { class: 0x0102, kind: 0x01, data: vec![0xde, 0xad, 0xbe, 0xef] },
        GeneveOption { class: 0xfffe, kind: 0x82, data: (1..=12).collect() },
        GeneveOption { class: 0x0000, kind: 0x7f, data: (0..124).map(|n| n ^ 0x55).collect() },
    ];
    // With all of them and 1500 bytes tenants would have less than the 1280 that IPv6 wants.
    let mut lab = Lab::new(1600)?;
    for (n, family) in FAMILIES.into_iter().enumerate() {
        let tunnel =
            Tunnel { options: options.clone(), ..Tunnel::new(Protocol::Geneve, 0xff_ffff, family) };
        let fields = [
            "geneve.vni",
            "geneve.flags",
            "geneve.option.class",
            "geneve.option.type",
            "geneve.option.unknown.data",
            "udp.checksum",
        ];
        let seen = lab.all_checks(&tunnel, &fields)?;
        seen.same("geneve.vni", tunnel.id)?;
        // C and not O: there is a critical option (RFC 8926, section 3.4).
        seen.same("geneve.flags", 0x40)?;
        for row in &seen.rows {
            ensure!(row[2..5] == options_shown(&options), "options as tshark has them: {row:?}");
        }
        let without = seen.values("udp.checksum")?.contains(&"0x0000".to_owned());
        ensure!(without == (family == Family::V4), "{:?}", seen.values("udp.checksum")?);

        // The switch that Open vSwitch is matches what we send.
        let [.., a, b] = &lab.tenants[..] else { anyhow::bail!("four tenants") };
        lab.ovs.count_options(&tunnel)?;
        checks::small(a, b)?;
        let counted = lab.ovs.count_options(&tunnel)?;
        ensure!(counted >= 6, "of six pings {counted} had the options");
        // And we see what it sends.
        await_options(&lab, n, &tunnel)?;
    }
    finish(lab.ours)
}

/// An option that nobody configured: skipped unless it is critical.
#[test]
fn geneve_options_that_are_unknown() -> Result<()> {
    if skipped("geneve_options_that_are_unknown") {
        return Ok(());
    }
    let option = |kind| GeneveOption { class: 0x0102, kind, data: vec![0, 0, 0, kind] };
    let with = |options: &[GeneveOption], family, id| Tunnel {
        options: options.to_vec(),
        ..Tunnel::new(Protocol::Geneve, id, family)
    };
    let mut lab = Lab::new(1500)?;
    for family in FAMILIES {
        // What the switch knows, and what Open vSwitch sends.
        let skipped = [with(&[], family, 1), with(&[option(0x42)], family, 1)];
        let dropped = [with(&[option(0x42)], family, 2), with(&[option(0xc2)], family, 2)];
        let n = if family == Family::V4 { 0 } else { 2 };

        let [a, b] = join(&mut lab, &skipped)?;
        checks::reach(&a, &b)?;
        checks::tcp(&b, &a, &a.v4(), 1 << 18)?;
        await_options(&lab, n, &skipped[1])?;
        lab.tenants.extend([a, b]);

        let [a, b] = join(&mut lab, &dropped)?;
        let name = format!("tun{}", n + 1);
        // The port said that it is there before Open vSwitch was told to add options.
        let passed = tunnel_show(&lab.ours, &name)?["counters"]["rx-frames"].clone();
        for to in [a.v4(), a.v6()] {
            let output = b.space.sh(&format!("ping -n -c 3 -i 0.1 -W 1 {to}"))?;
            ensure!(!output.success(), "a critical option was passed over: {output}");
        }
        let drops = until(SOON, "drops of the tunnel", || {
            let drops = tunnel_show(&lab.ours, &name)?["drops"].clone();
            Ok((drops != json!([])).then_some(drops))
        })?;
        ensure!(
            drops.as_array().is_some_and(|d| d.len() == 1 && d[0]["reason"] == "geneve-critical"),
            "{drops:#}"
        );
        let counters = &tunnel_show(&lab.ours, &name)?["counters"];
        ensure!(counters["rx-frames"] == passed, "more than {passed} passed: {counters}");
        // The very next frame without it passes.
        let from_tenant = format!("in_port=p{}-2", n + 1);
        lab.ovs.ovs().ofctl(&["del-flows", &format!("br{}", n + 1), &from_tenant])?;
        checks::reach(&b, &a)?;
        lab.tenants.extend([a, b]);
    }
    finish(lab.ours)
}

/// Joins a tunnel by what the switch and by what Open vSwitch are to know of it.
fn join(lab: &mut Lab, [ours, theirs]: &[Tunnel; 2]) -> Result<[Tenant; 2]> {
    let (our, their) = (lab.ours.site().address(ours.family), lab.ovs.site().address(ours.family));
    lab.ours.join(ours, &[their])?;
    lab.ovs.join(theirs, &[our])?;
    lab.ours.site().reaches(lab.ovs.site())?;
    Ok([lab.ours.tenant(ours, 1)?, lab.ovs.tenant(theirs, 2)?])
}

/// Class, type and data of options as tshark shows them, split by commas.
fn options_shown(options: &[GeneveOption]) -> [String; 3] {
    let joined = |one: &dyn Fn(&GeneveOption) -> String| {
        options.iter().map(one).collect::<Vec<_>>().join(",")
    };
    [
        joined(&|o| format!("{:#06x}", o.class)),
        joined(&|o| format!("{:#04x}", o.kind)),
        joined(&|o| hex(&o.data)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The options that arrived last in the n-th tunnel.
fn received(lab: &Lab, n: usize) -> Result<Vec<Value>> {
    let received = &tunnel_show(&lab.ours, &format!("tun{n}"))?["received-options"];
    Ok(received.as_array().cloned().unwrap_or_default())
}

/// A worker tells of options, and the control side says so a moment later.
fn await_options(lab: &Lab, n: usize, tunnel: &Tunnel) -> Result<()> {
    let told = || Ok(Some(received(lab, n)?).filter(|options| !options.is_empty()));
    let told = until(SOON, "the options that came", told)?;
    ensure!(told == expected(lab, tunnel), "{told:#?}");
    Ok(())
}

/// What [`received`] is to be when Open vSwitch sends a tunnel's options.
fn expected(lab: &Lab, tunnel: &Tunnel) -> Vec<Value> {
    let remote = lab.ovs.site().address(tunnel.family);
    let one = |o: &GeneveOption| json!({ "remote": remote, "class": o.class, "type": o.kind, "data": hex(&o.data) });
    let mut options = tunnel.options.clone();
    options.sort_by_key(|o| (o.class, o.kind));
    options.iter().map(one).collect()
}
