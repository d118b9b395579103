//! Storage of a row of `f32`: 32-bit fixed point with one power of two a row, in three planes.
//!
//! ```text
//! e      the least exponent, -90 or more, with max |x| <= 127/128 2^e
//! q      x 2^(31-e), rounded to the nearest integer; at half precision to 16 bits
//! first  q / 2^24, rounded (half up): a code from -127 to 127
//! second (q - first 2^24) / 2^16, rounded down: -128 to 127
//! third  the rest: 0 to 65535; at half precision always 0, and not stored
//! ```
//!
//! x is exact where |x| >= 2^(e-8), otherwise to 2^(e-32). Walks read only the first plane, because memory
//! traffic limits their speed. Scores use all planes.

use crate::simd;

/// Least exponent of a row. Values below 2^-122 become zeros.
const LEAST: i32 = -90;
/// Added to the exponent, so that it fits a `u8`: 10 for [`LEAST`], 229 for the largest `f32`.
const BIAS: i32 = 100;

/// A view of rows, each plane row after row. `third` is empty at half precision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPlanes<'a> {
    pub(crate) first: &'a [i8],
    pub(crate) second: &'a [i8],
    pub(crate) third: &'a [u16],
    pub(crate) exponents: &'a [u8],
    pub(crate) dim: usize,
}

/// Rows in planes, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackedRows {
    first: Vec<i8>,
    second: Vec<i8>,
    third: Vec<u16>,
    exponents: Vec<u8>,
    dim: usize,
}

/// 2^(e - 31 + `shift`) for a stored exponent. Use `shift` 0 for q and 24 for the codes of the first plane.
fn scale(exponent: u8, shift: i32) -> f32 {
    let power = i32::from(exponent) - BIAS - 31 + shift;
    f32::from_bits(((power + 127).clamp(1, 254) as u32) << 23)
}

/// The stored exponent of a row.
fn exponent(row: &[f32]) -> u8 {
    let most = row.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
    // 127/128 2^e >= most  <=>  2^e >= most 128/127
    let needed = most * (128.0 / 127.0);
    let mut e = LEAST;
    if needed > 0.0 {
        e = e.max((needed.to_bits() >> 52) as i32 - 1023);
        while most > 127.0 / 128.0 * f64::from(e).exp2() {
            e += 1;
        }
    }
    (e + BIAS) as u8
}

impl PackedRows {
    /// Packs finite rows of `dim` values.
    pub(crate) fn new(rows: &[f32], dim: usize) -> PackedRows {
        let mut packed = PackedRows { dim, ..PackedRows::default() };
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

    /// The same rows with 16 bits a value.
    pub(crate) fn halved(&self) -> PackedRows {
        let mut half = PackedRows { dim: self.dim, exponents: self.exponents.clone(), ..PackedRows::default() };
        for i in 0..self.first.len() {
            let q = join(self.first[i], self.second[i], self.third[i]);
            half.push(((q + (1 << 15)) >> 16) << 16);
        }
        half.third = Vec::new();
        half
    }

    pub(crate) fn view(&self) -> RowPlanes<'_> {
        let PackedRows { first, second, third, exponents, dim } = self;
        RowPlanes { first, second, third, exponents, dim: *dim }
    }
}

fn join(first: i8, second: i8, third: u16) -> i32 {
    (i32::from(first) << 24) + (i32::from(second) << 16) + i32::from(third)
}

impl RowPlanes<'_> {
    /// The values as `f32`.
    pub(crate) fn to_vec(self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.first.len());
        for (i, (first, second)) in self.first.iter().zip(self.second).enumerate() {
            let q = join(*first, *second, self.third.get(i).copied().unwrap_or(0));
            values.push(q as f32 * self.exponents.get(i / self.dim).map_or(0.0, |e| scale(*e, 0)));
        }
        values
    }

    /// Dot products of all rows with `x` of `dim` values, up to the length of `out`. Equal to [`crate::dot`],
    /// bit for bit, without overflow and underflow. Callers scale queries to values of about 1 to avoid both.
    pub(crate) fn dots(self, x: &[f32], out: &mut [f32]) {
        simd::planes_dots(self.first, self.second, self.third, x, out);
        out.iter_mut().zip(self.exponents).for_each(|(y, e)| *y *= scale(*e, 0));
    }

    /// Prefetches the parts of a row that [`RowPlanes::dots`] needs and a walk does not read.
    pub(crate) fn prefetch(self, row: u32) {
        simd::prefetch_row(self.second, self.dim, row);
        simd::prefetch_row(self.third, self.dim, row);
    }

    /// Rows `from..to`; empty if out of range.
    pub(crate) fn rows(self, from: usize, to: usize) -> Self {
        let values = from * self.dim..to * self.dim;
        RowPlanes {
            first: self.first.get(values.clone()).unwrap_or(&[]),
            second: self.second.get(values.clone()).unwrap_or(&[]),
            third: self.third.get(values).unwrap_or(&[]),
            exponents: self.exponents.get(from..to).unwrap_or(&[]),
            dim: self.dim,
        }
    }

    pub(crate) fn codes(&self) -> RowCodes<'_> {
        RowCodes { first: self.first, exponents: self.exponents, dim: self.dim }
    }
}

/// The first plane, which walks read. Products with it are sums of integers, equal on every processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCodes<'a> {
    pub(crate) first: &'a [i8],
    pub(crate) exponents: &'a [u8],
    pub(crate) dim: usize,
}

/// A vector for products with codes: integers, times a factor.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodedVector {
    pub(crate) values: Vec<i16>,
    pub(crate) factor: f32,
    sums: Vec<i32>,
}

impl CodedVector {
    /// Sets the query `x`, with the finest rounding for which the integers and the sums of products do not
    /// overflow.
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

impl RowCodes<'_> {
    /// Dot products of the codes of rows `ids` with the vector; NaN for an id out of range.
    pub(crate) fn dots(self, x: &mut CodedVector, ids: &[u32], out: &mut [f32]) {
        x.sums.resize(ids.len(), 0);
        simd::codes_picked(self.first, &x.values, ids, &mut x.sums);
        for ((y, sum), id) in out.iter_mut().zip(&x.sums).zip(ids) {
            *y = self.exponents.get(*id as usize).map_or(f32::NAN, |e| *sum as f32 * (scale(*e, 24) * x.factor));
        }
    }

    /// Dot products of the codes of all rows with the vector. `sums` is a buffer of one value for each row.
    pub(crate) fn all_dots(self, x: &CodedVector, sums: &mut [i32], out: &mut [f32]) {
        simd::codes_rows(self.first, &x.values, sums);
        for ((y, sum), e) in out.iter_mut().zip(sums).zip(self.exponents) {
            *y = *sum as f32 * (scale(*e, 24) * x.factor);
        }
    }

    /// Reads the codes of row `id` as a vector; zeros for an id out of range.
    pub(crate) fn read(self, id: u32, x: &mut CodedVector) {
        let at = id as usize * self.dim;
        x.values.clear();
        x.values.extend(self.first.get(at..at + self.dim).unwrap_or(&[]).iter().map(|code| i16::from(*code)));
        x.values.resize(self.dim, 0);
        x.factor = self.exponents.get(id as usize).map_or(0.0, |e| scale(*e, 24));
    }

    /// Prefetches a row.
    #[inline(always)]
    pub(crate) fn prefetch(self, id: u32) {
        simd::prefetch_row(self.first, self.dim, id);
    }
}

/// Bound on the difference between a product with codes and the score, in steps of the row's codes, 2^(e-7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoreBound {
    /// Largest difference.
    most: f32,
    /// Standard deviation of the difference.
    deviation: f32,
}

impl ScoreBound {
    /// The bound for query `x` and its integers `coded`. It has three terms, each an upper bound
    /// (Cauchy-Schwarz): the rounding of the codes, half a step a value; the rounding of the query, times a
    /// row of the largest values; the rounding of the score, a sum of `dim` products. The standard deviation
    /// is that of the rounding of the codes, which is uniform within a step: 1/√12 |x|.
    pub(crate) fn new(x: &[f32], coded: &CodedVector) -> ScoreBound {
        let dim = x.len() as f64;
        let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let codes = 0.5 * dim.sqrt() * norm;
        let query = 64.0 * dim * f64::from(coded.factor);
        let sums = dim * dim.sqrt() * norm * f64::from(f32::EPSILON) * 128.0;
        ScoreBound { most: ((codes + query + sums) * 1.001) as f32, deviation: (norm / 12f64.sqrt()) as f32 }
    }

    /// Whether a row with this exponent and this product of codes can have a score of `floor` or more.
    #[inline(always)]
    pub(crate) fn may_reach(self, floor: f32, product: f32, exponent: u8) -> bool {
        let most = product + self.most * scale(exponent, 24);
        // An infinite or NaN sum is no bound.
        !(most < floor && most.is_finite())
    }

    /// Whether the score is likely to be `floor` or more: within `deviations` standard deviations of the
    /// product.
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
    fn values_are_exact_or_within_the_bound() {
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
            let packed = PackedRows::new(row, 4);
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
                continue; // rounding up overflows
            }
            let half = packed.halved();
            assert!(half.view().third.is_empty());
            for (x, y) in row.iter().zip(half.view().to_vec()) {
                assert!((f64::from(*x) - f64::from(y)).abs() <= f64::from(e - 16).exp2(), "{x} {y}");
            }
        }
    }

    #[test]
    fn dots_equal_the_dots_of_the_values() {
        for dim in [1, 7, 16, 33, 128, 200] {
            let (rows, x) = (vector(5 * dim, 3), vector(dim, 4));
            for packed in [PackedRows::new(&rows, dim), PackedRows::new(&rows, dim).halved()] {
                let mut out = [9.0; 5];
                packed.view().dots(&x, &mut out);
                for (row, y) in packed.view().to_vec().chunks(dim).zip(&out) {
                    assert_eq!(*y, crate::dot(row, &x), "dim {dim}");
                }
            }
        }
    }

    #[test]
    fn products_of_codes_are_within_the_bound() {
        for (dim, grow) in [(3, 1.0), (128, 1.0), (128, 1e4), (1000, 1e-3), (4096, 1.0)] {
            let mut rows = vector(7 * dim, 1);
            rows.iter_mut().for_each(|x| *x *= grow);
            let x = vector(dim, 2);
            let packed = PackedRows::new(&rows, dim);
            let mut coded = CodedVector::default();
            coded.set_query(&x);
            let bound = ScoreBound::new(&x, &coded);
            let (mut products, mut exact) = ([0.0; 7], [0.0; 7]);
            packed.view().codes().dots(&mut coded, &[0, 1, 2, 3, 4, 5, 6], &mut products);
            packed.view().dots(&x, &mut exact);
            for i in 0..7 {
                let step = scale(packed.exponents[i], 24);
                assert!((products[i] - exact[i]).abs() <= bound.most * step, "{dim}: {} {}", products[i], exact[i]);
                assert!(
                    bound.most * step < 0.6 * step * (dim as f32).sqrt(),
                    "the bound is not much wider than half a step"
                );
                assert!(bound.may_reach(exact[i], products[i], packed.exponents[i]));
                assert!(!bound.may_reach(exact[i] + 3.0 * bound.most * step, products[i], packed.exponents[i]));
            }
        }
    }

    #[test]
    fn the_bound_is_tight() {
        // Every value is almost half a step above its code, and the query adds all these errors up.
        let (dim, e) = (64, 0);
        let step = 2f32.powi(e - 7);
        let mut row: Vec<f32> = (0..dim).map(|i| (20.0 + (i % 50) as f32 + 0.499) * step).collect();
        row[0] = 126.499 * step;
        let packed = PackedRows::new(&row, dim);
        assert_eq!(packed.exponents, [(e + BIAS) as u8]);
        let x = vec![1.0 / (dim as f32).sqrt(); dim];
        let mut coded = CodedVector::default();
        coded.set_query(&x);
        let (mut product, mut exact) = ([0.0], [0.0]);
        packed.view().codes().dots(&mut coded, &[0], &mut product);
        packed.view().dots(&x, &mut exact);
        let bound = ScoreBound::new(&x, &coded);
        let used = (exact[0] - product[0]) / (bound.most * step);
        assert!(used > 0.95 && used <= 1.0, "{used}");
        assert!(bound.may_reach(exact[0], product[0], packed.exponents[0]));
        let narrow = ScoreBound { most: bound.most * 0.9, ..bound };
        assert!(!narrow.may_reach(exact[0], product[0], packed.exponents[0]), "a narrower bound would be wrong");
    }

    #[test]
    fn rows_out_of_range_are_nan() {
        let packed = PackedRows::new(&vector(8, 1), 4);
        let (mut coded, mut out) = (CodedVector::default(), [0.0; 3]);
        coded.set_query(&vector(4, 2));
        packed.view().codes().dots(&mut coded, &[2, 1, u32::MAX], &mut out);
        assert!(out[0].is_nan() && out[1].is_finite() && out[2].is_nan());
        packed.view().codes().read(7, &mut coded);
        assert_eq!((coded.values.as_slice(), coded.factor), (&[0i16; 4][..], 0.0));
    }
}
