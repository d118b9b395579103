//! Turns the frames of one video into rows of the index.

use std::collections::VecDeque;

use reelseek_index::Span;

use super::FileError;
use crate::encode::{Descriptor, Encoder};
use crate::gmf::Folded;
use crate::media::Gaps;

/// Cosine from which a row counts as equal to the row before it and is merged with it, as in a still picture
/// or a slide. Rows of slowly moving scenes, a second apart, have lower cosines, so that their moments stay
/// short.
pub(super) const SAME_ROW: f32 = 0.9985;

/// The rows of one video.
#[derive(Debug, Default)]
pub struct VideoRows {
    /// Time span of each row.
    pub spans: Vec<Span>,
    /// Embeddings of the rows, concatenated.
    pub vectors: Vec<f32>,
    /// Sketches of the rows' middle frames, concatenated; empty if the index stores none.
    pub sketches: Vec<u8>,
}

/// A frame of the current clip.
struct ClipFrame {
    at_ms: u32,
    descriptor: Descriptor,
    sketch: Vec<u8>,
}

/// Joins frames, given in order of time, into clips and embeds each clip as a row.
pub struct ClipBuilder<'a> {
    encoder: &'a dyn Encoder,
    checkpoint: &'a Folded,
    /// Frames of the current clip.
    window: VecDeque<ClipFrame>,
    frames_per_clip: usize,
    stride: usize,
    /// Duration of a frame in milliseconds.
    frame_ms: u32,
    /// Frames that no row covers yet.
    uncovered: usize,
    rows: VideoRows,
}

impl<'a> ClipBuilder<'a> {
    /// For frames on the encoder's regular grid.
    pub fn regular(encoder: &'a dyn Encoder, checkpoint: &'a Folded) -> ClipBuilder<'a> {
        let sampling = encoder.info().sampling;
        ClipBuilder {
            encoder,
            checkpoint,
            window: VecDeque::new(),
            frames_per_clip: sampling.frames_per_clip,
            stride: sampling.stride_frames,
            frame_ms: (1000.0 / sampling.rate_hz) as u32,
            uncovered: 0,
            rows: VideoRows::default(),
        }
    }

    /// For keyframes, whose distances vary: each is a clip that lasts until the next keyframe.
    pub fn keyframes(encoder: &'a dyn Encoder, checkpoint: &'a Folded) -> ClipBuilder<'a> {
        ClipBuilder { frames_per_clip: 1, stride: 1, ..ClipBuilder::regular(encoder, checkpoint) }
    }

    /// Adds the next frame with its sketch (empty if the index stores none).
    ///
    /// # Errors
    /// If the encoder fails, or encoder and checkpoint do not fit together.
    pub fn push(&mut self, at_ms: u32, descriptor: Descriptor, sketch: Vec<u8>) -> Result<(), FileError> {
        if self.frames_per_clip == 1
            && let Some(last) = self.rows.spans.last_mut()
        {
            last.end_ms = last.end_ms.max(at_ms);
        }
        self.window.push_back(ClipFrame { at_ms, descriptor, sketch });
        self.uncovered += 1;
        if self.window.len() == self.frames_per_clip {
            self.emit()?;
            self.window.drain(..self.stride);
        }
        Ok(())
    }

    /// Restores the times of a video whose long gaps were shortened while it was decoded.
    pub fn restore_gaps(&mut self, gaps: &Gaps) {
        if gaps.is_empty() {
            return;
        }
        self.window.iter_mut().for_each(|frame| frame.at_ms = gaps.restored_ms(frame.at_ms));
        for span in &mut self.rows.spans {
            // A row ends one frame after the start of its last frame.
            let last_ms = gaps.restored_ms(span.end_ms.saturating_sub(self.frame_ms));
            let start_ms = gaps.restored_ms(span.start_ms);
            let end_ms = last_ms.saturating_add(self.frame_ms);
            *span = Span { start_ms, end_ms, at_ms: start_ms.midpoint(last_ms) };
        }
    }

    /// Ends the video at its length in milliseconds, which is also the end of the last keyframe. Frames that
    /// no row covers become a last row.
    ///
    /// # Errors
    /// As [`ClipBuilder::push`].
    pub fn finish(mut self, duration_ms: u64) -> Result<VideoRows, FileError> {
        if self.rows.spans.is_empty() && !self.window.is_empty() || self.uncovered > 0 {
            self.emit()?;
        }
        if self.frames_per_clip == 1
            && let Some(last) = self.rows.spans.last_mut()
        {
            last.end_ms = last.end_ms.max(u32::try_from(duration_ms).unwrap_or(last.end_ms));
        }
        Ok(self.rows)
    }

    fn emit(&mut self) -> Result<(), FileError> {
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else {
            return Ok(());
        };
        let (first, last) = (first.at_ms, last.at_ms);
        let span = Span { start_ms: first, end_ms: last.saturating_add(self.frame_ms), at_ms: first.midpoint(last) };
        self.uncovered = 0;
        let frames: Vec<&Descriptor> = self.window.iter().map(|frame| &frame.descriptor).collect();
        let vector = match self.encoder.clip(&frames)? {
            Some(features) => self.checkpoint.embed_video(&features)?,
            // All frames are flat: a row of zeros keeps the video in the index and matches nothing.
            None => vec![0.0; self.checkpoint.record.invariant],
        };
        let kept = self.rows.vectors.len().checked_sub(vector.len()).map(|from| &self.rows.vectors[from..]);
        if let (Some(kept), Some(previous)) = (kept, self.rows.spans.last_mut())
            && (reelseek_index::dot(kept, &vector) >= SAME_ROW || vector == kept)
        {
            previous.end_ms = span.end_ms;
            previous.at_ms = previous.start_ms.midpoint(span.end_ms.saturating_sub(self.frame_ms));
            return Ok(());
        }
        self.rows.spans.push(span);
        self.rows.vectors.extend_from_slice(&vector);
        if let Some(middle) = self.window.get((self.window.len() - 1) / 2) {
            self.rows.sketches.extend_from_slice(&middle.sketch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{LayoutEncoder, layout};
    use crate::media::Picture;

    fn noise(seed: u32) -> Descriptor {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let rgb = (0..64 * 64 * 3)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        layout::describe(&Picture { width: 64, height: 64, rgb })
    }

    fn rows(frames: impl Iterator<Item = Descriptor>) -> VideoRows {
        let (encoder, checkpoint) = (LayoutEncoder::embedded(), Folded::embedded());
        let mut builder = ClipBuilder::regular(&encoder, &checkpoint);
        for (i, frame) in frames.enumerate() {
            builder.push(i as u32 * 250, frame, Vec::new()).unwrap();
        }
        builder.finish(0).unwrap()
    }

    #[test]
    fn makes_a_row_a_second_and_covers_the_last_frames() {
        let rows = rows((0..42).map(noise));
        assert_eq!(rows.spans.len(), 10);
        assert_eq!(rows.spans[0], Span { start_ms: 0, end_ms: 2000, at_ms: 875 });
        assert_eq!(rows.spans[1].start_ms, 1000);
        assert_eq!(rows.spans[9].end_ms, 42 * 250);
        assert_eq!(rows.vectors.len(), 10 * 128);
    }

    #[test]
    fn merges_a_still_hour_to_one_row() {
        let rows = rows((0..14_400).map(|_| noise(1)));
        assert_eq!(rows.spans.len(), 1);
        assert_eq!((rows.spans[0].start_ms, rows.spans[0].end_ms), (0, 3_600_000));
    }

    #[test]
    fn rows_of_a_shortened_gap_are_those_of_the_gap() {
        let (encoder, checkpoint) = (LayoutEncoder::embedded(), Folded::embedded());
        // Frame 59 is displayed for some minutes.
        let rows = |length: u32, gaps: Option<&Gaps>, keyframes: bool| {
            let mut builder = match keyframes {
                true => ClipBuilder::keyframes(&encoder, &checkpoint),
                false => ClipBuilder::regular(&encoder, &checkpoint),
            };
            for frame in 0..60 + length + 60 {
                let seed = if frame < 60 + length { frame.min(59) / 3 } else { (frame - length) * 7 };
                builder.push(frame * 250, noise(seed), Vec::new()).unwrap();
            }
            gaps.into_iter().for_each(|gaps| builder.restore_gaps(gaps));
            builder.finish(1240 * 250).unwrap()
        };
        for keyframes in [false, true] {
            let whole = rows(1120, None, keyframes);
            // The frame after the gap is number 1,180. Of the gap, 992 frames are removed.
            let short = rows(1120 - 992, Some(&Gaps::new(4.0, vec![(1180 - 992 - 60, 992)])), keyframes);
            assert_eq!((&whole.spans[..], &whole.vectors), (&short.spans[..], &short.vectors));
        }
    }

    #[test]
    fn makes_one_row_of_one_frame_and_zeros_of_black_frames() {
        assert_eq!(rows(std::iter::once(noise(4))).spans.len(), 1);
        let black = layout::describe(&Picture { width: 4, height: 4, rgb: vec![0; 48] });
        let rows = rows(std::iter::repeat_n(black, 30));
        assert_eq!(rows.spans.len(), 1);
        assert!(rows.vectors.iter().all(|v| *v == 0.0));
    }

    #[test]
    fn keyframes_last_until_the_next_keyframe() {
        let (encoder, checkpoint) = (LayoutEncoder::embedded(), Folded::embedded());
        let mut builder = ClipBuilder::keyframes(&encoder, &checkpoint);
        for (i, at) in [0, 700, 5000].into_iter().enumerate() {
            builder.push(at, noise(i as u32), Vec::new()).unwrap();
        }
        let spans = builder.finish(9000).unwrap().spans;
        assert_eq!(
            spans.iter().map(|s| (s.start_ms, s.end_ms)).collect::<Vec<_>>(),
            [(0, 700), (700, 5000), (5000, 9000)]
        );
    }
}
