//! Distorts pictures as screenshots and reposts on the web are distorted: thirteen seeded distortions.
//!
//! Training pairs and the quality evaluation use the same distortions.

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::Picture;
use crate::base::seeded::Random;

/// A way to distort a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distortion {
    /// Leaves the picture unchanged.
    None,
    /// Compresses as JPEG of quality 12.
    Jpeg,
    /// Shrinks to a width of 96 pixels.
    Small,
    /// Crops to 70 to 90 % of each side, at a random position.
    Crop,
    /// Changes brightness and contrast, each by a factor in [0.6, 0.8] or [1.2, 1.5].
    Brightness,
    /// Adds black bars above and below, each 10 to 20 % of the height.
    Letterbox,
    /// Covers the lower fifth with a black bar and white words.
    Subtitle,
    /// Removes colour.
    Grey,
    /// Gaussian blur with a sigma of 1 % of the longer side.
    Blur,
    /// Exchanges left and right.
    Mirror,
    /// Crops, changes brightness and contrast, and compresses as JPEG of quality 30.
    Combined,
    /// Imitates a photo of a screen: moves each corner by up to 6 % of the sides (perspective), adds a dark
    /// surround of 4 to 12 % on each side, scales each colour by 0.8 to 1.15 (colour cast), lifts black to
    /// 12, adds noise of deviation 6 and compresses as JPEG of quality 60.
    Screen,
    /// Rotates by 1 to 5 degrees in either direction. Uncovered corners are black.
    Rotation,
}

impl Distortion {
    /// All distortions, in the order of reports.
    pub const ALL: [Distortion; 13] = [
        Distortion::None,
        Distortion::Jpeg,
        Distortion::Small,
        Distortion::Crop,
        Distortion::Brightness,
        Distortion::Letterbox,
        Distortion::Subtitle,
        Distortion::Grey,
        Distortion::Blur,
        Distortion::Mirror,
        Distortion::Combined,
        Distortion::Screen,
        Distortion::Rotation,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Distortion::None => "none",
            Distortion::Jpeg => "jpeg12",
            Distortion::Small => "small96",
            Distortion::Crop => "crop",
            Distortion::Brightness => "brightness",
            Distortion::Letterbox => "letterbox",
            Distortion::Subtitle => "subtitle",
            Distortion::Grey => "grey",
            Distortion::Blur => "blur",
            Distortion::Mirror => "mirror",
            Distortion::Combined => "crop+brightness+jpeg",
            Distortion::Screen => "screen",
            Distortion::Rotation => "rotation",
        }
    }

    /// A distorted copy. The random numbers determine the position of a crop and the strength of a change.
    pub(crate) fn apply(self, picture: &Picture, random: &mut Random) -> Picture {
        let source = to_image(picture);
        let (width, height) = source.dimensions();
        let out = match self {
            Distortion::None => source,
            Distortion::Jpeg => jpeg(&source, 12),
            Distortion::Small => {
                let rows = (96.0 * height as f32 / width as f32).round().max(1.0) as u32;
                imageops::resize(&source, 96, rows, FilterType::Triangle)
            }
            Distortion::Crop => crop(&source, random),
            Distortion::Brightness => brightness(source, random),
            Distortion::Letterbox => {
                let bar = (height as f32 * random.between(0.1, 0.2)) as u32;
                let mut out = RgbImage::new(width, height + 2 * bar);
                imageops::replace(&mut out, &source, 0, i64::from(bar));
                out
            }
            Distortion::Subtitle => subtitle(source, random),
            Distortion::Grey => {
                let mut out = source;
                for Rgb(pixel) in out.pixels_mut() {
                    let [r, g, b] = pixel.map(f32::from);
                    *pixel = [(0.299 * r + 0.587 * g + 0.114 * b).round() as u8; 3];
                }
                out
            }
            Distortion::Blur => imageops::blur(&source, width.max(height) as f32 / 100.0),
            Distortion::Mirror => imageops::flip_horizontal(&source),
            Distortion::Combined => jpeg(&brightness(crop(&source, random), random), 30),
            Distortion::Screen => screen(&source, random),
            Distortion::Rotation => {
                let size = random.between(1.0, 5.0);
                let (sin, cos) = random.either(size, -size).to_radians().sin_cos();
                let (x0, y0) = (width as f32 / 2.0, height as f32 / 2.0);
                let from = |x: f32, y: f32| {
                    let (x, y) = (x - x0, y - y0);
                    (x0 + x * cos - y * sin, y0 + x * sin + y * cos)
                };
                warped(&source, (width, height), from, |_| 0.0)
            }
        };
        Picture { width: out.width(), height: out.height(), rgb: out.into_raw() }
    }
}

fn to_image(picture: &Picture) -> RgbImage {
    RgbImage::from_raw(picture.width, picture.height, picture.rgb.clone())
        .expect("a picture holds width x height pixels")
}

fn jpeg(image: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).expect("writing to memory cannot fail");
    image::load_from_memory(&bytes).expect("the encoder writes valid JPEG").into_rgb8()
}

fn crop(image: &RgbImage, random: &mut Random) -> RgbImage {
    let share = random.between(0.7, 0.9);
    let (width, height) = image.dimensions();
    let (w, h) = (((width as f32 * share) as u32).max(1), ((height as f32 * share) as u32).max(1));
    imageops::crop_imm(image, random.up_to(width - w), random.up_to(height - h), w, h).to_image()
}

fn brightness(mut image: RgbImage, random: &mut Random) -> RgbImage {
    let mut factor = || {
        let (low, high) = (random.between(0.6, 0.8), random.between(1.2, 1.5));
        random.either(low, high)
    };
    let (brightness, contrast) = (factor(), factor());
    let pixels = f64::from(image.width()) * f64::from(image.height());
    let sum: f64 = image
        .pixels()
        .map(|Rgb([r, g, b])| 0.299 * f64::from(*r) + 0.587 * f64::from(*g) + 0.114 * f64::from(*b))
        .sum();
    let middle = (sum / pixels) as f32 * brightness;
    for value in image.iter_mut() {
        let bright = f32::from(*value) * brightness;
        *value = (middle + (bright - middle) * contrast).round().clamp(0.0, 255.0) as u8;
    }
    image
}

/// A picture of the given size whose pixel at (x, y) is `source` at `from(x, y)`, interpolated linearly.
/// Outside of `source` it is `outside(channel)`.
fn warped(
    source: &RgbImage,
    (width, height): (u32, u32),
    from: impl Fn(f32, f32) -> (f32, f32),
    outside: impl Fn(usize) -> f32,
) -> RgbImage {
    let (last_x, last_y) = (source.width() as f32 - 1.0, source.height() as f32 - 1.0);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = from(x as f32 + 0.5, y as f32 + 0.5);
        let (u, v) = (u - 0.5, v - 0.5);
        let inside = (-0.5..=last_x + 0.5).contains(&u) && (-0.5..=last_y + 0.5).contains(&v);
        let (u, v) = (u.clamp(0.0, last_x), v.clamp(0.0, last_y));
        let (x0, y0) = (u as u32, v as u32);
        let (x1, y1) = ((x0 + 1).min(last_x as u32), (y0 + 1).min(last_y as u32));
        let (fx, fy) = (u - x0 as f32, v - y0 as f32);
        let mut pixel = [0u8; 3];
        for (channel, out) in pixel.iter_mut().enumerate() {
            let at = |x: u32, y: u32| f32::from(source.get_pixel(x, y).0[channel]);
            let value = (at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx) * (1.0 - fy)
                + (at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx) * fy;
            *out = (if inside { value } else { outside(channel) }).round() as u8;
        }
        Rgb(pixel)
    })
}

fn screen(source: &RgbImage, random: &mut Random) -> RgbImage {
    let (w, h) = (source.width() as f32, source.height() as f32);
    let mut border = || random.between(0.04, 0.12);
    let (left, right, top, bottom) = (border(), border(), border(), border());
    let (width, height) = (w * (1.0 + left + right), h * (1.0 + top + bottom));
    // Corners of the screen in the photo, clockwise from the upper left.
    let mut corner =
        |x: f32, y: f32| (x + w * random.between(-0.06, 0.06) * 0.5, y + h * random.between(-0.06, 0.06) * 0.5);
    let (x0, y0) = (left * w, top * h);
    let quad = [corner(x0, y0), corner(x0 + w, y0), corner(x0 + w, y0 + h), corner(x0, y0 + h)];
    let inverse = to_unit_square(quad);
    let cast: [f32; 3] = std::array::from_fn(|_| random.between(0.8, 1.15));
    let surround: [f32; 3] = std::array::from_fn(|_| random.between(10.0, 40.0));
    let from = |x: f32, y: f32| {
        let (u, v) = inverse(x, y);
        (u * w, v * h)
    };
    let mut photo = warped(source, ((width as u32).max(1), (height as u32).max(1)), from, |channel| surround[channel]);
    for Rgb(pixel) in photo.pixels_mut() {
        for (value, cast) in pixel.iter_mut().zip(cast) {
            // The sum of four uniform numbers approximates a normal distribution of deviation 6.
            let noise: f32 = (0..4).map(|_| random.between(-0.5, 0.5)).sum::<f32>() * 10.4;
            *value = (12.0 + f32::from(*value) * cast * 0.9 + noise).round().clamp(0.0, 255.0) as u8;
        }
    }
    jpeg(&photo, 60)
}

/// The projective map from a quadrilateral (clockwise from the upper left corner) to the unit square: the
/// inverse of Heckbert's (1989).
fn to_unit_square(quad: [(f32, f32); 4]) -> impl Fn(f32, f32) -> (f32, f32) {
    let [(x0, y0), (x1, y1), (x2, y2), (x3, y3)] = quad;
    let (dx1, dx2, sx) = (x1 - x2, x3 - x2, x0 - x1 + x2 - x3);
    let (dy1, dy2, sy) = (y1 - y2, y3 - y2, y0 - y1 + y2 - y3);
    let det = dx1 * dy2 - dx2 * dy1;
    let (g, h) = ((sx * dy2 - dx2 * sy) / det, (dx1 * sy - sx * dy1) / det);
    let (a, b, c) = (x1 - x0 + g * x1, x3 - x0 + h * x3, x0);
    let (d, e, f) = (y1 - y0 + g * y1, y3 - y0 + h * y3, y0);
    // Adjoint of ((a b c) (d e f) (g h 1)).
    let adjoint = [
        e - f * h,
        c * h - b,
        b * f - c * e,
        f * g - d,
        a - c * g,
        c * d - a * f,
        d * h - e * g,
        b * g - a * h,
        a * e - b * d,
    ];
    move |x, y| {
        let row = |i: usize| adjoint[3 * i] * x + adjoint[3 * i + 1] * y + adjoint[3 * i + 2];
        (row(0) / row(2), row(1) / row(2))
    }
}

fn subtitle(mut image: RgbImage, random: &mut Random) -> RgbImage {
    let (width, height) = image.dimensions();
    let mut fill = |x0: u32, y0: u32, x1: u32, y1: u32, value: u8| {
        for y in y0..y1.min(height) {
            for x in x0..x1.min(width) {
                image.put_pixel(x, y, Rgb([value; 3]));
            }
        }
    };
    fill(0, height * 4 / 5, width, height, 0);
    for line in 0..2 {
        let top = (height as f32 * (0.83 + 0.08 * line as f32)) as u32;
        let mut x = width / 10;
        while x < width * 88 / 100 {
            let word = width / 40 + 1 + random.up_to(width / 24 + 1);
            fill(x, top, (x + word).min(width * 9 / 10), top + height * 45 / 1000 + 1, 235);
            x += word + width / 60 + 1;
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Picture {
        let (width, height) = (160u32, 90u32);
        let rgb = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 40]).collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn equal_seeds_give_equal_pictures_that_differ_from_the_original() {
        for distortion in Distortion::ALL {
            let first = distortion.apply(&ramp(), &mut Random::new(5, "a"));
            let second = distortion.apply(&ramp(), &mut Random::new(5, "a"));
            assert_eq!(first.rgb, second.rgb, "{}", distortion.name());
            assert_eq!(first.rgb.len(), (first.width * first.height * 3) as usize);
            assert_eq!(first.rgb == ramp().rgb, distortion == Distortion::None, "{}", distortion.name());
        }
    }

    #[test]
    fn sizes_are_as_documented() {
        let random = || Random::new(1, "b");
        let small = Distortion::Small.apply(&ramp(), &mut random());
        assert_eq!((small.width, small.height), (96, 54));
        let boxed = Distortion::Letterbox.apply(&ramp(), &mut random());
        assert!(boxed.width == 160 && (108..=126).contains(&boxed.height));
        let crop = Distortion::Crop.apply(&ramp(), &mut random());
        assert!((111..=144).contains(&crop.width) && (62..=81).contains(&crop.height));
    }

    #[test]
    fn distorts_a_picture_of_one_pixel() {
        let dot = Picture { width: 1, height: 1, rgb: vec![9, 9, 9] };
        for distortion in Distortion::ALL {
            assert!(distortion.apply(&dot, &mut Random::new(1, "c")).width > 0);
        }
    }
}
