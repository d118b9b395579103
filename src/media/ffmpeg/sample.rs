//! Some frames of a video, for a search with it. A short video is decoded once. In a longer one ffmpeg jumps
//! to keyframes, so that the time does not depend on the length.

use std::path::Path;
use std::process::Command;

use super::child::Child;
use super::{Frame, Limits, Tools, input_from, readable, time_ms, within};
use crate::base::Cancel;
use crate::media::{Error, Picture};

/// Videos up to this length are decoded as a whole.
const SHORT_MS: u64 = 8000;
/// The same for a video with few different keyframes.
const MEDIUM_MS: u64 = 60_000;
/// Frames per second of a short video, and of a longer one.
const SHORT_HZ: f64 = 4.0;
const MEDIUM_HZ: f64 = 0.5;
/// Number of places that are looked at in a longer video.
const PLACES: u64 = 8;
/// Different frames below which the keyframes of a video are too few.
const FEW: usize = 3;
/// The longest head of a PPM picture that ffmpeg writes.
const MAX_HEAD_BYTES: usize = 64;

/// Passes frames from the whole length of a video to `take`, with a longer side of at most `max_side` pixels.
/// `take` returns the number of frames that it keeps.
///
/// # Errors
/// [`Error::is_undecodable`] holds if there is no frame. Else as [`super::frames`].
pub(in crate::media) fn sample(
    tools: &Tools,
    path: &Path,
    max_side: u32,
    limits: &Limits,
    cancel: &Cancel,
    take: &mut dyn FnMut(Frame) -> usize,
) -> Result<(), Error> {
    readable(path)?;
    let sampling = VideoSampling { tools, path, max_side, limits, cancel };
    let Some(duration_ms) = sampling.decode(SHORT_HZ, SHORT_MS, take)? else { return Ok(()) };
    let (mut kept, mut first_s) = (0, None);
    for place in 0..PLACES {
        let at_ms = place * duration_ms / PLACES;
        match sampling.keyframe(at_ms, &mut first_s)? {
            Some(frame) => kept = take(frame),
            None if place == 0 => break,
            // The end of the file may be missing.
            None => {}
        }
    }
    if kept < FEW && (kept == 0 || duration_ms <= MEDIUM_MS) {
        sampling.decode(MEDIUM_HZ, u64::MAX, take)?;
    }
    Ok(())
}

struct VideoSampling<'a> {
    tools: &'a Tools,
    path: &'a Path,
    max_side: u32,
    limits: &'a Limits,
    cancel: &'a Cancel,
}

impl VideoSampling<'_> {
    fn input(&self, before: &[&str]) -> Command {
        input_from(self.tools, self.path, self.limits, before)
    }

    /// Decodes a video from its start, up to a minute of it. If its container announces more than this
    /// length, stops before the first frame, and returns the length.
    fn decode(&self, rate_hz: f64, max_ms: u64, take: &mut dyn FnMut(Frame) -> usize) -> Result<Option<u64>, Error> {
        let mut command = self.input(&[]);
        let filter = format!("setpts=PTS-STARTPTS,fps=fps={rate_hz}:round=up,{}", within(self.max_side));
        command.args(["-t", &(MEDIUM_MS / 1000).to_string(), "-vf", &filter]);
        command.args(["-c:v", "ppm", "-f", "image2pipe", "pipe:1"]);
        let mut child = Child::start(command, self.path, self.limits, self.cancel)?;
        let mut count = 0;
        while let Some(picture) = read_ppm(&mut child)? {
            if let Some(duration_ms) = child.announced_ms().filter(|length| *length > max_ms) {
                return Ok(Some(duration_ms));
            }
            take(Frame { at_ms: time_ms(count, rate_hz), picture });
            count += 1;
        }
        let report = child.finish()?;
        match count {
            0 => Err(Error::undecodable(self.path, report.errors.unwrap_or_else(|| "it has no video frames".into()))),
            _ => Ok(None),
        }
    }

    /// The keyframe at a time or before it. `first_s` is the timestamp of the first frame, once it is known.
    fn keyframe(&self, at_ms: u64, first_s: &mut Option<f64>) -> Result<Option<Frame>, Error> {
        let at_s = first_s.unwrap_or(0.0) + at_ms as f64 / 1000.0;
        let mut before = vec!["-copyts", "-skip_frame", "nokey"];
        let seek = format!("{at_s:.3}");
        if at_ms > 0 {
            before.extend(["-noaccurate_seek", "-seek_timestamp", "1", "-ss", &seek]);
        }
        let mut command = self.input(&before);
        command.args(["-vf", &format!("showinfo=checksum=0,{}", within(self.max_side)), "-frames:v", "1"]);
        command.args(["-c:v", "ppm", "-f", "image2pipe", "pipe:1"]);
        let mut child = Child::start(command, self.path, self.limits, self.cancel)?;
        let picture = read_ppm(&mut child)?;
        let report = child.finish()?;
        let found_s = report.first_s.unwrap_or(at_s);
        let since_s = (found_s - *first_s.get_or_insert(found_s)).max(0.0);
        Ok(picture.map(|picture| Frame { at_ms: (since_s * 1000.0).round() as u32, picture }))
    }
}

/// The next picture that a child writes as PPM; `None` at the end.
fn read_ppm(child: &mut Child) -> Result<Option<Picture>, Error> {
    let Some([width, height]) = read_head(child)? else { return Ok(None) };
    let bytes = u64::from(width) * u64::from(height) * 3;
    if bytes == 0 || bytes > 1 << 30 {
        return Err(child.limit(format!("returned a picture of {width} x {height} pixels")));
    }
    let mut rgb = vec![0; bytes as usize];
    Ok(child.read_exact(&mut rgb)?.then_some(Picture { width, height, rgb }))
}

/// Width and height in a head such as `P6\n640 360\n255\n`.
fn read_head(child: &mut Child) -> Result<Option<[u32; 2]>, Error> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while head.iter().filter(|byte| **byte == b'\n').count() < 3 {
        if head.len() == MAX_HEAD_BYTES || !child.read_exact(&mut byte)? {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace().skip(1).map(|word| word.parse().ok());
    Ok(words.next().flatten().zip(words.next().flatten()).map(|(width, height)| [width, height]))
}
