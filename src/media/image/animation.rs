//! The frames of animated GIF, PNG and WebP files.

use std::time::Duration;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frames, ImageDecoder, ImageFormat, ImageResult, Limits};

use super::job::{DecodeFault, DecodeJob, FIXED_BYTES, MAX_METADATA_BYTES};
use super::pixels::on_white;
use super::{read_other, read_webp};
use crate::media::{Frame, Picture};

/// Most frames that are decoded, and most pixels of all of them. The rest of the file is not read.
const MAX_FRAMES: usize = 2000;
const MAX_PIXELS: u64 = 200_000_000;
/// Most pixels of a frame. A larger one takes too long to be cancelled in time.
const MAX_FRAME_PIXELS: u64 = 4_000_000;
/// Bytes for each pixel: the decoder of PNG holds five pictures with alpha, and a list of positions with
/// colours.
const FACTOR: u64 = 36;

/// Passes the frames of an animation to `take`. Returns how many there are. There are none if the file is no
/// animation, or if its frames are too large: then the first one is read alone.
pub(super) fn decode(
    job: &DecodeJob<'_>,
    format: ImageFormat,
    take: &mut dyn FnMut(Frame),
) -> Result<usize, DecodeFault> {
    let Ok(Some(frames)) = open(job, format) else { return Ok(0) };
    let (mut count, mut pixels, mut at) = (0, 0, Duration::ZERO);
    for frame in frames.take(MAX_FRAMES) {
        job.go_on()?;
        // A damaged frame ends the animation.
        let Ok(frame) = frame else { break };
        let delay = Duration::from(frame.delay());
        let rgba = frame.into_buffer();
        pixels += u64::from(rgba.width()) * u64::from(rgba.height());
        let (width, height) = rgba.dimensions();
        let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
        rgb.extend(rgba.as_raw().as_chunks().0.iter().flat_map(|[r, g, b, a]| [r, g, b].map(|v| on_white(*v, *a))));
        take(Frame {
            at_ms: u32::try_from(at.as_millis()).unwrap_or(u32::MAX),
            picture: Picture { width, height, rgb },
        });
        at += delay;
        count += 1;
        if pixels > MAX_PIXELS {
            break;
        }
    }
    // After the cancellation reads fail.
    job.go_on()?;
    Ok(count)
}

/// The frames of an animation whose frames fit into the memory.
fn open<'a>(job: &DecodeJob<'a>, format: ImageFormat) -> ImageResult<Option<Frames<'a>>> {
    let fits = |(width, height): (u32, u32)| {
        let pixels = u64::from(width) * u64::from(height);
        let bytes = pixels.saturating_mul(FACTOR).saturating_add(FIXED_BYTES);
        pixels <= job.limits.pixels.min(MAX_FRAME_PIXELS) && bytes <= job.limits.bytes
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(job.limits.bytes.saturating_sub(FIXED_BYTES) / 2);
    Ok(match format {
        ImageFormat::Gif if read_other::gif_metadata_bytes(job.bytes) <= MAX_METADATA_BYTES => {
            let mut decoder = GifDecoder::new(job.input())?;
            decoder.set_limits(limits)?;
            fits(decoder.dimensions()).then(|| decoder.into_frames())
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(job.input(), limits)?;
            match decoder.is_apng()? && fits(decoder.dimensions()) {
                true => Some(decoder.apng()?.into_frames()),
                false => None,
            }
        }
        ImageFormat::WebP if read_webp::frames_fit(job) => {
            let decoder = WebPDecoder::new(job.input())?;
            (decoder.has_animation() && fits(decoder.dimensions())).then(|| decoder.into_frames())
        }
        _ => None,
    })
}
