//! GIF, TIFF, BMP, PNM and QOI, with the decoders of the image crate.

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::qoi::QoiDecoder;
use image::codecs::tiff::TiffDecoder;
use image::metadata::Orientation;
use image::{ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits};
use tiff::tags::{CompressionMethod, Tag};

use super::job::{DecodeFault, DecodeJob, FIXED_BYTES, MAX_METADATA_BYTES, MAX_SIDE};
use super::{DecodedPixels, PictureLimit};

/// Most pixels along a side that the decoder of BMP reads.
const MAX_BMP_SIDE: u32 = 65_535;

pub(super) fn decode(job: &DecodeJob<'_>, format: ImageFormat) -> Result<DecodedPixels, DecodeFault> {
    let fault = |error: ImageError| refused(job, error);
    if format == ImageFormat::Gif && gif_metadata_bytes(job.bytes) > MAX_METADATA_BYTES {
        return Err(DecodeFault::Damaged(format!("it has more than {MAX_METADATA_BYTES} bytes of metadata")));
    }
    check_stated_size(job, format)?;
    let mut decoder = open(job, format).map_err(fault)?;
    let size = <[u32; 2]>::from(decoder.dimensions());
    let color = decoder.color_type();
    let decoder_bytes = match format {
        ImageFormat::Tiff => {
            // The decoder has a copy of the pixels; a copy of CMYK has four bytes for three.
            let is_cmyk = matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16);
            let copy = decoder.total_bytes() / 3 * if is_cmyk { 4 } else { 3 };
            tiff_bytes(job)?.saturating_add(copy)
        }
        // Indexes of colours.
        ImageFormat::Gif => u64::from(size[0]) * u64::from(size[1]),
        _ => 0,
    };
    let mut pixels = job.admit(size, color, decoder_bytes)?;
    let used = FIXED_BYTES + pixels.decoded().len() as u64;
    let left = job.limits.bytes.saturating_sub(used);
    let mut limits = Limits::default();
    limits.max_alloc = Some(match format {
        // A frame that does not cover the picture is decoded apart, with its indexes of colours.
        ImageFormat::Gif => left / 5 * 4,
        _ => left,
    });
    decoder.set_limits(limits).map_err(fault)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    decoder.read_image_boxed(pixels.decoded()).map_err(fault)?;
    Ok(DecodedPixels { pixels, orientation, warning: None })
}

fn open<'a>(job: &DecodeJob<'a>, format: ImageFormat) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
    Ok(match format {
        ImageFormat::Gif => Box::new(GifDecoder::new(job.input())?),
        ImageFormat::Tiff => Box::new(TiffDecoder::new(job.input())?),
        ImageFormat::Bmp => Box::new(BmpDecoder::new(job.input())?),
        ImageFormat::Pnm => Box::new(PnmDecoder::new(job.input())?),
        ImageFormat::Qoi => Box::new(QoiDecoder::new(job.input())?),
        other => return Err(ImageError::Unsupported(image::error::ImageFormatHint::Exact(other).into())),
    })
}

/// Checks the size that a BMP or QOI file states. Their decoders have no error type for a size that they
/// refuse, and call a side of 0 too large.
fn check_stated_size(job: &DecodeJob<'_>, format: ImageFormat) -> Result<(), DecodeFault> {
    let Some([width, height]) = stated_size(job.bytes, format) else { return Ok(()) };
    // A negative height means that the rows are stored from the top.
    let sides = [width, if format == ImageFormat::Bmp { height.saturating_abs() } else { height }];
    if sides.iter().any(|side| *side < 1) {
        return Err(DecodeFault::Damaged(format!("its size is {width} x {height} pixels")));
    }
    let [width, height] = sides.map(i64::unsigned_abs);
    let max_side = if format == ImageFormat::Bmp { MAX_BMP_SIDE } else { MAX_SIDE };
    let limit = if width.max(height) > u64::from(max_side) {
        PictureLimit::Side(max_side)
    } else if width * height > job.limits.pixels {
        PictureLimit::Pixels(job.limits.pixels)
    } else {
        return Ok(());
    };
    Err(DecodeFault::TooLarge { found: format!("has {width} x {height} pixels"), limit })
}

/// Width and height in the header of a BMP or QOI file.
fn stated_size(bytes: &[u8], format: ImageFormat) -> Option<[i64; 2]> {
    let word = |at: usize| bytes.get(at..at + 4)?.first_chunk::<4>().copied();
    let signed = |at: usize| Some(i64::from(i32::from_le_bytes(word(at)?)));
    match format {
        ImageFormat::Qoi => Some([i64::from(u32::from_be_bytes(word(4)?)), i64::from(u32::from_be_bytes(word(8)?))]),
        // The oldest header has 12 bytes, and sides of 16 bits.
        ImageFormat::Bmp => match u32::from_le_bytes(word(14)?) {
            12 => word(18).map(|[a, b, c, d]| [[a, b], [c, d]].map(|side| i64::from(u16::from_le_bytes(side)))),
            _ => Some([signed(18)?, signed(22)?]),
        },
        _ => None,
    }
}

fn refused(job: &DecodeJob<'_>, error: ImageError) -> DecodeFault {
    match error {
        ImageError::Limits(_) => {
            let found = "needs more memory".to_owned();
            DecodeFault::TooLarge { found, limit: PictureLimit::Bytes(job.limits.bytes) }
        }
        error => DecodeFault::damaged(error),
    }
}

/// What the decoder of TIFF needs besides the pixels: a row of a strip or tile.
fn tiff_bytes(job: &DecodeJob<'_>) -> Result<u64, DecodeFault> {
    let mut decoder = tiff::decoder::Decoder::new(job.input()).map_err(DecodeFault::damaged)?;
    let mut tag = |tag: Tag, default: u64| match decoder.find_tag_unsigned_vec::<u64>(tag) {
        Ok(values) => Ok(values.and_then(|values| values.first().copied()).unwrap_or(default)),
        Err(error) => Err(DecodeFault::damaged(error)),
    };
    // The decoder of such data has no limit: a strip of a small picture may be a JPEG of any size.
    if tag(Tag::Compression, 1)? == u64::from(CompressionMethod::ModernJPEG.to_u16()) {
        return Err(DecodeFault::Damaged("JPEG data in a TIFF file are not read".to_owned()));
    }
    let [width, height] = [tag(Tag::ImageWidth, 0)?, tag(Tag::ImageLength, 0)?];
    let [tile_width, tile_height] = [tag(Tag::TileWidth, width)?, tag(Tag::TileLength, 1)?];
    let padded = |side: u64, tile: u64| side.div_ceil(tile.max(1)).saturating_mul(tile);
    let tiled = padded(width, tile_width).saturating_mul(padded(height, tile_height));
    if tiled > job.limits.pixels.saturating_mul(2) {
        let found = format!("has {width} x {height} pixels in tiles of {tile_width} x {tile_height}");
        return Err(DecodeFault::TooLarge { found, limit: PictureLimit::Pixels(job.limits.pixels) });
    }
    let bits = tag(Tag::BitsPerSample, 1)?.saturating_mul(tag(Tag::SamplesPerPixel, 1)?);
    Ok(tile_width.saturating_mul(bits).div_ceil(8))
}

/// Size of the extension blocks of a GIF before its first frame: comments, XMP and colour profiles, which the
/// decoder keeps.
pub(super) fn gif_metadata_bytes(bytes: &[u8]) -> usize {
    let colors = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + bytes.get(10).map_or(0, |flags| colors(*flags));
    let mut total = 0;
    while bytes.get(at) == Some(&b'!') {
        at += 2;
        // Sub-blocks with their length, up to one of length 0.
        while let Some(length @ 1..) = bytes.get(at) {
            at += 1 + usize::from(*length);
            total += usize::from(*length);
        }
        at += 1;
    }
    total
}
