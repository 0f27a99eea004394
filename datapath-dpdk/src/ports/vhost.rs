//! Ports of type `vhost-user`: a guest's virtio device, through `net_vhost`.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use switch_core::config::VhostMode;
use switch_core::datapath::{BackendError, Caps};
use switch_core::ids::PortId;

/// Longest path of a Unix socket: `sun_path` with its end (unix(7)).
const PATH_MAX: usize = 107;

/// Feature bits of virtio 1.2 section 5.1.3.
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;

/// What a guest takes unfinished, by what it negotiated.
pub(crate) fn caps(features: u64) -> Caps {
    let has = |bit| features & bit != 0;
    // A super-frame is unfinished in both ways (virtio 1.2 section 5.1.3.1).
    Caps {
        csum: has(GUEST_CSUM),
        tso4: has(GUEST_CSUM) && has(GUEST_TSO4),
        tso6: has(GUEST_CSUM) && has(GUEST_TSO6),
        uso: false,
    }
}

/// The device for a socket, which is made ready: one that nobody serves any more is removed where
/// the switch is to serve it.
pub(crate) fn devargs(
    port: PortId,
    socket: &str,
    mode: VhostMode,
    queues: u16,
) -> Result<String, BackendError> {
    let attempted = || format!("open vhost-user socket {socket}");
    let failed = |cause: String, hint: &str| BackendError::Failed {
        attempted: attempted(),
        cause,
        hint: Some(hint.to_owned()),
    };
    if socket.len() > PATH_MAX {
        let cause = format!("the path has {} bytes, and {PATH_MAX} is the most", socket.len());
        return Err(failed(cause, "choose a shorter `socket`"));
    }
    // They have a meaning in DPDK's arguments.
    if let Some(bad) = socket.chars().find(|c| ",=[]\"'".contains(*c) || c.is_control()) {
        let cause = format!("the path has {bad:?} in it, which DPDK's arguments cannot carry");
        return Err(failed(cause, "choose another `socket`"));
    }
    let directory = Path::new(socket).parent().unwrap_or_else(|| Path::new("/"));
    if mode == VhostMode::Server {
        if !directory.is_dir() {
            let cause = format!("there is no directory {}", directory.display());
            return Err(failed(cause, &format!("make it: mkdir -p {}", directory.display())));
        }
        clear(Path::new(socket)).map_err(|(cause, hint)| failed(cause, &hint))?;
    }
    let client = u8::from(mode == VhostMode::Client);
    Ok(format!(
        "net_vhost_p{},iface={socket},queues={queues},client={client},tso=1,legacy-ol-flags=0",
        port.get()
    ))
}

/// Removes a socket that nobody serves.
fn clear(socket: &Path) -> Result<(), (String, String)> {
    let hint = |what: &str| format!("{what}, or choose another `socket`");
    let Ok(meta) = fs::symlink_metadata(socket) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        let cause = "there is a file of that name, which is no socket".to_owned();
        return Err((cause, hint(&format!("remove it: rm {}", socket.display()))));
    }
    match UnixStream::connect(socket) {
        Ok(_) => Err((
            "another program serves it".to_owned(),
            hint("stop that program, use mode = \"client\""),
        )),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(socket)
            .map_err(|e| (e.to_string(), hint(&format!("remove it: rm {}", socket.display())))),
        Err(e) => Err((e.to_string(), hint("look at it: ls -l"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn devargs_of(socket: &str, mode: VhostMode) -> Result<String, BackendError> {
        devargs(PortId::new(3).unwrap(), socket, mode, 2)
    }

    #[test]
    fn a_guest_is_sent_what_it_negotiated() {
        assert_eq!(caps(0), Caps::default());
        assert_eq!(caps(GUEST_TSO4 | GUEST_TSO6), Caps::default(), "not without checksums");
        assert!(caps(GUEST_CSUM).csum && !caps(GUEST_CSUM).tso4);
        assert_eq!(caps(u64::MAX), Caps { uso: false, ..Caps::ALL });
    }

    #[test]
    fn sockets_that_cannot_be_are_told_with_a_cure() {
        for (socket, word) in [
            ("/nowhere/at/all.sock", "mkdir -p /nowhere/at"),
            ("/tmp/a,client=0", "choose another"),
            (&*format!("/tmp/{}", "x".repeat(120)), "shorter"),
            ("/tmp", "rm /tmp"),
        ] {
            let error = devargs_of(socket, VhostMode::Server).unwrap_err();
            let hint = error.hint().unwrap();
            assert!(hint.contains(word), "{socket}: {error}; {hint}");
            assert!(error.to_string().contains(socket), "{error}");
        }
        // Where the other side serves it, nothing has to be there yet.
        let devargs = devargs_of("/nowhere/at/all.sock", VhostMode::Client).unwrap();
        let wanted = "net_vhost_p3,iface=/nowhere/at/all.sock,queues=2,client=1";
        assert!(devargs.starts_with(wanted), "{devargs}");
    }

    #[test]
    fn a_socket_that_nobody_serves_is_removed_and_one_that_is_served_is_not() {
        let path = format!("/tmp/vsw-vhost-{}.sock", std::process::id());
        let listener = UnixListener::bind(&path).unwrap();
        let error = devargs_of(&path, VhostMode::Server).unwrap_err();
        assert!(error.to_string().contains("another program serves it"), "{error}");
        drop(listener);
        devargs_of(&path, VhostMode::Server).unwrap();
        assert!(!Path::new(&path).exists());
    }
}
