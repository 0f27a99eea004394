//! Finds libdpdk, binds what `shim.h` includes and compiles the shim.
//!
//! Linked dynamically: drivers are plug-ins which the EAL loads from the distribution's directory.

use std::env;
use std::path::PathBuf;

/// Drivers and libraries whose symbols are bound. pkg-config would name all eighty.
const LIBS: &[&str] = &[
    "rte_eal",
    "rte_mempool",
    "rte_mbuf",
    "rte_ring",
    "rte_ethdev",
    "rte_bus_vdev",
    "rte_net_ring",
    "rte_net_vhost",
    "rte_vhost",
];

/// Types that are both packed and over-aligned in C, which Rust cannot express (E0588), and big
/// ones that are only ever pointed at.
const OPAQUE: &[&str] = &[
    "rte_arp_hdr",
    "rte_arp_ipv4",
    "rte_gtp_psc_generic_hdr",
    "rte_l2tpv2_combined_msg_hdr",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
];

const FUNCTIONS: &[&str] = &[
    "vsw_.*",
    "fopencookie",
    "rte_dev_event_callback_register",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_get_runtime_dir",
    "rte_eal_has_hugepages",
    "rte_eal_init",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_callback_register",
    "rte_eth_dev_callback_unregister",
    "rte_eth_dev_close",
    "rte_eth_dev_conf_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_rx_offload_name",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_set_mc_addr_list",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_tx_offload_name",
    "rte_eth_from_rings",
    "rte_eth_iterator_cleanup",
    "rte_eth_iterator_init",
    "rte_eth_iterator_next",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_get",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_vhost_get_queue_event",
    "rte_eth_vhost_get_vid_from_port_id",
    "rte_eth_tx_queue_setup",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_get_tsc_hz",
    "rte_log_cur_msg_loglevel",
    "rte_mbuf_dynfield_register",
    "rte_mbuf_dynflag_register",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_openlog_stream",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_ring_create",
    "rte_ring_free",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_vdev_uninit",
    "rte_vhost_get_negotiated_features",
    "rte_version",
];

fn main() {
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rerun-if-changed=shim.h");

    let library = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            panic!(
                "libdpdk 22.11 or newer was not found by pkg-config.\n\
                 Install it with: apt-get install libdpdk-dev libclang-dev pkg-config\n\
                 (or leave DPDK out: only `datapath-dpdk` and the feature `dpdk` need it)\n\
                 {error}"
            )
        });
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for lib in LIBS {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }

    let mut clang_args: Vec<String> =
        library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    let mut shim = cc::Build::new();
    shim.file("shim.c").includes(&library.include_paths).warnings(false).opt_level(3);
    // The inline functions of the headers need at least the instruction set that the library was
    // compiled for; pkg-config's flags say so (Debian: corei7) but the crate does not pass it on.
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        shim.flag("-march=corei7");
        clang_args.push("-march=corei7".into());
    }
    shim.compile("vsw_dpdk_shim");

    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(clang_args)
        .allowlist_type("vsw_mbuf")
        .allowlist_type("rte_mbuf_dyn(field|flag)")
        .allowlist_var("VSW_.*")
        .allowlist_var("RTE_MAX_ETHPORTS")
        .allowlist_var("RTE_LOG_(WARNING|NOTICE)")
        .default_macro_constant_type(bindgen::MacroTypeVariation::Unsigned)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        panic!(
            "bindgen could not read the headers of libdpdk: {error}\n\
             If libclang is missing, install it with: apt-get install libclang-dev"
        )
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| ".".into()));
    bindings
        .write_to_file(out.join("bindings.rs"))
        .unwrap_or_else(|error| panic!("writing the bindings to {}: {error}", out.display()));
}
