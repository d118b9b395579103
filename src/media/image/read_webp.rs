//! WebP. The decoder has no limits, so the sizes of all frames are checked before it starts.

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::input::CancellableInput;
use super::job::{DecodeFault, DecodeJob, FIXED_BYTES};
use super::pixels::PixelBuffer;
use super::{DecodedPixels, PictureLimit, decoder_thread};
use crate::base::Cancel;

pub(super) fn decode(job: &DecodeJob<'_>) -> Result<DecodedPixels, DecodeFault> {
    let parts = WebPParts::of(job.bytes);
    let decoder = WebPDecoder::new(job.input()).map_err(DecodeFault::damaged)?;
    let (width, height) = decoder.dimensions();
    if parts.frames.iter().any(|[w, h]| *w > width || *h > height) {
        return Err(DecodeFault::Damaged("a frame is larger than the picture".to_owned()));
    }
    let color = decoder.color_type();
    let decoder_bytes = parts.decoder_bytes(u64::from(width) * u64::from(height), color);
    job.check([width, height], color, decoder_bytes)?;
    let needed = PixelBuffer::bytes_needed(u64::from(width) * u64::from(height), color) + decoder_bytes + FIXED_BYTES;
    let table_bytes = job.limits.bytes.saturating_sub(needed);
    for stream in [&parts.still, &parts.animated].into_iter().flat_map(|streams| [&streams.pixels, &streams.alpha]) {
        let stream = stream.as_ref().map(|stream| stream.or_sides([width, height]));
        if stream.is_some_and(|stream| !stream.has_tables_within(table_bytes, job)) {
            let found =
                format!("has {width} x {height} pixels, and tables of more than {} MB", table_bytes / 1_000_000);
            return Err(DecodeFault::TooLarge { found, limit: PictureLimit::Bytes(job.limits.bytes) });
        }
    }
    job.go_on()?;
    drop(decoder);
    let pixels = job.admit([width, height], color, decoder_bytes)?;
    let exif = parts.exif.and_then(Orientation::from_exif_chunk);
    // The decoder reads a lossy frame as a whole, and then does not read any more.
    let pixels = match parts.is_lossy && u64::from(width) * u64::from(height) >= decoder_thread::MIN_PIXELS {
        false => read_pixels(job.bytes, job.cancel, pixels),
        true => {
            let (bytes, cancel) = (job.bytes.to_vec(), job.cancel.clone());
            decoder_thread::run(job.cancel, move || read_pixels(&bytes, &cancel, pixels))
        }
    }?;
    Ok(DecodedPixels { pixels, orientation: exif.unwrap_or(Orientation::NoTransforms), warning: None })
}

/// Whether the file is an animation, and the decoder of any frame stays within the memory.
pub(super) fn frames_fit(job: &DecodeJob<'_>) -> bool {
    let parts = WebPParts::of(job.bytes);
    let tables = parts.largest_stream.saturating_mul(TABLE_FACTOR);
    parts.is_animated && tables <= job.limits.bytes / 2
}

fn read_pixels(bytes: &[u8], cancel: &Cancel, mut pixels: PixelBuffer) -> Result<PixelBuffer, DecodeFault> {
    let decoder = WebPDecoder::new(CancellableInput::failing(bytes, cancel)).map_err(DecodeFault::damaged)?;
    decoder.read_image(pixels.decoded()).map_err(DecodeFault::damaged)?;
    Ok(pixels)
}

/// Bytes of memory for Huffman codes that a byte of the file can request.
const TABLE_FACTOR: u64 = 400;
/// The first pixel before the decoding. Almost no picture begins with it.
const UNWRITTEN: [u8; 4] = [0xa5, 0x3c, 0x96, 0x69];

/// Losslessly compressed pixels.
#[derive(Clone, Copy)]
struct LosslessStream<'a> {
    /// `None` if it is the size of the picture.
    size: Option<[u32; 2]>,
    data: &'a [u8],
}

impl<'a> LosslessStream<'a> {
    /// The stream of a `VP8L` chunk, which begins with a signature and the size.
    fn of_pixels(chunk: &'a [u8]) -> Option<LosslessStream<'a>> {
        let (&[_, b0, b1, b2, b3], data) = chunk.split_first_chunk::<5>()?;
        let sides = u32::from_le_bytes([b0, b1, b2, b3]);
        Some(LosslessStream { size: Some([(sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1]), data })
    }

    /// The stream of an `ALPH` chunk, if its plane is compressed.
    fn of_alpha(chunk: &'a [u8], size: Option<[u32; 2]>) -> Option<LosslessStream<'a>> {
        let (info, data) = chunk.split_first()?;
        (info & 3 == 1).then_some(LosslessStream { size, data })
    }

    fn or_sides(self, size: [u32; 2]) -> LosslessStream<'a> {
        LosslessStream { size: self.size.or(Some(size)), ..self }
    }

    /// Whether the Huffman codes, which precede the pixels, take no more memory than this. Few bytes cannot
    /// request more. Of more bytes a part is decoded: that must suffice to reach the first pixel.
    fn has_tables_within(self, bytes: u64, job: &DecodeJob<'_>) -> bool {
        let most = usize::try_from(bytes / TABLE_FACTOR).unwrap_or(usize::MAX);
        let (Some([width, height]), true) = (self.size, self.data.len() > most) else { return true };
        let sides = ((width - 1) & 0x3fff) | ((height - 1) & 0x3fff) << 14 | 1 << 28;
        let size = (most + 5) as u32;
        let mut file = [&b"RIFF"[..], &(size + 12).to_le_bytes(), b"WEBPVP8L", &size.to_le_bytes()].concat();
        file.push(0x2f);
        file.extend(sides.to_le_bytes());
        file.extend(&self.data[..most]);
        let Ok(decoder) = WebPDecoder::new(CancellableInput::failing(&file, job.cancel)) else { return true };
        let Ok(length) = usize::try_from(decoder.total_bytes()) else { return true };
        let mut pixels = vec![0; length];
        pixels[..4].copy_from_slice(&UNWRITTEN);
        // It may succeed: bits that are missing at the end may be unused.
        let _ = decoder.read_image(&mut pixels);
        pixels[..4] != UNWRITTEN
    }
}

/// The first streams of a picture, or of the first frame of an animation.
#[derive(Default)]
struct FirstStreams<'a> {
    pixels: Option<LosslessStream<'a>>,
    alpha: Option<LosslessStream<'a>>,
}

/// What the chunks of a file say about the memory that its decoder needs.
#[derive(Default)]
struct WebPParts<'a> {
    still: FirstStreams<'a>,
    animated: FirstStreams<'a>,
    exif: Option<&'a [u8]>,
    frames: Vec<[u32; 2]>,
    is_lossy: bool,
    is_lossless: bool,
    has_alpha_plane: bool,
    is_animated: bool,
    compressed_bytes: u64,
    /// Size of the largest chunk of losslessly compressed pixels.
    largest_stream: u64,
}

impl<'a> WebPParts<'a> {
    fn of(bytes: &'a [u8]) -> WebPParts<'a> {
        let mut parts = WebPParts { compressed_bytes: bytes.len() as u64, ..WebPParts::default() };
        parts.add(bytes.get(12..).unwrap_or_default(), None);
        parts
    }

    /// Adds the chunks of a file, or of a frame of this size. The decoder may use the streams of the first
    /// frame of a file that is not marked as an animation.
    fn add(&mut self, mut bytes: &'a [u8], frame: Option<[u32; 2]>) {
        let is_first_frame = frame.is_some() && !self.is_animated;
        while let [a, b, c, d, s0, s1, s2, s3, rest @ ..] = bytes {
            let size = u32::from_le_bytes([*s0, *s1, *s2, *s3]) as usize;
            let chunk = &rest[..size.min(rest.len())];
            let short = |at: usize| chunk.get(at..at + 2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])));
            let kind = &[*a, *b, *c, *d];
            if matches!(kind, b"VP8L" | b"ALPH") {
                self.largest_stream = self.largest_stream.max(chunk.len() as u64);
            }
            match kind {
                b"VP8 " => {
                    self.is_lossy = true;
                    self.frames.extend(short(6).zip(short(8)).map(|(w, h)| [w & 0x3fff, h & 0x3fff]));
                }
                b"VP8L" => {
                    self.is_lossless = true;
                    let stream = LosslessStream::of_pixels(chunk);
                    self.frames.extend(stream.and_then(|stream| stream.size));
                    if let Some(first) = self.first_streams(frame.is_some(), is_first_frame) {
                        first.pixels = first.pixels.or(stream);
                    }
                }
                b"ALPH" => {
                    self.has_alpha_plane = true;
                    if let Some(first) = self.first_streams(frame.is_some(), is_first_frame) {
                        first.alpha = first.alpha.or(LosslessStream::of_alpha(chunk, frame));
                    }
                }
                b"EXIF" => self.exif = self.exif.or(Some(chunk)),
                b"ANMF" if frame.is_none() => {
                    let side = |at: usize| chunk.get(at..at + 3).map(|b| u32::from_le_bytes([b[0], b[1], b[2], 0]) + 1);
                    if let (Some(width), Some(height)) = (side(6), side(9)) {
                        self.add(chunk.get(16..).unwrap_or_default(), Some([width, height]));
                        self.frames.push([width, height]);
                    }
                    self.is_animated = true;
                }
                _ => {}
            }
            bytes = rest.get(size.saturating_add(size & 1)..).unwrap_or_default();
        }
    }

    /// The place for the streams of the current chunk; `None` if it belongs to a later frame.
    fn first_streams(&mut self, in_frame: bool, is_first_frame: bool) -> Option<&mut FirstStreams<'a>> {
        match (in_frame, is_first_frame) {
            (false, _) => Some(&mut self.still),
            (true, true) => Some(&mut self.animated),
            (true, false) => None,
        }
    }

    /// What the decoder needs besides the decoded picture: two copies of the compressed data; planes of a
    /// lossy frame (12 bits a pixel); four bytes a pixel of a lossless frame or a compressed alpha plane, and
    /// one for its transforms; four bytes a pixel for an animation, and as many for its first frame.
    fn decoder_bytes(&self, pixels: u64, color: ColorType) -> u64 {
        // A lossless picture with alpha is decoded to where it is returned.
        let in_place = self.is_lossless && !self.is_animated && color.has_alpha() && !self.has_alpha_plane;
        let four = |needed: bool| if needed { 4 } else { 0 };
        let whole = four(self.has_alpha_plane || self.is_lossless && !in_place)
            + u64::from(self.has_alpha_plane || self.is_lossless)
            + 2 * four(self.is_animated);
        let lossy = if self.is_lossy { pixels + pixels / 2 } else { 0 };
        2 * self.compressed_bytes + lossy + whole * pixels
    }
}
