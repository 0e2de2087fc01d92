#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| base_ha_sim::fuzz::config(data));
