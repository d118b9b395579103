//! Matrix products over slices. This is the only file of the engine with `unsafe`: it calls the `gemm` crate.
//!
//! Activations have the shape (features, batch) and weights the shape (outputs, inputs). With these shapes no
//! product of a training step transposes the weights, which are the largest operands. Work is split into
//! panels of output rows. One thread computes each panel from start to end, so that results do not depend on
//! the number of threads.

#![allow(unsafe_code, reason = "gemm takes pointers and strides; `multiply_here` checks them against the slices")]

use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

/// Smallest number of multiply-adds for which a second thread saves time.
const PARALLEL: usize = 1 << 18;

/// A matrix in a slice. Element (r, c) is at `r · row_stride + c · column_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// A row-major matrix whose rows have `columns` numbers.
    pub(crate) fn rows(data: &'a [f32], columns: usize) -> MatrixView<'a> {
        assert_eq!(data.len() % columns, 0, "the slice holds whole rows");
        MatrixView { data, rows: data.len() / columns, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, without copying.
    pub(crate) fn transposed(self) -> MatrixView<'a> {
        MatrixView {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// One row of a row-major matrix.
    pub(crate) fn row(self, r: usize) -> &'a [f32] {
        assert_eq!(self.column_stride, 1, "the matrix is row-major");
        &self.data[r * self.row_stride..][..self.columns]
    }

    /// Columns `from..from + count`.
    pub(crate) fn columns(self, from: usize, count: usize) -> MatrixView<'a> {
        assert!(from + count <= self.columns, "columns within the matrix");
        MatrixView { data: self.data.get(from * self.column_stride..).unwrap_or(&[]), columns: count, ..self }
    }

    /// Rows `from..from + count`.
    pub(crate) fn part(self, from: usize, count: usize) -> MatrixView<'a> {
        assert!(from + count <= self.rows, "rows within the matrix");
        MatrixView { data: self.data.get(from * self.row_stride..).unwrap_or(&[]), rows: count, ..self }
    }
}

/// `dst = keep · dst + a · b`, with a row-major `dst`. `keep` 0 ignores the old values of `dst`, also NaN.
pub(crate) fn multiply(dst: &mut [f32], keep: f32, a: MatrixView<'_>, b: MatrixView<'_>) {
    let columns = b.columns;
    assert_eq!(dst.len(), a.rows * columns, "dst is (rows of a, columns of b)");
    let panel = panel_rows(a.rows, a.columns * columns);
    dst.par_chunks_mut(panel * columns).enumerate().for_each(|(i, dst)| {
        let rows = dst.len() / columns;
        multiply_here(dst, keep, a.part(i * panel, rows), b);
    });
}

/// Rows of one panel of a product that needs `row_cost` multiply-adds per row. A panel is large enough for
/// the kernel and small enough that its weights stay in the cache and two threads end at about the same time.
pub(crate) fn panel_rows(rows: usize, row_cost: usize) -> usize {
    if rows * row_cost < PARALLEL {
        return rows.max(1);
    }
    rows.div_ceil(16).clamp(16, 128).min(rows)
}

/// [`multiply`] on the calling thread.
pub(crate) fn multiply_here(dst: &mut [f32], keep: f32, a: MatrixView<'_>, b: MatrixView<'_>) {
    let reach = |v: MatrixView<'_>| match (v.rows, v.columns) {
        (0, _) | (_, 0) => 0,
        (r, c) => (r - 1) * v.row_stride + (c - 1) * v.column_stride + 1,
    };
    assert_eq!(a.columns, b.rows, "inner lengths");
    assert_eq!(dst.len(), a.rows * b.columns, "dst is (rows of a, columns of b)");
    assert!(reach(a) <= a.data.len() && reach(b) <= b.data.len(), "operands within their slices");
    // SAFETY: by the three assertions above, every element that the product reads or writes is inside the
    // slice of its operand. `dst` is borrowed for writing and so cannot overlap the others. Strides are at
    // most the length of a slice, which is below isize::MAX.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            dst.as_mut_ptr(),
            1,
            b.columns as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            keep,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The `count` largest eigenvalues of a symmetric matrix, largest first, and their eigenvectors as columns.
pub(crate) fn largest_eigenvectors(matrix: DMatrix<f64>, count: usize) -> (Vec<f64>, DMatrix<f64>) {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..eigenvalues.len()).collect();
    order.sort_by(|a, b| eigenvalues[*b].total_cmp(&eigenvalues[*a]));
    order.truncate(count);
    (order.iter().map(|i| eigenvalues[*i]).collect(), eigenvectors.select_columns(&order))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed * 17) % 23) as f32 * 0.1 - 1.0).collect()
    }

    #[test]
    fn products_match_the_definition_for_odd_shapes_and_transposes() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (64, 33, 17), (300, 130, 65), (17, 1, 2)] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let at: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            let start = values(m * n, 3);
            for keep in [0.0, 1.0, 0.9] {
                for (a_view, b_view) in [
                    (MatrixView::rows(&a, k), MatrixView::rows(&b, n)),
                    (MatrixView::rows(&at, m).transposed(), MatrixView::rows(&b, n)),
                    (MatrixView::rows(&a, k), MatrixView::rows(&bt, k).transposed()),
                ] {
                    let mut dst = start.clone();
                    multiply(&mut dst, keep, a_view, b_view);
                    for (i, value) in dst.iter().enumerate() {
                        let sum: f32 = (0..k).map(|x| a[i / n * k + x] * b[x * n + i % n]).sum();
                        assert!((value - (keep * start[i] + sum)).abs() < 1e-3, "({m},{k},{n}) at {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn keep_0_ignores_nan_in_the_destination() {
        let mut dst = vec![f32::NAN; 4];
        multiply(&mut dst, 0.0, MatrixView::rows(&[1.0, 2.0], 1), MatrixView::rows(&[3.0, 4.0], 2));
        assert_eq!(dst, [3.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    #[should_panic(expected = "inner lengths")]
    fn panics_if_the_inner_lengths_differ() {
        multiply(&mut [0.0; 4], 0.0, MatrixView::rows(&[1.0; 4], 2), MatrixView::rows(&[1.0; 6], 2));
    }
}
