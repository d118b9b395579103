//! Reads a picture from arbitrary bytes. Errors are expected, panics and large allocations are not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reelseek::Cancel;
use reelseek::media::PictureLimits;
use reelseek::media::image::read_within;

const LIMITS: PictureLimits = PictureLimits { pixels: 1_000_000, bytes: 50_000_000 };

fuzz_target!(|bytes: &[u8]| {
    if let Ok(opened) = read_within(bytes, "input", &LIMITS, &Cancel::default()) {
        let picture = opened.picture;
        assert_eq!(picture.rgb.len() as u64, u64::from(picture.width) * u64::from(picture.height) * 3);
    }
});
