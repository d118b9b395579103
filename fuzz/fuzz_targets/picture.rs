//! Reads a picture or an animation from arbitrary bytes. Errors are expected, panics and large allocations
//! are not. Of HEIC and AVIF files only the structure is read, because ffmpeg decodes them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reelseek::Cancel;
use reelseek::media::image::{is_video, parse_heif};
use reelseek::media::{PictureLimits, read_frames};

const LIMITS: PictureLimits = PictureLimits { pixels: 1_000_000, bytes: 110_000_000 };

fuzz_target!(|bytes: &[u8]| {
    if parse_heif(bytes) || is_video(bytes) {
        return;
    }
    let Ok(query) = read_frames(bytes, "input", &LIMITS, &Cancel::default()) else { return };
    for picture in query.frames.into_iter().map(|frame| frame.picture) {
        assert_eq!(picture.rgb.len() as u64, u64::from(picture.width) * u64::from(picture.height) * 3);
    }
});
