//! VDE's switch, which ends with its standard input.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use vswitch_e2e::Netns;

/// A `vde_switch` with two TAP devices; ended when dropped.
#[derive(Debug)]
pub struct Vde {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Vde {
    /// Starts one in a namespace, where it makes its devices, with `before` in front of it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(home: &Netns, before: &[&str], devices: [&str; 2]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vst-vde-").tempdir()?;
        let child = Command::new("ip")
            .args(["netns", "exec", home.name()])
            .args(before)
            .arg("vde_switch")
            .args(devices.iter().flat_map(|device| ["-tap", device]))
            .arg("-s")
            .arg(dir.path().join("sock"))
            // The pipe closes when this process ends, however it ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start vde_switch")?;
        Ok(Self { child, _dir: dir })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vde {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
