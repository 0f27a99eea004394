//! QEMU's command line against vhost-user ports.

use super::*;

const SOCKET: &str = "-chardev socket,id=c0,path=/run/vm7.sock,server=on \
                      -netdev vhost-user,id=n0,chardev=c0,queues=2";
const SHARED: &str = "-m 512 -object memory-backend-file,id=mem,size=512M,mem-path=/dev/shm,share=on \
     -machine q35,memory-backend=mem";

fn find(machine: &Machine, mode: &str) -> Vec<Finding> {
    let port = format!(
        "[[port]]\nname = \"vm7\"\ntype = \"vhost-user\"\nbridge = \"br0\"\n\
         socket = \"/run/vm7.sock\"\nmode = \"{mode}\"\nqueues = 2\n"
    );
    machine.find(Area::Vhost, &dpdk(&port))
}

/// A machine on which QEMU runs with these arguments.
fn with(line: &str) -> Machine {
    let machine = Machine::new();
    let line = format!("/usr/bin/qemu-system-x86_64 {line}");
    machine.process(4711, "qemu-system-x86", &line, "Uid:\t64055\t64055\t64055\t64055\n");
    machine
}

#[test]
fn memory_has_to_be_shared() {
    for good in [
        SHARED,
        "-m 512 -object memory-backend-memfd,id=m,size=512M -machine memory-backend=m",
        "-m 512 -object memory-backend-file,id=m,share,size=512M -numa node,memdev=m",
        // As libvirt writes it.
        r#"-object {"qom-type":"memory-backend-memfd","id":"ram0","share":true,"size":1} -numa node,nodeid=0,memdev=ram0"#,
    ] {
        only(&find(&with(&format!("{good} {SOCKET}")), "client"), "vhost", Level::Ok);
    }
    for bad in [
        "-m 512",
        &SHARED.replace("share=on", "share=off"),
        &SHARED.replace(",share=on", ""),
        // It is there, and not used.
        "-m size=512,slots=2 -object memory-backend-memfd,id=m,size=512M",
        "-object memory-backend-memfd,id=m,share=on -numa node,memdev=n -m 512",
        r#"-m 512 -object {"qom-type":"memory-backend-ram","id":"m","size":1} -machine memory-backend=m"#,
    ] {
        let private =
            only(&find(&with(&format!("{bad} {SOCKET}")), "client"), "vhost-share", Level::Error);
        assert!(private.evidence.contains("process 4711"), "{private:#?}");
        assert!(command(&private).contains("size=512,share=on -machine memory-backend=mem"));
    }
}

#[test]
fn both_sides_fit_each_other() {
    let json = r#"-chardev socket,id=c0,path=/run/vm7.sock,server=on -netdev {"type":"vhost-user","chardev":"c0","queues":2,"id":"n"}"#;
    only(&find(&with(&format!("{SHARED} {json}")), "client"), "vhost", Level::Ok);
    let both =
        only(&find(&with(&format!("{SHARED} {SOCKET}")), "server"), "vhost-mode", Level::Error);
    assert_eq!(command(&both), "vswitch-ctl port set vm7 --mode client");
    let many = SOCKET.replace("queues=2", "queues=4");
    let many =
        only(&find(&with(&format!("{SHARED} {many}")), "client"), "vhost-queues", Level::Error);
    assert_eq!(command(&many), "vswitch-ctl port set vm7 --queues 4");
    let other = SOCKET.replace("vm7", "vm8");
    let nobody =
        only(&find(&with(&format!("{SHARED} {other}")), "client"), "vhost-nobody", Level::Note);
    assert!(command(&nobody).contains("path=/run/vm7.sock,server=on"), "{nobody:#?}");
    only(&find(&Machine::new(), "client"), "vhost-nobody", Level::Note);
}

#[test]
fn who_connects_has_to_be_allowed_to() {
    let connects = SOCKET.replace("server=on", "reconnect=1");
    let machine = with(&format!("{SHARED} {connects}"));
    machine.file("/run/vm7.sock", "").mode("/run/vm7.sock", 0o600);
    let denied = only(&find(&machine, "server"), "vhost-permission", Level::Error);
    assert!(denied.evidence.contains("process 4711 is user 64055"), "{denied:#?}");
    assert_eq!(command(&denied), "setfacl -m u:64055:rw /run/vm7.sock");
    machine.mode("/run/vm7.sock", 0o666);
    only(&find(&machine, "server"), "vhost", Level::Ok);

    // The other way round, with the packaged unit's user.
    let machine = with(&format!("{SHARED} {SOCKET}"));
    machine.file("/run/vm7.sock", "").mode("/run/vm7.sock", 0o640);
    machine.process(12, "vswitchd", "vswitchd --config x", "Uid:\t990 990 990 990\nGid:\t990\n");
    let denied = only(&find(&machine, "client"), "vhost-permission", Level::Error);
    assert!(denied.message.starts_with("vswitchd may not connect"), "{denied:#?}");
}

#[test]
fn a_vm_that_is_pinned_to_a_workers_cpu() {
    let machine = Machine::new();
    let on = |cpus: &str| {
        machine.process(9, "qemu-system-x86", "qemu", &format!("Cpus_allowed_list:\t{cpus}\n"));
        machine.find(Area::Cpu, DPDK)
    };
    only(&on("0-7"), "cpu", Level::Ok);
    only(&on("0-1"), "cpu", Level::Ok);
    let shared = only(&on("1-2"), "cpu-shared", Level::Warn);
    assert_eq!(command(&shared), "taskset -acp 0-1,4-7 9");
}
