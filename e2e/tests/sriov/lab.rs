//! The guest's NIC and its virtual functions.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::bins::binary;
use vswitch_e2e::overlay::{Space, Switch};
use vswitch_e2e::{Host, Need, missing, skip};

/// Whether the test cannot run here, which is said.
pub(crate) fn skipped(test: &str) -> bool {
    const MORE: [Need; 7] = [
        Need::Binaries,
        Need::Dpdk,
        Need::Program("strip", "binutils"),
        Need::Program("ethtool", "ethtool"),
        Need::Program("ping", "iputils-ping"),
        Need::Program("ovs-vswitchd", "openvswitch-switch"),
        Need::Program("dpkg-deb", "dpkg"),
    ];
    let why = missing(&[Need::GUEST, &MORE].concat())
        .or_else(|| programs().err().map(|error| format!("{error:#}")));
    why.map(|why| skip(test, why)).is_some()
}

/// What the guest needs beside its image.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let mut programs = Switch::programs()?;
    let with = "cargo build -p vswitch-bench --bin vswitch-bench --features dpdk";
    programs.push(binary("vswitch-bench").with_context(|| with.to_owned())?);
    Ok(programs)
}

/// The steps of docs/sr-iov.md before the switch: hugepages, VFIO, and two virtual functions of
/// `eth0` for programs. Their PCI addresses.
pub(crate) fn make_vfs(guest: &Space) -> Result<Vec<String>> {
    let script = "set -e
        # The emulated IOMMU cannot remap interrupts.
        modprobe vfio_iommu_type1 allow_unsafe_interrupts=1
        modprobe vfio_pci
        echo 192 >/proc/sys/vm/nr_hugepages";
    // Each page is emptied by an emulated processor.
    guest.sh_for(script, Duration::from_secs(180))?.ok()?;
    give_vfs(guest)
}

/// Makes the functions, or makes them again. Their addresses are those of the stations that
/// `vswitch-bench` has at its first two ports.
pub(crate) fn give_vfs(guest: &Space) -> Result<Vec<String>> {
    let script = "set -e
        cd /sys/class/net/eth0/device
        echo 2 >sriov_numvfs
        for vf in 0 1; do
            ip link set eth0 vf $vf mac 02:00:0$vf:00:00:00
            address=$(basename $(readlink virtfn$vf))
            echo vfio-pci >virtfn$vf/driver_override
            echo $address >/sys/bus/pci/drivers_probe
            test $(basename $(readlink virtfn$vf/driver)) = vfio-pci
            echo $address
        done";
    let said = guest.sh(script)?.ok()?.stdout;
    let addresses: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    ensure!(addresses.len() == 2, "two virtual functions: {said}");
    Ok(addresses)
}

/// What `port show NAME` says.
pub(crate) fn port(switch: &Switch, name: &str) -> Result<Value> {
    let shown = switch.ctl(&format!("-o json port show {name}"))?.ok()?.json()?;
    shown["items"].get(0).cloned().with_context(|| format!("no port {name}: {shown}"))
}
