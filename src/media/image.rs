//! Reads pictures from files and from bytes.

use std::io::Cursor;
use std::path::Path;

use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::{Error, Picture, sniff};

/// Size of the largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 512 << 20;
const MAX_PIXELS: u64 = 200_000_000;
const MAX_ALLOC_BYTES: u64 = 2 << 30;
/// Bytes that a decoder may allocate per allowed pixel: the size of the largest pixel (four values of 32
/// bits). So the limit on pixels also bounds memory.
const ALLOC_BYTES_PER_PIXEL: u64 = 16;

/// A picture that was read from a file or from bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPicture {
    /// The picture.
    pub picture: Picture,
    /// Set if the file is damaged, so that a part of the picture is missing.
    pub warning: Option<&'static str>,
}

/// Reads a picture from a file.
///
/// # Errors
/// [`Error::Io`] or [`Error::NotAFile`] if the file cannot be read, else as [`read`].
pub fn open(path: &Path) -> Result<OpenedPicture, Error> {
    let meta = std::fs::metadata(path).map_err(|reason| Error::io(path, reason))?;
    if meta.is_dir() {
        return Err(Error::NotAFile { path: path.to_owned(), found: "a folder" });
    }
    if meta.len() > MAX_FILE_BYTES {
        let reason = format!("found {} bytes, expected at most {MAX_FILE_BYTES}", meta.len());
        return Err(Error::Picture { name: path.to_owned(), reason });
    }
    let bytes = std::fs::read(path).map_err(|reason| Error::io(path, reason))?;
    read(&bytes, path)
}

/// Reads a picture from the bytes of its file. The content determines the format. `name` is used in errors
/// only.
///
/// The EXIF orientation is applied. Transparency becomes white, grey becomes RGB, and 16 bits become 8.
///
/// # Errors
/// [`Error::UnknownFormat`], [`Error::Picture`] if it is damaged, [`Error::PictureTooLarge`] above 200
/// million pixels.
pub fn read(bytes: &[u8], name: impl AsRef<Path>) -> Result<OpenedPicture, Error> {
    read_within(bytes, name, MAX_PIXELS)
}

/// As [`read`], with another limit on pixels and in proportion on memory: for pictures from untrusted
/// senders.
///
/// # Errors
/// As [`read`].
pub fn read_within(bytes: &[u8], name: impl AsRef<Path>, max_pixels: u64) -> Result<OpenedPicture, Error> {
    let name = name.as_ref();
    let wrong = |reason: String| Error::Picture { name: name.to_owned(), reason };
    if bytes.is_empty() {
        return Err(wrong("the file is empty".to_owned()));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| wrong(e.to_string()))?;
    let format = reader.format().filter(|format| format.reading_enabled());
    let Some(format) = format else {
        return Err(Error::UnknownFormat { name: name.to_owned(), found: sniff::unsupported_picture(bytes) });
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC_BYTES.min(max_pixels.saturating_mul(ALLOC_BYTES_PER_PIXEL)));
    reader.limits(limits);
    let large = |found: String| Error::PictureTooLarge { name: name.to_owned(), found, max_pixels };
    let refused = |error: ImageError| match claims_too_much(&error, bytes) {
        true => large("claims a size that its decoder does not allow".to_owned()),
        false => wrong(error.to_string()),
    };
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(large(format!("has {width} x {height} pixels")));
    }
    if width == 0 || height == 0 {
        return Err(wrong(format!("it has {width} x {height} pixels")));
    }
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    let truncated = format == ImageFormat::Jpeg && is_truncated_jpeg(bytes);
    let warning = truncated.then_some("the JPEG file ends early: the lower part of the picture is missing");
    Ok(OpenedPicture { picture: to_rgb(image), warning })
}

/// Packed RGB, with transparency on white.
fn to_rgb(image: DynamicImage) -> Picture {
    let (width, height) = (image.width(), image.height());
    let rgb = if image.color().has_alpha() {
        let on_white = |value: u8, alpha: u8| {
            ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8
        };
        image.into_rgba8().pixels().flat_map(|p| [0, 1, 2].map(|c| on_white(p.0[c], p.0[3]))).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Picture { width, height, rgb }
}

/// Whether the compressed data of a JPEG file has no end marker. The decoder fills the missing part with
/// grey.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    // Segments before the data may contain an end marker of their own: that of a thumbnail.
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xda {
            return !bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]);
        }
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

/// Whether a decoder refuses the picture because of its size. The decoders of BMP and QOI have no error type
/// for that, only messages.
fn claims_too_much(error: &ImageError, bytes: &[u8]) -> bool {
    let message = || error.to_string().to_lowercase();
    // Width and height of QOI, whose decoder reports 0 in the same words as a size that is too large.
    let is_zero = || [4..8, 8..12].into_iter().any(|side| bytes.get(side) == Some(&[0; 4][..]));
    match error {
        ImageError::Limits(_) => true,
        ImageError::Decoding(_) => {
            message().contains("image too large") || message().contains("invalid image dimensions") && !is_zero()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::{ImageBuffer, ImageFormat, Luma, Rgb, Rgba};

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
        for (bytes, name) in [
            (&b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
            (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"),
        ] {
            let error = read(bytes, "a").unwrap_err();
            assert!(matches!(error, Error::UnknownFormat { found: Some(found), .. } if found == name), "{error}");
        }
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
        let error = read_within(&none, "none", 40_000_000).unwrap_err();
        assert!(matches!(error, Error::Picture { .. }), "{error}");
        // A logical screen of one pixel with a frame of 65,535 x 65,535 pixels.
        let gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;".to_vec();
        for (name, bytes) in [("bmp", bmp), ("qoi", qoi), ("gif", gif)] {
            let error = read_within(&bytes, name, 40_000_000).unwrap_err();
            assert!(matches!(error, Error::PictureTooLarge { .. }), "{error}");
        }
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
        })
    }
}
