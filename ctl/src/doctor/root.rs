//! What the kernel shows of a machine in `/proc`, `/sys` and `/dev`.

use std::fs;
use std::path::{Path, PathBuf};

use vswitch_api::config::CpuList;

/// A machine's files. `/` is this machine; tests make up others.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Where a file of that machine is to be found.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// A file's text without the white space around it.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The last part of what a link leads to.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The entries of a directory, sorted.
    pub(super) fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A list of CPUs, as the kernel writes them; empty where there is none.
    pub(super) fn cpus(&self, path: impl AsRef<Path>) -> Vec<u16> {
        self.read(path).map_or_else(Vec::new, |text| cpu_list(&text))
    }

    /// The NUMA nodes with memory, each with its CPUs.
    pub(super) fn nodes(&self) -> Vec<(u16, Vec<u16>)> {
        let dir = "/sys/devices/system/node";
        let number = |name: &String| name.strip_prefix("node")?.parse::<u16>().ok();
        let mut nodes: Vec<_> = self
            .names(dir)
            .iter()
            .filter_map(number)
            .map(|node| (node, self.cpus(format!("{dir}/node{node}/cpulist"))))
            .collect();
        nodes.sort();
        nodes
    }

    /// The NUMA nodes that these CPUs are on.
    pub(super) fn nodes_of(&self, cpus: &[u16]) -> Vec<u16> {
        let on = |(_, theirs): &(u16, Vec<u16>)| cpus.iter().any(|cpu| theirs.contains(cpu));
        self.nodes().into_iter().filter(on).map(|(node, _)| node).collect()
    }

    /// Processes whose name passes.
    pub(super) fn processes(&self, wanted: impl Fn(&str) -> bool) -> Vec<Process> {
        let named = |pid: u32| {
            let name = self.read(format!("/proc/{pid}/comm"))?;
            wanted(&name).then(|| self.process(pid))?
        };
        self.names("/proc").iter().filter_map(|name| named(name.parse().ok()?)).collect()
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let line = fs::read(self.path(format!("/proc/{pid}/cmdline"))).ok()?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let args = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Some(Process { pid, args, status: self.read(format!("/proc/{pid}/status"))? })
    }
}

/// A process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) args: Vec<String>,
    status: String,
}

impl Process {
    /// The values of a line of `/proc/PID/status`.
    pub(super) fn status(&self, key: &str) -> Option<&str> {
        let mut lines = self.status.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }

    /// The numbers of such a line, as of `Uid` and `Groups`.
    pub(super) fn ids(&self, key: &str) -> Vec<u32> {
        let words = self.status(key).unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    /// What follows an argument.
    pub(super) fn after<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.args.iter().zip(self.args.iter().skip(1));
        pairs.filter(move |(word, _)| *word == flag).map(|(_, value)| value.as_str())
    }
}

/// The CPUs of a list.
pub(super) fn cpu_list(text: &str) -> Vec<u16> {
    text.parse::<CpuList>().map_or_else(|_| Vec::new(), |list| list.cpus().to_vec())
}

/// CPUs as a list in words, `0-1,4`.
pub(super) fn cpu_words(cpus: &[u16]) -> String {
    if cpus.is_empty() {
        return "none".into();
    }
    let text = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    text.parse::<CpuList>().map_or(text, |list| list.to_string())
}
