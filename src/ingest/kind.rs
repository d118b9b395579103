//! Rows of the kind space: some frames of a video, described by a learned encoder.
//!
//! A network costs far more than the decoding of a frame. So of the frames on the grid of the scene space, a
//! frame is described only if the picture has changed since the last described one, and at most one a second.
//! A cut is followed by a described frame; a still scene has one.

use reelseek_index::Span;

use super::FileError;
use super::clips::{SAME_ROW, VideoRows};
use super::work::{BATCH, ProbeFrame, SpaceRows};
use crate::collection::Model;
use crate::encode::Descriptor;
use crate::media::{Gaps, Picture};

/// Least time between two described frames.
const INTERVAL_MS: u32 = 1000;
/// Sides of the small copies of frames that are compared.
const SMALL: u32 = 16;
/// Mean difference of two frames in grey levels from which the picture has changed.
const CHANGED: u32 = 4;
/// Weight of the mean of a video's frames in each of its rows. The mean shows what the video is about, also
/// where a single frame shows little of it.
const CONTEXT: f32 = 0.5;

/// Chooses the frames that are described.
#[derive(Debug, Default)]
struct FrameChooser {
    /// Time and small copy of the last chosen frame.
    last: Option<(u32, Vec<u8>)>,
}

impl FrameChooser {
    /// Whether this frame is described. Frames are offered in order of time.
    fn chooses(&mut self, at_ms: u32, picture: &Picture) -> bool {
        let small = || {
            let small = picture.resize(SMALL, SMALL);
            (0..SMALL * SMALL).map(|i| small.luma(i % SMALL, i / SMALL)).collect::<Vec<u8>>()
        };
        let new = match &self.last {
            Some((last_ms, _)) if at_ms < last_ms.saturating_add(INTERVAL_MS) => return false,
            Some((_, last)) => {
                let small = small();
                let difference: u32 = small.iter().zip(last).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                if difference < CHANGED * SMALL * SMALL {
                    return false;
                }
                small
            }
            None => small(),
        };
        self.last = Some((at_ms, new));
        true
    }
}

/// Makes the rows of one video.
pub(super) struct KindBuilder<'a> {
    model: &'a Model,
    chooser: FrameChooser,
    /// Chosen frames that are not described yet.
    waiting: Vec<(u32, Picture)>,
    /// Time and embedding of each described frame; no embedding if it is flat.
    described: Vec<(u32, Option<Vec<f32>>)>,
    probe: ProbeFrame,
}

impl<'a> KindBuilder<'a> {
    pub(super) fn new(model: &'a Model) -> KindBuilder<'a> {
        KindBuilder {
            model,
            chooser: FrameChooser::default(),
            waiting: Vec::with_capacity(BATCH),
            described: Vec::new(),
            probe: ProbeFrame::default(),
        }
    }

    /// Adds the next frame in two sizes: `small` decides whether the frame is described, `picture` has the
    /// size that the encoder takes.
    ///
    /// # Errors
    /// If the encoder fails, or encoder and checkpoint do not fit together.
    pub(super) fn push(&mut self, at_ms: u32, small: &Picture, picture: Picture) -> Result<(), FileError> {
        if self.chooser.chooses(at_ms, small) {
            self.waiting.push((at_ms, picture));
        }
        if self.waiting.len() == BATCH { self.describe() } else { Ok(()) }
    }

    fn describe(&mut self) -> Result<(), FileError> {
        let (times, pictures): (Vec<u32>, Vec<Picture>) = self.waiting.drain(..).unzip();
        if pictures.is_empty() {
            return Ok(());
        }
        for (at_ms, descriptor) in times.into_iter().zip(self.model.encoder.describe(&pictures)?) {
            self.probe.offer(&descriptor);
            let embedding = self.embed(&descriptor)?;
            self.described.push((at_ms, embedding));
        }
        Ok(())
    }

    fn embed(&self, descriptor: &Descriptor) -> Result<Option<Vec<f32>>, FileError> {
        let features = self.model.encoder.clip(&[descriptor])?;
        Ok(features.map(|features| self.model.checkpoint.embed_video(&features)).transpose()?)
    }

    /// Ends the video at its length in milliseconds. A row lasts until the next described frame.
    ///
    /// # Errors
    /// As [`KindBuilder::push`].
    pub(super) fn finish(mut self, gaps: &Gaps, duration_ms: u64) -> Result<SpaceRows, FileError> {
        self.describe()?;
        let times: Vec<u32> = self.described.iter().map(|(at_ms, _)| gaps.restored_ms(*at_ms)).collect();
        let last_ms = times.last().map_or(0, |last| u32::try_from(duration_ms).unwrap_or(u32::MAX).max(*last));
        let mean = mean(self.described.iter().filter_map(|(_, embedding)| embedding.as_deref()));
        let mut rows = VideoRows::default();
        let mut before: Option<&Vec<f32>> = None;
        for (i, (_, embedding)) in self.described.iter().enumerate() {
            let (at_ms, end_ms) = (times[i], times.get(i + 1).copied().unwrap_or(last_ms));
            let Some(embedding) = embedding else {
                before = None;
                continue;
            };
            let same = before.is_some_and(|before| reelseek_index::dot(before, embedding) >= SAME_ROW);
            match rows.spans.last_mut().filter(|_| same) {
                Some(last) => last.end_ms = end_ms,
                None => {
                    rows.spans.push(Span { start_ms: at_ms, end_ms, at_ms });
                    rows.vectors.extend(in_context(embedding, &mean));
                }
            }
            before = Some(embedding);
        }
        let probe = self.probe.embed(self.model.encoder.as_ref(), &self.model.checkpoint)?;
        Ok(SpaceRows { rows, probe })
    }
}

/// The mean of unit vectors, scaled to length 1; empty for no vectors.
fn mean<'v>(vectors: impl Iterator<Item = &'v [f32]>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for vector in vectors {
        sum.resize(vector.len(), 0.0);
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
    }
    unit(sum)
}

/// A frame's embedding with its share of the mean of the video, scaled to length 1.
fn in_context(embedding: &[f32], mean: &[f32]) -> Vec<f32> {
    unit(embedding.iter().zip(mean).map(|(x, mean)| x + CONTEXT * mean).collect())
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 1e-12 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grey picture with a bright square at this place, in a number of pixels.
    fn picture(place: u32) -> Picture {
        let bright = |x: u32, y: u32| (place * 5..place * 5 + 24).contains(&x) && (20..44).contains(&y);
        let rgb = (0..64 * 64).flat_map(|i| [if bright(i % 64, i / 64) { 220 } else { 60 }; 3]).collect();
        Picture { width: 64, height: 64, rgb }
    }

    fn chosen(frames: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut chooser = FrameChooser::default();
        let frames = (0..).step_by(250).zip(frames);
        frames.filter(|(at_ms, place)| chooser.chooses(*at_ms, &picture(*place))).map(|(at_ms, _)| at_ms).collect()
    }

    #[test]
    fn a_still_scene_has_one_frame_and_a_cut_has_the_next() {
        assert_eq!(chosen([3; 4000]), [0]);
        // Cuts 3 s and 3.5 s after the start. The second shot is shorter than a second.
        let cuts = [[1; 12].as_slice(), &[4; 2], &[7; 8]].concat();
        assert_eq!(chosen(cuts), [0, 3000, 4000]);
    }

    #[test]
    fn a_moving_scene_has_a_frame_a_second() {
        let times = chosen((0..41).map(|i| if i % 2 == 0 { i % 7 } else { 7 - i % 5 }));
        assert!(times.len() > 5 && times.windows(2).all(|pair| pair[1] - pair[0] >= 1000), "{times:?}");
    }

    #[test]
    fn rows_point_towards_the_mean_of_their_video() {
        let (a, b) = ([1.0, 0.0], [0.0, 1.0]);
        let mean = mean([&a[..], &b[..]].into_iter());
        let row = in_context(&a, &mean);
        assert!((row[0] * row[0] + row[1] * row[1] - 1.0).abs() < 1e-6 && row[0] > row[1] && row[1] > 0.2, "{row:?}");
        assert_eq!(in_context(&[0.0, 0.0], &[0.0, 0.0]), [0.0, 0.0]);
    }
}
