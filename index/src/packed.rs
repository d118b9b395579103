//! How a row of `f32` is kept: 32-bit fixed point with one power of two a row, in three planes.
//!
//! ```text
//! e      the least exponent, -90 or more, with max |x| <= 127/128 2^e
//! q      x 2^(31-e), rounded to the nearest integer; to one of 16 bits in all at half precision
//! first  q / 2^24, rounded (half up): a code from -127 to 127
//! second (q - first 2^24) / 2^16, rounded down: -128 to 127
//! third  what is left: 0 to 65535; at half precision always 0, and not kept
//! ```
//!
//! x comes back bit for bit where |x| >= 2^(e-8), else within 2^(e-32). Walks read the first plane alone, a quarter of the memory
//! traffic, which is what limits them; answers are scored with all planes.

use crate::simd;

/// Least exponent of a row: values smaller than 2^-122 are zeros.
const LEAST: i32 = -90;
/// Added to the exponent, so that it is kept as a `u8`: 10 for [`LEAST`], 229 for the largest `f32`.
const BIAS: i32 = 100;

/// Rows in planes, row after row in each. `third` is empty at half precision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes<'a> {
    pub(crate) first: &'a [i8],
    pub(crate) second: &'a [i8],
    pub(crate) third: &'a [u16],
    pub(crate) exponents: &'a [u8],
    pub(crate) dim: usize,
}

/// [`Planes`] in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    first: Vec<i8>,
    second: Vec<i8>,
    third: Vec<u16>,
    exponents: Vec<u8>,
    dim: usize,
}

/// 2^(e - 31 + `shift`) for a kept exponent: `shift` 0 belongs to q, 24 to the codes of the first plane.
fn scale(exponent: u8, shift: i32) -> f32 {
    let power = i32::from(exponent) - BIAS - 31 + shift;
    f32::from_bits(((power + 127).clamp(1, 254) as u32) << 23)
}

/// The kept exponent of a row.
fn exponent(row: &[f32]) -> u8 {
    let most = row.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
    // 127/128 2^e >= most  <=>  2^e >= most 128/127
    let wanted = most * (128.0 / 127.0);
    let mut e = LEAST;
    if wanted > 0.0 {
        e = e.max((wanted.to_bits() >> 52) as i32 - 1023);
        while most > 127.0 / 128.0 * f64::from(e).exp2() {
            e += 1;
        }
    }
    (e + BIAS) as u8
}

impl Packed {
    /// Packs finite rows of `dim` values.
    pub(crate) fn new(rows: &[f32], dim: usize) -> Packed {
        let mut packed = Packed { dim, ..Packed::default() };
        for row in rows.chunks_exact(dim) {
            let exponent = exponent(row);
            let up = f64::from(31 + BIAS - i32::from(exponent)).exp2();
            packed.exponents.push(exponent);
            row.iter().for_each(|x| packed.push((f64::from(*x) * up).round_ties_even() as i32));
        }
        packed
    }

    fn push(&mut self, q: i32) {
        let first = (q + (1 << 23)) >> 24;
        let rest = q - (first << 24);
        self.first.push(first as i8);
        self.second.push((rest >> 16) as i8);
        self.third.push(rest as u16);
    }

    /// The same rows, of 16 bits a value.
    pub(crate) fn halved(&self) -> Packed {
        let mut half = Packed { dim: self.dim, exponents: self.exponents.clone(), ..Packed::default() };
        for i in 0..self.first.len() {
            let q = join(self.first[i], self.second[i], self.third[i]);
            half.push(((q + (1 << 15)) >> 16) << 16);
        }
        half.third = Vec::new();
        half
    }

    pub(crate) fn view(&self) -> Planes<'_> {
        let Packed { first, second, third, exponents, dim } = self;
        Planes { first, second, third, exponents, dim: *dim }
    }
}

fn join(first: i8, second: i8, third: u16) -> i32 {
    (i32::from(first) << 24) + (i32::from(second) << 16) + i32::from(third)
}

impl Planes<'_> {
    /// The values.
    pub(crate) fn to_vec(self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.first.len());
        for (i, (first, second)) in self.first.iter().zip(self.second).enumerate() {
            let q = join(*first, *second, self.third.get(i).copied().unwrap_or(0));
            values.push(q as f32 * self.exponents.get(i / self.dim).map_or(0.0, |e| scale(*e, 0)));
        }
        values
    }

    /// Dot products of all rows with `x` of `dim` values, up to the length of `out`. Equal to [`crate::dot`], bit for bit, if nothing
    /// overflows or underflows; queries are scaled to values of about 1 for that.
    pub(crate) fn dots(self, x: &[f32], out: &mut [f32]) {
        simd::planes_dots(self.first, self.second, self.third, x, out);
        out.iter_mut().zip(self.exponents).for_each(|(y, e)| *y *= scale(*e, 0));
    }

    /// Asks for what [`Planes::dots`] needs of a row and a walk has not read.
    pub(crate) fn prefetch(self, row: u32) {
        simd::prefetch_row(self.second, self.dim, row);
        simd::prefetch_row(self.third, self.dim, row);
    }

    /// Rows `from..to`; empty if there are not so many.
    pub(crate) fn rows(self, from: usize, to: usize) -> Self {
        let values = from * self.dim..to * self.dim;
        Planes {
            first: self.first.get(values.clone()).unwrap_or(&[]),
            second: self.second.get(values.clone()).unwrap_or(&[]),
            third: self.third.get(values).unwrap_or(&[]),
            exponents: self.exponents.get(from..to).unwrap_or(&[]),
            dim: self.dim,
        }
    }

    pub(crate) fn codes(&self) -> Codes<'_> {
        Codes { first: self.first, exponents: self.exponents, dim: self.dim }
    }
}

/// The first plane: the rows as walks see them. Products with it are sums of integers, the same on every processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes<'a> {
    pub(crate) first: &'a [i8],
    pub(crate) exponents: &'a [u8],
    pub(crate) dim: usize,
}

/// A vector to compare codes with: whole numbers, times a factor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coded {
    pub(crate) values: Vec<i16>,
    pub(crate) factor: f32,
    sums: Vec<i32>,
}

impl Coded {
    /// The query `x` as whole numbers: as fine as their size, and the size of a sum of products, allow.
    pub(crate) fn set_query(&mut self, x: &[f32]) {
        let most = x.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
        let sum: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
        // |code| <= 128: sums stay below 128 (2^24 - 2^16 + dim / 2) < 2^31.
        let up = (32_767.0 / most.max(1e-300)).min(f64::from((1 << 24) - (1 << 16)) / sum.max(1e-300));
        self.values.clear();
        self.values.extend(x.iter().map(|x| (f64::from(*x) * up).round_ties_even() as i16));
        self.factor = (1.0 / up) as f32;
    }
}

impl Codes<'_> {
    /// Dot products of rows `ids` with the vector, out of the codes. An id that is no row gives NaN.
    pub(crate) fn dots(self, x: &mut Coded, ids: &[u32], out: &mut [f32]) {
        x.sums.resize(ids.len(), 0);
        simd::codes_picked(self.first, &x.values, ids, &mut x.sums);
        for ((y, sum), id) in out.iter_mut().zip(&x.sums).zip(ids) {
            *y = self.exponents.get(*id as usize).map_or(f32::NAN, |e| *sum as f32 * (scale(*e, 24) * x.factor));
        }
    }

    /// Dot products of all rows with the vector, out of the codes; `sums` is room for as many.
    pub(crate) fn all_dots(self, x: &Coded, sums: &mut [i32], out: &mut [f32]) {
        simd::codes_rows(self.first, &x.values, sums);
        for ((y, sum), e) in out.iter_mut().zip(sums).zip(self.exponents) {
            *y = *sum as f32 * (scale(*e, 24) * x.factor);
        }
    }

    /// Row `id` as a vector, of the same coarseness as the rows that it is compared with; zeros if there is none.
    pub(crate) fn read(self, id: u32, x: &mut Coded) {
        let at = id as usize * self.dim;
        x.values.clear();
        x.values.extend(self.first.get(at..at + self.dim).unwrap_or(&[]).iter().map(|code| i16::from(*code)));
        x.values.resize(self.dim, 0);
        x.factor = self.exponents.get(id as usize).map_or(0.0, |e| scale(*e, 24));
    }

    /// Asks for a row to be brought near.
    #[inline(always)]
    pub(crate) fn prefetch(self, id: u32) {
        simd::prefetch_row(self.first, self.dim, id);
    }
}

/// How far a product with codes can lie from the score of all planes, as factors of the row's 2^(e-7), one step of its codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slack {
    /// At most.
    most: f32,
    /// One standard deviation.
    deviation: f32,
}

impl Slack {
    /// For query `x`, coded as `coded`. The bound has three terms, each an upper bound (Cauchy-Schwarz): the codes' rounding, half a step a value; the
    /// query's rounding against a row of the largest values; the rounding of the score's own sum of `dim` products. The deviation is that of the codes'
    /// rounding, uniform within a step: 1/√12 |x|.
    pub(crate) fn new(x: &[f32], coded: &Coded) -> Slack {
        let dim = x.len() as f64;
        let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let codes = 0.5 * dim.sqrt() * norm;
        let query = 64.0 * dim * f64::from(coded.factor);
        let sums = dim * dim.sqrt() * norm * f64::from(f32::EPSILON) * 128.0;
        Slack { most: ((codes + query + sums) * 1.001) as f32, deviation: (norm / 12f64.sqrt()) as f32 }
    }

    /// Whether a row of this exponent whose codes give `product` may have a score of `floor` or more.
    #[inline(always)]
    pub(crate) fn may_reach(self, floor: f32, product: f32, exponent: u8) -> bool {
        let most = product + self.most * scale(exponent, 24);
        // A sum that overflowed tells nothing.
        !(most < floor && most.is_finite())
    }

    /// Whether it may with more than a small chance: within so many standard deviations.
    pub(crate) fn may_well_reach(self, floor: f32, product: f32, exponent: u8, deviations: f32) -> bool {
        let likely = product + deviations * self.deviation * scale(exponent, 24);
        likely >= floor || likely.is_nan()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::vector;

    #[test]
    fn values_come_back_bit_for_bit_or_within_the_bound() {
        let rows = [
            vec![0.0f32, -0.0, 0.0, 0.0],
            vec![1.0, -1.5, 1.0 / 3.0, 1.0 / 127.0],
            vec![f32::MAX, -f32::MAX, f32::MAX / 200.0, 1.0],
            vec![1e-30, -2e-30, 3e-31, f32::MIN_POSITIVE],
            vec![127.0 / 128.0, -0.9, 0.004, 1e-9],
            vec![0.993, 0.9921875, 0.99218756, -0.99218756],
            vector(4, 9),
        ];
        for row in &rows {
            let packed = Packed::new(row, 4);
            let e = i32::from(packed.exponents[0]) - BIAS;
            let most = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(f64::from(most) <= 127.0 / 128.0 * f64::from(e).exp2(), "{row:?}");
            assert!(e == LEAST || f64::from(most) > 127.0 / 256.0 * f64::from(e).exp2(), "{row:?}: {e} is too large");
            for (x, y) in row.iter().zip(packed.view().to_vec()) {
                let (x, y) = (f64::from(*x), f64::from(y));
                assert!(
                    x == y || (x - y).abs() <= f64::from(e - 32).exp2() && x.abs() < f64::from(e - 8).exp2(),
                    "{x} {y}"
                );
            }
            if most > f32::MAX / 2.0 {
                continue; // rounded up it would be infinite
            }
            let half = packed.halved();
            assert!(half.view().third.is_empty());
            for (x, y) in row.iter().zip(half.view().to_vec()) {
                assert!((f64::from(*x) - f64::from(y)).abs() <= f64::from(e - 16).exp2(), "{x} {y}");
            }
        }
    }

    #[test]
    fn dots_equal_those_of_the_values() {
        for dim in [1, 7, 16, 33, 128, 200] {
            let (rows, x) = (vector(5 * dim, 3), vector(dim, 4));
            for packed in [Packed::new(&rows, dim), Packed::new(&rows, dim).halved()] {
                let mut out = [9.0; 5];
                packed.view().dots(&x, &mut out);
                for (row, y) in packed.view().to_vec().chunks(dim).zip(&out) {
                    assert_eq!(*y, crate::dot(row, &x), "dim {dim}");
                }
            }
        }
    }

    #[test]
    fn products_of_codes_lie_within_the_slack() {
        for (dim, grow) in [(3, 1.0), (128, 1.0), (128, 1e4), (1000, 1e-3), (4096, 1.0)] {
            let mut rows = vector(7 * dim, 1);
            rows.iter_mut().for_each(|x| *x *= grow);
            let x = vector(dim, 2);
            let packed = Packed::new(&rows, dim);
            let mut coded = Coded::default();
            coded.set_query(&x);
            let slack = Slack::new(&x, &coded);
            let (mut products, mut exact) = ([0.0; 7], [0.0; 7]);
            packed.view().codes().dots(&mut coded, &[0, 1, 2, 3, 4, 5, 6], &mut products);
            packed.view().dots(&x, &mut exact);
            for i in 0..7 {
                let step = scale(packed.exponents[i], 24);
                assert!((products[i] - exact[i]).abs() <= slack.most * step, "{dim}: {} {}", products[i], exact[i]);
                assert!(
                    slack.most * step < 0.6 * step * (dim as f32).sqrt(),
                    "and it is not much wider than half a step"
                );
                assert!(slack.may_reach(exact[i], products[i], packed.exponents[i]));
                assert!(!slack.may_reach(exact[i] + 3.0 * slack.most * step, products[i], packed.exponents[i]));
            }
        }
    }

    #[test]
    fn the_slack_is_no_wider_than_it_must_be() {
        // Every value lies almost half a step above its code, and the query looks where all add up.
        let (dim, e) = (64, 0);
        let step = 2f32.powi(e - 7);
        let mut row: Vec<f32> = (0..dim).map(|i| (20.0 + (i % 50) as f32 + 0.499) * step).collect();
        row[0] = 126.499 * step;
        let packed = Packed::new(&row, dim);
        assert_eq!(packed.exponents, [(e + BIAS) as u8]);
        let x = vec![1.0 / (dim as f32).sqrt(); dim];
        let mut coded = Coded::default();
        coded.set_query(&x);
        let (mut product, mut exact) = ([0.0], [0.0]);
        packed.view().codes().dots(&mut coded, &[0], &mut product);
        packed.view().dots(&x, &mut exact);
        let slack = Slack::new(&x, &coded);
        let used = (exact[0] - product[0]) / (slack.most * step);
        assert!(used > 0.95 && used <= 1.0, "{used}");
        assert!(slack.may_reach(exact[0], product[0], packed.exponents[0]));
        let narrow = Slack { most: slack.most * 0.9, ..slack };
        assert!(!narrow.may_reach(exact[0], product[0], packed.exponents[0]), "a narrower one would be wrong");
    }

    #[test]
    fn rows_that_are_not_there_are_nan() {
        let packed = Packed::new(&vector(8, 1), 4);
        let (mut coded, mut out) = (Coded::default(), [0.0; 3]);
        coded.set_query(&vector(4, 2));
        packed.view().codes().dots(&mut coded, &[2, 1, u32::MAX], &mut out);
        assert!(out[0].is_nan() && out[1].is_finite() && out[2].is_nan());
        packed.view().codes().read(7, &mut coded);
        assert_eq!((coded.values.as_slice(), coded.factor), (&[0i16; 4][..], 0.0));
    }
}
