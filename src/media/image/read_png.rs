//! PNG, with the crate that the image crate uses too. Colour profiles and texts are skipped: they may be
//! compressed a thousandfold.

use image::ColorType;
use image::metadata::Orientation;
use png::{BitDepth, Decoder, DecodingError, Transformations};

use super::DecodedPixels;
use super::job::{DecodeFault, DecodeJob, MAX_METADATA_BYTES};

/// Rows that the decoder holds besides the picture: the one before, the current one, and a buffer to
/// decompress into, which doubles as it grows.
const ROWS: u64 = 8;
/// Largest number of bytes in a pixel.
const MAX_PIXEL_BYTES: u64 = 8;

pub(super) fn decode(job: &DecodeJob<'_>) -> Result<DecodedPixels, DecodeFault> {
    let fault = |error: DecodingError| match error {
        // The limit of the decoder is for metadata: the size in pixels is checked before.
        DecodingError::LimitsExceeded => {
            DecodeFault::Damaged(format!("it has more than {MAX_METADATA_BYTES} bytes of metadata"))
        }
        error => DecodeFault::damaged(error),
    };
    let mut decoder = Decoder::new(job.input());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let size = decoder.read_header_info().map_err(fault)?.size();
    // The picture is checked before the metadata are read. The number of channels is known after that.
    job.check([size.0, size.1], ColorType::L8, 0)?;
    let row_bytes = u64::from(size.0) * MAX_PIXEL_BYTES;
    decoder.set_limits(png::Limits { bytes: MAX_METADATA_BYTES.saturating_add(row_bytes as usize) });
    let mut reader = decoder.read_info().map_err(fault)?;
    let color = color_type(reader.output_color_type())?;
    let row_bytes = u64::from(size.0) * u64::from(color.bytes_per_pixel());
    let mut pixels = job.admit([size.0, size.1], color, ROWS * row_bytes)?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    reader.next_frame(pixels.decoded()).map_err(fault)?;
    if color.bytes_per_pixel() / color.channel_count() == 2 {
        job.go_on()?;
        // PNG stores the high byte first.
        pixels.decoded().as_chunks_mut::<2>().0.iter_mut().for_each(|v| *v = u16::from_be_bytes(*v).to_ne_bytes());
    }
    Ok(DecodedPixels { pixels, orientation, warning: None })
}

fn color_type((color, depth): (png::ColorType, BitDepth)) -> Result<ColorType, DecodeFault> {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};
    Ok(match (color, depth) {
        (Grayscale, BitDepth::Eight) => ColorType::L8,
        (Grayscale, BitDepth::Sixteen) => ColorType::L16,
        (GrayscaleAlpha, BitDepth::Eight) => ColorType::La8,
        (GrayscaleAlpha, BitDepth::Sixteen) => ColorType::La16,
        (Rgb, BitDepth::Eight) => ColorType::Rgb8,
        (Rgb, BitDepth::Sixteen) => ColorType::Rgb16,
        (Rgba, BitDepth::Eight) => ColorType::Rgba8,
        (Rgba, BitDepth::Sixteen) => ColorType::Rgba16,
        other => return Err(DecodeFault::Damaged(format!("pixels of the type {other:?} are not read"))),
    })
}
