//! Reads pictures from files and from bytes.
//!
//! The decoders come from other crates, except that ffmpeg decodes HEIC and AVIF. [`PictureLimits`] bound
//! what each of them costs: a picture is refused before its pixels are decoded if it has too many or if its
//! decoder needs too much memory. The bytes that a decoder needs are known from the headers of the file;
//! `benches/pictures.rs` measures them.

mod animation;
mod decoder_thread;
mod heif;
mod input;
mod job;
mod pixels;
mod read_heif;
mod read_jpeg;
mod read_jxl;
mod read_other;
mod read_png;
mod read_webp;

use std::fmt;
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{ImageFormat, guess_format};

use self::job::{DecodeFault, DecodeJob};
use self::pixels::PixelBuffer;
use super::{Error, Frame, Picture, sniff};
use crate::base::Cancel;
use crate::base::files::read_regular;

/// Size of the largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// The warning for a file that ends early.
const CUT: &str = "the file ends early, so a part of the picture is missing";

/// A picture that was read from a file or from bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPicture {
    /// The picture.
    pub picture: Picture,
    /// Set if the file is damaged, so that a part of the picture is missing.
    pub warning: Option<&'static str>,
}

/// Limits of one decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureLimits {
    /// Most pixels of a picture.
    pub pixels: u64,
    /// Most bytes of memory, besides those of the file.
    pub bytes: u64,
}

/// 200 million pixels and 600 MB.
impl Default for PictureLimits {
    fn default() -> PictureLimits {
        PictureLimits { pixels: 200_000_000, bytes: 600_000_000 }
    }
}

/// The limit that a picture exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PictureLimit {
    /// Pixels.
    Pixels(u64),
    /// Pixels along one side.
    Side(u32),
    /// Bytes of memory for the decoding.
    Bytes(u64),
}

impl fmt::Display for PictureLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PictureLimit::Pixels(most) => write!(f, "the {most} pixels that are read"),
            PictureLimit::Side(most) => write!(f, "the {most} pixels a side that are read"),
            PictureLimit::Bytes(most) => write!(f, "the {} MB that decoding may take", most / 1_000_000),
        }
    }
}

/// Reads a picture from a file. File and decoding together take at most the memory of the default
/// [`PictureLimits`].
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::NotAFile`] if it is a folder, a pipe, a socket or a
/// device, else as [`read`].
pub fn open(path: &Path) -> Result<OpenedPicture, Error> {
    let bytes = read_regular(path, MAX_FILE_BYTES).map_err(|error| Error::unread(path, error))?;
    read(&bytes, path)
}

/// Reads a picture from the bytes of its file. The content determines the format. `name` is used in errors
/// only. The bytes and the decoding together take at most the memory of the default [`PictureLimits`].
///
/// The EXIF orientation is applied. Transparency becomes white, grey becomes RGB, and 16 bits become 8.
///
/// # Errors
/// [`Error::UnknownFormat`], [`Error::Picture`] if it is damaged, [`Error::PictureTooLarge`] beyond the
/// limits.
pub fn read(bytes: &[u8], name: impl AsRef<Path>) -> Result<OpenedPicture, Error> {
    let limits = PictureLimits::default();
    let limits = PictureLimits { bytes: limits.bytes.saturating_sub(bytes.len() as u64), ..limits };
    read_within(bytes, name, &limits, &Cancel::default())
}

/// As [`read`], with other limits, and until the work is cancelled: for pictures from untrusted senders.
///
/// # Errors
/// As [`read`], and [`Error::Cancelled`].
pub fn read_within(
    bytes: &[u8],
    name: impl AsRef<Path>,
    limits: &PictureLimits,
    cancel: &Cancel,
) -> Result<OpenedPicture, Error> {
    let name = name.as_ref();
    let job = DecodeJob { bytes, limits, cancel };
    let outcome = match PictureFormat::of(bytes) {
        _ if bytes.is_empty() => Err(DecodeFault::Damaged("the file is empty".to_owned())),
        Some(format) => decode(&job, format),
        None => {
            return Err(Error::UnknownFormat { name: name.to_owned(), found: sniff::unsupported_picture(bytes) });
        }
    };
    outcome.map_err(|fault| named(fault, bytes, name, cancel))
}

/// Passes the frames of an animation to `take`. Returns how many there are: none if the file is no animation.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn animation(
    bytes: &[u8],
    name: &Path,
    limits: &PictureLimits,
    cancel: &Cancel,
    take: &mut dyn FnMut(Frame),
) -> Result<usize, Error> {
    let Some(PictureFormat::Other(format)) = PictureFormat::of(bytes) else { return Ok(0) };
    let frames = animation::decode(&DecodeJob { bytes, limits, cancel }, format, take);
    frames.map_err(|fault| named(fault, bytes, name, cancel))
}

/// The error for a fault. `bytes` are those of the picture.
fn named(fault: DecodeFault, bytes: &[u8], name: &Path, cancel: &Cancel) -> Error {
    let name = name.to_owned();
    match fault {
        // After the cancellation reads fail, which decoders report as damage.
        _ if cancel.is_set() => Error::Cancelled { path: name },
        DecodeFault::Cancelled => Error::Cancelled { path: name },
        DecodeFault::Damaged(reason) => Error::Picture { name, reason },
        DecodeFault::TooLarge { found, limit } => Error::PictureTooLarge { name, found, limit },
        DecodeFault::NeedsFfmpeg(reason) => {
            Error::NeedsFfmpeg { name, what: sniff::heif(bytes).unwrap_or("HEIC"), reason }
        }
        DecodeFault::Other(error) => error,
    }
}

/// Reads the structure of a HEIF file, which ffmpeg decodes. Returns whether the bytes are such a file. For
/// fuzzing only.
#[doc(hidden)]
pub fn parse_heif(bytes: &[u8]) -> bool {
    let is_heif = sniff::heif(bytes).is_some();
    if is_heif {
        read_heif::check(bytes);
    }
    is_heif
}

/// Whether bytes begin like a video, which ffmpeg decodes. For fuzzing only.
#[doc(hidden)]
pub fn is_video(bytes: &[u8]) -> bool {
    sniff::is_video(bytes)
}

/// The format of a picture, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PictureFormat {
    /// A format with a decoder of the image crate or of one like it.
    Other(ImageFormat),
    /// HEIC and AVIF.
    Heif,
    JpegXl,
}

impl PictureFormat {
    fn of(bytes: &[u8]) -> Option<PictureFormat> {
        if sniff::is_jpeg_xl(bytes) {
            return Some(PictureFormat::JpegXl);
        }
        if sniff::heif(bytes).is_some() {
            return Some(PictureFormat::Heif);
        }
        guess_format(bytes).ok().filter(|format| format.reading_enabled()).map(PictureFormat::Other)
    }
}

/// The pixels of a picture as its decoder leaves them.
struct DecodedPixels {
    pixels: PixelBuffer,
    orientation: Orientation,
    warning: Option<&'static str>,
}

fn decode(job: &DecodeJob<'_>, format: PictureFormat) -> Result<OpenedPicture, DecodeFault> {
    let decoded = match format {
        PictureFormat::Heif => return read_heif::decode(job),
        PictureFormat::JpegXl => read_jxl::decode(job)?,
        PictureFormat::Other(ImageFormat::Png) => read_png::decode(job)?,
        PictureFormat::Other(ImageFormat::Jpeg) => read_jpeg::decode(job)?,
        PictureFormat::Other(ImageFormat::WebP) => read_webp::decode(job)?,
        PictureFormat::Other(format) => read_other::decode(job, format)?,
    };
    let picture = decoded.pixels.into_picture(job.cancel)?;
    let picture = pixels::oriented(picture, decoded.orientation, job.cancel)?;
    Ok(OpenedPicture { picture, warning: decoded.warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::{DynamicImage, ImageBuffer, Luma, Rgb, Rgba};
    use std::io::Cursor;

    /// Limits with this number of pixels.
    fn at_most(pixels: u64) -> PictureLimits {
        PictureLimits { pixels, ..PictureLimits::default() }
    }

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn transparency_becomes_white() {
        let mut image = ImageBuffer::from_pixel(2, 1, Rgba([200u8, 0, 0, 0]));
        image.put_pixel(1, 0, Rgba([200, 0, 0, 255]));
        let picture = read(&png(&DynamicImage::ImageRgba8(image)), "a").unwrap().picture;
        assert_eq!(picture.rgb, [255, 255, 255, 200, 0, 0]);
    }

    #[test]
    fn sixteen_bit_grey_becomes_eight_bit_rgb() {
        let image = ImageBuffer::from_pixel(1, 1, Luma([0x8080u16]));
        assert_eq!(read(&png(&DynamicImage::ImageLuma16(image)), "a").unwrap().picture.rgb, [128, 128, 128]);
    }

    /// A JPEG of 2 x 1 blocks with an EXIF segment that requests a quarter turn clockwise.
    #[test]
    fn exif_orientation_is_applied() {
        let image = ImageBuffer::from_fn(32, 16, |x, _| Rgb([if x < 16 { 250u8 } else { 5 }; 3]));
        let mut jpeg = Cursor::new(Vec::new());
        image.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend(((8 + tiff.len()) as u16).to_be_bytes());
        bytes.extend(b"Exif\0\0");
        bytes.extend(tiff);
        bytes.extend(&jpeg[2..]);
        let picture = read(&bytes, "a").unwrap().picture;
        assert_eq!((picture.width, picture.height), (16, 32));
        assert!(picture.rgb[0] > 200 && picture.rgb[picture.rgb.len() - 1] < 50);
    }

    #[test]
    fn warns_of_a_jpeg_that_ends_early() {
        let noise = ImageBuffer::from_fn(64, 64, |x, y| Rgb([(x * 7 + y * 13) as u8, (x * y) as u8, y as u8]));
        let mut jpeg = Cursor::new(Vec::new());
        noise.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        assert_eq!(read(&jpeg, "a").unwrap().warning, None);
        assert_eq!(read(&[&jpeg[..], b"trailing bytes"].concat(), "a").unwrap().warning, None);
        assert!(read(&jpeg[..jpeg.len() * 2 / 3], "a").unwrap().warning.is_some());
    }

    #[test]
    fn recognises_pictures_that_are_not_supported() {
        let svg = b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
        let error = read(svg, "a").unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { found: Some("SVG"), .. }), "{error}");
    }

    #[test]
    fn an_error_begins_with_the_name_of_the_picture() {
        for bytes in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"] {
            let error = read(bytes, "holiday.jpg").unwrap_err().to_string();
            assert!(error.starts_with("holiday.jpg: "), "{error}");
        }
    }

    #[test]
    fn rejects_a_decompression_bomb_before_decoding() {
        // A PNG header that claims 60,000 x 60,000 pixels.
        let mut bytes = png(&DynamicImage::new_rgb8(1, 1));
        bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let crc = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = read(&bytes, "a").unwrap_err();
        assert!(
            matches!(&error, Error::PictureTooLarge { found, .. } if found == "has 60000 x 60000 pixels"),
            "{error}"
        );
    }

    #[test]
    fn reports_a_size_that_a_decoder_refuses_as_too_large_in_every_format() {
        let mut bmp = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(1, 1).write_to(&mut bmp, ImageFormat::Bmp).unwrap();
        let mut bmp = bmp.into_inner();
        bmp[18..22].copy_from_slice(&100_000i32.to_le_bytes());
        bmp[22..26].copy_from_slice(&100_000i32.to_le_bytes());
        let mut qoi = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(1, 1).write_to(&mut qoi, ImageFormat::Qoi).unwrap();
        let mut qoi = qoi.into_inner();
        qoi[4..12].copy_from_slice(&[0xff; 8]);
        let mut none = qoi.clone();
        none[4..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7]);
        let error = read_within(&none, "none", &at_most(40_000_000), &Cancel::default()).unwrap_err();
        assert!(matches!(error, Error::Picture { .. }), "{error}");
        // A logical screen of one pixel with a frame of 65,535 x 65,535 pixels.
        let gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;".to_vec();
        let mut wide = bmp.clone();
        wide[18..26].copy_from_slice(&[0x70, 0x11, 1, 0, 1, 0, 0, 0]);
        for (name, bytes, words) in [
            ("bmp", bmp, "has 100000 x 100000 pixels, more than the 65535 pixels a side that are read"),
            ("wide", wide, "has 70000 x 1 pixels, more than the 65535 pixels a side that are read"),
            ("qoi", qoi, "has 4294967295 x 4294967295 pixels, more than the 1000000 pixels a side that are read"),
            ("gif", gif, "needs more memory, more than the 600 MB that decoding may take"),
        ] {
            let error = read_within(&bytes, name, &at_most(40_000_000), &Cancel::default()).unwrap_err();
            assert!(matches!(error, Error::PictureTooLarge { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_bmp_without_pixels_is_damaged_and_its_size_is_named() {
        let mut bmp = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(1, 1).write_to(&mut bmp, ImageFormat::Bmp).unwrap();
        let bmp = bmp.into_inner();
        for (width, height) in [(-5, 5), (0, 5), (5, 0)] {
            let mut bytes = bmp.clone();
            bytes[18..22].copy_from_slice(&i32::to_le_bytes(width));
            bytes[22..26].copy_from_slice(&i32::to_le_bytes(height));
            let error = read(&bytes, "a").unwrap_err();
            assert!(error.to_string().contains(&format!("its size is {width} x {height} pixels")), "{error}");
        }
        // Rows from the top.
        let mut bytes = bmp;
        bytes[22..26].copy_from_slice(&i32::to_le_bytes(-1));
        assert_eq!(read(&bytes, "a").unwrap().picture.height, 1);
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
        })
    }
}
