//! The JSON file beside a video: any bytes are parsed or refused, on a small stack.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    reelseek_fuzz::on_small_stack(bytes, || {
        reelseek::ingest::is_sidecar(bytes);
    });
});
