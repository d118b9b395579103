//! Decoded pixels of any colour type, which become packed 8-bit RGB in place.

use image::ColorType;
use image::metadata::Orientation;

use super::job::DecodeFault;
use crate::base::Cancel;
use crate::media::Picture;

/// Pixels between two checks of the flag.
const BLOCK: usize = 1 << 20;

/// A buffer for the pixels of a decoder. First it holds the decoded picture, later the RGB picture. It is as
/// large as the larger of the two.
pub(super) struct PixelBuffer {
    width: u32,
    height: u32,
    color: ColorType,
    bytes: Vec<u8>,
    /// Offset of the decoded pixels. Pixels of fewer than three bytes lie at the end, so that the RGB pixels
    /// written from the start on never reach a pixel that is still to be read.
    start: usize,
}

impl PixelBuffer {
    /// Size of the buffer in bytes.
    pub(super) fn bytes_needed(pixels: u64, color: ColorType) -> u64 {
        pixels.saturating_mul(u64::from(color.bytes_per_pixel().max(3)))
    }

    pub(super) fn new(width: u32, height: u32, color: ColorType) -> PixelBuffer {
        let pixels = width as usize * height as usize;
        let decoded = pixels * usize::from(color.bytes_per_pixel());
        let bytes = vec![0; decoded.max(pixels * 3)];
        PixelBuffer { width, height, color, start: bytes.len() - decoded, bytes }
    }

    /// The part for the decoder.
    pub(super) fn decoded(&mut self) -> &mut [u8] {
        let length = self.width as usize * self.height as usize * usize::from(self.color.bytes_per_pixel());
        &mut self.bytes[self.start..][..length]
    }

    /// The RGB picture: transparency becomes white, grey becomes RGB, and 16 bits become 8.
    pub(super) fn into_picture(mut self, cancel: &Cancel) -> Result<Picture, DecodeFault> {
        let eight = |value: [u8; 2]| ((u32::from(u16::from_ne_bytes(value)) + 128) / 257) as u8;
        // NaN becomes white, as in browsers.
        let real = |value: [u8; 4]| match f32::from_ne_bytes(value) {
            value if value < 1.0 => (value.max(0.0) * 255.0).round() as u8,
            _ => 255,
        };
        match self.color {
            ColorType::Rgb8 => {}
            ColorType::L8 => self.pack(cancel, |[l]: [u8; 1]| [l; 3])?,
            ColorType::La8 => self.pack(cancel, |[l, a]: [u8; 2]| [on_white(l, a); 3])?,
            ColorType::Rgba8 => self.pack(cancel, |[r, g, b, a]: [u8; 4]| [r, g, b].map(|v| on_white(v, a)))?,
            ColorType::L16 => self.pack(cancel, |l: [u8; 2]| [eight(l); 3])?,
            ColorType::La16 => {
                self.pack(cancel, |p: [u8; 4]| [on_white(eight([p[0], p[1]]), eight([p[2], p[3]])); 3])?;
            }
            ColorType::Rgb16 => self.pack(cancel, |p: [u8; 6]| [0, 2, 4].map(|i| eight([p[i], p[i + 1]])))?,
            ColorType::Rgba16 => self.pack(cancel, |p: [u8; 8]| {
                let alpha = eight([p[6], p[7]]);
                [0, 2, 4].map(|i| on_white(eight([p[i], p[i + 1]]), alpha))
            })?,
            ColorType::Rgb32F => {
                self.pack(cancel, |p: [u8; 12]| [0, 4, 8].map(|i| real([p[i], p[i + 1], p[i + 2], p[i + 3]])))?
            }
            ColorType::Rgba32F => self.pack(cancel, |p: [u8; 16]| {
                let alpha = real([p[12], p[13], p[14], p[15]]);
                [0, 4, 8].map(|i| on_white(real([p[i], p[i + 1], p[i + 2], p[i + 3]]), alpha))
            })?,
            other => return Err(DecodeFault::Damaged(format!("pixels of the type {other:?} are not read"))),
        }
        self.bytes.truncate(self.width as usize * self.height as usize * 3);
        Ok(Picture { width: self.width, height: self.height, rgb: self.bytes })
    }

    /// Replaces each decoded pixel of `N` bytes by its three bytes.
    fn pack<const N: usize>(
        &mut self,
        cancel: &Cancel,
        to_rgb: impl Fn([u8; N]) -> [u8; 3],
    ) -> Result<(), DecodeFault> {
        let count = self.width as usize * self.height as usize;
        for block in (0..count).step_by(BLOCK) {
            if cancel.is_set() {
                return Err(DecodeFault::Cancelled);
            }
            for i in block..count.min(block + BLOCK) {
                let mut pixel = [0; N];
                pixel.copy_from_slice(&self.bytes[self.start + i * N..][..N]);
                self.bytes[i * 3..][..3].copy_from_slice(&to_rgb(pixel));
            }
        }
        Ok(())
    }
}

pub(super) fn on_white(value: u8, alpha: u8) -> u8 {
    ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8
}

/// Bytes that a rotation needs besides the picture.
const ROTATION_BYTES: usize = 8_000_000;

/// Applies an orientation of EXIF in place.
pub(super) fn oriented(
    mut picture: Picture,
    orientation: Orientation,
    cancel: &Cancel,
) -> Result<Picture, DecodeFault> {
    use Orientation::{FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate180, Rotate270, Rotate270FlipH};
    if matches!(orientation, Rotate90 | Orientation::Rotate90FlipH | Rotate270 | Rotate270FlipH) {
        transpose(&mut picture, ROTATION_BYTES, cancel)?;
    }
    let (horizontally, vertically) = match orientation {
        NoTransforms | Orientation::Rotate90FlipH => (false, false),
        FlipHorizontal | Rotate90 => (true, false),
        FlipVertical | Rotate270 => (false, true),
        Rotate180 | Rotate270FlipH => (true, true),
    };
    if cancel.is_set() {
        return Err(DecodeFault::Cancelled);
    }
    let stride = picture.width as usize * 3;
    if horizontally {
        picture.rgb.chunks_exact_mut(stride).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
    }
    if vertically {
        let mut rows = picture.rgb.chunks_exact_mut(stride);
        while let (Some(upper), Some(lower)) = (rows.next(), rows.next_back()) {
            upper.swap_with_slice(lower);
        }
    }
    Ok(picture)
}

/// Exchanges rows and columns in place. It uses about `room` bytes besides, or twice a column if that is
/// more.
///
/// The columns are divided into bands. First the parts of each band are moved together, so that each band is
/// a picture of few columns, at the place of its transposed columns. Then each band is copied and transposed
/// there; the copy is small. The last columns, which fill no band, are copied before all this.
fn transpose(picture: &mut Picture, room: usize, cancel: &Cancel) -> Result<(), DecodeFault> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let rgb = picture.rgb.as_chunks_mut::<3>().0;
    let band = (room / 3 / height).clamp(1, width);
    let (bands, rest) = (width / band, width % band);
    let mut copy: Vec<[u8; 3]> = Vec::with_capacity(band * height);
    let mut remaining = Vec::with_capacity(rest * height);
    rgb.chunks_exact(width).for_each(|row| remaining.extend_from_slice(&row[width - rest..]));
    if rest > 0 {
        (1..height).for_each(|y| rgb.copy_within(y * width..y * width + bands * band, y * bands * band));
    }
    gather_bands(&mut rgb[..bands * band * height], [bands, height], band, cancel)?;
    let columns_to_rows = |from: &[[u8; 3]], count: usize, to: &mut [[u8; 3]]| {
        for (x, row) in to.chunks_exact_mut(height).enumerate() {
            row.iter_mut().zip(from[x..].iter().step_by(count)).for_each(|(to, from)| *to = *from);
        }
    };
    for block in rgb[..bands * band * height].chunks_exact_mut(band * height) {
        if cancel.is_set() {
            return Err(DecodeFault::Cancelled);
        }
        copy.clear();
        copy.extend_from_slice(block);
        columns_to_rows(&copy, band, block);
    }
    columns_to_rows(&remaining, rest.max(1), &mut rgb[bands * band * height..]);
    (picture.width, picture.height) = (picture.height, picture.width);
    Ok(())
}

/// Moves the parts of each band together: part `k` of row `y` moves from place `y * bands + k` to place
/// `k * height + y`. A part has `band` pixels. Each cycle of the permutation is followed once.
fn gather_bands(
    rgb: &mut [[u8; 3]],
    [bands, height]: [usize; 2],
    band: usize,
    cancel: &Cancel,
) -> Result<(), DecodeFault> {
    let mut moved = vec![0_u64; (bands * height).div_ceil(64)];
    let mut held = vec![[0; 3]; band];
    let mut steps = 0_usize;
    for start in 0..bands * height {
        if moved[start / 64] >> (start % 64) & 1 == 1 {
            continue;
        }
        held.copy_from_slice(&rgb[start * band..][..band]);
        let mut place = start;
        loop {
            place = place % bands * height + place / bands;
            rgb[place * band..][..band].swap_with_slice(&mut held);
            moved[place / 64] |= 1 << (place % 64);
            steps += 1;
            if steps.is_multiple_of(BLOCK / 16) && cancel.is_set() {
                return Err(DecodeFault::Cancelled);
            }
            if place == start {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageBuffer};
    use proptest::prelude::*;

    use super::*;

    const TYPES: [ColorType; 10] = [
        ColorType::L8,
        ColorType::La8,
        ColorType::Rgb8,
        ColorType::Rgba8,
        ColorType::L16,
        ColorType::La16,
        ColorType::Rgb16,
        ColorType::Rgba16,
        ColorType::Rgb32F,
        ColorType::Rgba32F,
    ];

    /// The conversion by the image crate, whose results the index and the calibration were made with.
    fn by_image_crate(color: ColorType, width: u32, height: u32, bytes: &[u8]) -> Vec<u8> {
        let short = || bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect();
        let real = || bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let bytes = || bytes.to_vec();
        macro_rules! image {
            ($kind:ident, $values:expr) => {
                DynamicImage::$kind(ImageBuffer::from_raw(width, height, $values).unwrap())
            };
        }
        let image = match color {
            ColorType::L8 => image!(ImageLuma8, bytes()),
            ColorType::La8 => image!(ImageLumaA8, bytes()),
            ColorType::Rgb8 => image!(ImageRgb8, bytes()),
            ColorType::Rgba8 => image!(ImageRgba8, bytes()),
            ColorType::L16 => image!(ImageLuma16, short()),
            ColorType::La16 => image!(ImageLumaA16, short()),
            ColorType::Rgb16 => image!(ImageRgb16, short()),
            ColorType::Rgba16 => image!(ImageRgba16, short()),
            ColorType::Rgb32F => image!(ImageRgb32F, real()),
            _ => image!(ImageRgba32F, real()),
        };
        match color.has_alpha() {
            false => image.into_rgb8().into_raw(),
            true => image.into_rgba8().pixels().flat_map(|p| [0, 1, 2].map(|c| on_white(p.0[c], p.0[3]))).collect(),
        }
    }

    proptest! {
        #[test]
        fn every_colour_type_becomes_the_rgb_of_the_image_crate(
            color in prop::sample::select(&TYPES[..]), width in 1u32..7, height in 1u32..7, seed: u64,
        ) {
            let mut buffer = PixelBuffer::new(width, height, color);
            let mut random = crate::base::seeded::Random::new(seed, "pixels");
            buffer.decoded().iter_mut().for_each(|byte| *byte = random.up_to(255) as u8);
            if matches!(color, ColorType::Rgb32F | ColorType::Rgba32F) {
                for value in buffer.decoded().chunks_exact_mut(4) {
                    let number = [random.between(-0.5, 1.5), f32::NAN, f32::INFINITY][random.up_to(2) as usize];
                    value.copy_from_slice(&number.to_ne_bytes());
                }
            }
            let expected = by_image_crate(color, width, height, buffer.decoded());
            let picture = buffer.into_picture(&Cancel::default()).unwrap();
            prop_assert_eq!(picture.rgb, expected);
        }

        #[test]
        fn every_orientation_is_that_of_the_image_crate(
            exif in 1u8..=8, width in 1u32..40, height in 1u32..40, room in 0usize..3000,
        ) {
            let rgb: Vec<u8> = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
            let orientation = Orientation::from_exif(exif).unwrap();
            let mut expected = DynamicImage::ImageRgb8(ImageBuffer::from_raw(width, height, rgb.clone()).unwrap());
            expected.apply_orientation(orientation);
            let picture = Picture { width, height, rgb };
            let turned = oriented(picture.clone(), orientation, &Cancel::default()).unwrap();
            prop_assert_eq!((turned.width, turned.height), (expected.width(), expected.height()));
            prop_assert_eq!(&turned.rgb, &expected.into_rgb8().into_raw());
            let mut transposed = picture.clone();
            transpose(&mut transposed, room, &Cancel::default()).unwrap();
            transpose(&mut transposed, room / 2, &Cancel::default()).unwrap();
            prop_assert_eq!(transposed, picture);
        }
    }
}
