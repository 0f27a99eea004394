//! Writes the "newc" cpio format that the kernel unpacks as its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written. Paths are absolute; directories above them are made as needed.
#[derive(Debug)]
pub(super) struct Archive<W: Write> {
    out: W,
    at: usize,
    inode: u32,
    made: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, at: 0, inode: 0, made: BTreeSet::new() }
    }

    /// A regular file.
    pub(super) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> io::Result<()> {
        let mode = REGULAR | if executable { 0o755 } else { 0o644 };
        self.parents(path)?;
        self.entry(path, mode, (0, 0), content)
    }

    /// A symbolic link to `target`.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A directory.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A character device.
    pub(super) fn character(&mut self, path: &str, device: (u32, u32)) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, CHARACTER | 0o600, device, &[])
    }

    /// Whether the path is there already.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.made.contains(path)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("/TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        for (at, _) in path.match_indices('/').skip(1) {
            if !self.made.contains(&path[..at]) {
                self.entry(&path[..at], DIRECTORY | 0o755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.at.next_multiple_of(4) - self.at;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_archive_is_readable_by_cpio() -> anyhow::Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b/c.txt", false, b"hello")?;
        archive.symlink("/a/link", "b/c.txt")?;
        let bytes = archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("x.cpio"), &bytes)?;
        let unpacked = crate::Cmd::new("sh")
            .args(["-c", &format!("cd {} && busybox cpio -i < x.cpio", dir.path().display())])
            .run()?
            .ok()?;
        assert!(unpacked.success());
        assert_eq!(std::fs::read(dir.path().join("a/link"))?, b"hello");
        Ok(())
    }
}
