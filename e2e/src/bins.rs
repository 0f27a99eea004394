//! Where cargo puts what it builds, found from the running executable.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The directory of the running profile, for example `target/debug`.
///
/// # Errors
/// The executable does not lie in a cargo target directory.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this executable lies")?;
    // target/debug/xtask, target/debug/deps/test-0123 or target/debug/examples/x
    let dir = exe.parent().context("the executable has no directory")?;
    let inner = dir.ends_with("deps") || dir.ends_with("examples");
    let profile = if inner { dir.parent() } else { Some(dir) };
    Ok(profile.context("the executable has no profile directory")?.to_owned())
}

/// Cargo's target directory, where caches may live too.
///
/// # Errors
/// As [`profile_dir`].
pub fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    let tagged = profile.ancestors().find(|d| d.join("CACHEDIR.TAG").is_file());
    Ok(tagged.or_else(|| profile.parent()).map(Path::to_owned).unwrap_or(profile))
}

/// The built executable `name` of the same profile; `VSWITCH_BIN_DIR` overrides where it is.
///
/// # Errors
/// It is not there; the message says which command builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("VSWITCH_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?,
    };
    let path = dir.join(name);
    if !path.is_file() {
        let release = if dir.ends_with("release") { " --release" } else { "" };
        bail!("{} is missing: build it with `cargo build -p {name}{release}`", path.display());
    }
    Ok(path)
}
