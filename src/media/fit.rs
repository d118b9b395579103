//! Fits pictures to a size.

use super::resample::{Filter, resample};
use super::{Picture, PictureView};

/// How a picture is fitted to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Stretches both sides. Each pixel is the mean of the area that it covers.
    Stretch,
    /// Resizes the shorter side to `shorter` pixels and the longer side to `⌊shorter · longer side / shorter
    /// side⌋`, then crops the middle, whose corner is at `⌊(side - target) / 2⌋`. The image processors of
    /// transformers do the same. torchvision's `CenterCrop` rounds the half to even, which differs by at most
    /// one pixel.
    Cover {
        /// Pixels of the shorter side.
        shorter: u32,
        /// Interpolation filter.
        filter: Filter,
    },
    /// Resizes to `width` x `height` whatever the picture's shape, then crops the middle as [`Fit::Cover`]
    /// does.
    Squeeze {
        /// Width in pixels before the crop.
        width: u32,
        /// Height in pixels before the crop.
        height: u32,
        /// Interpolation filter.
        filter: Filter,
    },
}

/// Longest side of a resized picture in pixels. Without it a picture of one long row would grow to gigabytes.
const MAX_SIDE: u32 = 1 << 14;

impl Fit {
    /// The picture fitted to `width` x `height` pixels.
    pub fn apply<'a>(self, picture: impl Into<PictureView<'a>>, width: u32, height: u32) -> Picture {
        let picture = picture.into();
        let (to, filter) = match self {
            Fit::Stretch => return picture.resize(width, height),
            Fit::Squeeze { width, height, filter } => ([width, height], filter),
            Fit::Cover { shorter, filter } => {
                let least = picture.width().min(picture.height()).max(1);
                let scaled = |side: u32| u64::from(shorter) * u64::from(side) / u64::from(least);
                let sides = [picture.width(), picture.height()].map(scaled);
                (sides.map(|side| u32::try_from(side).unwrap_or(MAX_SIDE).min(MAX_SIDE)), filter)
            }
        };
        let resized = resample(picture, to[0], to[1], filter);
        let corner = |side: u32, target: u32| side.saturating_sub(target) / 2;
        resized.cropped(corner(resized.width, width), corner(resized.height, height), width, height)
    }

    /// ffmpeg filters with nearly the same result. ffmpeg resizes luma and subsampled chroma separately, so
    /// that pixels differ from Pillow's by 1.1 of 255 on average (frames of ten videos, bicubic, 224 pixels).
    /// Resizing RGB would differ by 0.2 but must convert whole frames to RGB first. Cropping is exact to the
    /// pixel only in RGB, hence this order.
    pub(super) fn ffmpeg_filters(self, width: u32, height: u32) -> String {
        let (to, filter) = match self {
            Fit::Stretch => return format!("scale={width}:{height}:flags=area"),
            Fit::Squeeze { width, height, filter } => ([width.to_string(), height.to_string()], filter),
            Fit::Cover { shorter, filter } => {
                let side = |side: &str| format!("max({shorter},floor({side}*{shorter}/min(iw*sar,ih)))");
                ([side("iw*sar"), side("ih")], filter)
            }
        };
        let flags = match filter {
            Filter::Bilinear => "bilinear",
            // ffmpeg's default coefficients are closer to Pillow's result than those of Catmull-Rom.
            Filter::Bicubic => "bicubic",
        };
        format!("scale=w='{}':h='{}':flags={flags},format=rgb24,crop={width}:{height}", to[0], to[1])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::seeded::Random;

    /// Output of `tests/reference/pictures.py`, made with Pillow, torchvision and transformers.
    const EXPECTED: &str = include_str!("../../tests/reference/pictures.json");

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        from: [u32; 2],
        how: String,
        filter: String,
        size: [u32; 2],
        crop: [u32; 2],
        sum: u64,
        /// Distance of the sampled bytes in the result.
        step: usize,
        bytes: Vec<u8>,
    }

    /// A slope in each direction with noise of ±32.
    fn noisy_slopes(name: &str, [width, height]: [u32; 2]) -> Picture {
        let mut random = Random::new(0, name);
        let mut rgb = Vec::new();
        for y in 0..height {
            for x in 0..width {
                for slope in [x * 190 / width, y * 190 / height, (x + y) * 190 / (width + height)] {
                    rgb.push((slope + random.up_to(64)) as u8);
                }
            }
        }
        Picture { width, height, rgb }
    }

    #[test]
    fn results_equal_those_of_pillow_and_transformers() {
        let cases: Vec<Case> = serde_json::from_str(EXPECTED).unwrap();
        assert!(cases.len() > 8);
        for case in cases {
            let filter = if case.filter == "bilinear" { Filter::Bilinear } else { Filter::Bicubic };
            let fit = match case.how.as_str() {
                "cover" => Fit::Cover { shorter: case.size[0], filter },
                _ => Fit::Squeeze { width: case.size[0], height: case.size[1], filter },
            };
            let fitted = fit.apply(&noisy_slopes(&case.name, case.from), case.crop[0], case.crop[1]);
            assert_eq!([fitted.width, fitted.height], case.crop, "{}", case.name);
            let bytes: Vec<u8> = fitted.rgb.iter().step_by(case.step).copied().collect();
            assert_eq!(bytes, case.bytes, "{}", case.name);
            assert_eq!(fitted.rgb.iter().map(|b| u64::from(*b)).sum::<u64>(), case.sum, "{}", case.name);
        }
    }

    #[test]
    fn pictures_of_one_row_or_column_are_fitted() {
        let fit = Fit::Cover { shorter: 256, filter: Filter::Bicubic };
        for from in [[4000, 1], [1, 4000], [1, 1], [224, 3], [1, 300_000]] {
            let fitted = fit.apply(&noisy_slopes("thin", from), 224, 224);
            assert_eq!((fitted.width, fitted.height), (224, 224), "{from:?}");
        }
    }

    proptest! {
        #[test]
        fn the_result_has_the_requested_size(
            from in prop::array::uniform2(1u32..60),
            to in prop::array::uniform2(1u32..40),
            bicubic: bool,
            squeeze: bool,
        ) {
            let filter = if bicubic { Filter::Bicubic } else { Filter::Bilinear };
            let fit = match squeeze {
                true => Fit::Squeeze { width: to[0] + 3, height: to[1] + 2, filter },
                false => Fit::Cover { shorter: to[0].max(to[1]), filter },
            };
            let fitted = fit.apply(&noisy_slopes("any", from), to[0], to[1]);
            prop_assert_eq!([fitted.width, fitted.height], to);
            prop_assert_eq!(fitted.rgb.len() as u32, to[0] * to[1] * 3);
        }

        #[test]
        fn a_plain_picture_stays_plain(value: u8, from in prop::array::uniform2(1u32..60), side in 1u32..40) {
            let plain = Picture { width: from[0], height: from[1], rgb: vec![value; (from[0] * from[1] * 3) as usize] };
            for fit in [Fit::Stretch, Fit::Cover { shorter: side, filter: Filter::Bicubic }] {
                prop_assert!(fit.apply(&plain, side, side).rgb.iter().all(|v| *v == value));
            }
        }
    }
}
