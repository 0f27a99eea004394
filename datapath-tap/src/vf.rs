//! rtnetlink: what a NIC lets its virtual functions do (SR-IOV).

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo};

use crate::netlink::Requests;

/// What the driver of a physical function lets one of its virtual functions do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfRights {
    /// It may ask for frames that are not for its own address (`ip link set PF vf N trust on`).
    pub trusted: bool,
    /// What it sends from another address than its own is dropped
    /// (`ip link set PF vf N spoofchk on`).
    pub spoof_check: bool,
}

/// The rights of the virtual function `number` of the kernel's device `pf`, in the network
/// namespace of the calling thread; `None` if the device's driver tells of no such function.
///
/// # Errors
/// What the kernel says: there is no such device, or no netlink.
pub fn vf_rights(pf: &str, number: u32) -> io::Result<Option<VfRights>> {
    let mut msg = LinkMessage::default();
    msg.attributes.push(LinkAttribute::IfName(pf.to_owned()));
    msg.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
    let mut found = None;
    Requests::open()?.send(RouteNetlinkMessage::GetLink(msg), 0, |answer| {
        let RouteNetlinkMessage::NewLink(msg) = answer else { return };
        for attribute in &msg.attributes {
            if let LinkAttribute::VfInfoList(functions) = attribute {
                found = functions.iter().find_map(|infos| rights(infos, number));
            }
        }
    })?;
    Ok(found)
}

/// The rights that one function's attributes tell of, if they are those of `number`.
fn rights(LinkVfInfo(infos): &LinkVfInfo, number: u32) -> Option<VfRights> {
    let (mut ours, mut rights) = (false, VfRights::default());
    for info in infos {
        match info {
            VfInfo::Trust(trust) => {
                rights.trusted = trust.enabled;
                ours |= trust.vf_id == number;
            }
            VfInfo::SpoofCheck(check) => {
                rights.spoof_check = check.enabled;
                ours |= check.vf_id == number;
            }
            _ => {}
        }
    }
    ours.then_some(rights)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{VfInfoSpoofCheck, VfInfoTrust};

    use super::*;

    #[test]
    fn each_function_has_rights_of_its_own() {
        let told = |number, trusted, checked| {
            LinkVfInfo(vec![
                VfInfo::SpoofCheck(VfInfoSpoofCheck::new(number, checked)),
                VfInfo::Trust(VfInfoTrust::new(number, trusted)),
            ])
        };
        let list = [told(0, true, false), told(1, false, true)];
        let of = |number| list.iter().find_map(|infos| rights(infos, number));
        assert_eq!(of(0), Some(VfRights { trusted: true, spoof_check: false }));
        assert_eq!(of(1), Some(VfRights { trusted: false, spoof_check: true }));
        assert_eq!(of(2), None);
    }

    #[test]
    fn a_device_without_functions_tells_of_none() {
        assert_eq!(vf_rights("lo", 0).unwrap(), None);
        assert_eq!(vf_rights("nosuchdevice", 0).unwrap_err().raw_os_error(), Some(19), "ENODEV");
    }
}
