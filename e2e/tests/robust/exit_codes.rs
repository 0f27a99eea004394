//! Each exit code of `vswitch-ctl`, from the real daemon.

use anyhow::{Result, ensure};
use vswitch_e2e::{Cmd, Daemon, Need, bins, need};

use crate::rig::{books, wait_status};

#[test]
fn every_exit_code_is_given_once() -> Result<()> {
    need!("every_exit_code_is_given_once", Need::Root, Need::Tun, Need::Binaries);
    let text = "version = 1\n[[bridge]]\nname = \"br0\"\n";
    let mut daemon = Daemon::start(text)?;
    let ctl = |args: &str, code: i32| {
        let out = daemon.ctl(args)?.code_is(code)?;
        let silent = code == 0 || code == 1 || code == 3;
        ensure!(silent || out.stderr.starts_with("error["), "{out}");
        ensure!(!out.stderr.contains("panicked"), "{out}");
        Ok(out)
    };
    ctl("status", 0)?;
    ctl("bridge show br0", 0)?;
    // "Different", and "not valid".
    let other = daemon.run_dir().join("other.toml");
    std::fs::write(&other, format!("{text}ageing = \"60s\"\n"))?;
    ctl(&format!("config diff {}", other.display()), 1)?;
    std::fs::write(&other, "version = 1\n[[bridge]]\n")?;
    ctl(&format!("config validate {}", other.display()), 1)?;
    ctl("port ad web", 2)?;
    ctl("port show nobody", 4)?;
    ctl("bridge del nobody", 4)?;
    ctl("bridge add br0", 6)?;
    ctl(&format!("config apply {}", other.display()), 6)?;
    let out = ctl("port add late --type netdev --device late0 --bridge br0", 7)?;
    ensure!(out.stderr.contains("late0"), "{out}");
    wait_status(&daemon, 3)?;
    ctl("port del late", 0)?;
    wait_status(&daemon, 0)?;
    let nowhere = daemon.run_dir().join("nowhere");
    let out = Cmd::new(bins::binary("vswitch-ctl")?)
        .arg("--run-dir")
        .arg(nowhere.display())
        .arg("status")
        .run()?
        .code_is(5)?;
    ensure!(out.stderr.starts_with("error[E0911]") && out.stderr.contains("hint: "), "{out}");
    books(&daemon)?;
    daemon.stop()
}
