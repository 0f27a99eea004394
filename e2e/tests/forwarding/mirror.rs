//! Mirrors, as an operator makes them: what tcpdump sees at a port for copies, and what he is told.

use anyhow::{Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Need, need, on_dpdk_anyway};

use crate::lab::{Kind, Lab, silent, veth};

const ALL: [u8; 6] = [0xff; 6];

#[test]
fn a_port_is_mirrored() -> Result<()> {
    need!("a_port_is_mirrored", Need::Root, Need::Tun, Need::Binaries);
    let ports =
        [("web", Kind::Tap, "br0", "access = 10"), ("vm", Kind::Veth, "br0", "trunk = [10]")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    veth(&lab.host, &lab.ends, "probe")?;
    for (asked, code, says) in [
        ("mirror add span --ports web --to vm", 6, "is in bridge \"br0\""),
        ("mirror add span --ports wb --to vm", 6, "did you mean \"web\"?"),
        ("mirror add span --ports web --to web", 6, "mirrored to itself"),
        ("mirror add span --to vm", 6, "needs something to copy"),
        ("mirror add span --ports web --to vm --filter nonsense", 6, "nonsense"),
        ("mirror add span --ports web --to vm --one-in 0", 6, "out of range"),
        ("mirror show span", 4, "there is no mirror \"span\""),
    ] {
        let told = lab.daemon.ctl(asked)?.code_is(code)?;
        ensure!(told.stderr.contains(says) && told.stderr.contains("error[E"), "{told}");
    }
    lab.daemon.ctl("port add probe --type netdev --device probes")?.ok()?;
    let told = lab.daemon.ctl("status")?.code_is(3)?;
    ensure!(told.stdout.contains("in no bridge, and no mirror leads to it"), "{told}");
    lab.daemon.ctl("mirror add span --ports web,vm --to probe")?.ok()?;
    lab.daemon.ctl("status")?.ok()?;
    let told = lab.daemon.ctl("port del vm")?.code_is(6)?;
    ensure!(told.stderr.contains("mirrors name port vm: span"), "{told}");

    let out = lab.capture(&["probe", "vm"])?;
    let frame = ethernet(ALL, mac(1), &[], 0x88b5, b"seen");
    // The tag is put into the frame as it is padded already.
    let with_tag = [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
    lab.send("web", &frame)?;
    out.at("probe")?.wait_for(2, |frame| crate::lab::holds(frame, b"seen"))?;
    let shown = &lab.daemon.ctl_json("mirror show span")?["items"][0];
    ensure!(shown["frames"] == 2 && shown["state"] == "up", "{shown}");
    lab.daemon.ctl("mirror set span --direction in --snap 64")?.ok()?;
    let big = ethernet(ALL, mac(1), &[], 0x88b5, &[7; 500]);
    lab.send("web", &big)?;
    let copies = out.at("probe")?.wait_for(3, |_| true)?;
    ensure!(copies == [frame, with_tag, big[..64].to_vec()], "{copies:02x?}");
    // It is a change like any other.
    lab.daemon.ctl("config rollback")?.ok()?;
    let shown = &lab.daemon.ctl_json("mirror show span")?["items"][0];
    ensure!(shown["direction"] == "both" && shown["frames"] == 3, "{shown}");
    lab.daemon.ctl("mirror del span")?.ok()?;
    let captured = out.stop()?;
    ensure!(captured["probe"].len() == 3 && captured["vm"].len() == 2, "{captured:02x?}");
    lab.finish()?;
    Ok(())
}

#[test]
fn copies_reach_another_host_by_vxlan() -> Result<()> {
    need!("copies_reach_another_host_by_vxlan", Need::Root, Need::Tun, Need::Binaries);
    if on_dpdk_anyway() {
        eprintln!("only on the other datapath: a VTEP of DPDK has an uplink, as in `overlay`");
        return Ok(());
    }
    let ports =
        [("web", Kind::Tap, "br0", "access = 10"), ("vm", Kind::Veth, "br0", "trunk = [10]")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    let far = silent("far")?;
    veth(&lab.host, &far, "under")?;
    lab.host.addr("unders", "198.51.100.1/24")?;
    far.addr("under", "198.51.100.2/24")?;
    far.ip("link add probe type vxlan id 99 dstport 4789 local 198.51.100.2 nolearning")?;
    far.ip("link set probe up")?;
    for made in [
        "vtep add v4 --local 198.51.100.1",
        "bridge add span",
        "tunnel add to-probe --type vxlan --vni 99 --bridge span --remotes 198.51.100.2",
    ] {
        lab.daemon.ctl(made)?.ok()?;
    }
    for (asked, says) in [
        ("mirror add span --bridges span --to to-probe", "would be mirrored to itself"),
        (
            "mirror add span --ports web --to to-prob",
            "no port or tunnel \"to-prob\" (did you mean \"to-probe\"?)",
        ),
    ] {
        let told = lab.daemon.ctl(asked)?.code_is(6)?;
        ensure!(told.stderr.contains(says), "{told}");
    }
    lab.daemon.ctl("mirror add span --ports web,vm --to to-probe")?.ok()?;
    let told = lab.daemon.ctl("port add late --type tap --bridge span")?.code_is(6)?;
    ensure!(told.stderr.contains("carries nothing else"), "{told}");
    let told = lab.daemon.ctl("tunnel del to-probe")?.code_is(6)?;
    ensure!(told.stderr.contains("mirrors name tunnel to-probe: span"), "{told}");

    let probe = Capture::start(&far, "probe", "")?;
    let frame = ethernet(ALL, mac(1), &[], 0x88b5, b"seen");
    lab.send("web", &frame)?;
    let copies = probe.wait_for(2, |frame| crate::lab::holds(frame, b"seen"))?;
    let with_tag = [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
    ensure!(copies == [frame, with_tag], "{copies:02x?}");
    let shown = &lab.daemon.ctl_json("mirror show span")?["items"][0];
    ensure!(shown["frames"] == 2 && shown["state"] == "up", "{shown}");
    drop(probe);
    lab.finish()?;
    Ok(())
}
