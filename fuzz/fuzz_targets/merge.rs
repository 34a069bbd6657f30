//! See `causeway_fuzz::merge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causeway_fuzz::merge::check(input));
