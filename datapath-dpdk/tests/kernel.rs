//! The conformance suite on ports of type `tap` and `netdev`.

mod common;

use common::far::{self, Far, conforms};
use common::kernel::{Space, netdev_spec, tap_spec};
use datapath_tap::testing::RawSocket;

#[test]
fn tap_ports_pass() {
    // What is written into a TAP goes to the host's stack, which takes or loses all.
    conforms((1514, None), &["tx_full"], |n| {
        let (space, name) = (Space::new(), format!("t{n}"));
        // Made before the port is, so that the socket misses nothing.
        space.run(&format!("ip tuntap add dev {name} mode tap"));
        let socket = RawSocket::open_with_offloads(Some(&space.name), &name).unwrap();
        let spec = tap_spec(&name, Some(&space));
        Far { spec, socket, offloads: true, keep: vec![Box::new(space)] }
    });
}

#[test]
fn netdev_ports_pass() {
    // The far end of a veth takes or loses all, too.
    conforms((1514, None), &["tx_full"], |_| {
        let veth = far::linked_veth();
        let socket = RawSocket::open_with_offloads(Some(&veth.space.name), "v0").unwrap();
        let spec = netdev_spec(&veth.near.0);
        Far { spec, socket, offloads: true, keep: vec![Box::new(veth)] }
    });
}
