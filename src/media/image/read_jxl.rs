//! JPEG XL, with the decoder of its authors in Rust. Of an animation the first frame is read.

use std::io::{self, IoSliceMut, Read};

use image::ColorType;
use image::metadata::Orientation;
use jxl::api::{
    AlphaMode, Event, ExtraChannel, JxlBasicInfo, JxlBitstreamInput, JxlColorType, JxlDataFormat, JxlDecoder,
    JxlDecoderOptions, JxlOutputBuffer, JxlParallelRunner, JxlParallelRunnerFun, JxlPixelFormat, ProfileLevel,
};

use super::job::{DecodeFault, DecodeJob};
use super::{CUT, DecodedPixels, PictureLimit};
use crate::base::Cancel;

/// Bytes for each pixel, besides the result: rows of floats, and modular data of 16 or 32 bits.
const FACTOR: u64 = 8;
/// The same for a picture of several layers, of which the decoder keeps four as floats.
const LAYERS_FACTOR: u64 = FACTOR + 4 * 12;
/// Bytes for each pixel of an extra channel, and of one of each layer.
const EXTRA_FACTOR: u64 = 4;

pub(super) fn decode(job: &DecodeJob<'_>) -> Result<DecodedPixels, DecodeFault> {
    let mut runner = JxlRunner { cancel: job.cancel, is_allowed: true, has_refused: false };
    let info = basic_info(&mut decoder(usize::MAX), job, &mut runner)?;
    let (width, height, extra) = (side(info.size.0), side(info.size.1), info.extra_channels.len());
    let pixels = u64::from(width) * u64::from(height);
    // A frame may not be larger than the picture. The decoder counts at least 16 pixels a row, and its limit
    // is one more.
    let row_pixels = |side: u32| u64::from(side.max(16));
    let samples = row_pixels(width).saturating_mul(row_pixels(height)).saturating_mul(3 + extra as u64);
    let mut decoder = decoder(usize::try_from(samples).unwrap_or(usize::MAX).saturating_add(1));
    let mut input = JxlInput { rest: job.bytes, cancel: job.cancel };
    while next(&mut decoder, &mut input, None, &mut runner, job)?.ok_or_else(cut)? != Event::BasicInfo {}
    let is_grey = decoder.current_pixel_format().is_some_and(|format| format.color_type.is_grayscale());
    let has_alpha = info.extra_channels.iter().any(|channel| channel.ec_type == ExtraChannel::Alpha);
    let (color, color_type) = match (is_grey, has_alpha) {
        (true, false) => (ColorType::L8, JxlColorType::Grayscale),
        (true, true) => (ColorType::La8, JxlColorType::GrayscaleAlpha),
        (false, false) => (ColorType::Rgb8, JxlColorType::Rgb),
        (false, true) => (ColorType::Rgba8, JxlColorType::Rgba),
    };
    let extra_bytes = EXTRA_FACTOR * extra as u64;
    // The first frame of an animation is kept for the next one.
    let factor = FACTOR + extra_bytes + if info.animation.is_some() { 12 + extra_bytes } else { 0 };
    job.check([width, height], color, pixels.saturating_mul(factor))?;
    let layers = pixels.saturating_mul(LAYERS_FACTOR + 5 * extra_bytes);
    runner.is_allowed = job.check([width, height], color, layers).is_ok();
    let eight = Some(JxlDataFormat::U8 { bit_depth: 8 });
    let format = JxlPixelFormat { color_type, color_data_format: eight, extra_channel_format: vec![None; extra] };
    decoder.set_pixel_format(format).map_err(DecodeFault::damaged)?;
    // Layers below the first visible frame are decoded before its head.
    while next(&mut decoder, &mut input, None, &mut runner, job)?.ok_or_else(cut)? != Event::FrameHeader {}
    runner.is_allowed = true;
    let mut pixels = job.admit([width, height], color, pixels.saturating_mul(factor))?;
    let row_bytes = width as usize * usize::from(color.bytes_per_pixel());
    loop {
        let mut buffers = [JxlOutputBuffer::new(pixels.decoded(), height as usize, row_bytes)];
        let warning = match next(&mut decoder, &mut input, Some(&mut buffers), &mut runner, job)? {
            Some(Event::FrameComplete { .. } | Event::Complete) => None,
            Some(_) => continue,
            None => {
                let shown = decoder.flush_pixels(&mut buffers, Some(&mut runner));
                job.go_on()?;
                Some(shown.map_err(DecodeFault::damaged)?.then_some(CUT).ok_or_else(cut)?)
            }
        };
        // The decoder has applied the orientation.
        return Ok(DecodedPixels { pixels, orientation: Orientation::NoTransforms, warning });
    }
}

fn decoder(sample_limit: usize) -> JxlDecoder {
    let mut options = JxlDecoderOptions::default();
    options.sample_limit = Some(sample_limit);
    options.max_profile_level = ProfileLevel::Main10;
    options.alpha_mode = AlphaMode::Unpremultiplied;
    JxlDecoder::new(options)
}

fn basic_info(
    decoder: &mut JxlDecoder,
    job: &DecodeJob<'_>,
    runner: &mut JxlRunner<'_>,
) -> Result<JxlBasicInfo, DecodeFault> {
    let mut input = JxlInput { rest: job.bytes, cancel: job.cancel };
    while next(decoder, &mut input, None, runner, job)?.ok_or_else(cut)? != Event::BasicInfo {}
    decoder.basic_info().cloned().ok_or_else(cut)
}

/// The next event; `None` at the end of the file.
fn next(
    decoder: &mut JxlDecoder,
    input: &mut JxlInput<'_>,
    buffers: Option<&mut [JxlOutputBuffer<'_>]>,
    runner: &mut JxlRunner<'_>,
    job: &DecodeJob<'_>,
) -> Result<Option<Event>, DecodeFault> {
    let event = decoder.process(input, buffers, Some(runner));
    job.go_on()?;
    if runner.has_refused {
        let limit = PictureLimit::Bytes(job.limits.bytes);
        return Err(DecodeFault::TooLarge { found: "has large layers".to_owned(), limit });
    }
    match event.map_err(DecodeFault::damaged)? {
        Event::NeedMoreInput { .. } => Ok(None),
        event => Ok(Some(event)),
    }
}

fn cut() -> DecodeFault {
    DecodeFault::Damaged("the file ends early".to_owned())
}

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

/// A file that can no longer be read once the work is cancelled.
struct JxlInput<'a> {
    rest: &'a [u8],
    cancel: &'a Cancel,
}

impl JxlInput<'_> {
    fn check(&self) -> io::Result<()> {
        if self.cancel.is_set() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }
}

impl JxlBitstreamInput for JxlInput<'_> {
    fn available_bytes(&mut self) -> io::Result<usize> {
        Ok(self.rest.len())
    }

    fn read(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.check()?;
        self.rest.read_vectored(bufs)
    }
}

/// Runs the parts of a picture one after the other, until the work is cancelled.
struct JxlRunner<'a> {
    cancel: &'a Cancel,
    /// Whether parts may be decoded now.
    is_allowed: bool,
    has_refused: bool,
}

impl JxlParallelRunner for JxlRunner<'_> {
    fn run(&mut self, count: usize, work: &JxlParallelRunnerFun<'_>) -> jxl::error::Result<()> {
        self.has_refused |= !self.is_allowed;
        for i in 0..count {
            if self.cancel.is_set() || self.has_refused {
                return Err(io::Error::other("stopped").into());
            }
            work(i)?;
        }
        Ok(())
    }

    fn run_ordered(
        &mut self,
        count: usize,
        _: Option<usize>,
        work: &JxlParallelRunnerFun<'_>,
    ) -> jxl::error::Result<()> {
        self.run(count, work)
    }

    fn num_threads(&self) -> usize {
        1
    }
}
