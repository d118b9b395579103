//! Distorts pictures as screenshots and reposts on the web are distorted: thirteen seeded distortions.
//!
//! Training pairs ([`Distortion::TRAINING`]) and the quality evaluation ([`Distortion::MEASURED`]) share
//! eleven of them. The other two are harder in the evaluation.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::Picture;
use super::draw::{self, Perspective, PhotoShot, jpeg, luma, noise, photograph, to_image, to_picture};
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
    /// Crops each side to 60 to 85 %, changes brightness and contrast, and compresses as JPEG of quality 20
    /// to 40.
    HardCombined,
    /// Imitates a straight photo of a screen: moves each corner by up to 3 % of the sides (perspective), adds
    /// a dark surround of 4 to 12 % on each side, scales each colour by 0.8 to 1.15 (colour cast), lifts
    /// black to 12, adds noise of deviation 6 and compresses as JPEG of quality 60.
    Screen,
    /// Imitates a photo of a screen in a room: moves each corner by up to 5 % of the sides, rotates by up to
    /// 4 degrees, and adds the screen's frame, a room that is out of focus, glare, moire, blur, noise and a
    /// colour cast. The screen has 70 to 95 % of the photo's width, if the photo's height permits.
    HardScreen,
    /// Rotates by 1 to 5 degrees in either direction. Uncovered corners are black.
    Rotation,
}

impl Distortion {
    /// The distortions of training pairs. The whole picture is embedded, so they change little around it.
    pub const TRAINING: [Distortion; 13] = [
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

    /// The distortions of the quality evaluation, in the order of reports.
    pub const MEASURED: [Distortion; 13] = {
        let mut measured = Distortion::TRAINING;
        measured[10] = Distortion::HardCombined;
        measured[11] = Distortion::HardScreen;
        measured
    };

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
            Distortion::Combined | Distortion::HardCombined => "crop+brightness+jpeg",
            Distortion::Screen | Distortion::HardScreen => "screen",
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
            Distortion::Crop => {
                let share = random.between(0.7, 0.9);
                crop(&source, [share; 2], random)
            }
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
                    *pixel = [luma(pixel.map(f32::from)).round() as u8; 3];
                }
                out
            }
            Distortion::Blur => imageops::blur(&source, width.max(height) as f32 / 100.0),
            Distortion::Mirror => imageops::flip_horizontal(&source),
            Distortion::Combined => {
                let share = random.between(0.7, 0.9);
                jpeg(&brightness(crop(&source, [share; 2], random), random), 30)
            }
            Distortion::HardCombined => {
                let shares = [random.between(0.6, 0.85), random.between(0.6, 0.85)];
                let changed = brightness(crop(&source, shares, random), random);
                jpeg(&changed, random.between(20.0, 41.0) as u8)
            }
            Distortion::Screen => screen(&source, random),
            Distortion::HardScreen => {
                let harm = random.between(0.2, 0.8);
                let shot = PhotoShot { cover: [0.7, 0.95], tilt: 0.05, angle: 4.0, harm, bezel: [0.005, 0.05] };
                photograph(&source, &shot, random).0
            }
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
        to_picture(out)
    }
}

/// A part at a random position, with these shares of the sides.
fn crop(image: &RgbImage, [across, down]: [f32; 2], random: &mut Random) -> RgbImage {
    let (width, height) = image.dimensions();
    let (w, h) = (((width as f32 * across) as u32).max(1), ((height as f32 * down) as u32).max(1));
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
    let (w, h) = (source.width() as f32, source.height() as f32);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = from(x as f32 + 0.5, y as f32 + 0.5);
        let inside = (0.0..=w).contains(&u) && (0.0..=h).contains(&v);
        let colour = if inside { draw::interpolated(source, u, v) } else { std::array::from_fn(&outside) };
        Rgb(colour.map(|value| value.round() as u8))
    })
}

fn screen(source: &RgbImage, random: &mut Random) -> RgbImage {
    let (w, h) = (source.width() as f32, source.height() as f32);
    let mut border = || random.between(0.04, 0.12);
    let (left, right, top, bottom) = (border(), border(), border(), border());
    let (width, height) = (w * (1.0 + left + right), h * (1.0 + top + bottom));
    // Corners of the screen in the photo, clockwise from the upper left.
    let mut corner = |x: f32, y: f32| [x + w * random.between(-0.03, 0.03), y + h * random.between(-0.03, 0.03)];
    let (x0, y0) = (left * w, top * h);
    let quad = [corner(x0, y0), corner(x0 + w, y0), corner(x0 + w, y0 + h), corner(x0, y0 + h)];
    let inverse = Perspective::onto(quad).inverse();
    let cast: [f32; 3] = std::array::from_fn(|_| random.between(0.8, 1.15));
    let surround: [f32; 3] = std::array::from_fn(|_| random.between(10.0, 40.0));
    let from = |x: f32, y: f32| {
        let [u, v] = inverse.map([x, y]);
        (u * w, v * h)
    };
    let mut photo = warped(source, ((width as u32).max(1), (height as u32).max(1)), from, |channel| surround[channel]);
    for Rgb(pixel) in photo.pixels_mut() {
        for (value, cast) in pixel.iter_mut().zip(cast) {
            *value = (12.0 + f32::from(*value) * cast * 0.9 + noise(random) * 6.0).round().clamp(0.0, 255.0) as u8;
        }
    }
    jpeg(&photo, 60)
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
        for distortion in Distortion::TRAINING.into_iter().chain(Distortion::MEASURED) {
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
        for distortion in Distortion::TRAINING.into_iter().chain(Distortion::MEASURED) {
            assert!(distortion.apply(&dot, &mut Random::new(1, "c")).width > 0);
        }
    }
}
