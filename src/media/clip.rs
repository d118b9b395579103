//! What a search asks for: one picture, or some frames of an animation or a video.
//!
//! Frames of one plain colour, as at the start of a fade-in, and frames that look like the one before are
//! passed over.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use super::ffmpeg::{Limits, Tools, sample};
use super::image::{MAX_FILE_BYTES, OpenedPicture, PictureLimits, animation, read_within};
use super::{CropBox, CropError, Error, Frame, Picture, sniff};
use crate::base::files::{FileReadError, open_regular, read_at_most};
use crate::base::{Cancel, ErrorPaths};

/// Most frames of one query.
const MAX_FRAMES: usize = 8;
/// The longer side of a frame of an animation or a video. Larger frames are shrunk.
const MAX_SIDE: u32 = 960;
/// Sides of the small copies of frames that are compared.
const SMALL: u32 = 16;
/// Mean difference of a frame from its mean colour, in grey levels, below which it is plain.
const PLAIN: u32 = 3;
/// Mean difference of two frames, in grey levels, below which they look alike.
const ALIKE: u32 = 2;
/// Bytes at the start of a file that show what it is.
const HEAD_BYTES: u64 = 4096;
/// Longest time of one run of ffmpeg.
const TIME: Duration = Duration::from_secs(20);
/// Least memory for ffmpeg.
const FFMPEG_BYTES: u64 = 64_000_000;
/// Memory of the frames that are kept at once.
const KEPT_BYTES: u64 = 2 * MAX_FRAMES as u64 * (MAX_SIDE as u64 * MAX_SIDE as u64 * 3);

/// The frames of one query, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryFrames {
    /// A picture has one frame, at time 0. Of an animation or a video there are at most eight.
    pub frames: Vec<Frame>,
    /// Set if the file is damaged, so that a part of the picture is missing.
    pub warning: Option<&'static str>,
}

impl QueryFrames {
    /// Width and height of the frames.
    pub fn size(&self) -> [u32; 2] {
        self.frames.first().map_or([0; 2], |frame| [frame.picture.width, frame.picture.height])
    }

    /// Cuts the same part out of each frame. Returns it with the position of its upper left corner.
    ///
    /// # Errors
    /// As [`CropBox::within`].
    pub fn cut(mut self, crop: CropBox) -> Result<(QueryFrames, [u32; 2]), CropError> {
        let mut at = [0; 2];
        for frame in &mut self.frames {
            let picture = Picture { rgb: std::mem::take(&mut frame.picture.rgb), ..frame.picture };
            (frame.picture, at) = crop.cut(picture)?;
        }
        Ok((self, at))
    }
}

impl From<OpenedPicture> for QueryFrames {
    fn from(OpenedPicture { picture, warning }: OpenedPicture) -> QueryFrames {
        QueryFrames { frames: vec![Frame { at_ms: 0, picture }], warning }
    }
}

/// Reads a picture, an animation or a video from a file. A video may have any size: ffmpeg reads parts of it.
/// Else as [`super::open`].
///
/// # Errors
/// As [`read_frames`], and [`Error::Io`] and [`Error::NotAFile`].
pub fn open_frames(path: &Path) -> Result<QueryFrames, Error> {
    let limits = PictureLimits::default();
    let io = |reason| Error::io(path, reason);
    let (file, meta) = open_regular(path).map_err(|error| Error::unread(path, error))?;
    let mut bytes = Vec::new();
    (&file).take(HEAD_BYTES).read_to_end(&mut bytes).map_err(io)?;
    if sniff::is_video(&bytes) {
        return video(path, path, &limits, &Cancel::default());
    }
    let room = MAX_FILE_BYTES.saturating_sub(bytes.len() as u64);
    if meta.len() > MAX_FILE_BYTES {
        let error = FileReadError::TooLarge { found: meta.len(), max: MAX_FILE_BYTES };
        return Err(Error::unread(path, error));
    }
    bytes.extend(read_at_most(file, room).map_err(|error| Error::unread(path, error))?);
    let limits = PictureLimits { bytes: limits.bytes.saturating_sub(bytes.len() as u64), ..limits };
    read_frames(&bytes, path, &limits, &Cancel::default())
}

/// Reads a picture, an animation or a video from the bytes of its file, until the work is cancelled. The
/// bytes of a video are written to a temporary file for ffmpeg. Else as [`super::image::read_within`].
///
/// # Errors
/// As [`super::image::read_within`]; [`Error::is_undecodable`] holds if a video has no frames;
/// [`Error::NeedsFfmpeg`], [`Error::Limit`] and [`Error::Killed`] for a video.
pub fn read_frames(
    bytes: &[u8],
    name: impl AsRef<Path>,
    limits: &PictureLimits,
    cancel: &Cancel,
) -> Result<QueryFrames, Error> {
    let name = name.as_ref();
    let is_sequence = sniff::is_sequence(bytes);
    if is_sequence || sniff::is_video(bytes) {
        match video_of_bytes(bytes, name, limits, cancel) {
            // The file has a still too.
            Err(error) if is_sequence && error.is_undecodable() => {}
            outcome => return outcome,
        }
    }
    let frame_limits = PictureLimits { bytes: limits.bytes.saturating_sub(KEPT_BYTES), ..*limits };
    let mut sampler = FrameSampler::default();
    let frames = animation(bytes, name, &frame_limits, cancel, &mut |frame| _ = sampler.add(frame))?;
    match frames {
        // A picture keeps its size.
        0 | 1 => read_within(bytes, name, limits, cancel).map(QueryFrames::from),
        _ => Ok(QueryFrames { frames: sampler.finish(), warning: None }),
    }
}

fn video_of_bytes(bytes: &[u8], name: &Path, limits: &PictureLimits, cancel: &Cancel) -> Result<QueryFrames, Error> {
    let failed = |reason| Error::io(&std::env::temp_dir(), reason);
    let mut file = tempfile::Builder::new().prefix("reelseek-").tempfile().map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    video(file.path(), name, limits, cancel)
}

/// Some frames of a video. Errors name it `name`.
fn video(path: &Path, name: &Path, limits: &PictureLimits, cancel: &Cancel) -> Result<QueryFrames, Error> {
    let limits = Limits {
        max_pixels: limits.pixels,
        wall: TIME,
        stall: TIME,
        data_bytes: limits.bytes.saturating_sub(KEPT_BYTES).max(FFMPEG_BYTES),
        ..Limits::default()
    };
    let mut sampler = FrameSampler::default();
    let outcome = sample(&Tools::unchecked(), path, MAX_SIDE, &limits, cancel, &mut |frame| sampler.add(frame));
    match outcome {
        // What was decoded before a limit is enough.
        Err(Error::Limit { .. }) if !sampler.kept.is_empty() && !cancel.is_set() => {}
        outcome => outcome.map_err(|error| renamed(error, name))?,
    }
    let frames = sampler.finish();
    match frames.is_empty() {
        true => Err(Error::undecodable(name, "it has no video frames".to_owned())),
        false => Ok(QueryFrames { frames, warning: None }),
    }
}

/// The error with the name of the query instead of that of the file which ffmpeg read.
fn renamed(error: Error, name: &Path) -> Error {
    let name = name.to_owned();
    match error {
        Error::NoFfmpeg { program, reason } => {
            let reason = format!("cannot start {} ({reason})", program.display());
            Error::NeedsFfmpeg { name, what: "a video", reason }
        }
        Error::Undecodable { reason, .. } if reason.contains("not found for input stream") => {
            let reason = "the one that was found lacks the decoder for it".to_owned();
            Error::NeedsFfmpeg { name, what: "a video", reason }
        }
        mut error => {
            error.paths_mut().into_iter().for_each(|path| path.clone_from(&name));
            error
        }
    }
}

/// A frame and a small copy of it.
#[derive(Debug)]
struct SampledFrame {
    frame: Frame,
    small: Vec<u8>,
}

/// Chooses some frames of a sequence of any length. It keeps at most twice as many as it returns: when there
/// are more, it drops every second one and takes fewer from there on.
#[derive(Debug, Default)]
struct FrameSampler {
    kept: Vec<SampledFrame>,
    /// The first frame, while all frames are plain.
    plain: Option<Frame>,
    /// Least time between two frames.
    gap_ms: u32,
}

impl FrameSampler {
    /// Adds a frame, unless it is passed over. Returns the number of frames that are kept.
    fn add(&mut self, mut frame: Frame) -> usize {
        let early = |last: &SampledFrame| frame.at_ms < last.frame.at_ms.saturating_add(self.gap_ms);
        if self.kept.last().is_some_and(early) {
            return self.kept.len();
        }
        let longer = frame.picture.width.max(frame.picture.height);
        if longer > MAX_SIDE {
            let side = |side: u32| (u64::from(side) * u64::from(MAX_SIDE) / u64::from(longer)) as u32;
            frame.picture = frame.picture.resize(side(frame.picture.width), side(frame.picture.height));
        }
        let small = frame.picture.resize(SMALL, SMALL).rgb;
        if is_plain(&small) {
            if self.kept.is_empty() {
                self.plain.get_or_insert(frame);
            }
            return self.kept.len();
        }
        if self.kept.last().is_none_or(|last| difference(&last.small, &small) >= ALIKE * small.len() as u32) {
            self.kept.push(SampledFrame { frame, small });
        }
        if self.kept.len() == 2 * MAX_FRAMES {
            let mut is_odd = true;
            self.kept.retain(|_| {
                is_odd = !is_odd;
                !is_odd
            });
            let length = |kept: &[SampledFrame]| Some(kept.last()?.frame.at_ms - kept.first()?.frame.at_ms);
            self.gap_ms = length(&self.kept).unwrap_or(0) / MAX_FRAMES as u32;
        }
        self.kept.len()
    }

    /// The chosen frames: at least one if there was any.
    fn finish(self) -> Vec<Frame> {
        let count = self.kept.len();
        if count == 0 {
            return self.plain.into_iter().collect();
        }
        let chosen = count.min(MAX_FRAMES);
        let mut frames: Vec<Option<Frame>> = self.kept.into_iter().map(|kept| Some(kept.frame)).collect();
        (0..chosen).filter_map(|i| frames[i * count / chosen].take()).collect()
    }
}

/// Whether a small picture has one plain colour.
fn is_plain(small: &[u8]) -> bool {
    let pixels = small.as_chunks::<3>().0;
    let count = pixels.len().max(1) as u32;
    (0..3).all(|channel| {
        let values = pixels.iter().map(|pixel| u32::from(pixel[channel]));
        let mean = values.clone().sum::<u32>() / count;
        values.map(|value| value.abs_diff(mean)).sum::<u32>() < PLAIN * count
    })
}

fn difference(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with a bright square at a place.
    fn frame(at_ms: u32, place: Option<u32>) -> Frame {
        let bright = |x: u32, y: u32| place.is_some_and(|place| x / 8 == place % 8 && y / 8 == place / 8 % 8);
        let rgb = (0..64 * 64).flat_map(|i| [if bright(i % 64, i / 64) { 250 } else { 8 }; 3]).collect();
        Frame { at_ms, picture: Picture { width: 64, height: 64, rgb } }
    }

    fn times(frames: impl IntoIterator<Item = Frame>) -> Vec<u32> {
        let mut sampler = FrameSampler::default();
        frames.into_iter().for_each(|frame| _ = sampler.add(frame));
        sampler.finish().iter().map(|frame| frame.at_ms).collect()
    }

    #[test]
    fn plain_frames_are_passed_over_unless_there_are_no_others() {
        let fade_in = (0..30).map(|i| frame(i * 40, None)).chain([frame(1200, Some(3)), frame(1240, Some(4))]);
        assert_eq!(times(fade_in), [1200, 1240]);
        assert_eq!(times((0..5).map(|i| frame(i, None))), [0]);
        assert_eq!(times([]), [0_u32; 0]);
    }

    #[test]
    fn frames_that_look_alike_are_passed_over() {
        assert_eq!(times((0..100).map(|i| frame(i, Some(i / 50)))), [0, 50]);
    }

    #[test]
    fn a_long_sequence_is_sampled_from_its_start_to_its_end() {
        let chosen = times((0..3000).map(|i| frame(i * 100, Some(i * 7))));
        assert_eq!(chosen.len(), MAX_FRAMES);
        assert!(chosen[0] == 0 && chosen[MAX_FRAMES - 1] > 200_000, "{chosen:?}");
        assert!(chosen.windows(2).all(|pair| (10_000..80_000).contains(&(pair[1] - pair[0]))), "{chosen:?}");
    }

    #[test]
    fn large_frames_of_a_sequence_are_shrunk() {
        let mut sampler = FrameSampler::default();
        let rgb = (0..4000 * 10 * 3).map(|i| (i % 251) as u8).collect();
        sampler.add(Frame { at_ms: 0, picture: Picture { width: 4000, height: 10, rgb } });
        let frames = sampler.finish();
        assert_eq!((frames[0].picture.width, frames[0].picture.height), (MAX_SIDE, 2));
    }
}
