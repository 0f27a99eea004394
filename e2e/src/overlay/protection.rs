//! An underlay that is encrypted between two hosts, in a guest: hosts' kernels that run tests
//! often have neither WireGuard nor ESP.

use anyhow::{Context, Result};

use super::underlay::{Family, Site};
use crate::command::Host;

/// How the underlay is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// A WireGuard device, whose addresses are the VTEPs' then.
    WireGuard,
    /// ESP in transport mode (RFC 4303) with AES-GCM (RFC 4106) on UDP and GRE between the VTEPs.
    Ipsec,
}

impl Protection {
    /// Protects what two hosts send each other. They have no addresses yet; afterwards
    /// [`Site::device`], the addresses and [`Site::mtu`] are those that a VTEP is to use.
    ///
    /// # Errors
    /// The kernel lacks it, or `wg` is not in the guest.
    pub fn between(self, a: &mut Site, b: &mut Site) -> Result<()> {
        match self {
            Self::WireGuard => wireguard(a, b),
            Self::Ipsec => ipsec(a, b),
        }
    }

    /// Bytes that a host has sent and received protected.
    ///
    /// # Errors
    /// The host is not protected so, or a tool prints what is not understood.
    pub fn bytes(self, site: &Site) -> Result<u64> {
        let (command, is_count): (_, fn(&str) -> Option<&str>) = match self {
            // "KEY RECEIVED SENT"
            Self::WireGuard => ("wg show wg0 transfer", |word| Some(word)),
            // "  1234(bytes), 12(packets)" below "lifetime current:"
            Self::Ipsec => ("ip -s xfrm state", |word| word.strip_suffix("(bytes),")),
        };
        let shown = site.space.sh(command)?.ok()?.stdout;
        let counts: Vec<u64> =
            shown.split_whitespace().filter_map(|w| is_count(w)?.parse().ok()).collect();
        anyhow::ensure!(!counts.is_empty(), "`{command}` shows no bytes: {shown}");
        Ok(counts.iter().sum())
    }
}

/// IPv6 and UDP headers, WireGuard's own 16 bytes and Poly1305's 16.
const WIREGUARD: u32 = 40 + 8 + 16 + 16;

fn wireguard(a: &mut Site, b: &mut Site) -> Result<()> {
    let mut keys = Vec::new();
    for site in [&*a, &*b] {
        site.take_addresses(&site.device)?;
        let key = "ip link add wg0 type wireguard && wg genkey >/tmp/$$.key && \
                   wg set wg0 private-key /tmp/$$.key listen-port 51820 && \
                   rm /tmp/$$.key && wg show wg0 public-key";
        keys.push(site.space.sh(key)?.ok()?.stdout.trim().to_owned());
    }
    let endpoints = [a.v4, b.v4];
    for site in [&mut *a, &mut *b] {
        site.number([203, 0, 113], 5);
        site.device = "wg0".to_owned();
        site.mtu -= WIREGUARD;
        site.space.ip(&format!("link set wg0 mtu {} up", site.mtu))?;
    }
    for (site, (other, key, endpoint)) in
        [(&*a, (&*b, &keys[1], endpoints[1])), (&*b, (&*a, &keys[0], endpoints[0]))]
    {
        let (four, six) = (other.v4, other.v6);
        site.space
            .sh(&format!(
                "wg set wg0 peer {key} allowed-ips {four}/32,{six}/128 endpoint {endpoint}:51820"
            ))?
            .ok()?;
    }
    Ok(())
}

fn ipsec(a: &mut Site, b: &mut Site) -> Result<()> {
    // Both hosts know both directions of both families.
    let mut states = String::from("set -e");
    let mut policies = [String::new(), String::new()];
    for family in [Family::V4, Family::V6] {
        let [one, other] = [&*a, &*b].map(|site| site.address(family));
        for (n, (src, dst)) in [(one, other), (other, one)].into_iter().enumerate() {
            let way = format!("src {src} dst {dst}");
            // AES-128 and a salt of 4 bytes, another for each direction. What it protects is not
            // worth a better one.
            let key = format!("0x0123456789abcdef0123456789abcdef0123456{n}");
            states.push_str(&format!(
                "; ip xfrm state add {way} proto esp spi {} mode transport \
                 aead 'rfc4106(gcm(aes))' {key} 128",
                0x100 + n
            ));
            for (own, policies) in [one, other].into_iter().zip(&mut policies) {
                let direction = if own == src { "out" } else { "in" };
                // UDP and GRE, and not neighbour discovery, which comes before all.
                for protocol in [17, 47] {
                    policies.push_str(&format!(
                        "; ip xfrm policy add {way} proto {protocol} dir {direction} \
                         tmpl {way} proto esp mode transport level required"
                    ));
                }
            }
        }
    }
    for (site, policies) in [a, b].into_iter().zip(policies) {
        site.space.sh(&format!("{states}{policies}"))?.ok().context("no ESP in this kernel?")?;
        // As `xfrm_state_mtu` has it: ESP's header, IV and check value of 8, 8 and 16 bytes; what
        // is left in units of 4, of which 2 bytes are the trailer. For IPv6 the same comes out.
        site.mtu = ((site.mtu - 20 - 32) & !3) - 2 + 20;
    }
    Ok(())
}
