//! The closed-form fit on videos from which training starts.

mod discriminant;
pub mod pairs;

pub use discriminant::{Error, PairCovariances, PairStatistics};

use crate::gmf::Affine;

/// The affine map `Q (f - mean)`. `Q` has `count` orthonormal rows, which span the directions that separate
/// videos best.
///
/// # Errors
/// As [`PairCovariances::basis`].
pub fn projection(covariances: &PairCovariances, count: usize) -> Result<Affine, Error> {
    let (weight, mean) = (covariances.basis(count)?, covariances.mean());
    let bias =
        weight.chunks_exact(mean.len()).map(|row| -row.iter().zip(&mean).map(|(q, m)| q * m).sum::<f32>()).collect();
    Ok(Affine { weight, bias })
}
