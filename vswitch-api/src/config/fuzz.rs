//! What the fuzzer runs, and stable tests with its corpus.

use super::{diff, from_json, from_toml_bytes, to_json, to_toml};

/// Reads any bytes as a configuration, and checks that what is accepted survives being written.
///
/// # Panics
/// If it does not: that is what the fuzzer looks for.
pub fn fuzz_config(bytes: &[u8]) {
    if let Ok(desired) = from_toml_bytes(bytes) {
        let written = to_toml(&desired);
        let again = from_toml_bytes(written.as_bytes());
        assert_eq!(again.as_ref(), Ok(&desired), "written as:\n{written}");
        assert!(diff(&desired, &desired).is_empty());
        assert_eq!(from_json(&to_json(&desired)).as_ref(), Ok(&desired));
    }
    if let Ok(value) = serde_json::from_slice(bytes)
        && let Ok(desired) = from_json(&value)
    {
        assert_eq!(from_json(&to_json(&desired)), Ok(desired));
    }
}

/// Reads any bytes as the body of each request that has one.
///
/// # Panics
/// Never; the fuzzer looks for what makes it.
pub fn fuzz_request(bytes: &[u8]) {
    use crate::types::{
        ApplyRequest, FdbBatch, FdbFlush, FdbSelector, PeersRequest, RollbackRequest, VlanRequest,
    };
    let _ = serde_json::from_slice::<FdbBatch>(bytes);
    let _ = serde_json::from_slice::<FdbSelector>(bytes);
    let _ = serde_json::from_slice::<FdbFlush>(bytes);
    let _ = serde_json::from_slice::<VlanRequest>(bytes);
    let _ = serde_json::from_slice::<PeersRequest>(bytes);
    let _ = serde_json::from_slice::<ApplyRequest>(bytes);
    let _ = serde_json::from_slice::<RollbackRequest>(bytes);
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    let _ = super::bridge_from_json(&value);
    if let Ok(port) = super::port_from_json(&value) {
        assert_eq!(super::port_from_json(&super::port_to_json(&port)).as_ref(), Ok(&port));
    }
    if let Ok(vtep) = super::vtep_from_json(&value) {
        assert_eq!(super::vtep_from_json(&super::vtep_to_json(&vtep)).as_ref(), Ok(&vtep));
    }
    if let Ok(tunnel) = super::tunnel_from_json(&value) {
        assert_eq!(super::tunnel_from_json(&super::tunnel_to_json(&tunnel)).as_ref(), Ok(&tunnel));
    }
    if let Ok(mirror) = super::mirror_from_json(&value) {
        assert_eq!(super::mirror_from_json(&super::mirror_to_json(&mirror)).as_ref(), Ok(&mirror));
    }
    let bridge = switch_core::config::BridgeSpec::new("br0");
    let _ = super::patch_bridge(&bridge, &value);
}
