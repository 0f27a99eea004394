//! Arguments of the operator for the EAL, beside those that the switch makes.

/// An option that the operator may not give, and what does it instead.
type Owned = (&'static str, &'static str);

const CORES: &str = "cpus in [daemon] says which CPUs workers run on";
const MEMORY: &str = "hugepages in [dpdk] says which memory is used";
const PRIVATE: &str = "vswitchd shares nothing with other processes and leaves no files behind";
const DEVICES: &str = "only devices that ports name are taken: remove the port, or use --allow";
const ENDS: &str = "it would end vswitchd";

/// Options that would contradict the configuration, by their long names.
const LONG: &[Owned] = &[
    ("lcores", CORES),
    ("main-lcore", CORES),
    ("master-lcore", CORES),
    ("no-huge", MEMORY),
    ("socket-mem", MEMORY),
    ("socket-limit", MEMORY),
    ("huge-dir", MEMORY),
    ("huge-unlink", MEMORY),
    ("single-file-segments", MEMORY),
    ("legacy-mem", MEMORY),
    ("match-allocations", MEMORY),
    ("in-memory", PRIVATE),
    ("no-shconf", PRIVATE),
    ("file-prefix", PRIVATE),
    ("proc-type", PRIVATE),
    ("base-virtaddr", PRIVATE),
    ("no-pci", DEVICES),
    ("block", DEVICES),
    ("help", ENDS),
];

/// The same for short ones.
const SHORT: &[(char, &str)] = &[
    ('c', CORES),
    ('l', CORES),
    ('S', CORES),
    ('s', CORES),
    ('m', MEMORY),
    ('b', DEVICES),
    ('h', ENDS),
];

/// Why an argument is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("eal = [{argument:?}] in [dpdk] contradicts what vswitchd itself tells DPDK")]
pub struct Contradicts {
    /// The argument.
    pub argument: String,
    /// What to do instead.
    pub hint: &'static str,
}

/// Looks for arguments that contradict the configuration. libdpdk takes every unambiguous beginning
/// of a long option for it, so these count, too.
///
/// # Errors
/// The first that does.
pub fn check(arguments: &[String]) -> Result<(), Contradicts> {
    for argument in arguments {
        let owned = match argument.strip_prefix("--") {
            Some(long) => {
                let name = long.split('=').next().unwrap_or(long);
                let mut owned = LONG.iter().filter(|(owned, _)| owned.starts_with(name));
                owned.next().filter(|_| !name.is_empty()).map(|(_, hint)| *hint)
            }
            None => argument.strip_prefix('-').and_then(|short| {
                let first = short.chars().next()?;
                SHORT.iter().find(|(owned, _)| *owned == first).map(|(_, hint)| *hint)
            }),
        };
        if let Some(hint) = owned {
            return Err(Contradicts { argument: argument.clone(), hint });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_is_refused_with_the_key_that_does_it() {
        for (argument, key) in [
            ("-l", "cpus"),
            ("-l0-3", "cpus"),
            ("--lcores=0@1", "cpus"),
            ("--main-lcore", "cpus"),
            ("-m512", "hugepages"),
            ("--no-huge", "hugepages"),
            ("--no-h", "hugepages"),
            ("--socket-mem=64,64", "hugepages"),
            ("--file-prefix=x", "shares nothing"),
            ("--no-pci", "ports name"),
            ("-b", "ports name"),
            ("--help", "end"),
        ] {
            let error = check(&["-v".into(), argument.into()]).expect_err(argument);
            assert!(error.hint.contains(key), "{argument}: {error:?}");
            assert!(error.to_string().contains(argument), "{error}");
        }
    }

    #[test]
    fn others_are_the_operators_own_business() {
        let fine = ["--log-level=pmd.net.tap:debug", "--vdev=net_null7", "-a", "0000:01:00.0"];
        let more = ["--iova-mode=pa", "-d", "/usr/lib/pmd.so", "--no-hpet", "-r", "2", "--", "x"];
        let all: Vec<String> = fine.iter().chain(&more).map(|a| (*a).to_owned()).collect();
        assert_eq!(check(&all), Ok(()));
    }
}
