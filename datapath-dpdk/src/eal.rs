//! The environment abstraction layer: DPDK's memory, cores and buses. Once a process.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::DpdkError;
use crate::{log, mbuf};

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages: works everywhere, slower.
    Pages {
        /// Size in MiB.
        mib: u32,
    },
    /// Hugepages, as many as are needed.
    Huge {
        /// MiB taken at start and never given back; `None` takes none in advance.
        reserve_mib: Option<u32>,
    },
}

/// How the EAL starts.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Where memory comes from.
    pub memory: Memory,
    /// Tells two processes apart in hugetlbfs.
    pub file_prefix: String,
    /// Whether PCI devices can be attached. None is until somebody names it: what is bound to
    /// another program's driver stays with that program. vdevs can be attached in any case.
    pub pci: bool,
    /// CPUs that workers poll on: DPDK's own threads stay away from them, if there are others.
    pub avoid_cpus: Vec<u16>,
    /// Arguments we did not foresee, as DPDK's own programs take them.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            memory: Memory::Huge { reserve_mib: None },
            file_prefix: format!("vswitch-{}", std::process::id()),
            pci: true,
            avoid_cpus: Vec::new(),
            extra: Vec::new(),
        }
    }
}

/// A PCI address that no device has. Where one is allowed, no other is probed at the start; those
/// that are attached later are allowed by that.
const NO_DEVICE: &str = "ffff:ff:1f.7";

/// Proof that the EAL runs. It does until the process ends: pools, devices and frames may be used
/// from any thread up to then, so nothing could say when to stop it.
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts the EAL.
    ///
    /// Nothing is shared with other processes and nothing is left in the file system, also where it
    /// fails. No thread of the switch becomes an EAL thread here; workers register themselves, see
    /// [`crate::lcore`]. From now on DPDK's log lines are events of `tracing` with the target `dpdk`.
    ///
    /// # Errors
    /// [`DpdkError::AlreadyStarted`] on the second call, also after a failed first one: libdpdk
    /// cannot take back a start that failed half-way.
    pub fn init(config: &EalConfig) -> Result<Self, DpdkError> {
        let attempted = "starting the DPDK environment (EAL)";
        let (own, main) = own_cpus(&config.avoid_cpus)?;
        let arguments = arguments(config, main)?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(DpdkError::AlreadyStarted);
        }
        log::start()?;
        tracing::debug!(?arguments, "starting the EAL");
        // The calling thread becomes the main lcore and is bound to its CPU, hence a thread of its
        // own, which may end: nothing is ever launched on it. DPDK's other threads inherit what it
        // may use.
        let started = std::thread::Builder::new()
            .name("eal-main".into())
            .spawn(move || {
                sched_setaffinity(Pid::from_raw(0), &own)
                    .map_err(|error| DpdkError::unfit(attempted, error.to_string()))?;
                start(arguments, attempted)
            })
            .map_err(|error| DpdkError::unfit(attempted, error.to_string()))?
            .join();
        remove_runtime_dir();
        match started {
            Ok(result) => result?,
            Err(_) => return Err(DpdkError::unfit(attempted, "its thread panicked")),
        }
        let eal = Self(());
        mbuf::register_note(eal)?;
        Ok(eal)
    }

    /// Whether memory comes from hugepages.
    pub fn has_hugepages(self) -> bool {
        // SAFETY: the EAL runs.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }

    /// How often a second the time stamp counter counts.
    pub fn tsc_hz(self) -> u64 {
        // SAFETY: the EAL runs.
        unsafe { dpdk_sys::rte_get_tsc_hz() }
    }

    /// The version of libdpdk, for example `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: no precondition; the answer is never null.
        let version = unsafe { dpdk_sys::rte_version() };
        // SAFETY: a terminated string that is made once and stays.
        let version = unsafe { CStr::from_ptr(version) };
        version.to_string_lossy().into_owned()
    }
}

/// libdpdk makes a directory for what it shares with other processes, also where it shares nothing
/// or fails to start, and leaves it there.
fn remove_runtime_dir() {
    // SAFETY: no precondition; the answer is never null, and empty before there is a directory.
    let dir = unsafe { dpdk_sys::rte_eal_get_runtime_dir() };
    // SAFETY: a terminated string that is made once and stays.
    let dir = unsafe { CStr::from_ptr(dir) };
    if !dir.is_empty() {
        // Empty unless `extra` asked for something; then it is in use and stays.
        let _ = fs::remove_dir(OsStr::from_bytes(dir.to_bytes()));
    }
}

fn start(arguments: Vec<CString>, attempted: &str) -> Result<(), DpdkError> {
    // libdpdk keeps pointers to its arguments and permutes the array: both are given away.
    let argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
    let argv = argv.leak().as_mut_ptr();
    // SAFETY: `argv` has `argc` terminated strings, all of which live for ever.
    let code = unsafe { dpdk_sys::rte_eal_init(argc, argv) };
    // The cause is in a variable of this thread.
    if code < 0 { Err(DpdkError::last(attempted)) } else { Ok(()) }
}

fn arguments(config: &EalConfig, cpu: usize) -> Result<Vec<CString>, DpdkError> {
    let mut args: Vec<String> = vec![
        "vswitch".into(),
        format!("--lcores=0@{cpu}"),
        format!("--file-prefix={}", config.file_prefix),
        "--no-telemetry".into(),
        log::argument().into(),
    ];
    match config.memory {
        Memory::Pages { mib } => {
            // `--in-memory` is refused together with `--no-huge`; this half of it is enough.
            args.extend(["--no-huge", "--no-shconf", "--iova-mode=va"].map(Into::into));
            args.push(format!("-m{mib}"));
        }
        Memory::Huge { reserve_mib } => {
            args.push("--in-memory".into());
            args.extend(reserve_mib.map(|mib| format!("-m{mib}")));
        }
    }
    args.extend(match config.pci {
        true => vec!["-a".into(), NO_DEVICE.into()],
        false => vec!["--no-pci".into()],
    });
    args.extend(config.extra.iter().cloned());
    args.into_iter().map(|arg| c_string("starting the DPDK environment (EAL)", &arg)).collect()
}

/// A C string, or an error that says what it was for.
pub(crate) fn c_string(attempted: &str, text: &str) -> Result<CString, DpdkError> {
    CString::new(text)
        .map_err(|_| DpdkError::unfit(attempted, format!("{text:?} has a zero byte in it")))
}

/// The CPUs for DPDK's own threads, and the one of them for its main lcore, which it insists on:
/// those that this process may use without the ones to avoid, if any are left.
fn own_cpus(avoid: &[u16]) -> Result<(CpuSet, usize), DpdkError> {
    let attempted = "choosing a CPU for the DPDK environment (EAL)";
    let failed = |error: nix::Error| DpdkError::unfit(attempted, error.to_string());
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(failed)?;
    let mut own = allowed;
    for cpu in avoid {
        // Numbers above the set's end are not in it.
        let _ = own.unset(usize::from(*cpu));
    }
    let first = |set: &CpuSet| (0..CpuSet::count()).find(|cpu| set.is_set(*cpu) == Ok(true));
    match (first(&own), first(&allowed)) {
        (Some(cpu), _) => Ok((own, cpu)),
        (None, Some(cpu)) => Ok((allowed, cpu)),
        (None, None) => Err(DpdkError::unfit(attempted, "this process may use none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_follow_the_configuration() {
        let config = EalConfig {
            memory: Memory::Pages { mib: 64 },
            file_prefix: "x".into(),
            pci: false,
            avoid_cpus: Vec::new(),
            extra: vec!["--vdev=net_null0".into()],
        };
        let args = arguments(&config, 3).unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        for wanted in ["--lcores=0@3", "--no-huge", "-m64", "--no-pci", "--file-prefix=x"] {
            assert!(args.contains(&wanted), "{wanted} is not in {args:?}");
        }
        assert_eq!(args.last(), Some(&"--vdev=net_null0"));
        let huge = EalConfig { memory: Memory::Huge { reserve_mib: None }, ..config };
        let args = arguments(&huge, 0).unwrap();
        assert!(!args.iter().any(|arg| arg.as_c_str() == c"--no-huge"));
    }

    #[test]
    fn a_zero_byte_in_an_argument_is_an_error() {
        let config = EalConfig { extra: vec!["a\0b".into()], ..EalConfig::default() };
        assert!(matches!(arguments(&config, 0), Err(DpdkError::Unfit { .. })));
    }

    #[test]
    fn no_device_is_probed_unless_it_is_named() {
        let args = arguments(&EalConfig::default(), 0).unwrap();
        assert!(args.windows(2).any(|two| two == [c"-a".to_owned(), c"ffff:ff:1f.7".to_owned()]));
    }

    #[test]
    fn own_threads_stay_away_from_workers_where_they_can() {
        let (all, first) = own_cpus(&[]).unwrap();
        assert_eq!(all.is_set(first), Ok(true));
        let cpus: Vec<u16> =
            (0..1024).filter(|cpu| all.is_set(usize::from(*cpu)) == Ok(true)).collect();
        assert_eq!(own_cpus(&cpus).unwrap(), (all, first), "none is left, so all are");
        if cpus.len() > 1 {
            let (rest, main) = own_cpus(&cpus[..1]).unwrap();
            assert_eq!((rest.is_set(first), main), (Ok(false), cpus[1].into()));
        }
    }
}
