//! Pictures and clips to show of a video, found by seeking: the nearest keyframe before the wanted time is looked up, and what lies between is decoded.
//!
//! Times count from the first frame of the video, as everywhere, but files number their frames from anywhere. [`Source::opening`] asks for the number of the first one, and
//! [`Source::still`] and [`Source::cut`] add it, so that seeking and decoding from the start give the same frame.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::child::Child;
use super::{Limits, Tools, input_from, picture, readable, within};
use crate::base::Cancel;
use crate::media::{Error, Picture};

/// Up to here decoding from the start costs less than asking where the start is.
const NEAR_MS: u32 = 3000;

/// In streams that are broadcast a seek leads to a place that may lie behind the last keyframe; so much earlier there is one.
const LEAD_S: f64 = 6.0;

/// Formats in which that is so.
const BROADCAST: [&str; 3] = ["mpegts", "mpeg", "mpegvideo"];

/// Frames a second of a clip, at most.
const MAX_RATE: u32 = 30;

/// Where the time of a video begins in its file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opening {
    /// The time that the file gives its first frame, in seconds.
    first_s: f64,
    /// How much before a time must be sought.
    lead_s: f64,
}

/// What to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The frame displayed then is the first.
    pub from_ms: u32,
    /// The clip ends here, or where the video does.
    pub to_ms: u32,
    /// Pixels of the longer side, at most; 2 at least.
    pub max_side: u32,
}

/// How a clip is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// H.264 in MP4 by libx264: plays everywhere.
    X264,
    /// The same by libopenh264, which some systems have in its place.
    OpenH264,
    /// VP8 in WebM, where there is no encoder for H.264.
    Vp8,
}

impl Codec {
    /// The best one that ffmpeg has.
    ///
    /// # Errors
    /// [`Error::NoCodec`] if it has none, [`Error::NoFfmpeg`] if it cannot be started, [`Error::Limit`] if it does not come to an end, [`Error::Cancelled`].
    pub fn of(tools: &Tools, limits: &Limits, cancel: &Cancel) -> Result<Codec, Error> {
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
        let program = || tools.ffmpeg.to_string_lossy().into_owned();
        found.map(|(_, codec)| codec).ok_or_else(|| Error::NoCodec { program: program() })
    }

    /// The ending of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::X264 | Codec::OpenH264 => "mp4",
            Codec::Vp8 => "webm",
        }
    }

    /// Bits a second are bounded: a clip of noise must not fill the disk.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Codec::X264 => &[
                "-c:v",
                "libx264",
                "-profile:v",
                "baseline",
                "-preset",
                "veryfast",
                "-crf",
                "26",
                "-maxrate",
                "1500k",
                "-bufsize",
                "3000k",
                "-g",
                "60",
                "-movflags",
                "+faststart",
                "-f",
                "mp4",
            ],
            Codec::OpenH264 => &[
                "-c:v",
                "libopenh264",
                "-profile:v",
                "constrained_baseline",
                "-b:v",
                "1000k",
                "-maxrate",
                "1500k",
                "-g",
                "60",
                "-movflags",
                "+faststart",
                "-f",
                "mp4",
            ],
            Codec::Vp8 => &[
                "-c:v",
                "libvpx",
                "-deadline",
                "realtime",
                "-cpu-used",
                "8",
                "-b:v",
                "1000k",
                "-crf",
                "24",
                "-g",
                "60",
                "-f",
                "webm",
            ],
        }
    }
}

/// A video to show something of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The ffmpeg program.
    pub tools: &'a Tools,
    /// The file.
    pub path: &'a Path,
    /// What it may cost.
    pub limits: &'a Limits,
    /// The wish to stop.
    pub cancel: &'a Cancel,
}

impl Source<'_> {
    /// Asks the file for the time of its first frame, by decoding that.
    ///
    /// # Errors
    /// [`Error::Undecodable`] if it has none that tells a time, else as [`super::frames`].
    pub fn opening(&self) -> Result<Opening, Error> {
        readable(self.path)?;
        let mut command = self.input(&["-copyts"]);
        command.args(["-vf", "showinfo=checksum=0", "-frames:v", "1", "-f", "null", "pipe:1"]);
        let mut child = Child::start(command, self.path, self.limits, self.cancel)?;
        child.read_to_end(1 << 16)?;
        let told = child.finish()?;
        let Some(first_s) = told.first_s else {
            return Err(self.undecodable(told.complaints, || "its first frame has no time".to_owned()));
        };
        let broadcast = told.format.is_some_and(|format| format.split(',').any(|name| BROADCAST.contains(&name)));
        Ok(Opening { first_s, lead_s: if broadcast { LEAD_S } else { 0.0 } })
    }

    /// As [`super::frame_at`], but fast wherever in the video where an [`Opening`] is known: by seeking from it.
    ///
    /// # Errors
    /// As [`super::frame_at`].
    pub fn still(&self, opening: Option<&Opening>, at_ms: u32, max_side: u32) -> Result<Picture, Error> {
        readable(self.path)?;
        // Of the frames up to zero the last is given; none, if seeking led behind it.
        let filter = format!("trim=end=0.0005,fps=fps=1:round=up:start_time=0,{}", within(max_side));
        self.seeking(opening, at_ms, |opening| {
            let (mut command, zero) = self.from(opening, at_ms);
            command.args(["-vf", &format!("{zero},{filter}"), "-frames:v", "1"]);
            command.args(["-c:v", "ppm", "-f", "image2pipe", "pipe:1"]);
            picture(command, self.path, at_ms, &self.patient(), self.cancel)
        })
    }

    /// Writes a clip of the video into `to`, a file that is there: at most 30 frames a second, no sound, square pixels, ready to be played as it comes.
    ///
    /// # Errors
    /// [`Error::Undecodable`] if there is no frame to show, else as [`super::frames`]; what is in `to` then is of no use.
    pub fn cut(&self, opening: Option<&Opening>, cut: &Cut, codec: Codec, to: &Path) -> Result<(), Error> {
        readable(self.path)?;
        let length_s = f64::from(cut.to_ms.saturating_sub(cut.from_ms).max(1)) / 1000.0;
        // The frame displayed at zero began before it: `fps` moves it there, and drops those before.
        let rate = format!("fps=fps='if(between(source_fps,1,{MAX_RATE}),source_fps,{MAX_RATE})':start_time=0");
        // Colours at half the resolution want even sides.
        let side = |side: &str| format!("max(2,2*floor({side}*min(1,{max}/max(iw*sar,ih))/2))", max = cut.max_side);
        let size = format!("scale=w='{}':h='{}',setsar=1,format=yuv420p", side("iw*sar"), side("ih"));
        let mut file = OsString::from("file:");
        file.push(to.as_os_str());
        self.seeking(opening, cut.from_ms, |opening| {
            let (mut command, zero) = self.from(opening, cut.from_ms);
            command.args(["-vf", &format!("{zero},{rate},trim=end={length_s:.4},{size}")]);
            command.args(codec.arguments()).args(["-map_metadata", "-1", "-map_chapters", "-1"]);
            command.args(["-progress", "pipe:1", "-y"]).arg(&file);
            let mut child = Child::start(command, self.path, &self.patient(), self.cancel)?;
            let progress = child.read_to_end(1 << 24)?;
            let told = child.finish()?;
            // `frame=120`, again and again.
            let lines = String::from_utf8_lossy(&progress);
            let frames = lines.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse::<u64>().ok()).max();
            if frames.unwrap_or(0) == 0 {
                let from_s = f64::from(cut.from_ms) / 1000.0;
                return Err(self.undecodable(told.complaints, || format!("no frame from {from_s:.2} s")));
            }
            Ok(())
        })
    }

    fn undecodable(&self, complaints: Option<String>, otherwise: impl FnOnce() -> String) -> Error {
        Error::Undecodable { path: self.path.to_owned(), reason: complaints.unwrap_or_else(otherwise) }
    }

    fn input(&self, before: &[&str]) -> Command {
        input_from(self.tools, self.path, self.limits, before)
    }

    /// Nothing comes before all is done: only the limit on the whole counts.
    fn patient(&self) -> Limits {
        Limits { stall: self.limits.wall, ..self.limits.clone() }
    }

    /// Tries it by seeking, where that is worth while, and from the start if that gives nothing.
    fn seeking<T>(
        &self,
        opening: Option<&Opening>,
        at_ms: u32,
        attempt: impl Fn(Option<&Opening>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match opening.filter(|_| at_ms > NEAR_MS) {
            None => attempt(None),
            opening => match attempt(opening) {
                Err(Error::Undecodable { .. }) => attempt(None),
                done => done,
            },
        }
    }

    /// The command up to the choice of the stream, and the filters that put a time of the video at zero.
    fn from(&self, opening: Option<&Opening>, at_ms: u32) -> (Command, String) {
        let at_s = f64::from(at_ms) / 1000.0;
        // Finer than the clock of any container: times are not rounded to whole frames.
        match opening {
            None => (self.input(&[]), format!("settb=AVTB,setpts=PTS-STARTPTS-{at_s:.4}/TB")),
            Some(Opening { first_s, lead_s }) => {
                let seek = format!("{:.6}", first_s + (at_s - lead_s).max(0.0));
                let command = self.input(&["-copyts", "-noaccurate_seek", "-seek_timestamp", "1", "-ss", &seek]);
                (command, format!("settb=AVTB,setpts=PTS-({:.6})/TB", first_s + at_s))
            }
        }
    }
}
