//! Resizes pictures with the same bits as Pillow, which the reference pipelines of learned encoders use.
//!
//! Pixel `i` of `to` is the mean of source pixels `p` with weights `f((p + 0.5 - c) / r)` around `c = (i +
//! 0.5) · from / to`, where `r = max(from / to, 1)` widens the filter as a side shrinks. Weights have 22 bits
//! after the point. Columns are resized first and rounded to 8 bits, then rows. Source: Pillow's
//! `src/libImaging/Resample.c`.

use serde::Deserialize;

use super::{Picture, PictureView};

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

impl ResampleTaps {
    /// For target pixel `i` of `to`, from a side of `from` pixels.
    fn new(from: u32, to: u32, i: u32, filter: Filter) -> ResampleTaps {
        let scale = f64::from(from) / f64::from(to);
        let ratio = scale.max(1.0);
        let reach = filter.support() * ratio;
        let centre = (f64::from(i) + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from as usize);
        let weights: Vec<f64> =
            (first..end).map(|p| filter.weight((p as f64 - centre + 0.5) * (1.0 / ratio))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / sum * f64::from(1 << BITS)).round() as i32;
        ResampleTaps { first, weights: weights.iter().map(fixed).collect() }
    }
}

/// Half of the last bit of a result, so that the shift rounds.
const HALF: i32 = 1 << (BITS - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Appends a row with resized columns. Without `columns` it is a copy.
fn push_row(out: &mut Vec<u8>, row: &[u8], columns: Option<&[ResampleTaps]>) {
    let Some(columns) = columns else { return out.extend_from_slice(row) };
    for column in columns {
        let mut sums = [HALF; 3];
        for (pixel, weight) in row[column.first * 3..].chunks_exact(3).zip(&column.weights) {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
        }
        out.extend(sums.map(rounded));
    }
}

/// The picture stretched to `width` x `height`. A side of 0 counts as 1.
pub(super) fn resample(picture: PictureView<'_>, width: u32, height: u32, filter: Filter) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    let columns: Option<Vec<ResampleTaps>> = (width != picture.width())
        .then(|| (0..width).map(|i| ResampleTaps::new(picture.width(), width, i, filter)).collect());
    let columns = columns.as_deref();
    let stride = width as usize * 3;
    let mut rgb = Vec::with_capacity(stride * height as usize);
    if height == picture.height() {
        (0..height as usize).for_each(|y| push_row(&mut rgb, picture.row(y), columns));
        return Picture { width, height, rgb };
    }
    // Rows with resized columns, from source row `first` to before `end`: only those that the next row of the
    // result needs, because a tall picture has many.
    let (mut window, mut first, mut end) = (Vec::new(), 0, 0);
    let mut sums = vec![HALF; stride];
    for row in (0..height).map(|i| ResampleTaps::new(picture.height(), height, i, filter)) {
        let kept_from = row.first.clamp(first, end);
        window.drain(..(kept_from - first) * stride);
        (first, end) = (row.first, end.max(row.first));
        while end < row.first + row.weights.len() {
            push_row(&mut window, picture.row(end), columns);
            end += 1;
        }
        sums.fill(HALF);
        for (line, weight) in window.chunks_exact(stride).zip(&row.weights) {
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
        }
        rgb.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    Picture { width, height, rgb }
}
