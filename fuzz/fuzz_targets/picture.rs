//! Reads a picture from arbitrary bytes. Errors are expected, panics and large allocations are not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reelseek::media::image::read_within;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(opened) = read_within(bytes, "input", 1_000_000) {
        let picture = opened.picture;
        assert_eq!(picture.rgb.len() as u64, u64::from(picture.width) * u64::from(picture.height) * 3);
    }
});
