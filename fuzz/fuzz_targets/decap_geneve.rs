#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| switch_core::testing::fuzz::decap_geneve(data));
