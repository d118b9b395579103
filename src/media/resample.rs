//! Resizes pictures with the same bits as Pillow, which the reference pipelines of learned encoders use.
//!
//! Pixel `i` of `to` is the mean of source pixels `p` with weights `f((p + 0.5 - c) / r)` around `c = (i +
//! 0.5) · from / to`, where `r = max(from / to, 1)` widens the filter as a side shrinks. Weights have 22 bits
//! after the point. Columns are resized first and rounded to 8 bits, then rows. Source: Pillow's
//! `src/libImaging/Resample.c`.

use serde::Deserialize;

use super::Picture;

/// Interpolation filter. Shrinking widens it by the ratio of the sizes, as in Pillow's `resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle filter.
    Bilinear,
    /// Cubic filter of Catmull and Rom (a = -0.5).
    Bicubic,
}

impl Filter {
    /// Half the width of the filter in pixels.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Bits after the point in a weight.
const BITS: u32 = 22;

/// Weights of one output pixel: the first source pixel, and the weights of it and of those that follow.
struct ResampleTaps {
    first: usize,
    weights: Vec<i32>,
}

fn taps(from: u32, to: u32, filter: Filter) -> Vec<ResampleTaps> {
    let scale = f64::from(from) / f64::from(to);
    let ratio = scale.max(1.0);
    let reach = filter.support() * ratio;
    (0..to)
        .map(|i| {
            let centre = (f64::from(i) + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from as usize);
            let weights: Vec<f64> =
                (first..end).map(|p| filter.weight((p as f64 - centre + 0.5) * (1.0 / ratio))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: &f64| (w / sum * f64::from(1 << BITS)).round() as i32;
            ResampleTaps { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The picture stretched to `width` x `height`. A side of 0 counts as 1.
pub(super) fn resample(picture: &Picture, width: u32, height: u32, filter: Filter) -> Picture {
    const HALF: i32 = 1 << (BITS - 1);
    let (width, height) = (width.max(1), height.max(1));
    let mut rgb = picture.rgb.clone();
    if width != picture.width {
        let columns = taps(picture.width, width, filter);
        let mut out = Vec::with_capacity(width as usize * picture.height as usize * 3);
        for row in rgb.chunks_exact(picture.width as usize * 3) {
            for column in &columns {
                let mut sums = [HALF; 3];
                for (pixel, weight) in row[column.first * 3..].chunks_exact(3).zip(&column.weights) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
                }
                out.extend(sums.map(rounded));
            }
        }
        rgb = out;
    }
    if height != picture.height {
        let stride = width as usize * 3;
        let mut out = Vec::with_capacity(stride * height as usize);
        let mut sums = vec![HALF; stride];
        for row in taps(picture.height, height, filter) {
            sums.fill(HALF);
            for (line, weight) in rgb[row.first * stride..].chunks_exact(stride).zip(&row.weights) {
                sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
            }
            out.extend(sums.iter().map(|sum| rounded(*sum)));
        }
        rgb = out;
    }
    Picture { width, height, rgb }
}
