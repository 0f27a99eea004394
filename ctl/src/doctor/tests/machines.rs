//! Hugepages, PCI functions, CPUs and kernels.

use super::*;

#[test]
fn hugepages_before_the_start() {
    let machine = Machine::new();
    only(&machine.find(Area::Hugepages, ""), "hugepages", Level::Ok);
    let ask = |mib: u32| format!("{DPDK}[dpdk]\nhugepages = \"{mib} MiB\"\n");
    only(&machine.find(Area::Hugepages, &ask(2048)), "hugepages", Level::Ok);
    let few = only(&machine.find(Area::Hugepages, &ask(3072)), "hugepages-few", Level::Error);
    assert_eq!(command(&few), "sysctl -q -w vm.nr_hugepages=1536");
    assert_eq!(few.evidence, "node 0: 512 of 512 of 2 MiB free, node 1: 512 of 512 of 2 MiB free");
    assert!(few.fix.as_ref().unwrap().safe);
    // What would take most of the memory is left to the operator.
    let more = only(&machine.find(Area::Hugepages, &ask(8192)), "hugepages-few", Level::Error);
    assert!(!more.fix.as_ref().unwrap().safe);
    machine.pages(0, 512, 0).pages(1, 0, 0);
    let none = only(&machine.find(Area::Hugepages, DPDK), "hugepages-none", Level::Warn);
    assert_eq!(command(&none), "sysctl -q -w vm.nr_hugepages=640");
    let off = format!("{DPDK}[dpdk]\nhugepages = \"off\"\n");
    only(&machine.find(Area::Hugepages, &off), "hugepages", Level::Ok);
}

#[test]
fn pci_functions_and_their_drivers() {
    let machine = Machine::new();
    machine.pci("0000:3b:00.0", "ixgbe", Some("6")).pci("0000:3b:02.0", "vfio-pci", Some("7"));
    machine.file("/sys/bus/pci/devices/0000:3b:00.0/net/eth0/mtu", "1500");
    let ok = only(&machine.find(Area::Iommu, ""), "iommu", Level::Ok);
    assert_eq!(ok.evidence, "NICs: 0000:3b:00.0 ixgbe (eth0), 0000:3b:02.0 vfio-pci");
    only(&machine.find(Area::Iommu, &vf("3b:02.0,mac=1")), "iommu", Level::Ok);
    only(&machine.find(Area::Iommu, &vf("net_null0")), "iommu", Level::Ok);

    let absent = only(&machine.find(Area::Iommu, &vf("3b:02.7")), "pci-absent", Level::Error);
    assert!(command(&absent).contains("sriov_numvfs"));
    let wrong = only(&machine.find(Area::Iommu, &vf("3b:00.0")), "pci-driver", Level::Error);
    assert_eq!(command(&wrong), "driverctl set-override 0000:3b:00.0 vfio-pci");
    assert!(wrong.evidence.contains("eth0") && !wrong.fix.as_ref().unwrap().safe);
    assert_eq!(wrong.subject, "port vf0");
    // mlx5 shares its functions.
    machine.pci("0000:5e:00.0", "mlx5_core", Some("9"));
    only(&machine.find(Area::Iommu, &vf("5e:00.0")), "iommu", Level::Ok);
}

#[test]
fn a_group_has_to_be_ones_own() {
    let machine = Machine::new();
    machine.pci("0000:3b:02.0", "vfio-pci", Some("7")).pci("0000:3b:02.1", "iavf", Some("7")).pci(
        "0000:3a:00.0",
        "pcieport",
        Some("7"),
    );
    let shared = only(&machine.find(Area::Iommu, &vf("3b:02.0")), "vfio-group", Level::Error);
    assert_eq!(shared.evidence, "0000:3b:02.1 (iavf)");
    assert!(command(&shared).starts_with("driverctl set-override 0000:3b:02.1 vfio-pci"));
}

#[test]
fn an_iommu_that_is_off() {
    let machine = Machine::new();
    machine.pci("0000:3b:02.0", "vfio-pci", None);
    let find = || only(&machine.find(Area::Iommu, &vf("3b:02.0")), "iommu-off", Level::Error);
    let off = find();
    assert!(command(&off).contains("\"intel_iommu=on iommu=pt\" to GRUB"), "{off:#?}");
    machine.file("/proc/cmdline", "quiet intel_iommu=on iommu=pt");
    let off = find();
    assert_eq!(off.evidence, "kernel arguments: intel_iommu=on iommu=pt");
    assert_eq!(command(&off), "turn VT-d on in the firmware, and start again");
    machine.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\n").file("/proc/cmdline", "quiet");
    assert!(command(&find()).contains("AMD-Vi"), "on by itself with AMD, if the firmware has it");

    machine.pci("0000:3b:02.0", "vfio-pci", Some("7"));
    machine.file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    only(&machine.find(Area::Iommu, &vf("3b:02.0")), "vfio-unsafe", Level::Warn);
}

#[test]
fn a_driver_that_is_not_loaded_is_loaded() {
    let machine = Machine::new();
    machine.pci("0000:3b:02.0", "ixgbevf", Some("7"));
    let found = machine.find(Area::Iommu, &vf("3b:02.0"));
    let ids: Vec<_> = found.iter().map(|one| one.id).collect();
    assert_eq!(ids, ["pci-driver", "vfio-absent"]);
    assert_eq!(command(&found[1]), "modprobe vfio-pci");
    assert!(found[1].fix.as_ref().unwrap().safe);
}

#[test]
fn a_device_on_another_node_than_its_workers() {
    let machine = Machine::new();
    machine.pci("0000:d8:00.0", "vfio-pci", Some("70"));
    machine.file("/sys/bus/pci/devices/0000:d8:00.0/numa_node", "1\n");
    let cross = only(&machine.find(Area::Iommu, &vf("d8:00.0")), "numa-cross", Level::Warn);
    assert_eq!(command(&cross), "choose cpus in [daemon] from 4-7");
    machine.file("/sys/bus/pci/devices/0000:d8:00.0/numa_node", "-1\n");
    only(&machine.find(Area::Iommu, &vf("d8:00.0")), "iommu", Level::Ok);
}

#[test]
fn cpus_of_workers() {
    let machine = Machine::new();
    only(&machine.find(Area::Cpu, ""), "cpu", Level::Ok);
    only(&machine.find(Area::Cpu, DPDK), "cpu", Level::Ok);
    machine.file("/sys/devices/system/cpu/isolated", "\n");
    let open = only(&machine.find(Area::Cpu, DPDK), "cpu-isolation", Level::Note);
    assert!(command(&open).contains("\"isolcpus=2-3 nohz_full=2-3 rcu_nocbs=2-3\""));
    // A worker that sleeps on the kernel's devices needs none of its own.
    only(&machine.find(Area::Cpu, "[daemon]\ncpus = \"2-3\"\n"), "cpu", Level::Ok);
    let bare = "[daemon]\ndatapath = \"dpdk\"\n";
    only(&machine.find(Area::Cpu, bare), "cpu-unpinned", Level::Note);

    machine.file("/sys/devices/system/cpu/isolated", "2-3,6-9\n");
    machine.file("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6\n");
    let pair = "[daemon]\ncpus = \"2,6\"\n";
    only(&machine.find(Area::Cpu, pair), "cpu-siblings", Level::Note);
    let absent =
        only(&machine.find(Area::Cpu, "[daemon]\ncpus = \"7-9\"\n"), "cpu-absent", Level::Error);
    assert!(absent.message.contains("8-9") && absent.evidence == "online are 0-7", "{absent:#?}");
}

#[test]
fn control_groups_that_throttle() {
    let machine = Machine::new();
    let find = || machine.find(Area::Cpu, DPDK);
    let group = "/sys/fs/cgroup/system.slice/vswitchd.service";
    machine.process(70, "vswitchd", "/usr/sbin/vswitchd --config x", "");
    machine.file("/proc/70/cgroup", "0::/system.slice/vswitchd.service\n");
    machine.file(&format!("{group}/cpu.max"), "max 100000\n");
    only(&find(), "cpu", Level::Ok);
    // That of a group above counts as well.
    machine.file("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n");
    let few = only(&find(), "cpu-quota", Level::Warn);
    assert!(few.message.contains("vswitchd's control group allows 1.50 CPUs"), "{few:#?}");
    assert!(few.evidence.starts_with("/sys/fs/cgroup/system.slice/cpu.max"), "{few:#?}");
    machine.file("/sys/fs/cgroup/system.slice/cpu.max", "400000 100000\n");
    only(&find(), "cpu", Level::Ok);
    machine.file("/sys/fs/cgroup/system.slice/cpu.stat", "nr_periods 9\nnr_throttled 3\n");
    assert!(only(&find(), "cpu-quota", Level::Warn).evidence.ends_with("throttled 3 times"));
    // Version 1, and another daemon's process is not ours.
    machine.process(70, "vswitchd", "vswitchd --run-dir /run/other", "");
    machine.file("/proc/self/cgroup", "9:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n");
    let docker = "/sys/fs/cgroup/cpu/docker/x";
    machine.file(&format!("{docker}/cpu.cfs_quota_us"), "50000\n");
    machine.file(&format!("{docker}/cpu.cfs_period_us"), "100000\n");
    let few = only(&find(), "cpu-quota", Level::Warn);
    assert!(few.message.starts_with("this command's control group allows 0.50"), "{few:#?}");
    machine.file(&format!("{docker}/cpu.cfs_quota_us"), "-1\n");
    only(&find(), "cpu", Level::Ok);
}

#[test]
fn what_the_kernel_lacks() {
    let machine = Machine::new();
    let tap =
        "[[bridge]]\nname = \"br0\"\n[[port]]\nname = \"web\"\ntype = \"tap\"\nbridge = \"br0\"\n";
    only(&machine.find(Area::Kernel, tap), "kernel", Level::Ok);
    fs::remove_file(machine.root().path("/dev/net/tun")).unwrap();
    let absent = only(&machine.find(Area::Kernel, tap), "tun-absent", Level::Error);
    assert_eq!((command(&absent), absent.evidence.as_str()), ("modprobe tun", "needed by web"));
    only(&machine.find(Area::Kernel, ""), "tun-absent", Level::Note);
    machine.file("/dev/net/tun", "");

    let netdev = tap.replace("\"tap\"", "\"netdev\"\ndevice = \"vnet7\"");
    only(&machine.find(Area::Kernel, &netdev), "kernel", Level::Ok);
    machine.file("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
    let silent = only(&machine.find(Area::Kernel, &netdev), "nft-absent", Level::Error);
    assert!(silent.evidence.contains("6.1.0-18-amd64") && silent.evidence.ends_with("web"));
    machine.file("/usr/sbin/nft", "");
    only(&machine.find(Area::Kernel, &netdev), "kernel", Level::Ok);
}
