//! See `causeway_fuzz::bus`.
#![no_main]

use causeway_fuzz::{bus, tokens};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|message: &[u8]| bus::check(message));

// Every other change is one of tokens.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let by_tokens = if seed & 1 == 0 { tokens::mutate(&mut data[..max_size], size, seed >> 1) } else { None };
    by_tokens.unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
