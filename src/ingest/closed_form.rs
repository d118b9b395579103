//! The default checkpoint of encoders that have no trained one: maps that are fitted in closed form to frames
//! of the videos to index.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use serde::{Deserialize, Serialize};

use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::encode::{self, Encoder, registry};
use crate::gmf::{Affine, CheckpointRecord, ConfigError, Folded, GmfConfig};
use crate::media::{self, DecodePlan, Limits, Picture, Tools};

/// Length of the shared space.
pub const LENGTH: usize = 128;

/// A checkpoint that embeds a clip as the mean of its frames. `projection` maps a descriptor to image
/// features, `image` maps image features to the shared space. The mean of a clip's descriptors passes both
/// maps.
///
/// # Errors
/// [`ConfigError`] if no model has these lengths.
pub fn mean_of_frames(encoder: &dyn Encoder, image: &Affine, projection: &Affine) -> Result<Folded, ConfigError> {
    let about = encoder.info();
    let (outputs, descriptor) = (image.bias.len(), projection.inputs());
    let config = GmfConfig::image_video(image.inputs(), about.clip_len)?;
    // From a descriptor to the shared space.
    let (first, second) = (matrix(projection), matrix(image));
    let frame = &second * &first;
    let shift =
        &second * DMatrix::from_iterator(projection.bias.len(), 1, projection.bias.iter().map(|x| f64::from(*x)));
    let share = 1.0 / about.mean_offsets.len() as f64;
    let mut weight = vec![0f32; outputs * about.clip_len];
    for (row, out) in frame.row_iter().zip(weight.chunks_exact_mut(about.clip_len)) {
        for at in &about.mean_offsets {
            out[*at..at + descriptor].iter_mut().zip(row.iter()).for_each(|(w, f)| *w = (f * share) as f32);
        }
    }
    let bias = shift.iter().zip(&image.bias).map(|(s, b)| *s as f32 + b).collect();
    let record = CheckpointRecord::new(&config, &about.id, serde_json::Value::Null);
    Ok(Folded::new(image.clone(), Affine { weight, bias }, record))
}

/// The checkpoint of an encoder of ordered features: embeds a picture as its first [`LENGTH`] features, and a
/// clip as the mean of its frames. Nothing is fitted.
///
/// # Errors
/// [`ConfigError`] if no model has the encoder's lengths.
pub fn leading(encoder: &dyn Encoder) -> Result<Folded, ConfigError> {
    let length = encoder.info().image_len;
    let count = LENGTH.min(length);
    let mut weight = vec![0f32; count * length];
    weight.chunks_exact_mut(length).enumerate().for_each(|(i, row)| row[i] = 1.0);
    let projection = Affine { weight, bias: vec![0.0; count] };
    let folded = mean_of_frames(encoder, &Affine::identity(count), &projection)?;
    let training = serde_json::json!({ "start": "first features" });
    let record = CheckpointRecord { training, ..folded.record }.projected(Some(projection));
    Ok(Folded::new(folded.image, folded.video, record))
}

/// Progress of [`of_videos`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FitEvent {
    /// The fit starts.
    Started {
        /// Name of the encoder.
        encoder: String,
    },
    /// Frames of more videos are described.
    Described {
        /// Name of the encoder.
        encoder: String,
        /// Number of finished videos.
        done: usize,
        /// Number of videos of the sample.
        of: usize,
    },
    /// The sample is too small for a full fit, see [`principal`].
    TooFewVideos {
        /// Name of the encoder.
        encoder: String,
        /// The sample.
        sample: FitSample,
        /// Least number of videos of a fit.
        min_videos: usize,
        /// Least number of distinct frames of a fit.
        min_frames: usize,
    },
}

impl std::fmt::Display for FitEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FitEvent::Started { encoder } => write!(f, "fitting a checkpoint for {encoder} to frames of these videos"),
            FitEvent::Described { encoder, done, of } => {
                write!(f, "fitting a checkpoint for {encoder}: {done} of {of} videos described")
            }
            FitEvent::TooFewVideos { encoder, sample, min_videos, min_frames } => write!(
                f,
                "{} videos with {} distinct frames are too few to fit a checkpoint ({min_videos} videos with {min_frames} \
                 frames are needed): {encoder} will separate kinds less well",
                sample.videos, sample.frames
            ),
        }
    }
}

/// Fits [`principal`] to frames of at most 256 videos, evenly chosen from `paths`: 16 frames of each, fewer
/// for a slow encoder. Skips videos that cannot be decoded.
///
/// # Errors
/// [`FitError`] if no frame can be decoded, the encoder fails, or `cancel` is set.
pub fn of_videos(
    tools: &Tools,
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    cancel: &Cancel,
    mut on_event: impl FnMut(&FitEvent),
) -> Result<Folded, FitError> {
    let name = &encoder.info().name;
    let step = paths.len().div_ceil(MAX_VIDEOS).max(1);
    let chosen = paths.len().div_ceil(step);
    let frames = (max_frames(encoder) / chosen.max(1)).clamp(1, FRAMES);
    let mut features: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut last_event = Instant::now();
    for (i, path) in paths.iter().step_by(step).enumerate() {
        // Keyframes suffice and are cheap. A short video has few keyframes, and decoding all its frames is
        // cheap.
        let mut pictures = pictures(tools, encoder, path, true, cancel);
        if pictures.len() < frames / 2 {
            pictures = self::pictures(tools, encoder, path, false, cancel);
        }
        let step = pictures.len().div_ceil(frames).max(1);
        // A single frame is taken from the middle, because many videos start alike.
        let chosen_pictures: Vec<Picture> =
            pictures.into_iter().skip(if frames == 1 { step / 2 } else { 0 }).step_by(step).collect();
        let mut rows = Vec::new();
        for batch in chosen_pictures.chunks(BATCH) {
            for descriptor in encoder.describe(batch)?.iter().filter(|descriptor| !descriptor.is_flat()) {
                if cancel.is_set() {
                    return Err(FitError::Cancelled);
                }
                rows.push(encoder.image(descriptor)?);
            }
        }
        if cancel.is_set() {
            return Err(FitError::Cancelled);
        }
        if !rows.is_empty() {
            features.push(rows);
        }
        if last_event.elapsed() >= EVENT_INTERVAL {
            on_event(&FitEvent::Described { encoder: name.clone(), done: i + 1, of: chosen });
            last_event = Instant::now();
        }
    }
    if features.is_empty() {
        return Err(FitError::NoFrames { videos: paths.len() });
    }
    let sample = FitSample { videos: features.len(), frames: distinct(&features), of: paths.len() };
    if !sample.is_sufficient() {
        let (encoder, min_videos, min_frames) = (name.clone(), MIN_VIDEOS, MIN_FRAMES);
        on_event(&FitEvent::TooFewVideos { encoder, sample, min_videos, min_frames });
    }
    Ok(principal(encoder, &features, sample)?)
}

/// The sample that a map was fitted to. The checkpoint's record contains it as `fitted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitSample {
    /// Videos of the sample.
    pub videos: usize,
    /// Distinct frames of the sample.
    pub frames: usize,
    /// Videos that the sample was drawn from.
    pub of: usize,
}

impl FitSample {
    /// The sample in a checkpoint's record, if [`principal`] made the checkpoint.
    pub fn recorded_in(record: &CheckpointRecord) -> Option<FitSample> {
        FitSample::deserialize(record.training.get("fitted")?).ok()
    }

    /// Whether the sample is large enough for a full fit. The mean of few videos mostly shows those videos,
    /// so centring would remove their content; and n directions need n frames.
    fn is_sufficient(&self) -> bool {
        self.videos >= MIN_VIDEOS && self.frames >= MIN_FRAMES
    }

    /// Whether an index of this many videos has outgrown the sample.
    pub fn is_outgrown(&self, videos: usize) -> bool {
        videos >= OUTGROWN * self.of.max(1)
    }
}

/// Largest number of videos in a sample.
const MAX_VIDEOS: usize = 256;
/// Largest number of frames of a video in a sample.
const FRAMES: usize = 16;
/// Least number of videos of a fit.
const MIN_VIDEOS: usize = 8;
/// Least number of distinct frames of a fit.
const MIN_FRAMES: usize = LENGTH;
/// Growth factor by which an index outgrows the sample of its map.
const OUTGROWN: usize = 10;
/// Operations that describing a sample may cost: one to two minutes on two cores.
const BUDGET: f64 = 20e12;
/// Assumed operations per image of an encoder that is not in the registry.
const DEFAULT_FLOPS: f64 = 10e9;
/// Pictures described between two checks for cancellation.
const BATCH: usize = 8;
/// Time between two progress events.
const EVENT_INTERVAL: Duration = Duration::from_secs(10);

/// Largest number of frames in a sample. The encoder's cost limits it, and the cost of the eigenvectors,
/// which grows with the cube of the number of frames or of the length, whichever is smaller.
fn max_frames(encoder: &dyn Encoder) -> usize {
    let about = encoder.info();
    let flops = registry::entry(&about.name).map_or(DEFAULT_FLOPS, |entry| entry.flops);
    let limit = if about.image_len > 1536 { 1024 } else { MAX_VIDEOS * FRAMES };
    ((BUDGET / flops) as usize).clamp(2 * MIN_FRAMES, limit)
}

/// Number of distinct rows.
fn distinct(videos: &[Vec<Vec<f32>>]) -> usize {
    let bits = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    videos.iter().flatten().map(bits).collect::<HashSet<Vec<u32>>>().len()
}

/// Frames from the start of one video at [`SAMPLE_HZ`], as many as can be decoded.
fn pictures(tools: &Tools, encoder: &dyn Encoder, path: &Path, keyframes: bool, cancel: &Cancel) -> Vec<Picture> {
    let plan = DecodePlan { rate_hz: SAMPLE_HZ, ..encoder.info().sampling.plan(keyframes) };
    let limit = if keyframes { MAX_KEYFRAMES } else { MAX_DECODED };
    let mut pictures = Vec::new();
    if let Ok(mut stream) = media::frames_without_gaps(tools, path, &plan, &Limits::default(), cancel) {
        while let Ok(Some(frame)) = stream.next_frame() {
            // A keyframe is repeated until the next one.
            if pictures.last() != Some(&frame.picture) {
                pictures.push(frame.picture);
            }
            if pictures.len() == limit {
                break;
            }
        }
    }
    pictures
}

/// Sampled frames per second.
const SAMPLE_HZ: f64 = 1.0;
/// Largest number of frames of one video if only keyframes are decoded.
const MAX_KEYFRAMES: usize = 512;
/// Largest number of frames of one video if all frames are decoded.
const MAX_DECODED: usize = 60;

/// Why no checkpoint was fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// No frame of the videos could be decoded, or all frames are flat.
    #[error("no checkpoint can be fitted: {videos} videos have no decodable frame that is not flat")]
    NoFrames {
        /// Number of videos.
        videos: usize,
    },
    /// Cancelled.
    #[error("stopped before anything was indexed")]
    Cancelled,
    /// The encoder failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// No model has these lengths.
    #[error(transparent)]
    GmfConfig(#[from] ConfigError),
}

/// A checkpoint that maps image features to their first principal directions about the mean, at most
/// [`LENGTH`] of them. Every video has the same weight, for any number of frames. The cosine in these
/// directions is nearly the cosine of centred features.
///
/// If the sample is too small, features are not centred. Up to half of the directions are those of the
/// sample; the others are seeded random directions, which keep cosines within a few hundredths (Johnson and
/// Lindenstrauss, 1984). The first videos then do not determine how later videos are compared.
///
/// # Errors
/// [`ConfigError`] if no model has the encoder's lengths.
pub fn principal(encoder: &dyn Encoder, videos: &[Vec<Vec<f32>>], sample: FitSample) -> Result<Folded, ConfigError> {
    let length = encoder.info().image_len;
    let mut rows: Vec<(f64, &[f32])> = Vec::new();
    for video in videos {
        let weight = 1.0 / (video.len().max(1) * videos.len()) as f64;
        rows.extend(video.iter().map(|row| (weight, row.as_slice())));
    }
    let mut x = DMatrix::from_fn(length, rows.len(), |i, j| f64::from(rows[j].1[i]));
    let mut mean = &x * DVector::from_iterator(rows.len(), rows.iter().map(|(weight, _)| *weight));
    if !sample.is_sufficient() {
        mean.fill(0.0);
    }
    for (mut column, (weight, _)) in x.column_iter_mut().zip(&rows) {
        column -= &mean;
        column *= weight.sqrt();
    }
    let count = LENGTH.min(length);
    let fitted = if sample.is_sufficient() { count } else { count / 2 };
    let directions = filled(directions(&x, fitted), count);
    let mut weight = vec![0f32; count * length];
    for (column, out) in directions.column_iter().zip(weight.chunks_exact_mut(length)) {
        let sign = if column.sum() < 0.0 { -1.0 } else { 1.0 };
        out.iter_mut().zip(column.iter()).for_each(|(w, v)| *w = (v * sign) as f32);
    }
    let mean: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    let projection = Affine::centred(weight, &mean);
    let folded = mean_of_frames(encoder, &Affine::identity(count), &projection)?;
    let start =
        if sample.is_sufficient() { "principal directions" } else { "random directions beside those of few videos" };
    let training = serde_json::json!({ "start": start, "fitted": sample });
    let record = CheckpointRecord { training, ..folded.record }.projected(Some(projection));
    Ok(Folded::new(folded.image, folded.video, record))
}

/// The `count` strongest principal directions of the columns, or as many as exist.
fn directions(x: &DMatrix<f64>, count: usize) -> DMatrix<f64> {
    // For few columns, the smaller product has the same directions.
    if x.ncols() < x.nrows() {
        let eigen = SymmetricEigen::new(x.tr_mul(x));
        let mut directions = x * eigen.eigenvectors;
        for (mut column, value) in directions.column_iter_mut().zip(eigen.eigenvalues.iter()) {
            column /= value.max(0.0).sqrt().max(1e-12);
        }
        sorted(&directions, eigen.eigenvalues.as_slice(), count)
    } else {
        let eigen = SymmetricEigen::new(x * x.transpose());
        sorted(&eigen.eigenvectors, eigen.eigenvalues.as_slice(), count)
    }
}

/// Extends orthonormal columns to `count` columns with seeded random columns that are orthogonal to all
/// others. The random columns are scaled so that, on average, a vector orthogonal to the given columns keeps
/// its length.
fn filled(directions: DMatrix<f64>, count: usize) -> DMatrix<f64> {
    let (length, known) = directions.shape();
    let missing = count.saturating_sub(known);
    if missing == 0 {
        return directions;
    }
    let mut random = Random::new(0, "directions");
    let mut all = directions.resize_horizontally(count, 0.0);
    for i in known..count {
        let mut column = DVector::from_fn(length, |_, _| f64::from(random.between(-1.0, 1.0)));
        // Orthogonalised twice, because one pass leaves rounding errors.
        for _ in 0..2 {
            let before = all.columns(0, i);
            let along = before.tr_mul(&column);
            column -= before * along;
        }
        all.set_column(i, &column.normalize());
    }
    let scale = ((length - known) as f64 / missing as f64).sqrt();
    all.columns_mut(known, missing).scale_mut(scale);
    all
}

fn sorted(vectors: &DMatrix<f64>, values: &[f64], count: usize) -> DMatrix<f64> {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let mut order: Vec<usize> = (0..values.len()).filter(|i| values[*i] > 1e-9 * largest).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    vectors.select_columns(&order)
}

fn matrix(map: &Affine) -> DMatrix<f64> {
    DMatrix::from_row_iterator(map.bias.len(), map.inputs(), map.weight.iter().map(|x| f64::from(*x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Descriptor, EncoderInfo, Sampling};
    use crate::media::Fit;

    const INPUTS: usize = 400;

    #[derive(Debug)]
    struct Plain(EncoderInfo);

    impl Encoder for Plain {
        fn info(&self) -> &EncoderInfo {
            &self.0
        }

        fn describe(&self, _: &[Picture]) -> Result<Vec<Descriptor>, encode::Error> {
            Ok(Vec::new())
        }

        fn clip(&self, _: &[&Descriptor]) -> Result<Option<Vec<f32>>, encode::Error> {
            Ok(None)
        }
    }

    fn plain(name: &str, length: usize) -> Plain {
        let fit = Fit::Squeeze { width: 8, height: 8, filter: media::Filter::Bilinear };
        let sampling = Sampling { rate_hz: 1.0, frames_per_clip: 4, stride_frames: 2, width: 8, height: 8, fit };
        Plain(EncoderInfo {
            name: name.to_owned(),
            id: format!("{name}/1"),
            image_len: length,
            clip_len: 3 * length,
            descriptor_len: length,
            sampling,
            same_scene: false,
            ordered: false,
            mean_offsets: vec![0],
        })
    }

    /// Features of `frames` similar frames: of length 1 and not negative, like activations.
    fn video(length: usize, seed: u64, frames: usize) -> Vec<Vec<f32>> {
        let mut random = Random::new(seed, "video");
        let scene: Vec<f32> = (0..length).map(|_| random.between(0.0, 1.0).powi(4)).collect();
        let unit = |mut row: Vec<f32>| {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
            row
        };
        (0..frames).map(|_| unit(scene.iter().map(|x| x + random.between(0.0, 0.1)).collect())).collect()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    fn fit(length: usize, videos: &[Vec<Vec<f32>>]) -> Folded {
        let sample = FitSample { videos: videos.len(), frames: distinct(videos), of: videos.len() };
        principal(&plain("plain", length), videos, sample).unwrap()
    }

    #[test]
    fn a_single_video_does_not_determine_how_later_videos_compare() {
        let first = video(INPUTS, 1, 2);
        let folded = fit(INPUTS, std::slice::from_ref(&first));
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        // The cosine of the sample's own frames is exact, that of other frames is approximate.
        assert!((cosine(&embed(&first[0]), &embed(&first[1])) - cosine(&first[0], &first[1])).abs() < 1e-4);
        for seed in 2..12 {
            let [a, b] = [seed, seed + 100].map(|seed| video(INPUTS, seed, 1).remove(0));
            let off = cosine(&embed(&a), &embed(&b)) - cosine(&a, &b);
            assert!(off.abs() < 0.2 && cosine(&embed(&a), &embed(&b)) < 0.9, "{off}");
        }
        assert_eq!(FitSample::recorded_in(&folded.record), Some(FitSample { videos: 1, frames: 2, of: 1 }));
    }

    #[test]
    fn short_features_keep_their_cosines() {
        let first = video(100, 1, 2);
        let folded = fit(100, &[first]);
        let [a, b] = [2, 3].map(|seed| video(100, seed, 1).remove(0));
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        assert!((cosine(&embed(&a), &embed(&b)) - cosine(&a, &b)).abs() < 1e-4);
    }

    #[test]
    fn centres_a_sufficient_sample() {
        let videos: Vec<_> = (0..10).map(|seed| video(INPUTS, seed, 16)).collect();
        let folded = fit(INPUTS, &videos);
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        let (same, other) = (
            cosine(&embed(&videos[0][0]), &embed(&videos[0][1])),
            cosine(&embed(&videos[0][0]), &embed(&videos[1][0])),
        );
        assert!(same > 0.95 && other < 0.2, "{same} {other}");
        assert_eq!(folded.record.training["start"], "principal directions");
        assert_eq!(FitSample::recorded_in(&folded.record), Some(FitSample { videos: 10, frames: 160, of: 10 }));
    }

    #[test]
    fn copies_do_not_count_as_frames() {
        let few = video(INPUTS, 1, 4);
        let videos = vec![few; 40];
        assert_eq!(distinct(&videos), 4);
        assert_ne!(fit(INPUTS, &videos).record.training["start"], "principal directions");
    }

    #[test]
    fn a_slow_encoder_samples_fewer_frames() {
        assert_eq!(max_frames(&plain("mobilenet-v2", 1280)), 4096);
        let c3d = max_frames(&plain("c3d", 4096));
        assert!((256..300).contains(&c3d), "{c3d}");
        assert!(max_frames(&plain("onnx:mine", 4096)) <= 1024);
    }

    #[test]
    fn an_index_outgrows_its_sample() {
        let sample = FitSample { videos: 3, frames: 40, of: 3 };
        assert!(!sample.is_outgrown(29) && sample.is_outgrown(30));
    }
}
