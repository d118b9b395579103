//! JPEG, with the crate that the image crate uses too. Before the decoding, colour profiles, EXIF,
//! comments and previews are removed from the file. The orientation is kept.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use image::ColorType;
use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::input::{CancellableInput, DecodingStopped};
use super::job::{DecodeFault, DecodeJob};
use super::pixels::PixelBuffer;
use super::{DecodedPixels, decoder_thread};

pub(super) fn decode(job: &DecodeJob<'_>) -> Result<DecodedPixels, DecodeFault> {
    let file = JpegFile::parse(job.bytes);
    let orientation = file.orientation;
    let warning = file.is_cut.then_some("the JPEG file ends early: the lower part of the picture is missing");
    let pixels = match file.is_unstoppable() {
        false => decode_until_stopped(job, &file),
        true => {
            let (limits, cancel) = (*job.limits, job.cancel.clone());
            decoder_thread::run(job.cancel, move || {
                decode_until_stopped(&DecodeJob { bytes: &[], limits: &limits, cancel: &cancel }, &file)
            })
        }
    }?;
    Ok(DecodedPixels { pixels, orientation, warning })
}

/// The decoder fills with grey what it cannot read, and goes on. So only unwinding stops it.
fn decode_until_stopped(job: &DecodeJob<'_>, file: &JpegFile) -> Result<PixelBuffer, DecodeFault> {
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_file(job, file)));
    decoded.unwrap_or_else(|payload| match payload.is::<DecodingStopped>() {
        true => Err(DecodeFault::Cancelled),
        false => resume_unwind(payload),
    })
}

fn decode_file(job: &DecodeJob<'_>, file: &JpegFile) -> Result<PixelBuffer, DecodeFault> {
    let fault = |error: DecodeErrors| DecodeFault::damaged(format!("{error:?}"));
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let input = || CancellableInput::unwinding(&file.bytes, job.cancel);
    let mut header = JpegDecoder::new_with_options(input(), options);
    header.decode_headers().map_err(fault)?;
    let (width, height) = header.dimensions().unwrap_or_default();
    let (color, output) = match header.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorType::L8, ColorSpace::Luma),
        Some(ColorSpace::LumaA) => (ColorType::La8, ColorSpace::LumaA),
        Some(ColorSpace::RGBA) => (ColorType::Rgba8, ColorSpace::RGBA),
        _ => (ColorType::Rgb8, ColorSpace::RGB),
    };
    let mut pixels = job.admit([width as u32, height as u32], color, file.decoder_bytes())?;
    let mut decoder = JpegDecoder::new_with_options(input(), options.jpeg_set_out_colorspace(output));
    decoder.decode_into(pixels.decoded()).map_err(fault)?;
    job.go_on()?;
    Ok(pixels)
}

/// The frame header (SOF) of a JPEG file.
struct JpegFrame {
    width: u64,
    height: u64,
    is_progressive: bool,
    /// Horizontal and vertical sampling factor of each component.
    sampling: Vec<[u64; 2]>,
}

impl JpegFrame {
    /// From the contents of the segment.
    fn parse(marker: u8, segment: &[u8]) -> Option<JpegFrame> {
        let &[_, h1, h0, w1, w0, count, ref components @ ..] = segment else { return None };
        let side = |high: u8, low: u8| u64::from(u16::from_be_bytes([high, low]));
        let factor = |factor: u8| u64::from(factor.clamp(1, 4));
        let components = components.as_chunks::<3>().0.iter().take(usize::from(count));
        let sampling: Vec<[u64; 2]> = components.map(|c| [factor(c[1] >> 4), factor(c[1] & 15)]).collect();
        Some(JpegFrame { width: side(w1, w0), height: side(h1, h0), is_progressive: marker == 0xc2, sampling })
    }
}

/// A JPEG file that has only the segments on which its pixels depend.
struct JpegFile {
    bytes: Vec<u8>,
    orientation: Orientation,
    frame: Option<JpegFrame>,
    /// Components in the first scan.
    scan_components: usize,
    /// Whether the compressed data have no end marker.
    is_cut: bool,
}

impl JpegFile {
    /// Finds segments as the decoder does: bytes between segments are skipped.
    fn parse(bytes: &[u8]) -> JpegFile {
        let mut file = JpegFile {
            bytes: bytes[..bytes.len().min(2)].to_vec(),
            orientation: Orientation::NoTransforms,
            frame: None,
            scan_components: 0,
            is_cut: false,
        };
        let mut at = 2;
        while let Some(marker) = next_marker(bytes, &mut at) {
            let rest = &bytes[at..];
            if marker == 0xda {
                file.scan_components = rest.get(2).map_or(0, |count| usize::from(*count));
                file.is_cut = !rest.windows(2).any(|pair| pair == [0xff, 0xd9]);
                file.bytes.extend_from_slice(&[0xff, marker]);
                file.bytes.extend_from_slice(rest);
                break;
            }
            let length = match rest {
                [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
                _ => 0,
            };
            let Some(segment) = rest.get(2..length) else { break };
            match marker {
                0xe1 if segment.starts_with(b"Exif\0\0") => {
                    let orientation = Orientation::from_exif_chunk(&segment[6..]);
                    file.orientation = orientation.unwrap_or(Orientation::NoTransforms);
                }
                // Frames, tables, the restart interval, and the segments of AVI and Adobe, which define
                // colours.
                0xc0..=0xcf | 0xdb | 0xdc | 0xdd | 0xe0 | 0xee => {
                    if !matches!(marker, 0xc4 | 0xc8 | 0xcc) && (0xc0..=0xcf).contains(&marker) {
                        file.frame = file.frame.or_else(|| JpegFrame::parse(marker, segment));
                    }
                    file.bytes.extend_from_slice(&[0xff, marker]);
                    file.bytes.extend_from_slice(&rest[..length]);
                }
                _ => {}
            }
            at += length;
        }
        file
    }

    /// Whether the samples of all scans are collected before they become pixels.
    fn is_buffered(&self, frame: &JpegFrame) -> bool {
        frame.is_progressive || self.scan_components != frame.sampling.len()
    }

    /// Whether the decoder does not read for a while, and so cannot be stopped.
    fn is_unstoppable(&self) -> bool {
        let is_large = |frame: &&JpegFrame| frame.width * frame.height >= decoder_thread::MIN_PIXELS;
        self.frame.as_ref().filter(is_large).is_some_and(|frame| self.is_buffered(frame))
    }

    /// What the decoder needs besides the picture: a copy of the file, rows of blocks and, if a row is not
    /// complete before the next one is read, 16 bits for each sample of the picture.
    fn decoder_bytes(&self) -> u64 {
        let Some(frame) = &self.frame else { return self.bytes.len() as u64 };
        let most = |side: usize| frame.sampling.iter().map(|factors| factors[side]).max().unwrap_or(1);
        let (columns, rows) = (frame.width.div_ceil(8 * most(0)), frame.height.div_ceil(8 * most(1)));
        let blocks: u64 = frame.sampling.iter().map(|[h, v]| h * v).sum();
        let row_bytes = columns * blocks * 64 * 2;
        let samples = if self.is_buffered(frame) { row_bytes * rows } else { 0 };
        self.bytes.len() as u64 + 8 * row_bytes + samples
    }
}

/// The next marker before the compressed data. `at` is moved to the byte after it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    let mut before = 0;
    loop {
        let mut byte = *bytes.get(*at)?;
        *at += 1;
        // Fill bytes may precede a marker.
        while before == 0xff && matches!(byte, 0 | 0xff) {
            before = byte;
            byte = *bytes.get(*at)?;
            *at += 1;
        }
        match (before, byte) {
            // The end of the file comes before any picture.
            (0xff, 0xd9) => return None,
            (0xff, _) => return Some(byte),
            _ => before = byte,
        }
    }
}
