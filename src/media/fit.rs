//! Bringing pictures to the size that somebody wants to see.

use super::Picture;

/// How a picture is brought to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Both sides are stretched, by the mean of the area that a pixel covers.
    Stretch,
    /// Resized such that the shorter side has so many pixels, the longer one in proportion (rounded down); then the middle is cut out.
    Cover {
        /// Pixels of the shorter side.
        shorter: u32,
        /// How pixels are weighed.
        filter: Filter,
    },
}

/// How a resize weighs pixels. Shrinking widens the filter by the ratio, as Pillow's `resize` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle.
    Bilinear,
    /// Catmull-Rom's cubic (a = -0.5).
    Bicubic,
}

impl Fit {
    /// The picture in that size.
    pub fn apply(self, picture: &Picture, width: u32, height: u32) -> Picture {
        match self {
            Fit::Stretch => picture.resize(width, height),
            Fit::Cover { shorter, filter } => {
                let least = picture.width.min(picture.height).max(1);
                let scaled = |side: u32| {
                    if side == least {
                        shorter
                    } else {
                        u32::try_from(u64::from(shorter) * u64::from(side) / u64::from(least)).unwrap_or(u32::MAX)
                    }
                };
                let resized = resize(picture, scaled(picture.width), scaled(picture.height), filter);
                let corner = |side: u32, wanted: u32| side.saturating_sub(wanted) / 2;
                resized.cropped(corner(resized.width, width), corner(resized.height, height), width, height)
            }
        }
    }

    /// The filters of ffmpeg that do the same.
    pub(super) fn of_ffmpeg(self, width: u32, height: u32) -> String {
        match self {
            Fit::Stretch => format!("scale={width}:{height}:flags=area"),
            Fit::Cover { shorter, filter } => {
                let flags = match filter {
                    Filter::Bilinear => "bilinear",
                    Filter::Bicubic => "bicubic",
                };
                let side = |side: &str| format!("max({shorter},floor({side}*{shorter}/min(iw*sar,ih)))");
                format!("scale=w='{}':h='{}':flags={flags},crop={width}:{height}", side("iw*sar"), side("ih"))
            }
        }
    }
}

/// As Pillow resizes: a separable filter, as wide as the ratio where a side shrinks, rounded to 8 bits after each direction.
fn resize(picture: &Picture, width: u32, height: u32, filter: Filter) -> Picture {
    if (width, height) == (picture.width, picture.height) {
        return picture.clone();
    }
    // A panorama of one row would become one of gigabytes.
    let (width, height) = (width.min(1 << 14), height.min(1 << 14));
    let source = ::image::RgbImage::from_raw(picture.width, picture.height, picture.rgb.clone());
    let filter = match filter {
        Filter::Bilinear => ::image::imageops::FilterType::Triangle,
        Filter::Bicubic => ::image::imageops::FilterType::CatmullRom,
    };
    match source {
        Some(source) => {
            Picture { width, height, rgb: ::image::imageops::resize(&source, width, height, filter).into_raw() }
        }
        None => picture.resize(width, height),
    }
}
