//! The real binary over HTTP, on clips that ffmpeg makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod closed;
mod document;
mod load;
mod stop;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sources of clips that look nothing like each other.
const ZOOM: &str = "mandelbrot=size=320x180:rate=12";
const BARS: &str = "testsrc2=size=320x180:rate=10";
const CELLS: &str = "life=size=160x90:rate=8:mold=10:death_color=#803020:life_color=#40a0ff:seed=7";

/// A folder of its own for each test, with clips in `videos/` and an index in `index/`.
struct Place(tempfile::TempDir);

fn ffmpeg() -> Command {
    let mut command = Command::new(std::env::var_os("REELSEEK_FFMPEG").unwrap_or_else(|| "ffmpeg".into()));
    command.args(["-nostdin", "-v", "error", "-y"]);
    command
}

impl Place {
    /// With two clips, indexed.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("videos")).unwrap();
        place.clip(ZOOM, "zoom.mp4");
        place.clip(BARS, "bars.avi");
        place.index();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn clip(&self, source: &str, name: &str) {
        let mut command = ffmpeg();
        command.args(["-f", "lavfi", "-i", source, "-t", "12", "-pix_fmt", "yuv420p"]);
        assert!(command.arg(self.path("videos").join(name)).status().unwrap().success());
    }

    /// A frame of a clip as JPEG, at this size.
    fn frame(&self, clip: &str, at: &str, size: &str) -> Vec<u8> {
        let out = self.path("frame.jpg");
        let mut command = ffmpeg();
        command.args(["-ss", at, "-i"]).arg(self.path("videos").join(clip)).args(["-frames:v", "1", "-vf"]);
        assert!(command.arg(format!("scale={size}")).arg(&out).status().unwrap().success());
        std::fs::read(out).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        command
            .env("REELSEEK_INDEX", self.path("index"))
            .env_remove("REELSEEK_TOKEN")
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn index(&self) {
        let output = self.run(&["index", self.path("videos").to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the server on a free port of loopback.
    fn serve(&self, more: &[&str]) -> Server {
        let command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], more].concat());
        Server::start(command, &self.path("log"))
    }

    /// With so few files that 64 connections fit.
    fn serve_with_few_files(&self) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 300; exec \"$0\" serve --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_reelseek")]);
        command.env("REELSEEK_INDEX", self.path("index")).env_remove("REELSEEK_TOKEN");
        Server::start(command, &self.path("log"))
    }

    fn serve_with_token(&self, more: &[&str]) -> Server {
        let mut command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], more].concat());
        command.env("REELSEEK_TOKEN", TOKEN);
        Server::start(command, &self.path("log"))
    }
}

/// A running server; ended with the test.
struct Server {
    child: Child,
    base: String,
    log: PathBuf,
    agent: ureq::Agent,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mut command: Command, log: &Path) -> Server {
        let stderr = std::fs::File::create(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(base) = line.trim().strip_prefix("listening on ") else {
            panic!("it did not start: {line:?} {}", std::fs::read_to_string(log).unwrap());
        };
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).proxy(None);
        Server { child, base: base.to_owned(), log: log.to_owned(), agent: config.build().new_agent() }
    }

    /// `host:port`.
    fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    fn get(&self, path: &str) -> Reply {
        Reply::of(self.agent.get(format!("{}{path}", self.base)).call())
    }

    fn post(&self, path: &str, kind: &str, body: &[u8]) -> Reply {
        Reply::of(self.agent.post(format!("{}{path}", self.base)).header("content-type", kind).send(body))
    }

    fn info(&self) -> Value {
        self.get("/v1/info").json()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// An answer, whole.
struct Reply {
    status: u16,
    head: ureq::http::HeaderMap,
    body: String,
}

impl Reply {
    fn of(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
        let (parts, mut body) = answer.unwrap().into_parts();
        Reply { status: parts.status.as_u16(), head: parts.headers, body: body.read_to_string().unwrap() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {}", self.body)).to_owned()
    }
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All that a connection still says.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it as well as an end.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn form(name: &str, image: &[u8]) -> (String, Vec<u8>) {
    let head = format!(
        "--xx\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
    );
    ("multipart/form-data; boundary=xx".to_owned(), [head.as_bytes(), image, b"\r\n--xx--\r\n"].concat())
}

fn vector() -> Vec<u8> {
    let vector: Vec<f32> = (0..128).map(|i| if i % 7 == 0 { 1.0 } else { 0.1 }).collect();
    json!({ "vector": vector, "top": 2 }).to_string().into()
}

#[test]
fn finds_the_same_as_the_command_line() {
    let place = Place::new();
    let server = place.serve(&[]);
    let frame = place.frame("zoom.mp4", "7", "320:180");
    let (kind, body) = form("image", &frame);
    let formed = server.post("/v1/search?top=2", &kind, &body).json();
    let best = &formed["results"][0];
    assert_eq!(
        (&best["name"], &best["title"], best.get("path")),
        (&"zoom.mp4".into(), &"zoom".into(), None),
        "{formed}"
    );
    assert!((best["at"].as_f64().unwrap() - 7.0).abs() <= 2.0 && best["confidence"].as_f64() > Some(0.95), "{best}");
    let raw = server.post("/v1/search?top=2", "image/jpeg", &frame).json();
    assert_eq!(raw["results"], formed["results"]);

    std::fs::write(place.path("q.jpg"), &frame).unwrap();
    let told = place.run(&["search", "--json", "--top", "2", place.path("q.jpg").to_str().unwrap()]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    for (ours, theirs) in formed["results"].as_array().unwrap().iter().zip(told["results"].as_array().unwrap()) {
        for field in ["rank", "video", "title", "score", "confidence", "from", "at", "to", "duration", "labels"] {
            assert_eq!(ours[field], theirs[field], "{field}");
        }
    }

    let batch = server.post("/v1/search/batch?top=2", &kind, &body).json();
    assert_eq!(batch["answers"][0]["results"], formed["results"]);
    let traced = server.post("/search?cutBorders", "application/x-www-form-urlencoded", &frame).json();
    let first = &traced["result"][0];
    assert_eq!(
        (&first["filename"], &first["at"], &first["similarity"]),
        (&"zoom.mp4".into(), &best["at"], &best["confidence"])
    );
    assert_eq!(first["image"], format!("{}{}", server.base, best["thumbnail"].as_str().unwrap()));
}

#[test]
fn opens_new_commits_without_a_restart() {
    let place = Place(tempfile::tempdir().unwrap());
    std::fs::create_dir(place.path("videos")).unwrap();
    let server = place.serve(&[]);
    assert_eq!((server.get("/readyz").status, &server.info()["index"]), (503, &false.into()));
    place.clip(ZOOM, "zoom.mp4");
    place.index();
    until("the first index", || server.info()["videos"] == 1);
    assert_eq!(server.get("/readyz").status, 200);
    let before = server.info()["generation"].as_u64().unwrap();
    place.clip(BARS, "bars.avi");
    place.index();
    until("the second video", || server.info()["videos"] == 2);
    assert!(server.info()["generation"].as_u64().unwrap() > before);
    let frame = place.frame("bars.avi", "5", "320:180");
    assert_eq!(server.post("/v1/search", "image/jpeg", &frame).json()["results"][0]["name"], "bars.avi");
    // A removal as well.
    assert!(place.run(&["remove", place.path("videos/bars.avi").to_str().unwrap()]).status.success());
    until("the removal", || server.info()["videos"] == 1);
}

#[test]
fn serves_the_previous_commit_while_the_index_is_damaged() {
    let place = Place::new();
    let server = place.serve(&[]);
    let meta = place.path("index/text/meta.json");
    let sound = std::fs::read(&meta).unwrap();
    std::fs::write(&meta, b"{").unwrap();
    until("the warning", || server.log().contains("cannot open the index"));
    let frame = place.frame("zoom.mp4", "7", "320:180");
    let reply = server.post("/v1/search", "image/jpeg", &frame);
    assert_eq!((reply.status, &reply.json()["results"][0]["name"]), (200, &"zoom.mp4".into()));
    std::fs::write(&meta, sound).unwrap();
    place.clip(CELLS, "cells.mkv");
    place.index();
    until("the new commit", || server.info()["videos"] == 3);
}
