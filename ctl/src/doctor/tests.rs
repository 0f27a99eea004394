//! Machines made up of files, and what is found on them.

mod live;
mod machines;
mod vms;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use vswitch_api::config;

use super::facts::Facts;
use super::finding::{Area, Finding, Level};
use super::root::Root;
use super::{diagnose, mend};

/// A machine with eight CPUs on two nodes, hugepages and nothing wrong.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine
            .file("/dev/net/tun", "")
            .file("/proc/sys/kernel/osrelease", "6.12.1-amd64\n")
            .file("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 quiet\n")
            .file("/proc/cpuinfo", "vendor_id\t: GenuineIntel\n")
            .file("/proc/meminfo", "MemAvailable:    8388608 kB\nHugepagesize:       2048 kB\n")
            .file("/sys/devices/system/cpu/online", "0-7\n")
            .file("/sys/devices/system/cpu/isolated", "2-3\n")
            .file("/sys/devices/system/node/node0/cpulist", "0-3\n")
            .file("/sys/devices/system/node/node1/cpulist", "4-7\n")
            .pages(0, 512, 512)
            .pages(1, 512, 512);
        machine
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.root().path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A link as sysfs has them: only the last part of its target counts.
    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root().path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(Path::new("../nowhere").join(target), path).unwrap();
        self
    }

    fn pages(&self, node: u16, total: u64, free: u64) -> &Self {
        let dir = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
        self.file(&format!("{dir}/nr_hugepages"), &total.to_string())
            .file(&format!("{dir}/free_hugepages"), &free.to_string())
    }

    /// A PCI function of class Ethernet.
    fn pci(&self, address: &str, driver: &str, group: Option<&str>) -> &Self {
        let dir = format!("/sys/bus/pci/devices/{address}");
        self.file(&format!("{dir}/class"), "0x020000\n")
            .file(&format!("{dir}/numa_node"), "0\n")
            .file(&format!("/sys/bus/pci/drivers/{driver}/module"), "")
            .link(&format!("{dir}/driver"), driver);
        if let Some(group) = group {
            self.link(&format!("{dir}/iommu_group"), group)
                .file(&format!("/sys/kernel/iommu_groups/{group}/devices/{address}"), "");
        }
        self
    }

    /// A process, with its command line in words.
    fn process(&self, pid: u32, name: &str, line: &str, status: &str) -> &Self {
        let line = line.replace(' ', "\0");
        self.file(&format!("/proc/{pid}/comm"), &format!("{name}\n"))
            .file(&format!("/proc/{pid}/cmdline"), &line)
            .file(&format!("/proc/{pid}/status"), status)
    }

    fn mode(&self, path: &str, mode: u32) -> &Self {
        let path = self.root().path(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    /// Judged for a configuration, before a daemon was started.
    fn judged_for(&self, toml: &str) -> Facts {
        let desired = config::from_toml(&format!("version = 1\n{toml}")).unwrap();
        Facts::of_config(self.root(), Path::new("/run/vswitch"), desired, Path::new("a.toml"))
    }

    fn find(&self, area: Area, toml: &str) -> Vec<Finding> {
        diagnose(&self.judged_for(toml), &[area])
    }
}

/// The only finding, which must be this one.
#[track_caller]
fn only(found: &[Finding], id: &str, level: Level) -> Finding {
    let [one] = found else { panic!("not one finding, but {found:#?}") };
    assert_eq!((one.id, one.level), (id, level), "{one:#?}");
    one.clone()
}

#[track_caller]
fn command(finding: &Finding) -> &str {
    &finding.fix.as_ref().expect("something mends it").command
}

const DPDK: &str = "[daemon]\ndatapath = \"dpdk\"\ncpus = \"2-3\"\n";

fn dpdk(rest: &str) -> String {
    format!("{DPDK}[[bridge]]\nname = \"br0\"\n{rest}")
}

fn vf(devargs: &str) -> String {
    dpdk(&format!(
        "[[port]]\nname = \"vf0\"\ntype = \"dpdk\"\nbridge = \"br0\"\ndevargs = \"{devargs}\"\n"
    ))
}

#[test]
fn a_good_machine_has_no_findings() {
    let machine = Machine::new();
    machine.pci("0000:3b:02.0", "vfio-pci", Some("7"));
    let found = diagnose(&machine.judged_for(&vf("0000:3b:02.0")), &[]);
    let quiet = found.iter().all(|one| matches!(one.level, Level::Ok | Level::Skipped));
    assert!(quiet, "{found:#?}");
    assert_eq!(found.len(), 8, "one word on each area");
    assert!(found.iter().all(|one| one.fix.is_none()));
}

#[test]
fn safe_fixes_are_done_once_and_tell_what_failed() {
    let machine = Machine::new();
    machine.pages(0, 0, 0);
    let toml = dpdk("");
    let found = machine.find(Area::Hugepages, &toml);
    let fix = only(&found, "hugepages-node", Level::Warn);
    let file = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(command(&fix), format!("echo 128 > {file}"));
    let twice = [found.clone(), found].concat();
    let done = mend(&machine.root(), &twice);
    assert_eq!(done.len(), 1);
    assert!(done[0].done && done[0].error.is_none());
    assert_eq!(machine.root().number(file), Some(128));
    only(&machine.find(Area::Hugepages, &toml), "hugepages", Level::Ok);
    // Where the file is not there, as in a container without /sys.
    let bare = Root::new(machine.0.path().join("nowhere"));
    let failed = mend(&bare, &twice);
    assert!(!failed[0].done && failed[0].error.as_ref().unwrap().contains("No such file"));
}
