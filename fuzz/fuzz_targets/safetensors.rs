//! Reads a folded checkpoint, which is a safetensors file, from arbitrary bytes. Errors are expected, panics
//! are not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reelseek::gmf::Folded;

fuzz_target!(|bytes: &[u8]| {
    let _ = Folded::parse(bytes, "input");
});
