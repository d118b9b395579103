//! Numerics of the closed-form methods: moments of the training pairs, a blocked Cholesky factor, the first principal directions.

use std::collections::HashMap;
use std::ops::Range;

use nalgebra::DMatrix;

use crate::base::linalg::{View, multiply};
use crate::base::seeded::Random;
use crate::features::Table;
use crate::gmf::Data;
use crate::research::eval::embedding::Map;
use crate::research::eval::retrieval::Error;

/// Columns of a block of the factor.
const BLOCK: usize = 64;

/// Row after row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dense {
    pub(super) values: Vec<f32>,
    pub(super) columns: usize,
}

impl Dense {
    pub(super) fn zeros(rows: usize, columns: usize) -> Dense {
        Dense { values: vec![0.0; rows * columns], columns }
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    pub(super) fn view(&self) -> View<'_> {
        View::rows(&self.values, self.columns)
    }

    /// `self · other`.
    pub(super) fn times(&self, other: &Dense) -> Dense {
        product(self.view(), other.view(), self.rows(), other.columns)
    }

    pub(super) fn transposed(&self) -> Dense {
        let (rows, columns) = (self.rows(), self.columns);
        let values = (0..columns * rows).map(|i| self.values[i % rows * columns + i / rows]).collect();
        Dense { values, columns: rows }
    }

    pub(super) fn to_f64(&self) -> DMatrix<f64> {
        DMatrix::from_row_iterator(self.rows(), self.columns, self.values.iter().map(|x| f64::from(*x)))
    }

    pub(super) fn from_f64(matrix: &DMatrix<f64>) -> Dense {
        let values = matrix.transpose().iter().map(|x| *x as f32).collect();
        Dense { values, columns: matrix.ncols() }
    }
}

pub(super) fn product(a: View<'_>, b: View<'_>, rows: usize, columns: usize) -> Dense {
    let mut out = Dense::zeros(rows, columns);
    multiply(&mut out.values, 0.0, a, b);
    out
}

/// First and second moments of one modality under the distribution of training pairs.
#[derive(Debug)]
pub(super) struct Side {
    /// `image` or `video`.
    pub(super) name: &'static str,
    pub(super) mean: Vec<f32>,
    /// (length, length), about the mean.
    pub(super) covariance: Dense,
}

/// Moments of training pairs. A pair is drawn by drawing one of the images, one of the groups that it is in, and one of the group's videos.
#[derive(Debug)]
pub(super) struct Moments {
    pub(super) image: Side,
    pub(super) video: Side,
    /// (image length, video length).
    pub(super) cross: Dense,
}

impl Moments {
    pub(super) fn new(data: &Data<'_>, images: (&Table, &Map), videos: (&Table, &Map)) -> Result<Moments, Error> {
        let groups = data.groups();
        let mut memberships: HashMap<u32, usize> = HashMap::new();
        groups.iter().flat_map(|(images, _)| images).for_each(|image| *memberships.entry(*image).or_default() += 1);
        let (mut image_rows, mut video_rows) = (Vec::new(), Vec::new());
        let (mut image_weights, mut video_weights, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        for (images, videos) in &groups {
            let before = image_weights.len();
            image_rows.extend(images);
            image_weights.extend(images.iter().map(|image| 1.0 / (memberships.len() * memberships[image]) as f32));
            let total: f32 = image_weights[before..].iter().sum();
            video_rows.extend(videos);
            video_weights.extend(videos.iter().map(|_| total / videos.len() as f32));
            totals.push(total);
        }
        let (image, x) = side(images, &image_rows, &image_weights, "image")?;
        let (video, y) = side(videos, &video_rows, &video_weights, "video")?;
        // A group of weight w adds w (mean of x)(mean of y)ᵀ. Rows carry the square roots of their weights already: times those once more, summed and
        // over √w, they are √w times the means.
        let (mut sums_x, mut sums_y) = (Dense::zeros(groups.len(), x.columns), Dense::zeros(groups.len(), y.columns));
        let (mut images_before, mut videos_before) = (0, 0);
        for (g, ((images, videos), total)) in groups.iter().zip(&totals).enumerate() {
            add_weighted(&mut sums_x, g, &x, &image_weights, images_before..images_before + images.len(), *total);
            add_weighted(&mut sums_y, g, &y, &video_weights, videos_before..videos_before + videos.len(), *total);
            images_before += images.len();
            videos_before += videos.len();
        }
        let cross = product(sums_x.view().transposed(), sums_y.view(), x.columns, y.columns);
        Ok(Moments { image, video, cross })
    }
}

/// Adds some rows, times the square roots of their weights and over √`total`, to row `g`.
fn add_weighted(sums: &mut Dense, g: usize, rows: &Dense, weights: &[f32], some: Range<usize>, total: f32) {
    let columns = rows.columns;
    let sum = &mut sums.values[g * columns..][..columns];
    for i in some {
        let scale = (weights[i] / total).sqrt();
        let row = &rows.values[i * columns..][..columns];
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * scale);
    }
}

/// The moments of rows, and the rows themselves, centred and times the square root of their weights.
fn side(
    (table, map): (&Table, &Map),
    rows: &[u32],
    weights: &[f32],
    name: &'static str,
) -> Result<(Side, Dense), Error> {
    let columns = map.outputs();
    let mut all = Dense { values: map.apply(table, rows, name)?, columns };
    let mut mean = vec![0f64; columns];
    for (row, weight) in all.values.chunks_exact(columns).zip(weights) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*weight) * f64::from(*x));
    }
    let mean: Vec<f32> = mean.into_iter().map(|sum| sum as f32).collect();
    for (row, weight) in all.values.chunks_exact_mut(columns).zip(weights) {
        let root = weight.sqrt();
        row.iter_mut().zip(&mean).for_each(|(x, mean)| *x = (*x - mean) * root);
    }
    let covariance = product(all.view().transposed(), all.view(), columns, columns);
    let side = Side { name, mean, covariance };
    side.check()?;
    Ok((side, all))
}

impl Side {
    fn trace(&self) -> f64 {
        let n = self.covariance.columns;
        (0..n).map(|i| f64::from(self.covariance.values[i * n + i])).sum()
    }

    /// Whether the numbers can be computed with.
    fn check(&self) -> Result<(), Error> {
        let (name, trace) = (self.name, self.trace());
        let finite = self.mean.iter().all(|x| x.is_finite()) && trace.is_finite();
        if !finite {
            let what = format!(
                "the {name} features of the training rows are too large: their squares exceed single precision; scale them down"
            );
            return Err(Error::Data(what));
        }
        // Squares below this lose digits.
        if trace / (self.covariance.columns as f64) < f64::from(f32::MIN_POSITIVE) / f64::from(f32::EPSILON) {
            let what = format!(
                "the {name} features of the training rows are all alike, or too small: their squares vanish in single precision; scale them up"
            );
            return Err(Error::Data(what));
        }
        Ok(())
    }

    /// The covariance plus `share` of its mean eigenvalue in every direction, factored.
    pub(super) fn factor(&self, share: f64) -> Result<Factor, Error> {
        let n = self.covariance.columns;
        let ridge = (share * self.trace() / n as f64) as f32;
        let mut matrix = self.covariance.clone();
        (0..n).for_each(|i| matrix.values[i * n + i] += ridge);
        Factor::new(matrix).ok_or_else(|| {
            let name = self.name;
            Error::Data(format!("the covariance of the {name} features of the training rows cannot be factored: they are nearly dependent"))
        })
    }

    /// The `k` first principal directions, (k, length): subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011).
    pub(super) fn principal(&self, k: usize) -> Dense {
        let n = self.covariance.columns;
        let wide = (k + 16).min(n);
        let mut random = Random::new(1, "principal directions");
        let mut basis = Dense { values: (0..n * wide).map(|_| random.between(-1.0, 1.0)).collect(), columns: wide };
        for _ in 0..8 {
            basis = orthonormal(&self.covariance.times(&basis));
        }
        let small = product(basis.view().transposed(), self.covariance.times(&basis).view(), wide, wide);
        let eigen = nalgebra::SymmetricEigen::new(small.to_f64());
        let mut order: Vec<usize> = (0..wide).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let chosen = DMatrix::from_fn(wide, k.min(wide), |i, j| eigen.eigenvectors[(i, order[j])]);
        basis.times(&Dense::from_f64(&chosen)).transposed()
    }
}

/// The columns, made orthonormal (QR).
fn orthonormal(matrix: &Dense) -> Dense {
    Dense::from_f64(&matrix.to_f64().qr().q())
}

/// A lower triangular L with L Lᵀ = A, by blocks of columns.
#[derive(Debug)]
pub(super) struct Factor {
    lower: Dense,
    /// Inverses of the blocks on the diagonal.
    inverses: Vec<Dense>,
}

impl Factor {
    /// `None` if A is not positive definite.
    pub(super) fn new(a: Dense) -> Option<Factor> {
        let n = a.columns;
        let (mut lower, mut inverses) = (Dense::zeros(n, n), Vec::new());
        for from in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - from);
            // What is left of the block's columns, from its first row on.
            let mut panel = Dense::zeros(n - from, width);
            for (i, row) in panel.values.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(&a.values[(from + i) * n + from..][..width]);
            }
            if from > 0 {
                let done = lower.view().columns(0, from);
                let known = product(done.part(from, n - from), done.part(from, width).transposed(), n - from, width);
                panel.values.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let top = Dense { values: panel.values[..width * width].to_vec(), columns: width };
            let inverse = nalgebra::Cholesky::new(top.to_f64())?.l().try_inverse()?;
            let inverse = Dense::from_f64(&inverse);
            let solved = product(panel.view(), inverse.view().transposed(), n - from, width);
            for (i, row) in solved.values.chunks_exact(width).enumerate() {
                lower.values[(from + i) * n + from..][..width].copy_from_slice(row);
            }
            inverses.push(inverse);
        }
        lower.values.iter().all(|x| x.is_finite()).then_some(Factor { lower, inverses })
    }

    /// `L⁻¹ B`.
    pub(super) fn forward(&self, b: &Dense) -> Dense {
        let (n, width) = (self.lower.columns, b.columns);
        let mut x = b.clone();
        for (block, inverse) in self.inverses.iter().enumerate() {
            let (from, rows) = (block * BLOCK, inverse.columns);
            let (done, rest) = x.values.split_at_mut(from * width);
            let part = &mut rest[..rows * width];
            if from > 0 {
                let known = self.lower.view().part(from, rows).columns(0, from);
                let known = product(known, View::rows(done, width), rows, width);
                part.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let solved = product(inverse.view(), View::rows(part, width), rows, width);
            part.copy_from_slice(&solved.values);
        }
        debug_assert_eq!(x.rows(), n);
        x
    }

    /// `L⁻ᵀ B`.
    pub(super) fn backward(&self, b: &Dense) -> Dense {
        let (n, width) = (self.lower.columns, b.columns);
        let mut x = b.clone();
        for (block, inverse) in self.inverses.iter().enumerate().rev() {
            let (from, rows) = (block * BLOCK, inverse.columns);
            let (head, done) = x.values.split_at_mut((from + rows) * width);
            let part = &mut head[from * width..];
            if !done.is_empty() {
                let known = self.lower.view().part(from + rows, n - from - rows).columns(from, rows).transposed();
                let known = product(known, View::rows(done, width), rows, width);
                part.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let solved = product(inverse.view().transposed(), View::rows(part, width), rows, width);
            part.copy_from_slice(&solved.values);
        }
        x
    }

    /// `A⁻¹ B`.
    pub(super) fn solve(&self, b: &Dense) -> Dense {
        self.backward(&self.forward(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Matrix, Row, Split};

    fn random(rows: usize, columns: usize, name: &str) -> Dense {
        let mut random = Random::new(1, name);
        Dense { values: (0..rows * columns).map(|_| random.between(-1.0, 1.0)).collect(), columns }
    }

    fn near(a: &Dense, b: &Dense, bound: f32) {
        assert_eq!((a.rows(), a.columns), (b.rows(), b.columns));
        let worst = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < bound, "{worst}");
    }

    #[test]
    fn factors_and_solves_of_odd_sizes() {
        for n in [1, 5, 63, 64, 65, 200] {
            let root = random(n + 20, n, "root");
            let mut a = product(root.view().transposed(), root.view(), n, n);
            (0..n).for_each(|i| a.values[i * n + i] += 1.0);
            let factor = Factor::new(a.clone()).unwrap();
            near(&product(factor.lower.view(), factor.lower.view().transposed(), n, n), &a, 1e-3);
            let b = random(n, 3, "b");
            near(&a.times(&factor.solve(&b)), &b, 1e-3);
            near(&factor.lower.times(&factor.forward(&b)), &b, 1e-4);
        }
        assert!(Factor::new(Dense { values: vec![1.0, 2.0, 2.0, 1.0], columns: 2 }).is_none());
    }

    #[test]
    fn features_that_overflow_or_vanish_are_named() {
        for (scale, word) in
            [(1e25, "image features of the training rows are too large"), (1e-25, "too small"), (0.0, "all alike")]
        {
            let matrix = Matrix::new(random(40, 3, "x").values.iter().map(|x| x * scale).collect(), 3);
            let about =
                Row { id: "a".into(), labels: vec![], split: Split::Train, video: None, moment: None, span_s: None };
            let table = Table { matrix, rows: vec![about; 40] };
            let rows: Vec<u32> = (0..40).collect();
            let error = side((&table, &Map::Identity(3)), &rows, &[1.0 / 40.0; 40], "image").unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("image"), "{error}");
        }
    }

    #[test]
    fn principal_directions_are_those_of_the_largest_spread() {
        let mut covariance = Dense::zeros(40, 40);
        (0..40).for_each(|i| covariance.values[i * 40 + i] = if i % 8 == 3 { 10.0 + i as f32 } else { 0.1 });
        let found = Side { name: "video", mean: vec![0.0; 40], covariance }.principal(3);
        for (row, at) in found.values.chunks(40).zip([35, 27, 19]) {
            assert!(row[at].abs() > 0.999, "{at}: {row:?}");
        }
    }
}
