//! Maps features of whole tables into the space of comparison, with matrix products over blocks of rows.

use rayon::prelude::*;

use super::Error;
use crate::base::linalg::{MatrixView, multiply_here};
use crate::features::FeatureTable;
use crate::gmf::{self, Affine, Folded};

/// Rows per block.
const BLOCK: usize = 64;

/// Maps the features of one modality into the space of comparison: `y = W x + c`.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMap {
    /// Length of x.
    pub(super) inputs: usize,
    /// W, row-major; empty for the identity.
    pub(super) weight: Vec<f32>,
    /// c; empty for zeros if W is the identity.
    pub(super) bias: Vec<f32>,
}

/// Maps images and videos into one space. The mapped vectors are scaled to length 1, so that dot products are
/// cosines.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMaps {
    /// Map of image features.
    pub image: FeatureMap,
    /// Map of video features.
    pub video: FeatureMap,
}

impl FeatureMap {
    /// Features of this length stay as they are.
    pub fn identity(length: usize) -> FeatureMap {
        FeatureMap { inputs: length, weight: Vec::new(), bias: Vec::new() }
    }

    /// The map `y = x + shift`.
    pub fn shift(shift: Vec<f32>) -> FeatureMap {
        FeatureMap { inputs: shift.len(), weight: Vec::new(), bias: shift }
    }

    /// Length of the features.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of the mapped features.
    pub fn outputs(&self) -> usize {
        if self.bias.is_empty() { self.inputs } else { self.bias.len() }
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.weight.len() + self.bias.len()
    }

    /// Operations for one vector. A multiply-add counts as two; biases are not counted.
    pub fn flops(&self) -> usize {
        2 * self.weight.len()
    }

    /// Maps rows of a table. Returns a row-major matrix that is not scaled.
    ///
    /// # Errors
    /// [`gmf::Error::Length`] if the features have another length; [`Error::Features`] if they cannot be
    /// read.
    pub fn apply(&self, table: &FeatureTable, rows: &[u32], modality: &'static str) -> Result<Vec<f32>, Error> {
        let (inputs, outputs, found) = (self.inputs(), self.outputs(), table.matrix.columns());
        if found != inputs {
            return Err(gmf::Error::Length { modality, found, expected: inputs }.into());
        }
        let mut mapped = vec![0f32; rows.len() * outputs];
        mapped.par_chunks_mut(BLOCK * outputs).zip(rows.par_chunks(BLOCK)).try_for_each(|(mapped, rows)| {
            let mut features = vec![0f32; rows.len() * inputs];
            for (row, features) in rows.iter().zip(features.chunks_exact_mut(inputs)) {
                table.matrix.read(*row as usize, features)?;
            }
            if self.weight.is_empty() {
                mapped.copy_from_slice(&features);
                mapped
                    .chunks_exact_mut(outputs)
                    .for_each(|row| row.iter_mut().zip(&self.bias).for_each(|(y, c)| *y += c));
            } else {
                mapped.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(&self.bias));
                let weights = MatrixView::rows(&self.weight, inputs).transposed();
                multiply_here(mapped, 1.0, MatrixView::rows(&features, inputs), weights);
            }
            Ok::<(), Error>(())
        })?;
        Ok(mapped)
    }

    /// [`FeatureMap::apply`] with each row scaled to length 1. A row of zeros stays zero and scores 0 against
    /// everything.
    ///
    /// # Errors
    /// As [`FeatureMap::apply`].
    pub fn embed(&self, table: &FeatureTable, rows: &[u32], modality: &'static str) -> Result<Vec<f32>, Error> {
        let mut embedded = self.apply(table, rows, modality)?;
        embedded.par_chunks_mut(self.outputs()).for_each(|row| {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            // In double precision, because the factor of a very short row overflows single precision.
            let unit = norm.is_finite() && norm > 0.0;
            row.iter_mut().for_each(|x| *x = if unit { (f64::from(*x) / norm) as f32 } else { 0.0 });
        });
        Ok(embedded)
    }
}

impl From<Affine> for FeatureMap {
    fn from(affine: Affine) -> FeatureMap {
        FeatureMap { inputs: affine.inputs(), weight: affine.weight, bias: affine.bias }
    }
}

impl From<&Folded> for FeatureMaps {
    fn from(folded: &Folded) -> FeatureMaps {
        FeatureMaps { image: folded.image.clone().into(), video: folded.video.clone().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureMatrix, FeatureRow, Split};

    #[test]
    fn maps_and_scales_rows() {
        let matrix = FeatureMatrix::new((0..600).map(|i| (i % 7) as f32 - 3.0).collect(), 3);
        let table =
            FeatureTable { matrix, rows: (0..200).map(|i| FeatureRow::new(i.to_string(), Split::Test)).collect() };
        let affine = Affine { weight: vec![1.0, 2.0, 0.0, 0.0, -1.0, 0.5], bias: vec![0.5, 0.0] };
        let rows: Vec<u32> = (0..200).rev().collect();
        let mapped = FeatureMap::from(affine.clone()).apply(&table, &rows, "image").unwrap();
        let embedded = FeatureMap::from(affine).embed(&table, &rows, "image").unwrap();
        for (i, row) in rows.iter().enumerate() {
            let mut x = [0.0; 3];
            table.matrix.read(*row as usize, &mut x).unwrap();
            let y = [x[0] + 2.0 * x[1] + 0.5, -x[1] + 0.5 * x[2]];
            assert_eq!(mapped[2 * i..2 * i + 2], y);
            let norm = y[0].hypot(y[1]);
            assert!((embedded[2 * i] - y[0] / norm).abs() < 1e-6, "{i}");
        }
        assert_eq!(FeatureMap::identity(3).apply(&table, &[5], "image").unwrap().len(), 3);
        let mut x = [0.0; 3];
        table.matrix.read(5, &mut x).unwrap();
        let shifted = FeatureMap::shift(vec![1.0, -2.0, 0.5]).apply(&table, &[5], "image").unwrap();
        assert_eq!(shifted, [x[0] + 1.0, x[1] - 2.0, x[2] + 0.5]);
        let error = FeatureMap::identity(4).apply(&table, &[5], "image").unwrap_err().to_string();
        assert!(error.contains("image") && error.contains('3') && error.contains('4'), "{error}");
    }

    #[test]
    fn scales_rows_of_any_length() {
        let row = FeatureRow::new("a", Split::Test);
        for length in [1e-44f32, 1e-30, 1e-13, 1e30] {
            let table = FeatureTable {
                matrix: FeatureMatrix::new(vec![3.0 * length, 4.0 * length, 0.0, 0.0], 2),
                rows: vec![row.clone(); 2],
            };
            let embedded = FeatureMap::identity(2).embed(&table, &[0, 1], "image").unwrap();
            assert!((embedded[0].hypot(embedded[1]) - 1.0).abs() < 1e-5, "{length}: {embedded:?}");
            assert_eq!(embedded[2..], [0.0, 0.0]);
        }
    }
}
