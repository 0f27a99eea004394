//! QEMU's command line for a guest.

use std::path::Path;

use super::image::{Image, Platform};
use super::{Backend, GuestSpec, Nic};
use crate::command::Cmd;

/// The command that runs a guest, whose console goes to the file `console` and which is driven
/// through the socket `control`.
pub(super) fn command(spec: &GuestSpec, image: &Image, console: &Path, control: &Path) -> Cmd {
    let vhost = spec.nics.iter().any(|nic| matches!(nic.backend, Backend::VhostUser { .. }));
    let mut command = emulator(image)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(machine(spec.platform, vhost))
        .args(["-cpu", "max", "-smp", &spec.cpus.to_string(), "-m", &spec.memory.to_string()]);
    if vhost {
        let pages = if spec.hugepages { ",hugetlb=on,hugetlbsize=2M" } else { "" };
        let size = spec.memory;
        let object = format!("memory-backend-memfd,id=mem,size={size}M,share=on{pages}");
        command = command.arg("-object").arg(object);
    }
    command = command
        .arg("-kernel")
        .arg(image.kernel.display())
        .arg("-initrd")
        .arg(image.initramfs.display())
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-chardev")
        .arg(format!("socket,id=control,path={},server=on,wait=off", control.display()))
        .args(["-device", "virtio-serial-pci"])
        .args(["-device", "virtserialport,chardev=control,name=control"]);
    for (n, nic) in spec.nics.iter().enumerate() {
        command = plug(command, n, nic);
    }
    command = command.arg("-append").arg(append(spec)).survives(spec.survives);
    match &spec.netns {
        Some(netns) => command.netns(netns),
        None => command,
    }
}

/// The installed QEMU, or the one that was unpacked with its own firmware and modules.
fn emulator(image: &Image) -> Cmd {
    const NAME: &str = "qemu-system-x86_64";
    let Some(root) = &image.emulator else { return Cmd::new(NAME) };
    let modules = root.join("usr/lib/x86_64-linux-gnu/qemu").display().to_string();
    let mut command = Cmd::new(root.join("usr/bin").join(NAME)).env("QEMU_MODULE_DIR", &modules);
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        command = command.arg("-L").arg(root.join(data).display());
    }
    command
}

/// The PC. An IOMMU comes before the devices that are behind it.
fn machine(platform: Platform, vhost: bool) -> Vec<&'static str> {
    match platform {
        Platform::Virtual if vhost => vec!["-machine", "q35,accel=tcg,memory-backend=mem"],
        Platform::Virtual => vec!["-machine", "q35,accel=tcg"],
        // Remapping of interrupts would take an interrupt controller that TCG does not emulate.
        Platform::SrIov => vec![
            "-machine",
            "q35,accel=tcg,kernel-irqchip=split",
            "-device",
            "intel-iommu,intremap=off",
        ],
    }
}

/// The kernel's command line. Words without a dot reach /init as environment variables.
fn append(spec: &GuestSpec) -> String {
    let mut append = String::from(
        "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable \
         random.trust_cpu=on no_timer_check",
    );
    if spec.platform == Platform::SrIov {
        append.push_str(" intel_iommu=on iommu=pt drivers=igb");
    }
    for (n, nic) in spec.nics.iter().enumerate() {
        append.push_str(&format!(" nic{n}_mtu={}", nic.mtu));
        if !nic.addresses.is_empty() {
            append.push_str(&format!(" nic{n}_addr={}", nic.addresses.join(",")));
        }
    }
    append
}

/// The same guest with one NIC more, its `n`-th from 0.
fn plug(mut command: Cmd, n: usize, nic: &Nic) -> Cmd {
    // vhost=off: one program, QEMU, reads the device, so that stopping it stops reading.
    let on_tap = |tap: &str| format!("tap,id=n{n},ifname={tap},script=no,downscript=no,vhost=off");
    let (netdev, device) = match &nic.backend {
        Backend::Tap(tap) => (on_tap(tap), "virtio-net-pci".to_owned()),
        Backend::Igb(tap) => {
            // Virtual functions need a PCI Express port above the NIC.
            let port = format!("pcie-root-port,id=rp{n},chassis={}", n + 1);
            command = command.arg("-device").arg(port);
            (on_tap(tap), format!("igb,bus=rp{n}"))
        }
        Backend::VhostUser { socket, serve, queues } => {
            // Since QEMU 9.2 it is called reconnect-ms.
            let how = if *serve { "server=on,wait=on" } else { "reconnect=1" };
            let chardev = format!("socket,id=c{n},path={},{how}", socket.display());
            command = command.arg("-chardev").arg(chardev);
            // QEMU 7.2 often crashes when a guest masks the control queue's own interrupt vector
            // (`virtio_net_guest_notifier_mask`).
            let several = if *queues > 1 { ",mq=on,vectors=0" } else { ",vectors=0" };
            let netdev = format!("vhost-user,id=n{n},chardev=c{n},queues={queues}");
            (netdev, format!("virtio-net-pci{several}"))
        }
    };
    let more = if nic.properties.is_empty() { "" } else { "," };
    // No boot ROM: it only costs time.
    let device = format!("{device},netdev=n{n},mac={},romfile={more}{}", nic.mac, nic.properties);
    command.arg("-netdev").arg(netdev).arg("-device").arg(device)
}
