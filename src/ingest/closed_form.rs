//! Maps fitted in closed form on the frames of videos: where training on videos starts, and what an encoder is searched with that has no checkpoint.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use serde::{Deserialize, Serialize};

use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::encode::{self, Encoder, registry};
use crate::gmf::fit::{Covariances, Error};
use crate::gmf::{Affine, Config, ConfigError, Folded, Record, Weights};
use crate::media::{self, Limits, Picture, Plan, Tools};

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

/// [`principal`] of frames of at most 256 videos, spread over them: 16 of each, fewer where the encoder is slow. Videos that cannot be decoded are passed over. `tell` hears
/// how far it is, and of a sample too small to fit anything to.
///
/// # Errors
/// [`OfVideos`]: no frame could be decoded, the encoder fails, or it was stopped.
pub fn of_videos(
    tools: &Tools,
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    cancel: &Cancel,
    mut tell: impl FnMut(&str),
) -> Result<Folded, OfVideos> {
    let name = &encoder.about().name;
    let step = paths.len().div_ceil(MOST_VIDEOS).max(1);
    let chosen = paths.len().div_ceil(step);
    let frames = (most_frames(encoder) / chosen.max(1)).clamp(1, FRAMES);
    let mut features: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut told = Instant::now();
    for (i, path) in paths.iter().step_by(step).enumerate() {
        // Keyframes will do, and cost little. A short video has few, and costs little otherwise.
        let mut pictures = pictures(tools, encoder, path, true, cancel);
        if pictures.len() < frames / 2 {
            pictures = self::pictures(tools, encoder, path, false, cancel);
        }
        let step = pictures.len().div_ceil(frames).max(1);
        // One alone is taken from the middle: many videos begin alike.
        let some: Vec<Picture> =
            pictures.into_iter().skip(if frames == 1 { step / 2 } else { 0 }).step_by(step).collect();
        let mut rows = Vec::new();
        for few in some.chunks(TOGETHER) {
            for descriptor in encoder.describe(few)?.iter().filter(|descriptor| !descriptor.is_flat()) {
                if cancel.is_set() {
                    return Err(OfVideos::Cancelled);
                }
                rows.push(encoder.image(descriptor)?);
            }
        }
        if cancel.is_set() {
            return Err(OfVideos::Cancelled);
        }
        if !rows.is_empty() {
            features.push(rows);
        }
        if told.elapsed() >= TELL_EVERY {
            tell(&format!("fitting a checkpoint for {name}: {} of {chosen} videos looked at", i + 1));
            told = Instant::now();
        }
    }
    if features.is_empty() {
        return Err(OfVideos::TooFew { videos: paths.len() });
    }
    let fitted = Fitted { videos: features.len(), frames: distinct(&features), of: paths.len() };
    if !fitted.holds_up() {
        tell(&format!(
            "{} videos with {} distinct frames say too little of what others will show: nothing is fitted to them, and {name} will tell kinds apart less well; index at least {MIN_VIDEOS} videos with {MIN_FRAMES} frames at once, into another folder, or name a --checkpoint",
            fitted.videos, fitted.frames
        ));
    }
    Ok(principal(encoder, &features, fitted)?)
}

/// What a map was fitted to; it stands in the checkpoint's record, as `fitted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitted {
    /// Videos that were looked at.
    pub videos: usize,
    /// Different frames of them.
    pub frames: usize,
    /// Videos that they were drawn from.
    pub of: usize,
}

impl Fitted {
    /// What a checkpoint says of its fit, if it was made here.
    pub fn of(record: &Record) -> Option<Fitted> {
        Fitted::deserialize(record.training.get("fitted")?).ok()
    }

    /// Whether a map can go by it. The mean of few videos is in large part each one's own, so that centring takes away what they show; and as many directions
    /// as there are to be found need as many frames.
    fn holds_up(&self) -> bool {
        self.videos >= MIN_VIDEOS && self.frames >= MIN_FRAMES
    }

    /// Whether an index of so many videos has left it behind.
    pub fn is_outgrown(&self, videos: usize) -> bool {
        videos >= OUTGROWN * self.of.max(1)
    }
}

/// Videos, and frames of each, that are looked at.
const MOST_VIDEOS: usize = 256;
const FRAMES: usize = 16;
/// Least videos and different frames that a map is fitted to.
const MIN_VIDEOS: usize = 8;
const MIN_FRAMES: usize = LENGTH;
/// Growth of an index from which its map is called old.
const OUTGROWN: usize = 10;
/// Operations that a sample may cost: a minute or two on two cores.
const BUDGET: f64 = 20e12;
/// What an encoder that the registry does not know is held to cost an image.
const USUAL: f64 = 10e9;
/// Pictures described between two looks at whether to stop.
const TOGETHER: usize = 8;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Frames that may be looked at: by the encoder's cost, and by that of the eigenvectors, which goes by the smaller of frames and length, cubed.
fn most_frames(encoder: &dyn Encoder) -> usize {
    let about = encoder.about();
    let flops = registry::entry(&about.name).map_or(USUAL, |entry| entry.flops);
    let most = if about.image_len > 1536 { 1024 } else { MOST_VIDEOS * FRAMES };
    ((BUDGET / flops) as usize).clamp(2 * MIN_FRAMES, most)
}

/// How many different rows there are.
fn distinct(videos: &[Vec<Vec<f32>>]) -> usize {
    let bits = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    videos.iter().flatten().map(bits).collect::<HashSet<Vec<u32>>>().len()
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
    /// No frame at all.
    #[error(
        "no checkpoint can be fitted: no frame of {videos} videos could be decoded that shows something; name videos, or a --checkpoint"
    )]
    TooFew {
        /// Videos named.
        videos: usize,
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

/// The first principal directions of image features about their mean, each video weighing the same, however many it has, [`LENGTH`] of them at most: their cosine is
/// that of centred features, nearly.
///
/// Of a sample too small to tell others by, what it shows itself is kept, and of all else a seeded random projection, which keeps cosines within some hundredths
/// (Johnson and Lindenstrauss, 1984), without any mean taken off: the first video decides nothing for those that come later.
///
/// # Errors
/// [`ConfigError`] if no model has the encoder's lengths.
pub fn principal(encoder: &dyn Encoder, videos: &[Vec<Vec<f32>>], fitted: Fitted) -> Result<Folded, ConfigError> {
    let length = encoder.about().image_len;
    let mut rows: Vec<(f64, &[f32])> = Vec::new();
    for video in videos {
        let weight = 1.0 / (video.len().max(1) * videos.len()) as f64;
        rows.extend(video.iter().map(|row| (weight, row.as_slice())));
    }
    let mut x = DMatrix::from_fn(length, rows.len(), |i, j| f64::from(rows[j].1[i]));
    let mut mean = &x * DVector::from_iterator(rows.len(), rows.iter().map(|(weight, _)| *weight));
    if !fitted.holds_up() {
        mean.fill(0.0);
    }
    for (mut column, (weight, _)) in x.column_iter_mut().zip(&rows) {
        column -= &mean;
        column *= weight.sqrt();
    }
    let count = LENGTH.min(length);
    let known = if fitted.holds_up() { count } else { count / 2 };
    let directions = filled(directions(&x, known), count);
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
    let start = if fitted.holds_up() { "principal directions" } else { "random directions beside those of few videos" };
    let training = serde_json::json!({ "start": start, "fitted": fitted });
    let record = Record { training, ..folded.record }.projected(Some(projection));
    Ok(Folded::new(folded.image, folded.video, record))
}

/// The `count` strongest principal directions of columns, or as many as there are.
fn directions(x: &DMatrix<f64>, count: usize) -> DMatrix<f64> {
    // Of few columns the small product tells the same directions.
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

/// Orthonormal columns, and seeded random ones beside them up to `count`, orthogonal to all; these as long as makes the length of what they stand for right on the whole.
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
        // Twice: once leaves what rounding left.
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

fn identity(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect()
}

fn matrix(map: &Affine) -> DMatrix<f64> {
    DMatrix::from_row_iterator(map.bias.len(), map.inputs(), map.weight.iter().map(|x| f64::from(*x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{About, Descriptor, Sampling};
    use crate::media::Fit;

    const INPUTS: usize = 400;

    #[derive(Debug)]
    struct Plain(About);

    impl Encoder for Plain {
        fn about(&self) -> &About {
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
        Plain(About {
            name: name.to_owned(),
            id: format!("{name}/1"),
            image_len: length,
            clip_len: 3 * length,
            descriptor_len: length,
            sampling,
            same_scene: false,
            mean_at: vec![0],
        })
    }

    /// Features of length 1, none of them negative, as those of activations are: of `frames` frames that look alike.
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
        let fitted = Fitted { videos: videos.len(), frames: distinct(videos), of: videos.len() };
        principal(&plain("plain", length), videos, fitted).unwrap()
    }

    #[test]
    fn a_first_video_of_two_frames_decides_nothing_for_later_ones() {
        let first = video(INPUTS, 1, 2);
        let folded = fit(INPUTS, std::slice::from_ref(&first));
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        // What it shows itself is kept to the last digit, what others show nearly.
        assert!((cosine(&embed(&first[0]), &embed(&first[1])) - cosine(&first[0], &first[1])).abs() < 1e-4);
        for seed in 2..12 {
            let [a, b] = [seed, seed + 100].map(|seed| video(INPUTS, seed, 1).remove(0));
            let off = cosine(&embed(&a), &embed(&b)) - cosine(&a, &b);
            assert!(off.abs() < 0.2 && cosine(&embed(&a), &embed(&b)) < 0.9, "{off}");
        }
        assert_eq!(Fitted::of(&folded.record), Some(Fitted { videos: 1, frames: 2, of: 1 }));
    }

    #[test]
    fn what_is_short_enough_is_kept_whole() {
        let first = video(100, 1, 2);
        let folded = fit(100, &[first]);
        let [a, b] = [2, 3].map(|seed| video(100, seed, 1).remove(0));
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        assert!((cosine(&embed(&a), &embed(&b)) - cosine(&a, &b)).abs() < 1e-4);
    }

    #[test]
    fn enough_videos_are_centred() {
        let videos: Vec<_> = (0..10).map(|seed| video(INPUTS, seed, 16)).collect();
        let folded = fit(INPUTS, &videos);
        let embed = |row: &[f32]| folded.embed_image(row).unwrap();
        let (same, other) = (
            cosine(&embed(&videos[0][0]), &embed(&videos[0][1])),
            cosine(&embed(&videos[0][0]), &embed(&videos[1][0])),
        );
        assert!(same > 0.95 && other < 0.2, "{same} {other}");
        assert_eq!(folded.record.training["start"], "principal directions");
        assert_eq!(Fitted::of(&folded.record), Some(Fitted { videos: 10, frames: 160, of: 10 }));
    }

    #[test]
    fn copies_are_no_more_frames() {
        let few = video(INPUTS, 1, 4);
        let videos = vec![few; 40];
        assert_eq!(distinct(&videos), 4);
        assert_ne!(fit(INPUTS, &videos).record.training["start"], "principal directions");
    }

    #[test]
    fn a_slow_encoder_looks_at_fewer_frames() {
        assert_eq!(most_frames(&plain("mobilenet-v2", 1280)), 4096);
        let c3d = most_frames(&plain("c3d", 4096));
        assert!((256..300).contains(&c3d), "{c3d}");
        assert!(most_frames(&plain("onnx:mine", 4096)) <= 1024);
    }

    #[test]
    fn an_index_outgrows_what_it_was_fitted_to() {
        let fitted = Fitted { videos: 3, frames: 40, of: 3 };
        assert!(!fitted.is_outgrown(29) && fitted.is_outgrown(30));
    }
}
