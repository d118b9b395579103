//! Numerics of the closed-form methods: means and covariances of the training pairs, a blocked Cholesky
//! factor, principal directions.
//!
//! nalgebra's Cholesky decomposition is unblocked and uses one thread, which takes minutes for features of
//! length 4096. Here it factors the diagonal blocks only; matrix products do the rest.

use std::collections::HashMap;
use std::ops::Range;

use nalgebra::DMatrix;

use crate::base::linalg::{MatrixView, largest_eigenvectors, multiply};
use crate::base::seeded::Random;
use crate::features::FeatureTable;
use crate::gmf::{PairGroup, TrainingData};
use crate::research::eval::Error;
use crate::research::eval::embedding::FeatureMap;

/// Columns per block of the factor.
const BLOCK: usize = 64;

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DenseMatrix {
    pub(super) values: Vec<f32>,
    pub(super) columns: usize,
}

impl DenseMatrix {
    pub(super) fn zeros(rows: usize, columns: usize) -> DenseMatrix {
        DenseMatrix { values: vec![0.0; rows * columns], columns }
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    pub(super) fn view(&self) -> MatrixView<'_> {
        MatrixView::rows(&self.values, self.columns)
    }

    /// The product `self · other`.
    pub(super) fn times(&self, other: &DenseMatrix) -> DenseMatrix {
        product(self.view(), other.view(), self.rows(), other.columns)
    }

    pub(super) fn transposed(&self) -> DenseMatrix {
        let (rows, columns) = (self.rows(), self.columns);
        let values = (0..columns * rows).map(|i| self.values[i % rows * columns + i / rows]).collect();
        DenseMatrix { values, columns: rows }
    }

    pub(super) fn to_f64(&self) -> DMatrix<f64> {
        DMatrix::from_row_iterator(self.rows(), self.columns, self.values.iter().map(|x| f64::from(*x)))
    }

    pub(super) fn from_f64(matrix: &DMatrix<f64>) -> DenseMatrix {
        let values = matrix.transpose().iter().map(|x| *x as f32).collect();
        DenseMatrix { values, columns: matrix.ncols() }
    }
}

/// The product `a · b`, of shape (rows, columns).
pub(super) fn product(a: MatrixView<'_>, b: MatrixView<'_>, rows: usize, columns: usize) -> DenseMatrix {
    let mut out = DenseMatrix::zeros(rows, columns);
    multiply(&mut out.values, 0.0, a, b);
    out
}

/// Mean and covariance of one modality over the distribution of training pairs.
#[derive(Debug)]
pub(super) struct ModalityStatistics {
    /// `image` or `video`.
    pub(super) name: &'static str,
    pub(super) mean: Vec<f32>,
    /// Covariance, of shape (length, length).
    pub(super) covariance: DenseMatrix,
}

/// Means and covariances over the distribution of training pairs. A pair is an image, one of its groups, and
/// one of the group's videos, each drawn uniformly.
#[derive(Debug)]
pub(super) struct CrossStatistics {
    pub(super) image: ModalityStatistics,
    pub(super) video: ModalityStatistics,
    /// Covariance of images and videos, of shape (image length, video length).
    pub(super) cross: DenseMatrix,
}

impl CrossStatistics {
    pub(super) fn new(
        data: &TrainingData<'_>,
        images: (&FeatureTable, &FeatureMap),
        videos: (&FeatureTable, &FeatureMap),
    ) -> Result<CrossStatistics, Error> {
        let groups = data.groups();
        let mut memberships: HashMap<u32, usize> = HashMap::new();
        groups.iter().flat_map(|group| &group.images).for_each(|image| *memberships.entry(*image).or_default() += 1);
        let (mut image_rows, mut video_rows) = (Vec::new(), Vec::new());
        let (mut image_weights, mut video_weights, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        for PairGroup { images, videos } in &groups {
            let before = image_weights.len();
            image_rows.extend(images);
            image_weights.extend(images.iter().map(|image| 1.0 / (memberships.len() * memberships[image]) as f32));
            let total: f32 = image_weights[before..].iter().sum();
            video_rows.extend(videos);
            video_weights.extend(videos.iter().map(|_| total / videos.len() as f32));
            totals.push(total);
        }
        let (image, x) = weighted_statistics(images, &image_rows, &image_weights, "image")?;
        let (video, y) = weighted_statistics(videos, &video_rows, &video_weights, "video")?;
        // A group of weight w adds w (mean of x)(mean of y)ᵀ. Rows are already scaled by the square roots of
        // their weights. Multiplied by these roots once more, summed, and divided by √w, they give √w times
        // the mean.
        let (mut sums_x, mut sums_y) =
            (DenseMatrix::zeros(groups.len(), x.columns), DenseMatrix::zeros(groups.len(), y.columns));
        let (mut images_before, mut videos_before) = (0, 0);
        for (g, (PairGroup { images, videos }, total)) in groups.iter().zip(&totals).enumerate() {
            add_weighted(&mut sums_x, g, &x, &image_weights, images_before..images_before + images.len(), *total);
            add_weighted(&mut sums_y, g, &y, &video_weights, videos_before..videos_before + videos.len(), *total);
            images_before += images.len();
            videos_before += videos.len();
        }
        let cross = product(sums_x.view().transposed(), sums_y.view(), x.columns, y.columns);
        Ok(CrossStatistics { image, video, cross })
    }
}

/// Adds a range of rows, times the square roots of their weights and divided by √`total`, to row `g` of
/// `sums`.
fn add_weighted(
    sums: &mut DenseMatrix,
    g: usize,
    rows: &DenseMatrix,
    weights: &[f32],
    range: Range<usize>,
    total: f32,
) {
    let columns = rows.columns;
    let sum = &mut sums.values[g * columns..][..columns];
    for i in range {
        let scale = (weights[i] / total).sqrt();
        let row = &rows.values[i * columns..][..columns];
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * scale);
    }
}

/// Mean and covariance of rows, and the rows, centred and scaled by the square roots of their weights.
fn weighted_statistics(
    (table, map): (&FeatureTable, &FeatureMap),
    rows: &[u32],
    weights: &[f32],
    name: &'static str,
) -> Result<(ModalityStatistics, DenseMatrix), Error> {
    let columns = map.outputs();
    let mut all = DenseMatrix { values: map.apply(table, rows, name)?, columns };
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
    let statistics = ModalityStatistics { name, mean, covariance };
    statistics.check()?;
    Ok((statistics, all))
}

impl ModalityStatistics {
    fn trace(&self) -> f64 {
        let n = self.covariance.columns;
        (0..n).map(|i| f64::from(self.covariance.values[i * n + i])).sum()
    }

    /// Checks that the squares of the features are within single precision.
    fn check(&self) -> Result<(), Error> {
        let (modality, trace) = (self.name, self.trace());
        let finite = self.mean.iter().all(|x| x.is_finite()) && trace.is_finite();
        if !finite {
            return Err(Error::FeaturesTooLarge { modality });
        }
        // Smaller squares lose precision.
        if trace / (self.covariance.columns as f64) < f64::from(f32::MIN_POSITIVE) / f64::from(f32::EPSILON) {
            return Err(Error::FeaturesTooSmall { modality });
        }
        Ok(())
    }

    /// Factors the covariance plus `share` of its mean eigenvalue times the identity.
    pub(super) fn factor(&self, share: f64) -> Result<CholeskyFactor, Error> {
        let n = self.covariance.columns;
        let ridge = (share * self.trace() / n as f64) as f32;
        let mut matrix = self.covariance.clone();
        (0..n).for_each(|i| matrix.values[i * n + i] += ridge);
        CholeskyFactor::new(matrix).ok_or_else(|| Error::Singular { modality: self.name })
    }

    /// The first `k` principal directions, of shape (k, length), by subspace iteration (Halko, Martinsson and
    /// Tropp, SIAM Review 2011).
    pub(super) fn principal(&self, k: usize) -> DenseMatrix {
        let n = self.covariance.columns;
        let wide = (k + 16).min(n);
        let mut random = Random::new(1, "principal directions");
        let mut basis =
            DenseMatrix { values: (0..n * wide).map(|_| random.between(-1.0, 1.0)).collect(), columns: wide };
        for _ in 0..8 {
            basis = orthonormal(&self.covariance.times(&basis));
        }
        let small = product(basis.view().transposed(), self.covariance.times(&basis).view(), wide, wide);
        let (_, chosen) = largest_eigenvectors(small.to_f64(), k);
        basis.times(&DenseMatrix::from_f64(&chosen)).transposed()
    }
}

/// An orthonormal basis of the columns, by QR.
fn orthonormal(matrix: &DenseMatrix) -> DenseMatrix {
    DenseMatrix::from_f64(&matrix.to_f64().qr().q())
}

/// A lower triangular L with `L Lᵀ = A`, in blocks of columns.
#[derive(Debug)]
pub(super) struct CholeskyFactor {
    lower: DenseMatrix,
    /// Inverses of the diagonal blocks.
    inverses: Vec<DenseMatrix>,
}

impl CholeskyFactor {
    /// Factors A; `None` if A is not positive definite.
    pub(super) fn new(a: DenseMatrix) -> Option<CholeskyFactor> {
        let n = a.columns;
        let (mut lower, mut inverses) = (DenseMatrix::zeros(n, n), Vec::new());
        for from in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - from);
            // The block's columns from its first row on, minus the contribution of earlier blocks.
            let mut panel = DenseMatrix::zeros(n - from, width);
            for (i, row) in panel.values.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(&a.values[(from + i) * n + from..][..width]);
            }
            if from > 0 {
                let done = lower.view().columns(0, from);
                let known = product(done.part(from, n - from), done.part(from, width).transposed(), n - from, width);
                panel.values.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let top = DenseMatrix { values: panel.values[..width * width].to_vec(), columns: width };
            let inverse = nalgebra::Cholesky::new(top.to_f64())?.l().try_inverse()?;
            let inverse = DenseMatrix::from_f64(&inverse);
            let solved = product(panel.view(), inverse.view().transposed(), n - from, width);
            for (i, row) in solved.values.chunks_exact(width).enumerate() {
                lower.values[(from + i) * n + from..][..width].copy_from_slice(row);
            }
            inverses.push(inverse);
        }
        lower.values.iter().all(|x| x.is_finite()).then_some(CholeskyFactor { lower, inverses })
    }

    /// The product `L⁻¹ B`.
    pub(super) fn forward(&self, b: &DenseMatrix) -> DenseMatrix {
        let (n, width) = (self.lower.columns, b.columns);
        let mut x = b.clone();
        for (block, inverse) in self.inverses.iter().enumerate() {
            let (from, rows) = (block * BLOCK, inverse.columns);
            let (done, rest) = x.values.split_at_mut(from * width);
            let part = &mut rest[..rows * width];
            if from > 0 {
                let known = self.lower.view().part(from, rows).columns(0, from);
                let known = product(known, MatrixView::rows(done, width), rows, width);
                part.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let solved = product(inverse.view(), MatrixView::rows(part, width), rows, width);
            part.copy_from_slice(&solved.values);
        }
        debug_assert_eq!(x.rows(), n);
        x
    }

    /// The product `L⁻ᵀ B`.
    pub(super) fn backward(&self, b: &DenseMatrix) -> DenseMatrix {
        let (n, width) = (self.lower.columns, b.columns);
        let mut x = b.clone();
        for (block, inverse) in self.inverses.iter().enumerate().rev() {
            let (from, rows) = (block * BLOCK, inverse.columns);
            let (head, done) = x.values.split_at_mut((from + rows) * width);
            let part = &mut head[from * width..];
            if !done.is_empty() {
                let known = self.lower.view().part(from + rows, n - from - rows).columns(from, rows).transposed();
                let known = product(known, MatrixView::rows(done, width), rows, width);
                part.iter_mut().zip(&known.values).for_each(|(x, y)| *x -= y);
            }
            let solved = product(inverse.view().transposed(), MatrixView::rows(part, width), rows, width);
            part.copy_from_slice(&solved.values);
        }
        x
    }

    /// The product `A⁻¹ B`.
    pub(super) fn solve(&self, b: &DenseMatrix) -> DenseMatrix {
        self.backward(&self.forward(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureMatrix, FeatureRow, Split};

    fn random(rows: usize, columns: usize, name: &str) -> DenseMatrix {
        let mut random = Random::new(1, name);
        DenseMatrix { values: (0..rows * columns).map(|_| random.between(-1.0, 1.0)).collect(), columns }
    }

    fn near(a: &DenseMatrix, b: &DenseMatrix, bound: f32) {
        assert_eq!((a.rows(), a.columns), (b.rows(), b.columns));
        let worst = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < bound, "{worst}");
    }

    #[test]
    fn factors_and_solves_odd_sizes() {
        for n in [1, 5, 63, 64, 65, 200] {
            let root = random(n + 20, n, "root");
            let mut a = product(root.view().transposed(), root.view(), n, n);
            (0..n).for_each(|i| a.values[i * n + i] += 1.0);
            let factor = CholeskyFactor::new(a.clone()).unwrap();
            near(&product(factor.lower.view(), factor.lower.view().transposed(), n, n), &a, 1e-3);
            let b = random(n, 3, "b");
            near(&a.times(&factor.solve(&b)), &b, 1e-3);
            near(&factor.lower.times(&factor.forward(&b)), &b, 1e-4);
        }
        assert!(CholeskyFactor::new(DenseMatrix { values: vec![1.0, 2.0, 2.0, 1.0], columns: 2 }).is_none());
    }

    #[test]
    fn names_features_that_overflow_or_vanish() {
        for (scale, word) in
            [(1e25, "image features of the training rows are too large"), (1e-25, "too small"), (0.0, "all alike")]
        {
            let matrix = FeatureMatrix::new(random(40, 3, "x").values.iter().map(|x| x * scale).collect(), 3);
            let table = FeatureTable { matrix, rows: vec![FeatureRow::new("a", Split::Train); 40] };
            let rows: Vec<u32> = (0..40).collect();
            let error = weighted_statistics((&table, &FeatureMap::identity(3)), &rows, &[1.0 / 40.0; 40], "image")
                .unwrap_err()
                .to_string();
            assert!(error.contains(word) && error.contains("image"), "{error}");
        }
    }

    #[test]
    fn principal_directions_have_the_largest_variance() {
        let mut covariance = DenseMatrix::zeros(40, 40);
        (0..40).for_each(|i| covariance.values[i * 40 + i] = if i % 8 == 3 { 10.0 + i as f32 } else { 0.1 });
        let found = ModalityStatistics { name: "video", mean: vec![0.0; 40], covariance }.principal(3);
        for (row, at) in found.values.chunks(40).zip([35, 27, 19]) {
            assert!(row[at].abs() > 0.999, "{at}: {row:?}");
        }
    }
}
