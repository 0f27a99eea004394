//! VLANs of a bridge and the networks they are carried in, against the kernel's VXLAN device.

use anyhow::{Context, Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::overlay::{
    Family, Ground, Linux, Peer, Protocol, Site, Tenant, Tunnel, Underlay, Wire, checks,
};
use vswitch_e2e::raw::{Sender, ethernet};
use vswitch_e2e::{Daemon, DaemonSpec, Host};

use crate::packets::EXPERIMENT;
use crate::rig::skipped;

/// A switch with a configuration of its own, and a Linux host.
struct Pair {
    daemon: Daemon,
    ours: Site,
    linux: Linux,
    underlay: Underlay,
}

impl Pair {
    /// `config` follows the VTEP, whose remote is the Linux host.
    fn new(config: &str) -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let ours = underlay.site("ours")?;
        ours.take_addresses(&ours.device)?;
        let linux = Linux::new(underlay.site("linux")?)?;
        let (local, remote) = (ours.v4, linux.site().v4);
        let mut spec = DaemonSpec::new(&format!(
            "version = 1\n[daemon]\nmax-fdb-total = 16384\n[[bridge]]\nname = \"br0\"\n\
             [[vtep]]\nname = \"v4\"\nlocal = \"{local}\"\nremotes = [\"{remote}\"]\n{config}"
        ));
        spec.netns = Some(ours.space.name().to_owned());
        let daemon = spec.start()?;
        daemon.wait_healthy()?;
        Ok(Self { daemon, ours, linux, underlay })
    }

    /// A tenant behind the switch, on a port with these further words.
    fn tenant(&self, number: u8, words: &str) -> Result<Tenant> {
        let device = format!("p{number}");
        let tenant = Tenant::new(&Ground::Machine, number, &device, 1446)?;
        let netns = tenant.space.name();
        let add = format!("port add {device} --type tap --bridge br0 --netns {netns} {words}");
        self.daemon.ctl(&add)?.ok()?;
        tenant.configure()?;
        Ok(tenant)
    }

    /// A tenant behind the Linux host, in a network of its own.
    fn far(&mut self, number: u8, vni: u32) -> Result<Tenant> {
        let tunnel = Tunnel::new(Protocol::Vxlan, vni, Family::V4);
        self.linux.join(&tunnel, &[self.ours.v4.into()])?;
        self.linux.tenant(&tunnel, number)
    }

    fn wire(&self) -> Result<Wire> {
        Wire::start(&self.underlay, &self.ours, &Tunnel::new(Protocol::Vxlan, 0, Family::V4))
    }

    fn finish(mut self) -> Result<()> {
        self.daemon.settle()?.check()?;
        self.daemon.stop()
    }
}

/// The frames of an experiment that one tenant sends and others see, with or without a tag.
struct Bench<'a> {
    from: Sender,
    source: [u8; 6],
    seen: Vec<(&'a Tenant, Capture)>,
    sent: u32,
}

impl<'a> Bench<'a> {
    fn new(from: &Tenant, others: &[&'a Tenant]) -> Result<Self> {
        let filter = format!("ether src {} or (vlan and ether src {0})", from.mac());
        let start = |tenant: &&'a Tenant| {
            let capture = Capture::start(tenant.space.netns()?, &tenant.device, &filter)?;
            Ok((*tenant, capture))
        };
        let seen = others.iter().map(start).collect::<Result<_>>()?;
        let mac: Vec<u8> =
            from.mac().split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
        Ok(Self {
            from: Sender::open(from.space.netns()?, &from.device)?,
            source: mac.try_into().ok().context("a MAC address")?,
            seen,
            sent: 0,
        })
    }

    /// Sends a broadcast with these tags, which must come out with `expect` at the others of that
    /// number, in their order, and nowhere else.
    fn call(&mut self, tags: &[u16], expect: &[(usize, &[u16])]) -> Result<()> {
        self.sent += 1;
        let mark = format!("frame {:06}", self.sent);
        let frame = |tags: &[u16]| {
            let tags: Vec<(u16, u16)> = tags.iter().map(|vid| (0x8100, *vid)).collect();
            ethernet([0xff; 6], self.source, &tags, EXPERIMENT, mark.as_bytes())
        };
        self.from.send(&frame(tags))?;
        let holds = |f: &[u8]| f.windows(mark.len()).any(|w| w == mark.as_bytes());
        for (n, wanted) in expect {
            let (tenant, capture) = self.seen.get(*n).context("who")?;
            let frames = capture
                .wait_for(1, holds)
                .with_context(|| format!("{tags:?} at {}", tenant.space.label()))?;
            let got: Vec<_> = frames.iter().filter(|f| holds(f)).collect();
            // A tag that left was behind 60 bytes, and the padding stays.
            let want = frame(wanted);
            let (head, got) = (want.get(..30), got.first().and_then(|f| f.get(..30)));
            ensure!(head == got, "{tags:?}: {got:02x?}, not {head:02x?}");
        }
        for (n, (tenant, capture)) in self.seen.iter().enumerate() {
            let copies = capture.frames()?.iter().filter(|f| holds(f)).count();
            let wanted = usize::from(expect.iter().any(|(at, _)| *at == n));
            ensure!(copies == wanted, "{tags:?}: {copies} at {}", tenant.space.label());
        }
        Ok(())
    }
}

/// A VNI for each VLAN: what is in one is never seen in another.
#[test]
fn a_network_for_each_vlan() -> Result<()> {
    if skipped("a_network_for_each_vlan") {
        return Ok(());
    }
    let tunnel = |vlan: u16| {
        format!(
            "[[tunnel]]\nname = \"t{vlan}\"\ntype = \"vxlan\"\nvni = {}\nbridge = \"br0\"\n\
             vlan = {vlan}\n",
            10_000 + u32::from(vlan)
        )
    };
    let mut pair = Pair::new(&(tunnel(10) + &tunnel(20)))?;
    let (a10, a20) = (pair.tenant(1, "--access 10")?, pair.tenant(2, "--access 20")?);
    let (far10, far20) = (pair.far(3, 10_010)?, pair.far(4, 10_020)?);
    let trunk = pair.tenant(5, "--trunk 10,20")?;
    let wire = pair.wire()?;

    // What stations of VLAN 10 say comes to the others of VLAN 10, and to nobody else.
    let filter = format!("ether src {} or ether src {}", a10.mac(), far10.mac());
    let elsewhere = [&a20, &far20].map(|t| Capture::start(t.space.netns()?, &t.device, &filter));
    checks::reach(&a10, &far10)?;
    checks::reach(&a20, &far20)?;
    checks::broadcast(&a10, &[&far10])?;
    checks::broadcast(&far10, &[&a10])?;
    // The trunk is in both VLANs, and says by tags in which.
    let mut from_trunk = Bench::new(&trunk, &[&a10, &a20, &far10, &far20])?;
    from_trunk.call(&[10], &[(0, &[]), (2, &[])])?;
    from_trunk.call(&[20], &[(1, &[]), (3, &[])])?;
    from_trunk.call(&[], &[])?;
    from_trunk.call(&[30], &[])?;
    let mut from_far = Bench::new(&far20, &[&trunk, &a10, &a20, &far10])?;
    from_far.call(&[], &[(0, &[20]), (2, &[])])?;
    from_far.call(&[20], &[])?;
    from_far.call(&[10], &[])?;
    for to in [2, 4] {
        let ping = a10.space.sh(&format!("ping -n -c 2 -i 0.1 -W 0.5 198.51.100.{to}"))?;
        ensure!(!ping.success(), "VLAN 10 reaches VLAN 20: {ping}");
        let ping = far10.space.sh(&format!("ping -n -c 2 -i 0.1 -W 0.5 198.51.100.{to}"))?;
        ensure!(!ping.success(), "VNI 10010 reaches VNI 10020: {ping}");
    }
    for capture in elsewhere {
        let leaked = capture?.stop()?;
        ensure!(leaked.is_empty(), "leaked: {leaked:02x?}");
    }
    // On the wire there are no tags, and each station is in its own network.
    let seen = wire.check(&["vxlan.vni", "vlan.id", "eth.src"])?;
    ensure!(seen.values("vlan.id")? == [""], "{:?}", seen.values("vlan.id")?);
    for (mac, vni) in [(a10.mac(), "10010"), (a20.mac(), "10020")] {
        let of_it = || seen.rows.iter().filter(|row| row[2].ends_with(&mac));
        ensure!(of_it().count() > 0 && of_it().all(|row| row[0] == vni), "{mac} is not in {vni}");
    }
    // The same address in both VLANs is two stations.
    let fdb = pair.daemon.ctl_json("fdb show --bridge br0")?;
    let rows = fdb["items"].as_array().context("no entries")?;
    let learned = |mac: &str| rows.iter().filter(|r| r["mac"] == mac).count();
    ensure!(learned(&far10.mac()) == 1 && learned(&far20.mac()) == 1, "{fdb}");
    pair.finish()
}

/// One VNI for all VLANs: tags are kept inside.
#[test]
fn tags_are_kept() -> Result<()> {
    if skipped("tags_are_kept") {
        return Ok(());
    }
    let mut pair = Pair::new(
        "[[tunnel]]\nname = \"all\"\ntype = \"vxlan\"\nvni = 77\nbridge = \"br0\"\n\
         tags = \"keep\"\n",
    )?;
    let trunk = pair.tenant(1, "--trunk 10,20")?;
    let access = pair.tenant(2, "--access 20")?;
    let far = pair.far(3, 77)?;
    let wire = pair.wire()?;
    let mut from_trunk = Bench::new(&trunk, &[&access, &far])?;
    from_trunk.call(&[10], &[(1, &[10])])?;
    from_trunk.call(&[20], &[(0, &[]), (1, &[20])])?;
    let mut from_far = Bench::new(&far, &[&trunk, &access])?;
    from_far.call(&[10], &[(0, &[10])])?;
    from_far.call(&[20], &[(0, &[20]), (1, &[])])?;
    let seen = wire.check(&["vxlan.vni", "vlan.id"])?;
    seen.same("vxlan.vni", 77)?;
    let tags = seen.values("vlan.id")?;
    ensure!(tags.contains(&"10".to_owned()) && tags.contains(&"20".to_owned()), "{tags:?}");
    // What fits allows for the tag.
    let mtu = pair.daemon.ctl_json("mtu show all")?;
    ensure!(mtu["items"][0]["inner-mtu"] == 1446, "{mtu}");
    pair.finish()
}

/// Tags that are not kept: they leave here, and frames that arrive with one are a named drop.
#[test]
fn tags_are_stripped() -> Result<()> {
    if skipped("tags_are_stripped") {
        return Ok(());
    }
    let mut pair = Pair::new(
        "[[tunnel]]\nname = \"ten\"\ntype = \"vxlan\"\nvni = 78\nbridge = \"br0\"\nvlan = 10\n",
    )?;
    let trunk = pair.tenant(1, "--trunk 10,20")?;
    let far = pair.far(2, 78)?;
    let wire = pair.wire()?;
    let mut from_trunk = Bench::new(&trunk, &[&far])?;
    from_trunk.call(&[10], &[(0, &[])])?;
    from_trunk.call(&[20], &[])?;
    let mut from_far = Bench::new(&far, &[&trunk])?;
    from_far.call(&[], &[(0, &[10])])?;
    let before = pair.daemon.settle()?.dropped("inner-tag");
    from_far.call(&[10], &[])?;
    from_far.call(&[], &[(0, &[10])])?;
    ensure!(pair.daemon.settle()?.dropped("inner-tag") == before + 1);
    let seen = wire.check(&["vxlan.vni", "vlan.id"])?;
    ensure!(seen.values("vlan.id")? == [""], "{:?}", seen.values("vlan.id")?);
    pair.finish()
}
