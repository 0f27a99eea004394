//! The CPUs of workers: there, isolated, not throttled, and not given to somebody else, too.

use vswitch_api::config::Idle;
use vswitch_api::counted;

use super::facts::Facts;
use super::finding::{Area, Finding, Fix, Level};
use super::root::{Root, cpu_list, cpu_words};
use super::vhost::is_qemu;

const CPUS: &str = "/sys/devices/system/cpu";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let cpus = facts.worker_cpus();
    let mut found = Vec::new();
    found.extend(absent(facts, &cpus));
    found.extend(quota(facts));
    found.extend(shared_with_guests(facts, &cpus));
    found.extend(siblings(facts, &cpus));
    found.extend(not_isolated(facts, &cpus));
    found.extend(unpinned(facts, &cpus));
    if found.is_empty() {
        let message = match cpus.as_slice() {
            [] => "workers are not pinned and not throttled".to_owned(),
            cpus => format!("workers have CPUs {} to themselves", cpu_words(cpus)),
        };
        let online = cpu_words(&facts.root.cpus(format!("{CPUS}/online")));
        let ok = Finding::new(Area::Cpu, Level::Ok, "cpu", message);
        found.push(ok.seen(format!("CPUs {online} are online")));
    }
    found
}

fn finding(level: Level, id: &'static str, message: String) -> Finding {
    Finding::new(Area::Cpu, level, id, message)
}

fn absent(facts: &Facts, cpus: &[u16]) -> Option<Finding> {
    let online = facts.root.cpus(format!("{CPUS}/online"));
    let missing: Vec<_> = cpus.iter().copied().filter(|cpu| !online.contains(cpu)).collect();
    if missing.is_empty() || online.is_empty() {
        return None;
    }
    let message = format!("cpus in [daemon] names {}, which are not online", cpu_words(&missing));
    let seen = format!("online are {}", cpu_words(&online));
    let found = finding(Level::Error, "cpu-absent", message).seen(seen);
    Some(found.fix(Fix::advice("name others in cpus in [daemon]")))
}

/// A worker that is throttled loses whole bursts, tens of milliseconds at a time.
fn quota(facts: &Facts) -> Option<Finding> {
    let process = facts.daemon_process();
    let pid = process.as_ref().map_or_else(|| "self".to_owned(), |found| found.pid.to_string());
    let quota = Quota::tightest(&facts.root, &pid)?;
    let live = facts.live().map(|live| usize::from(live.status.workers));
    let workers = live.unwrap_or_else(|| facts.worker_cpus().len().max(1));
    let throttled = process.is_some() && quota.throttled > 0;
    if quota.cpus >= workers as f64 && !throttled {
        return None;
    }
    let who = if process.is_some() { "vswitchd's" } else { "this command's" };
    let message = format!(
        "{who} control group allows {:.2} CPUs for {}",
        quota.cpus,
        counted(workers, "worker")
    );
    let seen = format!("{}, throttled {}", quota.file, counted(quota.throttled, "time"));
    let fix = "systemctl set-property vswitchd.service CPUQuota= (in a container: no CPU limit, or \
               whole CPUs by the static CPU manager)";
    Some(finding(Level::Warn, "cpu-quota", message).seen(seen).fix(Fix::advice(fix)))
}

/// How much time a control group has.
struct Quota {
    cpus: f64,
    file: String,
    throttled: u64,
}

impl Quota {
    /// The tightest of those that a process is in.
    fn tightest(root: &Root, pid: &str) -> Option<Self> {
        let groups = root.read(format!("/proc/{pid}/cgroup"))?;
        let mut found: Vec<Self> = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let v2 = controllers.is_empty();
            if !v2 && !controllers.split(',').any(|name| name == "cpu") {
                continue;
            }
            let top = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" };
            let mut path = path.trim_end_matches('/');
            loop {
                let dir = format!("{top}{path}");
                found.extend(if v2 { Self::v2(root, &dir) } else { Self::v1(root, &dir) });
                let Some((above, _)) = path.rsplit_once('/') else { break };
                path = above;
            }
        }
        found.into_iter().min_by(|a, b| a.cpus.total_cmp(&b.cpus))
    }

    /// `200000 100000` is two CPUs; `max 100000` is no limit.
    fn v2(root: &Root, dir: &str) -> Option<Self> {
        let file = format!("{dir}/cpu.max");
        let text = root.read(&file)?;
        let (quota, period) = text.split_once(' ')?;
        Self::of(root, dir, file, quota.parse().ok()?, period.parse().ok()?)
    }

    /// A quota of -1 is no limit.
    fn v1(root: &Root, dir: &str) -> Option<Self> {
        let file = format!("{dir}/cpu.cfs_quota_us");
        let (quota, period) =
            (root.number(&file)?, root.number(format!("{dir}/cpu.cfs_period_us"))?);
        Self::of(root, dir, file, quota as f64, period as f64)
    }

    fn of(root: &Root, dir: &str, file: String, quota: f64, period: f64) -> Option<Self> {
        let stat = root.read(format!("{dir}/cpu.stat")).unwrap_or_default();
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        let throttled = throttled.and_then(|text| text.parse().ok()).unwrap_or(0);
        (period > 0.0).then(|| Self { cpus: quota / period, file, throttled })
    }
}

/// Of a VM that may run anywhere the scheduler takes care; one that is pinned stays.
fn shared_with_guests(facts: &Facts, cpus: &[u16]) -> Option<Finding> {
    let online = facts.root.cpus(format!("{CPUS}/online"));
    let both = |process: &super::root::Process| {
        let theirs = cpu_list(process.status("Cpus_allowed_list")?);
        let pinned = !theirs.is_empty() && theirs.len() < online.len();
        let both: Vec<_> = theirs.into_iter().filter(|cpu| cpus.contains(cpu)).collect();
        (pinned && !both.is_empty()).then_some((process.pid, both))
    };
    let (pid, both) = facts.root.processes(is_qemu).iter().find_map(both)?;
    let message = format!("a worker and a VM are pinned to CPU {}", cpu_words(&both));
    let seen = format!("Cpus_allowed_list in /proc/{pid}/status (QEMU)");
    let free: Vec<_> = online.into_iter().filter(|cpu| !cpus.contains(cpu)).collect();
    let fix = format!("taskset -acp {} {pid}", cpu_words(&free));
    Some(finding(Level::Warn, "cpu-shared", message).seen(seen).fix(Fix::advice(fix)))
}

fn siblings(facts: &Facts, cpus: &[u16]) -> Option<Finding> {
    let pair = |cpu: u16| {
        let of_core = facts.root.cpus(format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list"));
        let other = of_core.into_iter().find(|other| *other > cpu && cpus.contains(other))?;
        Some((cpu, other))
    };
    let (one, other) = cpus.iter().copied().find_map(pair)?;
    let message = format!("the workers on CPUs {one} and {other} share one core");
    let seen = format!("{CPUS}/cpu{one}/topology/thread_siblings_list");
    let fix = "name CPUs of different cores in cpus in [daemon]";
    Some(finding(Level::Note, "cpu-siblings", message).seen(seen).fix(Fix::advice(fix)))
}

/// Only workers that never sleep, or are to be fast, need CPUs of their own.
fn not_isolated(facts: &Facts, cpus: &[u16]) -> Option<Finding> {
    if !facts.on_dpdk() && facts.desired.daemon.idle != Idle::Poll {
        return None;
    }
    let isolated = facts.root.cpus(format!("{CPUS}/isolated"));
    let open: Vec<_> = cpus.iter().copied().filter(|cpu| !isolated.contains(cpu)).collect();
    if open.is_empty() {
        return None;
    }
    let (open, all) = (cpu_words(&open), cpu_words(cpus));
    let message = format!("other programs may run on the workers' CPUs {open}");
    let seen = format!("isolated are {} ({CPUS}/isolated)", cpu_words(&isolated));
    let fix = format!(
        "add \"isolcpus={all} nohz_full={all} rcu_nocbs={all}\" to GRUB_CMDLINE_LINUX in \
         /etc/default/grub, update-grub, and start again"
    );
    Some(finding(Level::Note, "cpu-isolation", message).seen(seen).fix(Fix::advice(fix)))
}

fn unpinned(facts: &Facts, cpus: &[u16]) -> Option<Finding> {
    if !facts.on_dpdk() || !cpus.is_empty() {
        return None;
    }
    let online = facts.root.cpus(format!("{CPUS}/online"));
    let last = online.last()?;
    let message = "workers are not pinned: the scheduler moves them about".to_owned();
    let found = finding(Level::Note, "cpu-unpinned", message).seen("no cpus in [daemon]");
    Some(found.fix(Fix::advice(format!("set cpus = \"{last}\" in [daemon], and start again"))))
}
