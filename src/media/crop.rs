//! The part of a picture that a user selects.

use std::fmt;
use std::str::FromStr;

use super::Picture;

/// A rectangle of a picture, written as `X,Y,W,H`: its left and upper edge, its width and its height. Each of
/// the four is a number of pixels, or with `%` a share of the picture's width (X, W) or height (Y, H).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropBox {
    sides: [CropSide; 4],
}

/// One of the four numbers of a [`CropBox`].
#[derive(Debug, Clone, Copy, PartialEq)]
enum CropSide {
    Pixels(f64),
    Percent(f64),
}

/// Why a picture cannot be cropped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CropError {
    /// The text is not `X,Y,W,H`.
    #[error(
        "expected a crop X,Y,W,H in pixels, such as 120,340,840,472, or in per cent of the picture, such as \
         10%,20%,80%,50%; found `{found}`"
    )]
    Syntax {
        /// The start of the text.
        found: String,
    },
    /// The width or the height is 0.
    #[error("the crop {crop} is empty: expected a width and a height of at least 1 pixel")]
    Empty {
        /// The crop.
        crop: CropBox,
    },
    /// A part of the crop is outside of the picture.
    #[error(
        "the crop {crop} ends at {} x {}: expected a part of the picture, which has {width} x {height} pixels",
        end[0], end[1]
    )]
    Outside {
        /// The crop.
        crop: CropBox,
        /// Right and lower edge of the crop, in pixels.
        end: [f64; 2],
        /// Width of the picture in pixels.
        width: u32,
        /// Height of the picture in pixels.
        height: u32,
    },
}

/// Longest text that is quoted in an error.
const MAX_QUOTED: usize = 60;

impl FromStr for CropSide {
    type Err = ();

    fn from_str(text: &str) -> Result<CropSide, ()> {
        let (digits, side): (&str, fn(f64) -> CropSide) = match text.strip_suffix('%') {
            Some(digits) => (digits.trim_end(), CropSide::Percent),
            None => (text, CropSide::Pixels),
        };
        // `f64` also parses `-1`, `1e5`, `inf` and `NaN`.
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        digits.parse().ok().filter(|_| is_plain).map(side).ok_or(())
    }
}

impl fmt::Display for CropSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CropSide::Pixels(number) => write!(f, "{number}"),
            CropSide::Percent(number) => write!(f, "{number}%"),
        }
    }
}

impl CropSide {
    fn value(self) -> f64 {
        let (CropSide::Pixels(number) | CropSide::Percent(number)) = self;
        number
    }

    /// In pixels of a side of the picture.
    fn of(self, side: u32) -> f64 {
        match self {
            CropSide::Pixels(number) => number,
            CropSide::Percent(number) => number / 100.0 * f64::from(side),
        }
    }
}

impl FromStr for CropBox {
    type Err = CropError;

    fn from_str(text: &str) -> Result<CropBox, CropError> {
        let syntax = || CropError::Syntax { found: text.chars().take(MAX_QUOTED).collect() };
        let sides: Result<Vec<CropSide>, ()> = text.split(',').take(5).map(|side| side.trim().parse()).collect();
        let sides = sides.ok().and_then(|sides| <[CropSide; 4]>::try_from(sides).ok()).ok_or_else(syntax)?;
        let crop = CropBox { sides };
        if sides[2..].iter().any(|side| side.value() == 0.0) {
            return Err(CropError::Empty { crop });
        }
        Ok(crop)
    }
}

impl fmt::Display for CropBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, width, height] = self.sides;
        write!(f, "{x},{y},{width},{height}")
    }
}

impl CropBox {
    /// Left, top, right and bottom in a picture of `width` x `height` pixels, rounded to whole pixels.
    ///
    /// # Errors
    /// [`CropError::Outside`] if the box reaches beyond the picture, [`CropError::Empty`] if it has no pixel.
    pub fn within(self, width: u32, height: u32) -> Result<[u32; 4], CropError> {
        let [x, y, w, h] = self.sides;
        let (left, top) = (x.of(width), y.of(height));
        let edges = [left, top, left + w.of(width), top + h.of(height)].map(f64::round);
        if edges[2] > f64::from(width) || edges[3] > f64::from(height) {
            return Err(CropError::Outside { crop: self, end: [edges[2], edges[3]], width, height });
        }
        // No edge is negative or beyond the picture, so each fits.
        let [left, top, right, bottom] = edges.map(|edge| edge as u32);
        if left >= right || top >= bottom {
            return Err(CropError::Empty { crop: self });
        }
        Ok([left, top, right, bottom])
    }

    /// Cuts the part out of a picture. Returns it with the position of its upper left corner in the picture.
    ///
    /// # Errors
    /// As [`CropBox::within`].
    pub fn cut(self, picture: Picture) -> Result<(Picture, [u32; 2]), CropError> {
        let [left, top, right, bottom] = self.within(picture.width, picture.height)?;
        Ok((picture.into_part(left, top, right - left, bottom - top), [left, top]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(text: &str, width: u32, height: u32) -> Result<[u32; 4], CropError> {
        text.parse::<CropBox>().and_then(|crop| crop.within(width, height))
    }

    #[test]
    fn pixels_and_percentages_may_be_mixed() {
        assert_eq!(within("120,340,840,472", 1080, 2400), Ok([120, 340, 960, 812]));
        assert_eq!(within("10%,20%,80%,50%", 1080, 2400), Ok([108, 480, 972, 1680]));
        assert_eq!(within(" 10 , 0, 50.5 %, 100% ", 200, 90), Ok([10, 0, 111, 90]));
        // The sum is a little more than 100 in floating point.
        assert_eq!(within("66.6%,0,33.4%,100%", 1000, 10), Ok([666, 0, 1000, 10]));
        assert_eq!("10%,0.5,3,4.25%".parse::<CropBox>().unwrap().to_string(), "10%,0.5,3,4.25%");
    }

    #[test]
    fn other_text_is_refused_with_what_was_found() {
        for text in ["", "1,2,3", "1,2,3,4,5", "1,2,3,", "-1,0,5,5", "a,b,c,d", "1e1,0,5,5", "inf,0,5,5", "NaN,0,1,1"]
            .into_iter()
            .chain(["1,2,3,4px", "%,0,1,1", ".,0,1,1", "1;2;3;4"])
        {
            assert_eq!(text.parse::<CropBox>(), Err(CropError::Syntax { found: text.into() }), "{text}");
        }
        let long = "9,".repeat(5000).parse::<CropBox>().unwrap_err().to_string();
        assert!(long.len() < 300 && long.contains("found `9,9,"), "{long}");
    }

    #[test]
    fn a_crop_has_pixels_and_all_are_in_the_picture() {
        for text in ["0,0,0,5", "0,0,5,0%"] {
            assert!(matches!(text.parse::<CropBox>(), Err(CropError::Empty { .. })), "{text}");
        }
        assert!(matches!(within("0,0,1%,1%", 30, 30), Err(CropError::Empty { .. })));
        for text in ["0,0,101,100", "50%,0,51%,10", "100,0,1,1", "0,999999999999999999999,1,1", "200%,0,1,1"] {
            assert!(matches!(within(text, 100, 100), Err(CropError::Outside { .. })), "{text}");
        }
        let outside = within("20,340,2000,72", 1080, 2400).unwrap_err().to_string();
        let expected =
            "the crop 20,340,2000,72 ends at 2020 x 412: expected a part of the picture, which has 1080 x 2400 pixels";
        assert_eq!(outside, expected);
    }

    #[test]
    fn a_cut_has_the_pixels_of_the_part() {
        let rgb = (0..7 * 5 * 3).collect();
        let picture = Picture::new(7, 5, rgb).unwrap();
        let (part, at) = "2,1,3,4".parse::<CropBox>().unwrap().cut(picture.clone()).unwrap();
        assert_eq!((part, at), (picture.cropped(2, 1, 3, 4), [2, 1]));
    }
}
