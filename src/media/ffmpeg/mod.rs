//! ffmpeg as a child process.
//!
//! The command is closed by construction: no standard input, the file after `file:` so that no name can be an option or
//! an address, only local protocols and only the demuxers of [`DEMUXERS`], so that a script that names other files is
//! refused. A watchdog ends a child that stalls, runs too long or is no longer wanted; dropping [`Frames`] ends it too.

mod child;
mod cut;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Error, Fit, Picture};
use crate::base::Cancel;
use child::Child;
pub use cut::{Codec, Cut, Opening, Source};

/// Containers that are read: those that hold their own media. No playlists, no scripts, no picture sequences, no devices.
const DEMUXERS: &str = "3gp,aiff,asf,avi,av1,dirac,dv,flv,gif,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,webm,wtv,yuv4mpegpipe";

/// The last keyframe of a video may stand this long. A container that claims more is not believed.
const MAX_KEYFRAME_DISTANCE_MS: u64 = 120_000;

/// The ffmpeg program.
#[derive(Debug, Clone)]
pub struct Tools {
    ffmpeg: OsString,
}

impl Tools {
    /// Finds ffmpeg: `REELSEEK_FFMPEG`, else `ffmpeg` on the search path.
    ///
    /// # Errors
    /// [`Error::NoFfmpeg`] if it cannot be started; the message says how to install it.
    pub fn find() -> Result<Tools, Error> {
        Tools::at(std::env::var_os("REELSEEK_FFMPEG").filter(|v| !v.is_empty()).unwrap_or_else(|| "ffmpeg".into()))
    }

    /// The ffmpeg program of this name or path.
    ///
    /// # Errors
    /// As [`Tools::find`].
    pub fn at(ffmpeg: impl Into<OsString>) -> Result<Tools, Error> {
        let ffmpeg = ffmpeg.into();
        let missing = |reason: String| Error::NoFfmpeg { program: ffmpeg.to_string_lossy().into_owned(), reason };
        let status = Command::new(&ffmpeg)
            .args(["-nostdin", "-version"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|e| missing(e.to_string()))?;
        if !status.success() {
            return Err(missing(format!("`-version` ended with {status}")));
        }
        Ok(Tools { ffmpeg })
    }
}

/// What guards the machine against a hostile or broken file.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Pixels of a coded frame.
    pub max_pixels: u64,
    /// Frames given out; 1,000,000 are 69 hours at 4 a second.
    pub max_frames: u64,
    /// Bytes of pictures given out.
    pub max_output_bytes: u64,
    /// Longest wait for the next frame.
    pub stall: Duration,
    /// Longest time for the whole file.
    pub wall: Duration,
    /// Address space of the child (on Linux).
    pub memory_bytes: u64,
    /// Whether other programs go first (on Unix).
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
            background: false,
        }
    }
}

/// Which frames to give, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Frames a second: frame `n` is the one displayed `n / rate_hz` seconds after the first.
    pub rate_hz: f64,
    /// Width of the pictures in pixels.
    pub width: u32,
    /// Height of the pictures in pixels.
    pub height: u32,
    /// How they come to that size.
    pub fit: Fit,
    /// Decode keyframes only: each stands until the next, which costs a fraction of the time.
    pub keyframes_only: bool,
}

/// A picture and when it is displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Milliseconds from the first frame of the video.
    pub at_ms: u32,
    /// The picture, upright.
    pub picture: Picture,
}

/// What is known of a video once it is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Frames given out.
    pub frames: u64,
    /// Length in milliseconds: the container's word where the frames bear it out, else what the frames cover.
    pub duration_ms: u64,
    /// What ffmpeg complained of, if anything.
    pub warnings: Option<String>,
}

/// The frames of one video, in order of time.
#[derive(Debug)]
pub struct Frames {
    child: Child,
    plan: Plan,
    limits: Limits,
    given: u64,
    ended: bool,
}

/// Starts to decode the first video stream of a file.
///
/// # Errors
/// [`Error::NoFfmpeg`] if ffmpeg cannot be started.
pub fn frames(tools: &Tools, path: &Path, plan: &Plan, limits: &Limits, cancel: &Cancel) -> Result<Frames, Error> {
    // Rounding up puts each frame at the first grid time at which it is already displayed.
    let filter = format!(
        "setpts=PTS-STARTPTS,fps=fps={}:round=up,{},format=rgb24",
        plan.rate_hz,
        plan.fit.of_ffmpeg(plan.width, plan.height)
    );
    readable(path)?;
    let mut command = input(tools, path, limits, plan.keyframes_only);
    command.args(["-vf", &filter]).args(["-f", "rawvideo", "pipe:1"]);
    Ok(Frames {
        child: Child::start(command, path, limits, cancel)?,
        plan: *plan,
        limits: limits.clone(),
        given: 0,
        ended: false,
    })
}

/// The frame displayed at a time, upright, with square pixels, its longer side at most `max_side` pixels. After the end it is the last one
/// before that. Where the size of a video changes midway, later pictures are stretched to the first one. The file is decoded from its start: exact where seeking is not.
///
/// # Errors
/// [`Error::Undecodable`] if there is no such frame, else as [`frames`].
pub fn frame_at(tools: &Tools, path: &Path, at_ms: u32, max_side: u32, cancel: &Cancel) -> Result<Picture, Error> {
    Source { tools, path, limits: &Limits::default(), cancel }.still(None, at_ms, max_side)
}

/// The one picture that a command writes as PPM.
fn picture(command: Command, path: &Path, at_ms: u32, limits: &Limits, cancel: &Cancel) -> Result<Picture, Error> {
    let mut child = Child::start(command, path, limits, cancel)?;
    let bytes = child.read_to_end(limits.max_output_bytes.min(1 << 30))?;
    let told = child.finish()?;
    if bytes.is_empty() {
        let reason = told.complaints.unwrap_or_else(|| format!("no frame at {:.2} s", f64::from(at_ms) / 1000.0));
        return Err(Error::Undecodable { path: path.to_owned(), reason });
    }
    super::read(&bytes, &path.display().to_string())
}

/// The filters that bring a picture to square pixels, its longer side to at most `max_side`.
fn within(max_side: u32) -> String {
    let side = |side: &str| format!("max(1,round({side}*min(1,{max_side}/max(iw*sar,ih))))");
    format!("scale=w='{}':h='{}',format=rgb24", side("iw*sar"), side("ih"))
}

/// Whether a file is there, and can be read at its first byte and at its last: what the system says is plainer than what ffmpeg makes of it.
///
/// # Errors
/// [`Error::Io`], or [`Error::NotAFile`] for what could block for ever.
pub fn readable(path: &Path) -> Result<(), Error> {
    use std::io::{Read, Seek, SeekFrom};
    let io = |source| Error::io(path, source);
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(Error::NotAFile { path: path.to_owned(), found: "a folder, device, pipe or socket" });
    }
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut byte = [0];
    for from in [0, meta.len().saturating_sub(1)] {
        file.seek(SeekFrom::Start(from)).map_err(io)?;
        file.read(&mut byte).map_err(io)?;
    }
    Ok(())
}

/// Reads a file from its first byte to its last, and throws away what it read.
///
/// # Errors
/// [`Error::Io`] where the system cannot read; [`Error::NotAFile`], [`Error::Cancelled`].
pub fn read_through(path: &Path, cancel: &Cancel) -> Result<(), Error> {
    use std::io::Read;
    readable(path)?;
    let io = |source| Error::io(path, source);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut block = vec![0; 1 << 20];
    while file.read(&mut block).map_err(io)? > 0 {
        if cancel.is_set() {
            return Err(Error::Cancelled { path: path.to_owned() });
        }
    }
    Ok(())
}

/// The command up to the choice of the stream.
fn input(tools: &Tools, path: &Path, limits: &Limits, keyframes_only: bool) -> Command {
    let before: &[&str] = if keyframes_only { &["-skip_frame", "nokey"] } else { &[] };
    input_from(tools, path, limits, before)
}

/// As [`input`], with options of how the file is opened.
fn input_from(tools: &Tools, path: &Path, limits: &Limits, before: &[&str]) -> Command {
    let mut command = Command::new(&tools.ffmpeg);
    command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-threads", "1"]);
    command.args(["-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS]);
    command.arg("-max_pixels").arg(limits.max_pixels.to_string());
    // A size that changes midway must not start the filters, and with them the clock, anew: `scale` follows by itself.
    command.args(["-reinit_filter", "0"]).args(before);
    let mut file = OsString::from("file:");
    file.push(path.as_os_str());
    // One thread for the filters too: a pipeline runs beside others.
    command.arg("-i").arg::<&OsStr>(&file).args([
        "-map",
        "0:V:0",
        "-an",
        "-sn",
        "-dn",
        "-filter_threads",
        "1",
        "-threads",
        "1",
    ]);
    command
}

impl Frames {
    /// The length in milliseconds that the container announces, as soon as it is known: enough to tell how far the reading is.
    pub fn announced_ms(&self) -> Option<u64> {
        self.child.announced_ms()
    }

    /// The next frame, or `None` after the last.
    ///
    /// # Errors
    /// [`Error::Limit`] if the file ran into a limit, [`Error::Cancelled`]; what was given before stays good.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        if self.ended {
            return Ok(None);
        }
        let bytes = self.plan.width as usize * self.plan.height as usize * 3;
        if self.given >= self.limits.max_frames || (self.given + 1) * bytes as u64 > self.limits.max_output_bytes {
            return Err(self.child.limit(format!("gave more than {} frames", self.given)));
        }
        let mut rgb = vec![0u8; bytes];
        if !self.child.read_exact(&mut rgb)? {
            self.ended = true;
            return Ok(None);
        }
        let at_ms = (self.given as f64 * 1000.0 / self.plan.rate_hz).round() as u32;
        self.given += 1;
        Ok(Some(Frame { at_ms, picture: Picture { width: self.plan.width, height: self.plan.height, rgb } }))
    }

    /// Ends the decoding and says how it went.
    ///
    /// # Errors
    /// [`Error::Undecodable`] if not one frame was given.
    pub fn finish(self) -> Result<Summary, Error> {
        let path: PathBuf = self.child.path().to_owned();
        let told = self.child.finish()?;
        let (container_ms, warnings) = (told.duration_ms, told.complaints);
        if self.given == 0 {
            let reason = warnings.unwrap_or_else(|| "it has no video frames".to_owned());
            return Err(Error::Undecodable { path, reason });
        }
        let step_ms = 1000.0 / self.plan.rate_hz;
        let covered_ms = (self.given as f64 * step_ms).round() as u64;
        // Frames give the length to one step, keyframes to the distance of two; the container knows it better, unless it lies.
        let (less, more) = match self.plan.keyframes_only {
            false => ((1.5 * step_ms) as u64, (1.5 * step_ms) as u64),
            true => ((1.5 * step_ms) as u64, MAX_KEYFRAME_DISTANCE_MS),
        };
        let honest = covered_ms.saturating_sub(less)..=covered_ms + more;
        let duration_ms = container_ms.filter(|ms| honest.contains(ms)).unwrap_or(covered_ms);
        Ok(Summary { frames: self.given, duration_ms, warnings })
    }
}
