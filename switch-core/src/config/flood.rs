//! Which ports of a bridge take the flooded frames of a VLAN.

use std::sync::Arc;

use super::snapshot::{PortConf, VID_MAX, VlanSet};
use crate::ids::PortId;

/// The members of each VLAN of one bridge, in the order of their numbers.
///
/// VLANs that some port treats in a way of its own have a list each, and all others share one.
/// Most bridges are one tenant's and name none but VID 0: two short lists in one allocation. A
/// table by VID, as small as it is, would be half a gigabyte for as many bridges as there may be.
#[derive(Debug, Default)]
pub(super) struct FloodLists {
    /// The lists one behind the other: of VLANs that no port names, of VID 0, of named VLANs.
    members: Box<[PortId]>,
    /// Where the list of VLANs that no port names ends…
    unnamed: u32,
    /// …and where that of VID 0 does.
    untagged: u32,
    named: Option<Box<Named>>,
}

/// The VIDs other than 0 that have a list of their own. 656 bytes, and 4 more a VID.
#[derive(Debug)]
struct Named {
    /// One bit a VID.
    vids: [u64; 64],
    /// How many bits are set in the words before each.
    before: [u16; 64],
    /// Where each list starts, and at last where the last one ends.
    bounds: Box<[u32]>,
}

impl FloodLists {
    pub(super) fn new(ports: &[&Arc<PortConf>]) -> Self {
        let mut members: Vec<PortId> = Vec::new();
        let everywhere = ports.iter().filter(|p| matches!(p.vlans.tagged, VlanSet::All));
        members.extend(everywhere.map(|p| p.id));
        let unnamed = members.len() as u32;
        let mut add = |vid: u16| {
            members.extend(ports.iter().filter(|p| p.vlans.egress(vid).is_some()).map(|p| p.id));
            members.len() as u32
        };
        let untagged = add(0);
        let mut vids = [0u64; 64];
        for vid in ports.iter().flat_map(|p| p.vlans.named()).filter(|vid| *vid != 0) {
            vids[usize::from(vid / 64)] |= 1 << (vid % 64);
        }
        let named = (vids != [0; 64]).then(|| {
            let mut before = [0; 64];
            let mut bounds = vec![untagged];
            for vid in 1..=VID_MAX {
                let word = usize::from(vid / 64);
                if vids[word] >> (vid % 64) & 1 == 1 {
                    bounds.push(add(vid));
                }
                if vid % 64 == 63 && word < 63 {
                    before[word + 1] = (bounds.len() - 1) as u16;
                }
            }
            Box::new(Named { vids, before, bounds: bounds.into() })
        });
        Self { members: members.into(), unnamed, untagged, named }
    }

    #[inline]
    pub(super) fn get(&self, vid: u16) -> &[PortId] {
        let (start, end) = match &self.named {
            _ if vid == 0 => (self.unnamed, self.untagged),
            Some(named) => named.range(vid).unwrap_or((0, self.unnamed)),
            None => (0, self.unnamed),
        };
        self.members.get(start as usize..end as usize).unwrap_or_default()
    }
}

impl Named {
    /// Where the list of `vid` starts and ends, if it has one.
    fn range(&self, vid: u16) -> Option<(u32, u32)> {
        let (word, bit) = (usize::from(vid / 64), 1u64 << (vid % 64));
        let bits = self.vids.get(word)?;
        if bits & bit == 0 {
            return None;
        }
        let index = usize::from(*self.before.get(word)?) + (bits & (bit - 1)).count_ones() as usize;
        Some((*self.bounds.get(index)?, *self.bounds.get(index + 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::PortVlans;
    use super::super::snapshot::tests::port;
    use super::*;

    fn lists(vlans: &[PortVlans]) -> (FloodLists, Vec<Arc<PortConf>>) {
        let ports: Vec<_> =
            (0..).zip(vlans).map(|(id, vlans)| Arc::new(port(id, 0, vlans.clone()))).collect();
        (FloodLists::new(&ports.iter().collect::<Vec<_>>()), ports)
    }

    /// Each list is what asking every port gives.
    fn check(vlans: &[PortVlans]) -> FloodLists {
        let (lists, ports) = lists(vlans);
        for vid in 0..=VID_MAX {
            let members = ports.iter().filter(|p| p.vlans.egress(vid).is_some()).map(|p| p.id);
            assert_eq!(lists.get(vid), members.collect::<Vec<_>>(), "VLAN {vid} of {vlans:?}");
        }
        lists
    }

    #[test]
    fn every_vlan_has_its_members() {
        let (transparent, access) = (PortVlans::transparent(), PortVlans::access);
        check(&[]);
        check(&[transparent.clone(), transparent.clone()]);
        check(&[access(0), transparent.clone()]);
        for vid in [1, 62, 63, 64, 65, 127, 128, 4031, 4032, 4094] {
            check(&[access(vid)]);
            check(&[transparent.clone(), access(vid), PortVlans::trunk([vid, 63, 4032], Some(9))]);
        }
        let all = PortVlans::trunk(1..=VID_MAX, None);
        check(&[all.clone(), access(64), all, transparent]);
    }

    #[test]
    fn a_bridge_without_vlans_costs_a_few_dozen_bytes() {
        assert!(size_of::<FloodLists>() <= 32);
        let lists = check(&[PortVlans::transparent(), PortVlans::access(0)]);
        assert!(lists.named.is_none());
        assert_eq!(lists.members.len(), 3);
    }

    #[test]
    fn a_vid_that_no_frame_has_finds_no_list_of_its_own() {
        let lists = check(&[PortVlans::trunk(1..=VID_MAX, None)]);
        assert!(lists.get(4095).is_empty() && lists.get(u16::MAX).is_empty());
    }
}
