//! Keeping the host's stack off an attached netdev.
//!
//! Packet sockets see a frame before anything else on the device. So a filter behind them cuts off
//! the host's stack alone; and one where the device sends lets pass only what is ours. The host
//! hears nothing, and what it says (its ARP and IPv6 discovery, and whatever a bridge the device
//! belongs to would forward) does not leave. Frames of ours that meet the filter carry [`MARK`],
//! which it takes off again.
//!
//! The filter is a BPF program on a tcx link, or an nftables table that belongs to a child process:
//! both vanish with this process, however it ends.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use switch_core::datapath::BackendError;

use crate::backend::SilenceBy;
use crate::error::failed_hint;
use crate::link::LinkState;
use crate::note::{self, Note};
use crate::sys::bpf::{self, Hook};

/// On frames of ours that meet the filter. "vsw" and a one.
pub(crate) const MARK: u32 = 0x7673_7701;

/// How long nft may take to put its table in place.
const NFT_PATIENCE: Duration = Duration::from_secs(5);
const NFT_LOOK: Duration = Duration::from_millis(10);

/// The host's stack is silent while this lives.
#[derive(Debug)]
pub(crate) enum Silence {
    /// Programs on the device.
    Tcx {
        /// What comes in.
        _ingress: OwnedFd,
        /// What the host sends.
        _egress: OwnedFd,
    },
    /// A table that nft holds.
    Nft { _table: Nft },
}

/// nft, waiting for commands; its table goes with its socket, and it ends with our pipe.
#[derive(Debug)]
pub(crate) struct Nft {
    child: Child,
}

impl Drop for Nft {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may be busy; the table must be gone when the device is the host's again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Silence {
    /// Silences the host's stack on the device, and says in `lost` how, unless by tcx.
    pub(crate) fn apply(
        link: &LinkState,
        by: SilenceBy,
        note: &mut Note,
        lost: &mut Vec<String>,
    ) -> Result<Self, BackendError> {
        let attempted = format!("keep the host's stack off device {}", link.name);
        let hint = "tcx needs Linux 6.6 and CAP_BPF or CAP_SYS_ADMIN; else install nftables";
        let tcx = match by {
            SilenceBy::Auto | SilenceBy::Tcx => tcx(link.index),
            SilenceBy::Nftables | SilenceBy::NftablesIngress => Err(io::Error::other("not wanted")),
        };
        match (tcx, by) {
            (Ok(silence), _) => Ok(silence),
            (Err(e), SilenceBy::Tcx) => Err(failed_hint(attempted, format!("tcx: {e}"), hint)),
            (Err(e), by) => match nft(link, by != SilenceBy::NftablesIngress, note, lost) {
                Ok(nft) => {
                    lost.push(format!("tcx: {e}; nftables silences the host's stack instead"));
                    Ok(Self::Nft { _table: nft })
                }
                Err(n) => Err(failed_hint(attempted, format!("tcx: {e}; nftables: {n}"), hint)),
            },
        }
    }
}

fn tcx(index: u32) -> io::Result<Silence> {
    let ingress = bpf::load_dropper(None)?;
    let egress = bpf::load_dropper(Some(MARK))?;
    Ok(Silence::Tcx {
        _ingress: bpf::attach(&ingress, index, Hook::TcxIngress)?,
        _egress: bpf::attach(&egress, index, Hook::TcxEgress)?,
    })
}

/// The same with nftables; where it has no egress hook (Linux 5.16), IPv6 is turned off instead, as
/// IPv4 says nothing unasked on a device without an address.
fn nft(
    link: &LinkState,
    try_egress: bool,
    note: &mut Note,
    lost: &mut Vec<String>,
) -> io::Result<Nft> {
    let (dev, table) = (&link.name, format!("vswitch-{}-{}", std::process::id(), link.index));
    let ingress = format!(
        "chain ingress {{ type filter hook ingress device \"{dev}\" priority -500; policy drop; }}"
    );
    let egress = format!(
        "chain egress {{ type filter hook egress device \"{dev}\" priority 500; policy accept; \
         meta mark != {MARK:#x} drop; meta mark set 0; }}"
    );
    let both = match try_egress {
        true => nft_table(&table, &[&ingress, &egress]),
        false => Err(io::Error::other("the egress hook is not wanted")),
    };
    let Err(e) = both else { return both };
    let nft = nft_table(&table, &[&ingress])?;
    if note::has_ipv6(dev) {
        note.had_ipv6 = true;
        note::set_ipv6(dev, false)?;
    }
    lost.push(format!("nftables: {e}; IPv6 is off on the device meanwhile"));
    Ok(nft)
}

fn nft_table(table: &str, chains: &[&str]) -> io::Result<Nft> {
    let child = Command::new("nft")
        .arg("-i")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut nft = Nft { child };
    let script = format!("table netdev {table} {{ flags owner; {}; }}\n", chains.join("; "));
    let stdin = nft.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    stdin.write_all(script.as_bytes())?;
    stdin.flush()?;
    // nft says nothing when it is done: the table itself tells, seen through another one.
    let looks = NFT_PATIENCE.as_millis() / NFT_LOOK.as_millis();
    for _ in 0..looks {
        let listed = Command::new("nft").args(["list", "table", "netdev", table]).output()?;
        let text = String::from_utf8_lossy(&listed.stdout);
        if listed.status.success() && text.matches("chain ").count() == chains.len() {
            return Ok(nft);
        }
        if nft.child.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(NFT_LOOK);
    }
    Err(io::Error::other("the table was refused"))
}
