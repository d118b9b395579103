//! ffmpeg as a child process.
//!
//! The child can read one file only. Its standard input is closed. The file name follows `file:`,
//! so that it cannot act as an option or an address. Only local protocols and the demuxers in [`DEMUXERS`]
//! are allowed, so that a script that names other files is refused. A watchdog ends a child that stalls, runs
//! too long or is cancelled. Dropping [`Frames`] ends the child too, and so does the end of this process.

mod child;
mod gaps;
mod guard;
mod preview;
mod sample;
mod stream;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Error, Fit, Picture, sniff};
use crate::base::Cancel;
use crate::base::files::open_regular;
use child::Child;
pub use gaps::Gaps;
pub use preview::{Codec, PreviewSpec, VideoSource, VideoStart};
pub(super) use sample::sample;
pub(super) use stream::{CodedStream, decode_stream};

/// Containers that are read: those that hold their own media. No playlists, scripts, picture sequences or
/// devices. Not `mjpeg`, which finds a picture in any file that contains a JPEG.
const DEMUXERS: &str = "3gp,aiff,asf,avi,av1,dirac,dv,flv,gif,h263,h264,hevc,ivf,m4v,matroska,mov,mp4,mpeg,\
    mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,webm,wtv,yuv4mpegpipe";

/// Longest time between the last keyframe and the end of a video. A container that claims more is not
/// believed.
const MAX_KEYFRAME_DISTANCE_MS: u64 = 120_000;

/// Longest time in which ffmpeg prints its version. A program on a slow drive takes a while to start.
const VERSION_TIME: Duration = Duration::from_secs(10);

/// The ffmpeg program.
#[derive(Debug, Clone)]
pub struct Tools {
    ffmpeg: OsString,
    /// Whether the filter `setpts` also moves the end of a video (from ffmpeg 5 on), so that gaps can be
    /// shortened.
    moves_end: bool,
}

impl Tools {
    /// Finds ffmpeg: `REELSEEK_FFMPEG`, else `ffmpeg` on the search path.
    ///
    /// # Errors
    /// [`Error::NoFfmpeg`] if it cannot be started.
    pub fn find() -> Result<Tools, Error> {
        Tools::at(named_program())
    }

    /// The program that [`Tools::find`] tries, without a run of it.
    pub(super) fn unchecked() -> Tools {
        Tools { ffmpeg: named_program(), moves_end: false }
    }

    /// The ffmpeg program of this name or path.
    ///
    /// # Errors
    /// As [`Tools::find`].
    pub fn at(ffmpeg: impl Into<OsString>) -> Result<Tools, Error> {
        let ffmpeg = ffmpeg.into();
        let missing = |reason: String| Error::NoFfmpeg { program: PathBuf::from(&ffmpeg), reason };
        let mut command = Command::new(&ffmpeg);
        command.args(["-nostdin", "-version"]);
        let limits = Limits { wall: VERSION_TIME, ..Limits::default() };
        let run = || {
            let mut child = Child::start(command, Path::new(&ffmpeg), &limits, &Cancel::default())?;
            let version = child.read_to_end(1 << 20)?;
            Ok((version, child.finish()?.errors))
        };
        let (version, errors) = run().map_err(|error| match error {
            Error::NoFfmpeg { .. } => error,
            other => missing(other.to_string()),
        })?;
        if let Some(errors) = errors {
            return Err(missing(format!("`-version` failed: {errors}")));
        }
        let moves_end = libavfilter_major(&String::from_utf8_lossy(&version)).is_some_and(|major| major >= 8);
        Ok(Tools { ffmpeg, moves_end })
    }
}

fn named_program() -> OsString {
    std::env::var_os("REELSEEK_FFMPEG").filter(|v| !v.is_empty()).unwrap_or_else(|| "ffmpeg".into())
}

/// The major version in the line `libavfilter     8. 44.100 /  8. 44.100` of `ffmpeg -version`.
fn libavfilter_major(version: &str) -> Option<u32> {
    let numbers = version.lines().find_map(|line| line.strip_prefix("libavfilter"))?;
    numbers.trim_start().split('.').next()?.parse().ok()
}

/// Limits that protect the machine against a hostile or broken file.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Pixels of a coded frame.
    pub max_pixels: u64,
    /// Number of decoded frames. 1,000,000 frames are 69 hours at 4 frames per second.
    pub max_frames: u64,
    /// Bytes of all decoded pictures together.
    pub max_output_bytes: u64,
    /// Longest wait for the next frame.
    pub stall: Duration,
    /// Longest time for the whole file. The processor time may be twice as long (only on Linux).
    pub wall: Duration,
    /// Address space of the child process in bytes (only on Linux).
    pub memory_bytes: u64,
    /// Memory that the child process may write, in bytes: without programs and libraries (only on Linux).
    pub data_bytes: u64,
    /// Whether the child runs at low priority (only on Unix).
    pub background: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_pixels: 16_384 * 8_704,
            max_frames: 1_000_000,
            max_output_bytes: 64 << 30,
            stall: Duration::from_secs(60),
            wall: Duration::from_secs(24 * 3600),
            memory_bytes: 6 << 30,
            data_bytes: 6 << 30,
            background: false,
        }
    }
}

/// Which frames to decode, and their size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodePlan {
    /// Frames per second: frame `n` is the frame displayed `n / rate_hz` seconds after the first.
    pub rate_hz: f64,
    /// Width of the pictures in pixels.
    pub width: u32,
    /// Height of the pictures in pixels.
    pub height: u32,
    /// How frames are fitted to that size.
    pub fit: Fit,
    /// Decode keyframes only, which takes a fraction of the time. Each keyframe is repeated until the next.
    pub keyframes_only: bool,
    /// A second picture of each frame, in another size. It does not change a bit of the first.
    pub second: Option<PictureSize>,
}

/// Size of a decoded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSize {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// How frames are fitted to that size.
    pub fit: Fit,
}

impl PictureSize {
    fn bytes(self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    /// Cuts the picture out of the upper left corner of rows that are `row_bytes` long.
    fn cut(self, rows: &[u8], row_bytes: usize) -> Picture {
        let used = self.width as usize * 3;
        let rgb = match used == row_bytes {
            true => rows[..self.bytes()].to_vec(),
            false => {
                rows.chunks_exact(row_bytes).take(self.height as usize).flat_map(|row| &row[..used]).copied().collect()
            }
        };
        Picture { width: self.width, height: self.height, rgb }
    }
}

impl Default for DecodePlan {
    /// 4 frames per second, stretched to 224 x 224 pixels.
    fn default() -> DecodePlan {
        DecodePlan { rate_hz: 4.0, width: 224, height: 224, fit: Fit::Stretch, keyframes_only: false, second: None }
    }
}

impl DecodePlan {
    /// Sets the frames per second.
    pub fn rate_hz(self, rate_hz: f64) -> DecodePlan {
        DecodePlan { rate_hz, ..self }
    }

    /// Sets the size of the pictures in pixels, and how frames are fitted to it.
    pub fn size(self, width: u32, height: u32, fit: Fit) -> DecodePlan {
        DecodePlan { width, height, fit, ..self }
    }

    /// Chooses between keyframes only and all frames.
    pub fn keyframes_only(self, keyframes_only: bool) -> DecodePlan {
        DecodePlan { keyframes_only, ..self }
    }

    /// Adds a second picture of each frame.
    pub fn second(self, second: Option<PictureSize>) -> DecodePlan {
        DecodePlan { second, ..self }
    }

    fn first(&self) -> PictureSize {
        PictureSize { width: self.width, height: self.height, fit: self.fit }
    }

    /// Bytes of one row and of all rows that ffmpeg writes for a frame.
    fn frame_bytes(&self) -> (usize, usize) {
        let (width, height) = match self.second {
            Some(second) => (self.width.max(second.width), self.height + second.height),
            None => (self.width, self.height),
        };
        let row = width as usize * 3;
        (row, row * height as usize)
    }

    /// The filters that make the pictures of each frame. Two pictures are stacked, the narrower one filled up
    /// on the right.
    fn ffmpeg_filters(&self) -> String {
        let filters = |size: PictureSize| format!("{},format=rgb24", size.fit.ffmpeg_filters(size.width, size.height));
        let Some(second) = self.second else { return filters(self.first()) };
        let width = self.width.max(second.width);
        let filled = |size: PictureSize| match size.width == width {
            true => filters(size),
            false => format!("{},pad={width}:{}", filters(size), size.height),
        };
        format!("split[a][b];[a]{}[first];[b]{}[second];[first][second]vstack", filled(self.first()), filled(second))
    }
}

/// A picture and the time at which it is displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Milliseconds from the first frame of the video.
    pub at_ms: u32,
    /// The picture, upright.
    pub picture: Picture,
}

/// Facts about a video after it is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeSummary {
    /// Number of decoded frames.
    pub frames: u64,
    /// Length in milliseconds: the container's value if the frames confirm it, else the time that the frames
    /// cover.
    pub duration_ms: u64,
    /// ffmpeg's error messages, if any.
    pub warnings: Option<String>,
    /// The gaps that [`frames_without_gaps`] has shortened.
    pub gaps: Gaps,
}

/// Iterates over the frames of one video in order of time.
#[derive(Debug)]
pub struct Frames {
    child: Child,
    plan: DecodePlan,
    limits: Limits,
    /// Number of frames returned so far.
    decoded: u64,
    ended: bool,
}

/// Starts to decode the first video stream of a file.
///
/// # Errors
/// [`Error::NoFfmpeg`] if ffmpeg cannot be started, else as [`readable`].
pub fn frames(
    tools: &Tools,
    path: &Path,
    plan: &DecodePlan,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Frames, Error> {
    decode(tools, path, plan, limits, cancel, "setpts=PTS-STARTPTS")
}

/// As [`frames`], but shortens each long gap between two frames, which consists of equal pictures: of more
/// than 240 pictures in a row, some 120 remain. Times of frames count in the shortened video.
/// [`DecodeSummary::gaps`] restores them. An ffmpeg before version 5 shortens nothing.
///
/// # Errors
/// As [`frames`].
pub fn frames_without_gaps(
    tools: &Tools,
    path: &Path,
    plan: &DecodePlan,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Frames, Error> {
    match tools.moves_end {
        true => decode(tools, path, plan, limits, cancel, &gaps::filter(plan.rate_hz)),
        false => frames(tools, path, plan, limits, cancel),
    }
}

/// Starts to decode a file. `clock` is the filter that moves the first frame to time zero.
fn decode(
    tools: &Tools,
    path: &Path,
    plan: &DecodePlan,
    limits: &Limits,
    cancel: &Cancel,
    clock: &str,
) -> Result<Frames, Error> {
    // Rounding up assigns each frame to the first grid time at which it is displayed.
    let filter = format!("{clock},fps=fps={}:round=up,{}", plan.rate_hz, plan.ffmpeg_filters());
    readable(path)?;
    if let Some(found) = sniff::never_a_video(path) {
        return Err(Error::NotAVideo { path: path.to_owned(), found, reason: String::new() });
    }
    let mut command = input(tools, path, limits, plan.keyframes_only);
    command.args(["-vf", &filter]).args(["-f", "rawvideo", "pipe:1"]);
    Ok(Frames {
        child: Child::start(command, path, limits, cancel)?,
        plan: *plan,
        limits: limits.clone(),
        decoded: 0,
        ended: false,
    })
}

/// The frame displayed at a time: upright, with square pixels and a longer side of at most `max_side` pixels.
///
/// After the end of the video it is the last frame. If the size of a video changes midway, later frames are
/// stretched to the size of the first. The file is decoded from its start, which is exact for files in which
/// seeking is not.
///
/// # Errors
/// [`Error::is_undecodable`] holds if there is no such frame. Else as [`frames`].
pub fn frame_at(tools: &Tools, path: &Path, at_ms: u32, max_side: u32, cancel: &Cancel) -> Result<Picture, Error> {
    VideoSource { tools, path, limits: &Limits::default(), cancel }.frame_at(None, at_ms, max_side)
}

/// Runs a command that writes one picture as PPM.
fn read_still(command: Command, path: &Path, at_ms: u32, limits: &Limits, cancel: &Cancel) -> Result<Picture, Error> {
    let mut child = Child::start(command, path, limits, cancel)?;
    let bytes = child.read_to_end(limits.max_output_bytes.min(1 << 30))?;
    let report = child.finish()?;
    if bytes.is_empty() {
        let reason = report.errors.unwrap_or_else(|| format!("no frame at {:.2} s", f64::from(at_ms) / 1000.0));
        return Err(Error::undecodable(path, reason));
    }
    super::read(&bytes, path).map(|opened| opened.picture)
}

/// The filters that give a picture square pixels and a longer side of at most `max_side`.
fn within(max_side: u32) -> String {
    let side = |side: &str| format!("max(1,round({side}*min(1,{max_side}/max(iw*sar,ih))))");
    format!("scale=w='{}':h='{}',format=rgb24", side("iw*sar"), side("ih"))
}

/// Checks that a file exists, is not empty and can be read at its first and at its last byte. The system's
/// messages are clearer than ffmpeg's.
///
/// # Errors
/// [`Error::Io`], [`Error::Empty`], or [`Error::NotAFile`] for a pipe or device, which could block for ever.
pub fn readable(path: &Path) -> Result<(), Error> {
    use std::io::{Read, Seek, SeekFrom};
    let io = |reason| Error::io(path, reason);
    let (mut file, meta) = open_regular(path).map_err(|error| Error::unread(path, error))?;
    if meta.len() == 0 {
        return Err(Error::Empty { path: path.to_owned() });
    }
    let mut byte = [0];
    for from in [0, meta.len() - 1] {
        file.seek(SeekFrom::Start(from)).map_err(io)?;
        file.read(&mut byte).map_err(io)?;
    }
    Ok(())
}

/// Reads a whole file and discards its bytes, to find out whether the disk can read all of them.
///
/// # Errors
/// As [`readable`], and [`Error::Cancelled`].
pub fn read_through(path: &Path, cancel: &Cancel) -> Result<(), Error> {
    use std::io::Read;
    readable(path)?;
    let io = |reason| Error::io(path, reason);
    let mut file = open_regular(path).map_err(|error| Error::unread(path, error))?.0;
    let mut block = vec![0; 1 << 20];
    while file.read(&mut block).map_err(io)? > 0 {
        if cancel.is_set() {
            return Err(Error::Cancelled { path: path.to_owned() });
        }
    }
    Ok(())
}

/// The ffmpeg command up to the selection of the video stream.
fn input(tools: &Tools, path: &Path, limits: &Limits, keyframes_only: bool) -> Command {
    let before: &[&str] = if keyframes_only { &["-skip_frame", "nokey"] } else { &[] };
    input_from(tools, path, limits, before)
}

/// As [`input`], with further options for opening the file.
fn input_from(tools: &Tools, path: &Path, limits: &Limits, before: &[&str]) -> Command {
    let mut command = Command::new(&tools.ffmpeg);
    command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-threads", "1"]);
    command.args(["-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS]);
    command.arg("-max_pixels").arg(limits.max_pixels.to_string());
    // A size that changes midway must not restart the filters and with them the clock. `scale` adapts by
    // itself.
    command.args(["-reinit_filter", "0"]).args(before);
    let mut file = OsString::from("file:");
    file.push(path.as_os_str());
    command.arg("-i").arg::<&OsStr>(&file).args(["-map", "0:V:0", "-an", "-sn", "-dn"]);
    // One thread for the filters too: several pipelines run side by side.
    command.args(["-filter_threads", "1", "-threads", "1"]);
    command
}

/// The time of a frame on a regular grid, in milliseconds.
fn time_ms(frame: u64, rate_hz: f64) -> u32 {
    (frame as f64 * 1000.0 / rate_hz).round() as u32
}

impl Frames {
    /// The container's length in milliseconds, as soon as ffmpeg has printed it. Good enough for a progress
    /// display.
    pub fn announced_ms(&self) -> Option<u64> {
        self.child.announced_ms()
    }

    /// The next frame, or `None` after the last.
    ///
    /// # Errors
    /// [`Error::Limit`] if the file reached a limit, [`Error::Cancelled`]. Earlier frames stay valid.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        Ok(self.next_pictures()?.map(|(frame, _)| frame))
    }

    /// The next frame with its second picture, if the plan has one; `None` after the last frame.
    ///
    /// # Errors
    /// As [`Frames::next_frame`].
    pub fn next_pictures(&mut self) -> Result<Option<(Frame, Option<Picture>)>, Error> {
        if self.ended {
            return Ok(None);
        }
        let (row_bytes, bytes) = self.plan.frame_bytes();
        if self.decoded >= self.limits.max_frames || (self.decoded + 1) * bytes as u64 > self.limits.max_output_bytes {
            return Err(self.child.limit(format!("returned more than {} frames", self.decoded)));
        }
        let mut rgb = vec![0u8; bytes];
        if !self.child.read_exact(&mut rgb)? {
            self.ended = true;
            return Ok(None);
        }
        let at_ms = time_ms(self.decoded, self.plan.rate_hz);
        self.decoded += 1;
        let first = self.plan.first();
        let Some(second) = self.plan.second else {
            let picture = Picture { width: first.width, height: first.height, rgb };
            return Ok(Some((Frame { at_ms, picture }, None)));
        };
        let (above, below) = rgb.split_at(row_bytes * first.height as usize);
        let frame = Frame { at_ms, picture: first.cut(above, row_bytes) };
        Ok(Some((frame, Some(second.cut(below, row_bytes)))))
    }

    /// Ends the decoding and returns its summary.
    ///
    /// # Errors
    /// [`Error::is_undecodable`] holds if no frame was decoded. [`Error::Killed`] if another process ended
    /// ffmpeg.
    pub fn finish(self) -> Result<DecodeSummary, Error> {
        let path: PathBuf = self.child.path().to_owned();
        let report = self.child.finish()?;
        if self.decoded == 0 {
            let reason = report.errors.unwrap_or_else(|| "it has no video frames".to_owned());
            return Err(Error::undecodable(&path, reason));
        }
        let gaps = Gaps::parse(self.plan.rate_hz, &report.printed);
        let step_ms = 1000.0 / self.plan.rate_hz;
        let covered_ms = ((self.decoded + gaps.removed()) as f64 * step_ms).round() as u64;
        // Frames give the length to within one step, keyframes to within the distance of two. The container's
        // length is more exact, unless it is plainly wrong.
        let (less, more) = match self.plan.keyframes_only {
            false => ((1.5 * step_ms) as u64, (1.5 * step_ms) as u64),
            true => ((1.5 * step_ms) as u64, MAX_KEYFRAME_DISTANCE_MS),
        };
        let plausible = covered_ms.saturating_sub(less)..=covered_ms + more;
        let duration_ms = report.duration_ms.filter(|ms| plausible.contains(ms)).unwrap_or(covered_ms);
        Ok(DecodeSummary { frames: self.decoded, duration_ms, warnings: report.errors, gaps })
    }
}
