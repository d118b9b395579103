//! A closed-form fit of the folded maps.
//!
//! The two views of a moment are a frame, distorted like images on the web, and the mean frame of its clip.
//! `Σₙ` is the covariance of their difference (the noise), `Σₛ` the covariance of clean frames over all
//! videos (the signal). The rows of the shared map are the generalised eigenvectors `Σₛ v = μ Σₙ v` of
//! largest `μ`, scaled to make the noise white: linear discriminant analysis with within-class whitening, as
//! used in speaker verification (Hatch et al., 2006). Both covariances are shrunk towards a multiple of the
//! identity, because they are estimated from few videos.
//!
//! This fit is our choice, not the paper's. A checkpoint that started from it records it as `start`.

use nalgebra::{Cholesky, DMatrix, DVector};

use super::Error;
use crate::base::linalg::largest_eigenvectors;

/// Share by which the covariance of the noise is shrunk towards `trace/d · I`. Tuned on held-out videos with
/// the distortion suite.
const NOISE_SHRINKAGE: f64 = 0.7;
/// The same for the covariance of the signal.
const SIGNAL_SHRINKAGE: f64 = 0.1;

/// Sums over training frames and pairs.
#[derive(Debug, Clone)]
pub(super) struct PairStatistics {
    mean: DVector<f64>,
    signal: DMatrix<f64>,
    noise: DMatrix<f64>,
    videos: usize,
    pairs: usize,
}

impl PairStatistics {
    /// Empty sums for vectors of this length.
    pub(super) fn new(length: usize) -> PairStatistics {
        PairStatistics {
            mean: DVector::zeros(length),
            signal: DMatrix::zeros(length, length),
            noise: DMatrix::zeros(length, length),
            videos: 0,
            pairs: 0,
        }
    }

    /// Adds the clean frames of one video. Every video has the same weight, for any number of frames.
    pub(super) fn add_video<'a>(&mut self, frames: impl ExactSizeIterator<Item = &'a [f32]>) {
        let weight = 1.0 / frames.len().max(1) as f64;
        let mut any = false;
        for frame in frames {
            let x = vector(frame);
            self.mean.axpy(weight, &x, 1.0);
            self.signal.syger(weight, &x, &x, 1.0);
            any = true;
        }
        self.videos += usize::from(any);
    }

    /// Adds one pair: a distorted frame and the mean frame of its clip.
    pub(super) fn add_pair(&mut self, frame: &[f32], clip: &[f32]) {
        let x = vector(frame) - vector(clip);
        self.noise.syger(1.0, &x, &x, 1.0);
        self.pairs += 1;
    }

    /// Makes the sums invariant to mirroring. Element `i` of a mirrored frame's descriptor is element
    /// `mirror(i)` of the frame's descriptor.
    pub(super) fn symmetrise(&mut self, mirror: impl Fn(usize) -> usize) {
        let n = self.mean.len();
        self.signal.fill_upper_triangle_with_lower_triangle();
        self.noise.fill_upper_triangle_with_lower_triangle();
        let (mean, signal, noise) = (self.mean.clone(), self.signal.clone(), self.noise.clone());
        for i in 0..n {
            self.mean[i] = 0.5 * (mean[i] + mean[mirror(i)]);
            for j in 0..n {
                let at = (mirror(i), mirror(j));
                self.signal[(i, j)] = 0.5 * (signal[(i, j)] + signal[at]);
                self.noise[(i, j)] = 0.5 * (noise[(i, j)] + noise[at]);
            }
        }
    }

    /// Covariances and mean.
    ///
    /// # Errors
    /// [`Error::TooFew`] if there are fewer than two videos or fewer than eight pairs.
    pub(super) fn covariances(&self) -> Result<PairCovariances, Error> {
        let needed = 8;
        if self.videos < 2 || self.pairs < needed {
            return Err(Error::TooFew { videos: self.videos, pairs: self.pairs, needed });
        }
        let mut signal = self.signal.clone();
        let mut noise = self.noise.clone();
        signal.fill_upper_triangle_with_lower_triangle();
        noise.fill_upper_triangle_with_lower_triangle();
        let mean = &self.mean / self.videos as f64;
        signal = signal / self.videos as f64 - &mean * mean.transpose();
        noise /= self.pairs as f64;
        Ok(PairCovariances { signal: shrink(signal, SIGNAL_SHRINKAGE), noise: shrink(noise, NOISE_SHRINKAGE), mean })
    }
}

/// Shrunk covariances of signal and noise, and the mean of the signal.
#[derive(Debug, Clone)]
pub(super) struct PairCovariances {
    signal: DMatrix<f64>,
    noise: DMatrix<f64>,
    mean: DVector<f64>,
}

impl PairCovariances {
    /// Mean frame.
    pub(super) fn mean(&self) -> Vec<f32> {
        self.mean.iter().map(|v| *v as f32).collect()
    }

    /// The best `count` directions, scaled to white noise: a row-major matrix of shape (count, length).
    ///
    /// # Errors
    /// [`Error::Degenerate`] if the noise has no spread.
    pub(super) fn discriminant(&self, count: usize) -> Result<Vec<f32>, Error> {
        Ok(flatten(&self.directions(count)?))
    }

    /// An orthonormal basis of the span of the best `count` directions: a row-major matrix of shape (count,
    /// length).
    ///
    /// # Errors
    /// [`Error::Degenerate`] if the noise has no spread.
    pub(super) fn basis(&self, count: usize) -> Result<Vec<f32>, Error> {
        let q = self.directions(count)?.transpose().qr().q();
        Ok(flatten(&q.transpose()))
    }

    /// The covariances after a linear map `rows` of shape (k, length).
    pub(super) fn through(&self, rows: &[f32]) -> PairCovariances {
        let n = self.mean.len();
        let map = DMatrix::from_row_iterator(rows.len() / n, n, rows.iter().map(|v| f64::from(*v)));
        PairCovariances {
            signal: &map * &self.signal * map.transpose(),
            noise: &map * &self.noise * map.transpose(),
            mean: &map * &self.mean,
        }
    }

    fn directions(&self, count: usize) -> Result<DMatrix<f64>, Error> {
        let lower = Cholesky::new(self.noise.clone()).ok_or(Error::Degenerate)?.l();
        let inverse = lower.clone().try_inverse().ok_or(Error::Degenerate)?;
        let whitened = &inverse * &self.signal * inverse.transpose();
        let (_, vectors) = largest_eigenvectors(0.5 * (&whitened + whitened.transpose()), count);
        let mut rows = vectors.transpose() * inverse;
        for mut row in rows.row_iter_mut() {
            // The sign of an eigenvector is arbitrary. It is fixed so that the file is the same on every
            // platform.
            if row.sum() < 0.0 {
                row.neg_mut();
            }
        }
        Ok(rows)
    }
}

fn vector(values: &[f32]) -> DVector<f64> {
    DVector::from_iterator(values.len(), values.iter().map(|v| f64::from(*v)))
}

fn shrink(matrix: DMatrix<f64>, share: f64) -> DMatrix<f64> {
    let n = matrix.nrows();
    let level = matrix.trace() / n as f64;
    matrix * (1.0 - share) + DMatrix::identity(n, n) * (share * level)
}

fn flatten(matrix: &DMatrix<f64>) -> Vec<f32> {
    matrix.row_iter().flat_map(|row| row.iter().map(|v| *v as f32).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of two numbers: the first separates videos, the second is loud noise.
    fn two() -> PairCovariances {
        let mut moments = PairStatistics::new(2);
        for video in 0..10 {
            let frames: Vec<[f32; 2]> = (0..4).map(|f| [video as f32, f as f32 * 3.0 - 4.5]).collect();
            moments.add_video(frames.iter().map(<[f32; 2]>::as_slice));
            for frame in &frames {
                moments.add_pair(frame, &[video as f32 + 0.1, 0.0]);
            }
        }
        moments.covariances().unwrap()
    }

    #[test]
    fn the_direction_with_less_noise_is_first() {
        let rows = two().discriminant(1).unwrap();
        assert!(rows[0].abs() > rows[1].abs(), "{rows:?}");
    }

    #[test]
    fn noise_is_white_in_the_fitted_space() {
        let covariances = two();
        let rows = covariances.discriminant(2).unwrap();
        let mapped = covariances.through(&rows);
        assert!((mapped.noise.clone() - DMatrix::identity(2, 2)).norm() < 1e-5, "{}", mapped.noise);
    }

    #[test]
    fn rejects_too_little_data_with_the_counts() {
        let error = PairStatistics::new(2).covariances().unwrap_err().to_string();
        assert!(error.contains("0 videos"), "{error}");
    }
}
