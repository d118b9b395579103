//! Training pairs from videos without labels: distorted frames against their clips.

use std::path::Path;

use crate::encode::{Descriptor, layout};
use crate::gmf::fit::Moments;
use crate::media::distort::Distortion;
use crate::media::{self, Cancel, Frame, Limits, Plan, Tools};
use crate::seeded::Random;

/// Frames taken of each video, and how often each is distorted each way.
const FRAMES: usize = 8;
const ROUNDS: usize = 2;
/// Longer side of a frame before it is distorted.
pub const MAX_SIDE: u32 = 640;

/// The descriptors of a video on the encoder's grid, with their times.
#[derive(Debug)]
pub struct Described {
    /// Milliseconds from the first frame, one for each descriptor.
    pub at_ms: Vec<u32>,
    /// What each frame looks like.
    pub frames: Vec<Descriptor>,
    /// Length of the video in milliseconds.
    pub duration_ms: u64,
}

/// Decodes and describes all frames of one video.
///
/// # Errors
/// As [`media::frames`].
pub fn describe(tools: &Tools, path: &Path, cancel: &Cancel) -> Result<Described, media::Error> {
    let sampling = layout::SAMPLING;
    let plan =
        Plan { rate_hz: sampling.rate_hz, width: sampling.width, height: sampling.height, keyframes_only: false };
    let mut stream = media::frames(tools, path, &plan, &Limits::default(), cancel)?;
    let (mut at_ms, mut frames) = (Vec::new(), Vec::new());
    while let Some(Frame { at_ms: at, picture }) = stream.next_frame()? {
        at_ms.push(at);
        frames.push(Descriptor::of(&picture));
    }
    let duration_ms = stream.finish()?.duration_ms;
    Ok(Described { at_ms, frames, duration_ms })
}

/// Times of `count` frames, spread over the video and jittered by the seed; fewer if it is too short.
pub fn times(duration_ms: u64, count: usize, seed: u64, name: &str) -> Vec<u32> {
    let mut random = Random::new(seed, name);
    let last = duration_ms.saturating_sub(1).min(u64::from(u32::MAX));
    let mut times: Vec<u32> = (0..count)
        .map(|i| {
            let place = (i as f64 + f64::from(random.between(0.0, 1.0))) / count as f64;
            (place * last as f64) as u32
        })
        .collect();
    times.dedup();
    times
}

/// Adds the pairs of one video to the sums: each of 8 frames, distorted twice in each of the 11 ways, against the mean frame of
/// its clip. Plain borders are trimmed and mirror images turned back, as a search does.
///
/// # Errors
/// As [`media::frames`]; nothing was added then.
pub fn add(
    moments: &mut Moments,
    tools: &Tools,
    path: &Path,
    seed: u64,
    cancel: &Cancel,
) -> Result<usize, media::Error> {
    let name = name(path);
    let described = describe(tools, path, cancel)?;
    let clean: Vec<&[f32]> = described.frames.iter().filter(|d| !d.is_flat()).map(Descriptor::values).collect();
    let mut pairs = Vec::new();
    for at_ms in times(described.duration_ms, FRAMES, seed, &name) {
        let Some(clip) = mean_clip(&described, at_ms) else { continue };
        let picture = media::frame_at(tools, path, at_ms, MAX_SIDE, cancel)?;
        let mut random = Random::new(seed.wrapping_add(u64::from(at_ms)), &name);
        for way in Distortion::ALL.repeat(ROUNDS) {
            let query = way.apply(&picture, &mut random);
            let query = media::trim_borders(&query).unwrap_or(query);
            let descriptor = Descriptor::of(&query);
            if descriptor.is_flat() {
                continue;
            }
            pairs.push((if way == Distortion::Mirror { descriptor.mirrored() } else { descriptor }, clip.clone()));
        }
    }
    moments.add_video(clean.into_iter());
    for (frame, clip) in &pairs {
        moments.add_pair(frame.values(), clip);
    }
    Ok(pairs.len())
}

/// The mean frame of the 2 s around a time.
fn mean_clip(described: &Described, at_ms: u32) -> Option<Vec<f32>> {
    let centre = described.at_ms.partition_point(|t| *t <= at_ms).saturating_sub(1);
    let half = layout::CLIP_FRAMES / 2;
    let from = centre.saturating_sub(half).min(described.frames.len().saturating_sub(layout::CLIP_FRAMES));
    let frames = &described.frames[from..(from + layout::CLIP_FRAMES).min(described.frames.len())];
    let mut mean = vec![0f32; layout::DESCRIPTOR_LEN];
    let mut n = 0f32;
    for frame in frames.iter().filter(|f| !f.is_flat()) {
        n += 1.0;
        for (sum, value) in mean.iter_mut().zip(frame.values()) {
            *sum += value;
        }
    }
    (n > 0.0).then(|| mean.into_iter().map(|v| v / n).collect())
}

/// The name that, with the seed, decides what happens to the frames of a file: its own and its folder's, wherever they lie.
pub fn name(path: &Path) -> String {
    let parts: Vec<String> = path.iter().rev().take(2).map(|p| p.to_string_lossy().into_owned()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seeded_ordered_and_inside() {
        let one = times(10_000, 5, 1, "a");
        assert_eq!(one, times(10_000, 5, 1, "a"));
        assert_ne!(one, times(10_000, 5, 2, "a"));
        assert!(one.is_sorted() && one.iter().all(|t| *t < 10_000));
        assert_eq!(times(1, 5, 1, "a"), [0]);
    }
}
