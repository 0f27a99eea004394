//! The machine's CPUs, as the kernel tells of them.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use vswitch_api::config::CpuList;

/// Why a worker cannot have a CPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchCpu {
    /// There is none of that number.
    #[error("CPU {cpu} of cpus = \"{list}\" does not exist: this machine has {present}")]
    Absent {
        /// The CPU.
        cpu: u16,
        /// The list that names it.
        list: String,
        /// The CPUs that there are.
        present: String,
    },
    /// It is switched off.
    #[error("CPU {cpu} of cpus = \"{list}\" is offline")]
    Offline {
        /// The CPU.
        cpu: u16,
        /// The list that names it.
        list: String,
    },
    /// The process is confined to others.
    #[error(
        "CPU {cpu} of cpus = \"{list}\" is not one that vswitchd may use: it is confined to {allowed}"
    )]
    Confined {
        /// The CPU.
        cpu: u16,
        /// The list that names it.
        list: String,
        /// The CPUs it may use.
        allowed: String,
    },
}

impl NoSuchCpu {
    /// What mends it.
    pub fn hint(&self) -> String {
        match self {
            Self::Absent { present, .. } => format!("name CPUs of {present} in cpus in [daemon]"),
            Self::Offline { cpu, .. } => {
                format!("echo 1 > /sys/devices/system/cpu/cpu{cpu}/online, or leave it out of cpus")
            }
            Self::Confined { .. } => "the affinity it was started with (taskset, CPUAffinity= of \
                                      the unit) or its cgroup's cpuset (AllowedCPUs=) says so; \
                                      widen that, or name others in cpus in [daemon]"
                .to_owned(),
        }
    }
}

/// Looks whether workers can be pinned to these CPUs.
///
/// # Errors
/// The first that none can.
pub fn check(list: &CpuList) -> Result<(), NoSuchCpu> {
    let set = |name: &str| -> Option<CpuList> {
        fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).ok()?.parse().ok()
    };
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok();
    check_in(list, set("present").as_ref(), set("online").as_ref(), allowed.as_ref())
}

/// The same with what the kernel tells; what it does not tell is no reason to refuse.
fn check_in(
    list: &CpuList,
    present: Option<&CpuList>,
    online: Option<&CpuList>,
    allowed: Option<&CpuSet>,
) -> Result<(), NoSuchCpu> {
    for cpu in list.cpus().iter().copied() {
        let lacks = |set: &&CpuList| !set.cpus().contains(&cpu);
        if let Some(present) = present.filter(lacks) {
            let present = present.to_string();
            return Err(NoSuchCpu::Absent { cpu, list: list.to_string(), present });
        }
        if online.filter(lacks).is_some() {
            return Err(NoSuchCpu::Offline { cpu, list: list.to_string() });
        }
        if let Some(set) = allowed
            && set.is_set(usize::from(cpu)) != Ok(true)
        {
            let allowed = words(set);
            return Err(NoSuchCpu::Confined { cpu, list: list.to_string(), allowed });
        }
    }
    Ok(())
}

/// A set as a list.
fn words(set: &CpuSet) -> String {
    let cpus = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true));
    let text = cpus.map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(",");
    // As the kernel writes it, with ranges.
    text.parse::<CpuList>().map_or(text, |list| list.to_string())
}

/// How fast a CPU runs now, in MHz, or the first one for a worker that is on none in particular;
/// `None` where the kernel does not say.
pub fn mhz(cpu: Option<u16>) -> Option<f64> {
    mhz_in(&fs::read_to_string("/proc/cpuinfo").ok()?, cpu.unwrap_or(0))
}

fn mhz_in(cpuinfo: &str, cpu: u16) -> Option<f64> {
    let mut lines = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        Some((key.trim(), value.trim()))
    });
    lines.find(|(key, value)| *key == "processor" && value.parse() == Ok(cpu))?;
    lines
        .take_while(|(key, _)| *key != "processor")
        .find(|(key, _)| *key == "cpu MHz")?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_a_worker_cannot_have_is_named_with_the_reason() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        let (present, online) = (list("0-3"), list("0-1,3"));
        let mut allowed = CpuSet::new();
        for cpu in [0, 2, 3] {
            allowed.set(cpu).unwrap();
        }
        let all = |text: &str| check_in(&list(text), Some(&present), Some(&online), Some(&allowed));
        assert_eq!(all("0,3"), Ok(()));
        let error = all("3-7").unwrap_err();
        let words = "CPU 4 of cpus = \"3-7\" does not exist: this machine has 0-3";
        assert_eq!(error.to_string(), words);
        let error = all("2").unwrap_err();
        assert!(error.to_string().ends_with("is offline"), "{error}");
        assert!(error.hint().contains("cpu2/online"), "{}", error.hint());
        let error = all("0-1").unwrap_err();
        assert!(error.to_string().ends_with("it is confined to 0,2-3"), "{error}");
        assert_eq!(check_in(&list("900"), None, None, None), Ok(()), "the kernel told nothing");
    }

    #[test]
    fn the_clock_is_that_of_the_cpu() {
        let text = "processor\t: 0\ncpu MHz\t\t: 2500.5\n\nprocessor\t: 1\nflags\t\t: fpu\n\n\
                    processor\t: 2\ncpu MHz\t\t: 1200\n";
        assert_eq!(mhz_in(text, 0), Some(2500.5));
        assert_eq!(mhz_in(text, 1), None, "not the next one's");
        assert_eq!(mhz_in(text, 2), Some(1200.0));
        assert_eq!(mhz_in(text, 3), None);
    }
}
