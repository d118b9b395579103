//! Maps fitted in closed form on the frames of videos: where training on videos starts, and what an encoder is searched with that has no checkpoint.

use std::path::{Path, PathBuf};

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::encode::{self, Descriptor, Encoder};
use crate::gmf::fit::{Covariances, Error};
use crate::gmf::{Affine, Config, ConfigError, Folded, Weights};
use crate::media::{self, Cancel, Limits, Picture, Plan, Tools};

/// Length of the shared space.
pub const LENGTH: usize = 128;

/// The checkpoint around `frame`, a map from a descriptor (after `projection`, for images) to the shared space: for an image that map, for a clip the same of the mean of its frames.
///
/// * `image`: (outputs, image length), on image features;
/// * `projection`: image features from descriptors, if not the descriptors themselves: `Q (f - mean)`.
///
/// # Errors
/// [`ConfigError`] if no model has these lengths.
pub fn around(encoder: &dyn Encoder, image: &Affine, projection: &Affine) -> Result<Folded, ConfigError> {
    let about = encoder.about();
    let (outputs, descriptor) = (image.bias.len(), projection.inputs());
    let config = Config::image_video(image.inputs(), about.clip_len)?;
    // From a descriptor to the shared space.
    let (first, second) = (matrix(projection), matrix(image));
    let frame = &second * &first;
    let shift =
        &second * DMatrix::from_iterator(projection.bias.len(), 1, projection.bias.iter().map(|x| f64::from(*x)));
    let share = 1.0 / about.mean_at.len() as f64;
    let mut weight = vec![0f32; outputs * about.clip_len];
    for (row, out) in frame.row_iter().zip(weight.chunks_exact_mut(about.clip_len)) {
        for at in &about.mean_at {
            out[*at..at + descriptor].iter_mut().zip(row.iter()).for_each(|(w, f)| *w = (f * share) as f32);
        }
    }
    let bias = shift.iter().zip(&image.bias).map(|(s, b)| *s as f32 + b).collect();
    let record = Weights::record(&config, &about.id, serde_json::Value::Null);
    Ok(Folded::new(image.clone(), Affine { weight, bias }, record))
}

/// `Q (f - mean)`, with the `count` directions that tell videos apart best as rows of `Q`, orthonormal.
///
/// # Errors
/// As [`Covariances::basis`].
pub fn projection(covariances: &Covariances, count: usize) -> Result<Affine, Error> {
    let (weight, mean) = (covariances.basis(count)?, covariances.mean());
    let bias =
        weight.chunks_exact(mean.len()).map(|row| -row.iter().zip(&mean).map(|(q, m)| q * m).sum::<f32>()).collect();
    Ok(Affine { weight, bias })
}

/// [`principal`] of at most `frames` frames of each of at most `videos` videos, spread over them. Videos that cannot be decoded are passed over.
///
/// # Errors
/// [`OfVideos`]: no two frames could be decoded, the encoder fails, or it was stopped.
pub fn of_videos(
    tools: &Tools,
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    (videos, frames): (usize, usize),
    cancel: &Cancel,
) -> Result<Folded, OfVideos> {
    let step = paths.len().div_ceil(videos).max(1);
    let mut described: Vec<Vec<Descriptor>> = Vec::new();
    for path in paths.iter().step_by(step) {
        // Keyframes will do, and cost little. A short video has few, and costs little otherwise.
        let mut pictures = pictures(tools, encoder, path, true, cancel);
        if pictures.len() < frames / 2 {
            pictures = self::pictures(tools, encoder, path, false, cancel);
        }
        if cancel.is_set() {
            return Err(OfVideos::Cancelled);
        }
        let step = pictures.len().div_ceil(frames).max(1);
        let some: Vec<Picture> = pictures.into_iter().step_by(step).collect();
        let mut descriptors = encoder.describe(&some)?;
        descriptors.retain(|descriptor| !descriptor.is_flat());
        if !descriptors.is_empty() {
            described.push(descriptors);
        }
    }
    let frames = described.iter().map(Vec::len).sum();
    if frames < 2 {
        return Err(OfVideos::TooFew { videos: paths.len(), frames });
    }
    Ok(principal(encoder, &described)?)
}

/// Frames of one video, [`SAMPLE_HZ`] of its start, as many as can be decoded.
fn pictures(tools: &Tools, encoder: &dyn Encoder, path: &Path, keyframes: bool, cancel: &Cancel) -> Vec<Picture> {
    let plan = Plan { rate_hz: SAMPLE_HZ, ..encoder.about().sampling.plan(keyframes) };
    let most = if keyframes { MOST_PICTURES } else { MOST_DECODED };
    let mut pictures = Vec::new();
    if let Ok(mut stream) = media::frames(tools, path, &plan, &Limits::default(), cancel) {
        while let Ok(Some(frame)) = stream.next_frame() {
            // A keyframe stands until the next.
            if pictures.last() != Some(&frame.picture) {
                pictures.push(frame.picture);
            }
            if pictures.len() == most {
                break;
            }
        }
    }
    pictures
}

/// Frames a second that are looked at, and how many of them are kept of one video.
const SAMPLE_HZ: f64 = 1.0;
const MOST_PICTURES: usize = 512;
/// The same, where all frames are decoded and not keyframes only.
const MOST_DECODED: usize = 60;

/// Why no checkpoint could be fitted to videos.
#[derive(Debug, thiserror::Error)]
pub enum OfVideos {
    /// Too few frames.
    #[error(
        "no checkpoint can be fitted: {frames} frames of {videos} videos could be decoded, and 2 are needed; name videos, or a --checkpoint"
    )]
    TooFew {
        /// Videos named.
        videos: usize,
        /// Frames that show something.
        frames: usize,
    },
    /// Stopped by wish.
    #[error("stopped before anything was indexed")]
    Cancelled,
    /// The encoder failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// No model has these lengths.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The first principal directions of descriptors (of what images become, if that is something else) about their mean, each video weighing the same, however many it has, [`LENGTH`] of them at most: their cosine is that of centred descriptors, nearly.
///
/// # Errors
/// [`ConfigError`] if no model has the encoder's lengths.
pub fn principal(encoder: &dyn Encoder, videos: &[Vec<Descriptor>]) -> Result<Folded, ConfigError> {
    let length = encoder.about().image_len;
    let mut rows: Vec<(f64, Vec<f32>)> = Vec::new();
    for video in videos {
        let shown = video.iter().filter(|descriptor| !descriptor.is_flat());
        let weight = 1.0 / (shown.clone().count().max(1) * videos.len()) as f64;
        rows.extend(shown.map(|descriptor| (weight, encoder.image(descriptor))));
    }
    let mut x = DMatrix::from_fn(length, rows.len(), |i, j| f64::from(rows[j].1[i]));
    let mean = &x * DVector::from_iterator(rows.len(), rows.iter().map(|(weight, _)| *weight));
    for (mut column, (weight, _)) in x.column_iter_mut().zip(&rows) {
        column -= &mean;
        column *= weight.sqrt();
    }
    // Of few descriptors the small product tells the same directions.
    let directions = if rows.len() < length {
        let eigen = SymmetricEigen::new(x.tr_mul(&x));
        let mut directions = &x * eigen.eigenvectors;
        for (mut column, value) in directions.column_iter_mut().zip(eigen.eigenvalues.iter()) {
            column /= value.max(0.0).sqrt().max(1e-12);
        }
        sorted(&directions, eigen.eigenvalues.as_slice())
    } else {
        let eigen = SymmetricEigen::new(&x * x.transpose());
        sorted(&eigen.eigenvectors, eigen.eigenvalues.as_slice())
    };
    let count = LENGTH.min(length);
    let mut weight = vec![0f32; count * length];
    for (column, out) in directions.column_iter().zip(weight.chunks_exact_mut(length)) {
        let sign = if column.sum() < 0.0 { -1.0 } else { 1.0 };
        out.iter_mut().zip(column.iter()).for_each(|(w, v)| *w = (v * sign) as f32);
    }
    let bias =
        weight.chunks_exact(length).map(|row| -row.iter().zip(mean.iter()).map(|(w, m)| w * *m as f32).sum::<f32>());
    let bias = bias.collect();
    let projection = Affine { weight, bias };
    let unit = Affine { weight: identity(count), bias: vec![0.0; count] };
    let folded = around(encoder, &unit, &projection)?;
    let record = folded.record.projected(Some(projection));
    Ok(Folded::new(folded.image, folded.video, record))
}

fn sorted(vectors: &DMatrix<f64>, values: &[f64]) -> DMatrix<f64> {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let mut order: Vec<usize> = (0..values.len()).filter(|i| values[*i] > 1e-9 * largest).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(LENGTH);
    vectors.select_columns(&order)
}

fn identity(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect()
}

fn matrix(map: &Affine) -> DMatrix<f64> {
    DMatrix::from_row_iterator(map.bias.len(), map.inputs(), map.weight.iter().map(|x| f64::from(*x)))
}
