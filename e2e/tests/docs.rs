//! What the documents say is run as it is written.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::bins::binary;
use vswitch_e2e::guest::ensure_image;
use vswitch_e2e::{Cmd, Daemon, Need, Output, need, until_ok};

/// A Markdown file's blocks of one language, in order.
fn blocks(file: &str, language: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    let opening = format!("```{language}\n");
    while let Some((_, after)) = rest.split_once(&opening) {
        let (block, after) = after.split_once("```").context("an open block")?;
        blocks.push(block.to_owned());
        rest = after;
    }
    Ok(blocks)
}

#[test]
fn a_vm_is_plugged_in_as_the_document_says() -> Result<()> {
    need!(
        "a_vm_is_plugged_in_as_the_document_says",
        Need::Root,
        Need::Tun,
        Need::Program("qemu-system-x86_64", "qemu-system-x86"),
        Need::Program("busybox", "busybox-static"),
        Need::Program("iperf3", "iperf3"),
        Need::Binaries
    );
    let steps = blocks("qemu-libvirt.md", "sh")?;
    ensure!(steps.len() == 6, "the document has other steps than the test: {}", steps.len());
    let image = ensure_image(&|step| eprintln!("guest image: {step}"))?;
    let disk = format!(
        "-kernel {} -initrd {} -append nic0_addr=192.0.2.7/24",
        image.kernel.display(),
        image.initramfs.display()
    );
    let mut daemon = Daemon::start("version = 1\n")?;
    let dir = tempfile::tempdir()?;
    let host = daemon.netns().context("the daemon has a namespace")?.to_owned();
    let run = |step: &str| -> Result<Output> {
        let tools = binary("vswitch-ctl")?;
        let tools = tools.parent().context("the directory of the binaries")?;
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
        // Not `ip netns exec`: its own mounts would hide the namespace that the document makes.
        Cmd::new("nsenter")
            .arg(format!("--net=/run/netns/{host}"))
            .args(["bash", "-ec"])
            .arg(format!("cd {}\n{step}", dir.path().display()))
            .env("PATH", &path)
            .env("DISK", &disk)
            .env("VSWITCH_RUN_DIR", &daemon.run_dir().display().to_string())
            .limit(Duration::from_secs(60))
            .run()?
            .ok()
    };

    // If a step fails, QEMU must not stay.
    let result = (|| -> Result<()> {
        for step in &steps[..4] {
            run(step)?;
        }
        until_ok(Duration::from_secs(120), "the VM to answer", || {
            let ping = Cmd::new("ping").args(["-n", "-c", "1", "-W", "1", "192.0.2.7"]);
            ping.netns("web").run()?.ok()
        })?;
        let shown = run(&steps[4])?;
        for part in ["vm7", "netdev", "52:54:00:00:00:07", "tso4"] {
            ensure!(shown.stdout.contains(part), "no {part} in\n{}", shown.stdout);
        }
        run(&steps[5]).map(drop)
    })();
    if result.is_err() {
        let _ = run("kill \"$(cat vm7.pid)\"");
        let _ = Cmd::new("ip").args(["netns", "delete", "web"]).run();
    }
    result?;
    let left = daemon.ctl_json("port show")?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    daemon.settle()?.check()?;
    daemon.stop()
}

#[test]
fn the_documented_configuration_is_valid() -> Result<()> {
    need!("the_documented_configuration_is_valid", Need::Binaries);
    let dir = tempfile::tempdir()?;
    for (n, text) in blocks("qemu-libvirt.md", "toml")?.iter().enumerate() {
        let file = dir.path().join(format!("{n}.toml"));
        fs::write(&file, text)?;
        Cmd::new(binary("vswitch-ctl")?)
            .args(["config", "validate"])
            .arg(file.display())
            .run()?
            .ok()?;
    }
    Ok(())
}
