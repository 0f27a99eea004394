//! Debian packages, downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Cmd;

/// Where packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// What the machine's apt is set up for.
    Configured,
    /// Debian 12's backports, which the machine's apt does not have to know.
    Backports,
}

/// The one line of sources with the backports. Its packages are signed like all of Debian's.
const BACKPORTS: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
    http://deb.debian.org/debian bookworm-backports main\n";

/// Makes `root` the directory in which the packages that `what` answers lie unpacked, unless that
/// was done before. `then` gets the new directory, which has another name yet.
///
/// # Errors
/// The download failed, or the disk is full; nothing but scratch files is left then.
pub(super) fn unpack(
    root: &Path,
    what: impl FnOnce() -> Result<(Source, Vec<String>)>,
    then: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if root.join("complete").is_file() {
        return Ok(());
    }
    let (source, packages) = what()?;
    let fresh = root.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    let debs = fresh.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
    let options = source.options(&debs)?;
    if source == Source::Backports {
        sh(&format!("apt-get {options} update"))?;
    }
    let names = packages.join(" ");
    let (shown, into) = (debs.display(), fresh.display());
    sh(&format!("cd '{shown}' && apt-get {options} download {names}"))
        .with_context(|| format!("cannot download {names} (`apt-get update` may help)"))?;
    sh(&format!("for deb in '{shown}'/*.deb; do dpkg-deb -x \"$deb\" '{into}' || exit; done"))?;
    fs::remove_dir_all(&debs).context("cannot remove the packages")?;
    then(&fresh)?;
    fs::write(fresh.join("complete"), &names).context("cannot mark it complete")?;
    let _ = fs::remove_dir_all(root);
    fs::rename(&fresh, root).with_context(|| format!("cannot make {}", root.display()))
}

impl Source {
    /// The options that lead apt there, with lists of its own in `dir`.
    fn options(self, dir: &Path) -> Result<String> {
        // The sandbox user of apt cannot write to the target directory.
        let mut options = "-q -o APT::Sandbox::User=root".to_owned();
        if self == Self::Backports {
            let (list, lists): (PathBuf, PathBuf) = (dir.join("backports.list"), dir.join("lists"));
            fs::create_dir_all(lists.join("partial")).context("cannot make apt's lists")?;
            fs::write(&list, BACKPORTS).context("cannot write apt's list of sources")?;
            options.push_str(&format!(
                " -o Dir::Etc::sourcelist='{}' -o Dir::Etc::sourceparts=/dev/null \
                 -o Dir::State::lists='{}'",
                list.display(),
                lists.display()
            ));
        }
        Ok(options)
    }
}

fn sh(script: &str) -> Result<()> {
    Cmd::new("sh").args(["-c", script]).limit(Duration::from_secs(600)).run()?.ok().map(drop)
}
