//! Matrices of features, in memory or in a `.npy` file.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use super::Error;
use crate::base::files::{self, read_exact_at};
use crate::base::npy;

/// Most columns. A file without rows could claim any number.
const MAX_COLUMNS: u64 = 1 << 24;

/// Features of one modality, of shape (rows, columns).
///
/// Rows of a file are read by position instead of mapped: if another process shortens the file, the read
/// returns an error instead of killing the process, and the page cache makes both equally fast.
#[derive(Debug)]
pub struct FeatureMatrix {
    source: MatrixData,
    rows: usize,
    columns: usize,
}

#[derive(Debug)]
enum MatrixData {
    Memory(Vec<f32>),
    Npy { file: File, path: PathBuf, data_start: u64, half: bool },
}

impl FeatureMatrix {
    /// A row-major matrix in memory.
    ///
    /// # Panics
    /// If the last row is not whole.
    pub fn new(values: Vec<f32>, columns: usize) -> FeatureMatrix {
        assert!(columns > 0 && values.len().is_multiple_of(columns), "whole rows");
        FeatureMatrix { rows: values.len() / columns, columns, source: MatrixData::Memory(values) }
    }

    /// Opens a `.npy` file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Npy`] if it is not a whole 2-d array of float32 or float16 in C order.
    pub fn open(path: &Path) -> Result<FeatureMatrix, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |found: String| Error::Npy { path: path.to_owned(), found };
        let file = files::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut reader = BufReader::new(file);
        let header = npy::header(&mut reader).map_err(|e| wrong(e.to_string()))?;
        let data_start = reader.stream_position().map_err(io)?;
        let dtype = header.dtype().descr();
        let half = match dtype.trim_matches('\'') {
            "<f2" => true,
            "<f4" => false,
            other => return Err(wrong(format!("numbers of type {other}"))),
        };
        let &[rows, columns] = header.shape() else {
            return Err(wrong(format!("{} dimensions", header.shape().len())));
        };
        if header.order() != npyz::Order::C {
            return Err(wrong("Fortran order".to_owned()));
        }
        let size = if half { 2 } else { 4 };
        let expected = rows
            .checked_mul(columns)
            .and_then(|n| n.checked_mul(size))
            .filter(|_| (1..=MAX_COLUMNS).contains(&columns));
        // The file may have been shortened since its header was read.
        let found = bytes.checked_sub(data_start);
        if found.is_none() || found != expected {
            let found = found.unwrap_or(0);
            return Err(wrong(format!("{found} bytes of numbers for a shape of ({rows}, {columns})")));
        }
        let (rows, columns) = (rows as usize, columns as usize);
        let source = MatrixData::Npy { file: reader.into_inner(), path: path.to_owned(), data_start, half };
        Ok(FeatureMatrix { source, rows, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Reads one row.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::NotFinite`] if it holds NaN or infinity.
    ///
    /// # Panics
    /// If the row does not exist, or `out` has another length than the columns.
    pub fn read(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        assert!(row < self.rows && out.len() == self.columns, "a row of the matrix");
        match &self.source {
            MatrixData::Memory(values) => out.copy_from_slice(&values[row * self.columns..][..self.columns]),
            MatrixData::Npy { file, path, data_start, half } => {
                let io = |source| Error::Io { path: path.clone(), source };
                let size = if *half { 2 } else { 4 };
                let length = self.columns * size;
                let mut bytes = vec![0u8; length];
                read_exact_at(file, &mut bytes, data_start + (row * length) as u64).map_err(io)?;
                if *half {
                    for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                        *value = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                    }
                } else {
                    for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                        *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    }
                }
                if out.iter().any(|v| !v.is_finite()) {
                    return Err(Error::NotFinite { path: path.clone(), row });
                }
            }
        }
        Ok(())
    }
}
