//! Multicast of the host on an uplink. Its stack joins groups on the exception TAP, where nothing
//! filters; the device behind it has to let them in. Without that, nobody finds the uplink's IPv6
//! addresses through a NIC that keeps to groups it knows, as it does for a virtual function.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

/// How often the kernel is asked: it tells of groups to nobody.
const EVERY: Duration = Duration::from_secs(1);

/// The groups of one exception TAP.
#[derive(Debug, Default)]
pub(super) struct Groups {
    known: BTreeSet<[u8; 6]>,
    asked: Option<Instant>,
}

impl Groups {
    /// All groups of the device, if others were joined or left since the last answer.
    pub(super) fn changed(&mut self, device: &str, now: Instant) -> Option<Vec<[u8; 6]>> {
        if self.asked.is_some_and(|asked| now.duration_since(asked) < EVERY) {
            return None;
        }
        self.asked = Some(now);
        // Of this thread: another of the process may be in another namespace.
        let listed = fs::read_to_string("/proc/thread-self/net/dev_mcast").ok()?;
        let groups = listed_for(device, &listed);
        (groups != self.known).then(|| {
            self.known = groups;
            self.known.iter().copied().collect()
        })
    }
}

/// The groups of a device: lines of index, name, two counts and an address without separators.
fn listed_for(device: &str, listed: &str) -> BTreeSet<[u8; 6]> {
    let group = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, name, _, _, address] = words[..] else { return None };
        let value = u64::from_str_radix(address, 16).ok()?;
        let [_, _, mac @ ..] = value.to_be_bytes();
        (name == device && address.len() == 12).then_some(mac)
    };
    listed.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_device() {
        let listed = "2    eth0            1     0     333300000001\n\
                      3    up0             1     0     333300000001\n\
                      3    up0             2     1     3333ff000001\n\
                      4    up01            1     0     01005e000001\n\
                      5    ib0             1     0     00ffffffff12401bffff000000000000ffffffff\n";
        let groups = listed_for("up0", listed);
        let wanted = [[0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, 0, 0, 1]];
        assert_eq!(groups.into_iter().collect::<Vec<_>>(), wanted);
        assert!(listed_for("ib0", listed).is_empty(), "no Ethernet address");
    }

    #[test]
    fn the_kernel_is_not_asked_all_the_time() {
        let (mut groups, now) = (Groups::default(), Instant::now());
        groups.known.insert([1, 0, 0, 0, 0, 0]);
        // The loopback device has none.
        assert_eq!(groups.changed("lo", now), Some(Vec::new()));
        groups.known.insert([1, 0, 0, 0, 0, 0]);
        assert_eq!(groups.changed("lo", now), None);
        assert_eq!(groups.changed("lo", now + EVERY), Some(Vec::new()));
        assert_eq!(groups.changed("lo", now + 2 * EVERY), None);
    }
}
