//! Pictures that cost much more than their files. Memory is counted, not measured.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};
use reelseek::Cancel;
use reelseek::media::image::read_within;
use reelseek::media::{Error, Filter, Fit, OpenedPicture, PictureLimit, PictureLimits, trim_borders};

use crate::support::allocations::peak;
use crate::support::hostile::{self, JpegScans};

/// The limits of the server.
const SERVER: PictureLimits = PictureLimits { pixels: 50_000_000, bytes: 300_000_000 };
/// A size whose pixels take more than the memory that every decoding is charged.
const SIZE: [u32; 2] = [3200, 2400];

fn read_as_server(bytes: &[u8]) -> Result<OpenedPicture, Error> {
    read_within(bytes, "a", &SERVER, &Cancel::default())
}

fn encoded(format: ImageFormat, color: ExtendedColorType, [width, height]: [u32; 2]) -> Vec<u8> {
    let data = vec![0; width as usize * height as usize * usize::from(color.bits_per_pixel()) / 8];
    let mut bytes = Cursor::new(Vec::new());
    match format {
        ImageFormat::Gif => {
            image::codecs::gif::GifEncoder::new_with_speed(&mut bytes, 30).encode(&data, width, height, color).unwrap()
        }
        ImageFormat::WebP => {
            image::codecs::webp::WebPEncoder::new_lossless(&mut bytes)
                .write_image(&data, width, height, color)
                .unwrap();
        }
        format => image::write_buffer_with_format(&mut bytes, &data, width, height, color, format).unwrap(),
    }
    bytes.into_inner()
}

/// A picture of each kind that costs memory in another way.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    use ExtendedColorType::{L8, Rgb8, Rgb16, Rgba8};
    let [w, h] = SIZE.map(|side| side as u16);
    let mut kinds = vec![
        ("JPEG", hostile::jpeg([w, h], 0x22, JpegScans::Baseline)),
        ("JPEG in scans", hostile::jpeg([w, h], 0x22, JpegScans::Separate)),
        ("JPEG progressive", hostile::jpeg([w, h], 0x22, JpegScans::Progressive)),
        ("JPEG progressive 4:4:4", hostile::jpeg([w, h], 0x11, JpegScans::Progressive)),
        ("WebP lossy", hostile::webp_lossy([w, h])),
        ("WebP with alpha", hostile::webp_alpha([w, h])),
        ("PNG of one row", hostile::png([960_000, 8], 6, 8)),
    ];
    for (color, depth) in [(0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)] {
        kinds.push(("PNG", hostile::png(SIZE, color, depth)));
    }
    for (name, format, color) in [
        ("WebP lossless", ImageFormat::WebP, Rgb8),
        ("WebP lossless with alpha", ImageFormat::WebP, Rgba8),
        ("GIF", ImageFormat::Gif, Rgba8),
        ("TIFF", ImageFormat::Tiff, Rgb8),
        ("TIFF 16", ImageFormat::Tiff, Rgb16),
        ("BMP", ImageFormat::Bmp, Rgb8),
        ("BMP with alpha", ImageFormat::Bmp, Rgba8),
        ("PNM", ImageFormat::Pnm, Rgb8),
        ("PNM grey", ImageFormat::Pnm, L8),
        ("QOI", ImageFormat::Qoi, Rgba8),
    ] {
        kinds.push((name, encoded(format, color, SIZE)));
    }
    kinds
}

#[test]
fn no_decoding_takes_more_memory_than_its_limit() {
    for (name, bytes) in kinds() {
        let (opened, peak) = peak(|| read_as_server(&bytes));
        let picture = opened.unwrap_or_else(|error| panic!("{name}: {error}")).picture;
        assert_eq!(picture.rgb.len(), 23_040_000, "{name}");
        // Every decoding is charged 24 MB that do not depend on the pixels. They are not for the pixels.
        let short = PictureLimits { bytes: peak + 16_000_000, ..SERVER };
        let refused = read_within(&bytes, name, &short, &Cancel::default());
        let is_refused = matches!(refused, Err(Error::PictureTooLarge { limit: PictureLimit::Bytes(_), .. }));
        assert!(is_refused, "{name}: {peak} bytes are not charged");
    }
}

#[test]
fn every_decoder_stops_when_the_work_is_cancelled() {
    let cancel = Cancel::default();
    cancel.set();
    for (name, bytes) in kinds() {
        let stopped = read_within(&bytes, name, &SERVER, &cancel).unwrap_err();
        assert!(matches!(stopped, Error::Cancelled { .. }), "{name}: {stopped}");
    }
}

#[test]
fn refuses_extreme_shapes_by_their_header() {
    type Header = fn([u32; 2]) -> Vec<u8>;
    let headers: [(&str, Header); 5] = [
        ("PNG", |size| hostile::png_header(size, 0, 8)),
        ("BMP", hostile::bmp_header),
        ("QOI", hostile::qoi_header),
        ("PNM", hostile::pnm_header),
        ("TIFF", |size| hostile::tiff(size, 1, 1, [0; 2], &[0; 8])),
    ];
    for (name, header) in headers {
        for size in [[50_000_000, 1], [1, 50_000_000], [25_000_000, 2], [1_000_001, 1]] {
            // The decoders of BMP and TIFF have other limits.
            let (outcome, peak) = peak(|| read_as_server(&header(size)));
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::PictureTooLarge { .. } | Error::Picture { .. }), "{name} {size:?}: {error}");
            if name == "PNG" {
                assert!(error.to_string().contains("more than the 1000000 pixels a side"), "{error}");
            }
            assert!(peak < 1_000_000, "{name} {size:?}: {peak}");
        }
    }
}

#[test]
fn a_long_picture_costs_at_most_twice_the_memory_of_a_square_one() {
    let cost = |size: [u32; 2]| {
        let bytes = hostile::png(size, 2, 8);
        let search = || {
            let picture = read_as_server(&bytes).unwrap().picture;
            let trimmed = trim_borders(&picture).unwrap_or(picture.view());
            let cover = Fit::Cover { shorter: 64, filter: Filter::Bicubic };
            (trimmed.resize(64, 64), cover.apply(trimmed, 64, 64))
        };
        peak(search).1
    };
    let square = cost([3464, 3464]);
    for size in [[1_000_000, 12], [12, 1_000_000]] {
        let long = cost(size);
        assert!(long <= 2 * square, "{size:?}: {long} bytes, the square {square}");
    }
}

#[test]
fn counts_pixels_by_their_bytes() {
    let refused = |color, depth| read_as_server(&hostile::png_header([7071, 7071], color, depth)).unwrap_err();
    let error = refused(6, 16);
    assert!(matches!(error, Error::PictureTooLarge { limit: PictureLimit::Bytes(300_000_000), .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "a: the picture has 7071 x 7071 pixels, which take 425 MB to decode, more than the 300 MB that decoding may \
         take; shrink it first"
    );
    assert!(matches!(refused(2, 16), Error::PictureTooLarge { .. }));
    // These are admitted, and end early.
    for color in [0, 2, 6] {
        let error = refused(color, 8);
        assert!(matches!(error, Error::Picture { .. }), "{error}");
    }
}

#[test]
fn skips_compressed_metadata() {
    let bytes = hostile::png_metadata_bomb(100_000_000);
    assert!(bytes.len() < 3_000_000);
    let (opened, peak) = peak(|| read_as_server(&bytes));
    assert_eq!(opened.unwrap().picture.rgb, [0; 300]);
    assert!(peak < 4_000_000, "{peak}");
}

#[test]
fn refuses_a_gif_with_much_metadata() {
    let error = read_as_server(&hostile::gif_header([10, 10], 5_000_000)).unwrap_err();
    assert!(error.to_string().contains("more than 4000000 bytes of metadata"), "{error}");
    let error = read_as_server(&hostile::gif_header([10, 10], 1_000)).unwrap_err();
    assert!(!error.to_string().contains("metadata"), "{error}");
}

#[test]
fn frames_and_chunks_that_lie_about_their_size_cost_nothing() {
    let jpeg = hostile::jpeg([16_000, 16_000], 0x11, JpegScans::Baseline);
    for (name, bytes) in [
        ("frame of a WebP", hostile::webp_large_frame()),
        ("EXIF of a WebP", hostile::webp_large_exif()),
        ("JPEG in a TIFF", hostile::tiff([8, 8], 1, 7, [0; 2], &jpeg)),
        ("tile of a TIFF", hostile::tiff([8, 8], 1, 1, [1 << 20, 1 << 20], &[0; 64])),
        ("row of a tile of a TIFF", hostile::tiff([8, 8], 1, 1, [1 << 30, 16], &[0; 64])),
        ("frame of a GIF", hostile::gif_header([65_535, 65_535], 0)),
        ("JPEG", hostile::jpeg([65_000, 65_000], 0x11, JpegScans::Baseline)[..2000].to_vec()),
    ] {
        let (outcome, peak) = peak(|| read_as_server(&bytes));
        assert!(outcome.is_err() || name == "EXIF of a WebP", "{name}");
        assert!(peak < 10_000_000, "{name}: {peak}");
    }
}

#[test]
fn tables_of_a_lossless_webp_are_charged() {
    let bytes = hostile::webp_table_bomb();
    assert!(bytes.len() < 4_000_000);
    let (outcome, peak) = peak(|| read_as_server(&bytes));
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::PictureTooLarge { limit: PictureLimit::Bytes(_), .. }), "{error}");
    assert!(peak < SERVER.bytes, "{peak}");
    let mut random = 1_u32;
    let noise = |_| {
        random = random.wrapping_mul(747_796_405).wrapping_add(1);
        (random >> 24) as u8
    };
    let pixels: Vec<u8> = (0..1000 * 1000 * 3).map(noise).collect();
    let mut webp = Cursor::new(Vec::new());
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
    encoder.write_image(&pixels, 1000, 1000, ExtendedColorType::Rgb8).unwrap();
    assert!(webp.get_ref().len() > 1_000_000);
    assert!(read_as_server(webp.get_ref()).unwrap().picture.rgb == pixels);
}

#[test]
fn files_that_end_early_are_refused_or_searched_with_a_warning() {
    for (name, bytes) in kinds() {
        for part in [2, 3, 50] {
            match read_as_server(&bytes[..bytes.len() * (part - 1) / part]) {
                Err(Error::Picture { .. }) => {}
                Ok(opened) => assert!(opened.warning.is_some() || name == "GIF" || name.contains("WebP"), "{name}"),
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
}

#[test]
fn metadata_of_a_jpeg_are_skipped_and_its_orientation_is_kept() {
    let plain = hostile::jpeg([32, 16], 0x22, JpegScans::Baseline);
    let segment =
        |marker: u8, data: &[u8]| [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat();
    let mut bytes = plain[..2].to_vec();
    (0..200).for_each(|_| bytes.extend(segment(0xe2, &[b"ICC_PROFILE\0\x01\x01", &[7; 60_000][..]].concat())));
    bytes.extend(segment(0xe1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"));
    bytes.extend(&plain[2..]);
    let (opened, peak) = peak(|| read_as_server(&bytes).unwrap().picture);
    assert_eq!((opened.width, opened.height), (16, 32));
    assert!(peak < 1_000_000, "{peak}");
    let expected = read_as_server(&plain).unwrap().picture;
    let mut turned = DynamicImage::ImageRgb8(image::ImageBuffer::from_raw(32, 16, expected.rgb).unwrap());
    turned.apply_orientation(Orientation::Rotate90);
    assert_eq!(opened.rgb, turned.into_rgb8().into_raw());
}
