//! Canonical correlation analysis (Hotelling, 1936), regularised: with S_x + λ s_x I = L_x L_xᵀ, likewise for y, and the singular value
//! decomposition L_x⁻¹ S_xy L_y⁻ᵀ = U D Vᵀ, images are mapped by D Uᵀ L_x⁻¹ and videos by D Vᵀ L_y⁻¹. The weight D, the correlations themselves,
//! is that of Gong et al. (IJCV 2014) with the power of one. λ is chosen on the validation rows.

use nalgebra::{DMatrix, SymmetricEigen};

use super::linear::{Dense, Factor, Moments, Side, product};
use super::{Fitted, Lengths, Method, Training, chain_both, offset};
use crate::gmf::Affine;
use crate::research::eval::embedding::{Map, Maps};
use crate::research::eval::retrieval::Error;

pub(super) struct Cca {
    pub(super) lengths: Lengths,
}

impl Method for Cca {
    fn name(&self) -> &'static str {
        "CCA"
    }

    fn applies(&self, image: usize, video: usize) -> bool {
        self.lengths.apply(image, video)
    }

    fn fit(&self, training: &Training<'_>, _seed: u64) -> Result<Fitted, Error> {
        let before = training.mapped(self.lengths)?;
        Ok(Fitted::of(maps(training, &before)?, (before.image.outputs(), before.video.outputs())))
    }
}

/// The maps, those `before` included.
pub(super) fn maps(training: &Training<'_>, before: &Maps) -> Result<Maps, Error> {
    let moments = training.moments(before)?;
    training.best_ridge(|ridge| Ok(chain_both(before, &fit(&moments, ridge)?)))
}

fn fit(moments: &Moments, ridge: f64) -> Result<Maps, Error> {
    let (x, y) = (moments.image.factor(ridge)?, moments.video.factor(ridge)?);
    // M = L_x⁻¹ S_xy L_y⁻ᵀ, (image length, video length).
    let half = x.forward(&moments.cross);
    let m = y.forward(&half.transposed()).transposed();
    let (rows, columns) = (m.rows(), m.columns);
    // The eigenvectors of the smaller of M Mᵀ and MᵀM.
    let (left, right, correlations) = if rows <= columns {
        let (u, d) = eigen(&product(m.view(), m.view().transposed(), rows, rows));
        let v = over(product(m.view().transposed(), u.view(), columns, rows), &d);
        (u, v, d)
    } else {
        let (v, d) = eigen(&product(m.view().transposed(), m.view(), columns, columns));
        (over(product(m.view(), v.view(), rows, columns), &d), v, d)
    };
    Ok(Maps {
        image: map(&moments.image, &x, left, &correlations),
        video: map(&moments.video, &y, right, &correlations),
    })
}

/// Eigenvectors as columns, and the square roots of the eigenvalues, largest first.
fn eigen(matrix: &Dense) -> (Dense, Vec<f32>) {
    let eigen = SymmetricEigen::new(matrix.to_f64());
    let n = matrix.columns;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let vectors = DMatrix::from_fn(n, n, |i, j| eigen.eigenvectors[(i, order[j])]);
    let values = order.iter().map(|i| eigen.eigenvalues[*i].max(0.0).sqrt() as f32).collect();
    (Dense::from_f64(&vectors), values)
}

/// Columns divided by these numbers; those of a number near nothing become zeros.
fn over(mut matrix: Dense, by: &[f32]) -> Dense {
    let least = by.first().copied().unwrap_or(0.0) * 1e-4;
    for row in matrix.values.chunks_exact_mut(by.len()) {
        row.iter_mut().zip(by).for_each(|(x, d)| *x = if *d > least { *x / d } else { 0.0 });
    }
    matrix
}

/// `D Uᵀ L⁻¹ (x - mean)`.
fn map(side: &Side, factor: &Factor, mut directions: Dense, weights: &[f32]) -> Map {
    for row in directions.values.chunks_exact_mut(weights.len()) {
        row.iter_mut().zip(weights).for_each(|(x, d)| *x *= d);
    }
    let weight = factor.backward(&directions).transposed();
    let bias = offset(&weight, &side.mean);
    Map::Affine(Affine { weight: weight.values, bias })
}
