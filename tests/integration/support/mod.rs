//! Helpers of the integration tests: a temporary folder, the program, ffmpeg and a running server.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reelseek::Cancel;
use reelseek::media::{DecodePlan, Fit, Limits, Tools, frames};
use rustix::process::Pid;
use serde_json::Value;

pub(crate) mod allocations;
pub(crate) mod heif;
pub(crate) mod hostile;
mod server;
mod skip;

pub(crate) use rustix::process::Signal;
pub(crate) use server::{HttpReply, ServerProcess, TOKEN};
pub(crate) use skip::skip;

/// Time limit of every wait for something that should happen soon.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

// Sources of clips that look nothing like each other.
pub(crate) const ZOOM: &str = "mandelbrot=size=320x180:rate=12";
pub(crate) const CELLS: &str = "life=size=160x90:rate=8:mold=10:death_color=#803020:life_color=#40a0ff:seed=7";
pub(crate) const BARS: &str = "testsrc2=size=320x180:rate=10";
/// 12 seconds of plain grey frames, 20 per second. The grey level is the number of the frame.
pub(crate) const COUNTER: &str = "color=black:size=64x48:rate=20:duration=12,format=gray,geq=lum=N";

/// A temporary folder with clips in `videos/`, an index in `index/` and a cache in `cache/`.
pub(crate) struct TestFolder(tempfile::TempDir);

impl TestFolder {
    pub(crate) fn new() -> TestFolder {
        let folder = TestFolder(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.videos()).unwrap();
        folder
    }

    /// A folder with three clips: `zoom.mp4`, `cells.mkv` and `bars.avi`.
    pub(crate) fn with_clips() -> TestFolder {
        let folder = TestFolder::new();
        for (source, name) in [(ZOOM, "zoom.mp4"), (CELLS, "cells.mkv"), (BARS, "bars.avi")] {
            folder.clip(source, 12, name);
        }
        folder
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn videos(&self) -> PathBuf {
        self.path("videos")
    }

    /// Writes a file and creates its folder.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn read_text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes a clip in `videos/`.
    pub(crate) fn clip(&self, source: &str, seconds: u32, name: &str) {
        let arguments = ["-f", "lavfi", "-i", source, "-t", &seconds.to_string(), "-pix_fmt", "yuv420p"];
        ffmpeg(&arguments, &self.videos().join(name));
    }

    /// Makes a picture from a frame of a clip.
    pub(crate) fn frame(&self, clip: &str, at: &str, name: &str) -> PathBuf {
        self.filtered_frame(clip, at, "null", name)
    }

    /// Makes a picture from a frame of a clip through a filter of ffmpeg.
    pub(crate) fn filtered_frame(&self, clip: &str, at: &str, filter: &str, name: &str) -> PathBuf {
        let (clip, picture) = (self.videos().join(clip), self.path(name));
        ffmpeg(&["-ss", at, "-i", clip.to_str().unwrap(), "-frames:v", "1", "-vf", filter], &picture);
        picture
    }

    /// Writes the sidecar of a clip.
    pub(crate) fn sidecar(&self, clip: &str, json: impl Display) {
        self.write(&format!("videos/{clip}.json"), json.to_string());
    }

    /// The program with the index and the cache of this folder. An argument that starts with `@` is a path in
    /// this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        command.env("REELSEEK_INDEX", self.path("index")).env("REELSEEK_CACHE", self.path("cache"));
        command.env_remove("REELSEEK_TOKEN").stdin(Stdio::null());
        for argument in arguments {
            match argument.strip_prefix('@') {
                Some(name) => command.arg(self.path(name)),
                None => command.arg(argument),
            };
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that succeeds.
    pub(crate) fn success(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        output
    }

    /// Runs a command that succeeds and prints one JSON value.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.success(arguments).stdout).unwrap()
    }

    /// Indexes the clips. Returns the events, and the summary last.
    pub(crate) fn index(&self, more: &[&str]) -> Vec<Value> {
        json_lines(&self.success(&[&["index", "@videos", "--json"], more].concat()))
    }

    /// `serve` on a free port of the loopback address.
    pub(crate) fn serve_command(&self, more: &[&str]) -> Command {
        self.command(&[&["serve", "--listen", "127.0.0.1:0"], more].concat())
    }

    pub(crate) fn serve(&self, more: &[&str]) -> ServerProcess {
        ServerProcess::start(self.serve_command(more), self)
    }

    pub(crate) fn serve_with_token(&self, more: &[&str]) -> ServerProcess {
        let mut command = self.serve_command(more);
        command.env("REELSEEK_TOKEN", TOKEN);
        ServerProcess::start(command, self)
    }
}

/// Makes a file with ffmpeg.
pub(crate) fn ffmpeg(arguments: &[&str], out: &Path) {
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    let mut command = Command::new(std::env::var_os("REELSEEK_FFMPEG").unwrap_or_else(|| "ffmpeg".into()));
    let status = command.args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(out).status().unwrap();
    assert!(status.success(), "{}", out.display());
}

/// Writes an executable shell script.
#[cfg(unix)]
pub(crate) fn write_script(path: &Path, script: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

pub(crate) fn send_signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output, then standard error.
pub(crate) fn output_text(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// The lines of standard output.
pub(crate) fn json_lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A file or folder of the test data, which may be missing.
pub(crate) fn test_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name)
}

/// Whether a program is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// An installed Chromium.
pub(crate) fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| is_installed(name))
}

/// A matrix as a NumPy file.
pub(crate) fn npy(rows: usize, columns: usize, values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Times in milliseconds and grey levels of all frames of a video of [`COUNTER`].
pub(crate) fn frame_greys(path: &Path) -> Vec<(u32, f64)> {
    let plan =
        DecodePlan { rate_hz: 20.0, width: 8, height: 8, fit: Fit::Stretch, keyframes_only: false, second: None };
    let mut frames = frames(&Tools::find().unwrap(), path, &plan, &Limits::default(), &Cancel::default()).unwrap();
    let mut greys = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        greys.push((frame.at_ms, f64::from(frame.picture.pixel(4, 4)[1])));
    }
    greys
}
