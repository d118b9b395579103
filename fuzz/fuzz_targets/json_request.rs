//! The JSON body of a search or a batch: any bytes are parsed or refused, without a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = reelseek::serve::is_search_json(bytes);
});
