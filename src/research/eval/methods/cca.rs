//! Regularised canonical correlation analysis (Hotelling, 1936). With `S_x + λ s_x I = L_x L_xᵀ`, likewise
//! for y, and the singular value decomposition `L_x⁻¹ S_xy L_y⁻ᵀ = U D Vᵀ`, images are mapped by `D Uᵀ L_x⁻¹`
//! and videos by `D Vᵀ L_y⁻¹`. D holds the correlations; weighting by them follows Gong et al. (IJCV 2014)
//! with a power of one. λ is chosen on the validation rows.

use super::linear::{CholeskyFactor, CrossStatistics, DenseMatrix, ModalityStatistics, product};
use super::{FittedMethod, LengthPolicy, Method, TrainingContext, chain_both, offset};
use crate::base::linalg::largest_eigenvectors;
use crate::gmf::Affine;
use crate::research::eval::Error;
use crate::research::eval::embedding::{FeatureMap, FeatureMaps};

pub(super) struct CcaMethod {
    pub(super) lengths: LengthPolicy,
}

impl Method for CcaMethod {
    fn name(&self) -> &'static str {
        "CCA"
    }

    fn applies(&self, image: usize, video: usize) -> bool {
        self.lengths.apply(image, video)
    }

    fn fit(&self, training: &TrainingContext<'_>, _seed: u64) -> Result<FittedMethod, Error> {
        let before = training.preceding_maps(self.lengths)?;
        Ok(FittedMethod::from_maps(maps(training, &before)?, (before.image.outputs(), before.video.outputs())))
    }
}

/// Fits the maps after the maps `before`. The result includes them.
pub(super) fn maps(training: &TrainingContext<'_>, before: &FeatureMaps) -> Result<FeatureMaps, Error> {
    let statistics = training.statistics(before)?;
    training.best_ridge(|ridge| Ok(chain_both(before, &fit(&statistics, ridge)?)))
}

fn fit(statistics: &CrossStatistics, ridge: f64) -> Result<FeatureMaps, Error> {
    let (x, y) = (statistics.image.factor(ridge)?, statistics.video.factor(ridge)?);
    // M = L_x⁻¹ S_xy L_y⁻ᵀ, of shape (image length, video length).
    let half = x.forward(&statistics.cross);
    let m = y.forward(&half.transposed()).transposed();
    let (rows, columns) = (m.rows(), m.columns);
    // The eigenvectors of the smaller of M Mᵀ and MᵀM.
    let (left, right, correlations) = if rows <= columns {
        let (u, d) = eigen(&product(m.view(), m.view().transposed(), rows, rows));
        let v = divide_columns(product(m.view().transposed(), u.view(), columns, rows), &d);
        (u, v, d)
    } else {
        let (v, d) = eigen(&product(m.view().transposed(), m.view(), columns, columns));
        (divide_columns(product(m.view(), v.view(), rows, columns), &d), v, d)
    };
    Ok(FeatureMaps {
        image: map(&statistics.image, &x, left, &correlations),
        video: map(&statistics.video, &y, right, &correlations),
    })
}

/// Eigenvectors as columns and the square roots of the eigenvalues, largest first.
fn eigen(matrix: &DenseMatrix) -> (DenseMatrix, Vec<f32>) {
    let (values, vectors) = largest_eigenvectors(matrix.to_f64(), matrix.columns);
    (DenseMatrix::from_f64(&vectors), values.into_iter().map(|value| value.max(0.0).sqrt() as f32).collect())
}

/// Divides each column by its number. A column whose number is near zero becomes zero.
fn divide_columns(mut matrix: DenseMatrix, by: &[f32]) -> DenseMatrix {
    let least = by.first().copied().unwrap_or(0.0) * 1e-4;
    for row in matrix.values.chunks_exact_mut(by.len()) {
        row.iter_mut().zip(by).for_each(|(x, d)| *x = if *d > least { *x / d } else { 0.0 });
    }
    matrix
}

/// The map `D Uᵀ L⁻¹ (x - mean)`.
fn map(side: &ModalityStatistics, factor: &CholeskyFactor, mut directions: DenseMatrix, weights: &[f32]) -> FeatureMap {
    for row in directions.values.chunks_exact_mut(weights.len()) {
        row.iter_mut().zip(weights).for_each(|(x, d)| *x *= d);
    }
    let weight = factor.backward(&directions).transposed();
    let bias = offset(&weight, &side.mean);
    Affine { weight: weight.values, bias }.into()
}
