//! How much memory DPDK gets and of which pages: decided before the EAL starts, as a start that
//! failed half-way cannot be taken back.

use std::fmt;
use std::fs;
use std::path::Path;

use switch_core::datapath::BackendWarning;

use crate::eal::Memory;

/// Bytes of one mbuf in a pool, with its headroom and the pool's own words about it.
const MBUF_BYTES: u64 = 2368 + 8;
/// What DPDK itself takes, and what each queue of each port may.
const OWN_BYTES: u64 = 16 << 20;
const QUEUE_BYTES: u64 = 512 << 10;
/// Ordinary memory that is set aside and not used until a device wants it costs nothing.
const PAGES_ROOM_MIB: u64 = 256;

/// Mbufs for bursts and caches of a worker.
const WORKER_MBUFS: u64 = 1024;
/// Mbufs that a queue holds for what is to come, and as many on their way out: least, and what
/// drivers with deep rings (AF_XDP: 2,048 and more) like.
const QUEUE_MBUFS: [u64; 2] = [2048, 4096];
/// Mbufs on top of these: at least, and so that a good many ports can be added later.
const MORE_MBUFS: [u64; 2] = [4096, 32_768];
/// A larger pool helps nobody.
const MBUFS_MAX: u64 = 1 << 23;

/// Where memory is to come from, as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Hugepages if enough are free, else ordinary pages.
    Auto,
    /// Ordinary pages.
    Off,
    /// So many MiB of hugepages, taken at the start.
    MiB(u32),
}

/// What the pool has to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Ports of the configuration.
    pub ports: usize,
    /// Workers, each of which has a queue of each port.
    pub workers: usize,
}

/// What is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For the EAL.
    pub memory: Memory,
    /// For the pool.
    pub mbufs: u32,
    /// Where the pool is best; `None` is anywhere.
    pub numa_node: Option<u16>,
    /// What was found, is needed and would be liked, in words.
    pub found: String,
    /// What the switch goes without.
    pub warning: Option<BackendWarning>,
}

/// Too few hugepages for what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TooFew {
    /// What was asked for, and what there is.
    pub message: String,
    /// The command that mends it.
    pub hint: String,
}

impl Load {
    /// The least a pool can do with, and what is liked.
    fn mbufs(self) -> [u64; 2] {
        let (ports, workers) = (self.ports as u64, self.workers.max(1) as u64);
        let of = |i: usize| {
            let queues = ports.saturating_mul(workers).saturating_mul(QUEUE_MBUFS[i]);
            queues.saturating_add(workers * WORKER_MBUFS + MORE_MBUFS[i]).min(MBUFS_MAX)
        };
        [of(0), of(1)]
    }

    /// Bytes for all but the pool.
    fn overhead(self) -> u64 {
        OWN_BYTES + (self.ports * self.workers.max(1)) as u64 * QUEUE_BYTES
    }

    fn bytes(self, mbufs: u64) -> u64 {
        self.overhead() + mbufs * MBUF_BYTES
    }

    /// How many mbufs fit beside everything else.
    fn fitting(self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.overhead()) / MBUF_BYTES
    }
}

/// Decides where memory comes from. `available` are the bytes of ordinary memory that may be had,
/// `node` is the NUMA node that all workers are on.
///
/// # Errors
/// More hugepages are asked for than are free, or fewer than the configuration needs.
pub fn plan(
    ask: Ask,
    load: Load,
    pages: &Hugepages,
    available: u64,
    node: Option<u16>,
) -> Result<Plan, TooFew> {
    let [least, liked] = load.mbufs();
    let free = pages.free();
    // Where another node has to help out, the pool may be anywhere.
    let place = |bytes: u64| node.filter(|node| pages.free_on(*node) >= bytes);
    let huge = |reserve_mib: Option<u32>, mbufs: u64| Plan {
        memory: Memory::Huge { reserve_mib },
        mbufs: mbufs as u32,
        numa_node: place(load.bytes(mbufs)),
        found: pages.words(load.bytes(least), load.bytes(liked)),
        warning: None,
    };
    match ask {
        Ask::MiB(mib) => {
            let bytes = u64::from(mib) << 20;
            let needs = load.bytes(least).div_ceil(1 << 20);
            if u64::from(mib) < needs {
                let message = format!(
                    "hugepages = \"{mib} MiB\" is too little: {} ports and {} workers need \
                     {needs} MiB",
                    load.ports, load.workers
                );
                let hint = format!("set hugepages = \"{needs} MiB\" or \"auto\" in [dpdk]");
                return Err(TooFew { message, hint });
            }
            if free < bytes {
                let message = format!(
                    "hugepages = \"{mib} MiB\" are {} of {}, and {} are free",
                    pages.count(bytes),
                    Size(pages.default_kib << 10),
                    pages.count_free(),
                );
                let command = pages.command(bytes);
                let hint = format!("{command}, or set hugepages = \"auto\" in [dpdk]");
                return Err(TooFew { message, hint });
            }
            Ok(huge(Some(mib), load.fitting(bytes).min(liked)))
        }
        Ask::Auto if free >= load.bytes(least) => Ok(huge(None, load.fitting(free).min(liked))),
        Ask::Auto | Ask::Off => {
            let mbufs = if load.bytes(liked) <= available / 4 { liked } else { least };
            let mib = load.bytes(mbufs).div_ceil(1 << 20) + PAGES_ROOM_MIB;
            let found = pages.words(load.bytes(least), load.bytes(liked));
            let warning = (ask == Ask::Auto).then(|| BackendWarning {
                subject: "memory".to_owned(),
                message: format!("ordinary pages, which is slower: {found}"),
                hint: Some(format!(
                    "{} && systemctl restart vswitchd; hugepages = \"off\" in \
                     [dpdk] if that is meant to be",
                    pages.command(load.bytes(liked))
                )),
            });
            Ok(Plan {
                memory: Memory::Pages { mib: u32::try_from(mib).unwrap_or(u32::MAX) },
                mbufs: mbufs as u32,
                numa_node: None,
                found,
                warning,
            })
        }
    }
}

/// Hugepages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfSize {
    kib: u64,
    total: u64,
    /// Free, and not promised to anybody.
    free: u64,
    /// Free ones of each NUMA node.
    nodes: Vec<(u16, u64)>,
}

/// The hugepages of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugepages {
    sizes: Vec<OfSize>,
    /// The size that `vm.nr_hugepages` counts.
    default_kib: u64,
}

impl Hugepages {
    /// As the kernel tells of them now. None where it knows of none.
    pub fn find() -> Self {
        Self::under(Path::new("/sys"), &fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn under(sys: &Path, meminfo: &str) -> Self {
        let default_kib = meminfo_kib(meminfo, "Hugepagesize").unwrap_or(2048);
        let mut sizes: Vec<OfSize> = directories(&sys.join("kernel/mm/hugepages"), "hugepages-")
            .filter_map(|(dir, size)| {
                let number = |name: &str| -> Option<u64> {
                    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
                };
                Some(OfSize {
                    kib: size.strip_suffix("kB")?.parse().ok()?,
                    total: number("nr_hugepages")?,
                    free: number("free_hugepages")?
                        .saturating_sub(number("resv_hugepages").unwrap_or(0)),
                    nodes: Vec::new(),
                })
            })
            .collect();
        sizes.sort_by_key(|size| size.kib);
        for (dir, node) in directories(&sys.join("devices/system/node"), "node") {
            let Ok(node) = node.parse() else { continue };
            for size in &mut sizes {
                let file = dir.join(format!("hugepages/hugepages-{}kB/free_hugepages", size.kib));
                let free = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
                size.nodes.extend(free.map(|free| (node, free)));
            }
        }
        Self { sizes, default_kib }
    }

    /// Free bytes of all sizes.
    fn free(&self) -> u64 {
        self.sizes.iter().map(|size| size.free * (size.kib << 10)).sum()
    }

    fn free_on(&self, node: u16) -> u64 {
        let of = |size: &OfSize| {
            let free = size.nodes.iter().find(|(other, _)| *other == node).map_or(0, |(_, n)| *n);
            free.min(size.free) * (size.kib << 10)
        };
        self.sizes.iter().map(of).sum()
    }

    /// How many pages of the default size so many bytes are.
    fn count(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.default_kib << 10)
    }

    /// The free ones, as if all were of the default size.
    fn count_free(&self) -> u64 {
        self.free() / (self.default_kib << 10)
    }

    fn words(&self, least: u64, liked: u64) -> String {
        format!(
            "{} hugepages of {} are free, {} are needed and {} would be liked",
            self.count_free(),
            Size(self.default_kib << 10),
            self.count(least),
            self.count(liked)
        )
    }

    /// The command after which so many bytes are free.
    fn command(&self, bytes: u64) -> String {
        let total = self.sizes.iter().find(|size| size.kib == self.default_kib);
        let total = total.map_or(0, |size| size.total);
        let missing = self.count(bytes.saturating_sub(self.free()));
        format!("sysctl vm.nr_hugepages={}", total + missing)
    }
}

/// A size in the largest unit that fits.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => {
                write!(f, "{} GiB", bytes >> 30)
            }
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// Bytes of ordinary memory that may be had without pushing others out.
pub fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo_kib(&meminfo, "MemAvailable").unwrap_or(0) << 10
}

/// The NUMA node that all of these CPUs are on, if it is one.
pub fn node_of(cpus: &[u16]) -> Option<u16> {
    let mut nodes = cpus.iter().map(|cpu| {
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
        directories(Path::new(&dir), "node").find_map(|(_, node)| node.parse().ok())
    });
    let first: Option<u16> = nodes.next()?;
    nodes.all(|node| node == first).then_some(first)?
}

fn meminfo_kib(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The entries of a directory whose names begin so, with the rest of the name.
fn directories(
    dir: &Path,
    start: &'static str,
) -> impl Iterator<Item = (std::path::PathBuf, String)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((entry.path(), name.strip_prefix(start)?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemAvailable:   16777216 kB\nHugepagesize:       2048 kB\n";
    const LOAD: Load = Load { ports: 2, workers: 1 };
    const GIB: u64 = 1 << 30;

    fn pages(total: u64, free: u64) -> Hugepages {
        let size = OfSize { kib: 2048, total, free, nodes: vec![(0, free)] };
        Hugepages { sizes: vec![size], default_kib: 2048 }
    }

    fn auto(free: u64) -> Plan {
        plan(Ask::Auto, LOAD, &pages(free, free), 16 * GIB, Some(0)).unwrap()
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let global = "kernel/mm/hugepages/hugepages-";
        for (size, total, free, promised) in [("2048kB", 10, 8, 3), ("1048576kB", 1, 1, 0)] {
            write(&format!("{global}{size}/nr_hugepages"), &format!("{total}\n"));
            write(&format!("{global}{size}/free_hugepages"), &format!("{free}\n"));
            write(&format!("{global}{size}/resv_hugepages"), &format!("{promised}\n"));
        }
        let node = "devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages";
        write(node, "4\n");
        let found = Hugepages::under(root.path(), MEMINFO);
        assert_eq!(found.free(), 5 * (2 << 20) + GIB, "what is promised is not free");
        assert_eq!((found.free_on(1), found.free_on(0)), (4 * (2 << 20), 0));
        assert_eq!(found.command(2 * GIB), "sysctl vm.nr_hugepages=517");
        assert_eq!(Hugepages::under(Path::new("/nowhere"), "").free(), 0);
    }

    #[test]
    fn auto_takes_hugepages_if_there_are_enough() {
        let [least, liked] = LOAD.mbufs();
        let needed = LOAD.bytes(least).div_ceil(2 << 20);
        for (free, huge) in [(0, false), (needed - 1, false), (needed, true), (4096, true)] {
            let plan = auto(free);
            assert_eq!(matches!(plan.memory, Memory::Huge { reserve_mib: None }), huge, "{free}");
            assert_eq!(plan.warning.is_none(), huge);
            assert!(u64::from(plan.mbufs) >= least);
            assert!(!huge || LOAD.bytes(plan.mbufs.into()) <= free * (2 << 20), "{free}");
        }
        assert_eq!(u64::from(auto(4096).mbufs), liked);
        assert_eq!(auto(4096).numa_node, Some(0));
        let warning = auto(1).warning.unwrap();
        assert!(warning.message.contains("1 hugepages of 2 MiB are free"), "{warning:?}");
        let wanted = LOAD.bytes(liked).div_ceil(2 << 20);
        let hint = warning.hint.unwrap();
        assert!(hint.starts_with(&format!("sysctl vm.nr_hugepages={wanted} && ")), "{hint}");
    }

    #[test]
    fn ordinary_pages_that_were_asked_for_are_no_warning() {
        let plan = plan(Ask::Off, LOAD, &pages(0, 0), 16 * GIB, None).unwrap();
        assert_eq!(plan.warning, None);
        let Memory::Pages { mib } = plan.memory else { panic!("{plan:?}") };
        assert!(u64::from(mib) << 20 > LOAD.bytes(plan.mbufs.into()));
    }

    #[test]
    fn a_small_machine_gets_a_small_pool() {
        let small = plan(Ask::Off, LOAD, &pages(0, 0), 128 << 20, None).unwrap();
        assert_eq!(u64::from(small.mbufs), LOAD.mbufs()[0]);
    }

    #[test]
    fn too_few_for_what_was_asked_for_is_an_error_with_the_command() {
        let error = plan(Ask::MiB(512), LOAD, &pages(100, 60), 16 * GIB, None).unwrap_err();
        assert_eq!(error.message, "hugepages = \"512 MiB\" are 256 of 2 MiB, and 60 are free");
        assert!(error.hint.starts_with("sysctl vm.nr_hugepages=296, or "), "{error:?}");
        let error = plan(Ask::MiB(16), LOAD, &pages(100, 60), 16 * GIB, None).unwrap_err();
        assert!(error.message.contains("is too little"), "{error}");
        let fits = plan(Ask::MiB(128), LOAD, &pages(100, 64), 16 * GIB, None).unwrap();
        assert_eq!(fits.memory, Memory::Huge { reserve_mib: Some(128) });
        assert!(LOAD.bytes(fits.mbufs.into()) <= 128 << 20);
    }

    #[test]
    fn the_pool_grows_with_ports_and_workers_and_has_an_end() {
        let mbufs = |ports, workers| Load { ports, workers }.mbufs()[1];
        assert!(mbufs(8, 1) > mbufs(2, 1) && mbufs(2, 4) > mbufs(2, 1));
        assert_eq!(mbufs(65_536, 64), MBUFS_MAX);
        assert_eq!(mbufs(0, 0), mbufs(0, 1), "no list of CPUs is one worker");
    }

    #[test]
    fn cpus_of_one_node_have_one() {
        assert_eq!(node_of(&[]), None);
        assert_eq!(node_of(&[60_000]), None, "no such CPU");
    }
}
