//! Stills and preview clips of a video, found by seeking: ffmpeg jumps to the last keyframe before a time and
//! decodes from there.
//!
//! Times count from the first frame of the video, but the timestamps in a file may start anywhere.
//! [`VideoSource::start`] finds the first timestamp. [`VideoSource::frame_at`] and
//! [`VideoSource::write_preview`] add it to every time, so that seeking and decoding from the start give the
//! same frame.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::child::Child;
use super::{Limits, Tools, input_from, read_still, readable, within};
use crate::base::Cancel;
use crate::media::error::is_unwritable;
use crate::media::{Error, Picture};

/// Times up to this one are reached faster by decoding from the start than by finding the first timestamp and
/// seeking.
const NEAR_MS: u32 = 3000;

/// In broadcast formats a seek may end behind the last keyframe before the time. Seek this much earlier.
const LEAD_S: f64 = 6.0;

/// The broadcast formats, by ffmpeg's names.
const BROADCAST: [&str; 3] = ["mpegts", "mpeg", "mpegvideo"];

/// Most frames per second of a preview.
const MAX_RATE: u32 = 30;

/// The first timestamp of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoStart {
    /// Timestamp of the first frame in seconds.
    first_s: f64,
    /// Seconds by which a seek must aim before a time.
    lead_s: f64,
}

/// Time span and size of a preview clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviewSpec {
    /// The preview starts with the frame displayed at this time.
    pub from_ms: u32,
    /// The preview ends at this time, or at the end of the video.
    pub to_ms: u32,
    /// Most pixels of the longer side; at least 2.
    pub max_side: u32,
}

/// The encoder of preview clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// H.264 in MP4 by libx264. Plays in every browser.
    X264,
    /// H.264 in MP4 by libopenh264, which some systems have instead of libx264.
    OpenH264,
    /// VP8 in WebM, for an ffmpeg without an H.264 encoder.
    Vp8,
}

impl Codec {
    /// The best codec that ffmpeg has.
    ///
    /// # Errors
    /// [`Error::NoCodec`] if it has none, [`Error::NoFfmpeg`] if it cannot be started, [`Error::Limit`] if it
    /// does not end, [`Error::Cancelled`].
    pub fn detect(tools: &Tools, limits: &Limits, cancel: &Cancel) -> Result<Codec, Error> {
        let mut command = Command::new(&tools.ffmpeg);
        command.args(["-nostdin", "-hide_banner", "-v", "error", "-encoders"]);
        let mut child = Child::start(command, Path::new(&tools.ffmpeg), limits, cancel)?;
        let output = child.read_to_end(1 << 20)?;
        child.finish()?;
        let listed = String::from_utf8_lossy(&output);
        // ` V....D libx264              libx264 H.264 / AVC ...`
        let has = |name: &str| listed.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
        let known = [("libx264", Codec::X264), ("libopenh264", Codec::OpenH264), ("libvpx", Codec::Vp8)];
        let found = known.into_iter().find(|(name, _)| has(name));
        found.map(|(_, codec)| codec).ok_or_else(|| Error::NoCodec { program: tools.ffmpeg.clone().into() })
    }

    /// File name extension of a preview.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::X264 | Codec::OpenH264 => "mp4",
            Codec::Vp8 => "webm",
        }
    }

    /// ffmpeg's options for the codec. The bit rate is bounded, so that a clip of noise cannot fill the disk.
    fn options(self) -> impl Iterator<Item = &'static str> {
        let options = match self {
            Codec::X264 => {
                "-c:v libx264 -profile:v baseline -preset veryfast -crf 26 -maxrate 1500k -bufsize 3000k -g 60 \
                 -movflags +faststart -f mp4"
            }
            Codec::OpenH264 => {
                "-c:v libopenh264 -profile:v constrained_baseline -b:v 1000k -maxrate 1500k -g 60 \
                 -movflags +faststart -f mp4"
            }
            Codec::Vp8 => "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1000k -crf 24 -g 60 -f webm",
        };
        options.split(' ')
    }
}

/// A video from which stills and previews are made.
#[derive(Debug, Clone, Copy)]
pub struct VideoSource<'a> {
    /// The ffmpeg program.
    pub tools: &'a Tools,
    /// The file.
    pub path: &'a Path,
    /// Limits for each run of ffmpeg.
    pub limits: &'a Limits,
    /// Ends a run early.
    pub cancel: &'a Cancel,
}

impl VideoSource<'_> {
    /// Finds the first timestamp by decoding the first frame.
    ///
    /// # Errors
    /// [`Error::is_undecodable`] holds if the first frame has no timestamp. Else as [`super::frames`].
    pub fn start(&self) -> Result<VideoStart, Error> {
        readable(self.path)?;
        let mut command = self.input(&["-copyts"]);
        command.args(["-vf", "showinfo=checksum=0", "-frames:v", "1", "-f", "null", "pipe:1"]);
        let mut child = Child::start(command, self.path, self.limits, self.cancel)?;
        child.read_to_end(1 << 16)?;
        let report = child.finish()?;
        let Some(first_s) = report.first_s else {
            return Err(self.undecodable(report.errors, || "its first frame has no time".to_owned()));
        };
        let broadcast = report.format.is_some_and(|format| format.split(',').any(|name| BROADCAST.contains(&name)));
        Ok(VideoStart { first_s, lead_s: if broadcast { LEAD_S } else { 0.0 } })
    }

    /// As [`super::frame_at`]. With a known [`VideoStart`] it seeks, which is fast anywhere in the video.
    ///
    /// # Errors
    /// As [`super::frame_at`].
    pub fn frame_at(&self, start: Option<&VideoStart>, at_ms: u32, max_side: u32) -> Result<Picture, Error> {
        readable(self.path)?;
        // Selects the last frame up to time zero; none if the seek ended behind it.
        let filter = format!("trim=end=0.0005,fps=fps=1:round=up:start_time=0,{}", within(max_side));
        self.seeking(start, at_ms, |start| {
            let (mut command, zero) = self.from(start, at_ms);
            command.args(["-vf", &format!("{zero},{filter}"), "-frames:v", "1"]);
            command.args(["-c:v", "ppm", "-f", "image2pipe", "pipe:1"]);
            read_still(command, self.path, at_ms, &self.without_stall(), self.cancel)
        })
    }

    /// Writes a preview into the existing file `to`: at most 30 frames per second, no sound, square pixels,
    /// playable while it downloads.
    ///
    /// # Errors
    /// [`Error::is_undecodable`] holds if the span has no frame; [`Error::CannotWrite`] if the disk is full.
    /// Else as [`super::frames`]. After an error the content of `to` is undefined.
    pub fn write_preview(
        &self,
        start: Option<&VideoStart>,
        preview: &PreviewSpec,
        codec: Codec,
        to: &Path,
    ) -> Result<(), Error> {
        readable(self.path)?;
        let length_s = f64::from(preview.to_ms.saturating_sub(preview.from_ms).max(1)) / 1000.0;
        // The frame displayed at time zero may begin before it. `fps` moves it to zero and drops all earlier
        // frames.
        let rate = format!("fps=fps='if(between(source_fps,1,{MAX_RATE}),source_fps,{MAX_RATE})':start_time=0");
        // Colours at half the resolution require even sides.
        let side = |side: &str| format!("max(2,2*floor({side}*min(1,{max}/max(iw*sar,ih))/2))", max = preview.max_side);
        let size = format!("scale=w='{}':h='{}',setsar=1,format=yuv420p", side("iw*sar"), side("ih"));
        let mut file = OsString::from("file:");
        file.push(to.as_os_str());
        self.seeking(start, preview.from_ms, |start| {
            let (mut command, zero) = self.from(start, preview.from_ms);
            command.args(["-vf", &format!("{zero},{rate},trim=end={length_s:.4},{size}")]);
            command.args(codec.options()).args(["-map_metadata", "-1", "-map_chapters", "-1"]);
            command.args(["-progress", "pipe:1", "-y"]).arg(&file);
            let mut child = Child::start(command, self.path, &self.without_stall(), self.cancel)?;
            let progress = child.read_to_end(1 << 24)?;
            let report = child.finish()?;
            // ffmpeg may have counted frames that it could not write.
            if let Some(reason) = report.errors.as_ref().filter(|errors| is_unwritable(errors)) {
                return Err(Error::CannotWrite { path: to.to_owned(), reason: reason.clone() });
            }
            // ffmpeg repeats lines like `frame=120`.
            let lines = String::from_utf8_lossy(&progress);
            let frames = lines.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse::<u64>().ok()).max();
            if frames.unwrap_or(0) == 0 {
                let from_s = f64::from(preview.from_ms) / 1000.0;
                return Err(self.undecodable(report.errors, || format!("no frame from {from_s:.2} s")));
            }
            Ok(())
        })
    }

    fn undecodable(&self, errors: Option<String>, otherwise: impl FnOnce() -> String) -> Error {
        Error::undecodable(self.path, errors.unwrap_or_else(otherwise))
    }

    fn input(&self, before: &[&str]) -> Command {
        input_from(self.tools, self.path, self.limits, before)
    }

    /// Limits for runs that write nothing before they end: only the limit on the whole time applies.
    fn without_stall(&self) -> Limits {
        Limits { stall: self.limits.wall, ..self.limits.clone() }
    }

    /// Attempts it by seeking if that saves time, and again from the start if seeking finds no frame.
    fn seeking<T>(
        &self,
        start: Option<&VideoStart>,
        at_ms: u32,
        attempt: impl Fn(Option<&VideoStart>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match start.filter(|_| at_ms > NEAR_MS) {
            None => attempt(None),
            start => match attempt(start) {
                Err(error) if error.is_undecodable() => attempt(None),
                done => done,
            },
        }
    }

    /// The command up to the selection of the video stream, and the filters that move a time of the video to
    /// zero.
    fn from(&self, start: Option<&VideoStart>, at_ms: u32) -> (Command, String) {
        let at_s = f64::from(at_ms) / 1000.0;
        // The time base is finer than that of any container, so that times are not rounded to whole frames.
        match start {
            None => (self.input(&[]), format!("settb=AVTB,setpts=PTS-STARTPTS-{at_s:.4}/TB")),
            Some(VideoStart { first_s, lead_s }) => {
                let seek = format!("{:.6}", first_s + (at_s - lead_s).max(0.0));
                let command = self.input(&["-copyts", "-noaccurate_seek", "-seek_timestamp", "1", "-ss", &seek]);
                (command, format!("settb=AVTB,setpts=PTS-({:.6})/TB", first_s + at_s))
            }
        }
    }
}
