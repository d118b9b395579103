//! Training pairs from videos without labels: distorted frames against their clips.

use std::path::Path;

use super::discriminant::PairStatistics;
use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::encode::{self, Descriptor, Encoder};
use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable, Split};
use crate::ingest::{BATCH, FileError};
use crate::media::distort::Distortion;
use crate::media::{self, Frame, Limits, Tools};

/// Number of moments taken from each video.
const FRAMES: usize = 8;
/// Number of times each distortion is applied to a frame.
const ROUNDS: usize = 2;
/// Longer side of a frame before it is distorted, in pixels.
pub const MAX_SIDE: u32 = 640;

/// The descriptors of a video on the encoder's grid, with their times.
#[derive(Debug)]
pub struct DescribedVideo {
    /// Time of each descriptor, in milliseconds from the first frame.
    pub at_ms: Vec<u32>,
    /// Descriptor of each frame.
    pub frames: Vec<Descriptor>,
    /// Length of the video in milliseconds.
    pub duration_ms: u64,
}

/// Decodes and describes all frames of one video.
///
/// # Errors
/// As [`media::frames`] and [`Encoder::describe`].
pub fn describe(
    tools: &Tools,
    encoder: &dyn Encoder,
    path: &Path,
    cancel: &Cancel,
) -> Result<DescribedVideo, FileError> {
    let plan = encoder.info().sampling.plan(false);
    let mut stream = media::frames_without_gaps(tools, path, &plan, &Limits::default(), cancel)?;
    let (mut at_ms, mut frames, mut pictures) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(Frame { at_ms: at, picture }) = stream.next_frame()? {
        at_ms.push(at);
        pictures.push(picture);
        if pictures.len() == BATCH {
            frames.extend(encoder.describe(&pictures)?);
            pictures.clear();
        }
    }
    frames.extend(encoder.describe(&pictures)?);
    let summary = stream.finish()?;
    at_ms.iter_mut().for_each(|at| *at = summary.gaps.restored_ms(*at));
    let duration_ms = summary.duration_ms;
    Ok(DescribedVideo { at_ms, frames, duration_ms })
}

/// Times of `count` frames in milliseconds, spread over the video with seeded jitter; fewer if the video is
/// too short. The seed and `name` define the jitter.
pub fn times(duration_ms: u64, count: usize, seed: u64, name: &str) -> Vec<u32> {
    let mut random = Random::new(seed, name);
    let last = duration_ms.saturating_sub(1).min(u64::from(u32::MAX));
    let mut times: Vec<u32> = (0..count)
        .map(|i| {
            let share = (i as f64 + f64::from(random.between(0.0, 1.0))) / count as f64;
            (share * last as f64) as u32
        })
        .collect();
    times.dedup();
    times
}

/// A moment of a video: images that show it, distorted like images on the web, and clips that contain it.
#[derive(Debug)]
pub struct TrainingMoment {
    /// Clips of the encoder's length: the first is centred on the moment, the others are half a stride
    /// earlier and later.
    pub clips: Vec<Vec<Descriptor>>,
    /// The frame with each distortion. As in a search, plain borders are trimmed and mirrored frames are
    /// mirrored back.
    pub queries: Vec<Descriptor>,
}

/// Training data from one video.
#[derive(Debug)]
pub struct TrainingExample {
    /// All frames on the encoder's grid that are not flat.
    pub frames: Vec<Descriptor>,
    /// Up to 8 moments.
    pub moments: Vec<TrainingMoment>,
}

/// Takes 8 moments from one video and applies each distortion twice to the frame of each.
///
/// # Errors
/// As [`media::frames`] and [`Encoder::describe`].
pub fn example(
    tools: &Tools,
    encoder: &dyn Encoder,
    path: &Path,
    seed: u64,
    cancel: &Cancel,
) -> Result<TrainingExample, FileError> {
    let name = seed_name(path);
    let described = describe(tools, encoder, path, cancel)?;
    let mut moments = Vec::new();
    for at_ms in times(described.duration_ms, FRAMES, seed, &name) {
        let clips = clips(encoder, &described, at_ms);
        if clips.is_empty() {
            continue;
        }
        let picture = media::frame_at(tools, path, at_ms, MAX_SIDE, cancel)?;
        let mut random = Random::new(seed.wrapping_add(u64::from(at_ms)), &name);
        let distortions = Distortion::TRAINING.repeat(ROUNDS);
        let pictures: Vec<_> = distortions
            .iter()
            .map(|distortion| {
                let query = distortion.apply(&picture, &mut random);
                encode::fit(media::trim_borders(&query).unwrap_or(query.view()), &encoder.info().sampling)
            })
            .collect();
        let mut queries = Vec::new();
        for (distortion, descriptor) in distortions.iter().zip(encoder.describe(&pictures)?) {
            if !descriptor.is_flat() {
                let mirrored_back =
                    (*distortion == Distortion::Mirror).then(|| encoder.mirrored(&descriptor)).flatten();
                queries.push(mirrored_back.unwrap_or(descriptor));
            }
        }
        moments.push(TrainingMoment { clips, queries });
    }
    let frames = described.frames.into_iter().filter(|d| !d.is_flat()).collect();
    Ok(TrainingExample { frames, moments })
}

impl TrainingExample {
    /// Adds the example to the sums of the closed-form fit: its frames, and each query with the mean frame of
    /// its clip.
    pub(super) fn add_to(&self, statistics: &mut PairStatistics) {
        statistics.add_video(self.frames.iter().map(Descriptor::values));
        for moment in &self.moments {
            let clip = mean(&moment.clips[0]);
            for query in &moment.queries {
                statistics.add_pair(query.values(), &clip);
            }
        }
    }
}

/// Makes a feature set without labels from named examples. An image matches the clips of its moment. Every
/// moment is included as it is and, if the encoder can mirror descriptors, mirrored. A seeded share of the
/// videos is the validation split. `image` computes image features from a descriptor.
///
/// # Errors
/// As [`Encoder::clip`].
pub fn feature_set(
    examples: &[(String, TrainingExample)],
    encoder: &dyn Encoder,
    image: impl Fn(&Descriptor) -> Vec<f32>,
    held_out: f32,
    seed: u64,
) -> Result<FeatureSet, encode::Error> {
    let (mut images, mut clips) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (n, (name, example)) in examples.iter().enumerate() {
        // Names may repeat (cameras number their files alike). The number `n` makes them unique.
        let video = format!("{n}:{name}");
        let validate = Random::new(seed, &format!("split of {name}")).between(0.0, 1.0) < held_out;
        let split = if validate { Split::Val } else { Split::Train };
        for (i, moment) in example.moments.iter().enumerate() {
            for mirror in [false, true] {
                let view = |d: &Descriptor| if mirror { encoder.mirrored(d) } else { Some(d.clone()) };
                let moment_name = format!("{video}#{i}{}", if mirror { "m" } else { "" });
                let row = |k: usize| FeatureRow {
                    video: Some(video.clone()),
                    moment: Some(moment_name.clone()),
                    ..FeatureRow::new(format!("{moment_name}/{k}"), split)
                };
                for (k, query) in moment.queries.iter().enumerate() {
                    if let Some(query) = view(query) {
                        images.0.extend(image(&query));
                        images.1.push(row(k));
                    }
                }
                for (k, clip) in moment.clips.iter().enumerate() {
                    let frames: Vec<Descriptor> = clip.iter().filter_map(view).collect();
                    if let Some(features) = encoder.clip(&frames.iter().collect::<Vec<_>>())? {
                        clips.0.extend(features);
                        clips.1.push(row(k));
                    }
                }
            }
        }
    }
    let columns = |values: &Vec<f32>, rows: &Vec<FeatureRow>| values.len() / rows.len().max(1);
    let (image_len, clip_len) = (columns(&images.0, &images.1).max(1), columns(&clips.0, &clips.1).max(1));
    let table = |(values, rows), columns| FeatureTable { matrix: FeatureMatrix::new(values, columns), rows };
    Ok(FeatureSet { images: table(images, image_len), videos: table(clips, clip_len), labels: Vec::new() })
}

/// Clips around a time: one centred on it, then ones half a stride earlier and later, because the nearest row
/// of an index may be offset that far. Clips whose frames are all flat are left out.
fn clips(encoder: &dyn Encoder, described: &DescribedVideo, at_ms: u32) -> Vec<Vec<Descriptor>> {
    let centre = described.at_ms.partition_point(|t| *t <= at_ms).saturating_sub(1);
    let sampling = encoder.info().sampling;
    let length = sampling.frames_per_clip;
    let last = described.frames.len().saturating_sub(length);
    let shift = sampling.stride_frames / 2;
    let first = centre.saturating_sub(length / 2).min(last);
    let mut starts = vec![first];
    for start in [first.saturating_sub(shift), (first + shift).min(last)] {
        if !starts.contains(&start) {
            starts.push(start);
        }
    }
    let cut = |from: usize| described.frames[from..(from + length).min(described.frames.len())].to_vec();
    starts.into_iter().map(cut).filter(|clip| clip.iter().any(|d| !d.is_flat())).collect()
}

/// Mean of the frames that are not flat.
fn mean(clip: &[Descriptor]) -> Vec<f32> {
    let mut mean = vec![0f32; clip.first().map_or(0, |frame| frame.values().len())];
    let mut n = 0f32;
    for frame in clip.iter().filter(|f| !f.is_flat()) {
        n += 1.0;
        for (sum, value) in mean.iter_mut().zip(frame.values()) {
            *sum += value;
        }
    }
    mean.into_iter().map(|v| v / n.max(1.0)).collect()
}

/// The name that seeds the random choices for a file, made of the names of its folder and of the file.
pub fn seed_name(path: &Path) -> String {
    let parts: Vec<String> = path.iter().rev().take(2).map(|p| p.to_string_lossy().into_owned()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{LayoutEncoder, layout};

    #[test]
    fn times_are_seeded_sorted_and_inside_the_video() {
        let one = times(10_000, 5, 1, "a");
        assert_eq!(one, times(10_000, 5, 1, "a"));
        assert_ne!(one, times(10_000, 5, 2, "a"));
        assert!(one.is_sorted() && one.iter().all(|t| *t < 10_000));
        assert_eq!(times(1, 5, 1, "a"), [0]);
    }

    #[test]
    fn videos_of_the_same_name_stay_distinct() {
        use crate::media::Picture;
        let example = |shade: u8| {
            let rgb = (0..64 * 64 * 3).map(|i| (i as u8).wrapping_mul(shade)).collect();
            let frame = layout::describe(&Picture { width: 64, height: 64, rgb });
            assert!(!frame.is_flat());
            let moment = TrainingMoment { clips: vec![vec![frame.clone(); 8]], queries: vec![frame.clone()] };
            ("100CANON/MVI_0001.MP4".to_owned(), TrainingExample { frames: vec![frame], moments: vec![moment] })
        };
        let encoder = LayoutEncoder::embedded();
        let set = feature_set(&[example(3), example(7)], &encoder, |d| encoder.image(d).unwrap(), 0.0, 1).unwrap();
        let (image, other) = (&set.images.rows[0], &set.videos.rows[2]);
        assert_eq!(image.instance(), set.videos.rows[0].instance());
        assert_ne!(image.instance(), other.instance());
        assert_ne!(image.source(), other.source());
    }
}
