//! The library, the media and the indexing of a real server over HTTP, on real clips.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod jobs;
mod library;
mod media;
#[cfg(unix)]
mod previews;

/// Longest wait for anything that ought to happen at once.
const SOON: Duration = Duration::from_secs(60);

/// A folder of its own for each test, with clips in `videos/`, an index in `index/` and a cache in `cache/`.
struct Place(tempfile::TempDir);

/// Twelve seconds; each frame is one plain grey, its own number of 240: 20 a second.
const COUNTER: &str = "color=black:size=64x48:rate=20:duration=12,format=gray,geq=lum=N";
const ZOOM: &str = "mandelbrot=size=320x180:rate=12";
const BARS: &str = "testsrc2=size=320x180:rate=10";

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.videos()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn videos(&self) -> PathBuf {
        self.path("videos")
    }

    /// Makes a clip in `videos/`, of as many seconds, with one keyframe every four seconds.
    fn clip(&self, source: &str, seconds: u32, name: &str) -> PathBuf {
        let out = self.videos().join(name);
        std::fs::create_dir_all(out.parent().unwrap()).unwrap();
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-t", &seconds.to_string()]);
        command.args(["-c:v", "libx264", "-crf", "10", "-preset", "veryfast", "-g", "80", "-pix_fmt", "yuv420p"]);
        // Names with a `%` would be patterns.
        let made = self.path("made.mp4");
        assert!(command.arg(&made).status().unwrap().success());
        std::fs::rename(made, &out).unwrap();
        out
    }

    fn sidecar(&self, name: &str, json: &str) {
        std::fs::write(self.videos().join(format!("{name}.json")), json).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        command.env("REELSEEK_INDEX", self.path("index")).env("REELSEEK_CACHE", self.path("cache"));
        command.env_remove("REELSEEK_FFMPEG").env_remove("REELSEEK_TOKEN").args(arguments).stdin(Stdio::null());
        command
    }

    fn index(&self) {
        let output = self.command(&["index", self.videos().to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn serve(&self, more: &[&str]) -> Server {
        Server::start(self, self.command(&[&["serve", "--listen", "127.0.0.1:0"], more].concat()))
    }

    /// Serves with a program in place of ffmpeg that notes each call in `calls`, then does this, then what
    /// ffmpeg does.
    #[cfg(unix)]
    fn serve_noting(&self, script: &str, more: &[&str]) -> Server {
        let path = self.path("ffmpeg-noting");
        let calls = self.path("calls");
        let script = format!("#!/bin/sh\necho \"$*\" >> {}\n{script}\nexec ffmpeg \"$@\"\n", calls.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], more].concat());
        command.env("REELSEEK_FFMPEG", path);
        Server::start(self, command)
    }

    /// Calls of ffmpeg so far whose arguments hold this.
    #[cfg(unix)]
    fn calls(&self, with: &str) -> usize {
        let calls = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter(|line| line.contains(with)).count()
    }

    /// Bytes of what is kept.
    fn kept(&self) -> u64 {
        let files = std::fs::read_dir(self.path("cache/previews")).into_iter().flatten();
        let files = files.map(|file| file.unwrap()).filter(|file| file.file_type().unwrap().is_file());
        files.map(|file| file.metadata().unwrap().len()).sum()
    }
}

/// A running server; ended when dropped.
struct Server {
    process: Child,
    address: String,
    agent: ureq::Agent,
    /// What must not be in any answer.
    secret: Option<String>,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The message of an error, whose status is this.
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

impl Server {
    fn start(place: &Place, mut command: Command) -> Server {
        let log = std::fs::File::create(place.path("log")).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| {
            panic!("{line}{}", std::fs::read_to_string(place.path("log")).unwrap());
        });
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(SOON)).build();
        let secret = place.0.path().file_name().unwrap().to_str().unwrap().to_owned();
        Server { address: address.to_owned(), process, agent: config.into(), secret: Some(secret) }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match body.is_empty() {
            true => self.agent.run(request.body(()).unwrap()),
            false => self.agent.run(request.body(body).unwrap()),
        };
        let (parts, mut body) = response.unwrap().into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec().unwrap();
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
        if let Some(secret) = &self.secret {
            let text = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
            assert!(!text.contains(secret.as_str()), "a path is in the answer to {method} {path}: {text}");
        }
        answer
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    fn post(&self, path: &str, json: &str) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], json.as_bytes())
    }

    /// The id of the video whose file has this name.
    fn id(&self, name: &str) -> String {
        let page = self.json("/v1/videos?top=200");
        let videos = page["videos"].as_array().unwrap();
        let video = videos.iter().find(|video| video["name"] == name).unwrap_or_else(|| panic!("{name} in {page}"));
        video["video"].as_str().unwrap().to_owned()
    }

    /// Asks until the answer is as wished.
    fn wait(&self, path: &str, wish: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let value = self.get(path).json();
            if wish(&value) {
                return value;
            }
            assert!(start.elapsed() < SOON, "{path} stays {value}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, if the test has ended it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Grey level in the middle of a picture's bytes.
fn grey(jpeg: &[u8]) -> f64 {
    let picture = reelseek::media::image::read(jpeg, "the answer").unwrap().picture;
    f64::from(picture.pixel(picture.width / 2, picture.height / 2)[1])
}

/// Times and grey levels of the frames of a video.
fn greys(path: &Path) -> Vec<(u32, f64)> {
    use reelseek::Cancel;
    use reelseek::media::{DecodePlan, Fit, Limits, Tools, frames};
    let plan = DecodePlan { rate_hz: 20.0, width: 8, height: 8, fit: Fit::Stretch, keyframes_only: false };
    let mut frames = frames(&Tools::find().unwrap(), path, &plan, &Limits::default(), &Cancel::default()).unwrap();
    let mut greys = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        greys.push((frame.at_ms, f64::from(frame.picture.pixel(4, 4)[1])));
    }
    greys
}
