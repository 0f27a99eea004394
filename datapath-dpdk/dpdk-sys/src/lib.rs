//! Bindings to the installed libdpdk, as bindgen reads them, and a C shim for its inline functions.
//!
//! No logic: `datapath-dpdk` is the safe layer, and the only user. `vsw_mbuf` is `struct rte_mbuf`
//! with its anonymous unions flattened, so that fields have one name under every DPDK release; the
//! shim asserts that the layouts agree. Functions are documented at <https://doc.dpdk.org/api-22.11/>.
#![allow(
    clippy::all,
    clippy::multiple_unsafe_ops_per_block,
    clippy::or_fun_call,
    clippy::ptr_as_ptr,
    clippy::undocumented_unsafe_blocks,
    missing_debug_implementations,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
