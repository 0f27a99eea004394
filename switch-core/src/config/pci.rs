//! PCI functions: how ports of type `dpdk` name them, and who may use them.

/// Kernel drivers that leave a PCI function to programs, or share it with them (mlx4, mlx5, mana).
pub const DRIVERS_FOR_PROGRAMS: &[&str] =
    &["vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core", "mana"];

/// A PCI function's address in full, as `0000:3b:02.0`, if that is what DPDK's arguments for a device
/// begin with.
#[must_use]
pub fn address(devargs: &str) -> Option<String> {
    let name = devargs.split(',').next()?;
    let name = name.strip_prefix("pci:").unwrap_or(name);
    let (rest, function) = name.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    let hex = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
    };
    let whole = hex(domain, 8) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    let ours = whole && parts.next().is_none();
    ours.then(|| format!("{domain:0>4}:{bus:0>2}:{device:0>2}.{function}").to_lowercase())
}
