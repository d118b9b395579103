//! Features of whole tables into the space in which they are compared, by blocks of a matrix product.

use rayon::prelude::*;

use super::retrieval::Error;
use crate::base::linalg::{View, multiply_here};
use crate::features::Table;
use crate::gmf::{self, Affine, Folded};

/// Rows of a block.
const BLOCK: usize = 64;

/// How features of one modality become comparable.
#[derive(Debug, Clone, PartialEq)]
pub enum Map {
    /// They are already.
    Identity(usize),
    /// `y = x + c`.
    Shift(Vec<f32>),
    /// `y = W x + c`.
    Affine(Affine),
}

/// How images and videos become comparable. Vectors are scaled to length 1 afterwards: what is compared is the cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    /// Of images.
    pub image: Map,
    /// Of videos.
    pub video: Map,
}

impl Map {
    /// Numbers in.
    pub fn inputs(&self) -> usize {
        match self {
            Map::Identity(length) => *length,
            Map::Shift(shift) => shift.len(),
            Map::Affine(affine) => affine.inputs(),
        }
    }

    /// Numbers out.
    pub fn outputs(&self) -> usize {
        match self {
            Map::Identity(length) => *length,
            Map::Shift(shift) => shift.len(),
            Map::Affine(affine) => affine.bias.len(),
        }
    }

    /// Weights and biases.
    pub fn parameters(&self) -> usize {
        match self {
            Map::Identity(_) => 0,
            Map::Shift(shift) => shift.len(),
            Map::Affine(affine) => affine.weight.len() + affine.bias.len(),
        }
    }

    /// Operations for one vector, a multiply-add as two; biases are not counted.
    pub fn flops(&self) -> usize {
        match self {
            Map::Identity(_) | Map::Shift(_) => 0,
            Map::Affine(affine) => 2 * affine.weight.len(),
        }
    }

    /// The rows of a table, mapped, one after the other. Not scaled.
    ///
    /// # Errors
    /// [`gmf::Error::Length`] if the features have another length; what is wrong with the features.
    pub fn apply(&self, table: &Table, rows: &[u32], modality: &'static str) -> Result<Vec<f32>, Error> {
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
            match self {
                Map::Identity(_) => mapped.copy_from_slice(&features),
                Map::Shift(shift) => {
                    for (mapped, features) in mapped.chunks_exact_mut(inputs).zip(features.chunks_exact(inputs)) {
                        mapped.iter_mut().zip(features).zip(shift).for_each(|((y, x), c)| *y = x + c);
                    }
                }
                Map::Affine(affine) => {
                    mapped.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(&affine.bias));
                    let weights = View::rows(&affine.weight, inputs).transposed();
                    multiply_here(mapped, 1.0, View::rows(&features, inputs), weights);
                }
            }
            Ok::<(), Error>(())
        })?;
        Ok(mapped)
    }

    /// [`Map::apply`], each row scaled to length 1; a row of zeros stays one, and scores 0 against everything.
    ///
    /// # Errors
    /// As [`Map::apply`].
    pub fn embed(&self, table: &Table, rows: &[u32], modality: &'static str) -> Result<Vec<f32>, Error> {
        let mut embedded = self.apply(table, rows, modality)?;
        embedded.par_chunks_mut(self.outputs()).for_each(|row| {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            // In double precision: a row may be so short that the factor would overflow.
            let unit = norm.is_finite() && norm > 0.0;
            row.iter_mut().for_each(|x| *x = if unit { (f64::from(*x) / norm) as f32 } else { 0.0 });
        });
        Ok(embedded)
    }
}

impl From<&Folded> for Maps {
    fn from(folded: &Folded) -> Maps {
        Maps { image: Map::Affine(folded.image.clone()), video: Map::Affine(folded.video.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Matrix, Row, Split};

    #[test]
    fn rows_are_mapped_and_scaled() {
        let row = |id: &str| Row {
            id: id.into(),
            labels: vec![],
            split: Split::Test,
            video: None,
            moment: None,
            span_s: None,
        };
        let matrix = Matrix::new((0..600).map(|i| (i % 7) as f32 - 3.0).collect(), 3);
        let table = Table { matrix, rows: (0..200).map(|i| row(&i.to_string())).collect() };
        let affine = Affine { weight: vec![1.0, 2.0, 0.0, 0.0, -1.0, 0.5], bias: vec![0.5, 0.0] };
        let rows: Vec<u32> = (0..200).rev().collect();
        let mapped = Map::Affine(affine.clone()).apply(&table, &rows, "image").unwrap();
        let embedded = Map::Affine(affine).embed(&table, &rows, "image").unwrap();
        for (i, row) in rows.iter().enumerate() {
            let mut x = [0.0; 3];
            table.matrix.read(*row as usize, &mut x).unwrap();
            let y = [x[0] + 2.0 * x[1] + 0.5, -x[1] + 0.5 * x[2]];
            assert_eq!(mapped[2 * i..2 * i + 2], y);
            let norm = y[0].hypot(y[1]);
            assert!((embedded[2 * i] - y[0] / norm).abs() < 1e-6, "{i}");
        }
        assert_eq!(Map::Identity(3).apply(&table, &[5], "image").unwrap().len(), 3);
        let mut x = [0.0; 3];
        table.matrix.read(5, &mut x).unwrap();
        let shifted = Map::Shift(vec![1.0, -2.0, 0.5]).apply(&table, &[5], "image").unwrap();
        assert_eq!(shifted, [x[0] + 1.0, x[1] - 2.0, x[2] + 0.5]);
        let error = Map::Identity(4).apply(&table, &[5], "image").unwrap_err().to_string();
        assert!(error.contains("image") && error.contains('3') && error.contains('4'), "{error}");
    }

    #[test]
    fn however_short_a_row_is_it_is_scaled() {
        let row = Row { id: "a".into(), labels: vec![], split: Split::Test, video: None, moment: None, span_s: None };
        for length in [1e-44f32, 1e-30, 1e-13, 1e30] {
            let table = Table {
                matrix: Matrix::new(vec![3.0 * length, 4.0 * length, 0.0, 0.0], 2),
                rows: vec![row.clone(); 2],
            };
            let embedded = Map::Identity(2).embed(&table, &[0, 1], "image").unwrap();
            assert!((embedded[0].hypot(embedded[1]) - 1.0).abs() < 1e-5, "{length}: {embedded:?}");
            assert_eq!(embedded[2..], [0.0, 0.0]);
        }
    }
}
