//! The file: a gzipped tar archive that is whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use vswitch_api::{ApiError, Code};

/// An archive under construction. One that is dropped before its end takes its file along.
pub(super) struct Archive {
    tar: Option<tar::Builder<GzEncoder<Box<dyn Write>>>>,
    /// The directory that everything in it is in.
    top: String,
    path: PathBuf,
    /// Whether the file is ours to remove.
    made: bool,
}

impl Archive {
    /// Makes the file, which must not be there; `-` is standard output.
    ///
    /// # Errors
    /// There is such a file, or the system refuses.
    pub(super) fn create(path: &Path, top: &str) -> Result<Self, ApiError> {
        let (sink, made): (Box<dyn Write>, bool) = if path == Path::new("-") {
            (Box::new(io::stdout()), false)
        } else {
            let (file, made) = open(path)?;
            (Box::new(file), made)
        };
        let tar = tar::Builder::new(GzEncoder::new(sink, Compression::default()));
        Ok(Self { tar: Some(tar), top: top.to_owned(), path: path.to_owned(), made })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&mut self, name: &str, text: &str) -> Result<(), ApiError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now);
        let name = format!("{}/{name}", self.top);
        let Some(tar) = &mut self.tar else { return Ok(()) };
        let added = tar.append_data(&mut header, name, text.as_bytes());
        added.map_err(|error| failed("write", &self.path, &error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        let Some(tar) = self.tar.take() else { return Ok(()) };
        let ended = tar.into_inner().and_then(GzEncoder::finish).and_then(|mut sink| sink.flush());
        ended.map_err(|error| failed("write", &self.path, &error))?;
        self.made = false;
        Ok(())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.made {
            // Half an archive helps nobody; that it cannot be removed changes nothing of the error.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file, and whether it is new. Devices and pipes are written to as they are.
fn open(path: &Path) -> Result<(File, bool), ApiError> {
    let mut new = OpenOptions::new();
    // What is in it concerns nobody else on this machine.
    match new.write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let special = fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
            if !special {
                let message = format!("{} exists already", path.display());
                let hint = "name another file, or remove it";
                return Err(ApiError::new(Code::Local, message).with_hint(hint));
            }
            let file = OpenOptions::new().write(true).open(path);
            file.map(|file| (file, false)).map_err(|error| failed("open", path, &error))
        }
        Err(error) => Err(failed("make", path, &error)),
    }
}

fn failed(attempted: &str, path: &Path, error: &io::Error) -> ApiError {
    let message = format!("cannot {attempted} {}: {error}", path.display());
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "nothing is left of it; name a file on a disk with room, or - for standard output"
        }
        _ => "name a file in a directory that you may write to: vswitch-ctl support-bundle FILE",
    };
    ApiError::new(Code::Local, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ended_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar.gz");
        let mut archive = Archive::create(&path, "a").unwrap();
        archive.add("b", "text").unwrap();
        assert!(path.exists());
        drop(archive);
        assert!(!path.exists());
        Archive::create(&path, "a").unwrap().finish().unwrap();
        assert!(path.exists(), "one that was ended stays");
        assert!(Archive::create(&path, "a").is_err(), "and is not written over");
        assert!(path.exists(), "nor removed");
    }
}
